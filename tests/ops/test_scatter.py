"""Scattering with reductions, and writing along a dimension: values, both derivatives, in-place forms, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow
from tinyflow.autograd import gradcheck, gradgradcheck

SHARED = torch.tensor([[0, 0, 2], [1, 1, 1], [3, 0, 0]])  # places of several elements, of one, and of none
APART = torch.tensor([[0, 2, 1], [3, 1, 0], [2, 3, 1]])
POSITIONS = torch.tensor([3, 0, 1])
REDUCTIONS = ("sum", "prod", "mean", "amax", "amin")


def _in(library: Any, x: torch.Tensor) -> Any:
    return tinyflow.from_torch(x.clone()) if library is tinyflow else x.clone()


def _agree(function: Callable[..., Any], *inputs: torch.Tensor, rtol: float = 1e-6) -> None:
    """Equal results, dtypes and shapes in both libraries."""
    found = function(tinyflow, *[_in(tinyflow, x) for x in inputs]).to_torch()
    expected = function(torch, *[_in(torch, x) for x in inputs])
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol, equal_nan=True)


def _differentiate(function: Callable[..., Any], *inputs: torch.Tensor, second: bool = True) -> None:
    """Gradients as torch's, and both derivatives numerically."""
    ours = [_in(tinyflow, x).requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    y, expected = function(tinyflow, *ours), function(torch, *theirs)
    g = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    wanted = torch.autograd.grad(expected, theirs, g)
    for mine, their in zip(tinyflow.autograd.grad(y, ours, _in(tinyflow, g)), wanted):
        torch.testing.assert_close(mine.to_torch(), their)
    assert gradcheck(lambda *xs: function(tinyflow, *xs), ours, fast_mode=True)
    assert not second or gradgradcheck(lambda *xs: function(tinyflow, *xs), ours, fast_mode=True)


def _random(*shape: int) -> torch.Tensor:
    n = int(np.prod(shape))
    return ((torch.randperm(n) - n / 2 + 0.3) / 4).double().reshape(shape)  # apart: extremes keep their place


@pytest.mark.parametrize("include_self", [True, False], ids=["with self", "alone"])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_scatter_reduce(reduce: str, include_self: bool) -> None:
    def function(m: Any, x: Any, source: Any) -> Any:
        return m.scatter_reduce(x, 1, _in(m, SHARED), source, reduce, include_self=include_self)

    def in_place(m: Any, x: Any, source: Any) -> Any:
        return x.t().scatter_reduce_(0, _in(m, SHARED.t()), source.t(), reduce, include_self=include_self)

    x, source = _random(3, 4), _random(3, 3)
    _differentiate(function, x, source)
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.uint8):
        whole = (x * 4).abs().round().to(dtype), (source * 4).abs().round().to(dtype)
        _agree(function, *whole, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    source[1, 1] = float("nan")
    _agree(function, x, source)
    _agree(in_place, x, source)


def test_products_with_zeros() -> None:
    """One zero in a place, two, and one in what stood there."""
    x, source = _random(3, 4), _random(3, 3)
    source[0, 1] = source[1, 0] = source[1, 2] = x[2, 0] = 0
    _differentiate(lambda m, a, b: m.scatter_reduce(a, 1, _in(m, SHARED), b, "prod"), x, source, second=False)


def test_shared_extremes_share_the_gradient() -> None:
    x, source = torch.tensor([1.0, 5.0, 2.0]).double(), torch.tensor([5.0, 5.0, 1.0, 2.0]).double()
    index = torch.tensor([1, 1, 0, 2])
    ours, values = _in(tinyflow, x).requires_grad_(), _in(tinyflow, source).requires_grad_()
    tinyflow.scatter_reduce(ours, 0, _in(tinyflow, index), values, "amax").sum().backward()
    assert ours.grad.tolist() == [0.5, pytest.approx(1 / 3), 0.5]
    assert values.grad.tolist() == [pytest.approx(1 / 3), pytest.approx(1 / 3), 0.5, 0.5]


@pytest.mark.parametrize("reduce", ["add", "multiply"])
@pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter")
def test_scatter_with_reduce(reduce: str) -> None:
    x, source = _random(3, 4), _random(3, 3)
    _agree(lambda m, a, b: m.scatter(a, 1, _in(m, SHARED), b, reduce=reduce), x, source)
    _agree(lambda m, a: a.scatter_(1, _in(m, SHARED), 2.5, reduce=reduce), x)


@pytest.mark.filterwarnings("ignore:index_reduce")
def test_index_reduce() -> None:
    x, source, index = _random(3, 4), _random(3, 3), torch.tensor([0, 2, 2])
    for reduce in ("prod", "mean", "amax", "amin"):
        _agree(lambda m, a, b, r=reduce: a.index_reduce_(1, _in(m, index), b, r), x, source)
    function = lambda m, a, b: m.index_reduce(a, 1, _in(m, index), b, "mean", include_self=False)  # noqa: E731
    _differentiate(function, x, source, second=False)


ALONG = {
    "index_copy": lambda m, a, b: m.index_copy(a, 1, _in(m, POSITIONS), b),
    "index_add, alpha": lambda m, a, b: m.index_add(a, 1, _in(m, POSITIONS), b, alpha=2),
    "index_fill": lambda m, a, b: m.index_fill(a, 1, _in(m, POSITIONS), 2.5) + b.sum(),
    "index_fill, tensor": lambda m, a, b: m.index_fill(a, 0, _in(m, POSITIONS[1:]), b[0, 0]),
    "put": lambda m, a, b: a.put(_in(m, torch.tensor([0, -1, 5])), b[0]),
    "put, accumulate": lambda m, a, b: a.put(_in(m, torch.tensor([5, -1, 5])), b[0], accumulate=True),
    "take": lambda m, a, b: m.take(a, _in(m, torch.tensor([[0, -1], [5, 5]]))) + b[0, 0],
    "take_along_dim": lambda m, a, b: m.take_along_dim(a, _in(m, torch.tensor([[0], [1], [3]])), 1) * b,
    "take_along_dim, flat": lambda m, a, b: m.take_along_dim(a, _in(m, torch.tensor([0, 2, 11]))) * b,
    "masked_scatter": lambda m, a, b: m.masked_scatter(a, _in(m, APART.sum(1, True) > 4), b.reshape(-1)),
    "scatter": lambda m, a, b: m.scatter(a, 1, _in(m, APART), b),
    "scatter, value": lambda m, a, b: m.scatter(a, 1, _in(m, APART), value=2.0) * b.sum(),
}


@pytest.mark.parametrize("name", ALONG)
def test_along_a_dimension(name: str) -> None:
    x, source = _random(3, 4), _random(3, 3)
    if name == "masked_scatter":
        source = _random(4, 4)
    _agree(ALONG[name], x, source)
    _differentiate(ALONG[name], x, source)


def test_a_larger_source_has_a_gradient_where_it_is_read() -> None:
    x, source = _in(tinyflow, _random(3, 4)).requires_grad_(), _in(tinyflow, _random(3, 4)).requires_grad_()
    tinyflow.scatter_add(x, 1, _in(tinyflow, SHARED[:2, :2]), source).sum().backward()
    assert source.grad.tolist() == [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0] * 4]


