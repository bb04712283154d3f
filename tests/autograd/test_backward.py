"""backward and autograd.grad: what arrives where, what is kept, what is freed, and what is refused."""

from __future__ import annotations

import threading
import time
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow
from tinyflow import autograd
from tinyflow.kernels import launch

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


def leaf(*values: float, m: Any = tinyflow) -> Any:
    return m.tensor(list(values), dtype=m.float64, requires_grad=True)


# ---- leaves and accumulation ---------------------------------------------------------------------------------------


@BOTH
def test_leaf_rules(m: Any) -> None:
    """Every statement holds in torch too."""
    x = leaf(1.0, 2.0, m=m)
    y = x * 2
    assert x.is_leaf and x.requires_grad and x.grad_fn is None and x.output_nr == 0
    assert not y.is_leaf and y.requires_grad and y.grad_fn is not None
    assert m.ones(2).is_leaf and not m.ones(2).requires_grad
    assert y.detach().is_leaf and not y.detach().requires_grad
    with m.no_grad():
        z = x * 2
        assert z.is_leaf and not z.requires_grad and m.ones(2, requires_grad=True).requires_grad
    assert not (x > 0).requires_grad and not x.to(m.int64).requires_grad
    y.detach_()
    assert y.is_leaf and not y.requires_grad
    with pytest.raises(RuntimeError, match="you can only change requires_grad flags of leaf variables"):
        (x * 2).requires_grad_(False)


@BOTH
def test_flag_of_what_was_computed_is_not_assigned(m: Any) -> None:
    y = leaf(1.0, m=m) * 2
    for value in (True, False):
        with pytest.raises(RuntimeError, match="you can only change requires_grad flags of leaf variables"):
            y.requires_grad = value
    assert y.requires_grad_() is y


@BOTH
def test_grad_that_is_not_kept_is_warned_of(m: Any) -> None:
    x = leaf(1.0, m=m)
    y, z = x * 2, x * 3
    z.retain_grad()
    (y + z).sum().backward()
    with pytest.warns(UserWarning, match="not a leaf Tensor is being accessed"):
        assert y.grad is None
    assert z.grad.item() == 1.0 and x.grad.item() == 5.0 and leaf(1.0, m=m).grad is None


@BOTH
def test_grad_can_be_deleted(m: Any) -> None:
    x = leaf(1.0, m=m)
    (x * 2).sum().backward()
    del x.grad
    assert x.grad is None


@BOTH
def test_other_data_under_a_graph(m: Any) -> None:
    """Gradients of a graph that was recorded before follow the dtype that the leaf has now."""
    x = leaf(1.0, 2.0, m=m)
    y = x * 2
    x.data = m.tensor([5.0, 6.0], dtype=m.float32)
    (x * 3).sum().backward()
    assert x.grad.dtype == m.float32 and x.grad.tolist() == [3.0, 3.0]
    y.sum().backward()
    assert x.grad.dtype == m.float32 and x.grad.tolist() == [5.0, 5.0]


@BOTH
def test_integers_cannot_require_gradients(m: Any) -> None:
    message = "only Tensors of floating point (and complex )?dtype can require gradients"
    message = "(?i)only Tensors of floating point.* dtype can require gradients"
    with pytest.raises(RuntimeError, match=message):
        m.tensor([1, 2], requires_grad=True)
    with pytest.raises(RuntimeError, match="floating point"):
        m.zeros(2, dtype=m.bool).requires_grad_()
    with pytest.raises(RuntimeError, match="floating point"):
        m.arange(3).requires_grad = True


@BOTH
def test_gradients_accumulate(m: Any) -> None:
    x = leaf(1.0, 2.0, m=m)
    (x * 3).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0] and x.grad is first, "added in place, as torch does"
    x.grad = None
    (x * 3).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0] and first.tolist() == [5.0, 7.0]


def test_threads_lose_no_gradient() -> None:
    """Both would find no gradient there yet, since the launch that copies the first one takes a while."""
    x = leaf(1.0, 2.0)

    def add() -> None:
        with launch.observed(lambda _: time.sleep(0.05)):
            x.backward(tinyflow.ones(2, dtype=tinyflow.float64))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert x.grad.tolist() == [3.0, 3.0]


