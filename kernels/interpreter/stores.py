"""Stores of values that are yet to be computed: noted, and computed together when an access might see the difference.

All that are noted are tiles of one shape, masked alike, so that one pass over their blocks computes and writes them all, and
what they have in common is computed once.
"""

from __future__ import annotations

import sys

import numpy as np

from tinyflow.kernels.interpreter.expressions import Applied, Program, nothing_else_asks, pending
from tinyflow.kernels.interpreter.loaded import Loaded, release
from tinyflow.kernels.interpreter.regions import Region

#: References to a Loaded that ``release`` and the function it asks hold while they look at it.
_OWN_REFERENCES = 3
#: Python 3.14 lends local variables without counting; there every load takes its copy.
_EVERY_REFERENCE_COUNTS = sys.version_info < (3, 14)

_Store = tuple[Applied, Region, np.ndarray]  # what is stored, where, and the memory there

_noted: list[_Store] = []
_MOST_NOTED = 4


def note(content: Applied, region: Region, memory: np.ndarray) -> None:
    """Notes a store of a value that is yet to be computed, to a region without picks."""
    if _noted and not _may_join(content, region):
        flush()
    _noted.append((content, region, memory))


def _may_join(content: Applied, region: Region) -> bool:
    """True if one more store can be computed together with those that are noted."""
    first, place, _ = _noted[0]
    if first.shape != content.shape or place.positions != region.positions or len(_noted) == _MOST_NOTED:
        return False
    return all(known is not content for known, _, _ in _noted)


def flush_if_within(region: Region, size: int) -> None:
    """Computes what is noted, if any of it lies where elements of ``size`` bytes are read or written next."""
    if not _noted:
        return
    low, high = region.extent(size)
    for _, region, memory in _noted:
        first, last = region.extent(memory.dtype.itemsize)
        if first < high and low < last:
            flush()
            return


def flush() -> None:
    """Computes and writes what stores have noted."""
    if not _noted:
        return
    stores = _noted[:]
    _noted.clear()
    done = [content.leaf() is not None for content, _, _ in stores]  # something asked for the value meanwhile
    if any(done):
        for (content, region, memory), computed in zip(stores, done):
            if computed:
                release(*region.extent(memory.dtype.itemsize))
                memory[...] = content.peek()[region.tile_index()]
            else:
                _compute([(content, region, memory)])
    else:
        _compute(stores)


def _compute(stores: list[_Store]) -> None:
    contents = [content for content, _, _ in stores]
    region = stores[0][1]
    whole = region.covers(contents[0].shape)
    program = Program(*contents)
    readers = _Readers(contents, program, whole)
    for n, (place, memory) in enumerate([store[1:] for store in stores]):  # no variable holds a value here
        readers.result, readers.region = n, place
        release(*place.extent(memory.dtype.itemsize), readers.spare if _EVERY_REFERENCE_COUNTS else None)
    program.run([memory for _, _, memory in stores], None if whole else region.positions)
    if whole:
        for content, place, memory in stores:
            content.settle_at(Loaded(content.shape, memory.dtype, place, memory, None))


class _Readers:
    """What is read to compute some values, asked for as they are written one after the other (``result``, ``region``)."""

    def __init__(self, contents: list[Applied], program: Program, whole: bool) -> None:
        self.contents = contents
        self.program = program
        self.whole = whole
        self.result = 0
        self.region: Region | None = None
        #: By identity, the references to each load; empty where others may ask for a value.
        self._counts: dict[int, int] | None = None

    def spare(self, loaded: Loaded) -> bool:
        """Whether a load may go on being read in place.

        That may be one of the very same elements, that nothing but the values refers to, if each block is read before it is
        written.
        """
        place, region = loaded.region, self.region
        assert region is not None
        same = place.address == region.address and place.strides == region.strides
        if not same or loaded.shape != self.contents[0].shape:
            return False
        if not place.is_plain() or place.positions != region.positions:
            return False
        if self._counts is None:
            self._counts = self._count()
        # the others are getrefcount's, this function's and those of release
        alone = sys.getrefcount(loaded) == self._counts.get(id(loaded), 0) + _OWN_REFERENCES
        return alone and self.program.may_overwrite(loaded, self.result)

    def _count(self) -> dict[int, int]:
        inner, uses = pending(self.contents)
        if not nothing_else_asks(inner, uses):
            return {}
        content = None
        # where a store leaves lanes out, its value is not settled by it, and nobody may ask for that either
        for content in [] if self.whole else self.contents:
            # beside its uses: the noted store, the list, the loop's variable and getrefcount's argument
            if sys.getrefcount(content) != uses.get(id(content), 0) + 4:
                return {}
        counts: dict[int, int] = {}
        for node in [*self.contents, *inner]:
            for child in node.operands:
                if type(child) is Loaded:
                    counts[id(child)] = counts.get(id(child), 0) + 1
        for leaf in [*self.program.leaves, *self.program.kept]:
            if type(leaf) is Loaded:
                counts[id(leaf)] = counts.get(id(leaf), 0) + 1
        return counts
