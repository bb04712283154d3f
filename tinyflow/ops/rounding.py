"""Gradients of rounding, signs and bits: most have none, or pass it where a value was chosen."""

from __future__ import annotations

from typing import Any

from tinyflow.kernels import memory
from tinyflow.kernels import rounding as kernels
from tinyflow.kernels.dtypes import Scalar
from tinyflow.ops import arithmetic
from tinyflow.ops.arithmetic import isfinite, sign, where
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS = [
    "round", "trunc", "fix", "frac", "isinf", "signbit", "nan_to_num", "bitwise_not", "copysign", "heaviside", "fmod",
    "fmax", "fmin", "bitwise_left_shift", "bitwise_right_shift",
]  # fmt: skip
__all__ = [
    "round", "trunc", "fix", "frac", "isinf", "signbit", "nan_to_num", "bitwise_not", "copysign", "heaviside", "fmod",
    "fmax", "fmin", "bitwise_left_shift", "bitwise_right_shift",
]  # fmt: skip
INPLACE = ["round", "trunc", "fix", "frac", "nan_to_num", "bitwise_not", "copysign", "heaviside", "fmod"]


def _no_slope(g: Any) -> Tensor:
    return Tensor._zeros(g.shape, g.dtype, g.device)


round: Op = define(kernels.round, x=lambda g: _no_slope(g))
trunc: Op = define(kernels.trunc, x=lambda g: _no_slope(g))
fix = trunc
frac: Op = define(kernels.frac, x=lambda g: g)
isinf: Op = define(kernels.isinf, x=None)
signbit: Op = define(kernels.signbit, x=None)
nan_to_num: Op = define(kernels.nan_to_num, x=lambda g, x: where(isfinite(x), g, 0))
copysign: Op = define(
    kernels.copysign,
    x=lambda g, x, y: where(y == 0, 0.0, g * sign(x) * sign(y)),
    other=lambda g: _no_slope(g),
)
heaviside: Op = define(kernels.heaviside, x=lambda g: _no_slope(g), values=lambda g, x: where(x == 0, g, 0))
fmod: Op = define(
    kernels.fmod,
    x=lambda g: g,
    other=lambda g, x, other: -g * arithmetic.div(x, other, rounding_mode="trunc"),
)
fmax: Op = define(
    kernels.fmax,
    x=lambda g, x, other: where((x >= other) | (other != other), g, 0),
    other=lambda g, x, other: where((x >= other) | (other != other), 0, g),
)
fmin: Op = define(
    kernels.fmin,
    x=lambda g, x, other: where((x <= other) | (other != other), g, 0),
    other=lambda g, x, other: where((x <= other) | (other != other), 0, g),
)
_bitwise_not: Op = define(kernels.bitwise_not, x=None)
_left_shift: Op = define(kernels.left_shift, x=None, other=None)
_right_shift: Op = define(kernels.right_shift, x=None, other=None)


def _check_integers(op: str, *operands: Tensor | Scalar) -> None:
    for x in operands:
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        if found == "float" or (isinstance(found, memory.dtype) and found.is_floating_point):
            raise NotImplementedError(f"{op}: expected integer operands, got {found}")


def bitwise_not(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Every bit of an integer turned; of a bool its negation.

    Raises:
        NotImplementedError: for floating point.
    """
    _check_integers("bitwise_not", input)
    return _bitwise_not(input, out=out)


def bitwise_left_shift(input: Tensor | Scalar, other: Tensor | Scalar, *, out: Tensor | None = None) -> Tensor:
    """``input · 2^other`` of integers; 0 where the shift is negative or as long as the integer.

    Raises:
        NotImplementedError: for floating point.
    """
    _check_integers("bitwise_left_shift", input, other)
    return _left_shift(input, other, out=out)


def bitwise_right_shift(input: Tensor | Scalar, other: Tensor | Scalar, *, out: Tensor | None = None) -> Tensor:
    """``⌊input / 2^other⌋`` of integers; the sign's bits where the shift is negative or as long as the integer.

    Raises:
        NotImplementedError: for floating point.
    """
    _check_integers("bitwise_right_shift", input, other)
    return _right_shift(input, other, out=out)
