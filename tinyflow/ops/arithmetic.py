"""Gradients of arithmetic: for each operand what its gradient is, written in operations again."""

from __future__ import annotations

import math
from typing import Any

from tinyflow.autocast_mode import FULL_ON_GPU
from tinyflow.kernels import arithmetic as kernels
from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.dtypes import Scalar
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS = [
    "add", "sub", "mul", "div", "neg", "abs", "sign", "square", "reciprocal", "sqrt", "rsqrt", "exp", "log", "sin",
    "cos", "sigmoid", "tanh", "relu", "floor", "ceil", "isnan", "isfinite", "logical_not", "logical_and",
    "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "floor_divide", "remainder", "pow",
    "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge", "clamp", "addcmul", "addcdiv", "lerp", "clip", "clamp_min",
    "clamp_max", "absolute", "negative",
]  # fmt: skip
__all__ = [
    "add", "sub", "mul", "div", "neg", "abs", "sign", "square", "reciprocal", "sqrt", "rsqrt", "exp", "log", "sin",
    "cos", "sigmoid", "tanh", "relu", "floor", "ceil", "isnan", "isfinite", "logical_not", "logical_and",
    "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "floor_divide", "remainder", "pow",
    "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge", "clamp", "addcmul", "addcdiv", "lerp", "clip", "clamp_min",
    "clamp_max", "absolute", "negative", "multiply", "divide", "subtract", "true_divide", "result_type",
]  # fmt: skip

# ---- one operand ---------------------------------------------------------------------------------------------------

neg: Op = define(kernels.neg, x=lambda g: -g)
abs: Op = define(kernels.abs_, name="abs", x=lambda g, x: g * sign(x))
sign: Op = define(kernels.sign, x=lambda g: _no_slope(g))
square: Op = define(kernels.square, autocast=FULL_ON_GPU, x=lambda g, x: 2 * g * x)
reciprocal: Op = define(kernels.reciprocal, autocast=FULL_ON_GPU, x=lambda g, y: -g * y * y)
sqrt: Op = define(kernels.sqrt, x=lambda g, y: g / (2 * y))
rsqrt: Op = define(kernels.rsqrt, autocast=FULL_ON_GPU, x=lambda g, y: -0.5 * g * y * y * y)
exp: Op = define(kernels.exp, autocast=FULL_ON_GPU, x=lambda g, y: g * y)
log: Op = define(kernels.log, autocast=FULL_ON_GPU, x=lambda g, x: g / x)
sin: Op = define(kernels.sin, x=lambda g, x: g * cos(x))
cos: Op = define(kernels.cos, x=lambda g, x: -g * sin(x))
sigmoid: Op = define(kernels.sigmoid, x=lambda g, y: g * y * (1 - y))
tanh: Op = define(kernels.tanh, x=lambda g, y: g * (1 - y * y))
relu_backward: Op = define(kernels.relu_backward, grad=lambda g, y: relu_backward(g, y), y=None)
relu: Op = define(kernels.relu, x=lambda g, y: relu_backward(g, y))
floor: Op = define(kernels.floor, x=lambda g: _no_slope(g))
ceil: Op = define(kernels.ceil, x=lambda g: _no_slope(g))
isnan: Op = define(kernels.isnan, x=None)
isfinite: Op = define(kernels.isfinite, x=None)
logical_not: Op = define(kernels.logical_not, x=None)

# ---- two operands --------------------------------------------------------------------------------------------------

