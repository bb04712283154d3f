"""What kernels ask of the device before they choose their form: its compute capability and its size.

Both can be assumed for a block, so that another machine's choice is tried in the interpreter, compiled with no GPU, or
counted on the ``meta`` device::

    with hardware.assumed(capability=(9, 0), multiprocessors=132):
        conv2d(x, weight)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from tinyflow.kernels import memory

Capability = tuple[int, int]

#: The major compute capability whose products are summed in tensor memory, 128 lanes of 512 columns: data-center Blackwell.
TENSOR_MEMORY = 10


class _Assumed(threading.local):
    def __init__(self) -> None:
        self.capability: Capability | None = None
        self.multiprocessors: int | None = None


_assumed = _Assumed()


def capability(device: memory.device) -> Capability:
    """The (major, minor) compute capability of an NVIDIA GPU; (0, 0) elsewhere."""
    return _assumed.capability or memory.compute_capability(device)


def tensor_memory(device: memory.device) -> bool:
    """Whether a product is summed in a memory of its own (compute capability 10), not in registers."""
    return capability(device)[0] == TENSOR_MEMORY


def multiprocessors(device: memory.device) -> int:
    """Streaming multiprocessors (compute units) of a GPU; 1 elsewhere."""
    return _assumed.multiprocessors or memory.multiprocessors(device)


def lanes(device: memory.device) -> int:
    """Threads of a warp: 32 on an NVIDIA GPU, 64 on an AMD one of CDNA, where it is called a wavefront."""
    return 32 if capability(device)[0] else 64


@contextlib.contextmanager
def assumed(capability: Capability | None = None, multiprocessors: int | None = None) -> Iterator[None]:
    """Answers with these values, for every device, in a block; ``None`` leaves an answer as it is."""
    before = _assumed.capability, _assumed.multiprocessors
    _assumed.capability = capability or before[0]
    _assumed.multiprocessors = multiprocessors or before[1]
    try:
        yield
    finally:
        _assumed.capability, _assumed.multiprocessors = before
