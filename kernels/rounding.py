"""Rounding, signs and bits: elementwise functions that choose among values, and change none of their digits.

All are launchers of :mod:`tinyflow.kernels.elementwise`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.arithmetic import divide, truncated_remainder
from tinyflow.kernels.elementwise import BOOL, FLOAT, Pointwise
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.special import is_negative, with_sign


@triton.jit
def nearest(x):
    """The nearest whole number, of two the even one; a zero keeps the sign of ``x``."""
    below = tl.floor(x)
    rest = x - below
    odd = tl.floor(below * 0.5) * 2.0 != below
    whole = tl.where((rest > 0.5) | ((rest == 0.5) & odd), below + 1.0, below)
    return tl.where(whole == 0, x * 0.0, whole)


@triton.jit
def _round(x):
    if x.dtype.is_floating():
        x = nearest(x)
    return x


@triton.jit
def _round_to_digits(x, scale):
    return divide(nearest(x * scale), scale)


@triton.jit
def _round_to_tens(x, scale):
    return nearest(divide(x, scale)) * scale


@triton.jit
def truncate(x):
    """The whole number towards 0."""
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def _trunc(x):
    if x.dtype.is_floating():
        x = truncate(x)
    return x


@triton.jit
def _frac(x):
    return x - truncate(x)


@triton.jit
def _isinf(x):
    if x.dtype.is_floating():
        infinite = (x == float("inf")) | (x == float("-inf"))
    else:
        infinite = x != x
    return infinite


@triton.jit
def _signbit(x):
    return is_negative(x)


@triton.jit
def _nan_to_num(x, nan, posinf, neginf):
    x = tl.where(x == float("inf"), posinf, tl.where(x == float("-inf"), neginf, x))
    return tl.where(x != x, nan, x)


@triton.jit
def _unchanged(x):
    return x


@triton.jit
def _bitwise_not(x):
    return ~x


@triton.jit
def _copysign(x, other):
    return with_sign(tl.abs(x), other)


@triton.jit
def _heaviside(x, values):
    return tl.where(x == 0, values, (x > 0).to(x.dtype))  # of a NaN 0, as torch


@triton.jit
def _fmod(x, other):
    return truncated_remainder(x, other)


@triton.jit
def _fmax(x, other):
    return tl.where((x > other) | (other != other), x, other)


@triton.jit
def _fmin(x, other):
    return tl.where((x < other) | (other != other), x, other)


@triton.jit
def _left_shift(x, other):
    BITS: tl.constexpr = x.dtype.primitive_bitwidth
    inside = (other >= 0) & (other < BITS)
    return tl.where(inside, x << tl.where(inside, other, 0), 0)


@triton.jit
def _right_shift(x, other):
    BITS: tl.constexpr = x.dtype.primitive_bitwidth
    inside = (other >= 0) & (other < BITS)
    return tl.where(inside, x >> tl.where(inside, other, 0), tl.where(x < 0, -1, 0))


round_to_whole = Pointwise("round", _round, takes_bool=False, flops=6)
round_to_digits = Pointwise("round", _round_to_digits, takes_bool=False, flops=8)
round_to_tens = Pointwise("round", _round_to_tens, takes_bool=False, flops=8)
trunc = Pointwise("trunc", _trunc, takes_bool=False)
frac = Pointwise("frac", _frac, takes_bool=False, flops=2)
isinf = Pointwise("isinf", _isinf, BOOL)
signbit = Pointwise("signbit", _signbit, BOOL)
replace_nonfinite = Pointwise("nan_to_num", _nan_to_num)
unchanged = Pointwise("nan_to_num", _unchanged, flops=0)
bitwise_not = Pointwise("bitwise_not", _bitwise_not)
copysign = Pointwise("copysign", _copysign, FLOAT)
heaviside = Pointwise("heaviside", _heaviside)
fmod = Pointwise("fmod", _fmod, takes_bool=False)
fmax = Pointwise("fmax", _fmax)
fmin = Pointwise("fmin", _fmin)
left_shift = Pointwise("bitwise_left_shift", _left_shift, takes_bool=False)
right_shift = Pointwise("bitwise_right_shift", _right_shift, takes_bool=False)


def round(x: Buffer, decimals: int = 0, *, out: Buffer | None = None) -> Buffer:
    """The nearest multiple of 10^-decimals, of two the even one; integers stay as they are.

    Raises:
        RuntimeError: for ``decimals`` with an integer ``x``.
    """
    if decimals == 0:
        return round_to_whole(x, out=out)
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"round: decimals={decimals} is not defined for {x.dtype}")
    if decimals > 0:
        return round_to_digits(x, 10.0**decimals, out=out)
    return round_to_tens(x, 10.0**-decimals, out=out)


def nan_to_num(
    x: Buffer, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None, *, out: Buffer | None = None
) -> Buffer:
    """``x`` with ``nan`` for NaN, ``posinf`` and ``neginf`` for the infinities (the dtype's limits by default)."""
    if not x.dtype.is_floating_point:
        return unchanged(x, out=out)
    limits: Any = memory.finfo(x.dtype)
    largest = limits.max if posinf is None else posinf
    return replace_nonfinite(x, float(nan), float(largest), float(limits.min if neginf is None else neginf), out=out)
