"""Factors of products, read in blocks of rows and columns.

A load whose rows and columns follow progressions of progressions (pixels of images, taps of a window with their
channels) is a strided view of more dimensions, and a block of it is copied in a few large pieces instead of row by row.
What a mask leaves out is known, so that products pass over it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyflow.kernels.interpreter.expressions import Transposed
from tinyflow.kernels.interpreter.forms import Shape, Splat
from tinyflow.kernels.interpreter.loaded import Loaded
from tinyflow.kernels.interpreter.regions import Nest, as_nests, view

Part = tuple[tuple[slice, ...], Shape, int, int]  # an index of nested axes, its shape, and the range that it covers


def parts(shape: Shape, start: int, stop: int, offset: int = 0) -> Iterator[Part]:
    """The elements start..stop-1, in C order, of nested axes, as boxes of these axes."""
    if start >= stop:
        return
    below = math.prod(shape[1:])
    first, last = -(-start // below), stop // below
    if first <= last:
        if first * below > start:
            yield from _within(shape, start, first * below, offset)
        if first < last:
            index = (slice(first, last), *(slice(0, n) for n in shape[1:]))
            yield index, (last - first, *shape[1:]), offset + first * below, offset + last * below
        if last * below < stop:
            yield from _within(shape, last * below, stop, offset)
    else:
        yield from _within(shape, start, stop, offset)


def _within(shape: Shape, start: int, stop: int, offset: int) -> Iterator[Part]:
    """Parts that share their index along the outermost axis."""
    below = math.prod(shape[1:])
    item = start // below
    for index, extents, low, high in parts(shape[1:], start - item * below, stop - item * below, offset + item * below):
        yield (slice(item, item + 1), *index), (1, *extents), low, high


class Tile:
    """A loaded matrix; ``transposed`` shows it with its axes exchanged."""

    def __init__(self, loaded: Loaded, transposed: bool = False) -> None:
        self.loaded = loaded
        self.transposed = transposed
        self.dtype = loaded.dtype
        region = loaded.region
        # in the order of rows or of columns, as a BLAS takes it
        self._is_plain = not region.picks and (is_by_rows(loaded.memory) or is_by_rows(loaded.memory.T))
        self._pieces: list[tuple[Nest, Nest, np.ndarray]] = []
        #: Whether blocks can be assembled from memory.
        self.readable = loaded._array is None and all(type(p) is slice for p in region.positions) and self._spread()

    def _spread(self) -> bool:
        region = self.loaded.region
        nests = region.nested()
        if nests is None:
            return False
        for down, across in itertools.product(*nests):
            at = region.address + down.origin + across.origin
            memory = view(at, (*down.shape, *across.shape), (*down.steps, *across.steps), self.dtype)
            if memory is None:
                return False
            self._pieces.append((down, across, memory))
        return True

    def block(self, rows: slice, columns: slice, scratch: np.ndarray) -> np.ndarray:
        """The block of these rows and columns: a view, or assembled in ``scratch``, a flat array of bytes."""
        if self.transposed:
            return self._read(columns, rows, scratch).T
        return self._read(rows, columns, scratch)

    def _read(self, rows: slice, columns: slice, scratch: np.ndarray) -> np.ndarray:
        loaded = self.loaded
        down, across = loaded.region.positions
        if self._is_plain and down.start <= rows.start and rows.stop <= down.stop:
            if across.start <= columns.start and columns.stop <= across.stop:
                at = slice(columns.start - across.start, columns.stop - across.start)
                return loaded.memory[rows.start - down.start : rows.stop - down.start, at]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        out = np.ndarray((height, width), self.dtype, scratch)
        top, bottom = max(rows.start, down.start), min(rows.stop, down.stop)
        left, right = max(columns.start, across.start), min(columns.stop, across.stop)
        if bottom - top < height or right - left < width:
            loaded._fill_with(out, (rows, columns))
        size = self.dtype.itemsize
        corner = (down.start - rows.start) * width + across.start - columns.start
        for tall, wide, memory in self._pieces:
            for above, height, first, _ in _parts_within(tall, top - down.start, bottom - down.start):
                for beside, breadth, begin, _ in _parts_within(wide, left - across.start, right - across.start):
                    strides = (*_c_order(height, width * size), *_c_order(breadth, size))
                    at_byte = (corner + first * width + begin) * size
                    target = np.ndarray((*height, *breadth), self.dtype, scratch, at_byte, strides)
                    np.copyto(target, memory[above + beside])
        return out


def _parts_within(nest: Nest, start: int, stop: int) -> Iterator[Part]:
    """The parts of a nest that are among the elements start..stop-1 of its axis."""
    first, last = max(start - nest.start, 0), min(stop - nest.start, math.prod(nest.shape))
    return parts(nest.shape, first, last, nest.start)


def _c_order(shape: Shape, step: int) -> Shape:
    """Strides of an axis of the given step that is shown as several."""
    strides = []
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def tile_of(value: Any) -> Tile | None:
    """The tile of a load or of a transposed load; None for another value, and for a load that is an array already."""
    transposed = type(value) is Transposed
    source = value.source if transposed else value
    if type(source) is not Loaded or len(source.shape) != 2 or source._array is not None:
        return None
    tile = Tile(source, transposed)
    return tile if tile.readable else None


class Scratch:
    """Memory of a worker, by number, that grows as it is asked for."""

    def __init__(self) -> None:
        self._memory: dict[int, np.ndarray] = {}

    def bytes(self, number: int, count: int) -> np.ndarray:
        memory = self._memory.get(number)
        if memory is None or memory.size < count:
            memory = self._memory[number] = np.empty(count, np.uint8)
        return memory

    def matrix(self, number: int, like: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """A matrix of the shape of another, and in the order of its columns where that is."""
        memory = self.bytes(number, like.size * dtype.itemsize)
        if like.strides[0] < like.strides[1]:
            return np.ndarray(like.shape[::-1], dtype, memory).T
        return np.ndarray(like.shape, dtype, memory)

    def converted(self, number: int, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        if x.dtype == dtype:
            return x
        wide = self.matrix(number, x, dtype)
        np.copyto(wide, x)
        return wide


class SomeRows:
    """A loaded matrix of which a mask leaves rows out here and there, with zeros in their place."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.table = loaded.memory
        self.positions: np.ndarray = loaded.region.positions[0]
        self.picks = loaded.region.picks.get(0)

    def among(self, start: int, stop: int) -> tuple[slice, Nest | None]:
        """Which of the rows that there are lie among start..stop-1, and a nest of their places from there on, if one."""
        known = self.loaded.region.known
        found = known.get(("among", start, stop))
        if found is None:
            low, high = (int(n) for n in np.searchsorted(self.positions, (start, stop)))
            nests = as_nests(self.positions[low:high] - start) if low < high else None
            found = slice(low, high), nests[0] if nests is not None and len(nests) == 1 else None
            known["among", start, stop] = found
        return found

    def read(self, cut: slice, scratch: np.ndarray) -> np.ndarray:
        """Some of the rows that there are: a view, or copied to ``scratch``, a flat array of bytes."""
        if self.picks is None:
            return self.table[cut]
        out = np.ndarray((cut.stop - cut.start, self.table.shape[1]), self.table.dtype, scratch)
        return self.table.take(self.picks[cut], axis=0, out=out, mode="clip")  # clip: no second, checking pass