_add: Op = define(kernels.add, x=lambda g: g, other=lambda g: g)
_sub: Op = define(kernels.sub, x=lambda g: g, other=lambda g: -g)
mul: Op = define(kernels.mul, x=lambda g, other: g * other, other=lambda g, x: g * x)
_div: Op = define(kernels.div, x=lambda g, other: g / other, other=lambda g, other, y: -g * y / other)
floor_divide: Op = define(kernels.floor_divide, x=None, other=None)
remainder: Op = define(kernels.remainder, x=lambda g: g, other=lambda g, x, other: -g * _floor(_div(x, other)))
_pow: Op = define(
    kernels.pow,
    autocast=FULL_ON_GPU,
    x=lambda g, x, exponent: g * _power_slope(x, exponent),
    exponent=lambda g, x, exponent, y: g * where(logical_and(x == 0, exponent >= 0), 0.0, y * _log_of(x)),
)
maximum: Op = define(
    kernels.maximum,
    x=lambda g, x, other: where(x == other, g * 0.5, where(x < other, 0, g)),
    other=lambda g, x, other: where(x == other, g * 0.5, where(x > other, 0, g)),
)
minimum: Op = define(
    kernels.minimum,
    x=lambda g, x, other: where(x == other, g * 0.5, where(x > other, 0, g)),
    other=lambda g, x, other: where(x == other, g * 0.5, where(x < other, 0, g)),
)
eq: Op = define(kernels.eq, x=None, other=None)
ne: Op = define(kernels.ne, x=None, other=None)
lt: Op = define(kernels.lt, x=None, other=None)
le: Op = define(kernels.le, x=None, other=None)
gt: Op = define(kernels.gt, x=None, other=None)
ge: Op = define(kernels.ge, x=None, other=None)
logical_and: Op = define(kernels.logical_and, x=None, other=None)
logical_or: Op = define(kernels.logical_or, x=None, other=None)
logical_xor: Op = define(kernels.logical_xor, x=None, other=None)
bitwise_and: Op = define(kernels.bitwise_and, x=None, other=None)
bitwise_or: Op = define(kernels.bitwise_or, x=None, other=None)
bitwise_xor: Op = define(kernels.bitwise_xor, x=None, other=None)

# ---- three operands ------------------------------------------------------------------------------------------------

where: Op = define(
    kernels.where,
    condition=None,
    x=lambda g, condition: where(condition, g, 0),
    other=lambda g, condition: where(condition, 0, g),
)
_addcmul: Op = define(
    kernels.addcmul,
    x=lambda g: g,
    tensor1=lambda g, tensor2, value: g * tensor2 * value,
    tensor2=lambda g, tensor1, value: g * tensor1 * value,
)

_addcdiv: Op = define(
    kernels.addcdiv,
    x=lambda g: g,
    tensor1=lambda g, tensor2, value: g * value / tensor2,
    tensor2=lambda g, tensor1, tensor2, value: -g * value * tensor1 / (tensor2 * tensor2),
)
lerp: Op = define(
    kernels.lerp,
    x=lambda g, weight: g * (1 - weight),
    end=lambda g, weight: g * weight,
    weight=lambda g, x, end: g * (end - x),
)


def _no_slope(g: Any) -> Tensor:
    return Tensor._zeros(g.shape, g.dtype, g.device)


def _power_slope(x: Tensor | Scalar, exponent: Tensor | Scalar) -> Tensor:
    if isinstance(exponent, Tensor):
        return where(exponent == 0, 0.0, exponent * pow(x, exponent - 1))
    return _no_slope(x) if exponent == 0 else exponent * pow(x, exponent - 1)


def _log_of(x: Tensor | Scalar) -> Tensor | float:
    if isinstance(x, Tensor):
        return log(x)
    return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan


def add(input: Tensor | Scalar, other: Tensor | Scalar, *, alpha: Scalar = 1, out: Tensor | None = None) -> Tensor:
    """``input + alpha * other``."""
    return _add(input, _scaled(other, alpha, input), out=out)


def _scaled(other: Tensor | Scalar, alpha: Scalar, input: Tensor | Scalar) -> Tensor | Scalar:
    """``alpha * other`` in the dtype of the result, which may hold what that of ``other`` does not."""
    if alpha == 1:
        return other
    dtype = result_type(input, other)
    if isinstance(alpha, float) and not dtype.is_floating_point:
        raise RuntimeError(f"For integral input tensors, argument alpha must not be a floating point number, got {alpha}")
    return mul(other.to(dtype) if isinstance(other, Tensor) else other, alpha)


