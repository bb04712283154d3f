"""No kernel reads memory that nothing wrote, and outputs are written to the last element.

Memory that is followed is filled with *marks*: in each pair of bytes a NaN of float16 and bfloat16 (hence of float32
and float64), with seven bits that depend on the address. A byte counts as written once a kernel stored to it, or once
the eight-byte word around it is no longer all marks, since a copy from the host leaves no other trace.
"""

from __future__ import annotations

import bisect
import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyflow.kernels.interpreter.checks.access import Access
from tinyflow.kernels.interpreter.checks.report import Place, StrictError, failure
from tinyflow.kernels.interpreter.checks.tensors import Tensor

UNWRITTEN = "unwritten-read"
INCOMPLETE = "incomplete-output"

_WORD = 8
#: Larger allocations are not followed: to fill one with marks would make real what may only be reserved.
_MOST_BYTES = 1 << 30

Raise = Callable[..., StrictError]
Name = Callable[[int], str]


class Allocation:
    """A followed piece of memory: which of its bytes some kernel stored to."""

    def __init__(self, tensor: Tensor, must_be_written: bool, freed: list[Allocation]) -> None:
        self.tensor = tensor
        self.low, self.high = tensor.low, tensor.high
        self.must_be_written = must_be_written
        self.storage = weakref.ref(tensor.handle.untyped_storage(), lambda _: freed.append(self))
        #: the last kernel that stored here, and where
        self.kernel: str | None = None
        self.place: Place | None = None
        tensor.handle = None  # its memory may go
        words = -(-(self.high - self.low) // _WORD)
        self.stored = np.zeros(words * _WORD, np.bool_)
        self._bytes()[...] = _marks(np.arange(words)).reshape(-1)[: self.high - self.low]

    def _bytes(self) -> np.ndarray:
        memory = (ctypes.c_ubyte * (self.high - self.low)).from_address(self.low)
        return np.ctypeslib.as_array(memory)

    def unwritten(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Which accesses of ``size`` bytes at the given byte offsets meet a byte that nothing wrote."""
        suspects = np.flatnonzero(~self._stored(offsets, size))
        missing = np.zeros(len(offsets), np.bool_)
        if len(suspects):
            self._notice_copies((offsets[suspects][:, None] + np.arange(size)) // _WORD)
            missing[suspects] = ~self._stored(offsets[suspects], size)
        return missing

    def _stored(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Which accesses meet only bytes that are marked as stored."""
        units = self._units(offsets, size)
        if units is None:
            return np.asarray(self.stored[offsets[:, None] + np.arange(size)].all(axis=1))
        flags, index, full = units
        return flags[index] == full

    def _units(self, offsets: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, int] | None:
        """Aligned accesses by their number, in flags as wide as they are; None for others."""
        if size not in (1, 2, 4, 8) or (offsets & (size - 1)).any():
            return None
        return self.stored.view(f"u{size}"), offsets >> (size.bit_length() - 1), int("01" * size, 16)

    def _notice_copies(self, words: np.ndarray) -> None:
        """Marks as stored the bytes of words that something other than a kernel changed."""
        words = np.unique(words)
        at = words[:, None] * _WORD + np.arange(_WORD)
        exists = at < self.high - self.low
        now = self._bytes()[np.minimum(at, self.high - self.low - 1)]
        same = (now == _marks(words)) | self.stored[at] | ~exists
        changed = at[~same.all(axis=1)]
        self.stored[changed.reshape(-1)] = True

    def store(self, offsets: np.ndarray, size: int, kernel: str, place: Place | None) -> None:
        self.kernel, self.place = kernel, place
        units = self._units(offsets, size)
        if units is None:
            self.stored[(offsets[:, None] + np.arange(size)).reshape(-1)] = True
        else:
            flags, index, full = units
            flags[index] = full

    def missing(self, tensor: Tensor) -> np.ndarray:
        """Byte offsets from this allocation's start of a tensor's elements that nothing wrote."""
        elements = _element_offsets(tensor) + (tensor.low - self.low)
        return elements[self.unwritten(elements, tensor.itemsize)] if len(elements) else elements


def _marks(words: np.ndarray) -> np.ndarray:
    """The eight bytes of each word of an allocation, by its number."""
    index = (words[:, None] * (_WORD // 2) + np.arange(_WORD // 2)).astype(np.uint32)
    mixed = (index * np.uint32(2654435761)) >> np.uint32(13)
    low_bits = (mixed % np.uint32(125) + np.uint32(1)).astype(np.uint16)  # neither 0, an infinity, nor 127
    return (low_bits | np.uint16(0xFF80)).view(np.uint8)


def _element_offsets(tensor: Tensor) -> np.ndarray:
    offsets = np.zeros((1,) * len(tensor.shape), np.int64)
    for k, (n, stride) in enumerate(zip(tensor.shape, tensor.strides)):
        axis = np.arange(n) * (stride * tensor.itemsize)
        offsets = offsets + axis.reshape((1,) * k + (-1,) + (1,) * (len(tensor.shape) - k - 1))
    return offsets.reshape(-1)


class Allocations:
    """All followed memory that is still alive."""

    def __init__(self) -> None:
        self._by_address: dict[int, Allocation] = {}
        self._starts: list[int] = []
        self._freed: list[Allocation] = []

    def follow(self, handle: Any, must_be_written: bool = False) -> None:
        """Fills a fresh tensor with marks and follows what is written to it."""
        tensor = Tensor.of("the tensor", handle)
        if handle.device.type != "cpu" or not 0 < tensor.high - tensor.low <= _MOST_BYTES:
            return
        self._forget_freed()
        self.forget(tensor.low, tensor.high)
        self._by_address[tensor.low] = Allocation(tensor, must_be_written, self._freed)
        bisect.insort(self._starts, tensor.low)

    def _forget_freed(self) -> None:
        """The garbage collector may free memory at any time; what it freed is dropped when nothing is looked at."""
        while self._freed:
            gone = self._freed.pop()
            if self._by_address.get(gone.low) is gone:
                self.forget(gone.low, gone.high)

    def forget(self, low: int, high: int) -> None:
        """Drops what is followed in a range, which has been freed or is now another's."""
        k = max(bisect.bisect_right(self._starts, low) - 1, 0)
        while k < len(self._starts) and self._starts[k] < high:
            if self._by_address[self._starts[k]].high > low:
                del self._by_address[self._starts.pop(k)]
            else:
                k += 1

    def clear(self) -> None:
        self._by_address.clear()
        self._starts.clear()

    def at(self, address: int) -> Allocation | None:
        """The followed memory that an address lies in."""
        k = bisect.bisect_right(self._starts, address) - 1
        if k < 0:
            return None
        found = self._by_address[self._starts[k]]
        if address >= found.high:
            return None
        if found.storage() is None:
            self.forget(found.low, found.high)
            return None
        return found

    def alive(self) -> list[Allocation]:
        return [a for a in map(self.at, list(self._starts)) if a is not None]

    def on_access(self, access: Access, raising: Raise, name: Name, kernel: str) -> None:
        """Checks what an access reads and notes what it writes."""
        self._forget_freed()
        remaining = access.addresses
        while len(remaining) and self._starts:
            k = bisect.bisect_right(self._starts, int(remaining.max())) - 1
            if k < 0:
                return
            start = self._starts[k]
            found = self.at(start)
            if found is not None:
                chosen = (remaining >= start) & (remaining < found.high)
                if chosen.any():
                    self._on_allocation(found, access, remaining[chosen], raising, name, kernel)
            remaining = remaining[remaining < start]

    def _on_allocation(
        self, found: Allocation, access: Access, addresses: np.ndarray, raising: Raise, name: Name, kernel: str
    ) -> None:
        offsets = addresses - found.low
        if access.kind != "store":
            missing = found.unwritten(offsets, access.size)
            if missing.any() and not (access.place and access.place.allows(UNWRITTEN)):
                raise _unwritten_read(found, access, addresses[missing], raising, name)
        if access.kind != "load":
            found.store(offsets, access.size, kernel, access.place)

    def check_complete(self, handle: Any, name: str = "output") -> None:
        """Raises if a tensor lies in followed memory that kernels wrote in part."""
        found = self.at(handle.data_ptr())
        if found is not None and found.kernel is not None:
            _check_complete(found, Tensor.of(name, handle))

    def check_all_complete(self) -> None:
        """Raises if a tensor that was declared fresh is not written to the last element."""
        declared = [a for a in self.alive() if a.must_be_written]
        for found in declared:
            found.must_be_written = False  # judged once
        for found in declared:
            _check_complete(found, found.tensor)


def _unwritten_read(found: Allocation, access: Access, missing: np.ndarray, raising: Raise, name: Name) -> StrictError:
    address = int(missing[0])
    lane = int(np.flatnonzero(access.addresses == address)[0])
    count = f"{len(missing)} of {len(access.addresses)} active lanes read memory as it was allocated"
    writer = f"the last kernel that wrote to this memory: {found.kernel}" if found.kernel else None
    return raising(
        access,
        UNWRITTEN,
        f"this {access.kind} reads {name(address)}, which nothing wrote",
        notes=[f"{access.lane(lane)}; {count}", writer or "no kernel wrote to this memory"],
        help="write every element before it is read: initialise the tensor, or mask this access",
    )


def _check_complete(found: Allocation, tensor: Tensor) -> None:
    missing = found.missing(tensor)
    if not len(missing):
        return
    total = int(np.prod(tensor.shape, dtype=np.int64))
    first = list(tensor.index(int(missing[0]) - (tensor.low - found.low)) or ())
    raise failure(
        INCOMPLETE,
        f"{tensor.name} was not written to the last element: {len(missing)} of {total} are missing, "
        f"the first is {first}",
        kernel=found.kernel or "none",
        place=found.place,
        notes=[tensor.describe(), f"the last kernel that wrote to it: {found.kernel or 'none did'}"],
        help="check that the grid covers the whole output and that the store's mask leaves out nothing inside it",
    )
