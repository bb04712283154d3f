"""Sorting and what is read off an order: topk, kthvalue, median, mode, quantile. Gradients go where elements came from."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import elementwise, memory
from tinyflow.kernels import ordering as kernels
from tinyflow.kernels.memory import Buffer
from tinyflow.ops import arithmetic
from tinyflow.ops.creation import arange
from tinyflow.ops.define import Op, define
from tinyflow.ops.scan import cummax
from tinyflow.ops.scatter import gather
from tinyflow.ops.shape import cat, dimension
from tinyflow.tensor import Tensor

METHODS = [
    "sort", "argsort", "msort", "topk", "kthvalue", "median", "nanmedian", "mode", "quantile", "nanquantile",
]  # fmt: skip
__all__ = [
    "sort", "argsort", "msort", "topk", "kthvalue", "median", "nanmedian", "mode", "quantile", "nanquantile",
]  # fmt: skip


class Ordered(NamedTuple):
    """Elements chosen by their order along a dimension, and where they stood."""

    values: Tensor
    indices: Tensor


def _value_of(x: Buffer, value: Buffer) -> Buffer:
    return elementwise.copy(value)


_sort: Op = define(
    kernels.sort,
    outputs=("values", "indices"),
    x=lambda g, dim, indices, x_shape: spread(g, dim, indices, x_shape),
)
_topk: Op = define(
    kernels.topk,
    outputs=("values", "indices"),
    x=lambda g, dim, indices, x_shape: spread(g, dim, indices, x_shape),
)
pick: Op = define(kernels.pick, x=lambda g, dim, positions, x_shape: spread(g, dim, positions, x_shape), positions=None)
spread: Op = define(kernels.spread, grad=lambda g, dim, positions: pick(g, dim, positions), positions=None)
_shared_value: Op = define(_value_of, name="median", x=lambda g, x, y: _share_among_equals(g, x, y), value=None)


def _share_among_equals(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient in equal shares to every element that is the result, NaN included."""
    equal = arithmetic.logical_or(x == y, arithmetic.logical_and(x != x, y != y)).to(g.dtype)
    return g * (equal / equal.sum())


def sort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> Ordered:
    """The elements along ``dim`` in order and the positions that they came from; always stable. NaN counts as greatest."""
    return Ordered(*_sort(input, dim, descending))


def argsort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Tensor:
    """The positions that sort ``input`` along ``dim``."""
    return _sort(input.detach(), dim, descending)[1]


def msort(input: Tensor) -> Tensor:
    """The elements in ascending order along the first dimension."""
    return _sort(input, 0, False)[0]


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Ordered:
    """The ``k`` greatest (or least) elements along ``dim`` and their positions, from the greatest (least) on.

    They are in order with ``sorted=False`` too, which leaves the order open.
    """
    return Ordered(*_topk(input, operator.index(k), dim, largest))


def _squeezed(values: Tensor, indices: Tensor, dim: int, keepdim: bool) -> Ordered:
    if keepdim or values.dim() == 0:
        return Ordered(values, indices)
    return Ordered(values.squeeze(dim), indices.squeeze(dim))


def _length(op: str, input: Tensor, dim: int) -> int:
    """The size of a dimension that must have elements."""
    d = dimension(op, dim, input.dim())
    n = input.shape[d] if input.dim() else 1
    if n == 0:
        raise IndexError(f"{op}(): Expected reduction dim {d} to have non-zero size.")
    return n


def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Ordered:
    """The ``k``-th least element along ``dim`` (from 1) and its position.

    Raises:
        RuntimeError: if the dimension has fewer than ``k`` elements.
    """
    n, k = _length("kthvalue", input, dim), operator.index(k)
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {dim}: got k={k} of {n} elements")
    order = _topk(input.detach(), k, dim, False)[1]
    indices = order.narrow(dim, k - 1, 1) if input.dim() else order
    return _squeezed(pick(input, dim, indices), indices, dim, keepdim)


def _nan_count(input: Tensor, dim: int) -> Tensor | int:
    return (input != input).sum(dim, keepdim=True) if input.dtype.is_floating_point else 0


