"""Deferred element-wise arithmetic on large tiles.

An operation on a large tile is not computed at once but noted as an ``Applied``. When the value is needed, the whole
expression runs block by block: each block passes through all its operations while it is in cache, intermediate results
live in a few scratch buffers, the last operation writes straight into the result (or into the memory that is stored to),
and blocks are shared out to one thread per core. Several expressions may run together, and what they have in common runs
once. Every element goes through the same numpy operations as it would alone, so the bits are the same.
"""

from __future__ import annotations

import itertools
import math
import operator
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
#: Function, (is a leaf, number) of each argument, buffer, type, and which of the program's results it is or -1.
Step = tuple[Function, list[tuple[bool, int]], int, np.dtype, int]


_serials = itertools.count()
_serial = operator.attrgetter("serial")


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

    __slots__ = ("function", "operands", "steps", "serial")

    def __init__(self, shape: Shape, dtype: np.dtype, function: Function, operands: tuple[Any, ...]) -> None:
        super().__init__(shape, dtype)
        self.function = function
        self.operands = operands
        self.serial = next(_serials)
        self.steps: int = 1 + sum(o.steps for o in operands if type(o) is Applied and o._value is None)
        if self.steps > MOST_STEPS:  # operands in common were counted once for each use
            inner, uses = pending([self])
            self.steps = 1 + len(inner)
            if self.steps > MOST_STEPS:
                _settle([self, *_asked_for(inner, uses)])

    def compute_into(self, out: np.ndarray) -> None:
        Program(self).run([out])
        self.operands = ()

    def settle_at(self, place: Any) -> None:
        super().settle_at(place)
        self.operands = ()


def pending(roots: list[Applied]) -> tuple[list[Applied], dict[int, int]]:
    """What is yet to be computed for some expressions, beside them; and how often each operand is used, by identity."""
    known = {id(root) for root in roots}
    uses: dict[int, int] = {}
    inner: list[Applied] = []
    stack = list(roots)
    while stack:
        for child in stack.pop().operands:
            key = id(child)
            uses[key] = uses.get(key, 0) + 1
            if key not in known and type(child) is Applied and child._value is None:
                known.add(key)
                inner.append(child)
                stack.append(child)
    return inner, uses


def _asked_for(inner: list[Applied], uses: dict[int, int]) -> list[Applied]:
    """Those of ``pending`` that something else refers to, a variable of the kernel for one."""
    # beside its uses: the list, the loop's variable and getrefcount's argument
    return [node for node in inner if sys.getrefcount(node) != uses[id(node)] + 3]


def nothing_else_asks(inner: list[Applied], uses: dict[int, int]) -> bool:
    """True if no intermediate value of ``pending`` is anyone else's, who may ask for its operands again."""
    return all(sys.getrefcount(node) == uses[id(node)] + 3 for node in inner)


def _settle(roots: list[Applied]) -> None:
    """Computes expressions of one shape together."""
    roots = [root for root in roots if root.shape == roots[0].shape]
    outs = [np.empty(root.shape, root.dtype) for root in roots]
    Program(*roots).run(outs)
    for root, out in zip(roots, outs):
        root.settle_at(out)


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
    bits, ones, others = out.view(integer), yes.view(integer), no.view(integer)
    if ones.ndim == 0 and not ones:
        np.bitwise_and(others, _lanes(np.subtract, condition, integer, 1), out=bits)
    elif others.ndim == 0 and not others:
        np.bitwise_and(ones, _lanes(np.negative, condition, integer), out=bits)
    else:
        chosen = _lanes(np.negative, condition, integer)
        np.bitwise_xor(ones, others, out=bits)
        np.bitwise_and(bits, chosen, out=bits)
        np.bitwise_xor(bits, others, out=bits)


def _lanes(function: Function, condition: np.ndarray, integer: np.dtype, *arguments: int) -> np.ndarray:
    """An integer function of a condition's 0 or 1, which gives 0 or -1, widened: all bits of a lane or none."""
    chosen: np.ndarray = function(condition.view(np.int8), *arguments, dtype=np.int8)
    if integer.itemsize == 1:
        return chosen
    wide = np.empty(chosen.shape, integer)
    np.copyto(wide, chosen)
    return wide


