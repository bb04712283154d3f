"""Symbolic values: index arithmetic, pointers and masks kept as formulas per axis instead of as arrays.

Three forms, each for a tile of a given shape, each turned into an array only by ``dense()``:

- ``Separable``: an integer or pointer tensor ``constant + sum_k term_k[i_k]``. A term is an ``int``, the stride of its
  axis, or a ``Vector``, arbitrary offsets along its axis.
- ``Box``: a mask ``AND_k axis_k[i_k]``. An axis is a pair ``(low, high)`` or a 1-d array of booleans.
- ``Splat``: one value everywhere.

The functions below do arithmetic on forms. Each returns ``None`` where the result has no such form, and the caller then
computes with arrays; integer arithmetic that would wrap around always does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

BOOL = np.dtype(np.bool_)
INT32 = np.dtype(np.int32)
INT64 = np.dtype(np.int64)
POINTER = np.dtype(np.uint64)

_LIMITS = {
    np.dtype(t): (int(np.iinfo(t).min), min(int(np.iinfo(t).max), 2**63 - 1))
    for t in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
}
#: The largest magnitude that offsets in 64-bit vectors may reach, so that their sums cannot overflow.
VECTOR_LIMIT = 2**61

Shape = tuple[int, ...]


class Vector:
    """Offsets along one axis that are no arithmetic progression, with their bounds."""

    __slots__ = ("values", "regions", "_bounds", "_scaled")

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.regions: dict[Any, Any] = {}
        self._bounds: tuple[int, int] | None = None
        self._scaled: dict[int, Vector] = {}

    def bounds(self) -> tuple[int, int]:
        if self._bounds is None:
            self._bounds = (int(self.values.min()), int(self.values.max()))
        return self._bounds

    def scaled(self, factor: int) -> Vector:
        """The vector times a number; the same object each time, so that what is known of it stays known."""
        if factor == 1:
            return self
        found = self._scaled.get(factor)
        if found is None:
            found = self._scaled[factor] = Vector(self.values * factor)
            bounds = [b * factor for b in self.bounds()]
            found._bounds = (min(bounds), max(bounds))
        return found


Interval = tuple[int, int]
Term = Any  # int | Vector, told apart by type()
AxisMask = Any  # Interval | np.ndarray, told apart by type()


class Separable:
    """An integer or pointer tile ``constant + sum_k term_k[i_k]`` of numpy type ``dtype``."""

    __slots__ = ("shape", "constant", "terms", "dtype", "_range")

    def __init__(self, shape: Shape, constant: int, terms: tuple[Term, ...], dtype: np.dtype) -> None:
        self.shape = shape
        self.constant = constant
        self.terms = terms
        self.dtype = dtype
        self._range: tuple[int, int] | None = None

    def range(self) -> tuple[int, int]:
        """The smallest and the largest value."""
        if self._range is None:
            low = high = self.constant
            for n, term in zip(self.shape, self.terms):
                if type(term) is int:
                    if term > 0:
                        high += term * (n - 1)
                    elif term:
                        low += term * (n - 1)
                else:
                    first, last = term.bounds()
                    low += first
                    high += last
            self._range = (low, high)
        return self._range

    def fits(self, dtype: np.dtype) -> bool:
        low, high = self.range()
        least, most = _LIMITS[dtype]
        return least <= low and high <= most

    def varying(self) -> list[int]:
        """The axes along which the value may change."""
        return [k for k, (n, t) in enumerate(zip(self.shape, self.terms)) if n > 1 and (type(t) is not int or t)]

    def axis(self, k: int) -> np.ndarray:
        """The term of axis k as a 1-d array of int64."""
        term = self.terms[k]
        return term.values if type(term) is Vector else np.arange(self.shape[k], dtype=INT64) * term

    def with_dtype(self, dtype: np.dtype) -> Separable:
        return Separable(self.shape, self.constant, self.terms, dtype)

    def dense(self) -> np.ndarray:
        rank = len(self.shape)
        if rank == 1 and type(self.terms[0]) is int and self.terms[0]:
            n, step = self.shape[0], self.terms[0]
            values = np.arange(n, dtype=INT64) * step + self.constant
            return values.astype(self.dtype, copy=False)
        axes = self.varying()
        if not axes:
            return np.full(self.shape, self.range()[0], self.dtype)
        fixed = self.constant + sum(int(self.axis(k)[0]) for k in range(rank) if k not in axes)
        narrow = self.dtype if self.dtype.itemsize == 4 and self.fits(self.dtype) else INT64
        total = along(self.axis(axes[0]) + fixed, axes[0], rank).astype(narrow, copy=False)
        for k in axes[1:]:
            total = total + along(self.axis(k), k, rank).astype(narrow, copy=False)
        total = total.astype(self.dtype, copy=False)
        return total if total.shape == self.shape else np.broadcast_to(total, self.shape).copy()

    def peek(self) -> np.ndarray:
        """The tile for reading only: a view of one value where it is constant."""
        return self.dense() if self.varying() else Splat(self.shape, np.array(self.range()[0], self.dtype)).peek()


class Box:
    """A mask that is a conjunction of one condition per axis."""

    __slots__ = ("shape", "axes", "regions")
    dtype = BOOL

    def __init__(self, shape: Shape, axes: tuple[AxisMask, ...]) -> None:
        self.shape = shape
        self.axes = axes
        self.regions: dict[Any, Any] = {}

    def axis(self, k: int) -> np.ndarray:
        """The condition of axis k as a 1-d array of booleans."""
        condition = self.axes[k]
        if type(condition) is not tuple:
            return condition
        values = np.zeros(self.shape[k], BOOL)
        values[condition[0] : condition[1]] = True
        return values

    def varying(self) -> list[int]:
        return [k for k, a in enumerate(self.axes) if type(a) is not tuple or a != (0, self.shape[k])]

    def is_full(self) -> bool:
        return all(type(a) is tuple and a[0] == 0 and a[1] == n for n, a in zip(self.shape, self.axes))

    def is_empty(self) -> bool:
        return any(a[0] >= a[1] if type(a) is tuple else not a.any() for a in self.axes)

    def dense(self) -> np.ndarray:
        values: np.ndarray = np.ones(self.shape, BOOL)
        for k in self.varying():
            values &= along(self.axis(k), k, len(self.shape))
        return values

    peek = dense


class Splat:
    """One value over a whole tile; ``value`` is a 0-d array."""

    __slots__ = ("shape", "value")

    def __init__(self, shape: Shape, value: np.ndarray) -> None:
        self.shape = shape
        self.value = value

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    def dense(self) -> np.ndarray:
        return np.full(self.shape, self.value, self.value.dtype)

    def peek(self) -> np.ndarray:
        """The tile as a read-only view of the one value."""
        return np.ndarray(self.shape, self.value.dtype, self.value, 0, (0,) * len(self.shape))


Form = Any  # Separable | Box | Splat | a deferred value (see expressions.py and memory.py)


def along(values: np.ndarray, k: int, rank: int) -> np.ndarray:
    """A 1-d array laid along axis k of a tile of the given rank."""
    return values.reshape((1,) * k + (-1,) + (1,) * (rank - k - 1))


def line_of(form: Separable) -> np.ndarray:
    """A tile that varies along one axis at most as an array that broadcasts to it; any other whole."""
    axes = form.varying()
    if len(axes) > 1:
        return form.dense()
    fixed = form.constant + sum(int(form.axis(k)[0]) for k in range(len(form.shape)) if k not in axes)
    if not axes:
        return np.array(fixed, form.dtype)
    return along((form.axis(axes[0]) + fixed).astype(form.dtype, copy=False), axes[0], len(form.shape))


def scalar(value: int, dtype: np.dtype) -> Separable:
    """A kernel scalar, which the interpreter keeps as a tile of one element."""
    return Separable((1,), value, (0,), dtype)


def constant(shape: Shape, value: int, dtype: np.dtype) -> Separable:
    return Separable(shape, value, (0,) * len(shape), dtype)


def uniform_box(shape: Shape, value: bool) -> Box:
    return Box(shape, tuple((0, n if value else 0) for n in shape))


def recognise(array: np.ndarray) -> Separable | Box | None:
    """The form of a concrete integer or boolean array that extends along one axis only, or None."""
    if not array.ndim or not array.size or array.size != max(array.shape):
        return None
    rank = array.ndim
    k = array.shape.index(array.size)
    kind = array.dtype.kind
    if kind == "b":
        if array.size == 1:
            return uniform_box(array.shape, bool(array.item()))
        return Box(array.shape, tuple(array.reshape(-1) if j == k else (0, 1) for j in range(rank)))
    if kind not in "iu":
        return None
    if array.size == 1:
        return Separable(array.shape, int(array.item()), (0,) * rank, array.dtype)
    if array.dtype.itemsize == 8 and (array.min() < -VECTOR_LIMIT or array.max() > VECTOR_LIMIT):
        return None
    vector = Vector(array.reshape(-1).astype(INT64, copy=False))
    return Separable(array.shape, 0, tuple(vector if j == k else 0 for j in range(rank)), array.dtype)


def _add_terms(a: Term, b: Term, scale: int, n: int) -> Term:
    if type(a) is int:
        if type(b) is int:
            return a + scale * b
        if a == 0:
            return b.scaled(scale)
        return Vector(np.arange(n, dtype=INT64) * a + scale * b.values)
    if type(b) is int:
        return a if b == 0 else Vector(a.values + np.arange(n, dtype=INT64) * (scale * b))
    return Vector(a.values + scale * b.values)


def add(a: Separable, b: Separable, scale: int = 1) -> Separable:
    """``a + scale * b`` with the type of a, whatever its range."""
    terms = tuple(_add_terms(t, u, scale, n) for t, u, n in zip(a.terms, b.terms, a.shape))
    return Separable(a.shape, a.constant + scale * b.constant, terms, a.dtype)


def scale(a: Separable, factor: int) -> Separable:
    terms = tuple(t * factor if type(t) is int else t.scaled(factor) for t in a.terms)
    return Separable(a.shape, a.constant * factor, terms, a.dtype)


def vectors_stay_small(a: Separable, factor: int) -> bool:
    """True if the vectors of ``factor * a`` cannot overflow 64 bits."""
    return all(type(t) is int or max(map(abs, t.bounds())) * abs(factor) <= VECTOR_LIMIT for t in a.terms)


_NEVER: dict[Callable[..., Any], Callable[[int, int], bool]] = {
    np.less: lambda low, high: low >= 0,
    np.less_equal: lambda low, high: low > 0,
    np.greater: lambda low, high: high <= 0,
    np.greater_equal: lambda low, high: high < 0,
    np.equal: lambda low, high: low > 0 or high < 0,
    np.not_equal: lambda low, high: low == high == 0,
}
_ALWAYS: dict[Callable[..., Any], Callable[[int, int], bool]] = {
    np.less: lambda low, high: high < 0,
    np.less_equal: lambda low, high: high <= 0,
    np.greater: lambda low, high: low > 0,
    np.greater_equal: lambda low, high: low >= 0,
    np.equal: lambda low, high: low == high == 0,
    np.not_equal: lambda low, high: low > 0 or high < 0,
}
_MIRROR: dict[Callable[..., Any], Callable[..., Any]] = {
    np.less: np.greater,
    np.less_equal: np.greater_equal,
    np.greater: np.less,
    np.greater_equal: np.less_equal,
    np.equal: np.equal,
}
COMPARISONS = frozenset(_NEVER)


def compare_to_zero(difference: Separable, op: Callable[..., Any]) -> Box | None:
    """The mask ``difference op 0``, or None where it is no box."""
    low, high = difference.range()
    if _ALWAYS[op](low, high):
        return uniform_box(difference.shape, True)
    if _NEVER[op](low, high):
        return uniform_box(difference.shape, False)
    axes = difference.varying()
    if len(axes) != 1:
        return None
    k = axes[0]
    n, term = difference.shape[k], difference.terms[k]
    fixed = difference.constant + sum(
        t.bounds()[0] for j, t in enumerate(difference.terms) if j != k and type(t) is Vector
    )
    condition: AxisMask
    if type(term) is int and op is not np.not_equal:
        condition = _progression_interval(fixed, term, n, op)
    else:
        condition = op(difference.axis(k), -fixed)
    return Box(difference.shape, tuple(condition if j == k else (0, m) for j, m in enumerate(difference.shape)))


def _progression_interval(start: int, step: int, n: int, op: Callable[..., Any]) -> Interval:
    """The indices i of 0..n-1 with ``start + step * i op 0``, for a comparison other than !=."""
    if step < 0:
        start, step, op = -start, -step, _MIRROR[op]
    negative = -(start // step)  # how many i have a value below zero
    not_positive = -start // step + 1
    intervals: dict[Callable[..., Any], Interval] = {
        np.less: (0, negative),
        np.less_equal: (0, not_positive),
        np.greater: (not_positive, n),
        np.greater_equal: (negative, n),
        np.equal: (negative, not_positive),
    }
    low, high = intervals[op]
    return min(max(low, 0), n), min(max(high, 0), n)


def intersect(a: Box, b: Box) -> Box:
    return Box(a.shape, tuple(map(_intersect_axis, a.axes, b.axes, a.shape)))


def _intersect_axis(a: AxisMask, b: AxisMask, n: int) -> AxisMask:
    if type(a) is tuple and type(b) is tuple:
        low = max(a[0], b[0])
        return low, max(min(a[1], b[1]), low)
    if type(a) is tuple:
        a, b = b, a
    if type(b) is not tuple:
        return a & b
    if b == (0, n):
        return a
    result = np.zeros(n, BOOL)
    result[b[0] : b[1]] = a[b[0] : b[1]]
    return result


def combine(a: Form, b: Form, op: Callable[..., Any]) -> Separable | Box | None:
    """An element-wise operation on two forms of one shape, or None where its result has no form."""
    if type(a) is Box or type(b) is Box:
        return intersect(a, b) if op is np.bitwise_and and type(a) is type(b) else None
    if a.dtype != b.dtype:
        return None
    if len(a.shape) == 1 and (type(a.terms[0]) is Vector or type(b.terms[0]) is Vector):
        return None  # such a tile is an array already
    if op is np.add:
        result = add(a, b)
    elif op is np.subtract:
        result = add(a, b, -1)
    elif op is np.multiply:
        if a.varying():
            a, b = b, a
        if a.varying():
            return None
        factor = a.range()[0]
        if not vectors_stay_small(b, factor):
            return None
        result = scale(b, factor)
    elif op in COMPARISONS:
        return compare_to_zero(add(a, b, -1), op)
    else:
        return None
    return result if result.fits(result.dtype) else None


def broadcast(form: Form, shape: Shape) -> Form:
    """The form over a larger shape, along the axes where it has length 1."""
    if type(form) is Box:
        axes = list(form.axes)
        for k, n in enumerate(shape):
            if form.shape[k] == 1 and n > 1:
                a = axes[k]
                axes[k] = (0, n if (a == (0, 1) if type(a) is tuple else bool(a[0])) else 0)
        return Box(shape, tuple(axes))
    terms = list(form.terms)
    offset = form.constant
    for k, n in enumerate(shape):
        if form.shape[k] == 1 and n > 1:
            term = terms[k]
            if type(term) is Vector:
                offset += int(term.values[0])
            terms[k] = 0
    return Separable(shape, offset, tuple(terms), form.dtype)


def expand(form: Form, axis: int) -> Form:
    """The form with a new axis of length 1."""
    shape = form.shape[:axis] + (1,) + form.shape[axis:]
    if type(form) is Splat:
        return Splat(shape, form.value)
    if type(form) is Box:
        return Box(shape, form.axes[:axis] + ((0, 1),) + form.axes[axis:])
    return Separable(shape, form.constant, form.terms[:axis] + (0,) + form.terms[axis:], form.dtype)


def permute(form: Form, order: tuple[int, ...]) -> Form:
    shape = tuple(form.shape[k] for k in order)
    if type(form) is Splat:
        return Splat(shape, form.value)
    if type(form) is Box:
        return Box(shape, tuple(form.axes[k] for k in order))
    return Separable(shape, form.constant, tuple(form.terms[k] for k in order), form.dtype)
