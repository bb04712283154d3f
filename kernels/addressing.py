"""Device functions that find elements in memory: the kernel's side of ``strides``."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import strides as host_strides


@triton.jit
def offsets(index, sizes, strides, DIMS: tl.constexpr):
    """Memory offsets of linear indices that count row-major through ``sizes``; an index past the end is not wrapped."""
    if DIMS == 1:
        offset = index * strides[0]
    else:
        offset = (index % sizes[DIMS - 1]) * strides[DIMS - 1]
        for k in tl.static_range(1, DIMS - 1):
            index = index // sizes[DIMS - k]
            offset += (index % sizes[DIMS - 1 - k]) * strides[DIMS - 1 - k]
        offset += (index // sizes[1]) * strides[0]
    return offset


@triton.jit
def stored_bool_as_int(value):
    """A loaded value, as int8 if it is a bool: its byte then reads as 0 or 1 on every backend."""
    if value.dtype == tl.int1:
        value = value.to(tl.int8)
    return value


@triton.jit
def float_from_bits(bits):
    """The float64 whose bits a Python integer argument carries, so that a new value compiles nothing and is exact."""
    return tl.cast(tl.cast(bits, tl.int64), tl.float64, bitcast=True)


def float_bits(value: float) -> int:
    """The bits of a float64, for :func:`float_from_bits`; a plain float argument would arrive rounded to float32."""
    return struct.unpack("q", struct.pack("d", float(value)))[0]


def walk(shape: Sequence[int], *views: Sequence[int]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Sizes and per-view strides of the fewest dimensions, at least one, through which :func:`offsets` counts."""
    return _walk(tuple(shape), *map(tuple, views))


@functools.lru_cache(maxsize=4096)
def _walk(shape: tuple[int, ...], *views: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    sizes, steps = host_strides.coalesce(shape, *views)
    if not sizes:
        return (1,), tuple([(0,) for _ in views])
    return tuple(sizes), tuple([tuple(s) for s in steps])
