"""Loads, stores, descriptors and atomics on symbolic pointers, as slices of kernel memory.

A load is noted as a ``Loaded`` and reads nothing until its value is used; one that is a contiguous slice is then read in
place. Before a store writes to an address, every load of it that is still noted takes its copy (``release``), so that a
value never changes after its load. What has no symbolic form takes Triton's own path, element by element.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter import dtypes, memo, observer
from tinyflow.kernels.interpreter.expressions import Applied, Deferred, Index
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
from tinyflow.kernels.interpreter.regions import Region, locate, view

#: Cache policies, of which Triton's versions pass different numbers and no interpreter makes use.
_LOAD_POLICIES = [None] * (stock.InterpreterBuilder.create_masked_load.__code__.co_argcount - 4)
_STORE_POLICIES = [None] * (stock.InterpreterBuilder.create_masked_store.__code__.co_argcount - 4)

_pending: list[weakref.ref[Loaded]] = []


#: References to a Loaded that ``release`` and the function it asks hold while they look at it.
_OWN_REFERENCES = 3
#: Python 3.14 lends local variables without counting; there every load takes its copy.
_EVERY_REFERENCE_COUNTS = sys.version_info < (3, 14)


class Loaded:
    """The value of a load: elements of memory at a region of the tile, ``fill`` elsewhere."""

    __slots__ = ("shape", "dtype", "region", "fill", "memory", "_array", "_rows", "__weakref__")

    def __init__(self, shape: Shape, dtype: np.dtype, region: Region, memory: np.ndarray, fill: Form | None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.region = region
        self.memory = memory
        self.fill = fill
        self._array: np.ndarray | None = None
        self._rows: Any = None  # a _Rows, False where the load has no such form, None until that is known
        if len(_pending) >= 256:
            _pending[:] = [r for r in _pending if (value := r()) is not None and value._array is None]
        _pending.append(weakref.ref(self))

    def peek(self) -> np.ndarray:
        """The value in C order: the memory itself where it has that order."""
        if self._array is None and self.memory.flags.c_contiguous and self._is_whole():
            return self.memory
        return self.dense()

    def transposed_memory(self) -> np.ndarray | None:
        """The memory itself, where it holds the whole value column by column, as a BLAS reads it."""
        if self._array is not None or not self._is_whole() or self.memory.ndim != 2:
            return None
        size = self.dtype.itemsize
        down, across = self.memory.strides
        return self.memory if down == size and across >= size * self.shape[0] and across % size == 0 else None

    def dense(self) -> np.ndarray:
        """The value as an array of its own."""
        if self._array is None:
            out = np.empty(self.shape, self.dtype)
            self._fill_in(out)
            self._array = out
        return self._array

    def _is_whole(self) -> bool:
        return not self.region.picks and self.region.covers(self.shape)

    def _fill_in(self, out: np.ndarray) -> None:
        region = self.region
        if self._rows is None:
            self._rows = _Rows.of(self) or False
        if self._rows:
            self._rows.read(slice(0, self.shape[0]), out)
            return
        if not region.covers(self.shape):
            self._fill_with(out, (slice(None),) * len(self.shape))
        source = self.memory[region.index()] if region.picks else self.memory
        out[region.tile_index()] = source

    def _fill_with(self, out: np.ndarray, index: Index) -> None:
        if self.fill is None:
            out.fill(0)
        elif type(self.fill) is Splat:
            out[...] = self.fill.value
        elif type(self.fill) is np.ndarray:
            out[...] = self.fill[index]
        else:
            out[...] = self.fill.peek()[index]

    def block(self, index: Index, scratch: np.ndarray) -> np.ndarray:
        """A block of the value: a view where nothing stands in the way, else assembled in ``scratch``."""
        if self._array is not None:
            return self._array[index]
        if self._rows is None:
            self._rows = (_Rows.of(self) if self.region.picks else None) or False
        if self._rows:
            self._rows.read(index[0], scratch)
            return scratch
        if not self.region.is_plain():
            return self.dense()[index]
        cuts, inside = [], []
        whole = True
        for cut, position, n in zip(index, self.region.positions, self.shape):
            start, stop, _ = cut.indices(n)
            low, high = max(start, position.start), min(stop, position.stop)
            if low >= high:
                self._fill_with(scratch, index)
                return scratch
            whole = whole and low == start and high == stop
            cuts.append(slice(low - position.start, high - position.start))
            inside.append(slice(low - start, high - start))
        part = self.memory[tuple(cuts)]
        if whole:
            return part
        self._fill_with(scratch, index)
        scratch[tuple(inside)] = part
        return scratch


class _Rows:
    """A load that gathers along axis 0 of a tile of two or more dimensions, a row at a time.

    A row is one contiguous piece of memory, or a few (``pieces``: the columns of the tile, and a table whose row r holds
    what belongs there in tile rows that pick r). Rows that are masked out (``missing``) are filled afterwards.
    """

    __slots__ = ("pieces", "rows", "missing", "loaded", "width")

    def __init__(self, loaded: Loaded, pieces: list[tuple[slice, np.ndarray]]) -> None:
        self.loaded = loaded
        self.pieces = pieces
        self.width = loaded.region.positions[1].stop
        known = loaded.region.known
        if "rows" not in known:
            known["rows"] = _rows_and_holes(loaded.region.picks[0], loaded.region.positions[0], loaded.shape[0])
        self.rows, self.missing = known["rows"]

    @staticmethod
    def of(loaded: Loaded) -> _Rows | None:
        region, shape = loaded.region, loaded.shape
        if 0 not in region.picks or len(shape) == 1:
            return None
        if len(region.picks) == 1:
            if all(type(p) is slice and p.stop - p.start == n for p, n in zip(region.positions[1:], shape[1:])):
                return _Rows(loaded, [(slice(None), loaded.memory)])
            return None
        if len(shape) == 2 and type(region.positions[1]) is slice:
            pieces = _column_pieces(loaded)
            if pieces is not None:
                return _Rows(loaded, pieces)
        return None

    def read(self, cut: slice, out: np.ndarray) -> None:
        """Rows ``cut`` of the value into ``out``."""
        start, stop, _ = cut.indices(self.rows.size)
        rows = self.rows[start:stop]
        for columns, table in self.pieces:
            if table.flags.c_contiguous and columns == slice(None):
                np.take(table, rows, axis=0, out=out, mode="clip")  # clip: no second, checking pass
            else:
                out[:, columns] = table[rows]
        if self.width < self.loaded.shape[1]:
            self.loaded._fill_with(out[:, self.width :], (slice(start, stop), slice(self.width, None)))
        if self.missing.size:
            low, high = np.searchsorted(self.missing, (start, stop))
            if high > low:
                holes = self.missing[low:high]
                fill = self.loaded.fill
                if fill is None:
                    out[holes - start] = 0
                elif type(fill) is Splat:
                    out[holes - start] = fill.value
                else:
                    out[holes - start] = (fill if type(fill) is np.ndarray else fill.peek())[holes]


def _rows_and_holes(picks: np.ndarray, place: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A row of the table for each of n rows of the tile, any one for those that are masked out; and which those are."""
    if picks.size == n:
        return picks, np.empty(0, np.int64)
    rows = np.full(n, picks[0])
    rows[place] = picks
    masked = np.ones(n, np.bool_)
    masked[place] = False
    return rows, np.flatnonzero(masked)


