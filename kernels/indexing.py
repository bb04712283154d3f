"""Indexing by integers and masks: gather, scatter, nonzero, with a result that does not depend on any race.

Every form comes down to rows: position ``b`` of the index addresses a row of memory that starts at ``place[b]`` and
whose elements ``e`` lie at strides of their own. Each index buffer is folded into ``place`` by one small launch, which
also wraps negative indices. Gathering is then one kernel. Writing sorts the places (stably), so that rows of one place
are neighbours:

- without accumulation the last row of each place is written, as torch on the CPU does;
- with accumulation a segmented sum in steps of 8 (Hillis & Steele 1986, radix 8): after pass p, row s holds the sum of
  the rows of its place among the 8^(p+1) up to s. It takes ⌈log₈ B⌉ passes, no atomics, and one fixed order.

Indices out of range raise IndexError where the host can see the memory (the CPU). On a GPU no launch waits for the
check: they fail a ``device_assert`` in debug mode (``TRITON_DEBUG=1``) and else are clamped, so that memory stays
intact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets, stored_bool_as_int
from tinyflow.kernels.elementwise import copy, fill
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
from tinyflow.kernels.reduction import normalize_dims
from tinyflow.kernels.sorting import exclusive_sum, sort_order
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
    program = tl.program_id(0).to(INDEX)
    tiles = tl.cdiv(elements, BLOCK_E)
    b = (program // tiles) * BLOCK_B + tl.arange(0, BLOCK_B).to(INDEX)
    e = (program % tiles) * BLOCK_E + tl.arange(0, BLOCK_E).to(INDEX)
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


@triton.jit
def _segment_sum_kernel(
    keys_ptr,  # places in ascending order
    order_ptr,  # the row of each in values; None after the first pass
    values_ptr,
    out_ptr,  # (rows, elements), contiguous
    rows,
    elements,
    step,
    row_sizes,
    value_row_strides,
    element_sizes,
    value_element_strides,
    ROW_DIMS: tl.constexpr,
    ELEMENT_DIMS: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    program = tl.program_id(0).to(INDEX)
    tiles = tl.cdiv(elements, BLOCK_E)
    s = (program // tiles) * BLOCK_B + tl.arange(0, BLOCK_B).to(INDEX)
    e = (program % tiles) * BLOCK_E + tl.arange(0, BLOCK_E).to(INDEX)
    e_mask = (e < elements)[None, :]
    e_at = offsets(e, element_sizes, value_element_strides, ELEMENT_DIMS)[None, :]
    key = tl.load(keys_ptr + s, mask=s < rows, other=-1)
    total = tl.zeros((BLOCK_B, BLOCK_E), out_ptr.dtype.element_ty)
    for back in tl.static_range(8):
        t = s - (7 - back) * step  # from the earliest row on
        within = (t >= 0) & (t < rows)
        within = within & (tl.load(keys_ptr + t, mask=within, other=-2) == key)
        if order_ptr is not None:
            row = tl.load(order_ptr + t, mask=within, other=0).to(INDEX)
        else:
            row = t
        at = offsets(row, row_sizes, value_row_strides, ROW_DIMS)
        value = tl.load(values_ptr + at[:, None] + e_at, mask=within[:, None] & e_mask, other=0)
        total += stored_bool_as_int(value).to(total.dtype)
    tl.store(out_ptr + s[:, None] * elements + e[None, :], total, mask=(s < rows)[:, None] & e_mask)


@triton.jit
def _put_kernel(
    x_ptr,
    keys_ptr,  # places in ascending order
    order_ptr,  # the row of each in values; None where values lie in that order
    values_ptr,
    rows,
    elements,
    row_sizes,
    value_row_strides,
    element_sizes,
    x_element_strides,
    value_element_strides,
    ADD: tl.constexpr,
    ROW_DIMS: tl.constexpr,
    ELEMENT_DIMS: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    program = tl.program_id(0).to(INDEX)
    tiles = tl.cdiv(elements, BLOCK_E)
    s = (program // tiles) * BLOCK_B + tl.arange(0, BLOCK_B).to(INDEX)
    e = (program % tiles) * BLOCK_E + tl.arange(0, BLOCK_E).to(INDEX)
    key = tl.load(keys_ptr + s, mask=s < rows, other=-1)
    following = tl.load(keys_ptr + s + 1, mask=s + 1 < rows, other=-1)
    mask = ((s < rows) & (key != following))[:, None] & (e < elements)[None, :]  # one row for each place: its last
    if order_ptr is not None:
        row = tl.load(order_ptr + s, mask=s < rows, other=0).to(INDEX)
    else:
        row = s
    value = tl.load(
        values_ptr
        + offsets(row, row_sizes, value_row_strides, ROW_DIMS)[:, None]
        + offsets(e, element_sizes, value_element_strides, ELEMENT_DIMS)[None, :],
        mask=mask,
        other=0,
    )
    at = key.to(INDEX)[:, None] + offsets(e, element_sizes, x_element_strides, ELEMENT_DIMS)[None, :]
    if ADD:
        value += stored_bool_as_int(tl.load(x_ptr + at, mask=mask, other=0)).to(value.dtype)
    if x_ptr.dtype.element_ty == tl.int1:
        value = value != 0
    tl.store(x_ptr + at, value.to(x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _nonzero_count_kernel(x_ptr, counts_ptr, numel, sizes, x_strides, DIMS: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets(i, sizes, x_strides, DIMS), mask=i < numel, other=0)
    tl.store(counts_ptr + program, tl.sum((stored_bool_as_int(x) != 0).to(tl.int32), axis=0))


@triton.jit
def _nonzero_write_kernel(
    x_ptr,
    first_ptr,
    out_ptr,
    numel,
    sizes,
    x_strides,
    dim_sizes,
    DIMS: tl.constexpr,
    NDIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # out: (nonzero elements, NDIM)
    program = tl.program_id(0).to(tl.int64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets(i, sizes, x_strides, DIMS), mask=i < numel, other=0)
    found = stored_bool_as_int(x) != 0
    place = tl.load(first_ptr + program) + tl.cumsum(found.to(tl.int64), axis=0) - 1
    for k in tl.static_range(NDIM):
        tl.store(out_ptr + place * NDIM + (NDIM - 1 - k), i % dim_sizes[NDIM - 1 - k], mask=found)
        i = i // dim_sizes[NDIM - 1 - k]


_LINE = Config({"BLOCK": 1024})
_ELEMENTS = Config({"BLOCK_B": 256, "BLOCK_E": 1})
_SHORT_ROWS = Config({"BLOCK_B": 32, "BLOCK_E": 32})
_LONG_ROWS = Config({"BLOCK_B": 2, "BLOCK_E": 512})


def _choose_line(count: int) -> Config:
    return _LINE


def _interpreter_line(count: int) -> Config:
    return Config({"BLOCK": block(count)})


def _choose_rows(rows: int, elements: int) -> Config:
    return _ELEMENTS if elements == 1 else _SHORT_ROWS if elements <= 128 else _LONG_ROWS


def _interpreter_rows(rows: int, elements: int) -> Config:
    block_e = block(elements)
    return Config({"BLOCK_B": block(rows, MAX_BLOCK // block_e), "BLOCK_E": block_e})


_ROWS = (_ELEMENTS, _SHORT_ROWS, _LONG_ROWS)
place_configs = Configs("_place_kernel", (_LINE,), _choose_line, _interpreter_line)
nonzero_configs = Configs("_nonzero_write_kernel", (_LINE,), _choose_line, _interpreter_line)
gather_configs = Configs("_gather_kernel", _ROWS, _choose_rows, _interpreter_rows)
segment_sum_configs = Configs("_segment_sum_kernel", _ROWS, _choose_rows, _interpreter_rows)
put_configs = Configs("_put_kernel", _ROWS, _choose_rows, _interpreter_rows)


def _grid(config: Config, rows: int, elements: int) -> tuple[int]:
    return (cdiv(rows, config.blocks["BLOCK_B"]) * cdiv(elements, config.blocks["BLOCK_E"]),)


def _row_major(shape: Sequence[int], *views: Sequence[int]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The fewest dimensions that walk all views in row-major order: at least one."""
    sizes, (_, *walked) = strides.coalesce(shape, strides.contiguous_strides(shape), *views)
    return tuple(sizes or [1]), [tuple(w or [0]) for w in walked]