@BOTH
def test_gradients_never_share_memory(m: Any) -> None:
    """a + b hands one gradient to both; zeroing one in place must leave the other, and the caller's own tensor."""
    a, b = leaf(1.0, 2.0, m=m), leaf(3.0, 4.0, m=m)
    gradient = m.tensor([1.0, 10.0], dtype=m.float64)
    (a + b).backward(gradient)
    assert len({a.grad.data_ptr(), b.grad.data_ptr(), gradient.data_ptr()}) == 3
    a.grad.zero_()
    assert b.grad.tolist() == gradient.tolist() == [1.0, 10.0]
    a.grad = None
    a.backward(gradient)
    assert a.grad.data_ptr() != gradient.data_ptr()
    a.backward(gradient)
    assert gradient.tolist() == [1.0, 10.0] and a.grad.tolist() == [2.0, 20.0]


@pytest.mark.parametrize("through", ["view", "transpose", "expand", "reshape"])
def test_gradients_through_views_own_their_memory(through: str) -> None:
    a, b = (tinyflow.ones(2, 3, requires_grad=True) for _ in range(2))
    y = a + b
    y = {
        "view": lambda: y.view(6),
        "transpose": lambda: y.T,
        "expand": lambda: y.expand(4, 2, 3),
        "reshape": lambda: y.T.reshape(6),
    }[through]()
    y.sum().backward()
    assert a.grad.data_ptr() != b.grad.data_ptr()
    assert a.grad.is_contiguous() and b.grad.is_contiguous(), "in the memory order of the leaf"
    a.grad.zero_()
    assert b.grad.tolist() == np.full((2, 3), 4 if through == "expand" else 1).tolist()


def test_gradient_takes_the_memory_order_of_the_leaf() -> None:
    x = tinyflow.ones(2, 3, 4, 5).contiguous(memory_format=tinyflow.channels_last).requires_grad_()
    (x * 2).backward(tinyflow.ones(2, 3, 4, 5))
    assert x.grad.stride() == x.stride()


@BOTH
def test_captured_gradient_is_not_changed_by_what_follows(m: Any) -> None:
    """The gradient of ``middle`` is a sum that an addition passes on; the leaf adds more to it, elsewhere."""
    x = leaf(1.0, m=m)
    middle = x + 0
    kept: list[Any] = []
    middle.register_hook(lambda g: kept.append(g))
    y = middle * 2 + middle * 3 + x * 10 + x * 100
    found = m.autograd.grad(y, [middle, x])
    assert [g.item() for g in found] == [5.0, 115.0] and kept[0].item() == 5.0


@BOTH
def test_captured_sum_is_not_changed_by_what_follows(m: Any) -> None:
    """The sum of two gradients that nobody owned is new, and then passed on to the leaf before another one arrives there."""
    x = leaf(1.0, m=m)
    late = x * 10
    middle = x + 0
    found = m.autograd.grad(middle + middle + late, [middle, x])
    assert [g.item() for g in found] == [2.0, 12.0]


@BOTH
def test_scalar_broadcast_and_dtype(m: Any) -> None:
    a = m.ones((), dtype=m.float64, requires_grad=True)
    b = m.ones(3, dtype=m.float32, requires_grad=True)
    y = a * b
    assert y.dtype == m.float32
    y.sum().backward()
    assert a.grad.shape == () and a.grad.dtype == m.float64 and a.grad.item() == 3.0 and b.grad.dtype == m.float32


@BOTH
def test_assigned_grad_must_fit(m: Any) -> None:
    x = m.ones(2, requires_grad=True)
    x.grad = m.ones(2)
    with pytest.raises(RuntimeError, match="assigned grad has|assign a gradient of size"):
        x.grad = m.ones(3)
    with pytest.raises(RuntimeError, match="assigned grad has|assign a gradient with dtype"):
        x.grad = m.ones(2, dtype=m.float64)
    with pytest.raises(TypeError, match="assigned grad expected to be a Tensor or None"):
        x.grad = 1.0
    with pytest.raises(RuntimeError, match="own grad|self"):
        x.grad = x


# ---- retaining and freeing -----------------------------------------------------------------------------------------


@BOTH
def test_second_pass_needs_a_kept_graph(m: Any) -> None:
    x = leaf(3.0, m=m)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 12.0
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()


@BOTH
def test_second_pass_through_what_saves_nothing(m: Any) -> None:
    """Sums and views keep no tensors, so that two losses may share them without ``retain_graph``."""
    a, b = leaf(1.0, 2.0, m=m), leaf(3.0, -1.0, m=m)
    shared = -(a + b).reshape(1, 2).sum(0)
    (shared * shared).sum().backward()
    (shared * shared * shared).sum().backward()
    assert a.grad.tolist() == [2 * 4 - 3 * 16, 2 * 1 - 3 * 1]


