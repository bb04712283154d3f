"""Shorter ways through Triton's semantic layer, which otherwise costs several times the arithmetic.

The common cases (operands of one type, a tensor and a number) are decided here; every other goes to Triton's own code.
Types and the parts of a tensor that depend on its type alone are made once for each type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter import forms, memo
from tinyflow.kernels.interpreter.forms import Separable, Shape, Splat
from tinyflow.kernels.interpreter.handles import form_of, numpy_dtype, symbolic

_PLAIN = ("fp16", "fp32", "fp64")
_NUMBERS = (tl.int32, tl.int64, tl.float32)
_BLOCK_TYPES: dict[tuple[Any, ...], dict[str, Any]] = {}
_MOST_TYPES = 10_000

_make_block_type = tl.block_type.__init__
_make_tensor = tl.tensor.__init__


def block_type_init(self: Any, element_ty: Any, shape: Any) -> None:
    """``tl.block_type.__init__``, once for each element type and shape."""
    plain = tuple([n.value if type(n) is tl.constexpr else n for n in getattr(shape, "values", shape)])
    key = (id(element_ty), plain)
    known = _BLOCK_TYPES.get(key)
    if known is not None:
        self.__dict__ = known  # equal types share their attributes; the entry keeps element_ty, hence its id, alive
        return
    _make_block_type(self, element_ty, shape)
    if len(_BLOCK_TYPES) >= _MOST_TYPES:
        _BLOCK_TYPES.clear()
    self.plain_shape = plain
    _BLOCK_TYPES[key] = self.__dict__


def shape_of_type(kind: Any) -> Shape:
    """The shape of a type as a tuple of Python's; () for an element type."""
    if type(kind) is not tl.block_type:
        return ()
    plain = kind.__dict__.get("plain_shape")
    if plain is None:
        plain = kind.plain_shape = tuple([int(n) for n in getattr(kind.shape, "values", kind.shape)])
    return plain


def tensor_init(self: Any, handle: Any, type: Any) -> None:
    """``tl.tensor.__init__``, with what depends on the type alone made once."""
    template = type.__dict__.get("_tensor_template")
    if template is None:
        _make_tensor(self, None, type)
        template = dict(self.__dict__)
        type._tensor_template = template
    self.__dict__.update(template)
    self.handle = handle
    self.type = type


