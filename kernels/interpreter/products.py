"""``tl.dot``: products on numpy's BLAS, accumulated in the accumulator's type.

A chain ``acc = tl.dot(a, b, acc)``, as a loop over taps or over K makes it, is noted as one ``Product``. When the
accumulator is needed, it is computed a few rows at a time: their part of each ``a`` is gathered or sliced from memory,
multiplied and added while it is in cache, and the rows are shared out to one thread per core, each with a BLAS of one
thread. A row's products are summed in the order of the calls, by the same BLAS, so the bits are those of whole products.
Rows that a mask leaves out of an operand, if they are a good part, are not multiplied.
Of products with a transposed tile (``tl.dot(tl.trans(x), y)``, a weight gradient over pixels) a few lanes of ``x`` are
gathered at a time.

The one exception are sums over thousands of elements of a transposed tile: they are summed in blocks of K, always the
same ones, and may differ from Triton's in the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyflow.kernels.interpreter import blas, dtypes, threads
from tinyflow.kernels.interpreter.arithmetic import lift
from tinyflow.kernels.interpreter.expressions import Deferred, Transposed, block_reader
from tinyflow.kernels.interpreter.forms import Shape, Splat
from tinyflow.kernels.interpreter.handles import Handle, array_dtype, numpy_dtype, operand, peek, shape_of, symbolic
from tinyflow.kernels.interpreter.loaded import Loaded
from tinyflow.kernels.interpreter.regions import view
from tinyflow.kernels.interpreter.tiles import Scratch, SomeRows, Tile, extent, is_by_rows, some_rows, tile_of

#: Multiply-adds from which a product is deferred.
_LEAST_WORK = 1 << 18
#: Bytes of the rows that are worked on at a time, of operand and result together.
_ROW_BYTES = 1 << 20
_LEAST_ROWS = 64
_LEAST_COLUMNS = 128
#: Multiply-adds from which the BLAS packs its operands, so that a transposed one gives the same bits as its copy.
_SAME_EITHER_WAY = 1 << 20
#: Transposed operands at least this long in K are summed in blocks of _DEPTH_BLOCK.
_DEEP, _DEPTH_BLOCK = 2048, 1024
#: The BLAS sums over this depth in one go.
_ONE_SUM = 256
#: Fewer lanes of such operands are not shared out; blocks of K are.
_FEW_LANES = 128
#: Lanes are shared out in multiples of this, by which a BLAS takes them.
_LANES_AT_ONCE = 16
#: Where at most this part of the rows is left by a mask, the others are passed over.
_FEW_ROWS = 13 / 16
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
        self.compute_rows(out)
        self.terms = []
        self.initial = None

    def compute_rows(self, out: np.ndarray) -> None:
        """Computes the leading rows, as many as ``out`` has."""
        least = min(_LANES_AT_ONCE, self.shape[0])
        if len(out) < least:
            more = np.empty((least, out.shape[1]), out.dtype)
            self.compute_rows(more)
            np.copyto(out, more[: len(out)])
            return
        if all(type(a) is Transposed for a, _ in self.terms):
            if len(out) < _FEW_LANES and all(_is_deep(a) for a, _ in self.terms):
                self._compute_by_depth(out)
                return
            tiles = [tile_of(a) for a, _ in self.terms]
            if None not in tiles:
                self._compute_by_lanes(out, tiles)
                return
        self._compute_by_rows(out)

    def _compute_by_lanes(self, out: np.ndarray, left: list[Any]) -> None:
        """Products of transposed tiles: a few of their lanes at a time, gathered from all of the depth."""
        lanes, columns = out.shape
        right = [tile_of(b) or _whole(b, self.dtype, 0) for _, b in self.terms]
        depths = [_depth(a, b) for a, b in self.terms]
        deepest = max(min(depth, _DEPTH_BLOCK) if _is_deep(a) else depth for depth, (a, _) in zip(depths, self.terms))
        pieces = _cdiv(lanes * deepest * self.dtype.itemsize, _ROW_BYTES)
        if lanes * columns * sum(depths) >= 16 * _LEAST_WORK:
            pieces = _cdiv(pieces, 2 * threads.CORES) * 2 * threads.CORES
        step = max(_cdiv(_cdiv(lanes, pieces), _LANES_AT_ONCE) * _LANES_AT_ONCE, _LEAST_ROWS)
        with threads.serial_blas:
            worker = lambda: _LaneWorker(self, left, right, depths, out)  # noqa: E731 - one for each thread
            threads.share(_cuts(lanes, step), worker, threads.serial_blas.controllable)

    def _compute_by_depth(self, out: np.ndarray) -> None:
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
        np.copyto(out, _Initial(self.initial).block(slice(0, len(out))))
        for total in totals:
            np.add(out, total[: len(out)], out=out)

    def _compute_by_rows(self, out: np.ndarray) -> None:
        rows, columns = out.shape
        depths = [_depth(a, b) for a, b in self.terms]
        depth = max(depths)
        step = rows
        while step > _LEAST_ROWS and step * (depth + 2 * columns) * self.dtype.itemsize > _ROW_BYTES:
            step //= 2
        if rows * columns * depth * len(self.terms) >= 16 * _LEAST_WORK:
            while step > _LEAST_ROWS and step * threads.CORES > rows:
                step //= 2
        across = columns
        if rows <= 2 * _LEAST_ROWS:  # what is packed for a few rows costs as much as their product: each part once
            step = rows
            while across > _LEAST_COLUMNS and across * threads.CORES > columns:
                across //= 2
        right = [_whole(b, self.dtype, step * across * a.shape[1])[:depth] for (a, b), depth in zip(self.terms, depths)]
        left = [tile_of(a) for a, _ in self.terms]
        parts = [(down, beside) for down in _cuts(rows, step) for beside in _cuts(columns, across)]
        with threads.serial_blas:
            worker = lambda: _RowWorker(self, left, right, depths, out)  # noqa: E731 - one for each thread
            threads.share(parts, worker, threads.serial_blas.controllable)

    def settle_at(self, place: Any) -> None:
        super().settle_at(place)
        self.terms = []
        self.initial = None


def _cuts(n: int, step: int) -> list[slice]:
    """0..n in pieces of ``step``; a small rest belongs to the last, since a BLAS multiplies a few rows differently."""
    starts = list(range(0, n, step))
    if len(starts) > 1 and n - starts[-1] < _LANES_AT_ONCE:
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], n])]


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _is_positive_zero(value: Any) -> bool:
    return type(value) is Splat and not value.value.tobytes().strip(b"\0")


def _is_deep(a: Any) -> bool:
    """True for a transposed tile that is long in K: to read it row by row would be to make it whole first."""
    return type(a) is Transposed and a.shape[1] >= _DEEP


def _whole(value: Any, dtype: np.dtype, work: int) -> np.ndarray:
    """An operand as one array of the accumulator's type, for products of ``work`` multiply-adds."""
    if type(value) is np.ndarray:
        return value.astype(dtype, copy=False)
    if type(value) is Loaded and work >= _SAME_EITHER_WAY and value.dtype == dtype:
        memory = value.transposed_memory()
        if memory is None and value._array is None and value._is_whole() and is_by_rows(value.memory):
            memory = value.memory
        if memory is not None:
            return memory
    return value.peek().astype(dtype, copy=False)


