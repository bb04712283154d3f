"""Scans and their gradients: what an element gives to all that come after it is summed from the end."""

from __future__ import annotations

from typing import NamedTuple

from tinyflow.autocast_mode import FULL_ON_GPU
from tinyflow.kernels import memory
from tinyflow.kernels import scan as kernels
from tinyflow.ops import arithmetic
from tinyflow.ops.creation import arange
from tinyflow.ops.define import Op, define
from tinyflow.ops.reduction import prod, sum
from tinyflow.tensor import Tensor

METHODS = ["cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"]
__all__ = ["cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"]


class RunningExtremum(NamedTuple):
    """The greatest or least elements so far along a dimension, and their positions."""

    values: Tensor
    indices: Tensor


def _sum_from_end(g: Tensor, dim: int) -> Tensor:
    """Σ over j >= i of g[j]."""
    return _cumsum(g, dim, None, True)


def _cumprod_grad(g: Tensor, x: Tensor, dim: int) -> Tensor:
    # Σ over j >= i of g[j] · Π over k <= j, k ≠ i of x[k], from a table of n³ factors: right at zeros, and of any order
    if x.dim() == 0:
        return g
    columns, g = x.transpose(dim, -1), g.transpose(dim, -1)
    n = columns.shape[-1]
    place = arange(n, device=x.device)
    i, j, k = place.reshape(n, 1, 1), place.reshape(1, n, 1), place.reshape(1, 1, n)
    counts = (k <= j) & (k != i)
    products = prod(arithmetic.where(counts, columns.unsqueeze(-2).unsqueeze(-2), 1.0), -1)
    reached = place.reshape(1, n) >= place.reshape(n, 1)
    return sum(arithmetic.where(reached, products * g.unsqueeze(-2), 0.0), -1).transpose(dim, -1)


def _cumprod_grad_without_zeros(g: Tensor, x: Tensor, y: Tensor, dim: int) -> Tensor:
    return _sum_from_end(g * y, dim) / x


def _logcumsumexp_grad(g: Tensor, x: Tensor, y: Tensor, dim: int) -> Tensor:
    # Σ over j >= i of g[j] · exp(x[i] − y[j]): exponents of j >= i are at most 0
    if x.dim() == 0:
        return g
    rows, y, g = x.transpose(dim, -1), y.transpose(dim, -1), g.transpose(dim, -1)
    n = rows.shape[-1]
    place = arange(n, device=x.device)
    reached = place.reshape(1, n) >= place.reshape(n, 1)
    share = arithmetic.where(reached, rows.unsqueeze(-1) - y.unsqueeze(-2), -float("inf")).exp()
    return sum(
        arithmetic.where(reached & (y.unsqueeze(-2) != -float("inf")), share * g.unsqueeze(-2), 0.0), -1
    ).transpose(dim, -1)


def _at_positions(g: Tensor, indices: Tensor, dim: int) -> Tensor:
    """The gradient summed where each result was taken from."""
    if g.dim() == 0:
        return g
    return (g * 0).scatter_add(dim, indices, g)


_cumsum: Op = define(
    kernels.cumsum, name="cumsum", autocast=FULL_ON_GPU, x=lambda g, dim, reverse: _cumsum(g, dim, None, not reverse)
)
_cumprod: Op = define(
    kernels.cumprod,
    name="cumprod",
    autocast=FULL_ON_GPU,
    x=lambda g, x, y, dim: (
        _cumprod_grad_without_zeros(g, x, y, dim) if not x.is_meta and not (x == 0).any() else _cumprod_grad(g, x, dim)
    ),
)
logcumsumexp: Op = define(kernels.logcumsumexp, x=lambda g, x, y, dim: _logcumsumexp_grad(g, x, y, dim))
_cummax: Op = define(kernels.cummax, outputs=("y", "indices"), x=lambda g, indices, dim: _at_positions(g, indices, dim))
_cummin: Op = define(kernels.cummin, outputs=("y", "indices"), x=lambda g, indices, dim: _at_positions(g, indices, dim))


def cumsum(input: Tensor, dim: int, *, dtype: memory.dtype | None = None) -> Tensor:
    """The sums of the elements up to each one along ``dim``."""
    return _cumsum(input, dim, dtype)


def cumprod(input: Tensor, dim: int, *, dtype: memory.dtype | None = None) -> Tensor:
    """The products of the elements up to each one along ``dim``."""
    return _cumprod(input, dim, dtype)


def cummax(input: Tensor, dim: int) -> RunningExtremum:
    """The (values, indices) of the greatest element up to each one along ``dim``; the last of equal ones."""
    return RunningExtremum(*_cummax(input, dim))


def cummin(input: Tensor, dim: int) -> RunningExtremum:
    """The (values, indices) of the least element up to each one along ``dim``; the last of equal ones."""
    return RunningExtremum(*_cummin(input, dim))
