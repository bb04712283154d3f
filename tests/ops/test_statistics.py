"""Weighted covariances, joined differences, and the errors of wrong calls."""

from __future__ import annotations

import contextlib

import pytest
import torch

import tinyflow

X = torch.randn(3, 7, dtype=torch.float64)
TIMES = torch.tensor([1, 2, 1, 3, 1, 1, 2])
IMPORTANCE = torch.rand(7, dtype=torch.float64)


def _ours(x: torch.Tensor | None) -> tinyflow.Tensor | None:
    return None if x is None else tinyflow.from_torch(x.clone())


@pytest.mark.parametrize("correction", [0, 1, 20])
def test_weighted_covariance(correction: int) -> None:
    for times, importance in [(TIMES, None), (None, IMPORTANCE), (TIMES, IMPORTANCE)]:
        if correction == 20 and importance is not None:
            continue
        found = tinyflow.cov(_ours(X), correction=correction, fweights=_ours(times), aweights=_ours(importance))
        with pytest.warns(UserWarning, match="degrees of freedom") if correction == 20 else contextlib.nullcontext():
            expected = torch.cov(X, correction=correction, fweights=times, aweights=importance)
        torch.testing.assert_close(found.to_torch(), expected)


def test_integers_lift_and_one_variable_correlates_with_itself() -> None:
    whole = (X * 4).round().long()
    torch.testing.assert_close(tinyflow.cov(_ours(whole)).to_torch(), torch.cov(whole))
    assert tinyflow.corrcoef(_ours(X[0])).item() == 1.0


def test_differences_with_joined_ends() -> None:
    found = tinyflow.diff(_ours(X), 2, 1, _ours(X[:, :1]), _ours(X))
    torch.testing.assert_close(found.to_torch(), torch.diff(X, 2, 1, X[:, :1], X))


def test_errors() -> None:
    x = _ours(X)
    with pytest.raises(RuntimeError, match="order must be non-negative but got -1"):
        tinyflow.diff(x, -1)
    with pytest.raises(RuntimeError, match="at least one-dimensional"):
        tinyflow.diff(tinyflow.tensor(1.0))
    with pytest.raises(RuntimeError, match="one `x` value for each sample point"):
        tinyflow.trapezoid(x, tinyflow.zeros(5))
    with pytest.raises(TypeError, match="expected one of x= and dx=, got both"):
        tinyflow.trapezoid(x, x, dx=1)
    with pytest.raises(RuntimeError, match=r"cumulative_trapezoid\(\): received a bool input"):
        tinyflow.cumulative_trapezoid(x > 0)
    with pytest.raises(RuntimeError, match="two or fewer dimensions but got 3"):
        tinyflow.cov(x.reshape(1, 3, 7))
    with pytest.raises(RuntimeError, match="expected fweights to be a vector of 7 integers, got torch.float64"):
        tinyflow.cov(x, fweights=x[0])
    with pytest.raises(RuntimeError, match="expected aweights to be a vector of 7 floating-point numbers"):
        tinyflow.cov(x, aweights=_ours(TIMES))
