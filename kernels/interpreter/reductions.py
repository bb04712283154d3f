"""Reductions, scans and histograms.

Sums, extrema and their positions are numpy's, as in Triton's interpreter. A combine function of the kernel's own runs once
for each step along the axis, on all lanes together, instead of once for each element: the same operations in the same
order, so the same bits. A combine function that branches on its values goes element by element.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter import dtypes, expressions
from tinyflow.kernels.interpreter.arithmetic import CastOperations, lift, lower
from tinyflow.kernels.interpreter.expressions import Applied, Deferred
from tinyflow.kernels.interpreter.handles import Handle, numpy_dtype, operand, peek, symbolic

_standard = tl.standard


def _combine_of(name: str) -> Any:
    return getattr(_standard, name, None)


_SUM = _combine_of("_sum_combine")
_KNOWN = [
    _combine_of(name)
    for name in (
        "_elementwise_max",
        "_elementwise_min",
        "_argmax_combine_tie_break_left",
        "_argmin_combine_tie_break_left",
        "_argmax_combine_tie_break_fast",
        "_argmin_combine_tie_break_fast",
    )
]
_BITWISE = {"_xor_combine": np.bitwise_xor, "_or_combine": np.bitwise_or, "_and_combine": np.bitwise_and}
_BITWISE_COMBINES: list[tuple[Any, Any]] = [(_combine_of(name), ufunc) for name, ufunc in _BITWISE.items()]


class _Branches(Exception):
    """A combine function looked at the truth of a whole tile."""


class _Lanes:
    """While it is open, asking a tile of several lanes for its truth is an error."""

    depth = 0

    def __enter__(self) -> None:
        _Lanes.depth += 1

    def __exit__(self, *_: Any) -> None:
        _Lanes.depth -= 1


def truth(tensor: Any) -> bool:
    """``bool(tensor)``: a scalar's value. Triton's interpreter takes any larger tile as true."""
    data = peek(tensor.handle)
    if data.size == 1:
        return bool(data.reshape(-1)[0])
    if _Lanes.depth:
        raise _Branches
    return True


def _tensor(values: np.ndarray, dtype: tl.dtype) -> Any:
    """An array as a kernel value of the given element type; a 0-d array as a scalar."""
    if values.ndim:
        return tl.tensor(Handle(values, dtype), tl.block_type(dtype, list(values.shape)))
    return tl.tensor(Handle(values.reshape(1), dtype), dtype)


def _lifted(tensor: Any) -> Any:
    handle = lift(tensor.handle)
    return tl.tensor(handle, tl.block_type(tl.float32, list(handle.data.shape)))


def _lowered(tensor: Any, dtype: tl.dtype) -> Any:
    kind = tl.block_type(dtype, list(tensor.shape)) if tensor.type.is_block() else dtype
    return tl.tensor(lower(tensor.handle, dtype), kind)


def reduce(input: Any, axis: Any, combine_fn: Any, keep_dims: bool = False, **_: Any) -> Any:
    """``tl.reduce``."""
    axis, keep_dims = _value(axis), bool(_value(keep_dims))
    if not isinstance(input, (tuple, tl.tuple)):
        return reduce((input,), axis, combine_fn, keep_dims)[0]
    first = input[0]
    known = combine_fn is _SUM or any(combine_fn is c for c in _KNOWN)
    if known and dtypes.is_packed(first.dtype):
        wide = tuple(_lifted(t) if n == 0 else t for n, t in enumerate(input))
        results = stock.ReduceOps(axis, combine_fn, keep_dims).apply(wide)
        return (_lowered(results[0], first.dtype), *results[1:])
    if combine_fn is _SUM:
        return (_sum(first, axis, keep_dims),)
    operation = stock.ReduceOps(axis, combine_fn, keep_dims)
    if known:
        return operation.apply(tuple(input))
    operation.check_tensor(input)
    for combine, ufunc in _BITWISE_COMBINES:
        if combine is not None and combine_fn is combine and len(input) == 1:
            values = ufunc.reduce(peek(first.handle), axis=axis, keepdims=keep_dims)
            return (_tensor(np.asarray(values, numpy_dtype(first.dtype)), first.dtype),)
    try:
        return _reduce_lanes(tuple(input), axis, combine_fn, keep_dims)
    except _Branches:
        return operation.apply(tuple(input))


def _value(x: Any) -> Any:
    return x.value if isinstance(x, tl.constexpr) else x


def _sum(tensor: Any, axis: int | None, keep_dims: bool) -> Any:
    stock.ReduceOps(axis, _SUM, keep_dims).check_tensor((tensor,))
    source = operand(tensor.handle)
    if axis == 0 and not keep_dims and type(source) is Applied and _sums_in_passing(source):
        return tl.tensor(symbolic(ColumnSums(source), tensor.dtype), tl.block_type(tensor.dtype, [source.shape[1]]))
    total = np.sum(peek(tensor.handle), axis=axis, keepdims=keep_dims)
    return _tensor(np.asarray(total).astype(numpy_dtype(tensor.dtype)), tensor.dtype)


#: Operations that are quicker done again than their result is written and read.
_CHEAP = frozenset((np.add, np.subtract, np.multiply, np.negative, np.abs, expressions.select, expressions.convert))
_MOST_CHEAP = 8


def _sums_in_passing(source: Applied) -> bool:
    """True if the columns of an expression may be summed without making it whole, to the same bits."""
    if source.leaf() is not None or len(source.shape) != 2 or source.shape[1] < 2 or source.dtype.kind != "f":
        return False
    if source.dtype.itemsize < 4 or source.steps > _MOST_CHEAP:
        return False
    return all(node.function in _CHEAP for node in (source, *expressions.pending([source])[0]))


class ColumnSums(Deferred):
    """The sums of an expression's columns, added row by row as it is computed, together with other such sums."""

    __slots__ = ("source",)
    _waiting: ClassVar[list[weakref.ref[ColumnSums]]] = []

    def __init__(self, source: Applied) -> None:
        super().__init__(source.shape[1:], source.dtype)
        self.source: Any = source
        self._waiting[:] = [r for r in self._waiting if (other := r()) is not None and other.source is not None]
        self._waiting.append(weakref.ref(self))

    def compute_into(self, out: np.ndarray) -> None:
        alive = [other for r in self._waiting if (other := r()) is not None and other.source is not None]
        together = [self] + [other for other in alive if other is not self and other.source.shape == self.source.shape]
        sums = _column_sums([other.source for other in together])
        np.copyto(out, sums[0])
        self.source = None
        for other, total in zip(together[1:], sums[1:]):
            other.settle_at(total)

    def settle_at(self, place: Any) -> None:
        super().settle_at(place)
        self.source = None


