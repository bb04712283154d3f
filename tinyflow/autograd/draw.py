"""The computational graph as a picture, drawn by Graphviz.

>>> x = tinyflow.tensor([1.0, 2.0], requires_grad=True)
>>> tinyflow.autograd.draw((x.sin() * x).sum(), "graph.svg", params={"x": x})
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyflow.autograd.graph import Edge, GradientEdge
from tinyflow.autograd.module_calls import ModuleCalls
from tinyflow.autograd.picture import Picture
from tinyflow.tensor import Tensor

PathLike = str | os.PathLike[str]

#: What is written as it is, with no need of Graphviz.
_TEXT = ("dot", "gv")


class Drawing:
    """A graph that was drawn: :attr:`source` is its DOT text; :meth:`render` and :meth:`save` make pictures of it."""

    def __init__(self, source: str) -> None:
        self.source = source

    def render(self, format: str = "svg") -> bytes:
        """The picture in a format that Graphviz knows, such as ``svg``, ``png`` or ``pdf``.

        Raises:
            ImportError: without the Python package ``graphviz``.
            RuntimeError: without the program ``dot``.
            ValueError: for a format that Graphviz does not know.
        """
        if format in _TEXT:
            return self.source.encode()
        try:
            import graphviz
        except ImportError as error:
            raise ImportError(
                "drawing a graph needs the Python package graphviz: pip install 'tinyflow[draw]'. "
                "Drawing.source is the graph in the DOT language, which needs nothing"
            ) from error
        if format not in graphviz.FORMATS:
            raise ValueError(f"draw: expected a format such as 'svg', 'png', 'pdf' or 'dot', got {format!r}")
        try:
            return graphviz.Source(self.source).pipe(format=format)
        except graphviz.ExecutableNotFound as error:
            raise RuntimeError(
                "drawing a graph needs Graphviz's program dot, which is not on PATH: apt-get install graphviz, "
                "brew install graphviz, or see graphviz.org. Drawing.source is the graph in the DOT language"
            ) from error

    def save(self, path: PathLike, format: str | None = None) -> Path:
        """Writes the picture, whole or not at all; the format is the path's suffix unless it is given."""
        from tinyflow.serialization import replacing

        target = Path(path)
        picture = self.render(format or target.suffix.removeprefix(".") or "svg")
        with replacing(target) as unfinished:
            unfinished.write_bytes(picture)
        return target

    def _repr_svg_(self) -> str | None:
        """The picture in a notebook; None where it cannot be made, so that the text is shown."""
        try:
            return self.render("svg").decode()
        except (ImportError, RuntimeError):
            return None

    def __repr__(self) -> str:
        return f"<drawing of {self.source.count(' -> ')} edges; .source is its DOT text, .save(path) makes a picture>"


def draw(
    outputs: Tensor | GradientEdge | Sequence[Tensor | GradientEdge],
    path: PathLike | None = None,
    params: Any = None,
    format: str | None = None,
    show_saved: bool = False,
    fold: int | str | bool = "auto",
    modules: ModuleCalls | None = None,
    rankdir: str = "TB",
) -> Drawing:
    """Draws the graph that leads to ``outputs``, from the leaves at the top to the outputs below.

    A box is an operation with the shape and dtype of its result, or a leaf: blue for a parameter, green for any other
    tensor that requires grad. What requires no gradient is not part of the graph.

    >>> with tinyflow.autograd.ModuleCalls(model) as calls:
    ...     loss = F.cross_entropy(model(images), labels)
    >>> tinyflow.autograd.draw(loss, "resnet.svg", modules=calls)

    Args:
        outputs: a tensor with a history, or several.
        path: where to write the picture; None writes none.
        params: the names of leaves: a dictionary from names to tensors, or an ``nn.Module``. Those of the model that
            ``modules`` noted are known.
        format: ``svg``, ``png``, ``pdf``, ``dot`` …; by default that of the path's suffix.
        show_saved: show in orange what operations keep for the backward pass: an arrow, if it is what flows along it; the
            frame of a box, if it is the operation's own result; a box with a dashed line, if it is neither. Of a folded
            module, how much it keeps.
        fold: draw a module's call as one box: an integer, at that depth (1: the model's own modules); True, only those
            with no modules inside; False, none, they stand in frames; "auto", as deep as stays readable.
        modules: which calls of modules recorded the graph.
        rankdir: ``TB`` from top to bottom, ``LR`` from left to right.

    Raises:
        ValueError: for a tensor without history, or another ``fold`` or ``rankdir``.
        ImportError, RuntimeError: if a picture is to be written and Graphviz is missing.
    """
    if not (fold == "auto" or isinstance(fold, bool) or (isinstance(fold, int) and fold > 0)):
        raise ValueError(f"draw: expected fold to be 'auto', True, False or a depth of at least 1, got {fold!r}")
    if rankdir not in ("TB", "BT", "LR", "RL"):
        raise ValueError(f"draw: expected rankdir to be one of TB, BT, LR and RL, got {rankdir!r}")
    roots = [_root(x, k) for k, x in enumerate([outputs] if isinstance(outputs, (Tensor, GradientEdge)) else outputs)]
    if not roots:
        raise ValueError("draw: expected at least one tensor, got an empty sequence")
    names, parameters = _named_leaves(params, modules)
    drawing = Drawing(Picture(roots, names, parameters, modules, fold, show_saved, rankdir).source())
    if path is not None:
        drawing.save(path, format)
    return drawing


def _root(x: Any, position: int) -> Edge:
    edge = Edge(*x) if isinstance(x, GradientEdge) else x._edge() if isinstance(x, Tensor) else None
    if edge is None:
        what = (
            f"a tensor of shape {tuple(x.shape)} that requires no grad" if isinstance(x, Tensor) else type(x).__name__
        )
        raise ValueError(f"draw: expected tensors that were computed from what requires grad, got {what} ({position})")
    return edge


def _named_leaves(params: Any, modules: ModuleCalls | None) -> tuple[dict[int, str], frozenset[int]]:
    """The names of leaves, and which of them are parameters."""
    names: dict[int, str] = {}
    parameters: set[int] = set()
    models = [] if modules is None else [modules.model]
    if hasattr(params, "named_parameters"):
        models.append(params)
    elif isinstance(params, Mapping):
        for name, x in params.items():
            if not isinstance(x, Tensor):
                raise TypeError(f"draw: expected params to name Tensors, got {type(x).__name__} for {name!r}")
            names[id(x)] = str(name)
            if _is_parameter(x):
                parameters.add(id(x))
    elif params is not None:
        raise TypeError(f"draw: expected params to be a dictionary or an nn.Module, got {type(params).__name__}")
    for model in models:
        for name, x in model.named_parameters():
            names.setdefault(id(x), name)
            parameters.add(id(x))
    return names, frozenset(parameters)


def _is_parameter(x: Tensor) -> bool:
    return any(c.__name__ == "Parameter" for c in type(x).__mro__)


__all__ = ["Drawing", "ModuleCalls", "draw"]
