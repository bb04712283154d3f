"""Deferred element-wise arithmetic on large tiles.

An operation on a large tile is not computed at once but noted as an ``Applied``. When the value is needed, the whole
expression runs block by block: each block passes through all its operations while it is in cache, intermediate results
live in a few scratch buffers, the last operation writes straight into the result (or into the memory that is stored to),
and blocks are shared out to one thread per core. Every element goes through the same numpy operations as it would alone,
so the bits are the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyflow.kernels.interpreter import threads
from tinyflow.kernels.interpreter.forms import Box, Form, Separable, Shape, Splat, line_of

#: Tiles of at least this many elements are deferred; for smaller ones a numpy call costs more than its memory traffic.
LEAST_SIZE = 1 << 15
#: Elements of a block: a handful of such float32 buffers fit into a core's second-level cache.
BLOCK_SIZE = 1 << 16
#: Deeper expressions are computed before they grow.
MOST_STEPS = 48
#: Elements times steps below which one thread is as fast as several: between numpy calls they wait for one lock.
_WORTH_THREADS = 1 << 24

Index = tuple[slice, ...]
Function = Callable[..., Any]
Step = tuple[Function, list[tuple[bool, int]], int, np.dtype]  # function, (is a leaf, number) each, buffer, type


class Deferred:
    """A value that is computed when it is first needed, and kept."""

    __slots__ = ("shape", "dtype", "_value", "__weakref__")

    def __init__(self, shape: Shape, dtype: np.dtype) -> None:
        self.shape = shape
        self.dtype = dtype
        self._value: Any = None  # None, an array, or the Loaded where it was stored

    def compute_into(self, out: np.ndarray) -> None:
        """Computes the value into an array of the same shape and type."""
        raise NotImplementedError

    def settle_at(self, place: Any) -> None:
        """Notes that the value now lies in memory, at a ``Loaded`` place."""
        self._value = place

    def leaf(self) -> Any:
        """The computed value as an array or a Loaded, or None if it is not computed yet."""
        return self._value

    def dense(self) -> np.ndarray:
        if self._value is None:
            out = np.empty(self.shape, self.dtype)
            self.compute_into(out)
            self._value = out
        return self._value if type(self._value) is np.ndarray else self._value.dense()

    def peek(self) -> np.ndarray:
        return self.dense() if self._value is None or type(self._value) is np.ndarray else self._value.peek()


class Applied(Deferred):
    """``function(*operands, out=...)`` on tiles that broadcast to one shape."""

    __slots__ = ("function", "operands", "steps")

    def __init__(self, shape: Shape, dtype: np.dtype, function: Function, operands: tuple[Any, ...]) -> None:
        super().__init__(shape, dtype)
        self.function = function
        self.operands = operands
        self.steps: int = 1 + sum(o.steps for o in operands if type(o) is Applied and o._value is None)
        if self.steps > MOST_STEPS:
            self.dense()

    def own_leaves(self, kind: type) -> dict[int, int]:
        """How often each operand of a type occurs in what is yet to be computed, by identity.

        Empty if anything else refers to an intermediate value, and so may ask for these operands again.
        """
        leaves: dict[int, int] = {}
        uses: dict[int, int] = {}
        inner: list[Applied] = []
        stack: list[Applied] = [self]
        while stack:
            for child in stack.pop().operands:
                if type(child) is kind:
                    leaves[id(child)] = leaves.get(id(child), 0) + 1
                elif type(child) is Applied and child._value is None:
                    if id(child) not in uses:
                        inner.append(child)
                        stack.append(child)
                    uses[id(child)] = uses.get(id(child), 0) + 1
        child = None
        for node in inner:
            # beside its uses: the list, the loop's variable and getrefcount's argument
            if sys.getrefcount(node) != uses[id(node)] + 3:
                return {}
        return leaves

    def compute_into(self, out: np.ndarray) -> None:
        _Program(self).run(out)
        self.operands = ()

    def settle_at(self, place: Any) -> None:
        super().settle_at(place)
        self.operands = ()


class Transposed(Deferred):
    """The transpose of a deferred or loaded matrix, whose rows a product can read without making it whole."""

    __slots__ = ("source",)

    def __init__(self, source: Any) -> None:
        super().__init__(source.shape[::-1], source.dtype)
        self.source = source

    def dense(self) -> np.ndarray:
        return self.source.dense().T

    def peek(self) -> np.ndarray:
        return self.source.peek().T

    def compute_into(self, out: np.ndarray) -> None:
        np.copyto(out, self.peek())

    def settle_at(self, place: Any) -> None:
        """The source stays where it is."""

    def leaf(self) -> Any:
        return self.peek()


def select(condition: np.ndarray, yes: np.ndarray, no: np.ndarray, out: np.ndarray) -> None:
    """``where(condition, yes, no)`` into ``out``, by bits: several times faster than a masked copy."""
    integer = np.dtype(f"i{out.dtype.itemsize}")
    chosen = np.empty(condition.shape, integer)  # all bits where the condition holds
    np.copyto(chosen, condition)
    np.negative(chosen, out=chosen)
    bits, ones, others = out.view(integer), yes.view(integer), no.view(integer)
    if ones.ndim == 0 and not ones:
        np.bitwise_and(others, np.invert(chosen, out=chosen), out=bits)
    elif others.ndim == 0 and not others:
        np.bitwise_and(ones, chosen, out=bits)
    else:
        np.bitwise_xor(ones, others, out=bits)
        np.bitwise_and(bits, chosen, out=bits)
        np.bitwise_xor(bits, others, out=bits)


def convert(x: np.ndarray, out: np.ndarray) -> None:
    """A cast by C's rules, as ``astype`` does it."""
    np.copyto(out, x, casting="unsafe")


