"""Hooks of a module: how they are registered, and the graph nodes that bring gradients to backward hooks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tinyflow.autograd.function import Function
from tinyflow.autograd.graph import RemovableHandle
from tinyflow.tensor import Tensor


class ForwardHook(NamedTuple):
    """A hook around ``forward``, and how it is called."""

    call: Callable[..., Any]
    with_kwargs: bool
    always_call: bool = False


def register(
    hooks: OrderedDict[int, Any], hook: Any, prepend: bool = False, entry: ForwardHook | None = None
) -> RemovableHandle:
    """Adds a hook (as that entry) behind the others, or before them; the handle takes it away again."""
    handle = RemovableHandle(hooks, hook, entry)
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


class _Gate(Function):
    """The identity, whose backward shows the gradients that pass to ``receive`` and passes on what that returns."""

    @staticmethod
    def forward(ctx: Any, receive: Callable[..., Any], *inputs: Tensor) -> Any:
        ctx.receive = receive
        views = tuple(x.detach() for x in inputs)
        return views if len(views) != 1 else views[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        return (None, *ctx.receive(gradients))


class BackwardHooks:
    """Brings one call of a module its gradients: ``grad_output`` when it enters the module, ``grad_input`` on leaving.

    The module's tensor arguments and results pass through gates, so a gradient is complete when hooks see it.
    """

    def __init__(
        self, module: Any, hooks: Sequence[Callable[..., Any]], pre_hooks: Sequence[Callable[..., Any]]
    ) -> None:
        self.module = module
        self.hooks = hooks
        self.pre_hooks = pre_hooks
        self.grad_outputs: tuple[Tensor | None, ...] = ()
        self.input_positions: list[int] = []
        self.output_positions: list[int] = []
        self.n_inputs = self.n_outputs = 0

    def at_input(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        self.n_inputs = len(arguments)
        arguments, self.input_positions = _through_gate(arguments, self._leave)
        return arguments

    def at_output(self, result: Any) -> Any:
        many = isinstance(result, (tuple, list))
        results, positions = _through_gate(tuple(result) if many else (result,), self._enter)
        self.n_outputs, self.output_positions = len(results), positions
        return (type(result)(results) if isinstance(result, list) else results) if many else results[0]

    def _enter(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        full = _spread(gradients, self.output_positions, self.n_outputs)
        for hook in self.pre_hooks:
            full = _replaced("full_backward_pre_hook", full, hook(self.module, full))
        self.grad_outputs = full
        if not self.input_positions:  # nothing upstream asks for a gradient: hooks run with what there is
            for hook in self.hooks:
                hook(self.module, (None,) * self.n_inputs, full)
        return tuple(full[k] for k in self.output_positions)

    def _leave(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        full = _spread(gradients, self.input_positions, self.n_inputs)
        for hook in self.hooks:
            full = _replaced("full_backward_hook", full, hook(self.module, full, self.grad_outputs))
        return tuple(full[k] for k in self.input_positions)


def _through_gate(values: tuple[Any, ...], receive: Callable[..., Any]) -> tuple[tuple[Any, ...], list[int]]:
    positions = [k for k, x in enumerate(values) if isinstance(x, Tensor) and x.requires_grad]
    if not positions:
        return values, positions
    passed = _Gate.apply(receive, *(values[k] for k in positions))
    changed = list(values)
    for k, x in zip(positions, passed if isinstance(passed, tuple) else (passed,)):
        changed[k] = x
    return tuple(changed), positions


def _spread(gradients: tuple[Tensor | None, ...], positions: Sequence[int], n: int) -> tuple[Tensor | None, ...]:
    full: list[Tensor | None] = [None] * n
    for k, g in zip(positions, gradients):
        full[k] = g
    return tuple(full)


def _replaced(kind: str, before: tuple[Tensor | None, ...], answer: Any) -> tuple[Tensor | None, ...]:
    if answer is None:
        return before
    after = answer if isinstance(answer, tuple) else (answer,)
    if len(after) != len(before):
        raise RuntimeError(f"{kind}: expected {len(before)} gradients from the hook, got {len(after)}")
    return after
