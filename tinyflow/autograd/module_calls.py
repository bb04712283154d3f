"""Which call of which module recorded a node: noted by hooks that stay on a model for a block.

Nodes are numbered in the order in which they are recorded, so the numbers at which calls begin and end tell of every node
whose it is, with nothing noted at the nodes themselves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from tinyflow.autograd.graph import AccumulateGrad, Node, RemovableHandle, sequence


class ModuleCall:
    """One call of a module.

    Attributes:
        name: the module's dotted name in the model; the empty one is the model itself.
        module: the module.
        parent: the call around it.
        children: the calls inside it.
        inputs, output: what was given and returned, as their shapes where they are tensors.
        output_bytes: of what was returned.
    """

    __slots__ = ("name", "module", "parent", "children", "inputs", "output", "output_bytes")

    def __init__(self, name: str, module: Any, parent: ModuleCall | None) -> None:
        self.name, self.module, self.parent = name, module, parent
        self.children: list[ModuleCall] = []
        self.inputs: Any = None
        self.output: Any = None
        self.output_bytes = 0

    @property
    def kind(self) -> str:
        """The name of the module's class."""
        return type(self.module).__name__

    @property
    def chain(self) -> list[ModuleCall]:
        """The calls that are around this one, the outermost first, and itself."""
        found: list[ModuleCall] = []
        call: ModuleCall | None = self
        while call is not None:
            found.append(call)
            call = call.parent
        return found[::-1]

    def __repr__(self) -> str:
        return f"<call of {self.name or 'the model'} ({self.kind})>"


class ModuleCalls:
    """Notes the calls of a model's modules in a block.

    >>> with ModuleCalls(model) as calls:
    ...     loss = model(images).sum()
    >>> calls.of(loss.grad_fn.next_functions[0][0]).name
    'fc'

    Args:
        model: an ``nn.Module``.
        entered, left: called with each :class:`ModuleCall` when it begins and ends.
        fused: leave modules fused that run as one operation, which then belongs to the module around them; with False
            every module runs by itself.
    """

    def __init__(
        self,
        model: Any,
        entered: Callable[[ModuleCall], None] | None = None,
        left: Callable[[ModuleCall], None] | None = None,
        fused: bool = True,
    ) -> None:
        if not callable(getattr(model, "named_modules", None)):
            raise TypeError(f"expected an nn.Module to note the calls of, got {type(model).__name__}")
        self.model = model
        self.current: ModuleCall | None = None
        self.calls: list[ModuleCall] = []
        self._entered, self._left, self._fused = entered, left, fused
        self._starts: list[int] = []
        self._owners: list[ModuleCall | None] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> ModuleCalls:
        for name, module in self.model.named_modules():
            enter, leave = self._hooks(name)
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(leave, always_call=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._switch(None)

    def of(self, node: Node) -> ModuleCall | None:
        """The innermost call in which ``node`` was recorded; None for a node of the backward pass, or outside."""
        if isinstance(node, AccumulateGrad):
            return None
        index = bisect_right(self._starts, node.sequence) - 1
        return None if index < 0 else self._owners[index]

    def __iter__(self) -> Iterator[ModuleCall]:
        return iter(self.calls)

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = ModuleCall(name, module, self.current)
            call.inputs = shapes((*args, *kwargs.values()))
            if self.current is not None:
                self.current.children.append(call)
            self.calls.append(call)
            self._switch(call)
            if self._entered is not None:
                self._entered(call)

        def leave(module: Any, args: Any, output: Any) -> None:
            call = self.current
            if call is None or call.module is not module:
                return  # it ended before the block began, or a hook before ours raised
            call.output, call.output_bytes = shapes(output), _bytes(output)
            self._switch(call.parent)
            if self._left is not None:
                self._left(call)

        enter.blind = leave.blind = self._fused  # type: ignore[attr-defined]  # fused modules stay fused
        return enter, leave

    def _switch(self, call: ModuleCall | None) -> None:
        self.current = call
        self._starts.append(next(sequence))
        self._owners.append(call)


def shapes(value: Any) -> Any:
    """The shape of a tensor, a list of those of several in a tuple or list, or a dictionary; None for anything else."""
    if isinstance(value, (tuple, list)):
        found = [s for s in map(shapes, value) if s is not None]
        return None if not found else found[0] if len(found) == 1 else found
    if isinstance(value, dict):
        return {k: shapes(v) for k, v in value.items()}
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def _bytes(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, value))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return int(getattr(value, "nbytes", 0))