def _column_sums(sources: list[Applied]) -> list[np.ndarray]:
    """The sum of each expression's rows in their order, as numpy adds them up."""
    different = list({id(source): source for source in sources}.values())
    rows, columns = different[0].shape
    height = min(rows, max(1, expressions.BLOCK_SIZE // columns))
    # the sum so far is the first row of what is added up next
    lines = [np.empty((height + 1, columns), source.dtype) for source in different]
    read = expressions.Program(*different).reader()
    for start in range(0, rows, height):
        stop = min(start + height, rows)
        read((slice(start, stop), slice(None)), [line[1 : stop - start + 1] for line in lines])
        for line in lines:
            line[0] = np.add.reduce(line[1 if start == 0 else 0 : stop - start + 1], axis=0)
    totals = {id(source): line[0].copy() for source, line in zip(different, lines)}
    return [totals[id(source)] for source in sources]


def _step(combine: Callable[..., Any], before: Sequence[Any], next_: Sequence[Any]) -> list[Any]:
    """One application of a combine function to kernel values, each result in its input's element type."""
    with _Lanes():
        result = combine(*before, *next_)
    results = result if isinstance(result, (tuple, tl.tuple)) else (result,)
    cast = []
    for value, old in zip(results, before):
        if not isinstance(value, tl.tensor):
            value = _tensor(np.full(old.handle.data.shape, _value(value), numpy_dtype(old.dtype)), old.dtype)
        elif value.dtype != old.dtype:
            handle = CastOperations.cast_impl(stock.interpreter_builder, value.handle, old.dtype)
            value = tl.tensor(handle, old.type)
        cast.append(value)
    return cast


def _reduce_lanes(input: tuple[Any, ...], axis: int | None, combine_fn: Any, keep_dims: bool) -> tuple[Any, ...]:
    arrays = [t.handle.data for t in input]
    rank = arrays[0].ndim
    if axis is None:
        arrays = [a.reshape(-1) for a in arrays]
    lines = [np.moveaxis(a, axis or 0, 0) for a in arrays]
    shape = lines[0].shape[1:]
    rows = [line.reshape(line.shape[0], -1) for line in lines]
    total = [_tensor(row[0], t.dtype) for row, t in zip(rows, input)]
    for i in range(1, rows[0].shape[0]):
        total = _step(combine_fn.fn, total, [_tensor(row[i], t.dtype) for row, t in zip(rows, input)])
    results = []
    for value, t in zip(total, input):
        data = np.broadcast_to(value.handle.data, rows[0].shape[1:]).reshape(shape).copy()
        if keep_dims:
            data = data.reshape((1,) * rank) if axis is None else np.expand_dims(data, axis)
        results.append(_tensor(data, t.dtype))
    return tuple(results)


def scan(input: Any, axis: int, combine_fn: Any, reverse: bool = False, **_: Any) -> Any:
    """``tl.associative_scan``."""
    axis, reverse = _value(axis), bool(_value(reverse))
    if not isinstance(input, (tuple, tl.tuple)):
        return scan((input,), axis, combine_fn, reverse)[0]
    first = input[0]
    operation = stock.ScanOps(axis, combine_fn, reverse)
    if combine_fn is _SUM or combine_fn is _combine_of("_prod_combine"):
        if dtypes.is_packed(first.dtype):
            return (_lowered(operation.apply((_lifted(first),))[0], first.dtype),)
        return operation.apply(tuple(input))
    operation.check_tensor(input)
    try:
        return _scan_lanes(tuple(input), axis, combine_fn, reverse)
    except _Branches:
        return operation.apply(tuple(input))


def _scan_lanes(input: tuple[Any, ...], axis: int, combine_fn: Any, reverse: bool) -> tuple[Any, ...]:
    lines = [np.moveaxis(t.handle.data, axis, 0) for t in input]
    if reverse:
        lines = [line[::-1] for line in lines]
    rows = [line.reshape(line.shape[0], -1) for line in lines]
    outputs = [np.empty(row.shape, row.dtype) for row in rows]
    total = [_tensor(row[0], t.dtype) for row, t in zip(rows, input)]
    for i in range(rows[0].shape[0]):
        if i:
            total = _step(combine_fn.fn, total, [_tensor(row[i], t.dtype) for row, t in zip(rows, input)])
        for out, value in zip(outputs, total):
            out[i] = value.handle.data
    results = []
    for out, line, t in zip(outputs, lines, input):
        out = out.reshape(line.shape)
        out = np.moveaxis(out[::-1] if reverse else out, 0, axis)
        results.append(_tensor(np.ascontiguousarray(out), t.dtype))
    return tuple(results)


_sorting_network = tl.sort


def sort(x: Any, dim: Any = None, descending: Any = False) -> Any:
    """``tl.sort``: integers as numpy sorts them, which has one result; other types by the network that a GPU runs."""
    values = peek(x.handle)
    if values.dtype.kind not in "iu" or dtypes.is_packed(x.dtype) or _value(dim) not in (None, values.ndim - 1):
        return _sorting_network(x, dim, descending)
    ordered = np.sort(values, axis=-1)
    return _tensor(np.ascontiguousarray(ordered[..., ::-1]) if _value(descending) else ordered, x.dtype)


class ReductionOperations:
    """Histograms of the builder; reductions and scans do not pass through it."""

    def create_histogram(self, data: Any, bins: int, mask: Any = None) -> Handle:
        """How many elements hold each of 0..bins-1; what is masked or outside counts nowhere."""
        values = peek(data)
        counted = (values >= 0) & (values < bins)
        if mask is not None:
            counted &= peek(mask).astype(np.bool_)
        counts = np.bincount(values[counted].astype(np.int64), minlength=bins)
        return Handle(counts.astype(np.int32), tl.int32)