def _wide(*buffers: Buffer, rows: int, elements: int) -> Any:
    return tl.int64 if rows * elements > 2**30 else offset_dtype(*buffers)


@dataclass
class _Rows:
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
    sizes, (index_strides, base_strides) = _row_major(index_shape, strides.broadcast_strides(index, index_shape), base)
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


def _address(op: str, x: Buffer, indices: Sequence[Index]) -> _Rows:
    """The rows of ``x`` that an advanced index names.

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
        place = _fold_index(op, index, place, index_shape, k, x.shape[k], x.stride(k), (0,) * len(index_shape), True)
    assert place is not None
    return _Rows(
        x,
        index_shape,
        tuple(x.shape[k] for k in rest),
        tuple(x.stride(k) for k in rest),
        place,
        named[0] if together else 0,
    )


def _gather(rows: _Rows) -> Buffer:
    x = rows.x
    out = memory.empty(rows.shape, x.dtype, x.device)
    if out.numel() == 0:
        return out
    out_rows, out_elements = rows.parts(out.stride())
    row_sizes, (out_row_strides,) = _row_major(rows.index_shape, out_rows)
    element_sizes, (out_element_strides, x_element_strides) = _row_major(rows.row_shape, out_elements, rows.row_strides)
    config = gather_configs(x.dtype, rows=rows.rows, elements=rows.elements)
    launch(
        _gather_kernel,
        _grid(config, rows.rows, rows.elements),
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
        INDEX=_wide(x, out, rows=rows.rows, elements=rows.elements),
    )
    return out


def _elements_of(x: Buffer, place: Buffer) -> Buffer:
    return _gather(_Rows(x, tuple(place.shape), (), (), place, 0))


def _put(rows: _Rows, values: Buffer, accumulate: bool) -> None:
    """Writes ``values``, which broadcast to the result's shape, to the rows of ``x``, or adds them."""
    x = rows.x
    if rows.rows == 0 or rows.elements == 0:
        return
    if memory.may_overlap(x, values):  # values are read while x is written
        values = copy(values)
    value_rows, value_elements = rows.parts(strides.broadcast_strides(values, rows.shape))
    row_sizes, (value_row_strides,) = _row_major(rows.index_shape, value_rows)
    element_sizes, (x_element_strides, value_element_strides) = _row_major(
        rows.row_shape, rows.row_strides, value_elements
    )
    order: Buffer | None = sort_order(rows.place, memory.extent(x).bit_length())
    assert order is not None
    keys = _elements_of(rows.place, order)
    if accumulate:
        values = _segment_sums(
            keys, order, values, rows, row_sizes, value_row_strides, element_sizes, value_element_strides
        )
        order = None
        row_sizes, value_row_strides = (rows.rows,), (rows.elements,)
        element_sizes, (x_element_strides, value_element_strides) = _row_major(
            rows.row_shape, rows.row_strides, strides.contiguous_strides(rows.row_shape)
        )
    config = put_configs(x.dtype, rows=rows.rows, elements=rows.elements)
    count = rows.rows * rows.elements
    moved = count * x.element_size() * (2 if accumulate else 1)  # read as well, to be added to
    launch(
        _put_kernel,
        _grid(config, rows.rows, rows.elements),
        x,
        keys,
        order,
        values,
        rows.rows,
        rows.elements,
        row_sizes,
        value_row_strides,
        element_sizes,
        x_element_strides,
        value_element_strides,
        config=config,
        cost=Cost(count if accumulate else 0, nbytes(values, keys, order) + moved),
        device=x.device,
        ADD=accumulate,
        ROW_DIMS=len(row_sizes),
        ELEMENT_DIMS=len(element_sizes),
        INDEX=_wide(x, values, rows=rows.rows, elements=rows.elements),
    )


