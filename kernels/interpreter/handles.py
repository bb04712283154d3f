"""Kernel values: a handle holds an array, or a form from which the array is made when something asks for it.

``Handle`` stands in for Triton's ``TensorHandle``; code that knows only ``.data`` sees an ordinary array of its own, never
a view of kernel memory. Code in this package asks for less: ``form_of`` for symbolic arithmetic, ``peek`` for an array to
read at once, ``operand`` for what a deferred expression may keep.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

from tinyflow.kernels.interpreter import forms
from tinyflow.kernels.interpreter.forms import Box, Form, Separable, Shape, Splat, Vector

_NUMPY = {
    tl.int1: np.bool_,
    tl.int8: np.int8,
    tl.int16: np.int16,
    tl.int32: np.int32,
    tl.int64: np.int64,
    tl.uint8: np.uint8,
    tl.uint16: np.uint16,
    tl.uint32: np.uint32,
    tl.uint64: np.uint64,
    tl.float16: np.float16,
    tl.float32: np.float32,
    tl.float64: np.float64,
    tl.bfloat16: np.uint16,
}
_NUMPY_OF_NAME = {dtype.name: np.dtype(kind) for dtype, kind in _NUMPY.items()}


def numpy_dtype(dtype: tl.dtype) -> np.dtype:
    """The numpy type that holds a Triton type: bfloat16 and the 8-bit floats are kept as their bits."""
    scalar = dtype.scalar
    found = _NUMPY_OF_NAME.get(scalar.name)
    if found is not None:
        return found
    if scalar.is_ptr():
        return forms.POINTER
    if scalar.is_floating() and scalar.primitive_bitwidth == 8:
        return np.dtype(np.uint8)
    raise TypeError(f"interpreter: no numpy type holds {dtype}")


#: Arrays of forms of at most this many elements are kept with the handle; larger ones are cheaper to make than to keep.
_KEPT = 1 << 16


class Handle(TensorHandle):
    """A kernel value. ``dtype`` is its element type; ``data`` its array, made on demand."""

    def __init__(self, data: np.ndarray | None, dtype: tl.dtype, attr: dict[str, Any] | None = None) -> None:
        self._data = data
        self._form: Form = None
        self.dtype = dtype

    @property
    def data(self) -> np.ndarray:
        if self._data is not None:
            return self._data
        data = self._form.dense()
        if data.size <= _KEPT or type(self._form) not in (Separable, Box, Splat):
            self._data = data
        return data

    @data.setter
    def data(self, data: np.ndarray) -> None:
        self._data = data
        self._form = None

    def set_attr(self, key: str, value: Any) -> None:
        """Hints to the compiler (``tl.multiple_of`` and its like) say nothing to an interpreter."""

    def clone(self) -> Handle:
        return Handle(self.data.copy(), self.dtype)


def symbolic(form: Form, dtype: tl.dtype) -> Handle:
    """The handle of a form."""
    handle = Handle(None, dtype)
    handle._form = form
    return handle


def array_of(handle: TensorHandle) -> np.ndarray | None:
    """The array of a handle that holds one, None while it is a form."""
    return handle._data if type(handle) is Handle else handle.data


def form_of(handle: TensorHandle) -> Separable | Box | None:
    """The Separable or Box that a handle is, or None. Arrays along one axis are recognised, once."""
    form = getattr(handle, "_form", None)
    if form is None:
        data = handle.data
        is_number = data.dtype.kind in "ib" or data.dtype.kind == "u" and not handle.dtype.scalar.is_floating()
        form = is_number and _constant_if_it_is(forms.recognise(data)) or False
        handle._form = form
    return form if type(form) is Separable or type(form) is Box else None


def _constant_if_it_is(form: Form) -> Form:
    """A form whose one vector holds one value throughout, as a constant; any other as it is."""
    if type(form) is Separable and any(type(t) is Vector and t.bounds()[0] == t.bounds()[1] for t in form.terms):
        return forms.constant(form.shape, form.range()[0], form.dtype)
    return form


def shape_of(handle: TensorHandle) -> Shape:
    data = array_of(handle)
    return handle._form.shape if data is None else data.shape


def array_dtype(handle: TensorHandle) -> np.dtype:
    """The numpy type of a handle's array."""
    data = array_of(handle)
    return handle._form.dtype if data is None else data.dtype


def peek(handle: TensorHandle) -> np.ndarray:
    """The array, to be read at once and not kept: it may be a view of kernel memory or of a single value."""
    data = array_of(handle)
    return handle._form.peek() if data is None else data


def glance(handle: TensorHandle) -> np.ndarray:
    """Like ``peek``, but in a shape that broadcasts to the tile's."""
    data = array_of(handle)
    if data is not None:
        return data
    form = handle._form
    if type(form) is Splat:
        return form.value
    return forms.line_of(form) if type(form) is Separable else form.peek()


def quick_form_of(handle: TensorHandle) -> Separable | Box | None:
    """``form_of``, without recognising arrays of one dimension: arithmetic on those stays with arrays."""
    data = array_of(handle)
    if data is not None and data.ndim == 1 and data.size > 1:
        return None
    return form_of(handle)


def operand(handle: TensorHandle) -> Form | np.ndarray:
    """What a deferred expression keeps of a handle: its array, or its form."""
    data = array_of(handle)
    return handle._form if data is None else data


def splat_of(handle: TensorHandle) -> Splat | None:
    form = getattr(handle, "_form", None)
    return form if type(form) is Splat else None
