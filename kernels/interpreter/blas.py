"""The BLAS under numpy, called directly for what numpy does not offer."""

from __future__ import annotations

import ctypes
import functools
import glob
import os
from collections.abc import Callable
from typing import Any

import numpy as np

_BY_ROWS, _AS_IS, _TRANSPOSED = 101, 111, 112  # of the C interface of the BLAS


@functools.cache
def openblas() -> ctypes.CDLL | None:
    """The OpenBLAS in numpy's wheel, or None."""
    folder = os.path.join(os.path.dirname(np.__file__), os.pardir, "numpy.libs")
    for path in glob.glob(os.path.join(folder, "*openblas*")):
        return ctypes.CDLL(path)
    return None


@functools.cache
def _product(kind: np.dtype) -> Callable[..., None] | None:
    """``cblas_sgemm`` or ``cblas_dgemm``, or None."""
    letter, scalar = {"f4": ("s", ctypes.c_float), "f8": ("d", ctypes.c_double)}.get(kind.str[1:], ("", None))
    found = openblas()
    if found is None or scalar is None:
        return None
    for prefix in ("scipy_cblas_", "cblas_"):
        for suffix, size in (("64_", ctypes.c_int64), ("", ctypes.c_int)):
            function: Any = getattr(found, f"{prefix}{letter}gemm{suffix}", None)
            if function is not None:
                matrix = (ctypes.c_void_p, size)
                function.argtypes = (*[ctypes.c_int] * 3, *[size] * 3, scalar, *matrix, *matrix, scalar, *matrix)
                function.restype = None
                return function
    return None


def _order(x: np.ndarray, size: int) -> tuple[int, int] | None:
    """How the BLAS is told of a matrix by rows or by columns, and the distance of these in elements; None for others."""
    (rows, columns), (down, across) = x.shape, x.strides
    if across == size and down >= columns * size and down % size == 0:
        return _AS_IS, down // size
    if down == size and across >= rows * size and across % size == 0:
        return _TRANSPOSED, across // size
    return None


def add_product(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> bool:
    """``total += a @ b`` without a temporary; False where that cannot be done."""
    function = _product(total.dtype)
    if function is None or not a.dtype == b.dtype == total.dtype:
        return False
    size = total.itemsize
    target = _order(total, size)
    if target is not None and target[0] == _TRANSPOSED:
        a, b, total = b.T, a.T, total.T
    left, right = _order(a, size), _order(b, size)
    if target is None or left is None or right is None:
        return False
    (m, k), n = a.shape, b.shape[1]
    places = [x.__array_interface__["data"][0] for x in (a, b, total)]
    function(
        _BY_ROWS, left[0], right[0], m, n, k, 1.0, places[0], left[1], places[1], right[1], 1.0, places[2], target[1]
    )
    return True
