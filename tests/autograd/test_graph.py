"""The graph as users see it: edges that stand for tensors, hooks on several, work and memory of a walk."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

import tinyflow
from tinyflow import autograd
from tinyflow.autograd.graph import GradientEdge, Node
from tinyflow.kernels import memory

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


def leaf(*values: float, m: Any = tinyflow) -> Any:
    return m.tensor(list(values), dtype=m.float64, requires_grad=True)


# ---- edges ---------------------------------------------------------------------------------------------------------


@BOTH
def test_edges_stand_for_tensors(m: Any) -> None:
    a = leaf(2.0, m=m)
    middle = a * 3
    edge, at_leaf = m.autograd.graph.get_gradient_edge(middle), m.autograd.graph.get_gradient_edge(a)
    assert edge.node is middle.grad_fn and edge.output_nr == 0
    y = middle * middle
    del middle
    assert [g.item() for g in m.autograd.grad(y, [edge, a], retain_graph=True)] == [12.0, 36.0]
    assert m.autograd.grad(y, at_leaf, retain_graph=True)[0].item() == 36.0
    root = m.autograd.graph.get_gradient_edge(y)
    m.autograd.backward(root, m.ones(1, dtype=m.float64))
    assert a.grad.item() == 36.0
    with pytest.raises(RuntimeError, match="not possible to get the gradient edge"):
        m.autograd.graph.get_gradient_edge(m.ones(1))


@BOTH
def test_inputs_of_backward_may_be_edges(m: Any) -> None:
    a, b = leaf(2.0, m=m), leaf(3.0, m=m)
    m.autograd.backward(a * b, inputs=[m.autograd.graph.get_gradient_edge(a)])
    assert a.grad.item() == 3.0 and b.grad is None


def test_edge_is_what_next_functions_lists() -> None:
    a = leaf(2.0)
    assert GradientEdge(*(a * 2).grad_fn.next_functions[0]) == autograd.graph.get_gradient_edge(a)


def test_batched_gradients_are_refused() -> None:
    a = leaf(2.0)
    with pytest.raises(NotImplementedError, match="is_grads_batched=True is not implemented; call grad"):
        autograd.grad(a * 2, a, tinyflow.ones(3, 1), is_grads_batched=True)


@BOTH
def test_metadata_is_the_users(m: Any) -> None:
    y = leaf(1.0, m=m) * 2
    y.grad_fn.metadata["note"] = 3
    assert y.grad_fn.metadata["note"] == 3


# ---- hooks on several tensors --------------------------------------------------------------------------------------


@BOTH
def test_multi_grad_hook_waits_for_all(m: Any) -> None:
    a, b, c = leaf(1.0, m=m), leaf(2.0, m=m), leaf(5.0, m=m)
    seen: list[Any] = []
    handle = m.autograd.graph.register_multi_grad_hook(
        (a, b, c), lambda grads: seen.append([None if g is None else g.item() for g in grads])
    )
    (a * b).backward()
    assert seen == [[2.0, 1.0, None]]
    (a * b * c).backward()
    assert seen[1] == [10.0, 5.0, 2.0]
    handle.remove()
    (a * b).backward()
    assert len(seen) == 2


def test_multi_grad_hook_in_a_walk_that_returns_gradients() -> None:
    a, b = leaf(1.0), leaf(2.0)
    seen: list[Any] = []
    autograd.graph.register_multi_grad_hook((a, b), seen.append)
    autograd.grad(a * b, [b])
    assert len(seen) == 1 and seen[0][0] is None and seen[0][1].item() == 1.0, "only the way to b was walked"


@BOTH
def test_multi_grad_hook_on_the_first(m: Any) -> None:
    a = leaf(1.0, m=m)
    first, second = a * 2, a * 3
    seen: list[float] = []
    m.autograd.graph.register_multi_grad_hook((first, second), lambda g: seen.append(g.item()), mode="any")
    (first + second * 5).backward(retain_graph=True)
    assert seen == [5.0], "the latest recorded runs first"
    second.backward()
    assert seen == [5.0, 1.0]
    with pytest.raises(ValueError, match="Expects mode to be one of"):
        m.autograd.graph.register_multi_grad_hook((first,), print, mode="some")


# ---- work ----------------------------------------------------------------------------------------------------------


def _runs(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Nodes in the order in which they run."""
    from tinyflow.ops.node import OpNode

    ran: list[Node] = []
    apply = OpNode.apply

    def counted(self: Any, grads: Any) -> Any:
        ran.append(self)
        return apply(self, grads)

    monkeypatch.setattr(OpNode, "apply", counted)
    return ran


