"""Prefix sums and the radix sort, in one tile and in many."""

from __future__ import annotations

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


@pytest.mark.parametrize("config", [None, SMALL, sorting._RADIX], ids=["interpreter", "small tiles", "shipped"])
@pytest.mark.parametrize(("n", "bits"), [(1, 3), (2, 1), (100, 3), (2051, 11), (300, 40)])
def test_sorts_stably(config: Config | None, n: int, bits: int) -> None:
    keys = torch.randint(0, 2**bits, (n,))
    expected = keys.argsort(stable=True)
    if config is None:
        assert torch.equal(sorting.sort_order(keys, bits), expected)
    else:
        with sorting.digit_configs.forced(config):
            assert torch.equal(sorting.sort_order(keys, bits), expected)


def test_equal_and_largest_keys() -> None:
    keys = torch.tensor([2**63 - 1, 5, 5, 0, 2**63 - 1, 5])
    assert sorting.sort_order(keys).tolist() == [3, 1, 2, 5, 0, 4]


def test_nothing_to_sort() -> None:
    assert sorting.sort_order(torch.empty(0, dtype=torch.int64)).shape == (0,)
