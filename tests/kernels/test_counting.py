"""Binary search and counting in bins: more elements than a tile, every dtype, strides."""

from __future__ import annotations

import pytest
import torch

from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import counting


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8], ids=str)
@pytest.mark.parametrize("length", [1, 2, 8, 37])
def test_search(dtype: torch.dtype, length: int) -> None:
    """Sequences around powers of two, which decide how many steps the search takes; values before, in and after them."""
    sequence, values = torch.randint(2, 20, (3, length)).sort(1)[0].to(dtype), torch.randint(0, 23, (3, 50)).to(dtype)
    for right in (False, True):
        expected = torch.searchsorted(sequence, values, right=right)
        assert torch.equal(counting.searchsorted(sequence, values, right=right), expected)


def test_search_at_the_shipped_config() -> None:
    sequence, values = torch.randn(50).sort()[0], torch.randn(2 * counting._LINE.blocks["BLOCK"] + 3)
    with counting.search_configs.forced(counting._LINE):
        assert torch.equal(counting.searchsorted(sequence, values), torch.searchsorted(sequence, values))


def test_counts_at_the_shipped_config() -> None:
    n = 2 * counting._LINE.blocks["BLOCK"] + 3
    whole, x = torch.randint(0, 5, (n,), dtype=torch.int32), torch.randn(n, 2)[:, 0]
    with counting.count_configs.forced(counting._LINE):
        assert torch.equal(counting.count_integers(whole, 5), whole.bincount())
        assert torch.equal(counting.count_in_bins(x, 6, -1.0, 1.5), x.histc(6, -1.0, 1.5).long())


def test_what_lies_outside_is_not_counted() -> None:
    x = torch.tensor([float("nan"), -float("inf"), float("inf"), -1.0, 2.0, 0.0, 1.0])
    assert counting.count_in_bins(x, 2, 0.0, 1.0).tolist() == [1, 1]
    assert counting.count_integers(torch.tensor([7, -1, 0, 1, 0]), 2).tolist() == [2, 1]
    assert counting.count_integers(torch.empty(0, dtype=torch.int64), 3).tolist() == [0, 0, 0]