def _depth(a: Any, b: Any) -> int:
    """How much of a product's depth there is beside zeros that masks put into both factors.

    A greater depth the BLAS sums in parts, which would become others.
    """
    depth = a.shape[1]
    return max(extent(a)[1], extent(b)[0], 1) if depth <= _ONE_SUM else depth


class _Initial:
    """What a chain starts from, by rows."""

    def __init__(self, value: Any) -> None:
        self.read: Reader = block_reader(value)
        self.width = value.shape[1]
        self.dtype = value.dtype

    def block(self, rows: slice, columns: slice = slice(None)) -> np.ndarray:
        scratch = np.empty((rows.stop - rows.start, self.width), self.dtype)
        block = self.read((rows, slice(0, self.width)), scratch)
        return block[:, columns] if block.ndim else block


class _LaneWorker:
    """Computes lanes of a product of transposed tiles."""

    def __init__(self, product: Product, left: list[Any], right: list[Any], depths: list[int], out: np.ndarray) -> None:
        self.dtype = product.dtype
        self.out = out
        self.terms = [
            (a, b, depth, _DEPTH_BLOCK if _is_deep(factor) else depth)
            for a, b, depth, (factor, _) in zip(left, right, depths, product.terms)
        ]
        self.initial = _Initial(product.initial)
        self.scratch = Scratch()

    def __call__(self, lanes: slice) -> None:
        target = self.out[lanes]
        partial = self.scratch.matrix(0, target, self.dtype)
        first = True
        for left, right, depth, block in self.terms:
            for start in range(0, depth, block):
                down = slice(start, min(start + block, depth))
                a, b = self._left(left, lanes, down), self._right(right, down, target.shape[1])
                if first:
                    np.matmul(a, b, out=target)
                    np.add(target, self.initial.block(lanes), out=target)
                elif a.shape[1] > _ONE_SUM or not blas.add_product(a, b, target):
                    np.matmul(a, b, out=partial)
                    np.add(target, partial, out=target)
                first = False

    def _left(self, tile: Any, lanes: slice, down: slice) -> np.ndarray:
        size = (lanes.stop - lanes.start) * (down.stop - down.start) * tile.dtype.itemsize
        return self.scratch.converted(2, tile.block(lanes, down, self.scratch.bytes(1, size)), self.dtype)

    def _right(self, factor: Any, down: slice, columns: int) -> np.ndarray:
        if type(factor) is np.ndarray:
            return factor[down]
        memory = self.scratch.bytes(3, columns * (down.stop - down.start) * factor.dtype.itemsize)
        return self.scratch.converted(4, factor.block(down, slice(0, columns), memory), self.dtype)


