"""Triangles of matrices: the part on one side of a diagonal, and the positions that are there."""

from __future__ import annotations

import operator

import triton
import triton.language as tl

from tinyflow.kernels import memory, strides
from tinyflow.kernels.addressing import offsets, stored_bool_as_int, walk
from tinyflow.kernels.elementwise import check_apart
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _triangle_kernel(
    x_ptr,
    out_ptr,
    lines,  # rows of all matrices
    rows,
    columns,
    diagonal,
    batch_sizes,
    x_batch_strides,
    out_batch_strides,
    x_stride_r,
    x_stride_c,
    out_stride_r,
    out_stride_c,
    UPPER: tl.constexpr,
    BATCH_DIMS: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0).to(INDEX)
    tiles = tl.cdiv(columns, BLOCK_C)
    c = (program % tiles) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    line = (program // tiles) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    r = line % rows
    batch = line // rows
    mask = (line < lines)[:, None] & (c < columns)[None, :]
    if UPPER:
        kept = mask & (c[None, :] - r[:, None] >= diagonal)
    else:
        kept = mask & (c[None, :] - r[:, None] <= diagonal)
    x_line = offsets(batch, batch_sizes, x_batch_strides, BATCH_DIMS) + r * x_stride_r
    x = tl.load(x_ptr + x_line[:, None] + (c * x_stride_c)[None, :], mask=kept, other=0)
    if out_ptr.dtype.element_ty == tl.int1:
        x = stored_bool_as_int(x) != 0
    out_line = offsets(batch, batch_sizes, out_batch_strides, BATCH_DIMS) + r * out_stride_r
    tl.store(out_ptr + out_line[:, None] + (c * out_stride_c)[None, :], x, mask=mask)


@triton.jit
def _triangle_indices_kernel(
    out_ptr,  # (2, count)
    first,  # the row where rows of one more element than the last begin
    growing,  # rows of start, start + 1, … elements
    start,
    full,  # elements of the rows after those
    rows,
    widest,
    columns,
    count,
    UPPER: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # counted from the corner of the triangle: for the upper one, rows and columns from the end
    program = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(widest, BLOCK_C)
    r = (program // tiles) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    c = (program % tiles) * BLOCK_C + tl.arange(0, BLOCK_C).to(tl.int64)
    above = tl.minimum(r, growing)
    place = above * start + above * (above - 1) // 2 + (r - above) * full
    width = tl.where(r < growing, start + r, full)
    mask = (r < rows)[:, None] & (c[None, :] < width[:, None])
    place = place[:, None] + c[None, :]
    row = tl.broadcast_to((first + r)[:, None], BLOCK_R, BLOCK_C)
    column = tl.broadcast_to(c[None, :], BLOCK_R, BLOCK_C)
    if UPPER:
        place = count - 1 - place
        row = -row
        column = columns - 1 - column
    element: tl.constexpr = out_ptr.dtype.element_ty
    tl.store(out_ptr + place, row.to(element), mask=mask)
    tl.store(out_ptr + count + place, column.to(element), mask=mask)


_SQUARE = Config({"BLOCK_R": 32, "BLOCK_C": 32})
_WIDE = Config({"BLOCK_R": 4, "BLOCK_C": 256})


def _choose(rows: int, columns: int) -> Config:
    return _SQUARE if columns <= 128 else _WIDE


def _interpreter(rows: int, columns: int) -> Config:
    c = block(columns)
    return Config({"BLOCK_R": block(rows, MAX_BLOCK // c), "BLOCK_C": c})


triangle_configs = Configs("_triangle_kernel", (_SQUARE, _WIDE), _choose, _interpreter)
triangle_indices_configs = Configs("_triangle_indices_kernel", (_SQUARE, _WIDE), _choose, _interpreter)


def _triangle(op: str, x: Buffer, diagonal: int, upper: bool, out: Buffer | None) -> Buffer:
    diagonal = operator.index(diagonal)
    if x.dim() < 2:
        raise RuntimeError(f"{op}: input tensor must have at least 2 dimensions, got shape {tuple(x.shape)}")
    if out is None:
        out = memory.empty(x.shape, x.dtype, x.device, strides.like(x))
    elif out.shape != x.shape or out.dtype != x.dtype:
        expected, got = f"{tuple(x.shape)} {x.dtype}", f"{tuple(out.shape)} {out.dtype}"
        raise RuntimeError(f"{op}: expected out of {expected}, got {got}")
    check_apart(out)
    *batch, rows, columns = x.shape
    if x.numel() == 0:
        return out
    sizes, (x_batch, out_batch) = walk(batch, x.stride()[:-2], out.stride()[:-2])
    lines = strides.numel(batch) * rows
    config = triangle_configs(x.dtype, rows=lines, columns=columns)
    launch(
        _triangle_kernel,
        (cdiv(lines, config.blocks["BLOCK_R"]) * cdiv(columns, config.blocks["BLOCK_C"]),),
        x,
        out,
        lines,
        rows,
        columns,
        diagonal,
        sizes,
        x_batch,
        out_batch,
        x.stride(-2),
        x.stride(-1),
        out.stride(-2),
        out.stride(-1),
        config=config,
        cost=Cost(0, _kept(rows, columns, diagonal, upper) * strides.numel(batch) * x.element_size() + nbytes(out)),
        device=x.device,
        UPPER=upper,
        BATCH_DIMS=len(sizes),
        INDEX=offset_dtype(x, out),
    )
    return out


def tril(x: Buffer, diagonal: int = 0, *, out: Buffer | None = None) -> Buffer:
    """``x[…, r, c]`` where ``c − r <= diagonal``, else 0: (…, rows, columns), any strides and dtype.

    FLOPs 0. Bytes: what is kept read, all written. ``out`` may be ``x`` itself.

    Raises:
        RuntimeError: for less than two dimensions.
    """
    return _triangle("tril", x, diagonal, False, out)


def triu(x: Buffer, diagonal: int = 0, *, out: Buffer | None = None) -> Buffer:
    """``x[…, r, c]`` where ``c − r >= diagonal``, else 0; otherwise as :func:`tril`."""
    return _triangle("triu", x, diagonal, True, out)


def _lower(rows: int, columns: int, diagonal: int) -> tuple[int, int, int, int]:
    """Of the lower triangle: the first row that is not empty, its size, how many rows grow by one, the size of the rest."""
    first = max(0, -diagonal)
    start = min(max(diagonal + first + 1, 0), columns)
    growing = max(0, min(rows - first, columns - start + 1)) if start else 0
    return first, start, growing, columns


def _kept(rows: int, columns: int, diagonal: int, upper: bool) -> int:
    if upper:
        return rows * columns - _kept(rows, columns, diagonal - 1, False)
    first, start, growing, full = _lower(rows, columns, diagonal)
    return growing * start + growing * (growing - 1) // 2 + max(rows - first - growing, 0) * full


def tril_indices(rows: int, columns: int, diagonal: int, dtype: memory.dtype, device: memory.device) -> Buffer:
    """The rows and the columns of the elements with ``c − r <= diagonal``, row by row: (2, count), written once."""
    return _indices(rows, columns, diagonal, False, dtype, device)


def triu_indices(rows: int, columns: int, diagonal: int, dtype: memory.dtype, device: memory.device) -> Buffer:
    """The rows and the columns of the elements with ``c − r >= diagonal``; otherwise as :func:`tril_indices`."""
    return _indices(rows, columns, diagonal, True, dtype, device)


def _indices(rows: int, columns: int, diagonal: int, upper: bool, dtype: memory.dtype, device: memory.device) -> Buffer:
    count = _kept(rows, columns, diagonal, upper)
    out = memory.empty((2, count), dtype, device)
    if count == 0:
        return out
    # turned by half a turn, the upper triangle is the lower one of another diagonal
    first, start, growing, full = _lower(rows, columns, columns - rows - diagonal if upper else diagonal)
    config = triangle_indices_configs(rows=rows - first, columns=columns)
    tiles = cdiv(rows - first, config.blocks["BLOCK_R"]) * cdiv(columns, config.blocks["BLOCK_C"])
    launch(
        _triangle_indices_kernel,
        (tiles,),
        out,
        first - (rows - 1) if upper else first,
        growing,
        start,
        full,
        rows - first,
        columns,
        columns,
        count,
        config=config,
        cost=Cost(0, nbytes(out)),
        device=device,
        UPPER=upper,
    )
    return out
