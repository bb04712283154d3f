"""Special functions and activations: units in the last place, edge values, and integers, against torch in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tinyflow.kernels import activation, rounding, special

from ..closeness import EPSILON

NAN, INF = math.nan, math.inf
EDGES = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 3.0, 40.0, -40.0, 1e-30, -1e-30, 1e-310]

#: Two ranges each, and how many units of the last place ours and torch's may differ by there in float64.
RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], float]] = {
    "exp2": ((-9, 9), (-0.1, 0.1), 4), "expm1": ((-30, 9), (-1e-8, 1e-8), 4), "log2": ((0.01, 9), (0.99, 1.01), 4),
    "log10": ((0.01, 9), (9, 1e9), 4), "log1p": ((-0.9, 9), (-1e-8, 1e-8), 4), "tan": ((-1.5, 1.5), (-1e-5, 1e-5), 4),
    "asin": ((-1, 1), (-1e-5, 1e-5), 4), "acos": ((-1, 1), (0.999, 1), 4), "atan": ((-3, 3), (-1e9, 1e9), 4),
    "sinh": ((-30, 30), (-1e-5, 1e-5), 4), "cosh": ((-30, 30), (-1e-5, 1e-5), 4), "asinh": ((-9, 9), (-1e-5, 1e-5), 4),
    "acosh": ((1, 9), (1e9, 1e10), 4), "atanh": ((-1, 1), (-1e-5, 1e-5), 4), "erf": ((-3, 3), (-1e-5, 1e-5), 4),
    "erfc": ((-3, 3), (3, 8), 4), "erfinv": ((-0.99, 0.99), (-1e-5, 1e-5), 8), "lgamma": ((0.1, 0.9), (3, 300), 8),
    "digamma": ((2, 9), (9, 300), 32),
}  # fmt: skip


@pytest.mark.parametrize("op", RANGES)
def test_units_in_the_last_place(op: str) -> None:
    near, far, units = RANGES[op]
    random = np.random.default_rng(len(op))
    x = torch.from_numpy(np.concatenate([random.uniform(*near, 200), random.uniform(*far, 200)]))
    expected = getattr(torch, op)(x)
    error = ((getattr(special, op)(x) - expected).abs() / expected.abs()).max().item()
    assert error <= units * EPSILON[torch.float64], f"{error / EPSILON[torch.float64]:.1f} units"
    x = x.float()
    expected = getattr(torch, op)(x.double())
    error = ((getattr(special, op)(x).double() - expected).abs() / expected.abs()).max().item()
    assert error <= 4 * EPSILON[torch.float32], f"{error / EPSILON[torch.float32]:.1f} units"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("op", [*RANGES, "sinc", "round_to_whole", "trunc", "frac", "isinf", "signbit", "nan_to_num"])
def test_edge_values(op: str, dtype: torch.dtype) -> None:
    module = special if hasattr(special, op) else rounding
    x = torch.tensor(EDGES, dtype=dtype)
    got, expected = getattr(module, op)(x), getattr(torch, op.removesuffix("_to_whole"))(x)
    np.testing.assert_allclose(
        got.double(), expected.double(), rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=1e-320
    )
    if expected.is_floating_point():
        defined = ~torch.isnan(expected)
        assert torch.equal(torch.signbit(got)[defined], torch.signbit(expected)[defined]), "the sign of a zero"


@pytest.mark.parametrize(
    "op", ["atan2", "hypot", "logaddexp", "logaddexp2", "xlogy", "copysign", "fmax", "fmin", "heaviside"]
)
def test_edge_values_of_two(op: str) -> None:
    values = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 2.5, 1e-200, 1e200]
    x, y = torch.tensor(values).double().repeat_interleave(10), torch.tensor(values).double().repeat(10)
    x, y = (torch.tensor(values, dtype=torch.float64)[k] for k in (torch.arange(100) // 10, torch.arange(100) % 10))
    module = special if hasattr(special, op) else rounding
    got, expected = getattr(module, op)(x, y), getattr(torch, op)(x, y)
    if op in ("atan2", "copysign"):
        defined = ~torch.isnan(expected)
        assert torch.equal(torch.signbit(got)[defined], torch.signbit(expected)[defined])
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16 if op.startswith("log") else 0)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_polygamma(n: int) -> None:
    x = torch.linspace(0.2, 30, 57, dtype=torch.float64)
    np.testing.assert_allclose(special.polygamma(n, x), torch.polygamma(n, x), rtol=1e-8)  # torch has about nine digits
    with pytest.raises(RuntimeError, match="does not support negative n"):
        special.polygamma(-1, x)


def test_trigamma_of_known_arguments() -> None:
    x = torch.tensor([1.0, 2.0, 0.5, -0.5, 0.0], dtype=torch.float64)
    expected = [math.pi**2 / 6, math.pi**2 / 6 - 1, math.pi**2 / 2, math.pi**2 / 2 + 4, INF]
    np.testing.assert_allclose(special.polygamma(1, x), expected, rtol=4e-15)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool], ids=str)
def test_integers_become_floating_point_or_stay(dtype: torch.dtype) -> None:
    x = torch.tensor([0, 1, 3]).to(dtype)
    for op in ("expm1", "atan", "lgamma", "erf", "sinh"):
        got = getattr(special, op)(x)
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got, getattr(torch, op)(x), rtol=1e-5)
    if dtype != torch.bool:
        for op in ("round", "trunc"):
            assert torch.equal(getattr(rounding, op)(x), getattr(torch, op)(x))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8], ids=str)
def test_shifts_by_too_much(dtype: torch.dtype) -> None:
    x = torch.tensor([1, 5, 100] if dtype == torch.uint8 else [-100, -1, 1, 100]).to(dtype)
    for by in (0, 1, 7, 8, 31, 32, 63, 64):
        s = torch.full_like(x, by)
        assert torch.equal(rounding.left_shift(x, s), torch.bitwise_left_shift(x, s)), by
        assert torch.equal(rounding.right_shift(x, s), torch.bitwise_right_shift(x, s)), by


@pytest.mark.parametrize(
    "op", ["gelu_exact", "gelu_tanh", "silu", "mish", "logsigmoid", "hardswish", "hardsigmoid", "softsign"]
)
def test_activations_far_out(op: str) -> None:
    x = torch.tensor([NAN, -90.0, -30.0, -3.0, -0.0, 0.0, 1e-30, 3.0, 30.0, 200.0], dtype=torch.float64)
    name, _, how = op.partition("_")
    options = {"approximate": "tanh"} if how == "tanh" else {}
    expected = getattr(torch.nn.functional, name)(x, **options)
    np.testing.assert_allclose(getattr(activation, op)(x), expected, rtol=1e-12, atol=1e-14)
    wide = getattr(activation, op)(x.float()).double()
    np.testing.assert_allclose(
        wide, getattr(torch.nn.functional, name)(x.float().double(), **options), rtol=1e-5, atol=1e-7
    )


def test_empty() -> None:
    assert special.erfinv(torch.empty(0, 3)).shape == (0, 3)
