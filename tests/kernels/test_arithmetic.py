"""Arithmetic: float64 torch's values in every dtype, and its NaN, infinities, signs and zeros."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tinyflow.kernels import arithmetic

from ..closeness import assert_close

FLOATING = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
UNARY: dict[str, tuple[float, float]] = {
    "neg": (-3, 3),
    "abs_": (-3, 3),
    "sign": (-3, 3),
    "square": (-3, 3),
    "reciprocal": (0.1, 3),
    "sqrt": (0, 9),
    "rsqrt": (0.1, 9),
    "exp": (-5, 5),
    "log": (0.01, 20),
    "sin": (-6, 6),
    "cos": (-6, 6),
    "sigmoid": (-9, 9),
    "tanh": (-4, 4),
    "relu": (-3, 3),
    "floor": (-5, 5),
    "ceil": (-5, 5),
}
SPECIAL = [math.nan, math.inf, -math.inf, 1.0, -1.0, 0.0, -0.0, 5.5, -5.5, 3.0, -3.0, 1e-40, 3e38]


def uniform(low: float, high: float, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, shape))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", UNARY)
def test_one_operand(op: str, dtype: torch.dtype) -> None:
    x = uniform(*UNARY[op], 7, 11).to(dtype)
    got = getattr(arithmetic, op)(x)
    assert got.dtype == dtype
    assert_close(got, getattr(torch, op.rstrip("_"))(x.double()))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum", "minimum", "remainder", "floor_divide", "pow"])
def test_two_operands(op: str, dtype: torch.dtype) -> None:
    x, y = uniform(0.1, 5, 7, 11).to(dtype), uniform(0.5, 3, 11, seed=1).to(dtype)
    got = getattr(arithmetic, op)(x, y)
    assert got.dtype == dtype
    assert_close(
        got, getattr(torch, op)(x.double(), y.double()), factor=60 if op == "pow" and dtype == torch.float64 else 10
    )


@pytest.mark.parametrize(
    "op", ["maximum", "minimum", "remainder", "floor_divide", "pow", "div", "mul", "eq", "lt", "ge", "ne"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_special_values_of_two_operands(op: str, dtype: torch.dtype) -> None:
    values = [v for v in SPECIAL if v != 1e-40]  # by which torch's own remainder is NaN
    x = torch.tensor(values, dtype=dtype).repeat_interleave(len(values))
    y = torch.tensor(values, dtype=dtype).repeat(len(values))
    got, expected = getattr(arithmetic, op)(x, y), getattr(torch, op)(x, y)
    if expected.dtype == torch.bool:
        assert torch.equal(got, expected)
    else:
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(
    "op",
    [
        "abs_",
        "sign",
        "relu",
        "sqrt",
        "rsqrt",
        "exp",
        "log",
        "sigmoid",
        "tanh",
        "reciprocal",
        "floor",
        "ceil",
        "isnan",
        "isfinite",
        "square",
        "logical_not",
    ],
)
def test_special_values_of_one_operand(op: str) -> None:
    x = torch.tensor(SPECIAL)
    np.testing.assert_allclose(
        getattr(arithmetic, op)(x).double().numpy(), getattr(torch, op.rstrip("_"))(x).double().numpy(), rtol=1e-6
    )


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, -1, -2, 0.5, -0.5, 1.5, 0.0, 2.0, math.inf, math.nan])
def test_powers_by_a_number(exponent: float) -> None:
    for dtype in (torch.float64, torch.float32):
        x = torch.tensor([*SPECIAL, 2.0, 0.1, -2.0], dtype=dtype)
        np.testing.assert_allclose(
            arithmetic.pow(x, exponent).numpy(),
            torch.pow(x, exponent).numpy(),
            rtol=1e-6 if dtype == torch.float32 else 1e-12,
        )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
@pytest.mark.parametrize(
    "op",
    ["floor_divide", "remainder", "pow", "mul", "sub", "maximum", "lt", "bitwise_and", "bitwise_or", "bitwise_xor"],
)
def test_integers_of_every_sign(op: str, dtype: torch.dtype) -> None:
    values = [1, 2, 3, 5, 7, 100] if dtype == torch.uint8 else [-100, -7, -3, -2, -1, 1, 2, 3, 5, 7]
    x = torch.tensor(values, dtype=dtype).repeat_interleave(len(values))
    y = torch.tensor(values, dtype=dtype).repeat(len(values))
    assert torch.equal(getattr(arithmetic, op)(x, y), getattr(torch, op)(x, y))


def test_integer_powers_wrap_and_refuse() -> None:
    x = torch.tensor([-3, -1, 0, 1, 2, 3, 10])
    for exponent in (0, 1, 5, 63, 64, 65, 1000):
        assert torch.equal(arithmetic.pow(x, exponent), torch.pow(x, exponent)), exponent
    assert torch.equal(arithmetic.pow(2, torch.tensor([0, 3, 62])), torch.pow(2, torch.tensor([0, 3, 62])))
    with pytest.raises(RuntimeError, match="Integers to negative integer powers are not allowed"):
        arithmetic.pow(x, -1)


def test_division_rounds_correctly() -> None:
    x, y = uniform(0.1, 9, 4001).float(), uniform(0.1, 9, 4001, seed=1).float()
    assert torch.equal(arithmetic.div(x, y), (x.double() / y.double()).float())
    assert torch.equal(arithmetic.sqrt(x), x.double().sqrt().float())


def test_remainder_of_a_large_quotient_is_exact() -> None:
    x, y = torch.tensor([1e8, 123456.7, -98765.4]), torch.tensor([0.3, 0.1, 7e-3])
    assert torch.equal(arithmetic.remainder(x, y), torch.remainder(x, y))
    assert torch.equal(
        arithmetic.floor_divide(torch.tensor([6.0, 0.9, -1.0]), torch.tensor([0.1, 0.3, 0.1])),
        torch.floor_divide(torch.tensor([6.0, 0.9, -1.0]), torch.tensor([0.1, 0.3, 0.1])),
    )


def test_tanh_near_zero_keeps_its_digits() -> None:
    x = torch.tensor([1e-8, 1e-4, 0.3, 0.624, 0.626, 9.0, 50.0])
    assert_close(arithmetic.tanh(x) / x, torch.tanh(x.double()) / x.double())


def test_three_operands() -> None:
    x, y, z = (uniform(-2, 2, 5, 7, seed=k).float() for k in range(3))
    assert_close(arithmetic.addcmul(x, y, z, 0.5), x.double() + 0.5 * y.double() * z.double(), factor=20)
    assert torch.equal(arithmetic.where(x > 0, y, z), torch.where(x > 0, y, z))
    for weight in (0.0, 0.3, 0.5, 1.0):
        assert_close(arithmetic.lerp(x, y, weight), torch.lerp(x.double(), y.double(), weight), factor=20)


def test_logic() -> None:
    x, y = torch.tensor([0.0, 2.0, math.nan, 0.0]), torch.tensor([1.0, 3.0, 0.0, 0.0])
    for op in ("logical_and", "logical_or", "logical_xor"):
        assert torch.equal(getattr(arithmetic, op)(x, y), getattr(torch, op)(x, y))


def test_relu_gradient_passes_where_the_output_is_positive_or_nan() -> None:
    g, y = torch.tensor([1.0, 2.0, 3.0, math.nan]), torch.tensor([0.0, 1.0, math.nan, 2.0])
    np.testing.assert_array_equal(arithmetic.relu_backward(g, y).numpy(), [0.0, 2.0, 3.0, math.nan])


@pytest.mark.parametrize("op", ["neg", "abs_", "relu", "floor", "square"])
def test_bools_are_refused(op: str) -> None:
    with pytest.raises(RuntimeError, match="not defined for bool"):
        getattr(arithmetic, op)(torch.tensor([True]))


def test_bool_sums_are_or() -> None:
    a: Any = torch.tensor([True, True, False])
    assert arithmetic.add(a, a).tolist() == [True, True, False]


def test_the_negative_of_zero_has_its_sign() -> None:
    assert torch.signbit(arithmetic.neg(torch.tensor([0.0, -0.0, 2.0]))).tolist() == [True, False, True]
