"""The backward pass: walks the graph from its roots to its leaves, each node once, in an order that frees memory early.

Nothing recurses, so depth is bounded by memory alone. A node runs when all gradients of its outputs have arrived, the
latest recorded node first. Gradients that meet are added, in place where nobody else holds the memory: that is known of
a tensor whose ``_fresh`` is set, which whoever keeps one clears.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import weakref
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from tinyflow import autocast_mode
from tinyflow.autograd.anomaly import explain, refuse_nan
from tinyflow.autograd.grad_mode import carries_tangents, mode, set_grad_enabled
from tinyflow.autograd.graph import AccumulateGrad, Edge, Node, OutputInfo
from tinyflow.autograd.walks import Walk, walks
from tinyflow.kernels import memory

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor

Grads = Sequence["Tensor | None"]


_numbers = itertools.count()


def one_for(output: OutputInfo) -> Tensor:
    """The gradient of a scalar with respect to itself, which :func:`is_one` knows again."""
    from tinyflow.tensor import Tensor

    one = Tensor._full(output.shape, 1, output.dtype, output.device)
    walks.ones.append((weakref.ref(one), memory.stamp(one._data)))
    return one


def is_one(grad: Tensor) -> bool:
    """True if a gradient is known, without reading it, to be the one that a backward pass of a scalar starts from."""
    if grad._counter != [0]:
        return False
    stamp = memory.stamp(grad._data)  # a hook may have written to it where no version counts, as through ``data``
    return stamp is not None and any(made() is grad and then == stamp for made, then in walks.ones)


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
    dependencies = _dependencies(roots)
    needed = None if inputs is None else _leading_to(dependencies, inputs)
    if needed is not None:
        dependencies = _dependencies_among(needed)
    captured: dict[Edge, Tensor | None] = {} if inputs is None else dict.fromkeys(inputs)
    captured_at: dict[Node, list[Edge]] = {}
    for wanted in captured:
        captured_at.setdefault(wanted.node, []).append(wanted)
    walk = Walk(next(_numbers), dependencies if needed is None else needed, captured_at, inputs is None)
    # where tangents are carried, of operations that differentiate; in the dtypes that the forward pass chose
    with set_grad_enabled(create_graph or carries_tangents()), autocast_mode.disabled(), _under_way(walk):
        pending: dict[Node, list[Tensor | None]] = {}
        for edge, gradient in zip(roots, gradients):
            gradient._fresh = False
            _add(pending.setdefault(edge.node, [None] * len(edge.node.outputs)), edge.position, gradient)
        _walk(pending, dependencies, needed, captured, captured_at, keep_graph, accumulate)
    return [] if inputs is None else [captured[edge] for edge in inputs]


def _walk(
    pending: dict[Node, list[Tensor | None]],
    dependencies: dict[Node, int],
    needed: dict[Node, bool] | None,
    captured: dict[Edge, Tensor | None],
    captured_at: dict[Node, list[Edge]],
    keep_graph: bool,
    accumulate: bool,
) -> None:
    """Runs every node once all that it waits for has run.

    Args:
        pending: the gradients that have arrived at nodes, one slot for each output.
        dependencies: how many edges lead to a node from nodes that have not run.
        needed: see :func:`_leading_to`; None: all.
    """
    run = _run_observed if mode.node_observers else _run
    ready = [(-n.sequence, k, n) for k, n in enumerate(pending) if not dependencies.get(n)]
    heapify(ready)
    ticket = len(ready)
    while ready:
        node = heappop(ready)[2]
        grads = pending.pop(node, None)
        results: Sequence[Tensor | None] = ()
        if grads is not None:
            if node.attached is not None:
                _run_tensor_hooks(node, grads)
            if captured_at and node in captured_at:
                for wanted in captured_at[node]:
                    captured[wanted] = _given_away(grads[wanted.position])
            if needed is None or needed.get(node):
                if accumulate or not isinstance(node, AccumulateGrad):
                    results = run(node, grads, keep_graph)
        for position, edge in enumerate(node.next_edges):
            if edge is None or (needed is not None and edge[0] not in needed):
                continue
            following, index = edge
            if results:
                grad = results[position]
                if grad is not None:
                    slots = pending.get(following)
                    if slots is None:
                        slots = pending[following] = [None] * len(following.outputs)
                    if slots[index] is None:
                        slots[index] = grad
                    else:
                        _add(slots, index, grad)
            left = dependencies[following] = dependencies[following] - 1
            if not left:
                heappush(ready, (-following.sequence, ticket, following))
                ticket += 1
        grads = results = grad = slots = ()  # type: ignore[assignment]  # freed before the next node runs


def _add(slots: list[Tensor | None], index: int, grad: Tensor) -> None:
    """Adds a gradient to what has arrived, in memory that nobody else holds if there is such."""
    present = slots[index]
    if present is None:
        slots[index] = grad
    elif (
        mode.enabled
        or mode.watched
        or present._data.shape != grad._data.shape
        or present._data.dtype != grad._data.dtype
    ):
        slots[index] = present + grad
    elif present._fresh:
        present += grad
        present._fresh = True
    elif grad._fresh:
        grad += present
        grad._fresh = True
        slots[index] = grad
    else:
        slots[index] = present + grad


def _given_away(grad: Tensor | None) -> Tensor | None:
    """A gradient that somebody outside of the engine will hold."""
    if grad is not None:
        grad._fresh = False
    return grad


@contextlib.contextmanager
def _under_way(walk: Walk) -> Iterator[None]:
    walks.under_way.append(walk)
    try:
        yield
    finally:
        walks.under_way.pop()


def _dependencies(roots: Sequence[Edge]) -> dict[Node, int]:
    """Every node that the roots lead to, with the number of edges to it."""
    counts: dict[Node, int] = {edge.node: 0 for edge in roots}
    stack = list(counts)
    while stack:
        for edge in stack.pop().next_edges:
            if edge is not None:
                node = edge[0]
                if node in counts:
                    counts[node] += 1
                else:
                    counts[node] = 1
                    stack.append(node)
    return counts


def _leading_to(nodes: dict[Node, int], inputs: Sequence[Edge]) -> dict[Node, bool]:
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
                stack.append(user)
            needed[user] = True
    return needed


def _dependencies_among(nodes: dict[Node, bool]) -> dict[Node, int]:
    counts: dict[Node, int] = {}
    for node in nodes:
        for edge in node.next_edges:
            if edge is not None and edge.node in nodes:
                counts[edge.node] = counts.get(edge.node, 0) + 1
    return counts


def _run_tensor_hooks(node: Node, grads: list[Tensor | None]) -> None:
    assert node.attached is not None
    for index, hooks in node.attached.tensor_hooks.items():
        for hook in tuple(hooks.values()):
            grad = _given_away(grads[index])
            if grad is None:
                break
            replaced = hook(grad)
            if replaced is not None:
                grads[index] = _given_away(_as_replacement(grad, replaced, node))
    for index, reference in node.attached.retained.items():
        tensor, grad = reference(), grads[index]
        if tensor is not None and grad is not None:
            kept = _given_away(grad) if mode.enabled else grad.detach().clone()
            tensor.grad = kept if tensor._grad is None else tensor._grad + kept


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


def _run(node: Node, grads: Grads, keep_graph: bool) -> Sequence[Tensor | None]:
    """The gradients of a node's inputs; ``_fresh`` says of each whether the engine alone holds its memory."""
    attached = node.attached
    if attached is not None and attached.prehooks:
        grads = _run_prehooks(node, grads)
    for grad in grads:
        if grad is not None:
            break
    else:
        return ()
    if mode.anomaly:
        return _run_watched(node, grads, keep_graph)
    return _applied(node, grads, keep_graph)