def test_freed_error_names_the_operation() -> None:
    x = leaf(3.0)
    y = x.exp()
    y.backward()
    with pytest.raises(RuntimeError, match="ExpBackward0"):
        y.backward()


def test_saved_tensors_are_freed_as_the_pass_goes() -> None:
    x = leaf(2.0)
    y = x.exp().log().exp()
    nodes = [y.grad_fn, y.grad_fn.next_functions[0][0]]
    y.backward()
    assert all(node.saved is None for node in nodes)


def test_grad_keeps_what_it_did_not_walk() -> None:
    """Only the way to ``middle`` was walked, so the rest can still be walked once."""
    x = leaf(2.0)
    middle = x * x
    y = middle * middle
    (g,) = autograd.grad(y, middle)
    assert g.item() == 8.0
    middle.backward()
    assert x.grad.item() == 4.0


# ---- higher order --------------------------------------------------------------------------------------------------


@BOTH
def test_third_derivative(m: Any) -> None:
    x = leaf(2.0, m=m)
    y = x**4 + m.exp(3 * x)
    (first,) = m.autograd.grad(y, x, create_graph=True)
    (second,) = m.autograd.grad(first, x, create_graph=True)
    (third,) = m.autograd.grad(second, x)
    e = np.exp(6.0)
    np.testing.assert_allclose(
        [first.item(), second.item(), third.item()], [32 + 3 * e, 48 + 9 * e, 48 + 27 * e], rtol=1e-12
    )
    assert first.requires_grad and second.requires_grad and not third.requires_grad


@BOTH
def test_backward_with_create_graph_differentiates_grad(m: Any) -> None:
    x = leaf(3.0, m=m)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the cycle between a leaf and its gradient
        (x**3).backward(create_graph=True)
    g = x.grad
    assert g.requires_grad
    x.grad = None
    g.backward()
    assert x.grad.item() == 18.0


@BOTH
def test_backward_with_create_graph_warns_of_the_cycle(m: Any) -> None:
    if m is torch:
        m.set_warn_always(True)
    try:
        with pytest.warns(UserWarning, match="will create a reference cycle between the parameter and its gradient"):
            (leaf(3.0, m=m) ** 2).backward(create_graph=True)
    finally:
        if m is torch:
            m.set_warn_always(False)


@BOTH
def test_gradient_penalty(m: Any) -> None:
    """The gradient of a norm of a gradient, through two leaves."""
    a, b = leaf(1.0, 2.0, m=m), leaf(0.5, -1.0, m=m)
    ga, gb = m.autograd.grad((a * a * b).sum(), [a, b], create_graph=True)
    (ga * ga + gb).sum().backward()
    np.testing.assert_allclose(a.grad.tolist(), [8 * 1 * 0.25 + 2, 8 * 2 * 1 + 4])
    np.testing.assert_allclose(b.grad.tolist(), [8 * 1 * 0.5, 8 * 4 * -1.0])


# ---- autograd.grad -------------------------------------------------------------------------------------------------


@BOTH
def test_grad_returns_and_does_not_accumulate(m: Any) -> None:
    a, b = leaf(2.0, m=m), leaf(5.0, m=m)
    middle = a * b
    found = m.autograd.grad(middle * middle, [a, middle, b])
    assert [g.item() for g in found] == [100.0, 20.0, 40.0]
    assert a.grad is None and b.grad is None


@BOTH
def test_grad_of_unused(m: Any) -> None:
    a, b = leaf(1.0, m=m), leaf(1.0, 2.0, m=m)
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        m.autograd.grad(a * 2, [a, b])
    assert m.autograd.grad(a * 2, [a, b], allow_unused=True)[1] is None
    zeros = m.autograd.grad(a * 2, [a, b], materialize_grads=True)[1]
    assert zeros.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="allow_unused"):
        m.autograd.grad(a * 2, [a], allow_unused=False, materialize_grads=True)
    with pytest.raises(RuntimeError, match="One of the differentiated Tensors does not require grad"):
        m.autograd.grad(a * 2, [m.ones(1)])


@BOTH
def test_grad_needs_inputs(m: Any) -> None:
    with pytest.raises(RuntimeError, match=r"`inputs` argument to `grad\(\)` cannot be empty"):
        m.autograd.grad(leaf(1.0, m=m).sum(), [])


