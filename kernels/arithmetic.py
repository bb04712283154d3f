"""Arithmetic, comparison and the common functions of one to three operands: a line of scalar arithmetic each.

All are launchers of :mod:`tinyflow.kernels.elementwise`: buffers of any shapes that broadcast, any strides, any dtypes that
promote, or Python numbers. Division and square root are correctly rounded; ``exp`` and ``log`` are the GPU's own in
float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.elementwise import BOOL, FLOAT, Operand, Pointwise
from tinyflow.kernels.memory import Buffer

# ---- one operand ---------------------------------------------------------------------------------------------------


@triton.jit
def _neg(x):
    if x.dtype.is_floating():
        x = x * -1.0  # in Triton 3.6 -x is 0 - x, which turns 0.0 into 0.0
    else:
        x = -x
    return x


@triton.jit
def _abs(x):
    return tl.abs(x)


@triton.jit
def _sign(x):
    if x.dtype != tl.int1:
        x = (x > 0).to(x.dtype) - (x < 0).to(x.dtype)  # of NaN 0, as in torch
    return x


@triton.jit
def _square(x):
    return x * x


@triton.jit
def divide(x, y):
    """x / y, correctly rounded: Triton's own float32 division is approximate."""
    if x.dtype == tl.float32:
        result = tl.div_rn(x, y)
    else:
        result = x / y
    return result


@triton.jit
def square_root(x):
    """The square root, correctly rounded."""
    if x.dtype == tl.float32:
        result = tl.sqrt_rn(x)
    else:
        result = tl.sqrt(x)
    return result


@triton.jit
def inverse(x):
    """1 / x."""
    return divide(tl.cast(1.0, x.dtype), x)


@triton.jit
def logistic(x):
    """1 / (1 + exp(-x))."""
    return inverse(1.0 + tl.exp(-x))


@triton.jit
def _reciprocal(x):
    return inverse(x)


@triton.jit
def _sqrt(x):
    return square_root(x)


@triton.jit
def _rsqrt(x):
    return inverse(square_root(x))


@triton.jit
def _exp(x):
    return tl.exp(x)


@triton.jit
def _log(x):
    return tl.log(x)


@triton.jit
def _sin(x):
    return tl.sin(x)


@triton.jit
def _cos(x):
    return tl.cos(x)


@triton.jit
def _sigmoid(x):
    return logistic(x)


@triton.jit
def _tanh(x):
    # Near 0 a rational approximation (Cephes, S. L. Moshier), since 1 - 2/(e^2x + 1) would cancel.
    z = x * x
    p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
    q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
    small = x + x * z * p / q
    large = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, small, tl.where(x < 0, -large, large))


@triton.jit
def _relu(x):
    return tl.maximum(x, 0, propagate_nan=tl.PropagateNan.ALL)  # a NaN passes, as in torch


@triton.jit
def _floor(x):
    if x.dtype.is_floating():
        x = tl.floor(x)
    return x


@triton.jit
def _ceil(x):
    if x.dtype.is_floating():
        x = tl.ceil(x)
    return x


@triton.jit
def _isnan(x):
    return x != x


@triton.jit
def _isfinite(x):
    return (x - x) == 0


@triton.jit
def _logical_not(x):
    return x == 0


neg = Pointwise("neg", _neg, takes_bool=False)
abs_ = Pointwise("abs", _abs, takes_bool=False)
sign = Pointwise("sign", _sign)
square = Pointwise("square", _square, takes_bool=False)
reciprocal = Pointwise("reciprocal", _reciprocal, FLOAT)
sqrt = Pointwise("sqrt", _sqrt, FLOAT)
rsqrt = Pointwise("rsqrt", _rsqrt, FLOAT, flops=2)
exp = Pointwise("exp", _exp, FLOAT)
log = Pointwise("log", _log, FLOAT)
sin = Pointwise("sin", _sin, FLOAT)
cos = Pointwise("cos", _cos, FLOAT)
sigmoid = Pointwise("sigmoid", _sigmoid, FLOAT, flops=4)
tanh = Pointwise("tanh", _tanh, FLOAT, flops=20)
relu = Pointwise("relu", _relu, takes_bool=False)
floor = Pointwise("floor", _floor, takes_bool=False)
ceil = Pointwise("ceil", _ceil, takes_bool=False)
isnan = Pointwise("isnan", _isnan, BOOL)
isfinite = Pointwise("isfinite", _isfinite, BOOL)
logical_not = Pointwise("logical_not", _logical_not, BOOL)

