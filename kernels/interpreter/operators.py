"""The operations that kernels consist of, for their common operands, without Triton's semantic layer.

Each takes its operands if they are of one plain type (a tensor with a tensor or with a Python number that does not change
the type) and decides in a few comparisons; every other call goes on to the member of ``triton.language`` that it stands
in front of, which decides and reports errors as ever.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter import forms, memo, memory, shapes
from tinyflow.kernels.interpreter.arithmetic import divide_truncating
from tinyflow.kernels.interpreter.expressions import LEAST_SIZE
from tinyflow.kernels.interpreter.forms import INT32, Box, Separable, Shape, Splat
from tinyflow.kernels.interpreter.handles import Handle, array_of, numpy_dtype, symbolic
from tinyflow.kernels.interpreter.semantics import shape_of_type

Member = Callable[..., Any]

_builder = stock.interpreter_builder
_INTEGERS = (tl.int32, tl.int64)
_SMALL_INTEGERS = (tl.int8, tl.int16, tl.uint8, tl.uint16, tl.uint32, tl.uint64)
_FLOATS = (tl.float32, tl.float64)
_FLOAT32 = np.dtype(np.float32)
#: Types between which a cast says all by its two ends.
_PLAIN = frozenset(
    id(t)
    for t in (
        *(tl.int8, tl.int16, tl.int32, tl.int64, tl.uint8, tl.uint16, tl.uint32, tl.uint64),
        *(tl.float16, tl.bfloat16, tl.float32, tl.float64),
    )
)
_TYPES: dict[tuple[int, Shape], Any] = {}
#: One object for each pointer type: by element type, address space and constness.
_POINTERS: dict[tuple[int, Any, Any], Any] = {}


def tile_type(element: Any, shape: Shape) -> Any:
    """The type of a tile, or the element type itself for the shape ()."""
    if not shape:
        return element
    kind = _TYPES.get((id(element), shape))
    if kind is None:
        kind = _TYPES[id(element), shape] = tl.block_type(element, list(shape))
    return kind


def _shape(tensor: Any) -> Shape:
    return shape_of_type(tensor.type)


def _number(tensor: Any, value: Any) -> Handle | None:
    """A Python number as a handle of the type of ``tensor``, or None where it would change the type."""
    dtype = tensor.dtype
    shape = _shape(tensor) or (1,)
    if dtype is tl.float32 or dtype is tl.float64:
        if type(value) is float or type(value) is int:
            kind = _FLOAT32 if dtype is tl.float32 else np.dtype(np.float64)
            return symbolic(Splat(shape, np.array(value, kind)), dtype)
    elif type(value) is int and -(2**31) <= value < 2**31 and any(dtype is t for t in _INTEGERS):
        return symbolic(Separable(shape, value, (0,) * len(shape), numpy_dtype(dtype)), dtype)
    return None


def _pair(left: Any, right: Any) -> tuple[Any, Any, Shape] | None:
    """The handles of two tensors over their common shape, or None where they do not broadcast plainly."""
    a, b = _shape(left), _shape(right)
    if a == b:
        return left.handle, right.handle, a
    if not a:
        return _builder.create_splat(tile_type(left.dtype, b), left.handle), right.handle, b
    if not b:
        return left.handle, _builder.create_splat(tile_type(right.dtype, a), right.handle), a
    if len(a) != len(b) or any(m != n and m != 1 and n != 1 for m, n in zip(a, b)):
        return None
    shape = tuple(map(max, a, b))
    x = left.handle if a == shape else _builder.create_broadcast(left.handle, shape)
    y = right.handle if b == shape else _builder.create_broadcast(right.handle, shape)
    return x, y, shape


#: Operations on floating-point arrays that need nothing but numpy's own.
_SIMPLE = frozenset((np.add, np.subtract, np.multiply, np.divide))


def _small_array(handle: Any) -> np.ndarray | None:
    """The array of a small value, or the one number of a constant; None for others."""
    if type(handle) is not Handle:
        return None
    data = handle._data
    if data is None:
        return handle._form.value if type(handle._form) is Splat else None
    return data if data.size < LEAST_SIZE else None


def _at_once(op: Any, tensor: Any, other: Any, reverse: bool) -> Any:
    """An operation on small floating-point arrays, where it is numpy's own on what the operands hold; else None."""
    x = _small_array(tensor.handle)
    if x is None:
        return None
    dtype, kind = tensor.dtype, tensor.type
    if type(other) is tl.tensor:
        y = _small_array(other.handle) if other.dtype is dtype else None
        if y is None:
            return None
        if not shape_of_type(kind):
            kind = other.type
    elif type(other) is float or type(other) is int:
        y = np.array(other, x.dtype)
    else:
        return None
    if not (x.ndim or y.ndim):
        return None  # remains a constant
    value = op(y, x) if reverse else op(x, y)
    if value.shape != (shape_of_type(kind) or (1,)) or value.dtype != x.dtype:
        return None
    return tl.tensor(Handle(value, dtype), kind)


