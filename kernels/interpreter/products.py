"""``tl.dot``: products on numpy's BLAS, accumulated in the accumulator's type.

A chain ``acc = tl.dot(a, b, acc)``, as a loop over taps or over K makes it, is noted as one ``Product``. When the
accumulator is needed, it is computed a few rows at a time: their part of each ``a`` is gathered or sliced from memory,
multiplied and added while it is in cache, and the rows are shared out to one thread per core, each with a BLAS of one
thread. A row's products are summed in the order of the calls, by the same BLAS, so the bits are those of whole products.

The one exception are sums over thousands of elements of a transposed tile (``tl.dot(tl.trans(x), y)``, a weight gradient
over pixels): they are summed in blocks of K, always the same ones, and may differ from Triton's in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyflow.kernels.interpreter import dtypes, threads
from tinyflow.kernels.interpreter.arithmetic import lift
from tinyflow.kernels.interpreter.expressions import Deferred, Transposed, block_reader
from tinyflow.kernels.interpreter.forms import Shape
from tinyflow.kernels.interpreter.handles import Handle, array_dtype, numpy_dtype, operand, peek, shape_of, symbolic
from tinyflow.kernels.interpreter.memory import Loaded

#: Multiply-adds from which a product is deferred.
_LEAST_WORK = 1 << 18
#: Bytes of the rows that are worked on at a time, of operand and result together.
_ROW_BYTES = 1 << 20
_LEAST_ROWS = 64
#: Multiply-adds from which the BLAS packs its operands, so that a transposed one gives the same bits as its copy.
_SAME_EITHER_WAY = 1 << 20
#: Transposed operands at least this long in K are summed in blocks of _DEPTH_BLOCK.
_DEEP, _DEPTH_BLOCK = 2048, 1024
#: Longer chains are computed before they grow.
_MOST_TERMS = 64

Reader = Callable[[tuple[slice, ...], np.ndarray], np.ndarray]


class Product(Deferred):
    """``initial + sum of a @ b``, in this order."""

    __slots__ = ("terms", "initial")

    def __init__(self, shape: Shape, dtype: np.dtype, terms: list[tuple[Any, Any]], initial: Any) -> None:
        super().__init__(shape, dtype)
        self.terms = terms
        self.initial = initial

    def compute_into(self, out: np.ndarray) -> None:
        if all(_is_deep(a) for a, _ in self.terms):
            self._compute_deep(out)
        else:
            self._compute_rows(out)
        self.terms = []
        self.initial = None

    def _compute_deep(self, out: np.ndarray) -> None:
        """Sums over blocks of K: each is read once, by the thread that multiplies it."""
        cuts = [
            (n, slice(start, start + _DEPTH_BLOCK))
            for n, (a, _) in enumerate(self.terms)
            for start in range(0, a.shape[1], _DEPTH_BLOCK)
        ]
        partials: list[np.ndarray] = [np.empty(0)] * len(cuts)
        with threads.serial_blas:
            worker = lambda: _DepthWorker(self, cuts, partials)  # noqa: E731 - one for each thread
            threads.share(range(len(cuts)), worker, threads.serial_blas.controllable)
        totals: list[Any] = [None] * len(self.terms)
        for (n, _), partial in zip(cuts, partials):
            totals[n] = partial if totals[n] is None else np.add(totals[n], partial, out=totals[n])
        np.copyto(out, block_reader(self.initial)((slice(None), slice(None)), np.empty(self.shape, self.dtype)))
        for total in totals:
            np.add(out, total, out=out)

    def _compute_rows(self, out: np.ndarray) -> None:
        rows, columns = self.shape
        depth = max(a.shape[1] for a, _ in self.terms)
        step = rows
        while step > _LEAST_ROWS and step * (depth + 2 * columns) * self.dtype.itemsize > _ROW_BYTES:
            step //= 2
        if rows * columns * depth * len(self.terms) >= 16 * _LEAST_WORK:
            while step > _LEAST_ROWS and step * threads.CORES > rows:
                step //= 2
        right = [_whole(b, self.dtype, step * columns * a.shape[1]) for a, b in self.terms]
        cuts = [slice(start, start + step) for start in range(0, rows, step)]
        with threads.serial_blas:
            threads.share(cuts, lambda: _RowWorker(self, right, out), threads.serial_blas.controllable)

    def settle_at(self, place: Any) -> None:
        super().settle_at(place)
        self.terms = []
        self.initial = None


def _is_deep(a: Any) -> bool:
    """True for a transposed tile that is long in K: to read it row by row would be to make it whole first."""
    return type(a) is Transposed and a.shape[1] >= _DEEP


def _whole(value: Any, dtype: np.dtype, work: int) -> np.ndarray:
    """An operand as one array of the accumulator's type, for products of ``work`` multiply-adds."""
    if type(value) is np.ndarray:
        return value.astype(dtype, copy=False)
    if type(value) is Loaded and work >= _SAME_EITHER_WAY and value.dtype == dtype:
        memory = value.transposed_memory()
        if memory is not None:
            return memory
    return value.peek().astype(dtype, copy=False)


