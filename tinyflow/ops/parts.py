"""Several views of one tensor that share it out among them, as ``split`` and ``unbind`` make: one node, one joint gradient.

Taken one by one, each of n views would write a whole tensor of zeros for its own gradient, which is quadratic in n. Here the
gradients are written side by side into one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import Edge, Grads, Node, announce, backward_name, output_info
from tinyflow.autograd.view_history import as_view
from tinyflow.kernels import elementwise, memory, strides
from tinyflow.kernels.memory import Buffer
from tinyflow.ops.define import Op, define
from tinyflow.ops.views import View
from tinyflow.tensor import Tensor

Shape = tuple[int, ...]


def _join(parts: Sequence[Buffer | None], views: Sequence[View], shape: Shape, label: str) -> Buffer:
    """A tensor of ``shape`` that the views show as ``parts``, zeros for one that is None."""
    first = next(part for part in parts if part is not None)
    layout = strides.like(first, shape) if first.dim() == len(shape) else None
    out = memory.empty(shape, first.dtype, first.device, layout)
    if any(part is None for part in parts):
        elementwise.fill(out, 0)
    for view, part in zip(views, parts):
        if part is not None:
            elementwise.copy_into(view.read(out), part)
    return out


_join_parts: Op = define(_join, name="join_parts", parts=lambda g, views, label: share_out(g, views, label))


def share_out(x: Tensor, views: Sequence[View], label: str) -> tuple[Tensor, ...]:
    """The views of ``x``, which together show each of its elements once; ``label`` names them in the graph."""
    parts = tuple([as_view(x, view.read(x._data), view) for view in views])
    if parts and mode.records and x.requires_grad:
        node = PartsNode(x._edge(), views, tuple(x.shape), label)
        node.outputs = tuple([output_info(part) for part in parts])
        if mode.watched:
            announce(node)
        for k, part in enumerate(parts):
            part._set_history(node, k)
    if mode.watched and mode.dual_levels:
        for view, part in zip(views, parts):
            mode.dual_levels[-1].through_view(view, x, part)
    return parts


class PartsNode(Node):
    """Recorded views that share out one tensor."""

    __slots__ = ("views", "shape", "label")
    results_are_new = only_views = True

    def __init__(self, edge: Edge | None, views: Sequence[View], shape: Shape, label: str) -> None:
        super().__init__((edge,))
        self.views, self.shape, self.label = views, shape, label

    def name(self) -> str:
        return backward_name(self.label)

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        return (_join_parts(list(grads), self.views, self.shape, self.label),)
