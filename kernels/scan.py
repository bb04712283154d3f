"""Scans along a dimension: cumsum, cumprod, logcumsumexp, cummax and cummin with their positions, and linear recurrences.

``out[i]`` combines the elements 0 … i along the dimension. A program holds some rows and walks them tile by tile: an
associative scan in the tile (log-depth), then the running total of the tiles before it. The order of combination depends on
the tile alone, so results are the same bits in every run.

Accumulation: float32 for the half precisions, float64 for float64, int64 for integers and bool.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets, stored_bool_as_int, walk
from tinyflow.kernels.elementwise import copy
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.reduction import normalize_dims
from tinyflow.kernels.special import small_log1p

SUM, PRODUCT, LOG_SUM = 0, 1, 2


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _add_logarithms(a, b):
    greater = tl.where((a > b) | (a != a), a, b)
    distance = tl.where(a == b, 0.0, tl.abs(a - b))  # equal infinities have no difference
    return greater + small_log1p(tl.exp(-distance))


@triton.jit
def _later_greater(a, a_at, b, b_at):
    # the later of equals, as torch; a NaN stays, and its position moves on to a later NaN
    later = (b >= a) | (b != b)
    return tl.where(later, b, a), tl.where(later, b_at, a_at)


@triton.jit
def _later_lesser(a, a_at, b, b_at):
    later = (b <= a) | (b != b)
    return tl.where(later, b, a), tl.where(later, b_at, a_at)


@triton.jit
def _after(a, a_term, b, b_term):
    # y -> a·y + a_term, then y -> b·y + b_term
    return a * b, a_term * b + b_term


@triton.jit
def _last_column(tile, columns, LAST: tl.constexpr):
    return tl.sum(tl.where((columns == LAST)[None, :], tile, 0), axis=1)


@triton.jit
def _scan_kernel(
    x_ptr,
    out_ptr,
    rows,
    length,
    sizes,
    x_strides,
    out_strides,
    x_step,
    out_step,
    KIND: tl.constexpr,
    REVERSE: tl.constexpr,
    IDENTITY: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    m = tl.program_id(0).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    x_rows = x_ptr + offsets(m, sizes, x_strides, DIMS)
    out_rows = out_ptr + offsets(m, sizes, out_strides, DIMS)
    columns = tl.arange(0, BLOCK_N)
    carry = tl.full((BLOCK_M,), IDENTITY, ACCUMULATE)
    for start in range(0, length, BLOCK_N):
        n = start + columns.to(INDEX)
        mask = (m < rows)[:, None] & (n < length)[None, :]
        at = n
        if REVERSE:
            at = length - 1 - n
        x = tl.load(x_rows[:, None] + (at * x_step)[None, :], mask=mask, other=0)
        x = tl.where(mask, stored_bool_as_int(x).to(ACCUMULATE), IDENTITY)
        if KIND == 0:
            y = carry[:, None] + tl.cumsum(x, axis=1)
        elif KIND == 1:
            y = carry[:, None] * tl.associative_scan(x, 1, _multiply)
        else:
            y = _add_logarithms(carry[:, None], tl.associative_scan(x, 1, _add_logarithms))
        tl.store(out_rows[:, None] + (at * out_step)[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)
        carry = _last_column(y, columns, BLOCK_N - 1)


@triton.jit
def _extreme_scan_kernel(
    x_ptr,
    values_ptr,
    indices_ptr,
    rows,
    length,
    sizes,
    x_strides,
    out_strides,
    x_step,
    out_step,
    GREATEST: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    m = tl.program_id(0).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    x_rows = x_ptr + offsets(m, sizes, x_strides, DIMS)
    out_rows = offsets(m, sizes, out_strides, DIMS)
    columns = tl.arange(0, BLOCK_N)
    best = stored_bool_as_int(tl.load(x_rows, mask=m < rows, other=0)).to(ACCUMULATE)
    best_at = tl.full((BLOCK_M,), 0, tl.int64)
    for start in range(0, length, BLOCK_N):
        n = start + columns.to(INDEX)
        mask = (m < rows)[:, None] & (n < length)[None, :]
        x = stored_bool_as_int(tl.load(x_rows[:, None] + (n * x_step)[None, :], mask=mask, other=0)).to(ACCUMULATE)
        at = tl.broadcast_to(n[None, :].to(tl.int64), (BLOCK_M, BLOCK_N))
        if GREATEST:
            y, y_at = tl.associative_scan((x, at), 1, _later_greater)
            y, y_at = _later_greater(best[:, None], best_at[:, None], y, y_at)
        else:
            y, y_at = tl.associative_scan((x, at), 1, _later_lesser)
            y, y_at = _later_lesser(best[:, None], best_at[:, None], y, y_at)
        out_at = out_rows[:, None] + (n * out_step)[None, :]
        stored = y
        if values_ptr.dtype.element_ty == tl.int1:
            stored = y != 0
        tl.store(values_ptr + out_at, stored.to(values_ptr.dtype.element_ty), mask=mask)
        tl.store(indices_ptr + out_at, y_at, mask=mask)
        best = _last_column(y, columns, BLOCK_N - 1)
        best_at = _last_column(y_at, columns, BLOCK_N - 1)


@triton.jit
def _recurrence_kernel(
    factor_ptr,
    term_ptr,
    out_ptr,
    rows,
    length,
    sizes,
    factor_strides,
    term_strides,
    out_strides,
    factor_step,
    term_step,
    out_step,
    REVERSE: tl.constexpr,
    SHIFTED: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    m = tl.program_id(0).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    factor_rows = factor_ptr + offsets(m, sizes, factor_strides, DIMS)
    term_rows = term_ptr + offsets(m, sizes, term_strides, DIMS)
    out_rows = out_ptr + offsets(m, sizes, out_strides, DIMS)
    columns = tl.arange(0, BLOCK_N)
    carry = tl.full((BLOCK_M,), 0, ACCUMULATE)
    for start in range(0, length, BLOCK_N):
        n = start + columns.to(INDEX)
        mask = (m < rows)[:, None] & (n < length)[None, :]
        at = n
        if REVERSE:
            at = length - 1 - n
        factor_at = at
        if SHIFTED:  # the factor of the element before in this walk
            if REVERSE:
                factor_at = at + 1
            else:
                factor_at = at - 1
        inner = mask & (n > 0)[None, :]  # nothing comes before the first: its factor has no say
        factor = tl.load(factor_rows[:, None] + (factor_at * factor_step)[None, :], mask=inner, other=0).to(ACCUMULATE)
        term = tl.load(term_rows[:, None] + (at * term_step)[None, :], mask=mask, other=0).to(ACCUMULATE)
        product, y = tl.associative_scan((factor, term), 1, _after)
        if start > 0:
            y += product * carry[:, None]
        tl.store(out_rows[:, None] + (at * out_step)[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)
        carry = _last_column(y, columns, BLOCK_N - 1)


_LONG = Config({"BLOCK_M": 1, "BLOCK_N": 1024}, num_warps=4)
_SHORT = Config({"BLOCK_M": 16, "BLOCK_N": 64}, num_warps=4)


def _choose(rows: int, length: int) -> Config:
    return _LONG if length > 128 else _SHORT


def _interpreter(rows: int, length: int) -> Config:
    block_n = block(length)
    return Config({"BLOCK_M": block(rows, MAX_BLOCK // block_n), "BLOCK_N": block_n})


scan_configs = Configs("_scan_kernel", (_LONG, _SHORT), _choose, _interpreter)
extreme_scan_configs = Configs("_extreme_scan_kernel", (_LONG, _SHORT), _choose, _interpreter)
recurrence_configs = Configs("_recurrence_kernel", (_LONG, _SHORT), _choose, _interpreter)


def _launch_scan(
    kernel: Any, configs: Configs, x: Buffer, outs: tuple[Buffer, ...], dim: int, compute: memory.dtype, **kind: Any
) -> None:
    rest = [k for k in range(x.dim()) if k != dim]
    out = outs[0]
    sizes, (x_steps, out_steps) = walk(
        [x.shape[k] for k in rest], [x.stride(k) for k in rest], [out.stride(k) for k in rest]
    )
    rows, length = strides.numel(sizes), x.shape[dim] if x.dim() else 1
    config = configs(x.dtype, rows=rows, length=length)
    launch(
        kernel,
        (cdiv(rows, config.blocks["BLOCK_M"]),),
        x,
        *outs,
        rows,
        length,
        sizes,
        x_steps,
        out_steps,
        x.stride(dim) if x.dim() else 1,
        out.stride(dim) if x.dim() else 1,
        config=config,
        cost=Cost(x.numel(), nbytes(x, *outs)),
        device=x.device,
        ACCUMULATE=dtypes.triton_dtype(compute),
        INDEX=offset_dtype(x, *outs),
        DIMS=len(sizes),
        **kind,
    )


def _dimension(op: str, x: Buffer, dim: int) -> int:
    dims = normalize_dims(op, dim, x.dim())
    return dims[0] if dims else 0


def _scan(
    op: str, x: Buffer, dim: int, dtype: memory.dtype, kind: int, identity: float, reverse: bool = False
) -> Buffer:
    dim = _dimension(op, x, dim)
    out = memory.empty(x.shape, dtype, x.device, strides.like(x))
    if x.numel():
        if dtype != x.dtype and not dtype.is_floating_point and x.dtype.is_floating_point:
            x = copy(x, dtype)
        compute = dtypes.accumulate_dtype(dtype)
        constants = {"KIND": kind, "REVERSE": reverse, "IDENTITY": identity}
        _launch_scan(_scan_kernel, scan_configs, x, (out,), dim, compute, **constants)
    return out


def cumsum(x: Buffer, dim: int, dtype: memory.dtype | None = None, reverse: bool = False) -> Buffer:
    """``out[i] = x[0] + … + x[i]`` along ``dim``.

    Args:
        x: any shape, strides and dtype.
        dtype: the result's; by default that of ``x``, int64 for integers and bool.
        reverse: sum from the end: ``out[i] = x[i] + … + x[n−1]``.

    FLOPs: one an element. Bytes: ``x`` read and the result written once.

    Raises:
        IndexError: if ``dim`` is out of range.
    """
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else memory.int64)
    return _scan("cumsum", x, dim, dtype, SUM, 0, reverse)


def cumprod(x: Buffer, dim: int, dtype: memory.dtype | None = None, reverse: bool = False) -> Buffer:
    """``out[i] = x[0] · … · x[i]`` along ``dim``; else as :func:`cumsum`."""
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else memory.int64)
    return _scan("cumprod", x, dim, dtype, PRODUCT, 1, reverse)


def logcumsumexp(x: Buffer, dim: int) -> Buffer:
    """``out[i] = log(exp(x[0]) + … + exp(x[i]))`` along ``dim``, without overflow.

    Raises:
        NotImplementedError: if ``x`` is not floating point.
        IndexError: if ``dim`` is out of range.
    """
    if not x.dtype.is_floating_point:
        raise NotImplementedError(f"logcumsumexp: expected a floating-point input, got {x.dtype}")
    return _scan("logcumsumexp", x, dim, x.dtype, LOG_SUM, float("-inf"))


def _extreme_scan(op: str, x: Buffer, dim: int, greatest: bool) -> tuple[Buffer, Buffer]:
    dim = _dimension(op, x, dim)
    layout = strides.like(x)
    values = memory.empty(x.shape, x.dtype, x.device, layout)
    indices = memory.empty(x.shape, memory.int64, x.device, layout)
    if x.numel():
        compute = dtypes.accumulate_dtype(x.dtype)
        outs = values, indices
        _launch_scan(_extreme_scan_kernel, extreme_scan_configs, x, outs, dim, compute, GREATEST=greatest)
    return values, indices


def cummax(x: Buffer, dim: int) -> tuple[Buffer, Buffer]:
    """The greatest of ``x[0] … x[i]`` along ``dim`` and its int64 position, the last of equal ones; a NaN stays.

    FLOPs: one an element. Bytes: ``x`` read, both results written once.

    Raises:
        IndexError: if ``dim`` is out of range.
    """
    return _extreme_scan("cummax", x, dim, True)


def cummin(x: Buffer, dim: int) -> tuple[Buffer, Buffer]:
    """The least of ``x[0] … x[i]`` and its position; as :func:`cummax`."""
    return _extreme_scan("cummin", x, dim, False)


def recurrence(factor: Buffer, term: Buffer, dim: int, reverse: bool = False, shifted: bool = False) -> Buffer:
    """``out[i] = factor[i] · out[i−1] + term[i]`` along ``dim``, from ``out[0] = term[0]``.

    Args:
        factor, term: floating point, of one shape and dtype, any strides.
        reverse: from the end: ``out[i] = factor[i] · out[i+1] + term[i]``.
        shifted: the factor is that of the element before: ``factor[i−1]`` (``factor[i+1]`` from the end).

    An associative scan of the maps y -> a·y + b (Blelloch 1990, §1.4). FLOPs: four an element. Bytes: both read, the result
    written once.

    Raises:
        RuntimeError: if shapes differ.
        IndexError: if ``dim`` is out of range.
    """
    dtypes.check_floating("recurrence", factor=factor, term=term)
    if factor.shape != term.shape:
        raise RuntimeError(f"recurrence: expected one shape, got {tuple(factor.shape)} and {tuple(term.shape)}")
    dim = _dimension("recurrence", term, dim)
    out = memory.empty(term.shape, term.dtype, term.device, strides.like(term))
    if not out.numel():
        return out
    rest = [k for k in range(term.dim()) if k != dim]
    operands = factor, term, out
    sizes, steps = walk([term.shape[k] for k in rest], *([x.stride(k) for k in rest] for x in operands))
    rows, length = strides.numel(sizes), term.shape[dim] if term.dim() else 1
    config = recurrence_configs(term.dtype, rows=rows, length=length)
    launch(
        _recurrence_kernel,
        (cdiv(rows, config.blocks["BLOCK_M"]),),
        *operands,
        rows,
        length,
        sizes,
        *steps,
        *(x.stride(dim) if x.dim() else 1 for x in operands),
        config=config,
        cost=Cost(4 * out.numel(), nbytes(*operands)),
        device=out.device,
        REVERSE=reverse,
        SHIFTED=shifted,
        ACCUMULATE=dtypes.triton_dtype(dtypes.accumulate_dtype(term.dtype)),
        INDEX=offset_dtype(*operands),
        DIMS=len(sizes),
    )
    return out