def _run_observed(node: Node, grads: Grads, keep_graph: bool) -> Sequence[Tensor | None]:
    """The same while somebody measures what nodes take."""
    done = [observer(node) for observer in mode.node_observers]
    try:
        return _run(node, grads, keep_graph)
    finally:
        for finish in reversed(done):
            finish()


def _applied(node: Node, grads: Grads, keep_graph: bool) -> Sequence[Tensor | None]:
    new = node.results_are_new
    if not new:
        for grad in grads:
            _given_away(grad)
    try:
        results = node.apply(grads)
    except Exception as error:
        _note(
            error,
            f"raised in the backward pass by {node.name()}, recorded for outputs of shapes "
            + ", ".join(str(tuple(o.shape)) for o in node.outputs),
        )
        raise
    if not keep_graph:
        node.release()
    attached = node.attached
    if attached is not None and attached.posthooks:
        new, results = False, _run_posthooks(node, results, grads)
    if len(results) != len(node.next_edges):
        raise RuntimeError(f"{node.name()}: expected {len(node.next_edges)} gradients, got {len(results)}")
    if not new:
        for grad in results:
            _given_away(grad)
    elif len(results) > 1:
        _share(results)
    return results


def _share(results: Sequence[Tensor | None]) -> None:
    """A gradient that two inputs get is owned by neither."""
    seen: set[int] = set()
    for grad in results:
        if grad is not None:
            if id(grad) in seen:
                grad._fresh = False
            seen.add(id(grad))


def _run_watched(node: Node, grads: Grads, keep_graph: bool) -> Sequence[Tensor | None]:
    """In anomaly mode: an error names the call of the forward pass, and NaN is one."""
    before, mode.running = mode.running, node
    try:
        results = _applied(node, grads, keep_graph)
        if mode.check_nan:
            refuse_nan(node, results)
    except Exception as error:
        note = explain(node)
        if note not in getattr(error, "__notes__", ()):
            _note(error, note)
        raise
    finally:
        mode.running = before
    return results


def _run_prehooks(node: Node, grads: Grads) -> Grads:
    assert node.attached is not None
    for grad in grads:
        _given_away(grad)
    given = tuple(grads)
    for prehook in tuple(node.attached.prehooks.values()):
        replaced = prehook(given)
        if replaced is not None:
            given = replaced if isinstance(replaced, tuple) else (replaced,)
    if len(given) != len(node.outputs):
        raise RuntimeError(f"{node.name()}: expected {len(node.outputs)} gradients from a pre-hook, got {len(given)}")
    for grad in given:
        _given_away(grad)
    return given


def _run_posthooks(node: Node, results: Grads, grads: Grads) -> Grads:
    assert node.attached is not None
    for posthook in tuple(node.attached.posthooks.values()):
        replaced = posthook(tuple(results), tuple(grads))
        if replaced is not None:
            results = replaced if isinstance(replaced, (tuple, list)) else (replaced,)
    return results


def _note(error: Exception, text: str) -> None:
    if sys.version_info >= (3, 11):
        error.add_note(text)
    else:
        error.__notes__ = [*getattr(error, "__notes__", []), text]  # type: ignore[attr-defined]
