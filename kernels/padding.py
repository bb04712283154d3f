"""Tensors whose positions are another's, moved, mirrored, repeated or cut off: padding, flipping, rolling, repeating.

Along every dimension, element ``i`` of the result is element ``s(i - start)`` of ``x``, of ``n`` elements there, where

===========  ===================================================================
CONSTANT     s(j) = j, and a given value outside 0 … n − 1
REFLECT      s(j) mirrors at both ends, which are not repeated: −1 → 1, n → n − 2
REPLICATE    s(j) is the nearest of 0 … n − 1
CIRCULAR     s(j) = j mod n
===========  ===================================================================

A dimension with ``start`` 0 and its own size is unchanged under each of them. Flipping is reflection about the last
element (``start = n − 1``), rolling is circular with the shift as ``start``, repeating circular in a larger result. So one
kernel serves all. Its transpose adds up, for each element of ``x``, the few positions that show it, in a fixed order and
without atomics.

The dimension that is innermost in the result's memory makes a tile's columns; all others, decoded once a row, its rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_bits, float_from_bits, stored_bool_as_int
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.elementwise import copy
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.strides import Shape

CONSTANT, REFLECT, REPLICATE, CIRCULAR = 0, 1, 2, 3
MODES = {"constant": CONSTANT, "reflect": REFLECT, "replicate": REPLICATE, "circular": CIRCULAR}

#: The transpose walks all dimensions at once up to so many positions for an element, else one dimension after another.
_MOST_AT_ONCE = 27


@triton.jit
def _source(i, start, n, MODE: tl.constexpr):
    """The element of ``x`` that position ``i`` shows; outside 0 … n − 1 under CONSTANT alone."""
    j = i - start
    if MODE == 1:
        j = (n - 1) - tl.abs((n - 1) - tl.abs(j))
    if MODE == 2:
        j = tl.minimum(tl.maximum(j, 0), n - 1)
    if MODE == 3:
        j = ((j % n) + n) % n
    return j


@triton.jit
def _shown_at(j, k, start, n, size, MODE: tl.constexpr):
    """Candidate ``k`` for a position that shows element ``j``; one that does not is −1."""
    if MODE == 1:  # itself, its mirror image before the first element, and that after the last
        i = tl.where(k == 0, start + j, tl.where(k == 1, start - j, start + 2 * (n - 1) - j))
        good = (k == 0) | ((k == 1) & (j > 0)) | ((k == 2) & (j < n - 1))
    if MODE == 2:  # itself, then the positions before the first element, then those after the last
        before = tl.maximum(start, 0)
        i = tl.where(k == 0, start + j, tl.where(k <= before, start - k, start + n - 1 + k - before))
        good = (k == 0) | ((k <= before) & (j == 0)) | ((k > before) & (j == n - 1))
    if MODE == 3:  # every position that is j modulo n, from the first one on
        i = (((start + j) % n) + n) % n + k * n
        good = k >= 0
    return tl.where(good & (i >= 0) & (i < size), i, -1)


@triton.jit
def _pad_kernel(
    x_ptr,
    out_ptr,
    value,  # the bits of a float64, or an integer
    rows,
    columns,
    row_sizes,  # of the result
    row_sources,  # sizes of x
    row_starts,
    x_row_strides,
    out_row_strides,
    column_source,
    column_start,
    x_column_stride,
    out_column_stride,
    MODE: tl.constexpr,
    ROW_DIMS: tl.constexpr,
    FLOATING: tl.constexpr,
    STAGE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0).to(INDEX)
    tiles = tl.cdiv(columns, BLOCK_C)
    r = (program // tiles) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    c = (program % tiles) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    written = (r < rows)[:, None] & (c < columns)[None, :]
    j = _source(c, column_start, column_source, MODE)
    read_c = (c < columns) & (j >= 0) & (j < column_source)
    x_at = j * x_column_stride
    read_r = r < rows
    x_row = tl.zeros((BLOCK_R,), INDEX)
    out_row = tl.zeros((BLOCK_R,), INDEX)
    for k in tl.static_range(ROW_DIMS):
        i = r % row_sizes[ROW_DIMS - 1 - k]
        r = r // row_sizes[ROW_DIMS - 1 - k]
        source = row_sources[ROW_DIMS - 1 - k]
        j = _source(i, row_starts[ROW_DIMS - 1 - k], source, MODE)
        read_r = read_r & (j >= 0) & (j < source)
        x_row += j * x_row_strides[ROW_DIMS - 1 - k]
        out_row += i * out_row_strides[ROW_DIMS - 1 - k]
    read = read_r[:, None] & read_c[None, :]
    x = tl.load(x_ptr + x_row[:, None] + x_at[None, :], mask=read, other=0)
    if MODE == 0:
        if FLOATING:
            fill = float_from_bits(value).to(STAGE).to(out_ptr.dtype.element_ty)
        else:
            fill = tl.cast(value, tl.int64).to(stored_bool_as_int(x).dtype)
        x = tl.where(read, stored_bool_as_int(x), fill)
    if out_ptr.dtype.element_ty == tl.int1:
        x = stored_bool_as_int(x) != 0
    tl.store(out_ptr + out_row[:, None] + (c * out_column_stride)[None, :], x, mask=written)


@triton.jit
def _pad_grad_kernel(
    grad_ptr,  # (size …)
    out_ptr,  # (n …)
    rows,
    columns,
    combinations,  # the product of all candidates
    row_sizes,  # of grad
    row_sources,  # of out
    row_starts,
    row_candidates,
    grad_row_strides,
    out_row_strides,
    column_size,
    column_start,
    column_candidates,
    grad_column_stride,
    out_column_stride,
    MODE: tl.constexpr,
    ROW_DIMS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0).to(INDEX)
    tiles = tl.cdiv(columns, BLOCK_C)
    r = (program // tiles) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    c = (program % tiles) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    total = tl.zeros((BLOCK_R, BLOCK_C), ACCUMULATOR)
    for combination in range(combinations):
        rest = tl.cast(combination, INDEX)
        i = _shown_at(c, rest % column_candidates, column_start, columns, column_size, MODE)
        rest = rest // column_candidates
        read_c = (c < columns) & (i >= 0)
        grad_column = i * grad_column_stride
        read_r = r < rows
        grad_row = tl.zeros((BLOCK_R,), INDEX)
        left = r
        for k in tl.static_range(ROW_DIMS):
            n = row_sources[ROW_DIMS - 1 - k]
            candidates = row_candidates[ROW_DIMS - 1 - k]
            size = row_sizes[ROW_DIMS - 1 - k]
            i = _shown_at(left % n, rest % candidates, row_starts[ROW_DIMS - 1 - k], n, size, MODE)
            left = left // n
            rest = rest // candidates
            read_r = read_r & (i >= 0)
            grad_row += i * grad_row_strides[ROW_DIMS - 1 - k]
        read = read_r[:, None] & read_c[None, :]
        grad = tl.load(grad_ptr + grad_row[:, None] + grad_column[None, :], mask=read, other=0)
        total += stored_bool_as_int(grad).to(ACCUMULATOR)
    out_row = tl.zeros((BLOCK_R,), INDEX)
    left = r
    for k in tl.static_range(ROW_DIMS):
        out_row += (left % row_sources[ROW_DIMS - 1 - k]) * out_row_strides[ROW_DIMS - 1 - k]
        left = left // row_sources[ROW_DIMS - 1 - k]
    written = (r < rows)[:, None] & (c < columns)[None, :]
    if out_ptr.dtype.element_ty == tl.int1:
        tl.store(out_ptr + out_row[:, None] + (c * out_column_stride)[None, :], total != 0, mask=written)
    else:
        value = total.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + out_row[:, None] + (c * out_column_stride)[None, :], value, mask=written)


_LONG = Config({"BLOCK_R": 1, "BLOCK_C": 1024})
_ROWS = Config({"BLOCK_R": 8, "BLOCK_C": 128})
_SHORT = Config({"BLOCK_R": 32, "BLOCK_C": 32})
_NARROW = Config({"BLOCK_R": 128, "BLOCK_C": 8})
_SHIPPED = (_LONG, _ROWS, _SHORT, _NARROW)


def _choose(rows: int, columns: int) -> Config:
    return _NARROW if columns <= 8 else _SHORT if columns <= 32 else _ROWS if columns <= 512 else _LONG


def _interpreter(rows: int, columns: int) -> Config:
    c = block(columns)
    return Config({"BLOCK_R": block(rows, MAX_BLOCK // c), "BLOCK_C": c})


pad_configs = Configs("_pad_kernel", _SHIPPED, _choose, _interpreter)
pad_grad_configs = Configs("_pad_grad_kernel", _SHIPPED, _choose, _interpreter)

#: Of one dimension: its size in the result and in x, where x starts, and the strides of x and of the result.
_Dim = tuple[int, int, int, int, int]


def _walk(shape: Sequence[int], sources: Sequence[int], starts: Sequence[int], x: Buffer, out: Buffer) -> list[_Dim]:
    """The fewest dimensions, at least two, innermost of ``out``'s memory last; neighbours that are unchanged are one."""
    dims: list[_Dim] = []
    x_steps, out_steps = x.stride(), out.stride()
    for d in sorted(range(len(shape)), key=lambda d: (-out_steps[d], d)):
        size, source, start, x_stride, out_stride = shape[d], sources[d], starts[d], x_steps[d], out_steps[d]
        if size == 1 and source == 1:
            continue
        if dims and size == source and start == 0:
            before = dims[-1]
            even = before[3] == x_stride * source and before[4] == out_stride * size
            if before[0] == before[1] and before[2] == 0 and even:
                dims[-1] = (before[0] * size, before[1] * source, 0, x_stride, out_stride)
                continue
        dims.append((size, source, start, x_stride, out_stride))
    return [(1, 1, 0, 0, 0)] * (2 - len(dims)) + dims