# ---- two operands --------------------------------------------------------------------------------------------------


@triton.jit
def _add(x, other):
    if x.dtype == tl.int1:
        total = x | other
    else:
        total = x + other
    return total


@triton.jit
def _sub(x, other):
    return x - other


@triton.jit
def _mul(x, other):
    return x * other


@triton.jit
def _div(x, other):
    return divide(x, other)


@triton.jit
def truncated_remainder(x, other):
    """What the quotient's whole part leaves, with the sign of ``x``."""
    if x.dtype == tl.float32:  # a GPU's % multiplies a rounded quotient, which float64 makes exact for float32
        r = (x.to(tl.float64) % other.to(tl.float64)).to(tl.float32)
    else:
        r = x % other
    return r


@triton.jit
def _floor_divide(x, other):
    if x.dtype.is_floating():
        # the quotient of a multiple of the divisor, rounded to the whole number that it is, as Python's //
        r = truncated_remainder(x, other)
        borrow = tl.where((r != 0) & ((r < 0) != (other < 0)), 1.0, 0.0).to(x.dtype)
        result = tl.floor(divide(x - r, other) - borrow + 0.5)
        result = tl.where(other == 0, divide(x, other), result)
    else:
        quotient = x // other
        result = quotient - ((quotient * other != x) & ((x < 0) != (other < 0))).to(quotient.dtype)
    return result


@triton.jit
def _remainder(x, other):
    # The sign of the divisor, as in Python; tl's % has the sign of the dividend, as C's fmod.
    r = truncated_remainder(x, other)
    return tl.where((r != 0) & ((r < 0) != (other < 0)), r + other, r)


@triton.jit
def _pow(x, exponent):
    if x.dtype.is_floating():
        # exp(e log|x|) in float64, exact enough to round to float32; the sign follows the parity of a whole exponent
        wide_x = tl.abs(x).to(tl.float64)
        wide_e = exponent.to(tl.float64)
        power = tl.exp(wide_e * tl.log(wide_x))
        power = tl.where((wide_x == 0) & (wide_e > 0), 0.0, power)
        power = tl.where((wide_x == 0) & (wide_e < 0), float("inf"), power)
        power = tl.where((wide_e == 0) | (x == 1) | ((x == -1) & (tl.abs(wide_e) == float("inf"))), 1.0, power)
        whole = tl.floor(wide_e) == wide_e
        odd = whole & (tl.floor(wide_e * 0.5) * 2 != wide_e)
        negative = (x < 0) | ((x == 0) & (divide(x * 0 + 1, x) < 0))  # -0.0 too
        power = tl.where(negative & odd, -power, power)
        fractional = (x < 0) & (wide_x != float("inf")) & (whole == 0)
        result = tl.where(fractional, float("nan"), power).to(x.dtype)
    else:
        result = x * 0 + 1
        base = result * x
        left = result * exponent
        parity = left & 1
        below = left < 0
        while tl.max(left) > 0:  # by squaring; what overflows wraps, as in torch
            result = tl.where((left > 0) & ((left & 1) != 0), result * base, result)
            base = base * base
            left = left >> 1
        ends = tl.where(x == 1, 1, tl.where(x + 1 == 0, 1 - 2 * parity, 0)).to(result.dtype)  # of 1/x, rounded to 0
        result = tl.where(below, ends, result)
    return result


@triton.jit
def _first_power(x):
    return x


@triton.jit
def _cube(x):
    return x * x * x


@triton.jit
def _maximum(x, other):
    return tl.where((x > other) | (x != x), x, other)  # a NaN wins, as in torch


@triton.jit
def _minimum(x, other):
    return tl.where((x < other) | (x != x), x, other)


@triton.jit
def _relu_backward(grad, y):
    return tl.where(y <= 0, 0, grad)  # a NaN in y passes the gradient, as in torch


