"""Distinct elements, places in sorted sequences and counts against torch; one_hot; the errors of wrong calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tinyflow
from tinyflow.nn import functional

NAN = float("nan")
WORDS = torch.tensor([[1, 2], [1, 2], [0, 3], [1, 2], [0, 3]])
LINE = torch.tensor([2.0, 2.0, -0.0, 0.0, 1.0, 2.0, float("inf")])


def _in(library: Any, x: Any) -> Any:
    return tinyflow.from_torch(x.clone()) if library is tinyflow and isinstance(x, torch.Tensor) else x


def _agree(function: Callable[..., Any], *inputs: Any) -> None:
    """Equal results, one or several, in both libraries."""
    found, expected = (function(m, *[_in(m, x) for x in inputs]) for m in (tinyflow, torch))
    several = isinstance(expected, tuple)
    for mine, their in zip(found if several else (found,), expected if several else (expected,), strict=True):
        assert mine.dtype == their.dtype
        torch.testing.assert_close(mine.to_torch(), their, equal_nan=True)


@pytest.mark.parametrize("name", ["unique", "unique_consecutive"])
def test_unique(name: str) -> None:
    for x, dim in [(LINE, None), (WORDS, None), (WORDS, 0), (WORDS, 1), (LINE.half(), 0), (WORDS == 1, None)]:
        _agree(lambda m, a, dim=dim: getattr(m, name)(a, return_inverse=True, return_counts=True, dim=dim), x)
    _agree(lambda m, a: getattr(m, name)(a), WORDS.t())
    _agree(lambda m, a: getattr(m, name)(a, return_counts=True), torch.tensor([1, NAN, NAN, 1]))
    for empty, dim in [(torch.empty(0), None), (torch.empty(0), 0), (torch.empty(0, 3), 0)]:
        _agree(lambda m, a, dim=dim: getattr(m, name)(a, return_inverse=True, return_counts=True, dim=dim), empty)
    with pytest.raises(RuntimeError, match="There are 0 sized dimensions"):
        getattr(tinyflow, name)(tinyflow.empty(3, 0), dim=0)


@pytest.mark.parametrize("right", [False, True])
def test_searchsorted(right: bool) -> None:
    sequence, values = torch.tensor([1.0, 2, 2, 3, NAN]), torch.tensor([[0.0, 2, 2.5], [3, 9, NAN]])
    rows = torch.randn(3, 7).sort()[0]
    for out_int32 in (False, True):
        _agree(lambda m, a, v, o=out_int32: m.searchsorted(a, v, right=right, out_int32=o), sequence, values)
        _agree(lambda m, a, v, o=out_int32: m.bucketize(v, a, right=right, out_int32=o), sequence, values)
    _agree(lambda m, a, v: m.searchsorted(a, v, right=right), rows, rows[:, 1:6:2].contiguous())
    mixed = torch.randn(3, 7)
    _agree(
        lambda m, a, v, o: m.searchsorted(a, v, right=right, sorter=o), mixed, rows[:, :2].contiguous(), mixed.argsort()
    )
    _agree(lambda m, a: m.searchsorted(a, 2.5, right=right), torch.arange(5))
    _agree(lambda m, a, v: m.searchsorted(a, v, right=right), torch.arange(5), torch.tensor([0.5, 4.0]))
    _agree(lambda m, a, v: m.searchsorted(a, v, right=right), torch.empty(0), values)


def test_searchsorted_errors() -> None:
    rows = tinyflow.zeros(3, 4)
    with pytest.raises(RuntimeError, match="side and right can't be set to opposites"):
        tinyflow.searchsorted(rows, rows, side="left", right=True)
    with pytest.raises(RuntimeError, match=r"must match, but we got boundaries tensor \[3, 4\]"):
        tinyflow.searchsorted(rows, tinyflow.zeros(2, 4))
    with pytest.raises(RuntimeError, match="scalar only when boundaries tensor dimension is 1"):
        tinyflow.searchsorted(rows, 1.0)
    with pytest.raises(RuntimeError, match="boundary and sorter must have the same size"):
        tinyflow.searchsorted(rows[0], rows, sorter=tinyflow.tensor([0, 1]))
    if not tinyflow.gpu_available():
        for place in (4, -1):
            sorter = tinyflow.tensor([0, 1, 2, place])
            with pytest.raises(RuntimeError, match=rf"sorter index out of range: .* \[0, 4\), got {place}"):
                tinyflow.searchsorted(rows[0], rows, sorter=sorter)
    with pytest.raises(RuntimeError, match="boundaries tensor must be 1 dimension"):
        tinyflow.bucketize(1.0, rows)


def test_bincount() -> None:
    x = torch.tensor([1, 4, 1, 0])
    for function in (lambda m, a: m.bincount(a), lambda m, a: m.bincount(a, minlength=9)):
        _agree(function, x)
        _agree(function, x[:0])
        _agree(function, torch.arange(8, dtype=torch.uint8)[1::3])
    for weights in (torch.rand(4), torch.rand(4).double(), torch.arange(4)):
        _agree(lambda m, a, w: m.bincount(a, w), x, weights)
    with pytest.raises(RuntimeError, match="1-d non-negative integral inputs, got -1"):
        tinyflow.bincount(tinyflow.tensor([0, -1]))
    with pytest.raises(RuntimeError, match="weights should be 1-d and have the same length as input"):
        tinyflow.bincount(tinyflow.tensor([0, 1]), tinyflow.ones(3))


def test_histc() -> None:
    for x in (torch.randn(5, 7), torch.randn(9).double(), torch.ones(3), torch.empty(0), torch.tensor([NAN, 1.0, 2.0])):
        if not x.isnan().any():
            _agree(lambda m, a: m.histc(a, 4), x)
        _agree(lambda m, a: m.histc(a.t() if a.dim() == 2 else a, 7, -1, 1), x)
    with pytest.raises(RuntimeError, match=r"range of \[nan, nan\] is not finite"):
        tinyflow.histc(tinyflow.tensor([NAN, 1.0]))
    with pytest.raises(RuntimeError, match="max must be larger than min"):
        tinyflow.histc(tinyflow.ones(2), 3, 1, 0)
    with pytest.raises(RuntimeError, match="bins must be > 0"):
        tinyflow.histc(tinyflow.ones(2), 0)


def test_histogram() -> None:
    for x in (torch.randn(5, 7), torch.randn(9).double(), torch.ones(3), torch.empty(0)):
        weight = torch.rand(x.shape, dtype=x.dtype)
        _agree(lambda m, a: m.histogram(a, 4, range=(-1.0, 1.0), density=True), x)
        _agree(lambda m, a, w: m.histogram(a, 3, weight=w), x, weight)
        _agree(lambda m, a, e: m.histogram(a, e), x, torch.tensor([-1.0, 0, 0.5, 2], dtype=x.dtype))


@pytest.mark.parametrize("bins", [0, tinyflow.tensor([1.0])], ids=["none", "one edge"])
def test_a_histogram_has_a_bin(bins: Any) -> None:
    with pytest.raises(RuntimeError, match="bins must be > 0, got 0"):
        tinyflow.histogram(tinyflow.tensor([1.0, 2.0]), bins)


def test_isin() -> None:
    x = torch.tensor([[0, 3, 2], [1, 2, 5]])
    for tests in (torch.tensor([1, 3]), torch.tensor([[1.0, 3.5]]), torch.empty(0), 2):
        for invert in (False, True):
            _agree(lambda m, a, b, i=invert: m.isin(a, b, invert=i), x, tests)
    _agree(lambda m, b: m.isin(2, b), x)
    found = tinyflow.isin(tinyflow.tensor([NAN, float("inf"), 1.0]), tinyflow.tensor([NAN, float("inf"), -1.0]))
    assert found.tolist() == [False, True, False]


def test_one_hot() -> None:
    x = torch.tensor([[0, 2], [1, 2]])
    for a in (x, x[0, 1]):
        _agree(lambda m, a: m.nn.functional.one_hot(a), a)
        _agree(lambda m, a: m.nn.functional.one_hot(a, num_classes=5), a)
    _agree(lambda m, a: m.nn.functional.one_hot(a, num_classes=3), x[:0])
    for wrong, message in [
        (tinyflow.tensor([-1]), "non-negative, got -1"),
        (tinyflow.tensor([3]), "smaller than num_classes, got 3 for 2"),
        (tinyflow.tensor([1.0]), "only applicable to index tensor of type LongTensor, got torch.float32"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            functional.one_hot(wrong, 2)
    with pytest.raises(RuntimeError, match="Can not infer total number of classes from empty tensor"):
        functional.one_hot(tinyflow.tensor([], dtype=tinyflow.int64))