def _segment_sums(
    keys: Buffer,
    order: Buffer | None,
    values: Buffer,
    rows: _Rows,
    row_sizes: Shape,
    value_row_strides: Shape,
    element_sizes: Shape,
    value_element_strides: Shape,
) -> Buffer:
    """(rows, elements): for the last row of each place in ``keys`` the sum over its rows."""
    config = segment_sum_configs(values.dtype, rows=rows.rows, elements=rows.elements)
    for power in range(max(1, math.ceil(math.log(rows.rows, 8) - 1e-9))):
        out = memory.empty((rows.rows, rows.elements), dtypes.accumulate_dtype(rows.x.dtype), keys.device)
        launch(
            _segment_sum_kernel,
            _grid(config, rows.rows, rows.elements),
            keys,
            order,
            values,
            out,
            rows.rows,
            rows.elements,
            8**power,
            row_sizes,
            value_row_strides,
            element_sizes,
            value_element_strides,
            config=config,
            cost=Cost(7 * out.numel(), nbytes(keys, order, values, out)),
            device=keys.device,
            ROW_DIMS=len(row_sizes),
            ELEMENT_DIMS=len(element_sizes),
            INDEX=_wide(values, out, rows=rows.rows + 8**power * 8, elements=rows.elements),
        )
        values, order = out, None
        row_sizes, value_row_strides = (rows.rows,), (rows.elements,)
        element_sizes, value_element_strides = (rows.elements,), (1,)
    return values


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
    return _gather(_address("index", x, indices))