def _move(x: Buffer, out: Buffer, starts: Sequence[int], mode: int, value: Scalar = 0) -> Buffer:
    """Fills ``out`` with what its positions show of ``x``."""
    dims = _walk(out.shape, x.shape, starts, x, out)
    *lines, (columns, column_source, column_start, x_column, out_column) = dims
    sizes, sources, begins, x_rows, out_rows = map(tuple, zip(*lines))
    floating = x.dtype.is_floating_point
    value = dtypes.stored(value, x.dtype)
    config = pad_configs(x.dtype, rows=math.prod(sizes), columns=columns)
    launch(
        _pad_kernel,
        (cdiv(math.prod(sizes), config.blocks["BLOCK_R"]) * cdiv(columns, config.blocks["BLOCK_C"]),),
        x,
        out,
        float_bits(value) if floating else int(value),
        math.prod(sizes),
        columns,
        sizes,
        sources,
        begins,
        x_rows,
        out_rows,
        column_source,
        column_start,
        x_column,
        out_column,
        config=config,
        cost=Cost(0, nbytes(out) + min(nbytes(x), nbytes(out))),
        device=x.device,
        MODE=mode,
        ROW_DIMS=len(lines),
        FLOATING=floating,
        STAGE=dtypes.compute_dtype(x.dtype),  # half precision is rounded from float32, as torch does
        INDEX=_index(x, out),
    )
    return out


