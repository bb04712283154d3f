"""Binds operations to Tensor: operators, methods, in-place forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tinyflow.kernels import memory
from tinyflow.operands import OPERAND, wrong_operand
from tinyflow.ops import arithmetic, copy, creation, indexing, matmul, rounding, shape, strided, subscript
from tinyflow.ops.define import Op
from tinyflow.tensor import Tensor

_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


def _operand(value: Any) -> Any:
    """A value that an operator takes, numpy's as Python numbers and Tensors; NotImplemented for another type."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, _NUMBERS):
        return value.item() if isinstance(value, np.generic) else value
    return creation.as_tensor(value) if isinstance(value, np.ndarray) else NotImplemented


def _operator(function: Callable[..., Any], reflected: bool = False) -> Callable[..., Any]:
    def method(self: Tensor, other: Any) -> Any:
        value = _operand(other)
        if value is NotImplemented:
            if isinstance(other, memory.Buffer):  # of torch, whose operators know no Tensor either
                raise wrong_operand(f"{function.__name__}()", "other", OPERAND, other)
            return NotImplemented
        return function(value, self) if reflected else function(self, value)

    return method


def inplace(op: Op) -> Callable[..., Tensor]:
    """The in-place form of an operation on its first input."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return op.inplace(self, *args, **kwargs)

    method.__name__ = f"{op.name}_"
    method.__doc__ = f"In-place :func:`{op.name}`."
    return method


def _overwriting(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """The in-place form of an operation, or of a function with a result that has no gradient."""
    if isinstance(function, Op):
        return inplace(function)

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return function(self, *args, out=self, **kwargs)

    method.__name__ = f"{function.__name__}_"
    method.__doc__ = f"In-place :func:`{function.__name__}`."
    return method


def _add_(self: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """In-place :func:`add`."""
    return arithmetic._add.inplace(self, other if alpha == 1 else arithmetic.mul(other, alpha))


def _sub_(self: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """In-place :func:`sub`."""
    return arithmetic._sub.inplace(self, other if alpha == 1 else arithmetic.mul(other, alpha))


def _div_(self: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """In-place :func:`div`."""
    if rounding_mode is None:
        return arithmetic._div.inplace(self, other)
    return copy.copy_(self, arithmetic.div(self, other, rounding_mode=rounding_mode))


def _clamp_(self: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """In-place :func:`clamp`."""
    if min is None and max is None:
        raise ValueError("clamp_: At least one of 'min' or 'max' must not be None")
    if min is not None:
        arithmetic._clamp_min.inplace(self, min)
    return self if max is None else arithmetic._clamp_max.inplace(self, max)


def _addcmul_(self: Tensor, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Tensor:
    """In-place :func:`addcmul`."""
    return arithmetic._addcmul.inplace(self, tensor1, tensor2, value)


def _addcdiv_(self: Tensor, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Tensor:
    """In-place :func:`addcdiv`."""
    return arithmetic._addcdiv.inplace(self, tensor1, tensor2, value)


BINARY: dict[str, Callable[..., Any]] = {
    "add": arithmetic.add,
    "sub": arithmetic.sub,
    "mul": arithmetic.mul,
    "truediv": arithmetic.div,
    "floordiv": arithmetic.floor_divide,
    "mod": arithmetic.remainder,
    "pow": arithmetic.pow,
    "and": arithmetic.bitwise_and,
    "or": arithmetic.bitwise_or,
    "xor": arithmetic.bitwise_xor,
    "lshift": rounding.bitwise_left_shift,
    "rshift": rounding.bitwise_right_shift,
}
COMPARISONS: dict[str, Callable[..., Any]] = {k: getattr(arithmetic, k) for k in ("eq", "ne", "lt", "le", "gt", "ge")}
INPLACE: dict[str, Callable[..., Any]] = {
    "add": _add_,
    "sub": _sub_,
    "mul": inplace(arithmetic.mul),
    "div": _div_,
    "pow": inplace(arithmetic._pow),
    "clamp": _clamp_,
    "addcmul": _addcmul_,
    "addcdiv": _addcdiv_,
    "lerp": inplace(arithmetic.lerp),
    **{
        name: inplace(getattr(arithmetic, name))
        for name in (
            "neg",
            "abs",
            "sqrt",
            "rsqrt",
            "exp",
            "log",
            "relu",
            "sigmoid",
            "tanh",
            "reciprocal",
            "square",
            "floor",
            "ceil",
            "remainder",
            "floor_divide",
            "sin",
            "cos",
            "sign",
            "logical_not",
            "logical_and",
            "logical_or",
            "logical_xor",
            "bitwise_and",
            "bitwise_or",
            "bitwise_xor",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
        )
    },
}
INPLACE.update(
    absolute=INPLACE["abs"],
    negative=INPLACE["neg"],
    multiply=INPLACE["mul"],
    divide=_div_,
    subtract=_sub_,
    clip=_clamp_,
    bitwise_left_shift=inplace(rounding._left_shift),
    bitwise_right_shift=inplace(rounding._right_shift),
)
_INPLACE_OPERATORS: dict[str, Callable[..., Any]] = {
    "iadd": _add_,
    "isub": _sub_,
    "imul": INPLACE["mul"],
    "itruediv": _div_,
    "ipow": INPLACE["pow"],
    "ifloordiv": INPLACE["floor_divide"],
    "imod": INPLACE["remainder"],
}


def _invert(self: Tensor) -> Tensor:
    if self.dtype == memory.bool_:
        return arithmetic.logical_not(self)
    if self.dtype.is_floating_point:
        raise TypeError(
            f"~ (operator.invert) is only implemented on integer and Boolean-type tensors, got {self.dtype}"
        )
    return arithmetic.sub(arithmetic.neg(self), 1)


def _method(op: Any) -> Any:
    """A plain function, since only that binds ``self`` when it is looked up on the class."""
    if not isinstance(op, Op):
        return op

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return op(self, *args, **kwargs)

    method.__name__, method.__doc__ = op.name, op.__doc__
    method.__wrapped__ = op  # type: ignore[attr-defined]  # its signature is the operation's
    return method


def bind(methods: dict[str, Any]) -> None:
    """Makes operations methods of Tensor."""
    for name, function in methods.items():
        setattr(Tensor, name, _method(function))


def _where(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """``self`` where ``condition`` holds, else ``other``."""
    return indexing.where(condition, self, other)


def _new(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs["dtype"] = kwargs.get("dtype") or self.dtype
        kwargs["device"] = self.device if kwargs.get("device") is None else kwargs["device"]
        return make(*args, **kwargs)

    method.__name__ = f"new_{make.__name__}"
    method.__doc__ = f":func:`{make.__name__}` with this tensor's dtype and device."
    return method


def bind_all(families: Sequence[ModuleType]) -> None:
    """Binds every family's ``METHODS``, the in-place forms and the operators."""
    for family in families:
        bind({name: getattr(family, name) for name in getattr(family, "METHODS", ())})
        bind({f"{name}_": _overwriting(getattr(family, name)) for name in getattr(family, "INPLACE", ())})
    bind(copy.CONVERTERS)
    bind({f"{name}_": function for name, function in INPLACE.items()})
    makers = (creation.zeros, creation.ones, creation.empty, creation.full, creation.tensor)
    bind({f"new_{make.__name__}": _new(make) for make in makers})
    bind({"where": _where, "multiply": arithmetic.mul, "divide": arithmetic.div, "subtract": arithmetic.sub})
    bind({"unfold": strided.unfold_dim, "__getitem__": subscript.getitem, "__setitem__": subscript.setitem})
    bind({"__neg__": arithmetic.neg, "__abs__": arithmetic.abs, "__invert__": _invert, "__pos__": lambda self: self})
    bind({"__matmul__": _operator(matmul.matmul), "__rmatmul__": _operator(matmul.matmul, reflected=True)})
    bind({f"__{name}__": _operator(function) for name, function in {**BINARY, **COMPARISONS}.items()})
    bind({f"__r{name}__": _operator(function, reflected=True) for name, function in BINARY.items()})
    bind({f"__{name}__": _operator(function) for name, function in _INPLACE_OPERATORS.items()})
    for name, prop in {"T": shape.reverse_dims, "mT": shape.matrix_transpose}.items():
        setattr(Tensor, name, property(prop))
