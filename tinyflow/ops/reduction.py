"""Reductions and their gradients: a reduced dimension's gradient is spread over it again."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tinyflow.autocast_mode import FULL, FULL_ON_GPU
from tinyflow.kernels import memory
from tinyflow.kernels import reduction as kernels
from tinyflow.kernels.reduction import Dims, normalize_dims
from tinyflow.ops import arithmetic
from tinyflow.ops.creation import arange
from tinyflow.ops.define import Op, define
from tinyflow.ops.scan import product_of_others
from tinyflow.tensor import Tensor

METHODS = [
    "sum",
    "mean",
    "prod",
    "var",
    "std",
    "amax",
    "amin",
    "max",
    "min",
    "argmax",
    "argmin",
    "any",
    "all",
    "count_nonzero",
    "nansum",
    "nanmean",
    "logsumexp",
    "norm",
    "aminmax",
]  # fmt: skip
__all__ = [
    "sum",
    "mean",
    "prod",
    "var",
    "std",
    "amax",
    "amin",
    "max",
    "min",
    "argmax",
    "argmin",
    "any",
    "all",
    "count_nonzero",
    "nansum",
    "nanmean",
    "logsumexp",
    "norm",
    "aminmax",
    "var_mean",
    "std_mean",
]  # fmt: skip

Shape = tuple[int, ...]


class Extremum(NamedTuple):
    """The greatest or least elements along a dimension, and their positions."""

    values: Tensor
    indices: Tensor


class Range(NamedTuple):
    """The least and the greatest elements."""

    min: Tensor
    max: Tensor


def _keep(y: Tensor, shape: Shape, dim: Dims, keepdim: bool) -> Tensor:
    """A reduction's result or its gradient, with the reduced dimensions as 1."""
    if keepdim:
        return y
    dims = normalize_dims("reduction", dim, len(shape))
    return y.reshape(tuple(1 if k in dims else n for k, n in enumerate(shape)))


def _spread(g: Tensor, shape: Shape, dim: Dims, keepdim: bool) -> Tensor:
    return _keep(g, shape, dim, keepdim).expand(shape)


def _count(shape: Shape, dim: Dims) -> int:
    return math.prod(shape[d] for d in normalize_dims("reduction", dim, len(shape)))


def _var_grad(g: Tensor, x: Tensor, dim: Dims, correction: float, keepdim: bool) -> Tensor:
    shape = tuple(x.shape)
    freedom = _count(shape, dim) - correction
    return _spread(g * (2 / freedom if freedom > 0 else math.nan), shape, dim, keepdim) * (x - mean(x, dim, True))


def _std_grad(g: Tensor, x: Tensor, y: Tensor, dim: Dims, correction: float, keepdim: bool) -> Tensor:
    slope = arithmetic.where(y == 0, 0.0, g / (2 * y))  # constant elements: the gradient that torch gives
    return _var_grad(slope, x, dim, correction, keepdim)


