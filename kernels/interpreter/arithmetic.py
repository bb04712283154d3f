"""Element-wise arithmetic: symbolic where forms allow, on one axis where only one varies, deferred where the tile is large.

Formats that numpy lacks (see ``dtypes``) compute in float32 and round once for each operation, as hardware does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter import dtypes, expressions, forms
from tinyflow.kernels.interpreter.error_function import erf
from tinyflow.kernels.interpreter.expressions import LEAST_SIZE, Function, elementwise
from tinyflow.kernels.interpreter.forms import BOOL, COMPARISONS, Box, Form, Separable, Shape, Splat, Vector
from tinyflow.kernels.interpreter.handles import (
    Handle,
    array_dtype,
    form_of,
    glance,
    numpy_dtype,
    operand,
    peek,
    quick_form_of,
    shape_of,
    splat_of,
    symbolic,
)

BITWISE = frozenset((np.bitwise_and, np.bitwise_or, np.bitwise_xor))
_SHIFTS = frozenset((np.left_shift, np.right_shift))
_INTEGER = frozenset((np.add, np.subtract, np.multiply, np.minimum, np.maximum, np.fmin, np.fmax)) | BITWISE | _SHIFTS
_FLOATING = frozenset((np.add, np.subtract, np.multiply, np.divide, np.fmod, np.minimum, np.maximum, np.fmin, np.fmax))
_UNARY = frozenset((np.cos, np.exp, np.exp2, np.floor, np.ceil, np.log, np.log2, np.sqrt, np.sin, np.negative, np.abs))


def compute(function: Function, dtype: tl.dtype, array_type: np.dtype, *handles: Any) -> Handle:
    """``function(*arrays, out=...)``: at once if the tile is small, noted for later if it is large."""
    shape = shape_of(handles[0])
    if any(shape_of(h) != shape for h in handles[1:]):
        shape = np.broadcast_shapes(*[shape_of(h) for h in handles])
    if math.prod(shape) >= LEAST_SIZE:
        return symbolic(elementwise(shape, array_type, function, *[operand(h) for h in handles]), dtype)
    out = np.empty(shape, array_type)
    function(*[glance(h) for h in handles], out=out)
    return Handle(out, dtype)


def lift(handle: Any) -> Any:
    """The handle in float32 if numpy lacks its format, else itself."""
    dtype = handle.dtype.scalar
    if not dtypes.is_packed(dtype):
        return handle
    splat = splat_of(handle)
    if splat is not None:
        return symbolic(Splat(splat.shape, dtypes.decoded(splat.value, dtype)), tl.float32)
    return compute(dtypes.decoder(dtype), tl.float32, np.dtype(np.float32), handle)


def lower(handle: Any, dtype: tl.dtype) -> Any:
    """A float32 handle rounded to a format that numpy lacks."""
    splat = splat_of(handle)
    if splat is not None:
        return symbolic(Splat(splat.shape, dtypes.encoded(splat.value, dtype)), dtype)
    return compute(dtypes.encoder(dtype), dtype, numpy_dtype(dtype), handle)


def divide_truncating(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Integer division as C has it, rounding towards zero."""
    if x.dtype.kind == "u" or _is_natural(x, y):
        np.floor_divide(x, y, out=out)
    else:
        np.floor_divide(x - np.fmod(x, y), y, out=out)


