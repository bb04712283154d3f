"""Indexing by integers and masks: which rows of memory an index names, and reading them.

Every form comes down to rows: position ``b`` of the index addresses a row of memory that starts at ``place[b]`` and
whose elements ``e`` lie at strides of their own. Each index buffer is folded into ``place`` by one small launch, which
also wraps negative indices. Gathering is then one kernel; ``scatter`` writes.

Indices out of range raise IndexError where the host can see the memory (the CPU). On a GPU no launch waits for the
check: they fail a ``device_assert`` in debug mode (``TRITON_DEBUG=1``) and else are clamped, so that memory stays
intact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import memory, strides
from tinyflow.kernels.addressing import offsets
from tinyflow.kernels.launch import (
    MAX_BLOCK,
    Config,
    Configs,
    Cost,
    block,
    cdiv,
    check_same_device,
    launch,
    nbytes,
    offset_dtype,
)
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.nonzero import nonzero
from tinyflow.kernels.reduction import normalize_dims
from tinyflow.kernels.strides import Shape

Index = Buffer | None


@triton.jit
def _place_kernel(
    index_ptr,
    previous_ptr,  # places so far, contiguous; or None
    place_ptr,  # contiguous
    outside_ptr,  # one flag a program: an index was out of range; or None
    count,
    size,
    stride,  # of the indexed dimension
    lowest,  # -size, or 0 where negative indices are refused
    sizes,
    index_strides,
    base_strides,  # what a position's own coordinates add to its place
    DIMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    index = tl.load(index_ptr + offsets(i, sizes, index_strides, DIMS), mask=mask, other=0).to(tl.int64)
    outside = mask & ((index < lowest) | (index >= size))
    if outside_ptr is not None:
        tl.store(outside_ptr + program, tl.max(outside.to(tl.int32), axis=0))
    else:
        tl.device_assert(outside == 0, "index out of range")
    index = tl.where(index < 0, index + size, index)
    index = tl.minimum(tl.maximum(index, 0), size - 1)
    place = index * stride + offsets(i, sizes, base_strides, DIMS)
    if previous_ptr is not None:
        place += tl.load(previous_ptr + i, mask=mask, other=0)
    tl.store(place_ptr + i, place, mask=mask)


@triton.jit
def tile(elements, INDEX: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_E: tl.constexpr):
    """A program's rows, and its elements in them."""
    program = tl.program_id(0).to(INDEX)
    tiles = tl.cdiv(elements, BLOCK_E)
    row = (program // tiles) * BLOCK_B + tl.arange(0, BLOCK_B).to(INDEX)
    return row, (program % tiles) * BLOCK_E + tl.arange(0, BLOCK_E).to(INDEX)


@triton.jit
def _gather_kernel(
    x_ptr,
    place_ptr,
    out_ptr,
    rows,
    elements,
    row_sizes,
    out_row_strides,
    element_sizes,
    out_element_strides,
    x_element_strides,
    ROW_DIMS: tl.constexpr,
    ELEMENT_DIMS: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    b, e = tile(elements, INDEX, BLOCK_B, BLOCK_E)
    mask = (b < rows)[:, None] & (e < elements)[None, :]
    place = tl.load(place_ptr + b, mask=b < rows, other=0).to(INDEX)
    x = tl.load(
        x_ptr + place[:, None] + offsets(e, element_sizes, x_element_strides, ELEMENT_DIMS)[None, :], mask=mask, other=0
    )
    out_at = (
        offsets(b, row_sizes, out_row_strides, ROW_DIMS)[:, None]
        + offsets(e, element_sizes, out_element_strides, ELEMENT_DIMS)[None, :]
    )
    tl.store(out_ptr + out_at, x, mask=mask)


_LINE = Config({"BLOCK": 1024})
_ELEMENTS = Config({"BLOCK_B": 256, "BLOCK_E": 1})
_SHORT_ROWS = Config({"BLOCK_B": 32, "BLOCK_E": 32})
_LONG_ROWS = Config({"BLOCK_B": 2, "BLOCK_E": 512})


def _choose_line(count: int) -> Config:
    return _LINE


def _interpreter_line(count: int) -> Config:
    return Config({"BLOCK": block(count)})


def choose_rows(rows: int, elements: int) -> Config:
    return _ELEMENTS if elements == 1 else _SHORT_ROWS if elements <= 128 else _LONG_ROWS


def interpreter_rows(rows: int, elements: int) -> Config:
    block_e = block(elements)
    return Config({"BLOCK_B": block(rows, MAX_BLOCK // block_e), "BLOCK_E": block_e})


ROWS = (_ELEMENTS, _SHORT_ROWS, _LONG_ROWS)
place_configs = Configs("_place_kernel", (_LINE,), _choose_line, _interpreter_line)
gather_configs = Configs("_gather_kernel", ROWS, choose_rows, interpreter_rows)


def grid(config: Config, rows: int, elements: int) -> tuple[int]:
    return (cdiv(rows, config.blocks["BLOCK_B"]) * cdiv(elements, config.blocks["BLOCK_E"]),)


def wide(*buffers: Buffer, rows: int, elements: int) -> Any:
    return tl.int64 if rows * elements > 2**30 else offset_dtype(*buffers)


@dataclass
class Rows:
    """Which rows of ``x`` an index addresses."""

    x: Buffer
    index_shape: Shape
    row_shape: Shape
    row_strides: Shape  # of x
    place: Buffer  # of each position of the index, in elements of x
    at: int  # where the index's dimensions stand among the result's

    @property
    def rows(self) -> int:
        return strides.numel(self.index_shape)

    @property
    def elements(self) -> int:
        return strides.numel(self.row_shape)

    @property
    def shape(self) -> Shape:
        """The result's shape."""
        return self.row_shape[: self.at] + self.index_shape + self.row_shape[self.at :]

    def parts(self, of_result: Sequence[int]) -> tuple[Shape, Shape]:
        """Strides over the result's dimensions as those of the index and those of the rows."""
        end = self.at + len(self.index_shape)
        return tuple(of_result[self.at : end]), tuple(of_result[: self.at]) + tuple(of_result[end:])


def _fold_index(
    op: str,
    index: Buffer,
    previous: Buffer | None,
    index_shape: Shape,
    dim: int,
    size: int,
    stride: int,
    base: Sequence[int],
    wrap: bool,
) -> Buffer:
    count = strides.numel(index_shape)
    place = memory.empty((count,), memory.int64, index.device)
    config = place_configs(count=count)
    programs = cdiv(count, config.blocks["BLOCK"])
    visible = index.device.type == "cpu"
    outside = memory.empty((programs,), memory.int32, index.device) if visible else None
    sizes, (index_strides, base_strides) = strides.row_major(
        index_shape, strides.broadcast_strides(index, index_shape), base
    )
    if size == 0 and count:
        raise IndexError(f"{op}: index is out of bounds for dimension {dim} with size 0")
    launch(
        _place_kernel,
        (programs,),
        index,
        previous,
        place,
        outside,
        count,
        size,
        stride,
        -size if wrap else 0,
        sizes,
        index_strides,
        base_strides,
        config=config,
        cost=Cost(0, nbytes(index, place, previous)),
        device=index.device,
        DIMS=len(sizes),
    )
    if outside is not None and memory.to_numpy(outside).any():
        array = memory.to_numpy(index)
        worst = array[(array >= size) | (array < (-size if wrap else 0))].flat[0]
        raise IndexError(f"{op}: index {worst} is out of bounds for dimension {dim} with size {size}")
    return place


def _check_index_dtype(op: str, index: Buffer) -> None:
    if index.dtype not in (memory.int64, memory.int32, memory.int16, memory.int8):
        raise IndexError(f"{op}: buffers used as indices must be integer or bool, got {index.dtype}")


def _expand_masks(op: str, x: Buffer, indices: Sequence[Index]) -> list[Index]:
    """The indices, every mask as one index for each dimension that it covers, and None for dimensions left out."""
    expanded: list[Index] = []
    for index in indices:
        if index is None or index.dtype != memory.bool_:
            expanded.append(index)
            continue
        covered = tuple(x.shape[len(expanded) : len(expanded) + index.dim()])
        if tuple(index.shape) != covered:
            raise IndexError(
                f"{op}: the mask of shape {tuple(index.shape)} at dimension {len(expanded)} "
                f"does not match {tuple(x.shape)}"
            )
        positions = nonzero(index)
        for k in range(index.dim()):
            expanded.append(
                memory.as_strided(positions, (positions.shape[0],), (index.dim(),), int(positions.storage_offset()) + k)
            )
    if len(expanded) > x.dim():
        raise IndexError(f"{op}: too many indices, {len(expanded)}, for a buffer of {x.dim()} dimensions")
    return expanded + [None] * (x.dim() - len(expanded))


def address(op: str, x: Buffer, indices: Sequence[Index], wrap: bool = True) -> Rows:
    """The rows of ``x`` that an advanced index names; negative ones from the end, if they may ``wrap``.

    Raises:
        IndexError: for indices that are too many, of another dtype, out of range, or do not broadcast.
    """
    check_same_device(op, x=x, **{f"index {k}": i for k, i in enumerate(indices) if i is not None})
    expanded = _expand_masks(op, x, indices)
    named = [k for k, index in enumerate(expanded) if index is not None]
    if not named:
        raise IndexError(f"{op}: expected at least one index buffer")
    shapes = []
    for k in named:
        index = expanded[k]
        assert index is not None
        _check_index_dtype(op, index)
        shapes.append(tuple(index.shape))
    try:
        index_shape = strides.broadcast_shapes(op, *shapes)
    except RuntimeError as error:
        raise IndexError(f"{op}: shape mismatch: {error}") from None
    rest = [k for k in range(x.dim()) if k not in named]
    together = named[-1] - named[0] == len(named) - 1
    place: Buffer | None = None
    for k in named:
        index = expanded[k]
        assert index is not None
        place = _fold_index(op, index, place, index_shape, k, x.shape[k], x.stride(k), (0,) * len(index_shape), wrap)
    assert place is not None
    return Rows(
        x,
        index_shape,
        tuple(x.shape[k] for k in rest),
        tuple(x.stride(k) for k in rest),
        place,
        named[0] if together else 0,
    )


def _gather(rows: Rows) -> Buffer:
    x = rows.x
    out = memory.empty(rows.shape, x.dtype, x.device)
    if out.numel() == 0:
        return out
    out_rows, out_elements = rows.parts(out.stride())
    row_sizes, (out_row_strides,) = strides.row_major(rows.index_shape, out_rows)
    element_sizes, (out_element_strides, x_element_strides) = strides.row_major(
        rows.row_shape, out_elements, rows.row_strides
    )
    config = gather_configs(x.dtype, rows=rows.rows, elements=rows.elements)
    launch(
        _gather_kernel,
        grid(config, rows.rows, rows.elements),
        x,
        rows.place,
        out,
        rows.rows,
        rows.elements,
        row_sizes,
        out_row_strides,
        element_sizes,
        out_element_strides,
        x_element_strides,
        config=config,
        cost=Cost(0, 2 * nbytes(out) + nbytes(rows.place)),
        device=x.device,
        ROW_DIMS=len(row_sizes),
        ELEMENT_DIMS=len(element_sizes),
        INDEX=wide(x, out, rows=rows.rows, elements=rows.elements),
    )
    return out


def elements_of(x: Buffer, place: Buffer) -> Buffer:
    return _gather(Rows(x, tuple(place.shape), (), (), place, 0))


def index(x: Buffer, indices: Sequence[Index]) -> Buffer:
    """``x[indices]`` with integer or bool buffers, as torch and numpy: advanced indexing, always a copy.

    Args:
        x: any shape, strides and dtype.
        indices: for each dimension of ``x`` an integer buffer, or None to keep it; a bool mask stands for as many
            dimensions as it has. Dimensions left out are kept. Integer buffers broadcast together; negative ones wrap.

    The index's dimensions replace the indexed ones where those are neighbours, else they come first. FLOPs 0. Bytes:
    the elements read and written once, and the indices.

    Raises:
        IndexError: for indices that are too many, of another dtype, do not broadcast, or are out of range (on a GPU out
        of
            range is only checked in debug mode).
    """
    return _gather(address("index", x, indices))


def along(op: str, x: Buffer, dim: int, position: Buffer) -> Rows:
    """The rows of ``x`` that a 1-d index along ``dim``, not negative, names."""
    (dim,) = normalize_dims(op, dim, x.dim()) or (0,)
    if position.dim() > 1:
        raise IndexError(f"{op}: expected a 1-d index, got shape {tuple(position.shape)}")
    if x.dim() == 0:
        x = memory.as_strided(x, (1,), (1,))
    position = memory.as_strided(position, (position.numel(),), (position.stride(0) if position.dim() else 1,))
    return address(op, x, [None] * dim + [position], wrap=False)


def index_select(x: Buffer, dim: int, index: Buffer) -> Buffer:
    """``out = x`` along ``dim`` at the positions of the 1-d ``index``; else as :func:`index`."""
    out = _gather(along("index_select", x, dim, index))
    return out if x.dim() else memory.as_strided(out, (), ())


def elementwise_rows(op: str, x: Buffer, dim: int, index: Buffer) -> Rows:
    """The elements of ``x`` that ``index``, of its rank, names along ``dim``."""
    check_same_device(op, x=x, index=index)
    if index.dtype not in (memory.int64, memory.int32):
        raise RuntimeError(f"{op}: expected an int64 or int32 index, got {index.dtype}")
    if index.dim() != x.dim():
        raise RuntimeError(f"{op}: expected an index of {x.dim()} dimensions, got shape {tuple(index.shape)}")
    (dim,) = normalize_dims(op, dim, x.dim()) or (0,)
    if x.dim() == 0:
        x, index = memory.as_strided(x, (1,), (1,)), memory.as_strided(index, (1,), (1,))
    for k in range(x.dim()):
        if k != dim and index.shape[k] > x.shape[k]:
            raise RuntimeError(
                f"{op}: expected index {tuple(index.shape)} to be no larger than {tuple(x.shape)} "
                f"apart from dimension {dim}"
            )
    shape = tuple(index.shape)
    base = tuple(0 if k == dim else st for k, st in enumerate(x.stride()))
    place = _fold_index(op, index, None, shape, dim, x.shape[dim], x.stride(dim), base, False)
    return Rows(x, shape, (), (), place, 0)


def gather(x: Buffer, dim: int, index: Buffer) -> Buffer:
    """``out[i, j, k] = x[index[i, j, k], j, k]`` for ``dim`` 0, and so for every ``dim``.

    ``index``: int64 or int32, not negative, of the rank of ``x``, no larger than it apart from ``dim``. FLOPs 0.

    Raises:
        RuntimeError: for another index dtype or rank, or a larger index.
        IndexError: if an index is out of range (on a GPU in debug mode only).
    """
    out = _gather(elementwise_rows("gather", x, dim, index))
    return out if x.dim() else memory.as_strided(out, (), ())


def masked_select(x: Buffer, mask: Buffer) -> Buffer:
    """The elements of ``x`` where ``mask`` (broadcast with it) is True, in row-major order."""
    shape = strides.broadcast_shapes("masked_select", x.shape, mask.shape)
    full = [memory.as_strided(v, shape, strides.broadcast_strides(v, shape)) for v in (x, mask)]
    if not shape:
        full = [memory.as_strided(v, (1,), (1,)) for v in full]
    return index(full[0], [full[1]])
