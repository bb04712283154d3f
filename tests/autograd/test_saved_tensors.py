"""Saved tensors: hooks that keep them elsewhere, and changes in place that copy them first."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


def leaf(*values: float, m: Any) -> Any:
    return m.tensor(list(values), dtype=m.float64, requires_grad=True)


@BOTH
def test_hooks_see_what_is_saved_and_give_it_back(m: Any) -> None:
    packed: list[Any] = []
    unpacked: list[Any] = []

    def pack(x: Any) -> Any:
        assert not m.is_grad_enabled()
        packed.append(x.tolist())
        return x * 10

    def unpack(x: Any) -> Any:
        unpacked.append(x.tolist())
        return x

    a, b = leaf(1.0, 2.0, m=m), leaf(3.0, 4.0, m=m)
    with m.autograd.graph.saved_tensors_hooks(pack, unpack):
        y = a * b
    assert sorted(packed) == [[1.0, 2.0], [3.0, 4.0]] and not unpacked
    y.sum().backward()
    assert sorted(unpacked) == [[10.0, 20.0], [30.0, 40.0]]
    assert a.grad.tolist() == [30.0, 40.0] and b.grad.tolist() == [10.0, 20.0]


@BOTH
def test_an_output_keeps_its_history_through_hooks(m: Any) -> None:
    """exp saves its own result; the second derivative goes through what the hooks gave back."""
    a = leaf(0.5, m=m)
    with m.autograd.graph.saved_tensors_hooks(lambda x: x.numpy().copy(), m.from_numpy):
        y = a.exp()
        (g,) = m.autograd.grad(y, a, create_graph=True)
        (h,) = m.autograd.grad(g, a)
    np.testing.assert_allclose(h.item(), np.exp(0.5))


@BOTH
def test_inputs_keep_their_history_through_hooks(m: Any) -> None:
    a = leaf(3.0, m=m)
    with m.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x):
        inner = a * a
        y = inner * inner
        (g,) = m.autograd.grad(y, a, create_graph=True)
    (h,) = m.autograd.grad(g, a)
    assert g.item() == 108.0 and h.item() == 108.0, "4a³ and 12a²"


@BOTH
def test_innermost_hooks_count(m: Any) -> None:
    seen: list[str] = []

    def hooks(name: str) -> Any:
        return m.autograd.graph.saved_tensors_hooks(lambda x: seen.append(name) or x.clone(), lambda x: x)

    a = leaf(1.0, m=m)
    with hooks("outer"):
        with hooks("inner"):
            a.exp()
        a.exp()
    a.exp()
    assert seen == ["inner", "outer"]


@BOTH
def test_functions_of_users_have_hooks_too(m: Any) -> None:
    class Square(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * ctx.saved_tensors[0] * g

    a = leaf(3.0, m=m)
    with m.autograd.graph.saved_tensors_hooks(lambda x: x * 2, lambda x: x):
        y = Square.apply(a)
    y.backward()
    assert a.grad.item() == 12.0


@BOTH
def test_hooks_of_one_saved_tensor(m: Any) -> None:
    a = leaf(2.0, m=m)
    y = a.exp()
    name = "_raw_saved_result" if m is torch else "_raw_saved_y"
    getattr(y.grad_fn, name).register_hooks(lambda x: x * 100, lambda x: x)
    with pytest.raises(RuntimeError, match="hooks have already been set"):
        getattr(y.grad_fn, name).register_hooks(lambda x: x, lambda x: x)
    y.backward()
    np.testing.assert_allclose(a.grad.item(), 100 * np.exp(2.0))


@BOTH
def test_misuse(m: Any) -> None:
    graph = m.autograd.graph
    a = leaf(2.0, m=m)
    message = "pack hook is modifying its input in place"
    with graph.saved_tensors_hooks(lambda x: x.add_(1), lambda x: x), pytest.raises(RuntimeError, match=message):
        (a * 1).exp()
    with graph.saved_tensors_hooks(lambda x: x, lambda x: 3):
        y = (a * 1).exp()
    with pytest.raises(TypeError, match="unpack_hook expected to be a Tensor but got result of type"):
        y.backward()
    with graph.disable_saved_tensors_hooks("not here"), pytest.raises(RuntimeError, match="not here"):
        graph.saved_tensors_hooks(lambda x: x, lambda x: x).__enter__()
    with graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        pass


def test_hooks_are_of_a_thread_and_end_with_an_error() -> None:
    seen: list[Any] = []
    hooks = tinyflow.autograd.graph.saved_tensors_hooks(lambda x: seen.append(1) or x, lambda x: x)

    def fails() -> None:
        with hooks:
            thread = threading.Thread(target=lambda: leaf(1.0, m=tinyflow).exp())
            thread.start()
            thread.join()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    leaf(1.0, m=tinyflow).exp()
    assert not seen


@BOTH
def test_save_on_cpu(m: Any) -> None:
    a = leaf(1.0, 2.0, m=m)
    with m.autograd.graph.save_on_cpu():
        y = (a * a).exp()
    y.sum().backward()
    np.testing.assert_allclose(a.grad.tolist(), [2 * np.e, 4 * np.exp(4)])


@BOTH
def test_changed_version_is_not_looked_at_through_hooks(m: Any) -> None:
    a = leaf(2.0, m=m)
    x = a * 1
    with m.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x):
        y = x * x
    x.zero_()
    y.backward()
    assert a.grad.item() == 4.0


@BOTH
def test_mutation_may_be_allowed(m: Any) -> None:
    with m.autograd.graph.allow_mutation_on_saved_tensors():
        a = leaf(2.0, 3.0, m=m)
        x = a * 1
        y = (x * x).sum() + x.exp().sum()
        x.mul_(100)
        x[0] = 7.0
        y.backward()
    np.testing.assert_allclose(a.grad.tolist(), 2 * np.array([2.0, 3.0]) + np.exp([2.0, 3.0]))
    b = leaf(2.0, m=m)
    x = b * 1
    y = x * x
    x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@BOTH
def test_mutation_without_recording_and_of_an_output(m: Any) -> None:
    with m.autograd.graph.allow_mutation_on_saved_tensors():
        a = leaf(1.0, m=m)
        y = (a * 1).exp()
        with m.no_grad():
            y.zero_()
        (g,) = m.autograd.grad(y, a)
    np.testing.assert_allclose(g.item(), np.e)


@BOTH
def test_memory_changed_by_other_means(m: Any) -> None:
    x = leaf(2.0, m=m) * 1
    y = x * x
    m.autograd.graph.increment_version(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_saved_tensors_can_be_looked_at() -> None:
    a, b = leaf(2.0, m=tinyflow), leaf(3.0, m=tinyflow)
    node = (a * b).grad_fn
    assert node._saved_x is a and node._saved_other is b and {"_saved_x", "_saved_other"} <= set(dir(node))
    assert {name for name, _ in node.saved_tensors_kept()} == {"x", "other"}
    node.release()
    with pytest.raises(RuntimeError, match="MulBackward0.*second time"):
        _ = node._saved_x
    with pytest.raises(AttributeError, match="no attribute"):
        _ = node._other
