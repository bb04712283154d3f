"""Gradients where functions have a corner, a tie, a pole or no value: torch's choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow

POINTS = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, math.nan, math.inf]

ONE: dict[str, Callable[..., Any]] = {
    "abs": lambda m, x: x.abs(),
    "relu": lambda m, x: x.relu(),
    "sign": lambda m, x: x.sign(),
    "floor": lambda m, x: x.floor(),
    "ceil": lambda m, x: x.ceil(),
    "sqrt": lambda m, x: x.abs().sqrt(),
    "square": lambda m, x: x.square(),
    "clamp": lambda m, x: x.clamp(-0.5, 1.0),
    "clamp below": lambda m, x: x.clamp(min=0.0),
    "clamp above": lambda m, x: x.clamp(max=1.0),
    "clamp crossed": lambda m, x: x.clamp(1.0, -1.0),
    "power 0": lambda m, x: x**0,
    "power 1": lambda m, x: x**1,
    "power 2": lambda m, x: x**2,
    "power 3": lambda m, x: x**3,
    "power 0.5": lambda m, x: x**0.5,
    "power -1": lambda m, x: x**-1,
    "number to the": lambda m, x: 2.0**x,
    "zero to the": lambda m, x: 0.0**x,
    "remainder": lambda m, x: x % 0.75,
    "where": lambda m, x: m.where(x > 0, x, 2 * x),
    "over a number": lambda m, x: x / 3,
    "number over": lambda m, x: 3 / x,
}
TWO: dict[str, Callable[..., Any]] = {
    "maximum": lambda m, x, y: m.maximum(x, y),
    "minimum": lambda m, x, y: m.minimum(x, y),
    "clamp by tensors": lambda m, x, y: x.clamp(min=y),
    "pow": lambda m, x, y: x**y,
    "div": lambda m, x, y: x / y,
    "remainder": lambda m, x, y: x % y,
    "addcmul": lambda m, x, y: m.addcmul(x, x, y, value=3),
}


def gradients(function: Callable[..., Any], *points: list[float]) -> list[list[np.ndarray]]:
    results = []
    for m in (tinyflow, torch):
        leaves = [m.tensor(p, dtype=m.float64, requires_grad=True) for p in points]
        y = function(m, *leaves)
        y.backward(m.ones(y.shape, dtype=m.float64))
        results.append([y.detach().numpy(), *(x.grad.numpy() for x in leaves)])
    return results


@pytest.mark.parametrize("name", ONE)
def test_one(name: str) -> None:
    for ours, theirs in zip(*gradients(ONE[name], POINTS)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("name", TWO)
def test_two(name: str) -> None:
    points = [p for p in POINTS if not (name in ("remainder", "pow") and not math.isfinite(p))]
    x = [p for p in points for _ in points]
    for ours, theirs in zip(*gradients(TWO[name], x, points * len(points))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_have_the_dtype_of_their_operand(dtype: torch.dtype) -> None:
    x, w = (
        tinyflow.ones(3, dtype=dtype, requires_grad=True),
        tinyflow.ones(2, 1, dtype=tinyflow.float64, requires_grad=True),
    )
    (x * w + x / 2).sum().backward()
    assert (
        x.grad.dtype == dtype
        and w.grad.dtype == tinyflow.float64
        and x.grad.tolist() == [3.0] * 3
        and w.grad.shape == (2, 1)
    )
