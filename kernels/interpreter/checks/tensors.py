"""Which tensor a pointer came from, and which of its elements it points to.

Every tensor that a launch gets has a number, its tag, which its pointers carry in the bits above the 48 of an address.
Pointer arithmetic keeps it, whatever the kernel does with offsets, so each access knows the tensor that it was derived
from and is held to that tensor's own elements: a neighbour in memory, or the gaps of a strided view, is out of bounds.
Memory is reached with the tag taken off.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton
from triton.runtime import interpreter as stock

_ADDRESS_BITS = 48
ADDRESS_MASK = np.uint64((1 << _ADDRESS_BITS) - 1)
MOST_TENSORS = (1 << 12) - 1


@dataclass
class Region:
    """A range of memory that one or more of a launch's tensors share."""

    low: int
    high: int
    #: bytes of the smallest element that any access touched so far
    unit: int


@dataclass
class Tensor:
    """A tensor as an argument of a launch: its memory and layout, and the name of the parameter."""

    name: str
    handle: Any
    low: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    dtype: str
    region: Region | None = None
    _order: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, handle: Any) -> Tensor:
        """Describes a torch tensor, or anything that lays memory out as one does."""
        dtype = str(handle.dtype).removeprefix("torch.")
        return cls(
            name, handle, handle.data_ptr(), tuple(handle.shape), tuple(handle.stride()), handle.element_size(), dtype
        )

    def __post_init__(self) -> None:
        sizes = [(stride, k) for k, (n, stride) in enumerate(zip(self.shape, self.strides)) if n > 1 and stride != 0]
        self._order = [k for _, k in sorted(sizes, reverse=True)]
        self._elements = 0 if 0 in self.shape else 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides))

    @property
    def high(self) -> int:
        """The address behind the last element."""
        return self.low + self._elements * self.itemsize

    def elements(self) -> np.ndarray:
        """The memory of the elements, each once, as raw items that can be copied and assigned."""
        if self._elements == 0:
            return np.empty(0, f"V{self.itemsize}")
        sizes = [(n, s) for n, s in zip(self.shape, self.strides) if s != 0]
        if not self._nested():
            sizes = [(self._elements, 1)]
        span = self._elements * self.itemsize
        memory = (ctypes.c_ubyte * span).from_address(self.low)
        strides = tuple(s * self.itemsize for _, s in sizes)
        return np.ndarray(tuple(n for n, _ in sizes), f"V{self.itemsize}", memory, strides=strides)  # type: ignore[arg-type]

    def describe(self) -> str:
        return f"'{self.name}' is a {self.dtype} tensor of shape {self.shape} with strides {self.strides}"

    def holds(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Which accesses of ``size`` bytes at ``offsets`` bytes from the start lie wholly on elements."""
        inside = (offsets >= 0) & (offsets + size <= self._elements * self.itemsize)
        if self._has_gaps():
            for at in (offsets, offsets + (size - 1)):
                inside &= self._on_element(at // self.itemsize)
        return inside

    def _nested(self) -> bool:
        """True if each stride passes all that lies inside it, so that an offset has one index."""
        inner = 1
        for k in reversed(self._order):
            if self.strides[k] < inner:
                return False
            inner = self.strides[k] * (self.shape[k] - 1) + inner
        return True

    def _has_gaps(self) -> bool:
        count = 1
        for k in self._order:
            count *= self.shape[k]
        return self._nested() and count != self._elements

    def _on_element(self, elements: np.ndarray) -> np.ndarray:
        inside = np.ones(elements.shape, np.bool_)
        for k in self._order:
            index, elements = np.divmod(elements, self.strides[k])
            inside &= (index >= 0) & (index < self.shape[k])
        return inside & (elements == 0)

    def index(self, offset: int) -> tuple[int, ...] | None:
        """The index of the element at a byte offset; None if no single index lies there."""
        if not self._nested() or not self.holds(np.array([offset]), 1)[0]:
            return None
        element, index = offset // self.itemsize, [0] * len(self.shape)
        for k in self._order:
            index[k], element = divmod(element, self.strides[k])
        return tuple(index)

    def where(self, offset: int) -> str:
        """A byte offset in words."""
        index = self.index(offset)
        if index is not None:
            return f"element {list(index)} of '{self.name}'"
        end = self._elements * self.itemsize
        if offset < 0:
            return f"{_count(-offset, self.itemsize)} before the start of '{self.name}'"
        if offset >= end:
            past = offset - end
            return f"{_count(past + self.itemsize, self.itemsize)} past the last of '{self.name}'"
        return f"byte {offset} of '{self.name}', which is between the elements of this strided view"


def _count(nbytes: int, itemsize: int) -> str:
    if nbytes % itemsize:
        return f"{nbytes} bytes"
    n = nbytes // itemsize
    return f"{n} element{'s' if n != 1 else ''}"


def find_tensors(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The tensors in one argument: in tuples, in descriptors, under reinterpreted views."""
    if isinstance(value, tuple):
        for k, item in enumerate(value):
            yield from find_tensors(f"{name}[{k}]", item)
    elif isinstance(value, stock.TensorDescriptor):
        yield from find_tensors(name, value.base)
    elif isinstance(value, triton.runtime.jit.TensorWrapper) or hasattr(value, "data_ptr"):
        yield name, value


def tagged(address: int, tag: int) -> int:
    return address | tag << _ADDRESS_BITS


def untag(pointers: np.ndarray) -> np.ndarray:
    """The addresses of tagged pointers, still as uint64."""
    return pointers & ADDRESS_MASK


def tags_of(pointers: np.ndarray) -> np.ndarray:
    """The tag of each pointer; one element repeated where they have all the same."""
    if pointers.size:
        first, last = int(pointers.min()) >> _ADDRESS_BITS, int(pointers.max()) >> _ADDRESS_BITS
        if first == last:
            return np.broadcast_to(np.int64(first), pointers.shape)
    return (pointers >> np.uint64(_ADDRESS_BITS)).astype(np.int64)


def merge_regions(tensors: Iterable[Tensor]) -> list[Region]:
    """The disjoint ranges of memory that the tensors cover, and each tensor's ``region`` set to its own."""
    regions: list[Region] = []
    for tensor in sorted((t for t in tensors if t.high > t.low), key=lambda t: t.low):
        if regions and tensor.low < regions[-1].high:
            last = regions[-1]
            aligned = (tensor.low - last.low) % tensor.itemsize == 0
            last.high = max(last.high, tensor.high)
            last.unit = min(last.unit, tensor.itemsize) if aligned else 1
        else:
            regions.append(Region(tensor.low, tensor.high, tensor.itemsize))
        tensor.region = regions[-1]
    return regions
