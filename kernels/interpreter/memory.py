"""Loads, stores, descriptors and atomics on symbolic pointers, as slices of kernel memory.

A load is noted as a ``Loaded`` and reads nothing until its value is used; one that is a contiguous slice is then read in
place. Before a store writes to an address, every load of it that is still noted takes its copy (``release``), so that a
value never changes after its load. A store of what is yet to be computed is noted too (see ``stores``), until another
access might see the difference or the program ends. What has no symbolic form takes Triton's own path, element by element.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter import dtypes, memo, observer
from tinyflow.kernels.interpreter.expressions import Applied, Deferred
from tinyflow.kernels.interpreter.forms import POINTER, Box, Form, Separable, Shape, Splat, uniform_box
from tinyflow.kernels.interpreter.handles import (
    Handle,
    array_dtype,
    form_of,
    glance,
    numpy_dtype,
    operand,
    peek,
    shape_of,
    symbolic,
)
from tinyflow.kernels.interpreter.loaded import Loaded as Loaded
from tinyflow.kernels.interpreter.loaded import forget_loads
from tinyflow.kernels.interpreter.loaded import release as release
from tinyflow.kernels.interpreter.regions import Region, locate, view
from tinyflow.kernels.interpreter.stores import flush as flush
from tinyflow.kernels.interpreter.stores import flush_if_within, note

#: Cache policies, of which Triton's versions pass different numbers and no interpreter makes use.
_LOAD_POLICIES = [None] * (stock.InterpreterBuilder.create_masked_load.__code__.co_argcount - 4)
_STORE_POLICIES = [None] * (stock.InterpreterBuilder.create_masked_store.__code__.co_argcount - 4)


def forget() -> None:
    """After a launch: its loads are no longer anyone's."""
    forget_loads()
    _row_counts.forget()


def _mask_box(mask: Any, shape: Shape) -> Any:
    """The Box of a mask over a tile of the given shape (None: nothing is masked), or False if it has none."""
    if mask is None:
        return None
    form = form_of(mask) if isinstance(mask, stock.TensorHandle) else None
    return form if type(form) is Box and form.shape == shape else False


def _stock_mask(pointer: Any, mask: Any) -> Any:
    return symbolic(uniform_box(shape_of(pointer), True), tl.int1) if mask is None else mask


