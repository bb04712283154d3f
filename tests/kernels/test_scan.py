"""Scans against float64 torch: every shipped tile on several tiles, strides, dtypes, NaN and infinity, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tinyflow.kernels import scan
from tinyflow.kernels.launch import Config

from ..closeness import assert_close

FLOATING = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape))


@pytest.mark.parametrize("config", scan.scan_configs.shipped, ids=str)
@pytest.mark.parametrize("op", ["cumsum", "cumprod", "logcumsumexp"])
def test_every_shipped_tile(op: str, config) -> None:
    x = normal(config.blocks["BLOCK_M"] + 2, config.blocks["BLOCK_N"] + 5).float()
    x = 1 + x / 1000 if op == "cumprod" else x
    with scan.scan_configs.forced(config):
        got = getattr(scan, op)(x, 1)
    assert_close(got, getattr(torch, op)(x.double(), 1), x.shape[1])


@pytest.mark.parametrize("config", scan.recurrence_configs.shipped, ids=str)
@pytest.mark.parametrize(("reverse", "shifted"), [(False, False), (True, False), (False, True), (True, True)])
def test_every_shipped_tile_of_a_recurrence(config, reverse: bool, shifted: bool) -> None:
    """Several tiles; an infinite factor where it has no say, and zeros, which cut the recurrence."""
    factor, term = (normal(config.blocks["BLOCK_M"] + 2, config.blocks["BLOCK_N"] // 8 + 5) for _ in range(2))
    factor[0, 3] = 0.0
    ends = slice(-1, None) if reverse != shifted else slice(0, 1)
    factor[1, ends] = math.inf
    walk = range(factor.shape[1])[:: -1 if reverse else 1]
    expected, before = torch.empty_like(term), None
    for k in walk:
        step = 0.0 if before is None else factor[:, before if shifted else k] * expected[:, before]
        expected[:, k] = term[:, k] + step
        before = k
    tile = Config({**config.blocks, "BLOCK_N": config.blocks["BLOCK_N"] // 16})
    with scan.recurrence_configs.forced(tile):
        got = scan.recurrence(factor, term.t().contiguous().t(), 1, reverse, shifted)
    assert_close(got, expected, 16)


@pytest.mark.parametrize("config", scan.extreme_scan_configs.shipped, ids=str)
@pytest.mark.parametrize("op", ["cummax", "cummin"])
def test_every_shipped_tile_of_extremes(op: str, config) -> None:
    x = normal(config.blocks["BLOCK_M"] + 2, config.blocks["BLOCK_N"] + 5).round(decimals=1)
    x[1, 7] = math.nan
    with scan.extreme_scan_configs.forced(config):
        values, indices = getattr(scan, op)(x, 1)
    expected = getattr(torch, op)(x, 1)
    np.testing.assert_array_equal(values, expected.values)
    assert torch.equal(indices, expected.indices)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_any_dimension_and_strides(dtype: torch.dtype) -> None:
    x = normal(3, 5, 7).to(dtype)
    for view in (x, x.permute(2, 0, 1), x[:, ::2], x[:1].expand(4, 5, 7)):
        for dim in range(-3, 3):
            assert_close(scan.cumsum(view, dim), view.double().cumsum(dim), 7)
    assert_close(scan.cumsum(x, 1, reverse=True), x.double().flip(1).cumsum(1).flip(1), 5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool], ids=str)
def test_integers_sum_in_int64(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 200, 100], [0, 1, 1]]).to(dtype)
    for op in ("cumsum", "cumprod"):
        got, expected = getattr(scan, op)(x, 1), getattr(torch, op)(x, 1)
        assert got.dtype == torch.int64
        assert torch.equal(got, expected)
    for op in ("cummax", "cummin"):
        for got, expected in zip(getattr(scan, op)(x, 1), getattr(torch, op)(x, 1)):
            assert torch.equal(got, expected)


def test_infinities_and_nan() -> None:
    inf = math.inf
    x = torch.tensor([[-inf, -inf, 0.0, 1.0], [1.0, inf, 2.0, inf], [1.0, math.nan, 2.0, 3.0]], dtype=torch.float64)
    np.testing.assert_allclose(scan.logcumsumexp(x, 1), torch.logcumsumexp(x, 1))
    np.testing.assert_array_equal(scan.cumsum(x, 1), torch.cumsum(x, 1))


def test_a_named_dtype() -> None:
    x = torch.tensor([0.6, 1.7, 2.9])
    assert torch.equal(scan.cumsum(x, 0, torch.int64), torch.cumsum(x, 0, dtype=torch.int64))
    assert scan.cumsum(x, 0, torch.float64).dtype == torch.float64


def test_refusals() -> None:
    with pytest.raises(IndexError, match="cumsum: dimension out of range"):
        scan.cumsum(torch.ones(3), 1)
    with pytest.raises(NotImplementedError, match="logcumsumexp: expected a floating-point input"):
        scan.logcumsumexp(torch.ones(3).long(), 0)