@triton.jit
def _eq(x, other):
    return x == other


@triton.jit
def _ne(x, other):
    return x != other


@triton.jit
def _lt(x, other):
    return x < other


@triton.jit
def _le(x, other):
    return x <= other


@triton.jit
def _gt(x, other):
    return x > other


@triton.jit
def _ge(x, other):
    return x >= other


@triton.jit
def _logical_and(x, other):
    return (x != 0) & (other != 0)


@triton.jit
def _logical_or(x, other):
    return (x != 0) | (other != 0)


@triton.jit
def _logical_xor(x, other):
    return (x != 0) != (other != 0)


@triton.jit
def _bitwise_and(x, other):
    return x & other


@triton.jit
def _bitwise_or(x, other):
    return x | other


@triton.jit
def _bitwise_xor(x, other):
    return x ^ other


add = Pointwise("add", _add)
sub = Pointwise("sub", _sub)
mul = Pointwise("mul", _mul)
div = Pointwise("div", _div, FLOAT)
floor_divide = Pointwise("floor_divide", _floor_divide, takes_bool=False)
remainder = Pointwise("remainder", _remainder, takes_bool=False)
_power = Pointwise("pow", _pow, flops=3, takes_bool=False)
maximum = Pointwise("maximum", _maximum)
minimum = Pointwise("minimum", _minimum)
relu_backward = Pointwise("relu_backward", _relu_backward)
eq = Pointwise("eq", _eq, BOOL)
ne = Pointwise("ne", _ne, BOOL)
lt = Pointwise("lt", _lt, BOOL)
le = Pointwise("le", _le, BOOL)
gt = Pointwise("gt", _gt, BOOL)
ge = Pointwise("ge", _ge, BOOL)
logical_and = Pointwise("logical_and", _logical_and, BOOL)
logical_or = Pointwise("logical_or", _logical_or, BOOL)
logical_xor = Pointwise("logical_xor", _logical_xor, BOOL)
bitwise_and = Pointwise("bitwise_and", _bitwise_and, takes_float=False)
bitwise_or = Pointwise("bitwise_or", _bitwise_or, takes_float=False)
bitwise_xor = Pointwise("bitwise_xor", _bitwise_xor, takes_float=False)

_SPECIAL_POWERS = {
    1: Pointwise("pow", _first_power, flops=0),
    2: square,
    3: Pointwise("pow", _cube, flops=2),
    0.5: sqrt,
    -1: reciprocal,
    -0.5: rsqrt,
}


def pow(x: Operand, exponent: Operand, *, out: Buffer | None = None) -> Buffer:
    """x to the power of ``exponent``, elementwise with broadcasting; either may be a Python number.

    Raises:
        RuntimeError: for an integer to a negative whole number.
    """
    if isinstance(x, Buffer) and isinstance(exponent, (int, float)) and not isinstance(exponent, bool):
        if isinstance(exponent, int) and exponent < 0 and not x.dtype.is_floating_point:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        special = _SPECIAL_POWERS.get(exponent)
        whole = isinstance(exponent, int) and x.dtype != memory.bool_
        if special is not None and (x.dtype.is_floating_point or whole):
            return special(x, out=out)
    return _power(x, exponent, out=out)


# ---- three operands ------------------------------------------------------------------------------------------------


@triton.jit
def _where(condition, x, other):
    return tl.where(condition != 0, x, other)


@triton.jit
def _addcmul(x, tensor1, tensor2, value):
    return x + value * tensor1 * tensor2


@triton.jit
def _addcdiv(x, tensor1, tensor2, value):
    return x + divide(value * tensor1, tensor2)


@triton.jit
def _lerp(x, end, weight):
    return tl.where(tl.abs(weight) < 0.5, x + weight * (end - x), end - (end - x) * (1.0 - weight))


where = Pointwise("where", _where, flops=0)
addcmul = Pointwise("addcmul", _addcmul, flops=3)
addcdiv = Pointwise("addcdiv", _addcdiv, FLOAT, flops=3)
lerp = Pointwise("lerp", _lerp, flops=3)
