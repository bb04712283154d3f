"""The one door to torch: device memory, and nothing that computes.

Everything here allocates, describes, views or moves bytes. A *buffer* is a ``torch.Tensor`` used as a handle on memory:
a pointer with a shape, strides, a dtype and a device.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

Buffer = torch.Tensor
dtype = torch.dtype
device = torch.device
memory_format = torch.memory_format
Size = torch.Size

float16, bfloat16, float32, float64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
int8, int16, int32, int64, uint8 = torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8
bool_ = torch.bool
contiguous_format, channels_last, preserve_format = torch.contiguous_format, torch.channels_last, torch.preserve_format
finfo, iinfo = torch.finfo, torch.iinfo

#: Memory that has shapes and nothing in it.
META = torch.device("meta")

#: Each callable is told of every new allocation (the interpreter's checks follow what was never written).
allocation_hooks: list[Callable[[Buffer], None]] = []


class _Recorded(threading.local):
    """The device graph that this thread records, and whether host and device may meet."""

    graph: Graph | None = None
    alone: bool = False


_recorded = _Recorded()

_default: dict[str, Any] = {"dtype": torch.float32, "device": None}


def gpu_available() -> bool:
    """True where torch can reach a GPU (CUDA, or ROCm under the same name)."""
    return torch.cuda.is_available()


def get_default_dtype() -> dtype:
    return _default["dtype"]


def set_default_dtype(d: dtype) -> None:
    """Sets the floating-point dtype of new tensors made from Python floats.

    Raises:
        TypeError: if ``d`` is not a floating-point dtype.
    """
    if not isinstance(d, torch.dtype) or not d.is_floating_point:
        raise TypeError(f"set_default_dtype: expected a floating-point dtype, got {d}")
    _default["dtype"] = d


def get_default_device() -> device:
    """The device of new tensors: what the user chose, else the current GPU, else the CPU."""
    if _default["device"] is not None:
        return _default["device"]
    return torch.device("cuda", torch.cuda.current_device()) if gpu_available() else torch.device("cpu")


def set_default_device(d: str | device | None) -> None:
    _default["device"] = None if d is None else as_device(d)


def as_device(d: str | device | int | None) -> device:
    """A device with its index filled in; ``None`` is the default device."""
    if d is None:
        return get_default_device()
    resolved = torch.device(d)
    if resolved.type == "cuda" and resolved.index is None:
        if not gpu_available():
            raise RuntimeError("device 'cuda' was asked for, but torch finds no GPU; leave device out to use the CPU")
        resolved = torch.device("cuda", torch.cuda.current_device())
    return resolved


def empty(shape: Sequence[int], dtype: dtype, device: device, strides: Sequence[int] | None = None) -> Buffer:
    """New memory, not initialised; contiguous unless ``strides`` (in elements) are given."""
    if strides is None:
        x = torch.empty(tuple(shape), dtype=dtype, device=device)
    else:
        x = torch.empty_strided(shape, strides, dtype=dtype, device=device)
    if allocation_hooks:
        for hook in allocation_hooks:
            hook(x)
    return x


def empty_pinned(shape: Sequence[int], dtype: dtype) -> Buffer:
    """Page-locked host memory, from which copies to a GPU run in the background."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=gpu_available())


def as_strided(x: Buffer, shape: Sequence[int], strides: Sequence[int], offset: int | None = None) -> Buffer:
    """A view of the same memory; ``offset`` counts elements from the start of the storage (default: that of ``x``)."""
    return torch.as_strided(x, tuple(shape), tuple(strides), x.storage_offset() if offset is None else offset)


def reinterpret(x: Buffer, dtype: dtype) -> Buffer:
    """The same bytes read as another dtype of the same width."""
    return x.view(dtype)


def hand_out(x: Buffer) -> Buffer:
    """``x``, noted as memory that someone may write to without our knowledge."""
    x._handed_out = True  # type: ignore[attr-defined]
    return x


_replays = 0


def note_replay() -> None:
    """A recorded graph has run, which may have written anywhere."""
    global _replays
    _replays += 1


def stamp(x: Buffer) -> tuple[int, int] | None:
    """Moves when torch or a replay may have written to ``x``; None where nobody counts, since the memory was handed out.

    What is remembered of ``x`` holds while this and the version of its tensor stay.
    """
    return None if getattr(x, "_handed_out", False) or x.is_inference() else (x._version, _replays)