_operator_numbers = itertools.count()


def _binary(member: Member, op: Any, types: tuple[Any, ...], result: Any, reverse: bool, checks: bool) -> Member:
    """An operator for operands of one of ``types``; its value has their type, or ``result``."""
    number = next(_operator_numbers)
    types_by_id = frozenset(map(id, types))
    is_simple = op in _SIMPLE
    options = _builder

    def operator(self: Any, other: Any, _semantic: Any = None) -> Any:
        if checks and options.options.debug:
            return member(self, other)
        kind = type(other)
        if kind is tl.constexpr:
            other = other.value
            kind = type(other)
        key: Any = None
        if "canonical" in self.__dict__:
            if kind is tl.tensor:
                if "canonical" in other.__dict__:
                    key = (number, id(self), id(other))
            elif kind is int:
                key = (number, id(self), int, other)
            elif kind is float:
                key = (number, id(self), float, other.hex())  # tells 0.0 from -0.0
            found = memo.find(key)
            if found is not None:
                return found
        dtype = self.dtype
        if id(dtype) in types_by_id:
            if key is None and is_simple and (dtype is tl.float32 or dtype is tl.float64):
                value = _at_once(op, self, other, reverse)
                if value is not None:
                    return value
            if kind is tl.tensor:
                pair = _pair(self, other) if other.dtype is dtype else None
            else:
                constant = _number(self, other) if dtype is not tl.int1 else None
                pair = None if constant is None else (self.handle, constant, shape_of_type(self.type))
            if pair is not None:
                left, right, shape = pair
                handle = options.binary_op(right, left, op) if reverse else options.binary_op(left, right, op)
                value = tl.tensor(handle, tile_type(result or dtype, shape))
                return value if key is None else memo.remember(key, value, self, other)
        return member(self, other)

    return operator


def _add(member: Member) -> Member:
    numbers = _binary(member, np.add, _INTEGERS + _FLOATS, None, False, True)

    def add(self: Any, other: Any, _semantic: Any = None) -> Any:
        if type(self.dtype) is tl.pointer_type and type(other) is tl.tensor:
            if any(other.dtype is t for t in _INTEGERS):
                if not _shape(self):
                    form = shapes.from_scalar_pointer(self.handle, other.handle)
                    if form is not None:
                        return tl.tensor(symbolic(form, self.dtype), tile_type(self.dtype, _shape(other)))
                a, b = _shape(self), _shape(other)
                if a != b and len(a) == len(b) > 1 and all(m == n or m == 1 or n == 1 for m, n in zip(a, b)):
                    shape = tuple(map(max, a, b))
                    form = shapes.from_broadcast_pointer(self.handle, other.handle, shape)
                    if form is not None:
                        return tl.tensor(symbolic(form, self.dtype), tile_type(self.dtype, shape))
                found = _pair(self, other)
                if found is not None:
                    pointer, offset, shape = found
                    return tl.tensor(_builder.create_addptr(pointer, offset), tile_type(self.dtype, shape))
        return numbers(self, other)

    return add


def _getitem(member: Member) -> Member:
    """Indexing by ``:`` and ``None`` only."""
    everything = slice(None)
    number = next(_operator_numbers)

    def getitem(self: Any, index: Any, _semantic: Any = None) -> Any:
        shape = _shape(self)
        if type(index) is tuple and shape:
            kept = [i for i in index if i is not None]
            if len(kept) == len(shape) and all(type(i) is slice and i == everything for i in kept):
                key = None
                if memo.is_canonical(self):
                    key = (number, id(self), tuple([i is None for i in index]))
                    found = memo.find(key)
                    if found is not None:
                        return found
                sizes = iter(shape)
                wide = tuple(1 if i is None else next(sizes) for i in index)
                value = tl.tensor(_expand(self.handle, index), tile_type(self.dtype, wide))
                return value if key is None else memo.remember(key, value, self)
        return member(self, index)

    return getitem


