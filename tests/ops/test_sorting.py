"""Positions as torch's where it promises them, dtypes, and the errors of wrong calls; values and gradients are cases."""

from __future__ import annotations

import pytest
import torch

import tinyflow

NAN = float("nan")
X = torch.tensor([[2.0, NAN, -0.0, 0.0, float("inf"), 2.0, NAN], [1.0, 1.0, 0.0, 1.0, 0.0, -float("inf"), 1.0]])
DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _ours(x: torch.Tensor) -> tinyflow.Tensor:
    return tinyflow.from_torch(x.clone())


@pytest.mark.parametrize("descending", [False, True])
def test_sort_is_stable_and_puts_nan_last(descending: bool) -> None:
    values, indices = tinyflow.sort(_ours(X), descending=descending)
    expected = torch.sort(X, stable=True, descending=descending)
    torch.testing.assert_close(values.to_torch(), expected.values, equal_nan=True)
    assert indices.tolist() == expected.indices.tolist()
    assert tinyflow.argsort(_ours(X), 1, descending).tolist() == expected.indices.tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.tensor([[3, 1, 120], [2, 3, 3]]).to(dtype)
    for dim in (0, 1):
        values, indices = tinyflow.sort(_ours(x), dim, True)
        assert values.dtype == dtype and torch.equal(values.to_torch(), x.sort(dim, True)[0])
        assert indices.tolist() == x.sort(stable=True, dim=dim, descending=True)[1].tolist()
        assert torch.equal(tinyflow.median(_ours(x), dim).values.to_torch(), x.median(dim).values)
    assert tinyflow.median(_ours(x)).item() == 3
    assert tinyflow.topk(_ours(x), 2, largest=False).values.tolist() == [[1, 3], [2, 3]]


def test_the_median_of_rows_with_nan_is_the_first_of_them() -> None:
    assert tinyflow.median(_ours(X), 1).indices.tolist() == X.median(1).indices.tolist()
    assert tinyflow.nanmedian(_ours(X[:1]), 1).indices.tolist() == [0]


def test_equal_elements_share_the_gradient_of_the_median() -> None:
    x = _ours(torch.tensor([2.0, 1.0, 2.0, 3.0, 2.0])).requires_grad_()
    tinyflow.median(x).backward()
    assert x.grad.tolist() == [pytest.approx(1 / 3), 0.0, pytest.approx(1 / 3), 0.0, pytest.approx(1 / 3)]


def test_mode_gives_the_last_position() -> None:
    x = torch.tensor([[1.0, 2.0, 2.0, 1.0, 5.0], [0.0, 0.0, -1.0, -1.0, -1.0]])
    values, indices = tinyflow.mode(_ours(x))
    assert (values.tolist(), indices.tolist()) == (x.mode().values.tolist(), x.mode().indices.tolist())


def test_quantile_of_rows_with_nan() -> None:
    for q in (0.25, torch.tensor([0.0, 0.6])):
        mine = tinyflow.quantile(_ours(X), _ours(q) if isinstance(q, torch.Tensor) else q, 1, True)
        torch.testing.assert_close(mine.to_torch(), X.quantile(q, 1, True), equal_nan=True)


def test_0_dimensional_and_empty() -> None:
    one = _ours(torch.tensor(2.5))
    for found in (tinyflow.sort(one), tinyflow.median(one, 0), tinyflow.mode(one), tinyflow.kthvalue(one, 1)):
        assert (found.values.tolist(), found.indices.tolist()) == (2.5, 0)
    for k in (0, 1):
        assert tinyflow.topk(one, k).values.tolist() == torch.tensor(2.5).topk(k).values.tolist()
    assert tinyflow.median(tinyflow.empty(0)).isnan().item()
    assert tinyflow.sort(tinyflow.empty(2, 0)).indices.shape == (2, 0)


def test_errors() -> None:
    x = tinyflow.zeros(3, 4)
    with pytest.raises(RuntimeError, match="selected index k out of range: got k=5 for a dimension of 4"):
        tinyflow.topk(x, 5)
    with pytest.raises(RuntimeError, match="selected number k out of range for dimension -1: got k=0 of 4"):
        tinyflow.kthvalue(x, 0)
    with pytest.raises(IndexError, match="dimension out of range"):
        tinyflow.sort(x, 2)
    with pytest.raises(IndexError, match=r"median\(\): Expected reduction dim 1 to have non-zero size"):
        tinyflow.median(tinyflow.empty(2, 0), 1)
    with pytest.raises(RuntimeError, match=r"q must be in the range \[0, 1\] but got 1.5"):
        tinyflow.quantile(x, 1.5)
    with pytest.raises(RuntimeError, match="either float or double dtype, got torch.float16"):
        tinyflow.quantile(x.half(), 0.5)
    with pytest.raises(RuntimeError, match="interpolation must be one of linear, lower, higher"):
        tinyflow.quantile(x, 0.5, interpolation="cubic")