def blocks(shape: Shape, size: int = BLOCK_SIZE) -> Iterator[Index]:
    """Index tuples that cut a tile into blocks of about ``size`` elements, contiguous in C order."""
    axis, below = 0, math.prod(shape[1:])
    while below > size and axis < len(shape) - 1:
        axis += 1
        below //= shape[axis]
    step = max(1, size // max(1, below))
    rest = (slice(None),) * (len(shape) - axis - 1)
    for outer in np.ndindex(shape[:axis]):
        prefix = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, shape[axis], step):
            yield (*prefix, slice(start, min(start + step, shape[axis])), *rest)


class _Program:
    """An expression as a list of steps on numbered scratch buffers."""

    def __init__(self, root: Applied) -> None:
        self.shape = root.shape
        self.leaves: list[Any] = []
        self.buffers = 0
        self.steps: list[Step] = []
        self._numbers: dict[int, tuple[bool, int]] = {}
        self._keep: list[Any] = []
        order: list[Applied] = []
        uses: dict[int, int] = {}
        self._visit(root, order, uses)
        self._allocate(order, uses)

    def _visit(self, node: Applied, order: list[Applied], uses: dict[int, int]) -> None:
        for child in node.operands:
            known = id(child) in uses
            uses[id(child)] = uses.get(id(child), 0) + 1
            if known:
                continue
            if type(child) is Applied and child._value is None and child.shape == self.shape:
                self._visit(child, order, uses)
            else:
                self._numbers[id(child)] = (True, len(self.leaves))
                self._keep.append(child)
                self.leaves.append(_as_leaf(child, self.shape))
        order.append(node)

    def _allocate(self, order: list[Applied], uses: dict[int, int]) -> None:
        free: dict[int, list[int]] = {}
        for node in order:
            arguments = [self._numbers[id(child)] for child in node.operands]
            size = node.dtype.itemsize
            in_place = -1
            for child, (is_leaf, number) in zip(node.operands, arguments):
                uses[id(child)] -= 1
                if not is_leaf and not uses[id(child)]:
                    if in_place < 0 and type(node.function) is np.ufunc and child.dtype == node.dtype:
                        in_place = number
                    else:
                        free.setdefault(child.dtype.itemsize, []).append(number)
            if in_place >= 0:
                buffer = in_place
            elif type(node.function) is np.ufunc and free.get(size):
                buffer = free[size].pop()
            else:
                buffer = self._take(free, size, arguments)
            self._numbers[id(node)] = (False, buffer)
            self.steps.append((node.function, arguments, buffer, node.dtype))

    def _take(self, free: dict[int, list[int]], size: int, arguments: list[tuple[bool, int]]) -> int:
        """A buffer that is none of the arguments: a function other than a ufunc may write before it has read."""
        busy = {number for is_leaf, number in arguments if not is_leaf}
        for number in free.get(size, ()):
            if number not in busy:
                free[size].remove(number)
                return number
        self.buffers += 1
        return self.buffers - 1

    def run(self, out: np.ndarray) -> None:
        size = math.prod(self.shape)
        parallel = size * (len(self.steps) + 1) >= _WORTH_THREADS
        threads.share(list(blocks(self.shape)), lambda: _Worker(self, out), parallel)