def some_rows(value: Any, depth: int) -> SomeRows | None:
    """The rows that a mask leaves of a loaded matrix of this depth; None for any other value."""
    if type(value) is not Loaded or len(value.shape) != 2 or value._array is not None:
        return None
    region = value.region
    down, across = region.positions
    if type(down) is slice or type(across) is not slice or across.start or across.stop != depth or 1 in region.picks:
        return None
    return SomeRows(value) if _fills_with_zeros(value) else None


def is_by_rows(matrix: np.ndarray) -> bool:
    """True if a BLAS can read a matrix row by row where it lies."""
    if matrix.ndim != 2 or matrix.strides[1] != matrix.itemsize:
        return False
    return matrix.strides[0] >= matrix.shape[1] * matrix.itemsize and matrix.strides[0] % matrix.itemsize == 0


def extent(value: Any) -> Shape:
    """How many leading rows and columns of a matrix hold anything but zeros that a mask put there."""
    if type(value) is Transposed:
        return extent(value.source)[::-1]
    if type(value) is not Loaded or value._array is not None or not _fills_with_zeros(value):
        return value.shape
    return tuple(int(p.stop if type(p) is slice else p[-1] + 1) for p in value.region.positions)


def _fills_with_zeros(loaded: Loaded) -> bool:
    fill = loaded.fill
    return fill is None or type(fill) is Splat and not fill.value.tobytes().strip(b"\0")