def remainder_truncating(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """The integer remainder as C has it, with the sign of the dividend."""
    if _is_natural(x, y):
        quotient = np.floor_divide(x, y)
        quotient *= y
        np.subtract(x, quotient, out=out)
    else:
        np.fmod(x, y, out=out)


def _is_natural(x: np.ndarray, y: np.ndarray) -> bool:
    """True where a fast division by one positive number gives C's result."""
    return y.size == 1 and y.flat[0] > 0 and (x.dtype.kind == "u" or bool(x.min() >= 0))


def _fold(a: int, b: int, op: Callable[..., Any]) -> int | None:
    """An operation on two known integers, or None if this is not one to fold."""
    if op is np.fmod or op is divide_truncating:
        if b == 0:
            return None
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return quotient if op is divide_truncating else a - quotient * b
    if op is np.minimum or op is np.fmin:
        return min(a, b)
    if op is np.maximum or op is np.fmax:
        return max(a, b)
    if op is np.bitwise_and:
        return a & b
    if op is np.bitwise_or:
        return a | b
    if op is np.bitwise_xor:
        return a ^ b
    return None


def _symbolic_binary(a: Form, b: Form, op: Callable[..., Any]) -> Form | None:
    """The form of an element-wise operation on two forms of one shape, or None if it needs arrays."""
    result = forms.combine(a, b, op)
    if result is not None or type(a) is not type(b) or a.dtype != b.dtype:
        return result
    axes = set(a.varying()) | set(b.varying())
    if type(a) is Separable and not axes:
        value = _fold(a.range()[0], b.range()[0], op)
        if value is not None:
            folded = forms.constant(a.shape, value, a.dtype)
            return folded if folded.fits(a.dtype) else None
    if (
        len(axes) > 1
        or len(a.shape) == 1
        or op not in _INTEGER
        and op is not np.fmod
        and op is not divide_truncating
        and op not in COMPARISONS
    ):
        return None
    k = axes.pop() if axes else 0
    x, y = _line(a, k), _line(b, k)
    if x.dtype == BOOL and op not in BITWISE:
        return None
    return _from_line(_binary_arrays(x, y, op), k, a.shape)


def _line(form: Form, k: int) -> np.ndarray:
    """A form that varies along axis k only, as a 1-d array."""
    if type(form) is Box:
        if any(axis[0] >= axis[1] for j, axis in enumerate(form.axes) if j != k and type(axis) is tuple):
            return np.zeros(form.shape[k], BOOL)
        return form.axis(k)
    fixed = form.constant + sum(int(form.axis(j)[0]) for j in range(len(form.shape)) if j != k)
    return (form.axis(k) + fixed).astype(form.dtype)


def _from_line(values: np.ndarray, k: int, shape: Shape) -> Form | None:
    """The form of a tile that varies along axis k only."""
    rank = len(shape)
    if values.dtype == BOOL:
        return Box(shape, tuple(values if j == k else (0, n) for j, n in enumerate(shape)))
    wide = values.astype(np.int64)
    if values.dtype.itemsize == 8 and (wide.min() < -forms.VECTOR_LIMIT or wide.max() > forms.VECTOR_LIMIT):
        return None
    vector = Vector(wide)
    return Separable(shape, 0, tuple(vector if j == k else 0 for j in range(rank)), values.dtype)


def _binary_arrays(x: np.ndarray, y: np.ndarray, op: Callable[..., Any]) -> np.ndarray:
    if op is divide_truncating or op is np.fmod and x.dtype.kind in "iu":
        out = np.empty(np.broadcast_shapes(x.shape, y.shape), x.dtype)
        (divide_truncating if op is divide_truncating else remainder_truncating)(x, y, out)
        return out
    return op(x, y)


def _is_identity(op: Callable[..., Any], right: np.ndarray) -> bool:
    """True if ``op(x, right)`` is x, bit for bit, for every x that is no signalling NaN."""
    if op is np.multiply or op is np.divide:
        return bool(right == 1)
    return op is np.subtract and bool(right == 0) and not np.signbit(right)


class ArithmeticOperations:
    """The element-wise operations of the builder."""

    def binary_op(self, lhs: Any, rhs: Any, op: Callable[..., Any]) -> Any:
        a, b = quick_form_of(lhs), quick_form_of(rhs)
        source = lhs.dtype.scalar
        dtype = tl.int1 if op in COMPARISONS else source
        if a is not None and b is not None and a.shape == b.shape:
            form = _symbolic_binary(a, b, op)
            if form is not None:
                return symbolic(form, dtype)
        if dtypes.is_packed(source) and op not in BITWISE and op not in _SHIFTS:
            result = self.binary_op(lift(lhs), lift(rhs), op)
            return result if op in COMPARISONS else lower(result, dtype)
        return self._binary_numeric(lhs, rhs, op, dtype)

    def _binary_numeric(self, lhs: Any, rhs: Any, op: Callable[..., Any], dtype: tl.dtype) -> Any:
        kind = array_dtype(lhs)
        if kind != array_dtype(rhs):
            return super().binary_op(lhs, rhs, op)  # type: ignore[misc]
        if op in COMPARISONS:
            return compute(op, dtype, BOOL, lhs, rhs)
        if kind == BOOL:
            return compute(op, dtype, BOOL, lhs, rhs) if op in BITWISE else super().binary_op(lhs, rhs, op)  # type: ignore[misc]
        if op in (_FLOATING if kind.kind == "f" else _INTEGER):
            left, right = splat_of(lhs), splat_of(rhs)
            if left is not None and right is not None:
                return symbolic(Splat(left.shape, np.asarray(op(left.value, right.value))), dtype)
            if right is not None and kind.kind == "f" and _is_identity(op, right.value):
                return lhs
            if left is not None and kind.kind == "f" and op is np.multiply and left.value == 1:
                return rhs
            return compute(op, dtype, kind, lhs, rhs)
        if op is np.fmod:
            return compute(remainder_truncating, dtype, kind, lhs, rhs)
        if op is divide_truncating:
            return compute(divide_truncating, dtype, kind, lhs, rhs)
        return super().binary_op(lhs, rhs, op)  # type: ignore[misc]

    def create_idiv(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, divide_truncating)

    def create_ashr(self, lhs: Any, rhs: Any) -> Any:
        kind = array_dtype(lhs)
        if kind.kind == "i" and array_dtype(rhs) == kind:
            return self.binary_op(lhs, rhs, np.right_shift)
        signed = np.dtype(f"i{kind.itemsize}")
        shifted = np.right_shift(lhs.data.astype(signed), rhs.data.astype(signed))
        return Handle(shifted.astype(kind, copy=False), lhs.dtype.scalar)

    def create_umulhi(self, lhs: Any, rhs: Any) -> Handle:
        """The upper half of the product of two unsigned integers."""
        kind = array_dtype(lhs)
        bits = 8 * kind.itemsize
        x, y = (peek(h).astype(np.dtype(f"u{kind.itemsize}"), copy=False) for h in (lhs, rhs))
        if bits == 64:
            high = _multiply_high_64(x, y)
        else:
            wide = np.dtype(f"u{2 * kind.itemsize}")
            high = ((x.astype(wide) * y.astype(wide)) >> np.array(bits, wide)).astype(x.dtype)
        return Handle(high.view(kind), lhs.dtype.scalar)

    def ternary_op(self, a: Any, b: Any, c: Any, op: Callable[..., Any]) -> Any:
        if op is np.where:
            return self._select(a, b, c)
        dtype = c.dtype.scalar
        if dtypes.is_packed(dtype):
            return lower(self.ternary_op(lift(a), lift(b), lift(c), op), dtype)
        kind = array_dtype(c)
        if op is np.clip and kind.kind == "f" and array_dtype(a) == array_dtype(b) == kind:
            return compute(np.clip, dtype, kind, a, b, c)
        return super().ternary_op(a, b, c, op)  # type: ignore[misc]

    def _select(self, condition: Any, yes: Any, no: Any) -> Any:
        dtype = no.dtype.scalar
        kind = array_dtype(no)
        if array_dtype(condition) != BOOL or array_dtype(yes) != kind:
            return super().ternary_op(condition, yes, no, np.where)  # type: ignore[misc]
        box = form_of(condition)
        if type(box) is Box and shape_of(yes) == shape_of(no) == box.shape:
            if box.is_full():
                return yes
            if box.is_empty():
                return no
            a, b = form_of(yes), form_of(no)
            if type(a) is Separable and type(b) is Separable and len(box.shape) > 1:
                axes = {*box.varying(), *a.varying(), *b.varying()}
                if len(axes) == 1:
                    (k,) = axes
                    form = _from_line(np.where(_line(box, k), _line(a, k), _line(b, k)), k, box.shape)
                    if form is not None:
                        return symbolic(form, dtype)
        first, second = splat_of(yes), splat_of(no)
        if first is not None and second is not None and first.value.tobytes() == second.value.tobytes():
            if first.shape == second.shape == shape_of(condition):
                return yes
        return compute(expressions.select, dtype, kind, condition, yes, no)

    def create_fma(self, x: Any, y: Any, z: Any) -> Any:
        dtype = z.dtype.scalar
        if dtypes.is_packed(dtype):
            return lower(self.create_fma(lift(x), lift(y), lift(z)), dtype)
        return super().create_fma(x, y, z)  # type: ignore[misc]

    def unary_op(self, arg: Any, op: Callable[..., Any]) -> Any:
        dtype = arg.dtype.scalar
        if dtypes.is_packed(dtype):
            return lower(self.unary_op(lift(arg), op), dtype)
        kind = array_dtype(arg)
        if op in _UNARY and kind.kind == "f" or op in (np.abs, np.negative) and kind.kind == "i":
            splat = splat_of(arg)
            if splat is not None:
                return symbolic(Splat(splat.shape, np.asarray(op(splat.value))), dtype)
            return compute(op, dtype, kind, arg)
        return super().unary_op(arg, op)  # type: ignore[misc]

    def create_fabs(self, arg: Any) -> Any:
        return self.unary_op(arg, np.abs)

    def create_rsqrt(self, arg: Any) -> Any:
        dtype = arg.dtype.scalar
        if dtypes.is_packed(dtype):
            return lower(self.create_rsqrt(lift(arg)), dtype)
        return compute(_reciprocal_sqrt, dtype, array_dtype(arg), arg)

    def create_erf(self, arg: Any) -> Any:
        dtype = arg.dtype.scalar
        if dtypes.is_packed(dtype):
            return lower(self.create_erf(lift(arg)), dtype)
        kind = array_dtype(arg)
        if kind.kind != "f" or kind.itemsize < 4:
            return super().create_erf(arg)  # type: ignore[misc]
        return compute(erf, dtype, kind, arg)


def _reciprocal_sqrt(x: np.ndarray, out: np.ndarray) -> None:
    np.sqrt(x, out=out)
    np.divide(1, out, out=out)


def _multiply_high_64(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The upper 64 bits of a 128-bit product, from 32-bit halves."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    x_low, x_high, y_low, y_high = x & low, x >> shift, y & low, y >> shift
    middle = x_high * y_low + ((x_low * y_low) >> shift)
    other = x_low * y_high + (middle & low)
    return x_high * y_high + (middle >> shift) + (other >> shift)


class CastOperations:
    """Casts and bit casts of the builder."""

    def cast_impl(self, src: Any, dst_type: tl.dtype) -> Any:
        source, target = src.dtype.scalar, dst_type.scalar
        if source.name == target.name and array_dtype(src) == numpy_dtype(target):
            return src
        form = form_of(src)
        if type(form) is Separable and target.is_int() and target.name != "int1" and source.is_int():
            if form.fits(numpy_dtype(target)):
                return symbolic(form.with_dtype(numpy_dtype(target)), target)
        if dtypes.is_packed(source):
            return self.cast_impl(lift(src), target)
        if dtypes.is_packed(target):
            return lower(self.cast_impl(src, tl.float32), target)
        kind = numpy_dtype(target)
        splat = splat_of(src)
        if splat is not None:
            return symbolic(Splat(splat.shape, splat.value.astype(kind)), target)
        if array_dtype(src) == kind:
            return Handle(src.data, target)
        return compute(expressions.convert, target, kind, src)

    def create_fp_to_fp(self, src: Any, dst_type: tl.dtype, rounding: Any) -> Any:
        """Between floating-point types, rounding to nearest even unless asked to round towards zero."""
        target = dst_type.scalar
        if rounding != stock._ir.ROUNDING_MODE.RTZ or target.primitive_bitwidth >= src.dtype.scalar.primitive_bitwidth:
            return self.cast_impl(src, target)
        src = lift(src)
        if dtypes.is_packed(target):
            wide = self.cast_impl(src, tl.float32)
            return compute(dtypes.encoder(target, towards_zero=True), target, numpy_dtype(target), wide)
        return compute(dtypes.truncate_towards_zero, target, numpy_dtype(target), src)

    def create_bitcast(self, src: Any, dst_type: tl.dtype) -> Any:
        target = dst_type.scalar
        kind = numpy_dtype(target)
        form = form_of(src)
        if type(form) is Separable and form.dtype.itemsize == 8 and kind.kind in "iu" and kind.itemsize == 8:
            if form.range()[0] >= 0:
                return symbolic(form.with_dtype(kind), target)
        splat = splat_of(src)
        if splat is not None:
            return symbolic(Splat(splat.shape, splat.value.view(kind)), target)
        return Handle(src.data.view(kind), target)

    create_int_to_ptr = create_bitcast
    create_ptr_to_int = create_bitcast