def element_size(pointer: Any) -> int:
    return max(1, pointer.get_element_ty().primitive_bitwidth // 8)


def load(builder: Any, pointer: Any, mask: Any, other: Any) -> Handle:
    """The value that ``pointer`` points to where ``mask`` allows; ``mask`` and ``other`` may be None."""
    memo.note_effect()
    if observer.current is not None:
        observer.current.on_load(pointer, mask, other)
    element = pointer.get_element_ty()
    dtype = numpy_dtype(element)
    pointers = form_of(pointer)
    if type(pointers) is Separable:
        box = _mask_box(mask, pointers.shape)
        value = (
            _load_box(pointers, box, other, dtype) if box is not False else _load_lanes(pointers, mask, other, dtype)
        )
        if value is not None:
            return symbolic(value, element) if type(value) is not np.ndarray else Handle(value, element)
    flush()
    result = stock.InterpreterBuilder.create_masked_load(
        builder, pointer, _stock_mask(pointer, mask), other, *_LOAD_POLICIES
    )
    return Handle(result.data, element)


def _fill_of(other: Any, dtype: np.dtype) -> Form | np.ndarray | None:
    """What masked lanes hold: None for zeros, a Splat, an array or a form of the load's numpy type."""
    if other is None:
        return None
    fill = operand(other)
    if type(fill) is Splat:
        return fill if fill.dtype == dtype else Splat(fill.shape, fill.value.astype(dtype))
    if fill.dtype != dtype or isinstance(fill, Deferred | Loaded):
        return other.data.astype(dtype, copy=False)
    return fill


def _load_box(pointers: Separable, box: Box | None, other: Any, dtype: np.dtype) -> Any:
    region = locate(pointers, box, dtype.itemsize)
    if region is None:
        fill = _fill_of(other, dtype)
        return Splat(pointers.shape, np.zeros((), dtype)) if fill is None else fill
    flush_if_within(region, dtype.itemsize)
    memory = region.view(dtype)
    if memory is None:
        return None
    loaded = Loaded(pointers.shape, dtype, region, memory, _fill_of(other, dtype))
    return loaded if memory.size > 64 else loaded.dense()


def _lanes(mask: Any, shape: Shape) -> np.ndarray | None:
    """The lanes that a mask leaves, where it is no box."""
    if not isinstance(mask, stock.TensorHandle) or shape_of(mask) != shape:
        return None
    return peek(mask).astype(np.bool_, copy=False)


def _load_lanes(pointers: Separable, mask: Any, other: Any, dtype: np.dtype) -> np.ndarray | None:
    """A load through a mask that is no box: only the lanes that it leaves are read."""
    lanes = _lanes(mask, pointers.shape)
    if lanes is None:
        return None
    flush()
    pieces = _pieces(pointers, lanes, dtype)
    if pieces is None:
        return None
    out = np.empty(pointers.shape, dtype)
    fill = np.zeros((), dtype) if other is None else glance(other).astype(dtype, copy=False)
    if pieces and pieces[0].index is None or len(pieces) < len(out) or not all(p.compact for p in pieces):
        out[...] = fill
    elif not all(p.memory.size == out.shape[1] for p in pieces):
        fill = np.broadcast_to(fill, out.shape)
        for piece in pieces:
            row, n = piece.index[0], piece.memory.size
            out[row, n:] = fill[row, n:]
    for piece in pieces:
        piece.copy_to(out, lanes)
    return out


#: Rows at least this long are read and written one after the other where their addresses follow no stride.
_LEAST_ROW = 64


@dataclass(frozen=True)
class _Piece:
    """A strided view of memory for a whole tile (index None), or for the first elements of a row (row, slice).

    It may reach beyond what is allocated, but only where no lane is left. ``compact``: every lane of it is left.
    """

    index: Any
    memory: np.ndarray
    compact: bool

    def copy_to(self, tile: np.ndarray, lanes: np.ndarray) -> None:
        if self.compact:
            tile[self.index] = self.memory
        elif self.index is None:
            np.copyto(tile, self.memory, where=lanes)
        else:
            np.copyto(tile[self.index], self.memory, where=lanes[self.index])

    def copy_from(self, tile: np.ndarray, lanes: np.ndarray) -> None:
        if self.compact:
            self.memory[...] = tile[self.index]
        elif self.index is None:
            np.copyto(self.memory, tile, where=lanes)
        else:
            np.copyto(self.memory, tile[self.index], where=lanes[self.index])


class _RowCounts:
    """How many lanes of each row a mask leaves, and whether they are its first ones; kept for the last mask asked for."""

    def __init__(self) -> None:
        self.lanes: np.ndarray | None = None
        self.counts: list[tuple[int, bool]] = []

    def of(self, lanes: np.ndarray) -> list[tuple[int, bool]]:
        if self.lanes is not lanes:
            self.lanes = lanes
            self.counts = []
            for row in lanes:
                count = int(np.count_nonzero(row))
                compact = count == row.size or int(np.count_nonzero(row[:count])) == count
                self.counts.append((count, compact))
        return self.counts

    def forget(self) -> None:
        self.lanes = None


_row_counts = _RowCounts()


def _pieces(pointers: Separable, lanes: np.ndarray, dtype: np.dtype) -> list[_Piece] | None:
    """The memory of a tile: one piece, or one for each row that any lane is left of; None if it has no such form."""
    region = locate(pointers, None, dtype.itemsize)
    if region is None:
        return None
    if not region.picks:
        memory = region.view(dtype)
        return None if memory is None else [_Piece(None, memory, False)]
    if len(pointers.shape) != 2 or list(region.picks) != [0] or pointers.shape[1] < _LEAST_ROW:
        return None
    starts = (region.picks[0] * region.strides[0] + region.address).tolist()
    pieces = []
    for row, (start, (count, compact)) in enumerate(zip(starts, _row_counts.of(lanes))):
        if count:
            n = count if compact else lanes.shape[1]
            memory = view(start, (n,), region.strides[1:], dtype)
            if memory is None:
                return None
            pieces.append(_Piece((row, slice(0, n)), memory, compact))
    return pieces


def _apart(pieces: list[_Piece], region: Region | None, size: int) -> bool:
    """True if the addresses of the pieces are provably all different."""
    if pieces and pieces[0].index is None:
        return region is not None and region.is_injective(size)
    if any(piece.memory.size > 1 and piece.memory.strides[0] < size for piece in pieces):
        return False
    ends = sorted(np.lib.array_utils.byte_bounds(piece.memory) for piece in pieces)
    return all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


def store(builder: Any, pointer: Any, value: Any, mask: Any) -> None:
    """Writes ``value`` to where ``pointer`` points and ``mask``, which may be None, allows."""
    memo.note_effect()
    if observer.current is not None:
        observer.current.on_store(pointer, value, mask)
    pointers = form_of(pointer)
    if type(pointers) is Separable and shape_of(value) == pointers.shape:
        box = _mask_box(mask, pointers.shape)
        if box is not False:
            if _store_box(pointers, box, value):
                return
        elif _store_lanes(pointers, mask, value):
            return
    flush()
    release()
    value.data  # noqa: B018 - computed before anything is written
    stock.InterpreterBuilder.create_masked_store(builder, pointer, value, _stock_mask(pointer, mask), *_STORE_POLICIES)


def _store_box(pointers: Separable, box: Box | None, value: Any) -> bool:
    content: Any = operand(value)
    dtype = content.dtype
    region = locate(pointers, box, dtype.itemsize)
    if region is None:
        return True
    memory = region.view(dtype)
    if memory is None or not region.is_injective(dtype.itemsize):
        return False
    flush_if_within(region, dtype.itemsize)
    if isinstance(content, Deferred) and content.leaf() is None and not region.picks:
        if type(content) is Applied and region.is_plain():
            note(content, region, memory)
            if observer.current is not None:
                flush()
            return True
        if region.covers(pointers.shape):
            release(*region.extent(dtype.itemsize))
            content.compute_into(memory)
            content.settle_at(Loaded(pointers.shape, dtype, region, memory, None))
            return True
        if hasattr(content, "compute_rows") and region.is_top(pointers.shape):
            release(*region.extent(dtype.itemsize))
            content.compute_rows(memory)
            return True
    release(*region.extent(dtype.itemsize))
    source = content if type(content) is np.ndarray else content.peek()
    memory[region.index()] = source[region.tile_index()]
    return True


def _store_lanes(pointers: Separable, mask: Any, value: Any) -> bool:
    lanes = _lanes(mask, pointers.shape)
    if lanes is None:
        return False
    dtype = array_dtype(value)
    pieces = _pieces(pointers, lanes, dtype)
    if pieces is None or not _apart(pieces, locate(pointers, None, dtype.itemsize), dtype.itemsize):
        return False
    flush()
    for piece in pieces:
        release(*np.lib.array_utils.byte_bounds(piece.memory))
    source = peek(value)
    for piece in pieces:
        piece.copy_from(source, lanes)
    return True


def descriptor_tile(descriptor: Any, offsets: list[Any]) -> tuple[Handle, Handle]:
    """The pointers and the mask of the block of a tensor descriptor at the given offsets."""
    element = descriptor.base.dtype.element_ty
    size = element.primitive_bitwidth // 8
    address = int(descriptor.base.data.item())
    starts = [int(offset.data.item()) for offset in offsets]
    assert starts[-1] * size % 16 == 0, "block offset start must be 16-byte aligned"
    steps, axes = [], []
    for start, stride, length, n in zip(starts, descriptor.strides, descriptor.shape, descriptor.block_shape):
        step = int(stride.data.item()) * size
        address += start * step
        steps.append(step)
        low = min(max(-start, 0), n)
        axes.append((low, max(low, min(int(length.data.item()) - start, n))))
    shape = tuple(descriptor.block_shape)
    pointers = Separable(shape, address, tuple(steps), POINTER)
    return symbolic(pointers, descriptor.base.dtype.scalar), symbolic(Box(shape, tuple(axes)), tl.int1)


def descriptor_fill(descriptor: Any, shape: Shape) -> Handle:
    """What lies outside the tensor of a descriptor: zeros (which a GPU promises too), or NaN if it was made so."""
    element = descriptor.base.dtype.element_ty
    nan = descriptor.padding == stock._ir.PADDING_OPTION.PAD_NAN
    return symbolic(Splat(shape, dtypes.quiet_nan(element) if nan else np.zeros((), numpy_dtype(element))), element)


class MemoryOperations:
    """The memory operations of the builder. What further arguments say of caches is nothing to an interpreter."""

    def create_load(self, pointer: Any, *_: Any) -> Handle:
        return load(self, pointer, None, None)

    def create_masked_load(self, pointer: Any, mask: Any, other: Any, *_: Any, **__: Any) -> Handle:
        return load(self, pointer, mask, other)

    def create_store(self, pointer: Any, value: Any, *_: Any) -> None:
        store(self, pointer, value, None)

    def create_masked_store(self, pointer: Any, value: Any, mask: Any, *_: Any) -> None:
        store(self, pointer, value, mask)

    def create_descriptor_load(self, descriptor: Any, offsets: list[Any], *_: Any) -> Handle:
        pointer, mask = descriptor_tile(descriptor, offsets)
        value = load(self, pointer, mask, descriptor_fill(descriptor, shape_of(pointer)))
        if getattr(descriptor, "round_f32_to_tf32", False) and value.dtype == tl.float32:
            return Handle(stock._round_f32_to_tf32(peek(value)), tl.float32)
        return value

    def create_descriptor_store(self, descriptor: Any, value: Any, offsets: list[Any]) -> None:
        pointer, mask = descriptor_tile(descriptor, offsets)
        store(self, pointer, value, mask)

    def create_atomic_rmw(self, operation: Any, pointer: Any, value: Any, mask: Any, *rest: Any) -> Any:
        memo.note_effect()
        if observer.current is not None:
            observer.current.on_atomic(pointer, value, mask)
        flush()
        release()
        if value.dtype.scalar == tl.bfloat16:
            return dtypes.atomic_bfloat16(operation, pointer, value, mask)
        return super().create_atomic_rmw(operation, pointer, value, mask, *rest)  # type: ignore[misc]

    def create_atomic_cas(self, pointer: Any, compare: Any, value: Any, *rest: Any) -> Any:
        memo.note_effect()
        if observer.current is not None:
            observer.current.on_atomic(pointer, value, None)
        flush()
        release()
        return super().create_atomic_cas(pointer, compare, value, *rest)  # type: ignore[misc]