class _RowWorker:
    """Computes rows of a product."""

    def __init__(self, product: Product, right: list[np.ndarray], out: np.ndarray) -> None:
        self.dtype = product.dtype
        self.out = out
        self.right = right
        self.left: list[Reader] = [block_reader(a) for a, _ in product.terms]
        self.depths = [a.shape[1] for a, _ in product.terms]
        self.types = [a.dtype for a, _ in product.terms]
        self.initial: Reader = block_reader(product.initial)
        self.memory = np.empty(0, np.uint8)

    def __call__(self, rows: slice) -> None:
        target = self.out[rows]
        count, columns = target.shape
        widest = max(self.depths)
        operand_bytes = count * widest * 8
        needed = 2 * operand_bytes + count * columns * self.dtype.itemsize
        if self.memory.size < needed:
            self.memory = np.empty(needed, np.uint8)
        partial = np.ndarray((count, columns), self.dtype, self.memory, 2 * operand_bytes)
        index = (rows, slice(None))
        for n, (read, right) in enumerate(zip(self.left, self.right)):
            scratch = np.ndarray((count, self.depths[n]), self.types[n], self.memory)
            left = read(index, scratch)
            if left.dtype != self.dtype:
                wide = np.ndarray(left.shape, self.dtype, self.memory, operand_bytes)
                np.copyto(wide, left)
                left = wide
            if n:
                np.matmul(left, right, out=partial)
                np.add(partial, target, out=target)
            else:
                np.matmul(left, right, out=target)
                np.add(target, self.initial(index, partial), out=target)


class _DepthWorker:
    """Computes the product of one block of K of one term."""

    def __init__(self, product: Product, cuts: list[tuple[int, slice]], partials: list[np.ndarray]) -> None:
        self.dtype = product.dtype
        self.shape = product.shape
        self.cuts = cuts
        self.partials = partials
        self.left = [block_reader(a.source) for a, _ in product.terms]
        self.right = [block_reader(b) for _, b in product.terms]
        self.types = [(a.dtype, b.dtype) for a, b in product.terms]
        rows, columns = self.shape
        self.memory = np.empty(2 * _DEPTH_BLOCK * max(rows, columns) * 8, np.uint8)

    def __call__(self, number: int) -> None:
        n, cut = self.cuts[number]
        rows, columns = self.shape
        index, half = (cut, slice(None)), _DEPTH_BLOCK * max(rows, columns) * 8
        a, b = self.types[n]
        left = self.left[n](index, np.ndarray((_DEPTH_BLOCK, rows), a, self.memory))
        right = self.right[n](index, np.ndarray((_DEPTH_BLOCK, columns), b, self.memory, half))
        self.partials[number] = np.matmul(left.T, right, dtype=self.dtype)


class ProductOperations:
    """The matrix products of the builder."""

    def create_dot(self, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        kind = numpy_dtype(d.dtype)
        if dtypes.is_packed(d.dtype):
            wide = self.create_dot(a, b, lift(d), *rest)
            return Handle(dtypes.encoded(wide.data, d.dtype), d.dtype.scalar)
        a, b = lift(a), lift(b)
        source = array_dtype(a)
        if source != array_dtype(b) or source.kind in "iu" and source.itemsize > 1:
            return super().create_dot(a, b, d, *rest)  # type: ignore[misc]
        if source.kind in "iu":
            product = np.matmul(peek(a), peek(b), dtype=np.float64).astype(kind)  # exact: partial sums stay below 2**53
            return Handle(np.add(product, peek(d), out=product), d.dtype.scalar)
        shape = shape_of(a)
        columns = shape_of(b)[-1]
        if len(shape) == 2 and kind.itemsize >= source.itemsize and shape[0] * shape[1] * columns >= _LEAST_WORK:
            form = _chain(_matrix(a), _matrix(b), operand(d), (shape[0], columns), kind)
            if form is not None:
                return symbolic(form, d.dtype.scalar)
        with threads.serial_blas:
            product = np.matmul(peek(a), peek(b), dtype=kind)
        return Handle(np.add(product, peek(d), out=product), d.dtype.scalar)


def _matrix(handle: Any) -> Any:
    """A factor as an array, or as what yields its rows."""
    factor = operand(handle)
    return (
        factor
        if type(factor) is np.ndarray or hasattr(factor, "block") or isinstance(factor, Deferred)
        else handle.data
    )


def _chain(a: Any, b: Any, d: Any, shape: Shape, kind: np.dtype) -> Product | None:
    if type(a) is np.ndarray and type(b) is np.ndarray and a.ctypes.data == b.ctypes.data:
        return None  # a @ a.T is another routine of the BLAS
    if type(d) is Product and d.leaf() is None:
        if len(d.terms) >= _MOST_TERMS:
            d.dense()
        else:
            return Product(shape, kind, [*d.terms, (a, b)], d.initial)
    return Product(shape, kind, [(a, b)], d)
