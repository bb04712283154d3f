"""Kernel memory as numpy views, and where in it the unmasked part of a tile of pointers lies."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from tinyflow.kernels.interpreter.forms import Box, Separable, Shape, Vector

_FIRST_PAGE = 4096
#: All of user space as one buffer, so that a view of any address is an ndarray and nothing is copied.
_MEMORY = (ctypes.c_char * ((1 << 47) - _FIRST_PAGE)).from_address(_FIRST_PAGE)

#: The nests of which one axis of a tile may consist.
_MOST_NESTS = 8

Positions = Any  # a slice, or an array of indices


class Nest(NamedTuple):
    """A progression of progressions: ``origin + Σ_k i_k · steps[k]``, the indices of C order in ``shape``."""

    start: int  #: the index of its first value
    origin: int
    shape: Shape
    steps: Shape


def view(address: int, shape: Shape, strides: Shape, dtype: np.dtype) -> np.ndarray | None:
    """An array over kernel memory, or None if it would reach outside user space."""
    try:
        return np.ndarray(shape, dtype, _MEMORY, address - _FIRST_PAGE, strides)  # type: ignore[arg-type]
    except ValueError:
        return None


class Region:
    """The unmasked elements of a tile of pointers.

    They are the elements of a strided view (``address``, ``shape``, ``strides``), along each axis of ``picks`` taken at
    the given indices; in the tile they stand at ``positions``, one slice or index array for each axis.
    """

    __slots__ = ("address", "shape", "strides", "picks", "positions", "known")

    def __init__(
        self,
        address: int,
        shape: Shape,
        strides: Shape,
        picks: dict[int, np.ndarray],
        positions: tuple[Positions, ...],
        known: dict[Any, Any],
    ) -> None:
        self.address = address
        self.shape = shape
        self.strides = strides
        self.picks = picks
        self.positions = positions
        #: What has been worked out for this layout; shared by regions that differ in their address alone.
        self.known = known

    def at(self, base: int) -> Region:
        """The same layout, further on in memory."""
        return Region(self.address + base, self.shape, self.strides, self.picks, self.positions, self.known)

    def extent(self, size: int) -> tuple[int, int]:
        """The first byte, and the one after the last."""
        low = high = self.address
        for n, stride in zip(self.shape, self.strides):
            if stride > 0:
                high += stride * (n - 1)
            else:
                low += stride * (n - 1)
        return low, high + size

    def view(self, dtype: np.dtype) -> np.ndarray | None:
        return view(self.address, self.shape, self.strides, dtype)

    def is_plain(self) -> bool:
        """True if it has neither picks nor scattered positions."""
        return not self.picks and all(type(p) is slice for p in self.positions)

    def covers(self, shape: Shape) -> bool:
        """True if the whole tile is unmasked."""
        return all(type(p) is slice and p.stop - p.start == n for p, n in zip(self.positions, shape))

    def is_top(self, shape: Shape) -> bool:
        """True if it is the first rows of the tile, whole."""
        return self.is_plain() and self.positions[0].start == 0 and self.covers((self.positions[0].stop, *shape[1:]))

    def index(self) -> Any:
        """The index that picks the elements from the strided view."""
        if not self.picks:
            return ...
        if len(self.picks) == 1:
            (k,) = self.picks
            return (slice(None),) * k + (self.picks[k],)
        return np.ix_(*[self.picks.get(k, np.arange(n)) for k, n in enumerate(self.shape)])

    def tile_index(self) -> Any:
        """The index that addresses the elements in the tile."""
        if sum(type(p) is not slice for p in self.positions) < 2:
            return self.positions
        return np.ix_(*[np.arange(p.start, p.stop) if type(p) is slice else p for p in self.positions])

    def nested(self) -> tuple[list[Nest], ...] | None:
        """Each axis as a few progressions of progressions (see :func:`as_nests`), or None if one is no such thing."""
        if "nested" not in self.known:
            axes = []
            for k, (n, stride) in enumerate(zip(self.shape, self.strides)):
                axes.append(as_nests(self.picks[k] * stride) if k in self.picks else [Nest(0, 0, (n,), (stride,))])
            self.known["nested"] = None if None in axes else tuple(axes)
        return self.known["nested"]

    def is_injective(self, size: int) -> bool:
        """True if the addresses are provably all different."""
        if "injective" not in self.known:
            self.known["injective"] = self._prove_injective(size)
        return self.known["injective"]

    def _prove_injective(self, size: int) -> bool:
        steps = []
        for k, (n, stride) in enumerate(zip(self.shape, self.strides)):
            if k in self.picks:
                picks = self.picks[k]
                gaps = np.diff(picks)
                if gaps.size and gaps.min() <= 0:
                    gaps = np.diff(np.sort(picks))
                if gaps.size:
                    steps.append((int(gaps.min()) * abs(stride), abs(stride) * (n - 1)))
            elif n > 1:
                steps.append((abs(stride), abs(stride) * (n - 1)))
        reach = size
        for step, span in sorted(steps):
            if step < reach:
                return False
            reach += span
        return True


def locate(pointers: Separable, box: Box | None, size: int) -> Region | None:
    """Where the pointers that the mask leaves point to, for elements of ``size`` bytes. None if it leaves none.

    Layouts are remembered with the mask, or with a vector of the pointers: kernels come back to them with other bases.
    """
    vectors = [t for t in pointers.terms if type(t) is Vector]
    holder = box if box is not None else vectors[0] if vectors else None
    if holder is None:
        layout = _lay_out(pointers, box, size)
        return None if layout is None else layout.at(pointers.constant)
    key = (size, pointers.shape, *[t if type(t) is int else id(t) for t in pointers.terms])
    found = holder.regions.get(key)
    if found is None:
        found = holder.regions[key] = (_lay_out(pointers, box, size), vectors)  # vectors kept: their ids stay theirs
    return None if found[0] is None else found[0].at(pointers.constant)


def _lay_out(pointers: Separable, box: Box | None, size: int) -> Region | None:
    """The region relative to the constant of the pointers."""
    address = 0
    shape: list[int] = []
    strides: list[int] = []
    positions: list[Positions] = []
    offsets: dict[int, np.ndarray] = {}
    for k, (n, term) in enumerate(zip(pointers.shape, pointers.terms)):
        values = term.values if type(term) is Vector else None
        step = 0 if type(term) is Vector else term
        condition = box.axes[k] if box is not None else (0, n)
        if type(condition) is not tuple:
            indices = np.flatnonzero(condition)
            if not indices.size:
                return None
            first, last = int(indices[0]), int(indices[-1])
            if last - first + 1 == indices.size:
                condition = (first, last + 1)
            else:
                values = indices * step if values is None else values[indices]
                positions.append(indices)
        if type(condition) is tuple:
            low, high = condition
            if high <= low:
                return None
            n = high - low
            if values is not None:
                values = values[low:high]
            else:
                address += low * step
            positions.append(slice(low, high))
        if values is not None:
            start, step, progression = _as_progression(values)
            n = values.size
            if progression:
                address += start
            else:
                offsets[k] = values
        shape.append(n)
        strides.append(step if n > 1 else 0)
    picks = {}
    for k in sorted(offsets, reverse=True):
        values = offsets[k]
        low, high = int(values.min()), int(values.max())
        address += low
        values, strides[k] = _in_units(values - low, high - low, _dense_bytes(shape, strides, k + 1, size), size)
        shape[k] = (high - low) // strides[k] + 1
        picks[k] = values
    return Region(address, tuple(shape), tuple(strides), picks, tuple(positions), {})


def _as_progression(values: np.ndarray) -> tuple[int, int, bool]:
    start = int(values[0])
    if values.size == 1:
        return start, 0, True
    step = int(values[1]) - start
    if int(values[-1]) - start != step * (values.size - 1):
        return start, step, False
    return start, step, bool((values[1:] - values[:-1] == step).all())


def as_nests(values: np.ndarray) -> list[Nest] | None:
    """Values as a few nests, one after the other; None where that takes many.

    Consecutive pixels of images are of this kind: perhaps the rest of a row, rows that are the rest of an image, so many
    images of so many rows of so many columns, and the first part of another image.
    """
    first = int(values[0])
    if values.size == 1:
        return [Nest(0, first, (1,), (0,))]
    gaps = values[1:] - values[:-1]
    kinds, counts = np.unique(gaps, return_counts=True)
    step = int(kinds[np.argmax(counts)])
    if kinds.size == 1:
        return [Nest(0, first, (values.size,), (step,))]
    starts = np.concatenate([[0], np.flatnonzero(gaps != step) + 1])
    lengths = np.diff(np.append(starts, values.size))
    run = int(lengths[1] if lengths.size > 2 else lengths.max())
    head, tail = int(lengths[0]) if lengths[0] != run else 0, int(lengths[-1]) if lengths[-1] != run else 0
    lines = starts[bool(head) : starts.size - bool(tail)]
    if run == 1 or (lengths[bool(head) : starts.size - bool(tail)] != run).any():
        return None
    nests = [Nest(0, first, (head,), (step,))] if head else []
    inner = as_nests(values[lines])
    for start, origin, shape, steps in inner or ():
        nests.append(Nest(head + start * run, origin, (*shape, run), (*steps, step)))
    if tail:
        nests.append(Nest(values.size - tail, int(values[-tail]), (tail,), (step,)))
    return None if inner is None or len(nests) > _MOST_NESTS else nests


def _dense_bytes(shape: list[int], strides: list[int], first: int, size: int) -> int:
    """The bytes of one item of the axis before ``first``, if the axes from there on are contiguous; else ``size``."""
    total = size
    for n, stride in zip(reversed(shape[first:]), reversed(strides[first:])):
        if n > 1 and stride != total:
            return size
        total *= n
    return total


def _in_units(values: np.ndarray, span: int, *units: int) -> tuple[np.ndarray, int]:
    """The values as multiples of the first unit that divides them all."""
    for unit in units:
        if span % unit:
            continue
        if unit & (unit - 1) == 0:
            if not int(np.bitwise_or.reduce(values)) & (unit - 1):
                return values >> (unit.bit_length() - 1), unit
        elif not (values % unit).any():
            return values // unit, unit
    return values, 1