def _edges_read(monkeypatch: pytest.MonkeyPatch, graph: Any) -> int:
    """How often the engine reads the edges of a node while it walks ``graph`` back."""
    reads = 0
    slot = Node.next_edges

    class Counted:
        def __get__(self, node: Any, kind: Any = None) -> Any:
            nonlocal reads
            reads += 1
            return slot.__get__(node, kind)

        def __set__(self, node: Any, value: Any) -> None:
            slot.__set__(node, value)

    monkeypatch.setattr(Node, "next_edges", Counted())
    try:
        graph.backward()
    finally:
        monkeypatch.undo()
    return reads


@pytest.mark.parametrize("shape", ["chain", "fan"])
def test_work_grows_with_the_graph_and_no_faster(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the nodes are ten times the looks at a node's edges; 20,000 in a chain, 2,000 into one leaf."""

    def graph(n: int) -> Any:
        x = tinyflow.empty((), device="meta", requires_grad=True)
        if shape == "chain":
            for _ in range(n):
                x = -x
            return x
        total = x * 1
        for _ in range(n - 1):
            total = total + x * 1
        return total

    largest = 20_000 if shape == "chain" else 2_000
    few, many = (_edges_read(monkeypatch, graph(n)) for n in (largest // 10, largest))
    assert many <= 10 * few + 100 and many < 12 * largest * (1 if shape == "chain" else 2)


def test_each_node_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder has 2ⁿ paths and 2n nodes."""
    ran = _runs(monkeypatch)
    x = leaf(1.0)
    y = x * 1
    for _ in range(30):
        y = y + y
    y.backward()
    assert x.grad.item() == 2.0**30 and len(ran) == len(set(ran)) == 31


def test_later_recorded_runs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    x = leaf(1.0)
    early = [x * k for k in range(5)]
    ran = _runs(monkeypatch)
    tinyflow.stack(early).sum().backward()
    sequences = [node.sequence for node in ran]
    assert sequences == sorted(sequences, reverse=True)


def test_a_graph_of_any_depth_is_freed_without_recursion() -> None:
    x = tinyflow.empty((), device="meta", requires_grad=True)
    y = x
    for _ in range(30_000):
        y = y * 0.5
    gone = weakref.ref(y.grad_fn)
    del y
    gc.collect()
    assert gone() is None


# ---- memory --------------------------------------------------------------------------------------------------------


class Live:
    """Bytes of the buffers that are alive, and the most there were."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def __enter__(self) -> Live:
        memory.allocation_hooks.append(self.made)
        return self

    def __exit__(self, *exc: object) -> None:
        memory.allocation_hooks.remove(self.made)

    def made(self, buffer: Any) -> None:
        size = buffer.numel() * buffer.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(buffer, self.gone, size)

    def gone(self, size: int) -> None:
        self.now -= size


SIZE = 4 * 1000  # bytes of one float32 tensor here


def test_a_backward_pass_frees_as_it_goes() -> None:
    """20 saved results of exp, then a gradient or three at a time; each result goes as its node has run."""
    x = tinyflow.zeros(1000, requires_grad=True)
    with Live() as live:
        y = x
        for _ in range(20):
            y = y.exp() * 0.1
        end = y.sum()
        del y
        before = live.now
        assert before >= 20 * SIZE
        live.peak = 0
        end.backward()
        assert live.peak <= before + 4 * SIZE
        assert live.now <= 2 * SIZE, "x.grad, and little else"


def test_gradients_that_meet_are_added_in_place() -> None:
    """20 gradients arrive at x: their sum takes one tensor more, not twenty."""
    x = tinyflow.zeros(1000, requires_grad=True)
    parts = [x * 0.5 for _ in range(20)]
    total = sum(part.sum() for part in parts)
    del parts
    with Live() as live:
        total.backward()
        assert live.peak <= 4 * SIZE + 200


def test_a_gradient_that_is_handed_on_is_not_copied() -> None:
    """An addition hands its gradient to the one leaf that wants it, which takes it over."""
    x, constant = tinyflow.zeros(1000, requires_grad=True), tinyflow.ones(1000)
    y = (x + constant) * 2
    with Live() as live:
        y.backward(constant)
        assert live.peak == SIZE
    assert x.grad.tolist() == [2.0] * 1000 and constant.tolist() == [1.0] * 1000


def test_walking_again_keeps_what_was_saved() -> None:
    x = tinyflow.zeros(1000, requires_grad=True)
    y = x.exp().sum()
    with Live() as live:
        y.backward(retain_graph=True)
        first = live.now
        y.backward(retain_graph=True)
        assert live.now == first