def _middle(input: Tensor, dim: int, ignore_nan: bool) -> Tensor:
    """The position of the lower median along ``dim``, which is kept; that of the first NaN unless NaNs are ignored."""
    n, nans = input.shape[dim], _nan_count(input, dim)
    order = argsort(input, dim)
    if isinstance(nans, int):
        return order.narrow(dim, (n - 1) // 2, 1)
    if ignore_nan:
        place = arithmetic.clamp(arithmetic.floor_divide(n - nans - 1, 2), min=0)
    else:
        place = arithmetic.where(nans > 0, n - nans, (n - 1) // 2)
    return pick(order, dim, place)


def _median(op: str, input: Tensor, dim: int | None, keepdim: bool, ignore_nan: bool) -> Any:
    if dim is None:
        if input.numel() == 0:
            if not input.dtype.is_floating_point:
                raise RuntimeError(
                    f"{op}: expected elements, got an empty tensor of dtype {input.dtype}, which has no NaN"
                )
            return Tensor._full((), float("nan"), input.dtype, input.device)
        with no_grad():
            flat = input.reshape(-1)
            value = pick(flat, 0, _middle(flat, 0, ignore_nan)).reshape(())
        return _shared_value(input, value)
    _length(op, input, dim)
    with no_grad():
        indices = _middle(input if input.dim() else input.reshape(1), dim, ignore_nan)
        indices = indices if input.dim() else indices.reshape(())
    return _squeezed(pick(input, dim, indices), indices, dim, keepdim)


def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median of all elements, or the (values, indices) along ``dim``: of an even number the lower of the middle ones.

    A NaN is the result where there is one. Without ``dim`` equal elements share the gradient.
    """
    return _median("median", input, dim, keepdim, False)


def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """:func:`median` of the elements that are not NaN; NaN where there are none."""
    return _median("nanmedian", input, dim, keepdim, True)


def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Ordered:
    """The most frequent element along ``dim``, the least of several, and the last position where it stands.

    Each NaN counts as an element of its own, greater than every number.
    """
    _length("mode", input, dim)
    with no_grad():
        x = input if input.dim() else input.reshape(1)
        d = dimension("mode", dim, x.dim())
        values, order = _sort(x, d, False)
        n = x.shape[d]
        changes = values.narrow(d, 1, n - 1) != values.narrow(d, 0, n - 1)
        place = arange(n, device=x.device).reshape([n if k == d else 1 for k in range(x.dim())]).expand(x.shape)
        start = arithmetic.where(cat([changes.narrow(d, 0, 0), changes], d), place.narrow(d, 1, n - 1), 0)
        start = cummax(cat([place.narrow(d, 0, 1), start], d), d).values
        last = (place - start).argmax(d, keepdim=True)
        indices = pick(order, d, last)
        indices = indices if input.dim() else indices.reshape(())
    return _squeezed(pick(input, dim, indices), indices, dim, keepdim)


_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _checked_q(op: str, input: Tensor, q: float | Tensor, interpolation: str) -> Tensor:
    if interpolation not in _INTERPOLATIONS:
        raise RuntimeError(
            f"{op}() interpolation must be one of {', '.join(_INTERPOLATIONS)}, but got {interpolation!r}"
        )
    if input.dtype not in (memory.float32, memory.float64):
        raise RuntimeError(f"{op}() input tensor must be either float or double dtype, got {input.dtype}")
    if input.numel() == 0:
        raise RuntimeError(f"{op}() input tensor must be non-empty, got shape {tuple(input.shape)}")
    if not isinstance(q, Tensor):
        if not 0 <= q <= 1:
            raise RuntimeError(f"{op}() q must be in the range [0, 1] but got {q}")
        return Tensor._full((), q, input.dtype, input.device)
    if q.dim() > 1:
        raise RuntimeError(f"{op}() q must be a scalar or 1D tensor, got shape {tuple(q.shape)}")
    if q.dtype != input.dtype:
        raise RuntimeError(f"{op}() q tensor must be same dtype as the input tensor, got {q.dtype} and {input.dtype}")
    if q.device.type == "cpu" and not bool(arithmetic.logical_and(q >= 0, q <= 1).all()):
        raise RuntimeError(f"{op}() q values must be in the range [0, 1]")
    return q


def _rounded(rank: Tensor, interpolation: str) -> Tensor:
    if interpolation == "lower":
        return arithmetic.floor(rank)
    return arithmetic.ceil(rank) if interpolation == "higher" else rank.round() if interpolation == "nearest" else rank


def _quantile(
    op: str, input: Tensor, q: float | Tensor, dim: int | None, keepdim: bool, interpolation: str, ignore_nan: bool
) -> Tensor:
    levels = _checked_q(op, input, q, interpolation)
    d = dimension(op, 0 if dim is None else dim, input.dim())
    rows = input.reshape(-1) if dim is None or not input.dim() else input.movedim(d, -1)
    ordered = _sort(rows, -1, False)[0]
    n = rows.shape[-1]
    nans = (rows != rows).sum(-1, keepdim=True)
    if ignore_nan:
        last = arithmetic.clamp(n - nans - 1, min=0).to(input.dtype)
        rank = levels.reshape(-1) * last
    else:
        rank = arithmetic.where(nans > 0, float(n - 1), levels.reshape(-1) * (n - 1))
    rank = _rounded(rank, interpolation)
    below = rank.to(memory.int64)
    values = gather(ordered, -1, below)
    if interpolation in ("linear", "midpoint"):
        weight = 0.5 if interpolation == "midpoint" else rank - below.to(rank.dtype)
        above = gather(ordered, -1, arithmetic.ceil(rank).to(memory.int64))
        values = arithmetic.lerp(values, above, weight)
    values = values.movedim(-1, 0)
    if keepdim:
        shape = [1] * input.dim() if dim is None else [1 if k == d else m for k, m in enumerate(input.shape)]
        values = values.reshape(values.shape[0], *shape)
    return values if levels.dim() else values.reshape(values.shape[1:])


def quantile(
    input: Tensor,
    q: float | Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """The ``q``-quantiles along ``dim`` (of all elements without it): the element of rank ``q · (n − 1)`` in order.

    A vector ``q`` gives a new first dimension. Between two elements ``interpolation`` decides: "linear", "lower", "higher",
    "midpoint" or "nearest". NaN where there is one.

    Raises:
        RuntimeError: for an input that is not float32 or float64 or has no elements, or ``q`` outside [0, 1].
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


def nanquantile(
    input: Tensor,
    q: float | Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """:func:`quantile` of the elements that are not NaN; NaN where there are none."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)
