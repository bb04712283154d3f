"""The backward pass: walks the graph from its roots to its leaves, each node once, in an order that frees memory early.

Nothing recurses, so depth is bounded by memory alone. A node runs when all gradients of its outputs have arrived, the
latest recorded node first. Gradients that meet are added; the sum is made in place once the engine owns its memory.
"""

from __future__ import annotations

import contextlib
import heapq
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tinyflow import autocast_mode
from tinyflow.autograd.grad_mode import is_grad_enabled, set_grad_enabled
from tinyflow.autograd.graph import AccumulateGrad, Edge, Node

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor


class _Walks(threading.local):
    def __init__(self) -> None:
        self.captured: list[dict[Node, list[Edge]]] = []  # of every walk under way


_walks = _Walks()


def is_watched(node: Node) -> bool:
    """True if somebody sees the gradients that arrive at ``node``: a hook, ``retain_grad``, a walk that returns them."""
    if node.tensor_hooks or node.retained or node.prehooks or node.posthooks:
        return True
    return any(node in captured for captured in _walks.captured)


class _Pending:
    """The gradients that have arrived at a node, one slot for each of its outputs."""

    __slots__ = ("grads", "owned")

    def __init__(self, outputs: int) -> None:
        self.grads: list[Tensor | None] = [None] * outputs
        self.owned = [False] * outputs

    def add(self, index: int, grad: Tensor, owned: bool) -> None:
        present = self.grads[index]
        if present is None:
            self.grads[index], self.owned[index] = grad, owned
        elif is_grad_enabled() or present.shape != grad.shape or present.dtype != grad.dtype:
            self._keep_sum(index, present + grad)
        elif self.owned[index]:
            present += grad
        elif owned:
            grad += present
            self.grads[index], self.owned[index] = grad, True
        else:
            self._keep_sum(index, present + grad)

    def _keep_sum(self, index: int, total: Tensor) -> None:
        total._fresh = False  # a rule may hand it on as it is, while somebody keeps it
        self.grads[index], self.owned[index] = total, True


def run_backward(
    roots: Sequence[Edge],
    gradients: Sequence[Tensor],
    *,
    keep_graph: bool,
    create_graph: bool,
    inputs: Sequence[Edge] | None = None,
    accumulate: bool = True,
) -> list[Tensor | None]:
    """Propagates ``gradients`` from ``roots``.

    Args:
        keep_graph: keep what nodes saved, so that the graph can be walked again.
        create_graph: record the backward pass itself, for higher derivatives.
        inputs: stop at these edges, and visit only what leads to them.
        accumulate: add to the ``grad`` of leaves; else return the gradients of ``inputs``.
    """
    order = _reachable(roots)
    needed = None if inputs is None else _leading_to(order, inputs)
    dependencies = _count_dependencies(order, needed)
    pending: dict[Node, _Pending] = {}
    captured: dict[Edge, Tensor | None] = {} if inputs is None else dict.fromkeys(inputs)
    captured_at: dict[Node, list[Edge]] = {}
    for wanted in captured:
        captured_at.setdefault(wanted.node, []).append(wanted)
    for edge, gradient in zip(roots, gradients):
        gradient._fresh = False
        pending.setdefault(edge.node, _Pending(len(edge.node.outputs))).add(edge.position, gradient, owned=False)
    ready = [(-n.sequence, k, n) for k, n in enumerate(pending) if not dependencies.get(n)]
    heapq.heapify(ready)
    ticket = len(ready)
    done: set[Node] = set()
    # in the dtypes that the forward pass chose
    with set_grad_enabled(create_graph), autocast_mode.disabled(), _captures(captured_at):
        while ready:
            node = heapq.heappop(ready)[2]
            if node in done:
                continue
            done.add(node)
            arrived = pending.pop(node, None)
            if arrived is not None:
                _run_tensor_hooks(node, arrived)
                for wanted in captured_at.get(node, ()):
                    captured[wanted] = arrived.grads[wanted.position]
            results: Sequence[tuple[Tensor | None, bool]] = ()
            if arrived is not None and (needed is None or needed.get(node, False)):
                if not isinstance(node, AccumulateGrad):
                    results = _run(node, arrived, keep_graph)
                elif accumulate:
                    _run_leaf(node, arrived)
            for position, following_edge in enumerate(node.next_edges):
                if following_edge is None or (needed is not None and following_edge.node not in needed):
                    continue
                following = following_edge.node
                if position < len(results) and results[position][0] is not None:
                    grad, owned = results[position]
                    slots = pending.get(following)
                    if slots is None:
                        slots = pending[following] = _Pending(len(following.outputs))
                    slots.add(following_edge.position, grad, owned)  # type: ignore[arg-type]
                dependencies[following] -= 1
                if dependencies[following] == 0:
                    heapq.heappush(ready, (-following.sequence, ticket, following))
                    ticket += 1
    return [] if inputs is None else [captured[edge] for edge in inputs]


@contextlib.contextmanager
def _captures(nodes: dict[Node, list[Edge]]) -> Iterator[None]:
    _walks.captured.append(nodes)
    try:
        yield
    finally:
        _walks.captured.pop()


def _reachable(roots: Sequence[Edge]) -> list[Node]:
    """Every node that the roots lead to, each once."""
    seen: dict[Node, None] = {}
    stack = [edge.node for edge in roots]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen[node] = None
        stack.extend(edge.node for edge in node.next_edges if edge is not None and edge.node not in seen)
    return list(seen)


