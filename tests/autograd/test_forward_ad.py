"""Forward mode: tangents that operations carry on, derived from their gradient rules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as torch_forward

import tinyflow
from tests.ops.case import Case
from tests.ops.test_cases import CASES
from tinyflow.autograd import forward_ad, gradcheck

# torch's own, at its first use of forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

BOTH = pytest.mark.parametrize(("m", "fw"), [(tinyflow, forward_ad), (torch, torch_forward)], ids=["tinyflow", "torch"])


def given(m: Any, *shape: int, seed: int = 0) -> Any:
    return m.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=m.float64)


PROGRAMS: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda m, x: (x * x - 3) / (x * x + 1) + x.sin() * 2,
    "saved outputs": lambda m, x: x.exp().tanh().sigmoid(),
    "product": lambda m, x: x @ x.T,
    "views": lambda m, x: x.T[1:].reshape(-1).unsqueeze(0)[:, ::2],
    "broadcast": lambda m, x: x[:1] * x + x.sum(0),
    "reduction": lambda m, x: x.var(0) + x.amax(0) + x.mean(),
    "list": lambda m, x: m.stack([x, x * 2, m.ones(3, 4, dtype=m.float64)]).sum(0),
    "several outputs": lambda m, x: m.sort(x, 1)[0] * 2,
    "softmax": lambda m, x: x.softmax(1).log(),
    "indexing": lambda m, x: x[m.tensor([0, 2, 0])] * 2,
    "convolution": lambda m, x: m.nn.functional.conv2d(x.view(1, 1, 3, 4), x[:2, :2].reshape(1, 1, 2, 2)),
    "a constant": lambda m, x: x.detach() * 2 + x,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_tangents_are_torchs(name: str) -> None:
    results = []
    for m, fw in ((tinyflow, forward_ad), (torch, torch_forward)):
        with fw.dual_level():
            dual = fw.make_dual(given(m, 3, 4), given(m, 3, 4, seed=1))
            results.append([t.numpy() for t in fw.unpack_dual(PROGRAMS[name](m, dual))])
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in CASES if c.gradient][::20], ids=lambda c: c.id)
def test_tangents_of_operations(case: Case) -> None:
    """Every twentieth case of the table against finite differences: forward mode has no rules of its own to be wrong."""
    inputs: list[Any] = []
    for x in case.arrays(torch.float64):
        floating = x is not None and x.is_floating_point()
        inputs.append(None if x is None else tinyflow.from_torch(x).requires_grad_(floating))
    call = case.function()
    assert gradcheck(
        lambda *args: case.pick(call(*args, **case.params)),
        inputs,
        check_forward_ad=True,
        check_backward_ad=False,
        fast_mode=True,
    )


@BOTH
def test_dual_numbers(m: Any, fw: Any) -> None:
    x, t = given(m, 2), given(m, 2, seed=1)
    with fw.dual_level():
        dual = fw.make_dual(x, t)
        primal, tangent = fw.unpack_dual(dual)
        assert primal.tolist() == x.tolist() and tangent is t or tangent.tolist() == t.tolist()
        assert fw.unpack_dual(x).tangent is None and fw.unpack_dual(primal).tangent is None
        assert fw.unpack_dual(dual.detach()).tangent is None
        assert fw.unpack_dual(x * 2).tangent is None
        y = dual * 2
    assert fw.unpack_dual(y).tangent is None, "the level is over"


@BOTH
def test_forward_over_reverse(m: Any, fw: Any) -> None:
    """The tangent of a gradient is a product with the Hessian."""
    x, v = given(m, 3), given(m, 3, seed=1)
    with fw.dual_level():
        dual = fw.make_dual(x.clone().requires_grad_(), v)
        (g,) = m.autograd.grad((dual.exp() * dual[0]).sum(), dual, create_graph=True)
        product = fw.unpack_dual(g).tangent
    e, first = np.exp(x.numpy()), x.numpy()[0]
    hessian = np.diag(first * e)
    hessian[0] += e
    hessian[:, 0] += e
    np.testing.assert_allclose(product.detach().numpy(), hessian @ v.numpy())


def test_backward_pass_of_dual_numbers_adds_up() -> None:
    """Three gradients meet at x, and two passes in x.grad, with their tangents."""
    m, fw = tinyflow, forward_ad
    x, v = given(m, 3).requires_grad_(), given(m, 3, seed=1)
    with fw.dual_level():
        dual = fw.make_dual(x, v)
        for _ in range(2):
            (dual * dual + dual.exp() + dual).sum().backward()
        tangent = fw.unpack_dual(x.grad).tangent
    np.testing.assert_allclose(tangent.detach().numpy(), 2 * (2 + np.exp(x.detach().numpy())) * v.numpy())


@BOTH
def test_reverse_over_forward(m: Any, fw: Any) -> None:
    """A tangent is differentiable, through inputs, saved outputs and views."""
    x, v = given(m, 3).requires_grad_(), given(m, 3, seed=1)
    with fw.dual_level():
        tangent = fw.unpack_dual((fw.make_dual(x, v).exp() * 2).view(3, 1)).tangent
        assert tangent.requires_grad
        (g,) = m.autograd.grad(tangent.sum(), x)
    np.testing.assert_allclose(g.detach().numpy(), 2 * np.exp(x.detach().numpy()) * v.numpy())


@BOTH
def test_without_recording_tangents_have_no_history(m: Any, fw: Any) -> None:
    x = given(m, 3).requires_grad_()
    with fw.dual_level(), m.no_grad():
        y = fw.make_dual(x, given(m, 3, seed=1)).exp()
        assert not fw.unpack_dual(y).tangent.requires_grad and not y.requires_grad


@BOTH
def test_functions_of_users(m: Any, fw: Any) -> None:
    class Square(m.autograd.Function):
        @staticmethod
        def forward(x: Any, factor: float) -> Any:
            return factor * x * x

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_forward(inputs[0])
            ctx.factor = inputs[1]

        @staticmethod
        def jvp(ctx: Any, tangent: Any, _: Any) -> Any:
            (x,) = ctx.saved_tensors
            return 2 * ctx.factor * x * tangent

    class Without(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

    x, v = given(m, 2), given(m, 2, seed=1)
    with fw.dual_level():
        dual = fw.make_dual(x, v)
        tangent = fw.unpack_dual(Square.apply(dual, 3.0)).tangent
        with pytest.raises((NotImplementedError, RuntimeError), match="jvp"):
            Without.apply(dual)
        Without.apply(x)
    np.testing.assert_allclose(tangent.numpy(), 6 * x.numpy() * v.numpy())


@BOTH
def test_errors(m: Any, fw: Any) -> None:
    x = given(m, 2)
    with pytest.raises(RuntimeError, match="level that does not exist|no level exists"):
        fw.make_dual(x, x)
    with fw.dual_level():
        with pytest.raises(RuntimeError, match="Nested forward mode AD is not supported"):
            fw.enter_dual_level()
        with pytest.raises(ValueError, match="Expected primal to be floating point"):
            fw.make_dual(m.tensor([1]), x)
        with pytest.raises(RuntimeError):
            fw.make_dual(x, given(m, 3))
    with pytest.raises(RuntimeError, match="Trying to exit a forward AD level|must be a positive number"):
        fw.exit_dual_level()


INPLACE: dict[str, Callable[..., Any]] = {
    "on the dual tensor": lambda m, x, c: x.mul_(x.detach() + 2).add_(1).tanh_(),
    "on a result": lambda m, x, c: (x + 1).relu_().mul_(3),
    "that needs the old value": lambda m, x, c: (x * 1).pow_(3).mul_(x),
    "by another dual tensor": lambda m, x, c: c.mul_(x).exp_(),
    "on a view": lambda m, x, c: _after(x * 1, lambda y: y[1].mul_(y[0])),
    "on a view of a constant": lambda m, x, c: _after(c, lambda y: y.T[1].add_(x.T[0])),
    "seen by an earlier view": lambda m, x, c: _seen_before(x * 1, lambda y: y.mul_(2)),
    "seen by an earlier view of a constant": lambda m, x, c: _seen_before(c, lambda y: y.mul_(x)),
    "that forgets": lambda m, x, c: _after(x * 1, lambda y: y.zero_()) + x,
    "that leaves the source alone": lambda m, x, c: _after(x + 0, lambda y: y.mul_(5)) + x,
    "by index": lambda m, x, c: _after(c, lambda y: y.__setitem__((slice(None), 0), x[:, 1])),
}


def _after(y: Any, change: Callable[[Any], Any]) -> Any:
    change(y)
    return y * 2


def _seen_before(y: Any, change: Callable[[Any], Any]) -> Any:
    view = y[1:, 0]
    change(y)
    return view * 3


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("name", INPLACE)
def test_in_place_operations(name: str, record: bool) -> None:
    results = []
    for m, fw in ((tinyflow, forward_ad), (torch, torch_forward)):
        x, tangent = given(m, 3, 4), given(m, 3, 4, seed=1)
        before = tangent.tolist()
        with fw.dual_level():
            dual = fw.make_dual((x * 1).requires_grad_(record) * 1, tangent)
            with m.set_grad_enabled(record):
                y, found = fw.unpack_dual(INPLACE[name](m, dual, given(m, 3, 4, seed=2)))
        results.append([y.detach().numpy(), np.zeros(y.shape) if found is None else found.detach().numpy()])
        assert tangent.tolist() == before or m is torch
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_what_is_refused_in_place() -> None:
    x = given(tinyflow, 2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        with pytest.raises(
            NotImplementedError, match=r"this tensor was given to make_dual\(\); change the dual tensor"
        ):
            x.mul_(2)
        with pytest.raises(NotImplementedError, match="forward mode does not follow out="):
            tinyflow.add(dual, 1, out=tinyflow.empty(2, dtype=tinyflow.float64))
        x.clone().add_(1)
    x.mul_(2)


def test_a_level_is_a_threads_own_and_keeps_nothing_alive() -> None:
    seen: list[Any] = []
    with forward_ad.dual_level():
        level = tinyflow.autograd.grad_mode.mode.dual_levels[-1]
        thread = threading.Thread(target=lambda: seen.append(tinyflow.autograd.grad_mode.mode.dual_levels))
        thread.start()
        thread.join()
        y = forward_ad.make_dual(given(tinyflow, 2), given(tinyflow, 2)).exp().sin()
        del y
        assert level._tangents == {}
    assert seen == [[]]