def index_put(x: Buffer, indices: Sequence[Index], values: Buffer, accumulate: bool = False) -> Buffer:
    """``x[indices] = values``, or ``x[indices] += values`` with ``accumulate``, in place; returns ``x``.

    ``values``: the dtype of ``x``, broadcast to the shape of ``x[indices]``. Where an index appears twice, the last
    value wins, or all are added in a fixed order, in float32 or better. ``x`` must not overlap itself. Indices and
    errors as :func:`index`.

    Raises:
        RuntimeError: if ``values`` have another dtype or do not broadcast.
    """
    op = "index_put"
    check_same_device(op, x=x, values=values)
    if values.dtype != x.dtype:
        raise RuntimeError(f"{op}: expected values of dtype {x.dtype}, got {values.dtype}")
    rows = _address(op, x, indices)
    if strides.broadcast_shapes(op, values.shape, rows.shape) != rows.shape:
        raise RuntimeError(f"{op}: values of shape {tuple(values.shape)} do not broadcast to {rows.shape}")
    _put(rows, values, accumulate)
    return x


def index_grad(grad: Buffer, indices: Sequence[Index], x_shape: Sequence[int]) -> Buffer:
    """The transpose of :func:`index`: zeros of ``x_shape`` to which ``grad`` is added at ``indices``."""
    return index_put(_zeros(grad, x_shape), indices, grad, accumulate=True)


def _zeros(grad: Buffer, shape: Sequence[int]) -> Buffer:
    return fill(memory.empty(tuple(shape), grad.dtype, grad.device), 0)


def _along(op: str, x: Buffer, dim: int, position: Buffer) -> _Rows:
    """The rows of ``x`` that a 1-d index along ``dim`` names."""
    (dim,) = normalize_dims(op, dim, x.dim()) or (0,)
    if position.dim() > 1:
        raise IndexError(f"{op}: expected a 1-d index, got shape {tuple(position.shape)}")
    if x.dim() == 0:
        x = memory.as_strided(x, (1,), (1,))
    position = memory.as_strided(position, (position.numel(),), (position.stride(0) if position.dim() else 1,))
    return _address(op, x, [None] * dim + [position])


def index_select(x: Buffer, dim: int, index: Buffer) -> Buffer:
    """``out = x`` along ``dim`` at the positions of the 1-d ``index``; else as :func:`index`."""
    out = _gather(_along("index_select", x, dim, index))
    return out if x.dim() else memory.as_strided(out, (), ())


def index_add(x: Buffer, dim: int, index: Buffer, source: Buffer) -> Buffer:
    """Adds ``source`` to ``x`` along ``dim`` at the positions of the 1-d ``index``, in place, in a fixed order."""
    rows = _along("index_add", x, dim, index)
    if source.dtype != x.dtype:
        raise RuntimeError(f"index_add: expected a source of dtype {x.dtype}, got {source.dtype}")
    if tuple(source.shape) != rows.shape:
        raise RuntimeError(f"index_add: expected a source of shape {rows.shape}, got {tuple(source.shape)}")
    _put(rows, source, accumulate=True)
    return x


def index_select_grad(grad: Buffer, dim: int, index: Buffer, x_shape: Sequence[int]) -> Buffer:
    """The transpose of :func:`index_select`: zeros of ``x_shape`` to which ``grad`` is added."""
    shape = tuple(x_shape) or (1,)
    grad = grad if grad.dim() else memory.as_strided(grad, (1,), (1,))
    out = index_add(_zeros(grad, shape), dim, index, grad)
    return out if x_shape else memory.as_strided(out, (), ())


def _elementwise_rows(op: str, x: Buffer, dim: int, index: Buffer) -> _Rows:
    """The elements of ``x`` that ``index``, of its rank, names along ``dim``."""
    check_same_device(op, x=x, index=index)
    if index.dtype != memory.int64:
        raise RuntimeError(f"{op}: expected an int64 index, got {index.dtype}")
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
    return _Rows(x, shape, (), (), place, 0)


def gather(x: Buffer, dim: int, index: Buffer) -> Buffer:
    """``out[i, j, k] = x[index[i, j, k], j, k]`` for ``dim`` 0, and so for every ``dim``.

    ``index``: int64, not negative, of the rank of ``x``, no larger than it apart from ``dim``. FLOPs 0.

    Raises:
        RuntimeError: for another index dtype or rank, or a larger index.
        IndexError: if an index is out of range (on a GPU in debug mode only).
    """
    out = _gather(_elementwise_rows("gather", x, dim, index))
    return out if x.dim() else memory.as_strided(out, (), ())