@BOTH
def test_several_outputs(m: Any) -> None:
    a = leaf(1.0, 2.0, m=m)
    y = a * 3
    weights = [m.ones(2, dtype=m.float64), m.tensor([1.0, 0.0], dtype=m.float64)]
    found = m.autograd.grad([y, y * a], [a], weights, retain_graph=True)
    assert found[0].tolist() == [9.0, 3.0]
    assert m.autograd.grad([a.sum(), a.sum()], a)[0].tolist() == [2.0, 2.0], "one leaf twice among the outputs' sources"
    assert m.autograd.grad([y, y], a, [m.ones(2, dtype=m.float64)] * 2)[0].tolist() == [6.0, 6.0], "one output twice"


@BOTH
def test_backward_into_inputs_only(m: Any) -> None:
    a, b = leaf(2.0, m=m), leaf(5.0, m=m)
    (a * b).backward(inputs=[a])
    assert a.grad.item() == 5.0 and b.grad is None
    with pytest.raises(RuntimeError, match="cannot be empty"):
        (a * b).backward(inputs=[])


def test_backward_into_an_inner_tensor() -> None:
    a = leaf(2.0)
    middle = a * 3
    gradient = tinyflow.tensor([1.0], dtype=tinyflow.float64)
    middle.backward(gradient, inputs=[middle])
    assert middle.grad.item() == 1.0 and a.grad is None
    assert middle.grad.data_ptr() != gradient.data_ptr()


@BOTH
def test_errors_of_the_roots(m: Any) -> None:
    x = leaf(1.0, 2.0, m=m)
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="does not require grad and does not have a grad_fn"):
        m.ones(()).backward()
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        (x * 2).backward(m.ones(3, dtype=m.float64))
    with pytest.raises(TypeError, match="gradients can be either Tensors or None"):
        m.autograd.grad(x * 2, x, [1.0])


# ---- nodes ---------------------------------------------------------------------------------------------------------


def test_names_and_next_functions() -> None:
    x, w = leaf(1.0, 2.0), tinyflow.ones(2, dtype=tinyflow.float64)
    y = x * w
    assert y.grad_fn.name() == "MulBackward0" and repr(y.grad_fn).startswith("<MulBackward0 object at 0x")
    (accumulate, index), none = y.grad_fn.next_functions
    assert accumulate.name() == "AccumulateGrad" and accumulate.variable is x and index == 0 and none == (None, 0)
    assert (y + x).grad_fn.next_functions[0] == (y.grad_fn, 0)
    assert (y + x).grad_fn.next_functions[1][0] is accumulate, "a leaf has one accumulator while the graph lives"


@pytest.mark.parametrize(
    "op", ["neg", "abs", "exp", "log", "sqrt", "sigmoid", "tanh", "relu", "reciprocal", "sum", "clone", "sin", "cos"]
)
def test_node_names_are_torchs(op: str) -> None:
    ours, theirs = (getattr(leaf(1.0, 2.0, m=m), op)().grad_fn.name() for m in (tinyflow, torch))
    assert ours == theirs


@pytest.mark.parametrize(
    "view", ["t", "unsqueeze", "squeeze", "expand", "permute", "transpose", "select", "diagonal", "view"]
)
def test_view_names_are_torchs(view: str) -> None:
    arguments = {
        "unsqueeze": (0,),
        "expand": (2, 2, 2),
        "permute": (1, 0),
        "transpose": (0, 1),
        "select": (0, 1),
        "view": (4,),
    }
    ours, theirs = (
        getattr(m.ones(2, 2, requires_grad=True), view)(*arguments.get(view, ())).grad_fn.name()
        for m in (tinyflow, torch)
    )
    assert ours == theirs


def test_error_in_backward_names_the_forward_operation() -> None:
    class Fails(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            raise ZeroDivisionError("inside")

    with pytest.raises(ZeroDivisionError, match="inside") as caught:
        Fails.apply(tinyflow.ones(2, 3, requires_grad=True)).sum().backward()
    assert any("FailsBackward" in note and "(2, 3)" in note for note in caught.value.__notes__)


# ---- size ----------------------------------------------------------------------------------------------------------


def test_twenty_thousand_operations_deep() -> None:
    """No recursion in recording, walking or freeing."""
    x = tinyflow.ones(1, device="meta", requires_grad=True)
    y = x
    for _ in range(20_000):
        y = -y
    y.backward(tinyflow.ones(1, device="meta"))
    assert x.grad is not None
    del y


def test_wide_fan_in_value() -> None:
    x = leaf(1.0)
    tinyflow.stack([x * k for k in range(60)]).sum().backward()
    assert x.grad.item() == sum(range(60))