def _index(*buffers: Buffer) -> Any:
    # positions beyond a buffer's own, as many again at most, are computed before they are masked
    return tl.int64 if any(memory.extent(x) > 2**29 for x in buffers) else offset_dtype(*buffers)


def pad(x: Buffer, shape: Sequence[int], starts: Sequence[int], mode: int = CONSTANT, value: Scalar = 0) -> Buffer:
    """``out[i, …] = x[s(i − starts[0]), …]`` for every position of ``shape``, as the module describes.

    Args:
        x: any shape, strides and dtype; not empty unless ``mode`` is CONSTANT.
        shape: of the result, with as many dimensions as ``x``.
        starts: where ``x`` begins in the result along each dimension; negative cuts off.
        mode: CONSTANT, REFLECT, REPLICATE or CIRCULAR.
        value: what CONSTANT shows outside ``x``.

    The result lies in the order of dimensions in which ``x`` lies. FLOPs 0. Bytes: what is shown read, all written, once.
    """
    out = memory.empty(tuple(shape), x.dtype, x.device, strides.like(x, tuple(shape)))
    return _move(x, out, starts, mode, value)


def _candidates(mode: int, size: int, source: int, start: int) -> int:
    if size == source and start == 0:
        return 1
    if mode == REFLECT:
        return 3
    if mode == REPLICATE:
        return 1 + max(start, 0) + max(size - source - start, 0)
    return cdiv(size, source)