def scatter_add(x: Buffer, dim: int, index: Buffer, source: Buffer) -> Buffer:
    """``x[index[i, j, k], j, k] += source[i, j, k]`` for ``dim`` 0, and so for every ``dim``; in place, in a fixed
    order.

    ``source`` has the dtype of ``x`` and at least the size of ``index``; else as :func:`gather`. Returns ``x``.
    """
    _scatter("scatter_add", x, dim, index, source, True)
    return x


def scatter(x: Buffer, dim: int, index: Buffer, source: Buffer) -> Buffer:
    """``x[index[i, j, k], j, k] = source[i, j, k]`` for ``dim`` 0, and so on; in place; the last of several wins."""
    _scatter("scatter", x, dim, index, source, False)
    return x


def _scatter(op: str, x: Buffer, dim: int, index: Buffer, source: Buffer, accumulate: bool) -> None:
    if source.dtype != x.dtype:
        raise RuntimeError(f"{op}: expected a source of dtype {x.dtype}, got {source.dtype}")
    if source.dim() != index.dim() or any(n > m for n, m in zip(index.shape, source.shape)):
        raise RuntimeError(
            f"{op}: expected a source at least as large as index {tuple(index.shape)}, got {tuple(source.shape)}"
        )
    rows = _elementwise_rows(op, x, dim, index)
    source = memory.as_strided(source, rows.index_shape, source.stride() or (1,))
    _put(rows, source, accumulate)


def gather_grad(grad: Buffer, dim: int, index: Buffer, x_shape: Sequence[int]) -> Buffer:
    """The transpose of :func:`gather`: zeros of ``x_shape`` to which ``grad`` is added at ``index``."""
    return scatter_add(_zeros(grad, x_shape), dim, index, grad)


def nonzero(x: Buffer) -> Buffer:
    """The coordinates of the nonzero elements: int64 of shape (count, dimensions), in row-major order.

    The count is read back, so on a GPU this waits for the device. FLOPs 0. Bytes: ``x`` read twice, the result written.

    Raises:
        RuntimeError: on the ``meta`` device, where there is nothing to count.
    """
    if x.device.type == "meta":
        raise RuntimeError("nonzero: the result's shape depends on values, which the meta device does not have")
    if x.numel() == 0:
        return memory.empty((0, x.dim()), memory.int64, x.device)
    first = _nonzero_first(x)
    found = memory.item(memory.as_strided(first, (), (), first.numel() - 1))
    return _nonzero_coordinates(x, first, memory.empty((found, x.dim()), memory.int64, x.device))


def _nonzero_first(x: Buffer) -> Buffer:
    """The number of nonzero elements before each tile of ``x``, and in all of it."""
    config = nonzero_configs(count=x.numel())
    programs = cdiv(x.numel(), config.blocks["BLOCK"])
    sizes, (x_strides,) = _row_major(tuple(x.shape), tuple(x.stride()))
    counts = memory.empty((programs,), memory.int32, x.device)
    cost = Cost(0, nbytes(x, counts))
    arguments = x, counts, x.numel(), sizes, x_strides
    launch(_nonzero_count_kernel, (programs,), *arguments, config=config, cost=cost, device=x.device, DIMS=len(sizes))
    return exclusive_sum(counts)


def _nonzero_coordinates(x: Buffer, first: Buffer, out: Buffer) -> Buffer:
    if out.numel() == 0:
        return out
    sizes, (x_strides,) = _row_major(tuple(x.shape), tuple(x.stride()))
    launch(
        _nonzero_write_kernel,
        (first.numel() - 1,),
        x,
        first,
        out,
        x.numel(),
        sizes,
        x_strides,
        tuple(x.shape),
        config=nonzero_configs(count=x.numel()),
        cost=Cost(0, nbytes(x, first, out)),
        device=x.device,
        DIMS=len(sizes),
        NDIM=x.dim(),
    )
    return out


def masked_select(x: Buffer, mask: Buffer) -> Buffer:
    """The elements of ``x`` where ``mask`` (broadcast with it) is True, in row-major order."""
    shape = strides.broadcast_shapes("masked_select", x.shape, mask.shape)
    full = [memory.as_strided(v, shape, strides.broadcast_strides(v, shape)) for v in (x, mask)]
    if not shape:
        full = [memory.as_strided(v, (1,), (1,)) for v in full]
    return index(full[0], [full[1]])