def sub(input: Tensor | Scalar, other: Tensor | Scalar, *, alpha: Scalar = 1, out: Tensor | None = None) -> Tensor:
    """``input - alpha * other``."""
    for x in (input, other):
        if (isinstance(x, Tensor) and x.dtype == memory.bool_) or isinstance(x, bool):
            raise RuntimeError(
                "Subtraction, the `-` operator, with a bool tensor is not supported. Use `^` or logical_xor() instead."
            )
    return _sub(input, _scaled(other, alpha, input), out=out)


def _floor(x: Tensor) -> Tensor:
    return floor(x)


def _truncate(x: Tensor) -> Tensor:
    return where(x < 0, ceil(x), floor(x))


def div(
    input: Tensor | Scalar, other: Tensor | Scalar, *, rounding_mode: str | None = None, out: Tensor | None = None
) -> Tensor:
    """``input / other``; ``rounding_mode`` "floor" or "trunc" rounds the quotient and keeps integers integer.

    Raises:
        ValueError: for another rounding mode.
    """
    if rounding_mode is None:
        return _div(input, other, out=out)
    if rounding_mode == "floor":
        return floor_divide(input, other, out=out)
    if rounding_mode != "trunc":
        raise ValueError(
            f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'"
        )
    dtype = result_type(input, other)
    quotient = _truncate(_div(input, other))
    quotient = quotient if dtype.is_floating_point else quotient.to(dtype)
    return quotient if out is None else out.copy_(quotient)


def pow(input: Tensor | Scalar, exponent: Tensor | Scalar, *, out: Tensor | None = None) -> Tensor:
    """``input ** exponent``."""
    return _pow(input, exponent, out=out)


def clamp(input: Tensor, min: Tensor | Scalar | None = None, max: Tensor | Scalar | None = None) -> Tensor:
    """``input`` held between ``min`` and ``max``; its gradient passes where it was inside, bounds included.

    Raises:
        ValueError: if both bounds are None.
    """
    if min is None and max is None:
        raise ValueError("clamp: At least one of 'min' or 'max' must not be None")
    if min is not None:
        input = _clamp_min(input, min)
    return input if max is None else _clamp_max(input, max)


_clamp_min: Op = define(
    kernels.maximum,
    name="clamp",
    x=lambda g, x, other: where(x >= other, g, 0),
    other=lambda g, x, other: where(x < other, g, 0),
)
_clamp_max: Op = define(
    kernels.minimum,
    name="clamp",
    x=lambda g, x, other: where(x <= other, g, 0),
    other=lambda g, x, other: where(x > other, g, 0),
)


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Scalar = 1, out: Tensor | None = None) -> Tensor:
    """``input + value * tensor1 * tensor2``."""
    return _addcmul(input, tensor1, tensor2, value, out=out)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Scalar = 1, out: Tensor | None = None) -> Tensor:
    """``input + value * tensor1 / tensor2``."""
    return _addcdiv(input, tensor1, tensor2, value, out=out)


def clamp_min(input: Tensor, min: Tensor | Scalar) -> Tensor:
    """:func:`clamp` from below only."""
    return clamp(input, min)


def clamp_max(input: Tensor, max: Tensor | Scalar) -> Tensor:
    """:func:`clamp` from above only."""
    return clamp(input, None, max)


def result_type(*operands: Any) -> memory.dtype:
    """The dtype that arithmetic on these tensors and numbers gives."""
    return dtypes.result_type(*(x._data if isinstance(x, Tensor) else x for x in operands))


clip, absolute, negative = clamp, abs, neg
multiply, divide, subtract, true_divide = mul, div, sub, div
