"""From a kernel and its problem to a launch: picks the configuration, launches on the operands' device, counts the work.

Every launcher calls :func:`launch` with its :class:`Cost`. On the ``meta`` device nothing runs and the cost is only
counted. Under :func:`compile_only` each launch compiles exactly what it would run, with no GPU needed.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import triton.language as tl

from tinyflow.kernels import compiled, memory
from tinyflow.kernels.configs import LOGGING
from tinyflow.kernels.configs import Config as Config
from tinyflow.kernels.configs import Configs as Configs
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.mode import INTERPRETING

#: A Triton block holds at most this many elements.
MAX_BLOCK = 2**20

#: An offset up to here, and a tile more in the lanes that a mask takes away, fits 32 bits.
_INT32_ELEMENTS = 2**31 - 1 - MAX_BLOCK


@dataclass(frozen=True)
class Cost:
    """FLOPs of a launch and the least bytes it must move to and from memory."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Record:
    """One counted launch."""

    kernel: str
    cost: Cost


class Launch(NamedTuple):
    """A launch that is about to be made, as its observers see it."""

    kernel: Any
    args: tuple[Any, ...]
    constexprs: dict[str, Any]
    cost: Cost
    device: memory.device
    grid: tuple[int, ...]
    config: Config


#: Told of each launch before it is made; what it returns, if anything, is called once the launch was made.
Observer = Callable[[Launch], Callable[[], None] | None]


#: How a launch was made: not at all on ``meta``, compiled there, interpreted, or (``compiled``'s words) on a GPU.
META, COMPILED_ONLY, INTERPRETER = "meta", "compiled only", "interpreter"


class _State(threading.local):
    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self.compiled: list[tuple[str, Any]] | None = None
        self.wide = False


_state = _State()


@contextlib.contextmanager
def count() -> Iterator[list[Record]]:
    """Collects a :class:`Record` of every launch in a block.

    >>> with launch.count() as records: ...
    >>> sum(r.cost.flops for r in records)
    """
    records: list[Record] = []
    with observed(lambda made: records.append(Record(made.kernel.__name__, made.cost))):
        yield records


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tells ``observer`` of every launch that this thread makes in a block."""
    _state.observers.append(observer)
    try:
        yield
    finally:
        _state.observers = [o for o in _state.observers if o is not observer]


@contextlib.contextmanager
def compile_only() -> Iterator[list[tuple[str, Any]]]:
    """Compiles what launches on ``meta`` buffers would run, for the active target; yields (kernel name, compiled)."""
    before, _state.compiled = _state.compiled, []
    try:
        yield _state.compiled
    finally:
        _state.compiled = before


@contextlib.contextmanager
def wide_offsets() -> Iterator[None]:
    """Uses 64-bit offsets in every launch, as large buffers do."""
    before, _state.wide = _state.wide, True
    try:
        yield
    finally:
        _state.wide = before


def offset_dtype(*buffers: Buffer | None) -> Any:
    """The Triton dtype that holds any element offset or count of the buffers: ``tl.int32``, or ``tl.int64`` near 2³¹."""
    if _state.wide:
        return tl.int64
    for x in buffers:
        if x is not None and (x.numel() > _INT32_ELEMENTS or memory.extent(x) > _INT32_ELEMENTS):
            return tl.int64
    return tl.int32


def situation() -> tuple[bool, memory.dtype]:
    """What a launch depends on besides its operands."""
    return _state.wide, memory.get_default_dtype()


def launch(
    kernel: Any, grid: Sequence[int], *args: Any, config: Config, cost: Cost, device: memory.device, **constexprs: Any
) -> None:
    """Launches ``kernel[grid](*args)`` on ``device`` and its current stream; an empty grid launches nothing.

    Raises:
        RuntimeError: if kernels cannot run on that device in this process.
    """
    launch_prepared(kernel, tuple(grid), args, config, cost, device, constexprs)


def launch_prepared(
    kernel: Any,
    grid: tuple[int, ...],
    args: tuple[Any, ...],
    config: Config,
    cost: Cost,
    device: memory.device,
    constexprs: dict[str, Any],
) -> None:
    """:func:`launch`, for launchers that keep the parts of a launch; none of them is changed."""
    if 0 in grid:
        return
    done: Sequence[Callable[[], None] | None] = ()
    if _state.observers:
        launched = Launch(kernel, args, constexprs, cost, device, grid, config)
        done = [observer(launched) for observer in _state.observers]
    path = META
    if device == memory.META:
        if _state.compiled is not None:
            path = COMPILED_ONLY
            ready = kernel.warmup(*args, grid=grid, **config.blocks, **constexprs, **config.options)
            _state.compiled.append((kernel.__name__, ready))
    elif INTERPRETING:
        path = INTERPRETER
        kernel[grid](*args, **config.blocks, **constexprs)
    elif device.type != "cuda":
        raise RuntimeError(
            f"{kernel.__name__}: kernels are compiled for the GPU in this process, but the operands are on '{device}'. "
            "Move them with .to('cuda'), or start the program with TRITON_INTERPRET=1 to compute on the CPU."
        )
    elif memory.is_current(device):
        path = compiled.launch(kernel, grid, args, config, constexprs, device.index)
    else:
        with memory.device_guard(device):
            path = compiled.launch(kernel, grid, args, config, constexprs, device.index)
    for finish in done:
        if finish is not None:
            finish()
    if LOGGING:
        print(described(kernel.__name__, args, config, path), file=sys.stderr)


def described(kernel: str, args: Sequence[Any], config: Config, path: str) -> str:
    """A line about one launch: kernel, operands, configuration, where that came from, and how it was launched."""
    buffers = [getattr(x, "base", x) for x in args]  # a descriptor has its buffer as base
    operands = [f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for x in buffers if isinstance(x, Buffer)]
    blocks = [f"{name}={value}" for name, value in config.blocks.items()]
    options = [f"num_warps={config.num_warps}", f"num_stages={config.num_stages}"]
    return f"launch: {kernel} {' '.join(operands)} | {' '.join(blocks + options)} | from {config.source} | {path}"


def cdiv(a: int, b: int) -> int:
    """Quotient of two non-negative integers, rounded up."""
    return -(-a // b)


def block(n: int, limit: int = MAX_BLOCK) -> int:
    """The power of two that covers ``n``, at most ``limit`` (a power of two itself)."""
    return min(1 << max(n - 1, 0).bit_length(), limit)


def nbytes(*buffers: Buffer | None) -> int:
    """Bytes of the elements that the buffers hold; a broadcast element counts once."""
    total = 0
    for x in buffers:
        if x is not None:
            count = (
                math.prod([n for n, st in zip(x.shape, x.stride()) if st or not n]) if 0 in x.stride() else x.numel()
            )
            total += count * x.element_size()
    return total


def check_same_device(op: str, **buffers: Buffer | None) -> memory.device:
    """The device that all buffers share.

    Raises:
        RuntimeError: naming each buffer's device if they differ.
    """
    devices = {name: x.device for name, x in buffers.items() if x is not None}
    first = next(iter(devices.values()))
    if any(d != first for d in devices.values()):
        raise RuntimeError(
            f"{op}: expected all operands on one device, got " + ", ".join(f"{k} on {v}" for k, v in devices.items())
        )
    return first
