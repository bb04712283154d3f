"""Mean, variance and standard deviation."""

from __future__ import annotations

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.reduction.plan import Dims, count, normalize_dims
from tinyflow.kernels.reduction.rules import MEAN, STD, VAR, Rule
from tinyflow.kernels.reduction.values import reduce


def mean(x: Buffer, dim: Dims = None, keepdim: bool = False, dtype: memory.dtype | None = None) -> Buffer:
    """``out = Σ x / n`` over ``dim``, ``n`` elements each; NaN over no elements. Else as :func:`sum`.

    Raises:
        RuntimeError: if neither ``x`` nor ``dtype`` is floating point.
    """
    dtype = dtype or x.dtype
    if not dtype.is_floating_point:
        raise RuntimeError(f"mean: expected a floating-point dtype, got {dtype}; name one with dtype=")
    n = count(x, normalize_dims("mean", dim, x.dim()))
    accumulate = dtypes.accumulate_dtype(dtype)
    return reduce("mean", x, dim, keepdim, dtype, MEAN, accumulate, float(n), empty=float("nan"))


def _spread(op: str, x: Buffer, dim: Dims, correction: float, keepdim: bool, rule: Rule) -> Buffer:
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"{op}: expected a floating-point dtype, got {x.dtype}")
    accumulate = dtypes.accumulate_dtype(x.dtype)
    center = mean(x, dim, keepdim=True, dtype=accumulate)
    freedom = max(0.0, count(x, normalize_dims(op, dim, x.dim())) - correction)
    return reduce(op, x, dim, keepdim, x.dtype, rule, accumulate, freedom, center, empty=float("nan"))


def var(x: Buffer, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Buffer:
    """``out = Σ (x − mean(x))² / max(0, n − correction)`` over ``dim``, in two passes over ``x``.

    Floating-point ``x`` only; NaN where no degree of freedom is left. FLOPs: four an element. Bytes: ``x`` read twice.

    Raises:
        RuntimeError: if ``x`` is not floating point.
    """
    return _spread("var", x, dim, correction, keepdim, VAR)


def std(x: Buffer, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Buffer:
    """The square root of :func:`var`."""
    return _spread("std", x, dim, correction, keepdim, STD)
