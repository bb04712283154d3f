"""The greatest and the least element; whether any or all are nonzero, which is the greatest and the least truth."""

from __future__ import annotations

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.reduction.plan import Dims
from tinyflow.kernels.reduction.rules import ALL, ANY, MAX, MIN, Rule, furthest
from tinyflow.kernels.reduction.values import reduce


def _extreme(op: str, x: Buffer, dim: Dims, keepdim: bool, rule: Rule, greatest: bool) -> Buffer:
    rule = rule._replace(identity=furthest(x.dtype, greatest))
    return reduce(op, x, dim, keepdim, x.dtype, rule, dtypes.accumulate_dtype(x.dtype))


def amax(x: Buffer, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """``out = max x`` over ``dim``; a NaN wins. Any dtype; FLOPs: one an element. Bytes: ``x`` read once.

    Raises:
        IndexError: if a reduced dimension has no elements.
    """
    return _extreme("amax", x, dim, keepdim, MAX, True)


def amin(x: Buffer, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """``out = min x`` over ``dim``; as :func:`amax`."""
    return _extreme("amin", x, dim, keepdim, MIN, False)


def _truth_over(op: str, x: Buffer, dim: Dims, keepdim: bool, rule: Rule, empty: int) -> Buffer:
    if dim is not None and not isinstance(dim, int) and not dim:  # here, unlike elsewhere, () names no dimension
        x, dim, keepdim = memory.as_strided(x, (*x.shape, 1), (*x.stride(), 1)), -1, False
    dtype = memory.uint8 if x.dtype == memory.uint8 else memory.bool_
    return reduce(op, x, dim, keepdim, dtype, rule, dtypes.accumulate_dtype(x.dtype), empty=empty)


def any(x: Buffer, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """True where some element over ``dim`` is nonzero (a NaN is); False over no elements. bool, of a uint8 ``x`` uint8."""
    return _truth_over("any", x, dim, keepdim, ANY, 0)


def all(x: Buffer, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """True where every element over ``dim`` is nonzero (a NaN is); True over no elements. bool, of a uint8 ``x`` uint8."""
    return _truth_over("all", x, dim, keepdim, ALL, 1)
