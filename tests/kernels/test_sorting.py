"""Prefix sums and both sorts of keys, in one tile and in many."""

from __future__ import annotations

import contextlib

import pytest
import torch

from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import sorting
from tinyflow.kernels.launch import Config

SMALL = Config({"BITS": 2, "BLOCK": 16})


@pytest.mark.parametrize("n", [0, 1, 17, 4097])
@pytest.mark.parametrize("block", [16, 8192])
def test_exclusive_sum(n: int, block: int) -> None:
    x = torch.randint(0, 9, (n,), dtype=torch.int32)
    with sorting.exclusive_sum_configs.forced(Config({"BLOCK": block})):
        found = sorting.exclusive_sum(x)
    assert found.tolist() == [0, *x.cumsum(0).tolist()]


def test_exclusive_sum_at_the_shipped_config() -> None:
    x = torch.randint(0, 9, (2 * sorting._SCAN.blocks["BLOCK"] + 3,), dtype=torch.int32)
    with sorting.exclusive_sum_configs.forced(sorting._SCAN):
        assert sorting.exclusive_sum(x).tolist() == [0, *x.cumsum(0).tolist()]


@pytest.mark.parametrize("config", [SMALL, sorting._RADIX, None], ids=["small tiles", "shipped", "interpreter"])
@pytest.mark.parametrize(("n", "bits", "rows"), [(1, 3, 1), (2, 1, 1), (100, 3, 1), (515, 9, 1), (40, 33, 3)])
def test_radix_sort_is_stable(config: Config | None, n: int, bits: int, rows: int) -> None:
    keys = torch.randint(0, 2**bits - 1, (rows, n))
    with contextlib.nullcontext() if config is None else sorting.digit_configs.forced(config):
        found = sorting.radix_order(keys.reshape(-1), bits, rows)
    assert torch.equal(found.reshape(rows, n), keys.argsort(dim=1, stable=True))


@pytest.mark.parametrize(
    "config", [None, *sorting._TILES], ids=lambda c: "-".join(map(str, c.blocks.values())) if c else ""
)
@pytest.mark.parametrize("bits", [3, 31, 63])
def test_tiles_sort_stably(config: Config | None, bits: int) -> None:
    """Rows of one tile, then rows of several whose first ones are sorted again, one tile ragged."""
    rows, n = (5, 37) if config is None else (2 * config.blocks["BLOCK_M"] + 1, config.blocks["BLOCK_N"] - 3)
    with contextlib.nullcontext() if config is None else sorting.tile_order_configs.forced(config):
        keys = torch.randint(0, 2**bits - 1, (rows, n))
        found = sorting.sort_order(keys.reshape(-1), bits, rows)
        assert torch.equal(found.reshape(rows, n), keys.argsort(dim=1, stable=True))
        keys = torch.randint(0, 2**bits - 1, (2, 2 * n + 11))
        first = sorting.first_order(keys.reshape(-1), 7, bits, 2)
        assert torch.equal(first.reshape(2, 7), keys.argsort(dim=1, stable=True)[:, :7])


def test_many_first_ones_of_long_rows() -> None:
    """More than half a tile is wanted: the rows are sorted whole."""
    keys = torch.randint(0, 9, (3, 50), dtype=torch.int32)
    with sorting.tile_order_configs.forced(Config({"BLOCK_M": 2, "BLOCK_N": 16})):
        first = sorting.first_order(keys.reshape(-1), 20, 4, 3)
    assert torch.equal(first.reshape(3, 20), keys.argsort(dim=1, stable=True)[:, :20])


def test_equal_and_largest_keys() -> None:
    keys = torch.tensor([2**63 - 1, 5, 5, 0, 2**63 - 1, 5])
    assert sorting.sort_order(keys).tolist() == [3, 1, 2, 5, 0, 4]


def test_nothing_to_sort() -> None:
    assert sorting.sort_order(torch.empty(0, dtype=torch.int64)).shape == (0,)
