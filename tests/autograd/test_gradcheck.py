"""gradcheck and gradgradcheck accept what is right and catch what is planted wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinyflow
from tinyflow.autograd import Function, GradcheckError, gradcheck, gradgradcheck


def leaf(*shape: int) -> Any:
    values = np.random.default_rng(len(shape)).standard_normal(shape)
    return tinyflow.tensor(values, requires_grad=True)


def planted(slope: float, second: float = 1.0, where: int | None = None) -> Any:
    """x² whose gradient is off by ``slope`` (at one element only, if ``where``), whose second derivative by ``second``."""

    class Slope(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * second * g

    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            factor = np.ones(tuple(x.shape))
            factor.reshape(-1)[where if where is not None else slice(None)] = slope
            return g * Slope.apply(x) * tinyflow.tensor(factor)

    return Square.apply


@pytest.mark.parametrize("fast", [False, True])
def test_accepts_what_is_right(fast: bool) -> None:
    x, w = leaf(2, 3), leaf(3)
    assert gradcheck(lambda x, w: (x * w, (x * x).sum()), (x, w), fast_mode=fast)
    assert gradgradcheck(lambda x, w: x * x * w, (x, w), fast_mode=fast)
    assert gradcheck(planted(1.0), (x,), fast_mode=fast) and gradgradcheck(planted(1.0), (x,), fast_mode=fast)
    assert x.grad is None and x.is_leaf


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("where", [None, 3])
def test_catches_a_wrong_gradient(fast: bool, where: int | None) -> None:
    """One element of six off by 1 %: the size of fault that an approximation would have."""
    x = leaf(2, 3)
    before = x.tolist()
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0 with respect to input 0"):
        gradcheck(planted(1.01, where=where), (x,), fast_mode=fast)
    assert x.tolist() == before, "the input is put back"
    assert not gradcheck(planted(1.01), (x,), fast_mode=fast, raise_exception=False)


def test_catches_a_wrong_second_derivative() -> None:
    assert gradcheck(planted(1.0, second=1.01), (leaf(3),))
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradgradcheck(planted(1.0, second=1.01), (leaf(3),))


def test_catches_a_missing_gradient_and_a_nan() -> None:
    with pytest.raises(GradcheckError, match="with respect to input 1"):
        gradcheck(lambda x, w: x * w.detach(), (leaf(2), leaf(2, 1)))
    with pytest.raises(GradcheckError):
        gradcheck(planted(float("nan")), (leaf(2),))


def test_catches_a_backward_that_does_not_repeat() -> None:
    calls = iter(range(1000))

    class Drift(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * (1 + 1e-9 * next(calls))

    with pytest.raises(GradcheckError, match="not reentrant"):
        gradcheck(Drift.apply, (leaf(2),))


def test_asks_for_what_it_needs() -> None:
    with pytest.raises(ValueError, match="at least one input tensor to require gradient"):
        gradcheck(lambda x: x, (tinyflow.ones(1),))
    with pytest.raises(ValueError, match="float64 inputs, got torch.float32"):
        gradcheck(lambda x: x, (tinyflow.ones(1, requires_grad=True),))
    with pytest.raises(ValueError, match="at least one floating-point output"):
        gradcheck(lambda x: x > 0, (leaf(1),))


def test_empty_and_strided_inputs() -> None:
    assert gradcheck(lambda x: x * 2, (tinyflow.zeros(0, 3, dtype=tinyflow.float64, requires_grad=True),))
    strided = leaf(4, 3).detach()[::2].T.requires_grad_()
    assert gradcheck(lambda x: x * x, (strided,))


@pytest.mark.parametrize("fast", [False, True])
def test_forward_mode_is_checked(fast: bool) -> None:
    """A Function with a right backward and a jvp that is off by 1 %, and the other way round."""

    def square(slope: float, forward_slope: float) -> Any:
        class Square(Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                ctx.save_for_backward(x)
                ctx.save_for_forward(x)
                return x * x

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return 2 * slope * ctx.saved_tensors[0] * g

            @staticmethod
            def jvp(ctx: Any, tangent: Any) -> Any:
                return 2 * forward_slope * ctx.saved_tensors[0] * tangent

        return Square.apply

    x = leaf(2, 3)
    assert gradcheck(square(1.0, 1.0), x, check_forward_ad=True, fast_mode=fast)
    assert gradcheck(square(1.0, 1.01), x, fast_mode=fast)
    with pytest.raises(GradcheckError, match="forward mode"):
        gradcheck(square(1.0, 1.01), x, check_forward_ad=True, fast_mode=fast)
    assert gradcheck(square(1.01, 1.0), x, check_forward_ad=True, check_backward_ad=False, fast_mode=fast)
    assert gradgradcheck(lambda x: x.exp() * x, x, check_fwd_over_rev=True, fast_mode=fast)
    with pytest.raises(ValueError, match="at least one of check_forward_ad or check_backward_ad"):
        gradcheck(square(1.0, 1.0), x, check_backward_ad=False)


def test_undefined_gradients_are_checked() -> None:
    def two(rule: Any) -> Any:
        class Two(Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                ctx.set_materialize_grads(False)
                return x * 2, x * 3

            @staticmethod
            def backward(ctx: Any, a: Any, b: Any) -> Any:
                return rule(a, b)

        return Two.apply

    def right(a: Any, b: Any) -> Any:
        return 3 * b if a is None else 2 * a if b is None else 2 * a + 3 * b

    def wrong(a: Any, b: Any) -> Any:
        return 2 * a + 3 * b if a is not None and b is not None else 4 * (b if a is None else a)

    x = leaf(2)
    assert gradcheck(two(right), x)
    with pytest.raises(GradcheckError):
        gradcheck(two(wrong), x)


def test_dtypes_gaps_and_what_is_not_there() -> None:
    x = leaf(2, 3)
    assert gradcheck(lambda x: x * 2, x, check_grad_dtypes=True)
    assert gradgradcheck(lambda x: x.T * x.T, x, gen_non_contig_grad_outputs=True)
    for option in ("check_batched_grad", "check_batched_forward_grad", "masked"):
        with pytest.raises(NotImplementedError, match=f"{option}=True is not implemented"):
            gradcheck(lambda x: x, x, **{option: True})