def _expand(handle: Any, index: tuple[Any, ...]) -> Handle:
    form = getattr(handle, "_form", None)
    if array_of(handle) is None and type(form) in (Separable, Box, Splat) or type(form) in (Separable, Box):
        for axis, i in enumerate(index):
            if i is None:
                form = forms.expand(form, axis)
        return symbolic(form, handle.dtype)
    return Handle(handle.data[index], handle.dtype)


def _to(member: Member) -> Member:
    number = next(_operator_numbers)

    def to(self: Any, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        bits = kwargs.get("bitcast", False)
        if args or len(kwargs) > ("bitcast" in kwargs) or type(bits) is not bool:
            return member(self, dtype, *args, **kwargs)
        dtype = dtype.value if type(dtype) is tl.constexpr else dtype
        source = self.dtype
        if dtype is source:
            return self
        if type(dtype) is tl.pointer_type and source is tl.int64:
            dtype = _pointer_type(dtype)
            return tl.tensor(_builder.create_int_to_ptr(self.handle, dtype), tile_type(dtype, _shape(self)))
        if id(dtype) not in _PLAIN or id(source) not in _PLAIN:
            return member(self, dtype, *args, **kwargs)
        if bits and dtype.primitive_bitwidth != source.primitive_bitwidth:
            return member(self, dtype, *args, **kwargs)
        key = None
        if memo.is_canonical(self):
            key = (number, id(self), id(dtype), bits)
            found = memo.find(key)
            if found is not None:
                return found
        handle = (_builder.create_bitcast if bits else _builder.cast_impl)(self.handle, dtype)
        value = tl.tensor(handle, tile_type(dtype, _shape(self)))
        return value if key is None else memo.remember(key, value, self)

    return to


def _pointer_type(dtype: Any) -> Any:
    """The one object for pointer types equal to this one."""
    key = (id(dtype.element_ty), dtype.address_space, dtype.const)
    known = _POINTERS.get(key)
    return _POINTERS.setdefault(key, dtype) if known is None else known


def _cast(member: Member) -> Member:
    """``tl.cast`` of a tensor, which is ``to``."""

    def cast(input: Any, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        dtype = dtype.value if type(dtype) is tl.constexpr else dtype
        if (
            type(input) is int
            and not args
            and kwargs.keys() <= {"_semantic"}
            and id(dtype) in _PLAIN
            and dtype.is_int()
        ):
            if not -(2**31) <= input < 2**31 or not forms.scalar(input, numpy_dtype(dtype)).fits(numpy_dtype(dtype)):
                return member(input, dtype)
            return memo.scalar(input, dtype, numpy_dtype(dtype))
        if type(input) is tl.tensor and not args:
            if kwargs.keys() <= {"_semantic"}:
                return input.to(dtype)
            if kwargs.keys() <= {"_semantic", "bitcast"}:
                return input.to(dtype, bitcast=kwargs["bitcast"])
        return member(input, dtype, *args, **kwargs)

    return cast


def _extremum(number: str, propagating: str, whole: str) -> Callable[[Member], Member]:
    """``tl.maximum`` and ``tl.minimum`` of two tensors of one type and shape, or of a tensor and a number."""

    def front(member: Member) -> Member:
        floating = getattr(_builder, number), getattr(_builder, propagating)
        integer = getattr(_builder, whole)

        def extremum(x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
            y_value = y.value if type(y) is tl.constexpr else y
            nan = kwargs.get("propagate_nan", tl.PropagateNan.NONE)
            nan = nan.value if type(nan) is tl.constexpr else nan
            if type(x) is tl.tensor and not args and kwargs.keys() <= {"_semantic", "propagate_nan"}:
                is_floating = any(x.dtype is t for t in _FLOATS)
                if is_floating or any(x.dtype is t for t in _INTEGERS):
                    other = _like(x, y_value)
                    if other is not None:
                        chosen = floating[nan is tl.PropagateNan.ALL] if is_floating else integer
                        handle = chosen(x.handle, other)
                        return tl.tensor(handle, x.type)
            return member(x, y, *args, **kwargs)

        return extremum

    return front


def _mask_of(pointer: Any, mask: Any) -> Any:
    """The handle of a mask over the shape of a pointer; False where that takes more than a broadcast."""
    if type(mask) is not tl.tensor or mask.dtype is not tl.int1:
        return False
    wanted, given = _shape(pointer), _shape(mask)
    if given == wanted:
        return mask.handle
    if not wanted:
        return False
    if not given:
        return _builder.create_splat(tile_type(tl.int1, wanted), mask.handle)
    if len(given) == len(wanted) and all(m == n or m == 1 for m, n in zip(given, wanted)):
        return _builder.create_broadcast(mask.handle, wanted)
    return False


def _plain_element(pointer: Any) -> Any:
    """The element type of a plain pointer, or None for any other value."""
    if type(pointer) is not tl.tensor or type(pointer.dtype) is not tl.pointer_type:
        return None
    element = pointer.dtype.element_ty
    return None if element.name == "int1" or type(element) in (tl.block_type, tl.pointer_type) else element


def _load(member: Member) -> Member:
    def load(pointer: Any, mask: Any = None, other: Any = None, *args: Any, **kwargs: Any) -> Any:
        element = _plain_element(pointer)
        if element is None or args or "boundary_check" in kwargs or "padding_option" in kwargs:
            return member(pointer, mask, other, *args, **kwargs)
        shape = _shape(pointer)
        mask_handle = other_handle = None
        if mask is not None:
            mask_handle = _mask_of(pointer, mask)
            if mask_handle is False:
                return member(pointer, mask, other, **kwargs)
        if other is not None:
            number = other.value if type(other) is tl.constexpr else other
            if mask is None or type(number) not in (int, float) or not _holds(element, number):
                return member(pointer, mask, other, **kwargs)
            other_handle = _fill(element, shape or (1,), number)
        handle = memory.load(_builder, pointer.handle, mask_handle, other_handle)
        return tl.tensor(handle, tile_type(element, shape))

    return load


#: Constants that masked lanes hold, by element type, shape and integer; an entry keeps its type, hence the type's id.
_fills: dict[tuple[int, Shape, int], tuple[Any, Handle]] = {}
_MOST_FILLS = 10_000


def _fill(element: Any, shape: Shape, number: float) -> Handle:
    """A constant as a tile."""
    if type(number) is not int:
        return symbolic(Splat(shape, np.array(number, numpy_dtype(element))), element)
    found = _fills.get((id(element), shape, number))
    if found is None:
        if len(_fills) >= _MOST_FILLS:
            _fills.clear()
        handle = symbolic(Splat(shape, np.array(number, numpy_dtype(element))), element)
        found = _fills[id(element), shape, number] = element, handle
    return found[1]


def _holds(element: Any, number: Any) -> bool:
    """True if a cast of the number to the element type is numpy's own."""
    return any(element is t for t in _FLOATS) or type(number) is int and number in (0, 1) and element.is_int()


def _store(member: Member) -> Member:
    def store(pointer: Any, value: Any, mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        element = _plain_element(pointer)
        if (
            element is not None
            and type(value) is tl.tensor
            and value.dtype is element
            and _shape(value) == _shape(pointer)
            and not args
            and "boundary_check" not in kwargs
        ):
            mask_handle = None if mask is None else _mask_of(pointer, mask)
            if mask_handle is not False:
                memory.store(_builder, pointer.handle, value.handle, mask_handle)
                return None
        return member(pointer, value, mask, *args, **kwargs)

    return store


def _where(member: Member) -> Member:
    number = next(_operator_numbers)

    def where(condition: Any, x: Any, y: Any, _semantic: Any = None) -> Any:
        keys = [memo.key_of(v) for v in (condition, x, y)]
        if None in keys:
            return compute(condition, x, y)
        key = (number, *keys)
        found = memo.find(key)
        if found is not None:
            return found
        value = compute(condition, x, y)
        return memo.remember(key, value, condition, x, y) if any(value.dtype is t for t in _INTEGERS) else value

    def compute(condition: Any, x: Any, y: Any) -> Any:
        if type(condition) is tl.tensor and condition.dtype is tl.int1:
            x = x.value if type(x) is tl.constexpr else x
            y = y.value if type(y) is tl.constexpr else y
            model = x if type(x) is tl.tensor else y
            if type(y) is tl.tensor and not _shape(model):
                model = y
            if type(model) is tl.tensor and any(model.dtype is t for t in _INTEGERS + _SMALL_INTEGERS + _FLOATS):
                shape = _shape(model)
                if shape == _shape(condition):
                    yes, no = _like(model, x), _like(model, y)
                    if yes is not None and no is not None:
                        handle = _builder.ternary_op(condition.handle, yes, no, np.where)
                        return tl.tensor(handle, tile_type(model.dtype, shape))
        return member(condition, x, y)

    return where


def _like(model: Any, value: Any) -> Any:
    if type(value) is not tl.tensor:
        return _number(model, value)
    if value.dtype is not model.dtype:
        return None
    given, wanted = _shape(value), _shape(model)
    if given == wanted:
        return value.handle
    return None if given else _builder.create_splat(tile_type(model.dtype, wanted), value.handle)


def _arange(member: Member) -> Member:
    number = next(_operator_numbers)

    def arange(start: Any, end: Any, _semantic: Any = None) -> Any:
        start = start.value if type(start) is tl.constexpr else start
        end = end.value if type(end) is tl.constexpr else end
        if type(start) is not int or type(end) is not int:
            return member(start, end)
        found = memo.find((number, start, end))
        return found if found is not None else memo.remember((number, start, end), member(start, end))

    return arange


def _broadcast_to(member: Member) -> Member:
    """``tl.broadcast_to``, of a tensor that has the shape already."""

    def broadcast_to(input: Any, *shape: Any, _semantic: Any = None) -> Any:
        sizes = shape[0] if len(shape) == 1 and type(shape[0]) in (tuple, list, tl.tuple) else shape
        plain = tuple([n.value if type(n) is tl.constexpr else n for n in sizes])
        if type(input) is tl.tensor and plain and _shape(input) == plain:
            return input
        return member(input, *shape)

    return broadcast_to


def _index_of(attribute: str) -> Callable[[Member], Member]:
    def front(member: Member) -> Member:
        def index(axis: Any, _semantic: Any = None) -> Any:
            memo.note_effect()
            axis = axis.value if type(axis) is tl.constexpr else axis
            if type(axis) is not int or not 0 <= axis <= 2:
                return member(axis)
            return memo.scalar(getattr(_builder, attribute)[axis], tl.int32, INT32)

        return index

    return front


_SIGNED = _INTEGERS + (tl.float32, tl.float64)
_BITS = (tl.int1, tl.int32, tl.int64)


def replacements() -> list[tuple[Any, str, Callable[[Member], Member]]]:
    """What to put in front of which member: (owner, name, a function of the member)."""
    table: list[tuple[Any, str, Callable[[Member], Member]]] = [
        (tl.tensor, "__add__", _add),
        (tl.tensor, "__getitem__", _getitem),
        (tl.tensor, "to", _to),
    ]

    def binary(name: str, op: Any, types: tuple[Any, ...], result: Any = None, checks: bool = False) -> None:
        for prefix, reverse in (("__", False), ("__r", True)):
            attribute = f"{prefix}{name}__"
            if hasattr(tl.tensor, attribute) and attribute != "__add__":
                settings = {"op": op, "types": types, "result": result, "reverse": reverse, "checks": checks}
                table.append((tl.tensor, attribute, functools.partial(_binary, **settings)))

    binary("add", np.add, _SIGNED, checks=True)
    binary("sub", np.subtract, _SIGNED, checks=True)
    binary("mul", np.multiply, _SIGNED, checks=True)
    binary("truediv", np.divide, _FLOATS)
    binary("floordiv", divide_truncating, _INTEGERS)
    binary("mod", np.fmod, _INTEGERS)
    binary("and", np.bitwise_and, _BITS)
    binary("or", np.bitwise_or, _BITS)
    binary("xor", np.bitwise_xor, _BITS)
    for name, op in (
        ("lt", np.less),
        ("le", np.less_equal),
        ("gt", np.greater),
        ("ge", np.greater_equal),
        ("eq", np.equal),
        ("ne", np.not_equal),
    ):
        binary(name, op, _SIGNED + _SMALL_INTEGERS, result=tl.int1)
    for module in (tl, tl.core):
        table += [(module, "load", _load), (module, "store", _store), (module, "where", _where)]
        table += [
            (module, "cast", _cast),
            (module, "maximum", _extremum("create_maxnumf", "create_maximumf", "create_maxsi")),
            (module, "minimum", _extremum("create_minnumf", "create_minimumf", "create_minsi")),
            (module, "arange", _arange),
            (module, "broadcast_to", _broadcast_to),
            (module, "program_id", _index_of("grid_idx")),
            (module, "num_programs", _index_of("grid_dim")),
        ]
    return table
