"""How dtypes meet: type promotion as torch's, and the Triton dtype in which arithmetic is done."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.memory import Buffer

Scalar = bool | int | float

TRITON = {
    memory.float64: tl.float64,
    memory.float32: tl.float32,
    memory.float16: tl.float16,
    memory.bfloat16: tl.bfloat16,
    memory.int64: tl.int64,
    memory.int32: tl.int32,
    memory.int16: tl.int16,
    memory.int8: tl.int8,
    memory.uint8: tl.uint8,
    memory.bool_: tl.int1,
}

FLOATING = (memory.float64, memory.float32, memory.float16, memory.bfloat16)


def triton_dtype(d: memory.dtype) -> Any:
    """The Triton dtype that stores ``d``.

    Raises:
        TypeError: for a dtype that tinyflow's kernels do not take.
    """
    if d not in TRITON:
        raise TypeError(f"dtype {d} is not supported; expected one of {', '.join(str(k) for k in TRITON)}")
    return TRITON[d]


def compute_dtype(d: memory.dtype) -> Any:
    """The Triton dtype in which values stored as ``d`` are computed: half precision computes in float32."""
    return tl.float32 if d in (memory.float16, memory.bfloat16) else triton_dtype(d)


def accumulate_dtype(d: memory.dtype) -> memory.dtype:
    """The dtype that sums of ``d`` are kept in: float32 for the half precisions, int64 for integers and bool."""
    if d.is_floating_point:
        return memory.float64 if d == memory.float64 else memory.float32
    return memory.int64


def check_floating(op: str, **buffers: Buffer | None) -> memory.dtype:
    """The floating-point dtype that all buffers share.

    Raises:
        TypeError: if one is not floating point.
        RuntimeError: if they differ.
    """
    found = {name: x.dtype for name, x in buffers.items() if x is not None}
    for name, d in found.items():
        if d not in FLOATING:
            raise TypeError(f"{op}: expected floating-point {name}, got {d}")
    first = next(iter(found.values()))
    if any(d != first for d in found.values()):
        raise RuntimeError(f"{op}: expected one dtype, got " + ", ".join(f"{k} {v}" for k, v in found.items()))
    return first


def _category(d: memory.dtype) -> int:
    return 2 if d.is_floating_point else 0 if d == memory.bool_ else 1


_INTEGERS = (memory.uint8, memory.int8, memory.int16, memory.int32, memory.int64)


def promote_types(a: memory.dtype, b: memory.dtype) -> memory.dtype:
    """The smallest dtype that holds values of both, by torch's table: the higher category, then the wider one.

    float16 with bfloat16 gives float32, and uint8 with int8 int16, since neither holds the other.
    """
    if a == b or b == memory.bool_:
        return a
    if a == memory.bool_:
        return b
    if _category(a) != _category(b):
        return a if _category(a) > _category(b) else b
    if {a, b} == {memory.float16, memory.bfloat16}:
        return memory.float32
    if {a, b} == {memory.uint8, memory.int8}:
        return memory.int16
    order = _INTEGERS if _category(a) == 1 else FLOATING[::-1]
    return max(a, b, key=order.index)


def can_cast(source: memory.dtype, target: memory.dtype) -> bool:
    """True if a result may be stored as ``target``: the category (bool, integer, floating point) does not fall."""
    return _category(source) <= _category(target)


@functools.lru_cache(maxsize=16)
def _limits(dtype: memory.dtype) -> tuple[Scalar, Scalar]:
    found = memory.finfo(dtype) if dtype.is_floating_point else memory.iinfo(dtype)
    return found.min, found.max


def stored(value: Scalar, dtype: memory.dtype) -> Scalar:
    """A Python number as a buffer of ``dtype`` holds it: for integers without its fraction; a negative one wraps in uint8.

    Raises:
        RuntimeError: if the dtype has no such number.
        TypeError: if it is no number.
    """
    if dtype == memory.bool_:
        return bool(value)
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"expected a number, got {value!r}")
    low, high = _limits(dtype)
    if dtype.is_floating_point:
        if low <= value <= high or not math.isfinite(value):
            return value
    elif (-high if low == 0 and not isinstance(value, float) else low) <= value <= high:  # NaN is not
        return int(value)
    raise RuntimeError(f"value {value} cannot be converted to {dtype} without overflow")


def scalar_dtype(value: Scalar) -> memory.dtype:
    """The dtype that torch gives a Python number."""
    if isinstance(value, (bool, np.bool_)):
        return memory.bool_
    return memory.int64 if isinstance(value, (int, np.integer)) else memory.get_default_dtype()


def result_type(*operands: Buffer | Scalar) -> memory.dtype:
    """The dtype of an arithmetic result, by torch's rule.

    Tensors with dimensions decide; a 0-dimensional tensor or a Python number only lifts the result to its own category
    (bool < integer < floating point) where that is higher.
    """
    ranked: list[list[memory.dtype]] = [[], [], []]  # tensors with dimensions, 0-dimensional tensors, numbers
    for x in operands:
        if isinstance(x, Buffer):
            ranked[0 if x.dim() else 1].append(x.dtype)
        else:
            ranked[2].append(scalar_dtype(x))
    result: memory.dtype | None = None
    for group in ranked:
        promoted: memory.dtype | None = None
        for d in group:
            promoted = d if promoted is None else promote_types(promoted, d)
        if promoted is not None and (result is None or _category(promoted) > _category(result)):
            result = promoted
    if result is None:
        raise TypeError("result_type: expected at least one operand")
    return result
