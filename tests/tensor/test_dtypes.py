"""Which dtype results have: torch's table, for every pair, as tensors, 0-dimensional tensors and Python numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
NUMBERS = [True, 2, 2.5]


def operands(m: Any) -> dict[str, Any]:
    made = {f"{d}{shape}": m.ones(shape, dtype=d) for d in DTYPES for shape in ((), (2,))}
    return {**made, **{str(n): n for n in NUMBERS}}


def test_every_pair() -> None:
    ours, theirs = operands(tinyflow), operands(torch)
    for a, b in itertools.product(ours, repeat=2):
        assert tinyflow.result_type(ours[a], ours[b]) == torch.result_type(theirs[a], theirs[b]), (a, b)


@pytest.mark.parametrize("op", ["add", "div", "eq", "maximum", "pow", "floor_divide"])
def test_operations_follow_the_table(op: str) -> None:
    """A sample of pairs across the categories, computed; where torch refuses bools, so do we."""
    names = [
        "torch.float32(2,)",
        "torch.float16(2,)",
        "torch.int64()",
        "torch.uint8(2,)",
        "torch.bool(2,)",
        "torch.float64()",
        "2.5",
        "2",
    ]
    ours, theirs = operands(tinyflow), operands(torch)
    for a, b in itertools.product(names, repeat=2):
        if not isinstance(theirs[a], torch.Tensor) or (op == "maximum" and not isinstance(theirs[b], torch.Tensor)):
            continue
        try:
            expected = getattr(torch, op)(theirs[a], theirs[b])
        except (RuntimeError, NotImplementedError):
            with pytest.raises((RuntimeError, TypeError)):
                getattr(tinyflow, op)(ours[a], ours[b])
            continue
        got = getattr(tinyflow, op)(ours[a], ours[b])
        assert got.dtype == expected.dtype and got.shape == expected.shape and got.tolist() == expected.tolist(), (
            op,
            a,
            b,
        )


@pytest.mark.parametrize(
    "op",
    ["exp", "sqrt", "sigmoid", "reciprocal", "neg", "abs", "sign", "floor", "relu", "square", "isnan", "logical_not"],
)
def test_one_operand(op: str) -> None:
    for dtype in DTYPES:
        value = torch.tensor([0, 1, 3]).to(dtype)
        if op == "square" and dtype == torch.bool:
            continue  # torch gives an integer, we refuse
        try:
            expected = getattr(torch, op)(value)
        except (RuntimeError, NotImplementedError):
            with pytest.raises((RuntimeError, TypeError), match=op):
                getattr(tinyflow, op)(tinyflow.from_torch(value))
            continue
        got = getattr(tinyflow, op)(tinyflow.from_torch(value))
        assert got.dtype == expected.dtype, dtype
        if dtype not in (torch.float16, torch.bfloat16):
            np.testing.assert_allclose(np.array(got.tolist(), float), np.array(expected.tolist(), float), rtol=1e-6)


def test_bools() -> None:
    for m in (tinyflow, torch):
        a, b = m.tensor([True, True, False, False]), m.tensor([True, False, True, False])
        assert (a + b).tolist() == [True, True, True, False] and (a * b).tolist() == [True, False, False, False]
        assert (a & b).tolist() == [True, False, False, False] and (a ^ b).tolist() == [False, True, True, False]
        assert (~a).tolist() == [False, False, True, True] and (a < b).tolist() == [False, False, True, False]
        assert m.maximum(a, b).tolist() == [True, True, True, False] and m.where(a, b, a).tolist() == [
            True,
            False,
            False,
            False,
        ]
        for refused in (lambda a=a, b=b: a - b, lambda a=a: -a):
            with pytest.raises(RuntimeError):
                refused()


def test_integers_wrap_and_keep_their_dtype() -> None:
    for m in (tinyflow, torch):
        assert (m.tensor([127], dtype=m.int8) + 1).tolist() == [-128] and (
            m.tensor([0], dtype=m.uint8) - 1
        ).tolist() == [255]
        assert (m.tensor([2**62]) * 2).tolist() == [-(2**63)] and (m.tensor([2**53 + 1]) + 0).tolist() == [2**53 + 1]
        assert (~m.tensor([0, 5, -1])).tolist() == [-1, -6, 0] and (~m.tensor([0, 255], dtype=m.uint8)).tolist() == [
            255,
            0,
        ]