#: A row of more pieces is gathered element by element instead.
_MOST_PIECES = 32


def _column_pieces(loaded: Loaded) -> list[tuple[slice, np.ndarray]] | None:
    """The columns of a tile whose columns are picked too, as runs of adjacent memory."""
    region = loaded.region
    columns = region.picks[1]
    size = loaded.dtype.itemsize
    if region.strides[1] != size or region.positions[1].start != 0:
        return None
    ends = [*(np.flatnonzero(np.diff(columns) != 1) + 1).tolist(), columns.size]
    if len(ends) > _MOST_PIECES:
        return None
    pieces, start = [], 0
    for end in ends:
        address = region.address + int(columns[start]) * size
        table = view(address, (region.shape[0], end - start), (region.strides[0], size), loaded.dtype)
        if table is None:
            return None
        pieces.append((slice(start, end), table))
        start = end
    return pieces


def release(low: int = 0, high: int = 1 << 62, spare: Callable[[Loaded], bool] | None = None) -> None:
    """Before bytes low..high-1 are written: every noted load of them takes its copy, but for those to ``spare``."""
    keep = []
    for reference in _pending:
        loaded = reference()
        if loaded is None or loaded._array is not None:
            continue
        first, last = loaded.region.extent(loaded.dtype.itemsize)
        if first < high and low < last and not (spare is not None and spare(loaded)):
            loaded.dense()
        else:
            keep.append(reference)
    _pending[:] = keep


def forget() -> None:
    """After a program: its loads are no longer anyone's."""
    _pending.clear()
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
    direct = isinstance(content, Deferred) and content.leaf() is None
    direct = direct and not region.picks and region.covers(pointers.shape)
    release(*region.extent(dtype.itemsize), _in_place(content, region) if direct else None)
    if direct:
        content.compute_into(memory)
        content.settle_at(Loaded(pointers.shape, dtype, region, memory, None))
        return True
    source = content if type(content) is np.ndarray else content.peek()
    memory[region.index()] = source[region.tile_index()]
    return True


def _in_place(content: Any, region: Region) -> Callable[[Loaded], bool] | None:
    """Which loads an expression may go on reading in place while it is stored to ``region``.

    Those of the very same elements, that nothing but the expression refers to: each block is read before it is written.
    """
    if type(content) is not Applied or type(content.function) is not np.ufunc or not _EVERY_REFERENCE_COUNTS:
        return None
    uses = content.own_leaves(Loaded)
    if not uses:
        return None

    def spare(loaded: Loaded) -> bool:
        place = loaded.region
        same = place.address == region.address and place.strides == region.strides and loaded.shape == content.shape
        # one reference each from its uses; the others are getrefcount's, this function's and those of release
        return same and loaded._is_whole() and sys.getrefcount(loaded) == uses.get(id(loaded), 0) + _OWN_REFERENCES

    return spare


def _store_lanes(pointers: Separable, mask: Any, value: Any) -> bool:
    lanes = _lanes(mask, pointers.shape)
    if lanes is None:
        return False
    dtype = array_dtype(value)
    pieces = _pieces(pointers, lanes, dtype)
    if pieces is None or not _apart(pieces, locate(pointers, None, dtype.itemsize), dtype.itemsize):
        return False
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
        release()
        if value.dtype.scalar == tl.bfloat16:
            return dtypes.atomic_bfloat16(operation, pointer, value, mask)
        return super().create_atomic_rmw(operation, pointer, value, mask, *rest)  # type: ignore[misc]

    def create_atomic_cas(self, pointer: Any, compare: Any, value: Any, *rest: Any) -> Any:
        memo.note_effect()
        if observer.current is not None:
            observer.current.on_atomic(pointer, value, None)
        release()
        return super().create_atomic_cas(pointer, compare, value, *rest)  # type: ignore[misc]