def convert(x: np.ndarray, out: np.ndarray) -> None:
    """A cast by C's rules, as ``astype`` does it."""
    np.copyto(out, x, casting="unsafe")


def blocks(shape: Shape) -> Iterator[Index]:
    """Index tuples that cut a tile into blocks of about ``BLOCK_SIZE`` elements, contiguous in C order."""
    size = BLOCK_SIZE
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


class Program:
    """Expressions of one shape as a list of steps on numbered scratch buffers."""

    def __init__(self, *roots: Applied) -> None:
        self.shape = roots[0].shape
        self.leaves: list[Any] = []
        self.buffers = 0
        self.steps: list[Step] = []
        self._numbers: dict[int, tuple[bool, int]] = {}
        self.kept: list[Any] = []
        order: list[Applied] = []
        uses: dict[int, int] = {}
        for root in roots:
            if id(root) not in uses:
                self._visit(root, order, uses)
            uses[id(root)] = uses.get(id(root), 0) + 1  # its buffer is its own
        order.sort(key=_serial)  # as the kernel has it, which uses values soon after they are made
        self._allocate(order, uses, {id(root): n for n, root in enumerate(roots)})

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
                self.kept.append(child)
                self.leaves.append(_as_leaf(child, self.shape))
        order.append(node)

    def _allocate(self, order: list[Applied], uses: dict[int, int], results: dict[int, int]) -> None:
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
            result = results.get(id(node), -1)
            if result >= 0:
                if in_place >= 0:
                    free.setdefault(size, []).append(in_place)
                buffer = self._new_buffer()
            elif in_place >= 0:
                buffer = in_place
            elif type(node.function) is np.ufunc and free.get(size):
                buffer = free[size].pop()
            else:
                buffer = self._take(free, size, arguments)
            self._numbers[id(node)] = (False, buffer)
            self.steps.append((node.function, arguments, buffer, node.dtype, result))
        self.places = self._leaf_places()

    def _leaf_places(self) -> list[int]:
        """The scratch buffer of each leaf, should it need one: leaves in use at one time have different ones."""
        last = {number: n for n, step in enumerate(self.steps) for is_leaf, number in step[1] if is_leaf}
        places = [0] * len(self.leaves)
        free: list[int] = []
        count = 0
        for n, step in enumerate(self.steps):
            numbers = list(dict.fromkeys(number for is_leaf, number in step[1] if is_leaf))
            for number in numbers:
                if not places[number]:
                    if not free:
                        count += 1
                        free.append(-count)
                    places[number] = free.pop()
            free += [places[number] for number in numbers if last[number] == n]
        return places

    def _take(self, free: dict[int, list[int]], size: int, arguments: list[tuple[bool, int]]) -> int:
        """A buffer that is none of the arguments: a function other than a ufunc may write before it has read."""
        busy = {number for is_leaf, number in arguments if not is_leaf}
        for number in free.get(size, ()):
            if number not in busy:
                free[size].remove(number)
                return number
        return self._new_buffer()

    def _new_buffer(self) -> int:
        self.buffers += 1
        return self.buffers - 1

    def may_overwrite(self, leaf: Any, result: int) -> bool:
        """True if each block of a leaf has been read when the same block of a result is written."""
        numbers = [n for n, known in enumerate(self.leaves) if known is leaf]
        last = -1
        for n, (function, arguments, _, _, own) in enumerate(self.steps):
            if any((True, number) in arguments for number in numbers):
                last = n
            if own == result:
                written, is_ufunc = n, type(function) is np.ufunc
        return last < written or last == written and is_ufunc

    def reader(self) -> Callable[[Index, list[np.ndarray]], None]:
        """A function ``read(index, targets)`` that computes a block of each result, for one thread."""
        return _Worker(self, [_readable(leaf, self.shape, None) for leaf in self.leaves], []).evaluate

    def run(self, outs: list[np.ndarray], part: Index | None = None) -> None:
        """Computes the results, or a part of them (as slices with both ends), into arrays of its shape."""
        shape = outs[0].shape
        leaves = [_readable(leaf, self.shape, part) for leaf in self.leaves]
        parallel = math.prod(shape) * (len(self.steps) + 1) >= _WORTH_THREADS
        function, arguments, *_ = self.steps[0]
        if len(self.steps) == 1 and type(function) is np.ufunc and all(type(leaf) is np.ndarray for leaf in leaves):
            if not parallel or threads.CORES == 1:  # nothing passes from step to step that a cache would keep
                function(*[leaves[number] for _, number in arguments], out=outs[0])
                return
        threads.share(list(blocks(shape)), lambda: _Worker(self, leaves, outs), parallel)


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


