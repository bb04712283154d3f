"""Floating-point formats that numpy lacks: bfloat16 and the five 8-bit formats, kept as their bits.

Decoding is exact. Encoding rounds to nearest even (or towards zero, where a kernel asks for it). NaN encodes as the
format's quiet NaN. A finite value beyond the largest of an 8-bit format saturates, as the conversion instructions of GPUs
do; infinity stays infinity where the format has one and saturates elsewhere. bfloat16 overflows to infinity, as float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter.expressions import Function
from tinyflow.kernels.interpreter.handles import Handle, numpy_dtype

BFLOAT16 = tl.bfloat16.name


@dataclass(frozen=True)
class Float8:
    """An 8-bit format: sign, exponent, mantissa. ``finite_only`` formats have one NaN; ``unsigned_zero`` ones no -0."""

    mantissa: int
    bias: int
    infinity: bool = False
    nan: int | None = None
    unsigned_zero: bool = False

    @functools.cached_property
    def decoded(self) -> np.ndarray:
        """The float32 value of each of the 256 codes."""
        codes = np.arange(256)
        exponent, fraction = (codes & 0x7F) >> self.mantissa, codes & ((1 << self.mantissa) - 1)
        significand = fraction / (1 << self.mantissa) + (exponent > 0)
        values = np.ldexp(significand, np.maximum(exponent, 1) - self.bias)
        if self.infinity:
            top = exponent == (0x7F >> self.mantissa)
            values[top] = np.where(fraction[top] == 0, np.inf, np.nan)
        values = np.where(codes & 0x80, -values, values)
        if self.nan is not None:
            values[(codes == self.nan) | ((codes & 0x7F == self.nan) & (not self.unsigned_zero))] = np.nan
        return values.astype(np.float32)

    @functools.cached_property
    def magnitudes(self) -> np.ndarray:
        """The finite values that are not negative, in the order of their codes, in float64."""
        positive = self.decoded[:128]
        return positive[np.isfinite(positive)].astype(np.float64)

    @property
    def quiet_nan(self) -> int:
        return 0x7F if self.nan is None else self.nan

    def encode(self, values: np.ndarray, towards_zero: bool) -> np.ndarray:
        magnitude = np.abs(values.astype(np.float64))
        grid = self.magnitudes
        if towards_zero:
            codes = np.searchsorted(grid, magnitude, side="right") - 1
        else:
            middles = (grid[1:] + grid[:-1]) / 2
            codes = np.searchsorted(middles, magnitude, side="left")
            tie = magnitude == middles[np.minimum(codes, middles.size - 1)]
            codes += tie & (codes & 1 == 1)
        codes = codes.astype(np.uint8)
        if self.infinity:
            codes[np.isinf(values)] = grid.size
        negative = np.signbit(values)
        if self.unsigned_zero:
            negative &= codes != 0
        codes |= negative.astype(np.uint8) << 7
        codes[np.isnan(values)] = self.quiet_nan
        return codes


FLOAT8: dict[str, Float8] = {
    "fp8e5": Float8(mantissa=2, bias=15, infinity=True),
    "fp8e4nv": Float8(mantissa=3, bias=7, nan=0x7F),
    "fp8e5b16": Float8(mantissa=2, bias=16, nan=0x80, unsigned_zero=True),
    "fp8e4b8": Float8(mantissa=3, bias=8, nan=0x80, unsigned_zero=True),
    "fp8e4b15": Float8(mantissa=3, bias=15),
}


def is_packed(dtype: tl.dtype) -> bool:
    """True for the formats that numpy lacks, whose arrays hold bits."""
    name = dtype.scalar.name
    return name == BFLOAT16 or name in FLOAT8


def widen_bfloat16(bits: np.ndarray, out: np.ndarray) -> None:
    """bfloat16 bits to float32, exactly."""
    words = out.view(np.uint32)
    words[...] = bits
    np.left_shift(words, 16, out=words)


def narrow_bfloat16(values: np.ndarray, out: np.ndarray) -> None:
    """float32 to bfloat16 bits, rounded to nearest even."""
    words = values.view(np.uint32)
    rounded = words >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += words
    rounded >>= 16
    np.copyto(out, rounded, casting="unsafe")
    nan = np.isnan(values)
    if nan.any():
        out[nan] = 0x7FC0


def truncate_bfloat16(values: np.ndarray, out: np.ndarray) -> None:
    """float32 to bfloat16 bits, rounded towards zero."""
    np.copyto(out, values.view(np.uint32) >> 16, casting="unsafe")
    nan = np.isnan(values)
    if nan.any():
        out[nan] = 0x7FC0


def _decode_float8(name: str) -> Function:
    def decode(bits: np.ndarray, out: np.ndarray) -> None:
        np.take(FLOAT8[name].decoded, bits, out=out, mode="clip")

    return decode


def _encode_float8(name: str, towards_zero: bool) -> Function:
    def encode(values: np.ndarray, out: np.ndarray) -> None:
        out[...] = FLOAT8[name].encode(values, towards_zero)

    return encode


_DECODERS: dict[str, Function] = {BFLOAT16: widen_bfloat16, **{name: _decode_float8(name) for name in FLOAT8}}
_ENCODERS: dict[str, Function] = {BFLOAT16: narrow_bfloat16, **{name: _encode_float8(name, False) for name in FLOAT8}}
_TRUNCATORS: dict[str, Function] = {
    BFLOAT16: truncate_bfloat16,
    **{name: _encode_float8(name, True) for name in FLOAT8},
}


def decoder(dtype: tl.dtype) -> Function:
    """``decode(bits, out)``, to float32."""
    return _DECODERS[dtype.scalar.name]


def encoder(dtype: tl.dtype, towards_zero: bool = False) -> Function:
    """``encode(float32 values, out)``."""
    return (_TRUNCATORS if towards_zero else _ENCODERS)[dtype.scalar.name]


def truncate_towards_zero(values: np.ndarray, out: np.ndarray) -> None:
    """A narrower float of numpy's own, rounded towards zero."""
    np.copyto(out, values, casting="unsafe")
    too_far = np.abs(out.astype(values.dtype)) > np.abs(values)
    out[too_far] = np.nextafter(out[too_far], np.zeros((), out.dtype))