def detach(x: Buffer) -> Buffer:
    """A handle on the same memory that torch's own autograd does not follow."""
    return x.detach()


def copy_bytes(destination: Buffer, source: Buffer, non_blocking: bool = False) -> None:
    """Moves bytes between two contiguous buffers of one shape and dtype, on any devices."""
    if destination.device != source.device and (destination.device.type == "cpu" or _recorded.graph is not None):
        check_host_access(f"a copy from {source.device} to {destination.device}")
    if destination.dtype != source.dtype or destination.shape != source.shape:
        raise ValueError(
            f"copy_bytes: expected one shape and dtype, got {tuple(source.shape)} {source.dtype} "
            f"into {tuple(destination.shape)} {destination.dtype}"
        )
    flat = [as_strided(x, (x.numel(),), (1,)) for x in (destination, source) if is_dense(x) and x.numel()]
    if len(flat) == 2 and destination.stride() == source.stride():
        flat[0].copy_(flat[1], non_blocking=non_blocking)
    elif destination.numel():
        raise ValueError(
            f"copy_bytes: expected one dense layout, got strides {source.stride()} into {destination.stride()}"
        )


def is_dense(x: Buffer) -> bool:
    """True if the elements fill one block of memory, each address used once, in whatever order of dimensions."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((st, n) for st, n in zip(x.stride(), x.shape) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def is_strided(x: Buffer) -> bool:
    """True for memory that shape and strides describe: not sparse, nor lazily negated or conjugated."""
    return x.layout == torch.strided and not x.is_neg() and not x.is_conj()


def extent(x: Buffer) -> int:
    """Elements between the first and the last one of a view, both included (0 for an empty one)."""
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x.numel()
    if x.numel() == 0:
        return 0
    return 1 + sum((n - 1) * abs(st) for n, st in zip(x.shape, x.stride()))


def storage_bytes(x: Buffer) -> int:
    """Bytes of the whole allocation that a view is part of."""
    return x.untyped_storage().nbytes()


def storage_key(x: Buffer) -> int:
    """Tells the allocation that a view is part of from all others that live, on the ``meta`` device too."""
    return x.untyped_storage()._cdata


def when_freed(x: Buffer, call: Callable[[], None]) -> None:
    """Calls ``call`` when the allocation that ``x`` is part of is given back: when its last view is gone."""
    weakref.finalize(x.untyped_storage(), call).atexit = False


def same_storage(x: Buffer, y: Buffer) -> bool:
    """True if the two views share an allocation."""
    return x.device == y.device and x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def may_overlap(x: Buffer, y: Buffer) -> bool:
    """True if the address ranges of two views meet."""
    if x.device != y.device or x.device.type == "meta" or x.numel() == 0 or y.numel() == 0:
        return False
    between = y.data_ptr() - x.data_ptr()
    first = x if between >= 0 else y
    return abs(between) < extent(first) * first.element_size()


def from_numpy(array: np.ndarray) -> Buffer:
    """A buffer on the CPU that shares the array's memory."""
    return torch.from_numpy(array)


def from_bytes(data: bytes | bytearray, dtype: dtype, shape: Sequence[int]) -> Buffer:
    """A contiguous buffer on the CPU that holds ``data``."""
    out = torch.empty(tuple(shape), dtype=dtype)
    if len(data) != out.numel() * out.element_size():
        raise ValueError(
            f"from_bytes: {tuple(shape)} of {dtype} takes {out.numel() * out.element_size()} bytes, got {len(data)}"
        )
    if data:
        ctypes.memmove(out.data_ptr(), bytes(data), len(data))
    return out


def to_numpy(x: Buffer) -> np.ndarray:
    """An array that shares a CPU buffer's memory."""
    return x.detach().numpy()


def item(x: Buffer) -> Any:
    """The one element of a buffer as a Python number; waits for the device."""
    check_host_access("reading a value on the host (item(), float(), bool(), if, nonzero)")
    return x.item()


def from_dlpack(source: Any) -> Buffer:
    return torch.utils.dlpack.from_dlpack(source)


def synchronize(d: device | None = None) -> None:
    """Waits for all work on a GPU; nothing to wait for on the CPU."""
    check_host_access("synchronize()")
    if gpu_available() and (d is None or d.type == "cuda"):
        torch.cuda.synchronize(d)


