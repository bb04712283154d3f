"""What each reduction does with its elements: the functions that the kernels are given, and the rules made of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.mode import INTERPRETING


@triton.jit
def _element(x, center):
    return x


@triton.jit
def _squared_deviation(x, center):
    return (x - center) * (x - center)


@triton.jit
def _element_unless_nan(x, center):
    return tl.where(x != x, 0, x)


@triton.jit
def _magnitude(x, center):
    return tl.abs(x)


@triton.jit
def _square(x, center):
    return x * x


@triton.jit
def _exp_of_deviation(x, center):
    return tl.exp(x - tl.where(tl.abs(center) == float("inf"), 0.0, center))


@triton.jit
def _truth(x, center):
    return (x != 0).to(x.dtype)


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def greater(a, b):
    return tl.where((a > b) | (a != a), a, b)  # a NaN wins, as in torch


@triton.jit
def lesser(a, b):
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def row_sum(tile):
    return tl.sum(tile, axis=1)


@triton.jit
def _product_by_reduction(tile):
    return tl.reduce(tile, 1, multiply)


@triton.jit
def _product_by_halves(tile):
    # halves the columns until one is left: a reduction by a function of one's own takes the interpreter a step a column
    ROWS: tl.constexpr = tile.shape[0]
    for _ in tl.static_range(20):
        if tile.shape[1] > 1:
            left, right = tl.split(tl.reshape(tile, (ROWS, tile.shape[1] // 2, 2)))
            tile = left * right
    return tl.reshape(tile, (ROWS,))


row_product = _product_by_halves if INTERPRETING else _product_by_reduction


@triton.jit
def _with_nan(result, tile):
    if tile.dtype.is_floating():
        has_nan = tl.max((tile != tile).to(tl.int32), axis=1) > 0
        result = tl.where(has_nan, float("nan"), result)
    return result


@triton.jit
def row_max(tile):
    return _with_nan(tl.max(tile, axis=1), tile)


@triton.jit
def row_min(tile):
    return _with_nan(tl.min(tile, axis=1), tile)


@triton.jit
def _total(total, divisor):
    return total


@triton.jit
def _quotient(total, divisor):
    return total / divisor


@triton.jit
def _root_quotient(total, divisor):
    return tl.sqrt(total / divisor)


@triton.jit
def _root(total, divisor):
    return tl.sqrt(total)


@triton.jit
def _logarithm(total, divisor):
    return tl.log(total)


class Rule(NamedTuple):
    """The four functions of a reduction and its neutral element."""

    map: Any
    combine: Any
    collapse: Any
    finish: Any
    identity: float | int

    def of_partials(self) -> Rule:
        """The rule for partial results of this one, whose terms are known already."""
        return self._replace(map=_element)


SUM = Rule(_element, add, row_sum, _total, 0)
NANSUM = SUM._replace(map=_element_unless_nan)
MEAN = SUM._replace(finish=_quotient)
VAR = SUM._replace(map=_squared_deviation, finish=_quotient)
STD = SUM._replace(map=_squared_deviation, finish=_root_quotient)
LOGSUMEXP = SUM._replace(map=_exp_of_deviation, finish=_logarithm)
NORMS = {
    1: SUM._replace(map=_magnitude),
    2: SUM._replace(map=_square, finish=_root),
    float("inf"): Rule(_magnitude, greater, row_max, _total, 0),
    float("-inf"): Rule(_magnitude, lesser, row_min, _total, float("inf")),
}
PROD = Rule(_element, multiply, row_product, _total, 1)
# Their neutral element is furthest(dtype, …), which takes the place of 0.
MAX = Rule(_element, greater, row_max, _total, 0)
MIN = Rule(_element, lesser, row_min, _total, 0)
ANY = Rule(_truth, greater, row_max, _total, 0)
ALL = Rule(_truth, lesser, row_min, _total, 1)


def furthest(dtype: memory.dtype, greatest: bool) -> float | int:
    """The value of ``dtype`` that any other beats."""
    if dtype.is_floating_point:
        return float("-inf") if greatest else float("inf")
    if dtype == memory.bool_:
        return 0 if greatest else 1
    limits = memory.iinfo(dtype)
    return limits.min if greatest else limits.max
