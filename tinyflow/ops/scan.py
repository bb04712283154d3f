"""Scans and their gradients: what an element gives to all that come after it is summed from the end, in linear work."""

from __future__ import annotations

import math
from typing import NamedTuple

from tinyflow.autocast_mode import FULL_ON_GPU
from tinyflow.kernels import memory
from tinyflow.kernels import scan as kernels
from tinyflow.ops import arithmetic
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import cat
from tinyflow.tensor import Tensor

METHODS = ["cumsum", "cumsum_", "cumprod", "cumprod_", "logcumsumexp", "cummax", "cummin"]
__all__ = ["cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"]


class RunningExtremum(NamedTuple):
    """The greatest or least elements so far along a dimension, and their positions."""

    values: Tensor
    indices: Tensor


def _before(x: Tensor, dim: int, reverse: bool, first: float) -> Tensor:
    """What comes before each element along ``dim`` (after it, if ``reverse``), and ``first`` before the first."""
    start = Tensor._full((), first, x.dtype, x.device).expand(x.select(dim, 0).unsqueeze(dim).shape)
    n = x.shape[dim] - 1
    return cat([x.narrow(dim, 1, n), start] if reverse else [start, x.narrow(dim, 0, n)], dim)


def _recurrence_grad(
    g: Tensor, factor: Tensor, y: Tensor, dim: int, reverse: bool, shifted: bool
) -> tuple[Tensor, Tensor]:
    from_later = _recurrence(factor, g, dim, not reverse, not shifted)
    if shifted:
        return _before(from_later, dim, not reverse, 0.0) * y, from_later
    return from_later * _before(y, dim, reverse, 0.0), from_later


def _cumprod_grad(g: Tensor, x: Tensor, y: Tensor, dim: int, reverse: bool) -> Tensor:
    # The product of what comes before, times Σ over later j of g[j] · Π of what lies between: right at zeros too
    if x.dim() == 0 or not x.numel():
        return g
    return _before(y, dim, reverse, 1.0) * _recurrence(x, g, dim, not reverse, True)


def _logcumsumexp_grad(g: Tensor, x: Tensor, y: Tensor, dim: int) -> Tensor:
    # exp(x[i] − y[i]) · s[i], where s[i] = Σ over j >= i of g[j] · exp(y[i] − y[j]) is a recurrence: no exponent exceeds 0
    if x.dim() == 0 or not x.numel():
        return g
    nothing_yet = y == -math.inf
    step = arithmetic.where(nothing_yet, -math.inf, y - _before(y, dim, True, math.inf))
    share = arithmetic.where(nothing_yet, -math.inf, x - y)
    return share.exp() * _recurrence(step.exp(), g, dim, True, False)


def product_of_others(x: Tensor, dim: int) -> Tensor:
    """For each element the product of the others along ``dim``, those before it and those after it: right at zeros too."""
    if x.dim() == 0 or not x.numel():
        return Tensor._full((), 1.0, x.dtype, x.device).expand(x.shape)
    before, after = _cumprod(x, dim, None, False), _cumprod(x, dim, None, True)
    return _before(before, dim, False, 1.0) * _before(after, dim, True, 1.0)


def _at_positions(g: Tensor, indices: Tensor, dim: int) -> Tensor:
    """The gradient summed where each result was taken from."""
    if g.dim() == 0:
        return g
    return (g * 0).scatter_add(dim, indices, g)


_cumsum: Op = define(
    kernels.cumsum, name="cumsum", autocast=FULL_ON_GPU, x=lambda g, dim, reverse: _cumsum(g, dim, None, not reverse)
)
_recurrence: Op = define(kernels.recurrence, joint={("factor", "term"): _recurrence_grad})
_cumprod: Op = define(kernels.cumprod, name="cumprod", autocast=FULL_ON_GPU, x=_cumprod_grad)
logcumsumexp: Op = define(kernels.logcumsumexp, x=lambda g, x, y, dim: _logcumsumexp_grad(g, x, y, dim))
_cummax: Op = define(kernels.cummax, outputs=("y", "indices"), x=lambda g, indices, dim: _at_positions(g, indices, dim))
_cummin: Op = define(kernels.cummin, outputs=("y", "indices"), x=lambda g, indices, dim: _at_positions(g, indices, dim))


def cumsum(input: Tensor, dim: int, *, dtype: memory.dtype | None = None) -> Tensor:
    """The sums of the elements up to each one along ``dim``."""
    return _cumsum(input, dim, dtype)


def cumprod(input: Tensor, dim: int, *, dtype: memory.dtype | None = None) -> Tensor:
    """The products of the elements up to each one along ``dim``."""
    return _cumprod(_floating_as(input, dtype), dim, dtype)


def _floating_as(input: Tensor, dtype: memory.dtype | None) -> Tensor:
    """The input as the dtype that a scan is to have, where there is a gradient to keep exact."""
    return input if dtype is None or not input.dtype.is_floating_point else input.to(dtype)


def _check_inplace_dtype(op: str, self: Tensor, dtype: memory.dtype | None) -> None:
    if dtype is not None and dtype != self.dtype:
        raise RuntimeError(f"{op}: expected dtype {self.dtype}, that of the tensor written to, got {dtype}")


def cumsum_(self: Tensor, dim: int, *, dtype: memory.dtype | None = None) -> Tensor:
    """In-place :func:`cumsum`."""
    _check_inplace_dtype("cumsum_", self, dtype)
    return _cumsum.inplace(self, dim, self.dtype)


def cumprod_(self: Tensor, dim: int, *, dtype: memory.dtype | None = None) -> Tensor:
    """In-place :func:`cumprod`."""
    _check_inplace_dtype("cumprod_", self, dtype)
    return _cumprod.inplace(self, dim, self.dtype)


def cummax(input: Tensor, dim: int) -> RunningExtremum:
    """The (values, indices) of the greatest element up to each one along ``dim``; the last of equal ones."""
    return RunningExtremum(*_cummax(input, dim))


def cummin(input: Tensor, dim: int) -> RunningExtremum:
    """The (values, indices) of the least element up to each one along ``dim``; the last of equal ones."""
    return RunningExtremum(*_cummin(input, dim))
