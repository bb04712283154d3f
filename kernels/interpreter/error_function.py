"""The error function, which numpy lacks.

In float32 it is a Taylor polynomial about the nearest of a few points, evaluated in float64 for all elements together:

    erf(x₀ + h) = Σ_k c_k h^k,    c_0 = erf(x₀),    (k + 1) · c_{k+1} = g_k,
    g_0 = 2/√π · exp(−x₀²),       (k + 1) · g_{k+1} = −2 x₀ g_k − 2 g_{k−1},

since g, the derivative, satisfies g' = −2xg. The few elements whose rounding to float32 hangs on the polynomial's error,
and NaN, are computed one by one, as Triton's interpreter computes all of them, so the bits are its own.
"""

from __future__ import annotations

import functools
import math

import numpy as np

#: Points for each unit of x; from _LAST on the function rounds to 1.
_DENSITY, _LAST = 16, 4.25
#: Terms of a polynomial: with |h| ≤ 1/32 the next one is below 1e-17.
_TERMS = 11
#: A bound for the polynomial's relative error, with room to spare.
_ERROR = 1e-12


@functools.cache
def _coefficients() -> list[np.ndarray]:
    """For each power of h the coefficients at all points."""
    rows = []
    for n in range(int(_DENSITY * _LAST) + 1):
        x = n / _DENSITY
        slopes = [2 / math.sqrt(math.pi) * math.exp(-x * x)]
        for k in range(_TERMS - 2):
            slopes.append((-2 * x * slopes[k] - (2 * slopes[k - 1] if k else 0.0)) / (k + 1))
        rows.append([math.erf(x), *[slope / (k + 1) for k, slope in enumerate(slopes)]])
    return list(np.array(rows).T.copy())


def erf(x: np.ndarray, out: np.ndarray) -> None:
    """``erf(x)`` of float32 or float64 into an array of the same type."""
    if x.dtype == np.float32 and x.ndim:
        _erf_float32(x, out)
    else:
        out[...] = _one_by_one(x)


def _one_by_one(x: np.ndarray) -> np.ndarray:
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def _erf_float32(x: np.ndarray, out: np.ndarray) -> None:
    distance = np.abs(x, dtype=np.float64)
    np.fmin(distance, _LAST, out=distance)
    nearest = np.rint(distance * _DENSITY)
    points = nearest.astype(np.intp)
    nearest /= _DENSITY
    distance -= nearest
    *lower, highest = _coefficients()
    value = np.take(highest, points)
    scratch = np.empty_like(value)
    for coefficient in reversed(lower):
        value *= distance
        value += np.take(coefficient, points, out=scratch, mode="clip")
    np.copysign(value, x, out=value)
    least, most = (value * (1 - _ERROR)).astype(np.float32), (value * (1 + _ERROR)).astype(np.float32)
    unsure = np.isnan(x) | (least != most)
    given = x[unsure]  # before the result takes its place
    np.copyto(out, least)
    out[unsure] = _one_by_one(given)
