"""Sorting values of every dtype along a dimension against torch, where their order is the keys'."""

from __future__ import annotations

import pytest
import torch

from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import ordering
from tinyflow.kernels.launch import Config

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def _values(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Many ties and every kind of special value."""
    if not dtype.is_floating_point:
        return torch.randint(0 if dtype in (torch.uint8, torch.bool) else -9, 9, shape).to(dtype)
    x = torch.randn(shape).mul(2).round().to(dtype)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, -float("nan")]).to(dtype)
    x.view(-1)[: len(special)] = special
    return x


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=str)
def test_sorts_as_torch(dtype: torch.dtype) -> None:
    x = _values(dtype, (3, 17, 2))
    for view, dim in ((x, 1), (x.transpose(0, 1), 0), (x[:, ::2], -1)):
        for descending in (False, True):
            values, indices = ordering.sort(view, dim, descending)
            expected = torch.sort(view, dim=dim, descending=descending, stable=True)
            assert torch.equal(indices, expected.indices)
            torch.testing.assert_close(values, expected.values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8], ids=str)
def test_limits(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    x = torch.tensor([limits.max, 0, limits.min, 1, limits.max - 1], dtype=dtype)
    assert torch.equal(ordering.sort(x)[0], x.sort()[0])
    assert torch.equal(ordering.sort(x, 0, True)[0], x.sort(descending=True)[0])


def test_smallest_and_largest_numbers() -> None:
    tiny, huge = torch.finfo(torch.float32).smallest_normal, torch.finfo(torch.float32).max
    x = torch.tensor([huge, tiny / 4, -tiny / 4, -huge, 0.0, tiny, -tiny])
    assert torch.equal(ordering.sort(x)[1], x.sort()[1])


@pytest.mark.parametrize("largest", [True, False])
def test_topk(largest: bool) -> None:
    x = torch.randperm(60).reshape(5, 4, 3)
    for k in (0, 1, 3):
        values, indices = ordering.topk(x, k, 1, largest)
        expected = x.topk(k, 1, largest)
        assert torch.equal(values, expected.values) and torch.equal(indices, expected.indices)


@pytest.mark.parametrize("config", [ordering._FEW, ordering._MANY], ids=["few", "many"])
def test_pick_and_spread_at_shipped_configs(config: Config) -> None:
    rows, count = 2 * config.blocks["BLOCK_M"] + 1, 2 * config.blocks["BLOCK_N"] + 1
    x = torch.randn(rows, count + 5)
    positions = torch.rand(x.shape).argsort(1)[:, :count]
    with ordering.move_configs.forced(config):
        assert torch.equal(ordering.pick(x, 1, positions), x.gather(1, positions))
        picked = torch.randn(rows, count)
        expected = torch.zeros(x.shape).scatter(1, positions, picked)
        assert torch.equal(ordering.spread(picked, 1, positions, x.shape), expected)