def test_in_place() -> None:
    x, source = _random(3, 4), _random(3, 3)
    _agree(lambda m, a, b: a.t().index_copy_(0, _in(m, POSITIONS), b.t()), x, source)
    _agree(lambda m, a: a.index_fill_(1, _in(m, POSITIONS), 3), x)
    _agree(lambda m, a, b: a.put_(_in(m, POSITIONS), b[0], accumulate=True), x, source)
    _agree(lambda m, a, b: a.masked_scatter_(_in(m, x[:1] > 0), b), x, _random(4, 4))
    _agree(lambda m, a, b: a.index_add_(1, _in(m, POSITIONS), b, alpha=3), x, source)
    _agree(lambda m, a: a.cumsum_(0), x)
    _agree(lambda m, a: a.cumprod_(1), x)
    _agree(lambda m, a: a.cumsum_(0), POSITIONS.int())


def test_0_dimensional() -> None:
    one, zero = torch.tensor(1.5), torch.tensor([0])
    _agree(lambda m, a: m.index_copy(a, 0, _in(m, zero), a + 1), one)
    _agree(lambda m, a: m.index_fill(a, 0, _in(m, zero), 3.0), one)
    _agree(lambda m, a: m.take(a, _in(m, zero)), one)
    _agree(lambda m, a: m.argwhere(a), one)


def test_where_of_a_condition() -> None:
    for found, expected in zip(tinyflow.where(_in(tinyflow, APART > 1)), torch.where(APART > 1)):
        assert found.tolist() == expected.tolist()


def test_errors() -> None:
    x, index = tinyflow.zeros(3, 4), _in(tinyflow, SHARED)
    with pytest.raises(RuntimeError, match="reduce argument must be either sum, prod, mean, amax, amin, got 'max'"):
        tinyflow.scatter_reduce(x, 1, index, x, "max")
    with pytest.raises(RuntimeError, match="reduce argument must be either add or multiply, got 'sum'"):
        tinyflow.scatter(x, 1, index, 1.0, reduce="sum")
    with pytest.raises(TypeError, match="expected one of src= and value=, got neither"):
        tinyflow.scatter(x, 1, index)
    with pytest.raises(IndexError, match=r"Number of indices \(3\) should be equal to source.size\(dim\) \(4\)"):
        tinyflow.index_copy(x, 1, _in(tinyflow, POSITIONS), x)
    with pytest.raises(RuntimeError, match="same dtype, got torch.float32, torch.float64"):
        x.put_(_in(tinyflow, POSITIONS), tinyflow.zeros(3, dtype=tinyflow.float64))
    with pytest.raises(RuntimeError, match="a source of at least 12 elements, as the mask has, got 3"):
        tinyflow.masked_scatter(x, x == 0, tinyflow.zeros(3))
    with pytest.raises(RuntimeError, match="Expected a long tensor for index, but got torch.float32"):
        tinyflow.take(x, tinyflow.zeros(2))
    with pytest.raises(IndexError, match="index 12 is out of bounds"):
        tinyflow.take(x, tinyflow.tensor([12]))
    with pytest.raises(RuntimeError, match="same number of dimensions, but got 2 dimensions for input, and 1"):
        tinyflow.take_along_dim(x, _in(tinyflow, POSITIONS), 1)
    with pytest.raises(RuntimeError, match="cumsum_: expected dtype torch.float32"):
        x.cumsum_(0, dtype=tinyflow.float64)