class Moment:
    """A moment on the host's clock, in seconds, and in the queue of a GPU's current stream where there is one."""

    __slots__ = ("host", "_event")

    def __init__(self, d: device) -> None:
        self.host = time.perf_counter()
        self._event: Any = None
        if d.type == "cuda" and _recorded.graph is None:  # a graph that is recorded does not run yet
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(d))

    @property
    def is_queued(self) -> bool:
        """True if the device says when it came."""
        return self._event is not None

    def since(self, earlier: Moment) -> float:
        """Seconds on the device where it knows both moments, else on the host; waits for the device to come here."""
        if self._event is None or earlier._event is None:
            return self.host - earlier.host
        self._event.synchronize()
        return earlier._event.elapsed_time(self._event) / 1e3


def timed(call: Callable[[], Any], d: device, rounds: int, flush: int = 0) -> list[float]:
    """Seconds of each of ``rounds`` calls after a first one: by events on a GPU, else by the clock.

    ``flush`` bytes are copied before each call on a GPU, so that its operands come from memory and the host runs ahead.
    """
    call()
    if d.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(rounds):
            call()
            marks.append(time.perf_counter())
        return [stop - start for start, stop in itertools.pairwise(marks)]
    here, there = (torch.empty(flush // 2, dtype=torch.uint8, device=d) for _ in range(2))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, stop in events:
        there.copy_(here)
        start.record()
        call()
        stop.record()
    torch.cuda.synchronize(d)
    return [start.elapsed_time(stop) / 1e3 for start, stop in events]


def device_guard(d: device) -> contextlib.AbstractContextManager[Any]:
    """Makes ``d`` the current GPU, so that a launch goes to the device of its tensors."""
    if d.type != "cuda" or torch.cuda.current_device() == d.index:
        return contextlib.nullcontext()
    return torch.cuda.device(d)


def is_current(d: device) -> bool:
    """True if ``d`` is the current GPU."""
    return torch.cuda.current_device() == d.index


def multiprocessors(d: device) -> int:
    """Streaming multiprocessors (compute units) of a GPU; 1 elsewhere."""
    return torch.cuda.get_device_properties(d).multi_processor_count if d.type == "cuda" else 1


def compute_capability(d: device) -> tuple[int, int]:
    """The (major, minor) compute capability of an NVIDIA GPU; (0, 0) elsewhere."""
    if d.type != "cuda" or torch.version.hip is not None:
        return 0, 0
    return torch.cuda.get_device_capability(d)


def device_name(d: device) -> str:
    """A device's name as its driver gives it, or ``cpu``."""
    return torch.cuda.get_device_name(d) if d.type == "cuda" else d.type


def load_saved(path: str) -> Any:
    """Reads what torch saved, on the CPU, refusing anything but tensors and plain containers."""
    return torch.load(path, map_location="cpu", weights_only=True)


def hub_directory() -> str:
    """Where torch keeps downloaded weights."""
    return torch.hub.get_dir()


@contextlib.contextmanager
def default_device_as(d: str | device | None) -> Iterator[None]:
    """Sets the default device for a block."""
    before = _default["device"]
    set_default_device(d)
    try:
        yield
    finally:
        _default["device"] = before


def to_device(x: Buffer, d: device, non_blocking: bool = False) -> Buffer:
    """A dense buffer's bytes on another device, in the same layout; ``x`` itself if it is there already.

    A strided view cannot move as bytes: copy it with ``elementwise.copy`` first.
    """
    if x.device == d:
        return x
    moved = empty(x.shape, x.dtype, d, x.stride())
    if d.type != "meta":
        copy_bytes(moved, x, non_blocking)
    return moved


def upload(array: np.ndarray, d: device) -> Buffer:
    """A buffer on ``d`` with the array's elements (on the CPU in the array's memory), see :func:`upload_into`.

    While a device graph is recorded it is a constant of the graph: written once, before the first replay.
    """
    host = from_numpy(array)
    if d.type == "cpu":
        return host
    if _recorded.graph is not None:
        return _recorded.graph.constant(array)
    moved = empty(array.shape, host.dtype, d)
    upload_into(moved, array)
    return moved


def upload_into(destination: Buffer, array: np.ndarray) -> None:
    """Writes the array's elements over a contiguous buffer, to a GPU in the background through page-locked memory."""
    host = from_numpy(array)
    if destination.device.type == "cpu":
        copy_bytes(destination, host)
    elif destination.device.type == "cuda":
        staged = empty_pinned(array.shape, host.dtype)
        staged.copy_(host)
        destination.copy_(staged, non_blocking=True)


def to_host(x: Buffer) -> Buffer:
    """The elements of a buffer in host memory; ``x`` itself if it is there already."""
    check_host_access("reading values on the host (print, tolist(), numpy())")
    if x.device.type == "cpu":
        return x
    if is_dense(x):
        return to_device(x, torch.device("cpu"))
    whole = as_strided(x, (extent(x),), (1,))  # the range that the view spans, then the same view of it
    return as_strided(to_device(whole, torch.device("cpu")), x.shape, x.stride(), 0)


def to_list(x: Buffer) -> Any:
    """The elements of a buffer as nested lists of Python numbers."""
    return to_host(x).tolist()


# ---- device graphs -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_host() -> Iterator[None]:
    """Makes it an error to read device memory on the host, or to move memory between the two, in a block."""
    before, _recorded.alone = _recorded.alone, True
    try:
        yield
    finally:
        _recorded.alone = before


def check_host_access(what: str) -> None:
    """Raises for ``what`` inside :func:`without_host`.

    Raises:
        RuntimeError: naming what was tried.
    """
    if _recorded.alone:
        raise RuntimeError(
            f"capture: {what} cannot be part of a captured step, which replays without the host. "
            "Return the tensor from the step and read it after the call, or move that code out of the step"
        )


def records_graphs(d: device) -> bool:
    """True for devices whose work :class:`Graph` can record."""
    return d.type == "cuda"


#: Bytes that a graph keeps for its constants, and where each begins.
_CONSTANTS, _CONSTANT_ALIGNMENT = 4 << 20, 256


class Arena:
    """A piece of memory that is handed out part by part."""

    def __init__(self, whole: Buffer) -> None:
        self._whole, self._used = whole, 0

    def take(self, shape: Sequence[int], dtype: dtype) -> Buffer | None:
        """The next part; None where no such part is left."""
        size = math.prod(shape) * dtype.itemsize
        start = -(-self._used // _CONSTANT_ALIGNMENT) * _CONSTANT_ALIGNMENT
        if start + size > self._whole.numel():
            return None
        self._used = start + size
        return reinterpret(as_strided(self._whole, (size,), (1,), start), dtype).view(tuple(shape))


class Graph:
    """Work on one GPU that is recorded once and then launched as a whole, with a memory pool of its own."""

    def __init__(self, d: device) -> None:
        self._device = d
        self._graph = torch.cuda.CUDAGraph()
        self._stream, self._outside = torch.cuda.Stream(d), torch.cuda.Stream(d)
        self._constants: list[tuple[Buffer, np.ndarray]] = []
        with torch.cuda.stream(self._outside):  # not from the graph's pool, whose memory serves one use after another
            self._arena = Arena(torch.empty(_CONSTANTS, dtype=torch.uint8, device=d))

    def warm_up(self, run: Callable[[], None]) -> None:
        """Runs the work on the stream that will record it, between what came before and what comes after."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            run()
        current.wait_stream(self._stream)

    def record(self, run: Callable[[], None]) -> None:
        """Records the work without doing it; other threads may go on allocating meanwhile."""
        _recorded.graph = self
        try:
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                run()
        finally:
            _recorded.graph = None
        for place, array in self._constants:
            upload_into(place, array)

    def constant(self, array: np.ndarray) -> Buffer:
        """Memory that recorded work reads, and that holds the array's elements from the end of the recording on.

        It was taken before: while a thread records, CUDA refuses to allocate for another stream.
        """
        place = self._arena.take(array.shape, from_numpy(array).dtype)
        if place is None:
            raise RuntimeError(
                f"capture: the numbers that a step brings from the host may take {_CONSTANTS >> 20} MiB in all, and an "
                f"array of shape {array.shape} is more; make it a Tensor before the step"
            )
        self._constants.append((place, array))
        return place

    def replay(self) -> None:
        """Does the work on the current stream."""
        self._graph.replay()