def _readable(leaf: Any, shape: Shape, part: Index | None) -> Any:
    """A leaf, or the part of it that is computed; the memory itself where a load needs nothing else."""
    if type(leaf) is np.ndarray:
        return leaf if part is None or not leaf.ndim else leaf[part]
    if type(leaf) is Box:
        return leaf if part is None else _cut(leaf, part)
    window = leaf.window(tuple([slice(0, n) for n in shape]) if part is None else part)
    if window is not None:
        return window
    return leaf if part is None else _Part(leaf, part)


def _cut(box: Box, part: Index) -> Box:
    """The part of a mask."""
    axes: list[Any] = []
    for condition, cut in zip(box.axes, part):
        if type(condition) is tuple:
            low = min(max(condition[0], cut.start), cut.stop)
            axes.append((low - cut.start, max(low, min(condition[1], cut.stop)) - cut.start))
        else:
            axes.append(condition[cut])
    return Box(tuple([cut.stop - cut.start for cut in part]), tuple(axes))


class _Part:
    """A part of a load that has to be assembled."""

    __slots__ = ("source", "starts", "dtype")

    def __init__(self, source: Any, part: Index) -> None:
        self.source = source
        self.starts = [cut.start for cut in part]
        self.dtype = source.dtype

    def block(self, index: Index, scratch: np.ndarray) -> np.ndarray:
        moved = []
        for cut, start, n in zip(index, self.starts, scratch.shape):
            first = (cut.start or 0) + start
            moved.append(slice(first, first + n))
        return self.source.block(tuple(moved), scratch)


class _Worker:
    """Runs blocks of a program with scratch buffers of its own."""

    def __init__(self, program: Program, leaves: list[Any], outs: list[np.ndarray]) -> None:
        self.steps = program.steps
        self.places = program.places
        self.leaves = leaves
        self.outs = outs
        self.scratch: dict[int, np.ndarray] = {}

    def __call__(self, index: Index) -> None:
        self.evaluate(index, [out[index] for out in self.outs])

    def evaluate(self, index: Index, targets: list[np.ndarray]) -> None:
        shape = targets[0].shape
        blocks: dict[int, np.ndarray] = {}
        registers: dict[int, np.ndarray] = {}
        for function, arguments, buffer, dtype, result in self.steps:
            values = []
            for is_leaf, number in arguments:
                if is_leaf and number not in blocks:
                    blocks[number] = self._block(number, index, shape)
                values.append(blocks[number] if is_leaf else registers[number])
            destination = self._buffer(buffer, shape, dtype) if result < 0 else targets[result]
            function(*values, out=destination)
            registers[buffer] = destination

    def _block(self, number: int, index: Index, shape: Shape) -> np.ndarray:
        leaf = self.leaves[number]
        if type(leaf) is np.ndarray:
            return leaf[index] if leaf.ndim else leaf
        if type(leaf) is Box:
            return box_block(leaf, index)
        return leaf.block(index, self._buffer(self.places[number], shape, leaf.dtype))

    def _buffer(self, number: int, shape: Shape, dtype: np.dtype) -> np.ndarray:
        known = self.scratch.get(number)
        if known is not None and known.shape == shape and known.dtype == dtype:
            return known
        size = math.prod(shape) * dtype.itemsize
        memory: Any = None if known is None else known.base
        if memory is None or memory.nbytes < size:
            memory = np.empty(size, np.uint8)
        self.scratch[number] = buffer = np.ndarray(shape, dtype, memory)
        return buffer


def block_reader(value: Any) -> Callable[[Index, np.ndarray], np.ndarray]:
    """A function ``read(index, scratch)`` that gives a block of an operand, for one thread."""
    if type(value) is Applied and value.leaf() is None:
        program = Program(value)
        worker = _Worker(program, [_readable(leaf, program.shape, None) for leaf in program.leaves], [])

        def compute(index: Index, scratch: np.ndarray) -> np.ndarray:
            worker.evaluate(index, [scratch])
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