def _extreme_grad(g: Tensor, x: Tensor, y: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    """The gradient in equal shares to every element that is as great (as small) as the result."""
    shape = tuple(x.shape)
    ties = (x == _keep(y, shape, dim, keepdim)).to(g.dtype)
    return _spread(g, shape, dim, keepdim) * (ties / sum(ties, dim, True))


def _choice_grad(g: Tensor, indices: Tensor, shape: Shape, dim: int, keepdim: bool) -> Tensor:
    """The gradient at the chosen positions, zeros elsewhere."""
    if not shape:
        return g
    (dim,) = normalize_dims("max", dim, len(shape))
    positions = arange(shape[dim], device=g.device).reshape(
        tuple(shape[dim] if k == dim else 1 for k in range(len(shape)))
    )
    chosen = _keep(indices, shape, dim, keepdim) == positions
    return arithmetic.where(chosen, _spread(g, shape, dim, keepdim), 0)


def _prod_grad(g: Tensor, x: Tensor, y: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    if dim is None:
        flat = x.reshape(-1)
        return _prod_grad(g.reshape(()), flat, y.reshape(()), 0, False).reshape(x.shape)
    shape = tuple(x.shape)
    if x.is_meta or not any(x == 0):
        return _spread(g * y, shape, dim, keepdim) / x
    return _spread(g, shape, dim, keepdim) * product_of_others(x, dim)


sum: Op = define(
    kernels.sum, autocast=FULL_ON_GPU, x=lambda g, x_shape, dim, keepdim: _spread(g, x_shape, dim, keepdim)
)
mean: Op = define(
    kernels.mean, x=lambda g, x_shape, dim, keepdim: _spread(g / _count(x_shape, dim), x_shape, dim, keepdim)
)
prod: Op = define(kernels.prod, autocast=FULL, x=_prod_grad)
_var = define(kernels.var, x=_var_grad)
_std = define(kernels.std, x=_std_grad)
amax = define(kernels.amax, x=_extreme_grad)
amin = define(kernels.amin, x=_extreme_grad)
argmax = define(kernels.argmax, x=None)
argmin = define(kernels.argmin, x=None)
any: Op = define(kernels.any, x=None)
all = define(kernels.all, x=None)
_max = define(
    kernels.max_with_index,
    name="max",
    outputs=("y", "indices"),
    x=lambda g, indices, x_shape, dim, keepdim: _choice_grad(g, indices, x_shape, dim, keepdim),
)
_min = define(
    kernels.min_with_index,
    name="min",
    outputs=("y", "indices"),
    x=lambda g, indices, x_shape, dim, keepdim: _choice_grad(g, indices, x_shape, dim, keepdim),
)


nansum: Op = define(
    kernels.nansum,
    x=lambda g, x, dim, keepdim: arithmetic.where(x == x, _spread(g, tuple(x.shape), dim, keepdim), 0),
)
logsumexp: Op = define(
    kernels.logsumexp,
    autocast=FULL_ON_GPU,
    x=lambda g, x, y, dim, keepdim: _logsumexp_grad(g, x, y, dim, keepdim),
)
_norm: Op = define(
    kernels.norm,
    autocast=FULL_ON_GPU,
    x=lambda g, x, y, ord, dim, keepdim: _norm_grad(g, x, y, ord, dim, keepdim),
)


def _logsumexp_grad(g: Tensor, x: Tensor, y: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    shape = tuple(x.shape)
    y = _keep(y, shape, dim, keepdim)
    return _keep(g, shape, dim, keepdim) * (x - arithmetic.where(arithmetic.isfinite(y), y, 0)).exp()


def _norm_grad(g: Tensor, x: Tensor, y: Tensor, ord: float, dim: Dims, keepdim: bool) -> Tensor:
    shape = tuple(x.shape)
    g, y = _keep(g, shape, dim, keepdim), _keep(y, shape, dim, keepdim)
    if ord == 1:
        return g * arithmetic.sign(x)
    if ord == 2:
        return arithmetic.where(y == 0, 0.0, g * x / y)
    ties = (arithmetic.abs(x) == y).to(g.dtype)
    return g * arithmetic.sign(x) * (ties / sum(ties, dim, True))


def nanmean(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: memory.dtype | None = None
) -> Tensor:
    """The mean over ``dim`` of the elements that are not NaN; NaN where there are none."""
    if not input.dtype.is_floating_point:
        raise RuntimeError(f"nanmean(): expected input to have floating point dtype but got {input.dtype}")
    return nansum(input, dim, keepdim, dtype=dtype) / sum(input == input, dim, keepdim)


def norm(
    input: Tensor,
    p: float | str | None = "fro",
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: memory.dtype | None = None,
) -> Tensor:
    """``(Σ |x|^p)^(1/p)`` over ``dim``: any order, 0 (how many are nonzero), ±infinity; "fro" is 2.

    Raises:
        NotImplementedError: for the nuclear norm.
        RuntimeError: if the input is not floating point.
    """
    if isinstance(p, str) and p != "fro":
        raise NotImplementedError(f"norm: expected a number or 'fro', got p='{p}'")
    order = 2.0 if p is None or isinstance(p, str) else float(p)
    x = input if dtype is None else input.to(dtype)
    if order in (1, 2, math.inf, -math.inf):
        return _norm(x, order, dim, keepdim)
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"norm: expected a floating-point dtype, got {x.dtype}")
    if order == 0:
        return sum((x != 0).to(x.dtype), dim, keepdim)
    zero = x == 0  # where a power has no slope
    powers = arithmetic.pow(arithmetic.abs(arithmetic.where(zero, 1.0, x)), order)
    total = sum(arithmetic.where(zero, 0.0 if order > 0 else math.inf, powers), dim, keepdim)
    nothing = total == 0
    return arithmetic.where(nothing, 0.0, arithmetic.pow(arithmetic.where(nothing, 1.0, total), 1 / order))


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Range:
    """The least and the greatest elements: (:func:`amin`, :func:`amax`)."""
    return Range(amin(input, dim, keepdim), amax(input, dim, keepdim))


def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The greatest element; with ``dim`` the (values, indices) along it; with a tensor in its place the elementwise
    maximum.

    Without ``dim`` equal elements share the gradient; with it the element at ``indices``, the first, has it all.
    """
    if isinstance(dim, Tensor):
        return arithmetic.maximum(input, dim)
    return amax(input) if dim is None else Extremum(*_max(input, dim, keepdim))


def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The least element; as :func:`max`."""
    if isinstance(dim, Tensor):
        return arithmetic.minimum(input, dim)
    return amin(input) if dim is None else Extremum(*_min(input, dim, keepdim))


def _spread_arguments(dim: Dims | bool, unbiased: bool | None, correction: float | None) -> tuple[Dims, float]:
    """torch's ``var(x, unbiased)``, ``var(x, dim, unbiased)`` and ``var(x, dim, correction=)``."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise TypeError("expected one of unbiased= and correction=, got both")
    if unbiased is not None:
        correction = 1 if unbiased else 0
    return dim, 1 if correction is None else correction


def var(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance over ``dim``: squared deviations from the mean over ``n − correction`` (1 unless given)."""
    dim, correction = _spread_arguments(dim, unbiased, correction)
    return _var(input, dim, correction, keepdim)


def std(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The standard deviation over ``dim``; as :func:`var`."""
    dim, correction = _spread_arguments(dim, unbiased, correction)
    return _std(input, dim, correction, keepdim)


def var_mean(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(:func:`var`, :func:`mean`)."""
    dim, correction = _spread_arguments(dim, unbiased, correction)
    return _var(input, dim, correction, keepdim), mean(input, dim, keepdim)


def std_mean(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(:func:`std`, :func:`mean`)."""
    dim, correction = _spread_arguments(dim, unbiased, correction)
    return _std(input, dim, correction, keepdim), mean(input, dim, keepdim)


def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements over ``dim`` are nonzero."""
    return sum(input != 0, dim)