def _as_leaf(child: Any, shape: Shape) -> Any:
    """An operand as something that yields its block for an index: a 0-d array, an array, a Box or a Loaded."""
    if isinstance(child, Deferred):
        child = child.leaf() if child.leaf() is not None else child.dense()
    if type(child) is Splat:
        return child.value
    if type(child) is Separable:
        child = line_of(child)
    if type(child) is np.ndarray and child.shape != shape and child.ndim:
        return np.broadcast_to(child, shape)
    return child


class _Worker:
    """Runs blocks of a program with scratch buffers of its own."""

    def __init__(self, program: _Program, out: np.ndarray) -> None:
        self.program = program
        self.out = out
        self.scratch: dict[int, np.ndarray] = {}

    def __call__(self, index: Index) -> None:
        self.evaluate(index, self.out[index])

    def evaluate(self, index: Index, target: np.ndarray) -> None:
        program = self.program
        shape = target.shape
        leaves = [self._leaf(n, leaf, index, shape) for n, leaf in enumerate(program.leaves)]
        registers: dict[int, np.ndarray] = {}
        last = len(program.steps) - 1
        for n, (function, arguments, buffer, dtype) in enumerate(program.steps):
            destination = target if n == last else self._buffer(buffer, shape, dtype)
            function(*[leaves[i] if is_leaf else registers[i] for is_leaf, i in arguments], out=destination)
            registers[buffer] = destination

    def _leaf(self, n: int, leaf: Any, index: Index, shape: Shape) -> np.ndarray:
        if type(leaf) is np.ndarray:
            return leaf[index] if leaf.ndim else leaf
        if type(leaf) is Box:
            return box_block(leaf, index)
        return leaf.block(index, self._buffer(-1 - n, shape, leaf.dtype))

    def _buffer(self, number: int, shape: Shape, dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        memory = self.scratch.get(number)
        if memory is None or memory.size < size:
            memory = self.scratch[number] = np.empty(size, np.uint8)
        return np.ndarray(shape, dtype, memory)


def block_reader(value: Any) -> Callable[[Index, np.ndarray], np.ndarray]:
    """A function ``read(index, scratch)`` that gives a block of an operand, for one thread."""
    if type(value) is Applied and value.leaf() is None:
        worker = _Worker(_Program(value), np.empty(0))

        def compute(index: Index, scratch: np.ndarray) -> np.ndarray:
            worker.evaluate(index, scratch)
            return scratch

        return compute
    leaf = _as_leaf(value, value.shape)
    if type(leaf) is np.ndarray:
        return lambda index, scratch: leaf[index] if leaf.ndim else leaf
    if type(leaf) is Box:
        return lambda index, scratch: box_block(leaf, index)
    return leaf.block


def box_block(box: Box, index: Index) -> np.ndarray:
    """A block of a mask, as an array that broadcasts to the block's shape."""
    rank = len(box.shape)
    block: np.ndarray = np.ones((1,) * rank, np.bool_)
    for k, (condition, cut, n) in enumerate(zip(box.axes, index, box.shape)):
        start, stop, _ = cut.indices(n)
        here: np.ndarray
        if type(condition) is tuple:
            if condition[0] <= start and stop <= condition[1]:
                continue
            positions = np.arange(start, stop)
            here = (positions >= condition[0]) & (positions < condition[1])
        else:
            here = condition[start:stop]
        block = block & here.reshape((1,) * k + (-1,) + (1,) * (rank - k - 1))
    return block


def elementwise(shape: Shape, dtype: np.dtype, function: Function, *operands: Form | np.ndarray) -> Applied:
    """Notes ``function`` applied to operands of at most the given shape."""
    return Applied(shape, dtype, function, operands)
