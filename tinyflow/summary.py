"""A model's layers as a table: what they give, what they hold, and what they cost, without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.autograd.module_calls import ModuleCall, ModuleCalls
from tinyflow.kernels import launch, memory
from tinyflow.kernels.configs import planned_for_gpu
from tinyflow.tensor import Tensor

#: The columns that there are, and their headings.
COLUMNS = {
    "input_size": "Input Shape",
    "output_size": "Output Shape",
    "num_params": "Param #",
    "params_percent": "Param %",
    "kernel_size": "Kernel Shape",
    "mult_adds": "Mult-Adds",
    "trainable": "Trainable",
}


@dataclass
class LayerInfo:
    """One call of a module.

    Attributes:
        name, kind: the module's dotted name and class.
        depth, index: its place in the tree, as in ``Conv2d: 2-3``.
        input_size, output_size: shapes; of several tensors a list of them.
        num_params: the parameters of the module and of those inside it.
        trainable: True, False, or None where some are and some are not.
        kernel_size: of a convolution or a pooling.
        mult_adds: half of the FLOPs of what the module launches, with those inside it.
        output_bytes: of the tensors that it returns.
        recursive: whether the same module was called before.
        children: the calls inside it.
    """

    name: str
    kind: str
    depth: int
    index: int
    input_size: Any
    output_size: Any
    num_params: int
    own_params: int
    param_bytes: int
    trainable_params: int
    kernel_size: Any
    output_bytes: int
    recursive: bool
    flops: int = 0
    children: list[LayerInfo] = field(default_factory=list)

    @property
    def mult_adds(self) -> int:
        return self.flops // 2

    @property
    def trainable(self) -> bool | None:
        return None if 0 < self.trainable_params < self.num_params else self.trainable_params > 0

    def tree(self) -> Iterator[LayerInfo]:
        """This call and all inside it, in order."""
        yield self
        for child in self.children:
            yield from child.tree()


class ModelSummary:
    """What :func:`summary` found; ``str`` of it is the table.

    Attributes:
        root: the call of the model.
        total_params, trainable_params: how many it has, each once.
        total_mult_adds: half of the FLOPs of a forward pass.
        input_bytes, output_bytes, param_bytes: of the input; of the outputs of layers with parameters, twice, since their
            gradients are as large; of the parameters.
    """

    def __init__(
        self, root: LayerInfo, model: Any, input_bytes: int, columns: Sequence[str], depth: int, names: bool, width: int
    ) -> None:
        self.root, self.columns, self.depth = root, tuple(columns), depth
        parameters = list(model.parameters())
        self.total_params = sum(p.numel() for p in parameters)
        self.trainable_params = sum(p.numel() for p in parameters if p.requires_grad)
        self.param_bytes = sum(p.nbytes for p in parameters)
        self.total_mult_adds = root.mult_adds
        self.input_bytes = input_bytes
        self.output_bytes = 2 * sum(i.output_bytes for i in root.tree() if not i.children and i.num_params)
        self._names, self._width = names, width

    @property
    def total_bytes(self) -> int:
        """The input, the parameters, and what forward and backward pass keep."""
        return self.input_bytes + self.output_bytes + self.param_bytes

    def __str__(self) -> str:
        rows = [(label, info) for label, info in self._labels(self.root, "", "") if info.depth <= self.depth]
        first = max(len("Layer (type:depth-idx)"), *(len(label) for label, _ in rows)) + 2
        lines = [self._line("Layer (type:depth-idx)", [COLUMNS[c] for c in self.columns], first)]
        lines += [self._line(label, [self._cell(info, c) for c in self.columns], first) for label, info in rows]
        rule = "=" * max(first + self._width * len(self.columns), 60)
        scale, letter = (
            (1e9, "G") if self.total_mult_adds >= 1e9 else (1e6, "M") if self.total_mult_adds >= 1e6 else (1, "")
        )
        counted = f"Total mult-adds{f' ({letter})' if letter else ''}: {_scaled(self.total_mult_adds, scale)}"
        totals = [
            f"Total params: {self.total_params:,}",
            f"Trainable params: {self.trainable_params:,}",
            f"Non-trainable params: {self.total_params - self.trainable_params:,}",
            counted,
        ]
        sizes = {
            "Input size": self.input_bytes,
            "Forward/backward pass size": self.output_bytes,
            "Params size": self.param_bytes,
            "Estimated Total Size": self.total_bytes,
        }
        megabytes = [f"{name} (MB): {number / 1e6:.2f}" for name, number in sizes.items()]
        return "\n".join([rule, lines[0], rule, *lines[1:], rule, *totals, rule, *megabytes, rule])

    def __repr__(self) -> str:
        return str(self)

    def _line(self, label: str, cells: Sequence[str], first: int) -> str:
        return (label.ljust(first) + "".join(c.ljust(self._width) for c in cells)).rstrip()

    def _labels(self, info: LayerInfo, before: str, inside: str) -> Iterator[tuple[str, LayerInfo]]:
        name = info.name.rpartition(".")[2]
        kind = f"{info.kind} ({name})" if self._names and name else info.kind
        yield before + (f"{kind}: {info.depth}-{info.index}" if info.depth else kind), info
        for k, child in enumerate(info.children):
            last = k == len(info.children) - 1
            yield from self._labels(child, inside + ("└─" if last else "├─"), inside + ("     " if last else "│    "))

    def _cell(self, info: LayerInfo, column: str) -> str:
        shown = not info.children or (info.depth == self.depth and info.depth > 0)  # what is not said below
        if column in ("input_size", "output_size", "kernel_size"):
            return _shapes(getattr(info, column))
        if column == "num_params":
            if info.recursive:
                return "(recursive)"
            number = info.num_params if shown else info.own_params
            return f"{number:,}" if number else "--"
        if column == "params_percent":
            number = 0 if info.recursive else info.num_params if shown else info.own_params
            return f"{100 * number / self.total_params:.2f}%" if number else "--"
        if column == "mult_adds":
            return f"{info.mult_adds:,}" if shown and info.mult_adds else "--"
        return "--" if not info.num_params else {True: "True", False: "False", None: "Partial"}[info.trainable]


def summary(
    model: Any,
    input_size: Sequence[Any] | None = None,
    input_data: Any = None,
    col_names: Sequence[str] = ("output_size", "num_params"),
    depth: int = 3,
    verbose: int = 1,
    *,
    dtypes: Sequence[memory.dtype] | None = None,
    device: str | memory.device | None = None,
    mode: str = "eval",
    row_settings: Sequence[str] = ("depth",),
    col_width: int = 25,
    **kwargs: Any,
) -> ModelSummary:
    """The layers of a model with their output shapes, parameters and multiply-adds, as torchinfo prints them.

    The model runs on the ``meta`` device: a copy of it without memory, that computes nothing. A multiply-add is two of the
    FLOPs that launches count, of normalisation, activation and pooling too.

    >>> print(tinyflow.summary(resnet18(), (1, 3, 224, 224), verbose=0))

    Args:
        model: an ``nn.Module``.
        input_size: the shape of the input with its batch, or a list of shapes of several inputs.
        input_data: inputs in its place: a Tensor, a tuple or list of arguments, or a dictionary of keyword arguments.
        col_names: of ``input_size``, ``output_size``, ``num_params``, ``params_percent``, ``kernel_size``, ``mult_adds``
            and ``trainable``.
        depth: how many levels of modules are shown.
        verbose: 0 prints nothing, 1 prints the table.
        dtypes: of the inputs of ``input_size``; the dtype of the model's parameters by default.
        device: run the model itself there, for one that looks at values; None is ``meta``.
        mode: ``"eval"`` or ``"train"``, for the time of the run; ``"same"`` leaves it.
        row_settings: with ``"var_names"`` rows show the names of the modules too.
        col_width: characters of a column.
        kwargs: given to the model's ``forward``.

    Raises:
        ValueError: for unknown columns, a mode, or both inputs or none.
    """
    unknown = [c for c in col_names if c not in COLUMNS]
    if unknown:
        raise ValueError(f"summary: unknown columns {unknown}; expected some of {', '.join(COLUMNS)}")
    if mode not in ("eval", "train", "same"):
        raise ValueError(f"summary: expected mode to be 'eval', 'train' or 'same', got {mode!r}")
    if (input_size is None) == (input_data is None):
        raise ValueError("summary: expected input_size or input_data, and not both")
    if not callable(getattr(model, "named_modules", None)):
        raise TypeError(f"summary: expected an nn.Module, got {type(model).__name__}")
    place = memory.META if device is None else memory.as_device(device)
    run = without_memory(model) if device is None else model
    if input_data is not None:
        args, named = _given(input_data, place)
    else:
        assert input_size is not None
        args, named = _made(model, input_size, dtypes, place), {}
    root = _run(run, args, {**named, **kwargs}, mode)
    tensors = [x for x in (*args, *named.values()) if isinstance(x, Tensor)]
    input_bytes = sum(x.nbytes for x in tensors)
    found = ModelSummary(root, model, input_bytes, col_names, depth, "var_names" in row_settings, col_width)
    if verbose:
        print(found)
    return found


def without_memory(model: Any) -> Any:
    """A copy of a module whose parameters and buffers are on the ``meta`` device."""
    memo: dict[int, Any] = {}
    for x in (*model.parameters(), *model.buffers()):
        data = memory.empty(tuple(x.shape), x.dtype, memory.META, x.stride())
        twin = copy.copy(x)
        twin._data = data
        memo[id(x)] = twin
    return copy.deepcopy(model, memo)


def _given(data: Any, place: memory.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(data, Mapping):
        return (), {k: _moved(v, place) for k, v in data.items()}
    if isinstance(data, (tuple, list)):
        return tuple(_moved(v, place) for v in data), {}
    return (_moved(data, place),), {}


def _moved(x: Any, place: memory.device) -> Any:
    return Tensor(memory.to_device(x._data, place)) if isinstance(x, Tensor) else x


def _made(
    model: Any, sizes: Sequence[Any], dtypes: Sequence[memory.dtype] | None, place: memory.device
) -> tuple[Tensor, ...]:
    shapes = [tuple(s) for s in sizes] if sizes and not isinstance(sizes[0], int) else [tuple(sizes)]
    default = next((p.dtype for p in model.parameters()), memory.get_default_dtype())
    chosen = [default] * len(shapes) if dtypes is None else list(dtypes)
    if len(chosen) != len(shapes):
        raise ValueError(f"summary: expected a dtype for each of {len(shapes)} inputs, got {len(chosen)}")
    return tuple(Tensor._zeros(shape, dtype, place) for shape, dtype in zip(shapes, chosen))


def _run(model: Any, args: Sequence[Any], named: Mapping[str, Any], mode: str) -> LayerInfo:
    """One forward pass, with the launches of every call."""
    flops: dict[ModuleCall, int] = {}

    def launched(made: launch.Launch) -> None:
        for call in [] if calls.current is None else calls.current.chain:
            flops[call] = flops.get(call, 0) + made.cost.flops

    calls = ModuleCalls(model, fused=False)
    modes = [(module, module.training) for module in model.modules()]
    try:
        if mode != "same":
            model.train(mode == "train")
        with no_grad(), planned_for_gpu(), launch.observed(launched), calls:
            model(*args, **named)
    finally:
        for module, training in modes:
            module.training = training
    return _described(calls.calls[0], 0, flops, set(), [])


def _described(
    call: ModuleCall, depth: int, flops: Mapping[ModuleCall, int], seen: set[int], counts: list[int]
) -> LayerInfo:
    module = call.module
    while len(counts) <= depth:
        counts.append(0)
    counts[depth] += 1
    parameters = list(module.parameters())
    own = sum(p.numel() for p in module.parameters(recurse=False))
    info = LayerInfo(
        call.name,
        call.kind,
        depth,
        counts[depth],
        call.inputs,
        call.output,
        sum(p.numel() for p in parameters),
        own,
        sum(p.nbytes for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        getattr(module, "kernel_size", None),
        call.output_bytes,
        id(module) in seen and bool(parameters),
        flops.get(call, 0),
    )
    seen.add(id(module))
    info.children = [_described(child, depth + 1, flops, seen, counts) for child in call.children]
    return info


def _shapes(value: Any) -> str:
    if value is None:
        return "--"
    if isinstance(value, dict):
        return ", ".join(_shapes(v) for v in value.values())
    if isinstance(value, list):
        return ", ".join(_shapes(v) for v in value)
    return str(list(value)) if isinstance(value, tuple) else f"[{value}]"


def _scaled(number: int, scale: float) -> str:
    return f"{number:,}" if scale == 1 else f"{number / scale:.2f}"


__all__ = ["COLUMNS", "LayerInfo", "ModelSummary", "summary"]
