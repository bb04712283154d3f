"""Index arithmetic done once: values that follow from constants alone are remembered, from launch to launch.

A kernel scalar of a given value, a range, and whatever integer or boolean arithmetic makes of them are the same values
every time. They are made *canonical*: one tensor object for each, found again by the operation and the identities of its
operands. Values never change once made, so handing out the same object is safe; what depends on memory is never
canonical. An entry keeps its operands alive, so that their identities stay theirs.

Device functions whose arguments are constants or canonical are remembered whole, if their first call touched no memory
and asked for no program's index (``effects`` counts such acts).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import triton.language as tl

from tinyflow.kernels.interpreter import forms
from tinyflow.kernels.interpreter.forms import Box, Separable, Splat, Vector
from tinyflow.kernels.interpreter.handles import array_of, symbolic

#: Bytes of remembered vectors and arrays after which everything is forgotten.
_MOST_BYTES = 1 << 27
_MOST_ENTRIES = 200_000
#: Arrays larger than this are made anew each time.
_LARGEST = 1 << 17

_entries: dict[Hashable, tuple[Any, ...]] = {}
_bytes = 0

#: How often kernels have read or written memory, asked for their index, printed or asserted.
effects = 0


def note_effect() -> None:
    global effects
    effects += 1


def forget() -> None:
    """Empties the memory. Tensors that are still in use stay canonical, new entries begin."""
    global _bytes
    _entries.clear()
    _tuples.clear()
    _tuple_keys.clear()
    _bytes = 0


def is_canonical(tensor: Any) -> bool:
    return "canonical" in tensor.__dict__


def find(key: Hashable) -> Any:
    """What was remembered under a key, or None."""
    entry = _entries.get(key)
    return None if entry is None else entry[0]


def remember(key: Hashable, result: Any, *operands: Any) -> Any:
    """Makes a tensor canonical as the result of ``key``, whose identities are those of ``operands``; returns it."""
    if _store(key, result, result, operands):
        result.__dict__["canonical"] = True
    return result


def remember_call(key: Hashable, result: Any, arguments: tuple[Any, ...]) -> None:
    """Notes what a pure device function returned."""
    for tensor in result if type(result) in (tuple, tl.tuple) else (result,):
        if type(tensor) is not tl.tensor:
            return
    _store(key, result, result, arguments)


def _store(key: Hashable, result: Any, tensors: Any, operands: tuple[Any, ...]) -> bool:
    global _bytes
    size = 0
    for tensor in tensors if type(tensors) in (tuple, tl.tuple) else (tensors,):
        one = _size(tensor.handle)
        if one > _LARGEST:
            return False
        size += one
    if _bytes + size > _MOST_BYTES or len(_entries) >= _MOST_ENTRIES:
        forget()
    _bytes += size
    _entries[key] = (result, operands)
    return True


def _size(handle: Any) -> int:
    """The bytes that a handle keeps in memory; a deferred value counts as too many."""
    data = array_of(handle)
    if data is not None:
        return data.nbytes
    form = handle._form
    if type(form) is Separable:
        return sum(8 * t.values.size for t in form.terms if type(t) is Vector)
    if type(form) is Box:
        return sum(axis.size for axis in form.axes if type(axis) is np.ndarray)
    return 0 if type(form) is Splat else _LARGEST + 1


def scalar(value: int, dtype: tl.dtype, kind: np.dtype) -> Any:
    """The kernel scalar of an integer value."""
    key = ("scalar", dtype.name, value)
    found = find(key)
    return found if found is not None else remember(key, tl.tensor(symbolic(forms.scalar(value, kind), dtype), dtype))


#: Tuples of kernel scalars by the numbers that they were made from, and their keys by their own identity.
_tuples: dict[tuple[int, ...], tuple[Any, ...]] = {}
_tuple_keys: dict[int, Hashable] = {}


def numbers(values: tuple[int, ...], convert: Callable[[int], Any]) -> tuple[Any, ...]:
    """Integers as a tuple of kernel scalars, the same one each time."""
    found = _tuples.get(values)
    if found is None:
        if len(_tuples) >= _MOST_ENTRIES // 10:
            _tuples.clear()
            _tuple_keys.clear()
        found = _tuples[values] = tuple(map(convert, values))
        _tuple_keys[id(found)] = (tuple, tuple(map(id, found)))
    return found


def key_of(value: Any) -> Hashable:
    """An argument of a device function as part of a key; None for one that does not follow from constants."""
    kind = type(value)
    if kind is tl.tensor:
        return id(value) if "canonical" in value.__dict__ else None
    if kind is tuple and id(value) in _tuple_keys:
        return _tuple_keys[id(value)]
    if kind in (int, float, bool, str):
        return (kind, value)
    if value is None:
        return "None"
    if kind is tl.constexpr:
        return key_of(value.value)
    if kind in (tuple, list, tl.tuple):
        parts = tuple([key_of(v) for v in value])
        return None if None in parts else (kind, parts)
    return id(value) if isinstance(value, tl.dtype) or hasattr(value, "rewrite") else None