def pad_grad(grad: Buffer, x_shape: Sequence[int], starts: Sequence[int], mode: int) -> Buffer:
    """The transpose of :func:`pad` under REFLECT, REPLICATE or CIRCULAR: each element of a new buffer of ``x_shape`` is
    the sum of ``grad`` over the positions that show it.

    FLOPs: one an element of ``grad``. Bytes: ``grad`` read, the result written, once; where an element is shown often (wide
    replication), one pass for each padded dimension.
    """
    x_shape = tuple(x_shape)
    moved = [d for d, (n, m) in enumerate(zip(grad.shape, x_shape)) if n != m or starts[d]]
    counts = [_candidates(mode, grad.shape[d], x_shape[d], starts[d]) for d in moved]
    if len(moved) > 1 and math.prod(counts) > _MOST_AT_ONCE:
        for d in moved:
            shape = (*grad.shape[:d], x_shape[d], *grad.shape[d + 1 :])
            grad = _gather_sums(grad, shape, [starts[d] if k == d else 0 for k in range(len(shape))], mode)
        return grad
    return _gather_sums(grad, x_shape, starts, mode)


def _gather_sums(grad: Buffer, x_shape: Shape, starts: Sequence[int], mode: int) -> Buffer:
    out = memory.empty(x_shape, grad.dtype, grad.device, strides.like(grad, x_shape))
    dims = _walk(grad.shape, x_shape, starts, grad, out)
    counts = [_candidates(mode, size, source, start) for size, source, start, _, _ in dims]
    *lines, (column_size, columns, column_start, grad_column, out_column) = dims
    sizes, sources, begins, grad_rows, out_rows = map(tuple, zip(*lines))
    rows = math.prod(sources)
    config = pad_grad_configs(grad.dtype, rows=rows, columns=columns)
    launch(
        _pad_grad_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]) * cdiv(columns, config.blocks["BLOCK_C"]),),
        grad,
        out,
        rows,
        columns,
        math.prod(counts),
        sizes,
        sources,
        begins,
        tuple(counts[:-1]),
        grad_rows,
        out_rows,
        column_size,
        column_start,
        counts[-1],
        grad_column,
        out_column,
        config=config,
        cost=Cost(grad.numel(), nbytes(grad, out)),
        device=grad.device,
        MODE=mode,
        ROW_DIMS=len(lines),
        ACCUMULATOR=dtypes.triton_dtype(dtypes.accumulate_dtype(grad.dtype)),
        INDEX=_index(grad, out),
    )
    return out


def repeat(x: Buffer, counts: Sequence[int]) -> Buffer:
    """The whole of ``x`` ``counts[d]`` times along each dimension d, contiguous. FLOPs 0; read and written once."""
    out = memory.empty([n * count for n, count in zip(x.shape, counts)], x.dtype, x.device)
    return _move(x, out, [0] * x.dim(), CIRCULAR) if out.numel() else out


def flip(x: Buffer, dims: Sequence[int]) -> Buffer:
    """``x`` with the order of elements reversed along each of ``dims``, counted from 0. FLOPs 0; read and written once."""
    if x.numel() == 0 or not dims:
        return copy(x)
    return pad(x, x.shape, [n - 1 if d in dims else 0 for d, n in enumerate(x.shape)], REFLECT)


def roll(x: Buffer, shifts: Sequence[int], dims: Sequence[int]) -> Buffer:
    """``x`` moved by ``shifts`` along ``dims``, counted from 0; what leaves at one end enters at the other.

    FLOPs 0; read and written once.
    """
    if x.numel() == 0:
        return copy(x)
    starts = [0] * x.dim()
    for shift, d in zip(shifts, dims):
        starts[d] = (starts[d] + shift) % x.shape[d]
    return pad(x, x.shape, starts, CIRCULAR)