def _leading_to(nodes: Sequence[Node], inputs: Sequence[Edge]) -> dict[Node, bool]:
    """The nodes from which an input can be reached: True for those that must run, False for those where the walk ends."""
    ends = {edge.node for edge in inputs}
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        for edge in node.next_edges:
            if edge is not None:
                users.setdefault(edge.node, []).append(node)
    needed = {node: isinstance(node, AccumulateGrad) for node in ends}
    stack = list(ends)
    while stack:
        for user in users.get(stack.pop(), ()):
            if user not in needed:
                needed[user] = True
                stack.append(user)
            elif not needed[user]:
                needed[user] = True
    return needed


def _count_dependencies(nodes: Sequence[Node], needed: dict[Node, bool] | None) -> dict[Node, int]:
    counts: dict[Node, int] = {}
    for node in nodes:
        if needed is not None and node not in needed:
            continue
        for edge in node.next_edges:
            if edge is not None and (needed is None or edge.node in needed):
                counts[edge.node] = counts.get(edge.node, 0) + 1
    return counts


def _run_tensor_hooks(node: Node, arrived: _Pending) -> None:
    if node.tensor_hooks is not None:
        for index, hooks in node.tensor_hooks.items():
            for hook in tuple(hooks.values()):
                grad = arrived.grads[index]
                if grad is None:
                    break
                arrived.owned[index] = False
                replaced = hook(grad)
                if replaced is not None:
                    arrived.grads[index] = _as_replacement(grad, replaced, node)
    if node.retained is not None:
        for index, reference in node.retained.items():
            tensor, grad = reference(), arrived.grads[index]
            if tensor is not None and grad is not None:
                kept = grad if is_grad_enabled() else grad.detach().clone()
                tensor.grad = kept if tensor.grad is None else tensor.grad + kept


def _as_replacement(grad: Tensor, replaced: Any, node: Node) -> Tensor:
    """What a tensor's hook returned, where it can stand for the gradient."""
    from tinyflow.tensor import Tensor

    if not isinstance(replaced, Tensor):
        raise TypeError(f"{node.name()}: expected a hook to return a Tensor or None, got {type(replaced).__name__}")
    if replaced.shape != grad.shape or replaced.dtype != grad.dtype or replaced.device != grad.device:
        raise RuntimeError(
            f"{node.name()}: a hook changed the gradient from shape {tuple(grad.shape)} {grad.dtype} on {grad.device} "
            f"to {tuple(replaced.shape)} {replaced.dtype} on {replaced.device}"
        )
    return replaced


def _run(node: Node, arrived: _Pending, keep_graph: bool) -> list[tuple[Tensor | None, bool]]:
    """Runs one node; returns each gradient with whether the engine alone holds its memory."""
    grads: tuple[Tensor | None, ...] = tuple(arrived.grads)
    if node.prehooks:
        grads = _run_prehooks(node, grads)
    if all(g is None for g in grads):
        return []
    try:
        results = node.apply(grads)
    except Exception as error:
        _note(
            error,
            f"raised in the backward pass by {node.name()}, recorded for outputs of shapes "
            + ", ".join(str(o.shape) for o in node.outputs),
        )
        raise
    if not keep_graph:
        node.release()
    if node.posthooks:
        results = _run_posthooks(node, results, grads)
    if len(results) != len(node.next_edges):
        raise RuntimeError(f"{node.name()}: expected {len(node.next_edges)} gradients, got {len(results)}")
    new = node.results_are_new and not node.posthooks
    return [(r, new and _take(r, results)) for r in results]


def _run_prehooks(node: Node, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    for prehook in tuple((node.prehooks or {}).values()):
        replaced = prehook(grads)
        if replaced is not None:
            grads = replaced if isinstance(replaced, tuple) else (replaced,)
    if len(grads) != len(node.outputs):
        raise RuntimeError(f"{node.name()}: expected {len(node.outputs)} gradients from a pre-hook, got {len(grads)}")
    return grads


def _run_posthooks(
    node: Node, results: Sequence[Tensor | None], grads: tuple[Tensor | None, ...]
) -> Sequence[Tensor | None]:
    for posthook in tuple((node.posthooks or {}).values()):
        replaced = posthook(tuple(results), grads)
        if replaced is not None:
            results = replaced if isinstance(replaced, (tuple, list)) else (replaced,)
    return results


def _take(grad: Any, results: Sequence[Any]) -> bool:
    """True if ``grad`` is a launcher's new result that appears once, and so is nobody else's."""
    if grad is None or not grad._fresh:
        return False
    grad._fresh = False
    return len(results) == 1 or sum(r is grad for r in results) == 1


def _run_leaf(node: AccumulateGrad, arrived: _Pending) -> None:
    grads = _run_prehooks(node, tuple(arrived.grads)) if node.prehooks else tuple(arrived.grads)
    node.accumulate(grads[0], owned=arrived.owned[0] and not node.prehooks)
    if node.posthooks:
        _run_posthooks(node, (), grads)


def _note(error: Exception, text: str) -> None:
    if sys.version_info >= (3, 11):
        error.add_note(text)
    else:
        error.__notes__ = [*getattr(error, "__notes__", []), text]  # type: ignore[attr-defined]
