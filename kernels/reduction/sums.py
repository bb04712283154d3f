"""Sums of elements, of their powers and exponentials; products."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.elementwise import Pointwise, copy, fill
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.reduction.plan import Dims, normalize_dims, result_memory
from tinyflow.kernels.reduction.rules import LOGSUMEXP, MAX, NANSUM, NORMS, PROD, SUM
from tinyflow.kernels.reduction.values import reduce


def sum(x: Buffer, dim: Dims = None, keepdim: bool = False, dtype: memory.dtype | None = None) -> Buffer:
    """``out = Σ x`` over the dimensions ``dim`` (all by default).

    Args:
        x: any shape, strides and dtype.
        dtype: what elements are cast to before they are summed; by default that of ``x``, int64 for integers and bool.

    Returns a buffer of ``dtype`` without the reduced dimensions (with them as 1 if ``keepdim``); 0 over no elements.
    FLOPs: one an element. Bytes: ``x`` read and the result written once.
    """
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else memory.int64)
    return reduce("sum", x, dim, keepdim, dtype, SUM, dtypes.accumulate_dtype(dtype), empty=0)


def nansum(x: Buffer, dim: Dims = None, keepdim: bool = False, dtype: memory.dtype | None = None) -> Buffer:
    """:func:`sum` with 0 in the place of every NaN."""
    if not x.dtype.is_floating_point:
        return sum(x, dim, keepdim, dtype)
    dtype = dtype or x.dtype
    return reduce("nansum", x, dim, keepdim, dtype, NANSUM, dtypes.accumulate_dtype(dtype), empty=0)


def prod(x: Buffer, dim: int | None = None, keepdim: bool = False, dtype: memory.dtype | None = None) -> Buffer:
    """``out = Π x`` over ``dim``; 1 over no elements. Dtypes as :func:`sum`."""
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else memory.int64)
    return reduce("prod", x, dim, keepdim, dtype, PROD, dtypes.accumulate_dtype(dtype), empty=1)


def norm(x: Buffer, ord: float = 2, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """``out = (Σ |x|^ord)^(1/ord)`` over ``dim`` for the orders 1, 2 and ±infinity (the greatest, the least magnitude).

    Floating-point ``x`` only. FLOPs: two an element. Bytes: ``x`` read and the result written once.

    Raises:
        ValueError: for another order.
        RuntimeError: if ``x`` is not floating point, or has no elements for the order -infinity or infinity.
    """
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"norm: expected a floating-point dtype, got {x.dtype}")
    if ord not in NORMS:
        raise ValueError(f"norm: expected an order among {sorted(NORMS)}, got {ord}")
    empty = None if ord == float("-inf") else 0
    return reduce("norm", x, dim, keepdim, x.dtype, NORMS[ord], dtypes.accumulate_dtype(x.dtype), empty=empty)


@triton.jit
def _restore_center(rest, center):
    return rest + tl.where(tl.abs(center) == float("inf"), 0.0, center)


log_of_sum = Pointwise("logsumexp", _restore_center)


def logsumexp(x: Buffer, dim: Dims, keepdim: bool = False) -> Buffer:
    """``out = log Σ exp(x)`` over ``dim``, in two passes: the maximum first, so that nothing overflows.

    Floating-point results only (integers are lifted); -inf over no elements. FLOPs: three an element. Bytes: ``x`` twice.
    """
    if not x.dtype.is_floating_point:
        x = copy(x, memory.get_default_dtype())
    dims = normalize_dims("logsumexp", dim, x.dim())
    if x.numel() == 0:
        return fill(result_memory(x, dims, keepdim, x.dtype)[0], float("-inf"))
    accumulate = dtypes.accumulate_dtype(x.dtype)
    rule = MAX._replace(identity=float("-inf"))
    center = reduce("logsumexp", x, dim, True, accumulate, rule, accumulate)
    rest = reduce("logsumexp", x, dim, True, accumulate, LOGSUMEXP, accumulate, center=center)
    out, full = result_memory(x, dims, keepdim, x.dtype)
    log_of_sum(rest, center, out=full)
    return out