class Semantic(TritonSemantic):
    """The semantic layer of the interpreter's builder."""

    def to_tensor(self, x: Any, check_type: bool = True) -> Any:
        return x if type(x) is tl.tensor else super().to_tensor(x, check_type)

    def binary_op_sanitize_overflow_impl(self, lhs: Any, rhs: Any, binary_op: Any) -> None:
        """The overflow check ends in a device_assert, which does nothing outside debug mode."""
        if not self.builder.options.debug or lhs.type.scalar.int_bitwidth >= 64:
            return
        a, b = form_of(lhs.handle), form_of(rhs.handle)
        if type(a) is Separable and type(b) is Separable and a.shape == b.shape and a.dtype == b.dtype:
            if binary_op.__name__ == "mul":
                if max(map(abs, a.range())) * max(map(abs, b.range())) <= np.iinfo(a.dtype).max:
                    return
            elif forms.add(a, b, 1 if binary_op.__name__ == "add" else -1).fits(a.dtype):
                return
        super().binary_op_sanitize_overflow_impl(lhs, rhs, binary_op)

    def binary_op_type_checking_impl(
        self,
        lhs: Any,
        rhs: Any,
        allow_lhs_ptr: bool = False,
        allow_rhs_ptr: bool = False,
        arithmetic_check: bool = True,
        div_or_mod: bool = False,
    ) -> tuple[Any, Any]:
        pair = self._common_pair(lhs, rhs, allow_lhs_ptr, arithmetic_check)
        if pair is not None:
            return pair
        return super().binary_op_type_checking_impl(
            lhs, rhs, allow_lhs_ptr, allow_rhs_ptr, arithmetic_check, div_or_mod
        )

    def _common_pair(self, lhs: Any, rhs: Any, allow_lhs_ptr: bool, arithmetic_check: bool) -> tuple[Any, Any] | None:
        """Operands whose common type is that of the tensor among them, broadcast; None for every other pair."""
        tensor, other = (lhs, rhs) if type(lhs) is tl.tensor else (rhs, lhs)
        if type(tensor) is not tl.tensor:
            return None
        dtype = tensor.dtype
        is_number = any(dtype is t for t in _NUMBERS)
        if type(other) is tl.tensor:
            same = other.dtype is dtype and (is_number or dtype is tl.int1)
            if same or allow_lhs_ptr and tensor is lhs and dtype.is_ptr() and other.dtype is tl.int32:
                return self.broadcast_impl_value(lhs, rhs)
            return None
        if not (is_number and arithmetic_check):
            return None
        constant = _constant_like(tensor, other)
        if constant is None:
            return None
        return (lhs, constant) if tensor is lhs else (constant, rhs)

    def broadcast_impl_value(self, lhs: Any, rhs: Any) -> tuple[Any, Any]:
        a, b = shape_of_type(lhs.type), shape_of_type(rhs.type)
        if a == b:
            return lhs, rhs
        if not b:
            kind = tl.block_type(rhs.type, list(a))
            return lhs, tl.tensor(self.builder.create_splat(kind, rhs.handle), kind)
        if not a:
            kind = tl.block_type(lhs.type, list(b))
            return tl.tensor(self.builder.create_splat(kind, lhs.handle), kind), rhs
        if len(a) != len(b) or any(x != y and x != 1 and y != 1 for x, y in zip(a, b)):
            return super().broadcast_impl_value(lhs, rhs)
        shape = list(map(max, a, b))
        return self._grow(lhs, shape), self._grow(rhs, shape)

    def _grow(self, tensor: Any, shape: list[int]) -> Any:
        if list(shape_of_type(tensor.type)) == shape:
            return tensor
        return tl.tensor(self.builder.create_broadcast(tensor.handle, shape), tl.block_type(tensor.dtype, shape))


#: Kinds of products that Triton's own checks have let pass.
_checked_dots: set[Any] = set()


def quick_dot(member: Any) -> Any:
    """``tl.dot`` with an accumulator, whose checks run once for each kind of operands."""

    def dot(input: Any, other: Any, acc: Any = None, *args: Any, **kwargs: Any) -> Any:
        if args or type(acc) is not tl.tensor or acc.dtype is not tl.float32 and acc.dtype is not tl.float64:
            return member(input, other, acc, *args, **kwargs)
        tensors = (input, other, acc)
        key = (
            *[(shape_of_type(t.type), t.dtype.name) for t in tensors],
            *kwargs,
            *[memo.key_of(v) for v in kwargs.values()],
        )
        if key in _checked_dots:
            handle = stock.interpreter_builder.create_dot(input.handle, other.handle, acc.handle, None, None)
            return tl.tensor(handle, acc.type)
        result = member(input, other, acc, **kwargs)
        if input.dtype == other.dtype and input.dtype.name in _PLAIN and len(_checked_dots) < _MOST_TYPES:
            _checked_dots.add(key)
        return result

    return dot


def _constant_like(tensor: Any, value: Any) -> Any:
    """A Python number as a tensor of the type of ``tensor``, where that is the common type; else None."""
    dtype = tensor.dtype
    shape = shape_of_type(tensor.type) or (1,)
    if dtype is tl.float32:
        if type(value) is not float and type(value) is not int:
            return None
        return tl.tensor(symbolic(Splat(shape, np.array(value, np.float32)), dtype), tensor.type)
    if type(value) is int and -(2**31) <= value < 2**31:
        return tl.tensor(symbolic(forms.constant(shape, value, numpy_dtype(dtype)), dtype), tensor.type)
    return None