class _RowWorker:
    """Computes rows of a product."""

    def __init__(self, product: Product, left: list[Any], right: list[Any], depths: list[int], out: np.ndarray) -> None:
        self.dtype = product.dtype
        self.out = out
        self.terms = [
            (tile or block_reader(a), a, b, depth) for tile, b, depth, (a, _) in zip(left, right, depths, product.terms)
        ]
        passes_over = _is_positive_zero(product.initial)
        self.few = [some_rows(a, d) if passes_over else None for (a, _), d in zip(product.terms, depths)]
        self.initial = _Initial(product.initial)
        self.scratch = Scratch()

    def __call__(self, part: tuple[slice, slice]) -> None:
        rows, columns = part
        target = self.out[part]
        partial = self.scratch.matrix(0, target, self.dtype)
        first = True
        for (read, factor, whole, depth), few in zip(self.terms, self.few):
            right = whole[:, columns]
            if few is not None and self._add_few(few, rows, right, target, first):
                first = False
                continue
            left = self._left(read, rows, depth, factor)
            if first:
                np.matmul(left, right, out=target)
                np.add(target, self.initial.block(rows, columns), out=target)
            elif depth > _ONE_SUM or not blas.add_product(left, right, target):
                np.matmul(left, right, out=partial)
                np.add(partial, target, out=target)
            first = False

    def _add_few(self, few: SomeRows, rows: slice, right: np.ndarray, target: np.ndarray, first: bool) -> bool:
        """Adds the products of the rows that are no zeros; False where that is not worth it or would show."""
        cut, nest = few.among(rows.start, rows.stop)
        count, columns = cut.stop - cut.start, target.shape[1]
        if nest is None or not _LANES_AT_ONCE <= count <= _FEW_ROWS * len(target):
            return False
        if count * right.size < _SAME_EITHER_WAY or target.strides[1] != target.itemsize:
            return False
        memory = self.scratch.bytes(1, count * right.shape[0] * few.table.itemsize)
        left = self.scratch.converted(2, few.read(cut, memory), self.dtype)
        partial = np.ndarray((count, columns), self.dtype, self.scratch.bytes(3, count * columns * target.itemsize))
        np.matmul(left, right, out=partial)
        if not math.isfinite(np.add.reduce(partial[0])):
            return False  # zeros times what is not finite are no zeros; and a factor like that shows in every row
        down = target.strides[0]
        address = target.__array_interface__["data"][0] + nest.origin * down
        steps = (*[n * down for n in nest.steps], target.itemsize)
        place = view(address, (*nest.shape, columns), steps, self.dtype)
        if place is None:
            return False
        if first:
            target.fill(0)
        np.add(place, partial.reshape(place.shape), out=place)
        return True

    def _left(self, read: Any, rows: slice, depth: int, factor: Any) -> np.ndarray:
        shape = rows.stop - rows.start, factor.shape[1]
        memory = self.scratch.bytes(1, shape[0] * shape[1] * factor.dtype.itemsize)
        if type(read) is Tile:
            left = read.block(rows, slice(0, depth), memory)
        else:
            left = read((rows, slice(0, shape[1])), np.ndarray(shape, factor.dtype, memory))[:, :depth]
        return self.scratch.converted(2, left, self.dtype)


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
