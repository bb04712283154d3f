"""Gradients of the special functions."""

from __future__ import annotations

import math

from tinyflow.autocast_mode import FULL_ON_GPU, WIDEST_ON_GPU
from tinyflow.kernels import special as kernels
from tinyflow.ops.arithmetic import cos, exp, log, reciprocal, rsqrt, sigmoid, sin, square, where
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

UNARY = [
    "exp2", "expm1", "log2", "log10", "log1p", "tan", "asin", "acos", "atan", "sinc", "sinh", "cosh", "asinh", "acosh",
    "atanh", "erf", "erfc", "erfinv", "lgamma", "digamma", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh",
    "logit",
]  # fmt: skip
METHODS = [*UNARY, "logaddexp", "logaddexp2", "xlogy", "atan2", "arctan2", "hypot"]
__all__ = [
    "exp2", "expm1", "log2", "log10", "log1p", "tan", "asin", "acos", "atan", "sinc", "sinh", "cosh", "asinh", "acosh",
    "atanh", "erf", "erfc", "erfinv", "lgamma", "digamma", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh",
    "logit", "logaddexp", "logaddexp2", "xlogy", "atan2", "arctan2", "hypot", "polygamma",
]  # fmt: skip
INPLACE = [*UNARY, "xlogy", "atan2", "arctan2", "hypot"]

_LN_2, _LN_10, _ROOT_PI = math.log(2.0), math.log(10.0), math.sqrt(math.pi)

# ---- logarithms and exponentials -----------------------------------------------------------------------------------

exp2: Op = define(kernels.exp2, x=lambda g, y: g * y * _LN_2)
expm1: Op = define(kernels.expm1, autocast=FULL_ON_GPU, x=lambda g, y: g * (y + 1))
log2: Op = define(kernels.log2, autocast=FULL_ON_GPU, x=lambda g, x: g / (x * _LN_2))
log10: Op = define(kernels.log10, autocast=FULL_ON_GPU, x=lambda g, x: g / (x * _LN_10))
log1p: Op = define(kernels.log1p, autocast=FULL_ON_GPU, x=lambda g, x: g / (x + 1))
logit: Op = define(
    kernels.logit,
    x=lambda g, x, eps: _inside(g / (x * (1 - x)), x, eps),
)
logaddexp: Op = define(
    kernels.logaddexp, x=lambda g, x, other: g * sigmoid(x - other), other=lambda g, x, other: g * sigmoid(other - x)
)
logaddexp2: Op = define(
    kernels.logaddexp2,
    x=lambda g, x, other: g * sigmoid((x - other) * _LN_2),
    other=lambda g, x, other: g * sigmoid((other - x) * _LN_2),
)
xlogy: Op = define(
    kernels.xlogy,
    x=lambda g, x, other: g * _log_unless_both_vanish(x, other),
    other=lambda g, x, other: g * x / other,
)


def _inside(slope: Tensor, x: Tensor, eps: float | None) -> Tensor:
    return slope if eps is None else where((x < eps) | (x > 1 - eps), 0, slope)


def _log_unless_both_vanish(x: Tensor | float, other: Tensor | float) -> Tensor | float:
    if isinstance(other, Tensor):
        return where((other <= 0) & (x == 0), 0.0, log(other))
    slope = math.log(other) if other > 0 else -math.inf if other == 0 else math.nan
    return where(x == 0, 0.0, slope) if other <= 0 and isinstance(x, Tensor) else slope


# ---- trigonometry --------------------------------------------------------------------------------------------------

tan: Op = define(kernels.tan, autocast=FULL_ON_GPU, x=lambda g, y: g * (1 + square(y)))
asin: Op = define(kernels.asin, autocast=FULL_ON_GPU, x=lambda g, x: g * rsqrt(1 - square(x)))
acos: Op = define(kernels.acos, autocast=FULL_ON_GPU, x=lambda g, x: -g * rsqrt(1 - square(x)))
atan: Op = define(kernels.atan, x=lambda g, x: g / (square(x) + 1))
atan2: Op = define(
    kernels.atan2,
    autocast=WIDEST_ON_GPU,
    x=lambda g, x, other: g * other / (x * x + other * other),
    other=lambda g, x, other: -g * x / (x * x + other * other),
)
sinc: Op = define(kernels.sinc, x=lambda g, x: g * _sinc_slope(x))
hypot: Op = define(kernels.hypot, x=lambda g, x, y: g * (x / y), other=lambda g, other, y: g * (other / y))
arcsin, arccos, arctan, arctan2 = asin, acos, atan, atan2


def _sinc_slope(x: Tensor) -> Tensor:
    angle = x * math.pi
    return where(x == 0, 0.0, (angle * cos(angle) - sin(angle)) / (angle * x))


# ---- hyperbolic functions ------------------------------------------------------------------------------------------

sinh: Op = define(kernels.sinh, autocast=FULL_ON_GPU, x=lambda g, x: g * cosh(x))
cosh: Op = define(kernels.cosh, autocast=FULL_ON_GPU, x=lambda g, x: g * sinh(x))
asinh: Op = define(kernels.asinh, x=lambda g, x: g * rsqrt(square(x) + 1))
acosh: Op = define(kernels.acosh, x=lambda g, x: g * rsqrt(square(x) - 1))
atanh: Op = define(kernels.atanh, x=lambda g, x: g * reciprocal(1 - square(x)))
arcsinh, arccosh, arctanh = asinh, acosh, atanh

# ---- error and gamma functions -------------------------------------------------------------------------------------

erf: Op = define(kernels.erf, x=lambda g, x: g * exp(-square(x)) * (2 / _ROOT_PI))
erfc: Op = define(kernels.erfc, x=lambda g, x: g * exp(-square(x)) * (-2 / _ROOT_PI))
erfinv: Op = define(kernels.erfinv, autocast=FULL_ON_GPU, x=lambda g, y: g * exp(square(y)) * (_ROOT_PI / 2))
lgamma: Op = define(kernels.lgamma, x=lambda g, x: g * digamma(x))
digamma: Op = define(kernels.digamma, x=lambda g, x: g * _polygamma(1, x))
_polygamma: Op = define(kernels.polygamma, x=lambda g, n, x: g * _polygamma(n + 1, x))


def polygamma(n: int, input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The n-th derivative of :func:`digamma`; NaN at negative numbers above order 1."""
    return _polygamma(n, input, out=out)