def decoded(bits: np.ndarray, dtype: tl.dtype) -> np.ndarray:
    out = np.empty(bits.shape, np.float32)
    decoder(dtype)(bits, out)
    return out


def encoded(values: np.ndarray, dtype: tl.dtype) -> np.ndarray:
    flat = np.ascontiguousarray(values).reshape(-1)
    out = np.empty(flat.shape, numpy_dtype(dtype))
    encoder(dtype)(flat, out)
    return out.reshape(values.shape)


def quiet_nan(dtype: tl.dtype) -> np.ndarray:
    """The NaN of a type, as a 0-d array of the type that holds it."""
    name = dtype.scalar.name
    if name == BFLOAT16:
        return np.array(0x7FC0, np.uint16)
    if name in FLOAT8:
        return np.array(FLOAT8[name].quiet_nan, np.uint8)
    return np.array(np.nan, numpy_dtype(dtype))


_ATOMIC_BFLOAT16: dict[Any, Callable[..., Any]] = {
    stock._ir.ATOMIC_OP.FADD: lambda a, b: np.float32(a + b),
    stock._ir.ATOMIC_OP.MAX: np.fmax,
    stock._ir.ATOMIC_OP.MIN: np.fmin,
    stock._ir.ATOMIC_OP.XCHG: lambda a, b: b,
}


def atomic_bfloat16(operation: Any, pointer: Any, value: Any, mask: Any) -> Handle:
    """An atomic read-modify-write on bfloat16, lane after lane: read, widen, compute in float32, round, write."""
    if operation not in _ATOMIC_BFLOAT16:
        raise NotImplementedError(f"interpreter: no atomic {operation} on bfloat16")
    compute = _ATOMIC_BFLOAT16[operation]
    addresses = np.ascontiguousarray(pointer.data, dtype=np.uint64)
    before: np.ndarray = np.zeros(addresses.shape, np.uint16)
    lanes = np.broadcast_to(mask.data, addresses.shape).astype(np.bool_)
    values = decoded(np.broadcast_to(value.data, addresses.shape), tl.bfloat16)
    one = np.ones(1, np.bool_)
    for lane in zip(*np.nonzero(lanes)):
        address = addresses[lane].reshape(1)
        old = stock._interpreter.load(address, one, np.zeros(1, np.uint16), np.dtype(np.uint16))
        before[lane] = old[0]
        new = compute(decoded(old, tl.bfloat16), values[lane].reshape(1))
        stock._interpreter.store(address, encoded(np.asarray(new, np.float32).reshape(1), tl.bfloat16), one)
    return Handle(before, tl.bfloat16)
