"""The values of loads: regions of memory, read when they are needed, and in place where nothing stands in the way."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyflow.kernels.interpreter.expressions import Index
from tinyflow.kernels.interpreter.forms import Form, Shape, Splat
from tinyflow.kernels.interpreter.regions import Region, view

_pending: list[weakref.ref[Loaded]] = []


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

    def window(self, part: Index) -> np.ndarray | None:
        """A part of the value (slices with both ends) where it lies, or None where it has to be assembled."""
        if self._array is not None:
            return self._array[part]
        cuts = []
        for cut, position in zip(part, self.region.positions):
            if type(position) is not slice or cut.start < position.start or cut.stop > position.stop:
                return None
            cuts.append(slice(cut.start - position.start, cut.stop - position.start))
        return None if self.region.picks else self.memory[tuple(cuts)]

    def block(self, index: Index, scratch: np.ndarray) -> np.ndarray:
        """A block of the value: a view where nothing stands in the way, else assembled in ``scratch``."""
        if self._array is not None:
            return self._array[index]
        if self._rows is None:
            self._rows = (_Rows.of(self) if self.region.picks else None) or False
        if self._rows:
            if scratch.shape[1:] == self.shape[1:]:
                self._rows.read(index[0], scratch)
                return scratch
            rows = np.empty((scratch.shape[0], *self.shape[1:]), self.dtype)
            self._rows.read(index[0], rows)
            columns = (slice(None), *index[1:])
            return rows[columns]
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
                table.take(rows, axis=0, out=out, mode="clip")  # clip: no second, checking pass
            else:
                out[:, columns] = table[rows]
        if self.width < self.loaded.shape[1]:
            self.loaded._fill_with(out[:, self.width :], (slice(start, stop), slice(self.width, None)))
        if self.missing.size:
            places = self._holes(start, stop)
            if places.size:
                fill = self.loaded.fill
                if fill is None:
                    out[places] = 0
                elif type(fill) is Splat:
                    out[places] = fill.value
                else:
                    out[places] = (fill if type(fill) is np.ndarray else fill.peek())[places + start]

    def _holes(self, start: int, stop: int) -> np.ndarray:
        """Which of the rows are masked out, counted from the first; worked out once for each layout."""
        known = self.loaded.region.known
        places = known.get((start, stop))
        if places is None:
            low, high = np.searchsorted(self.missing, (start, stop))
            places = known[start, stop] = self.missing[low:high] - start
        return places


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


def forget_loads() -> None:
    """After a launch: its loads are no longer anyone's."""
    _pending.clear()
