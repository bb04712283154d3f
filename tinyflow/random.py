"""The state of random numbers: a seed and how many counters were used. The numbers themselves are Philox's.

One default generator serves all devices, so a program's numbers do not depend on where its tensors live, and its whole
random state is two integers.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyflow.kernels import memory
from tinyflow.kernels.random import Seed
from tinyflow.recording import active
from tinyflow.tensor import Tensor

_STATE, _SIGNED = struct.Struct("<QQ"), struct.Struct("<qq")
_DEFAULT_SEED = 2**31 - 1


def _as_seed(seed: int) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"manual_seed: expected an int, got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**64:
        raise RuntimeError(f"manual_seed: expected a seed in [-2^63, 2^64), got {seed}")
    return seed % 2**64


class Generator:
    """A stream of random numbers, named by its seed.

    Args:
        device: kept for torch's sake; a generator draws for tensors on any device, with the same numbers.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = memory.as_device(device)
        self._lock = threading.Lock()
        self._seed, self._offset = _DEFAULT_SEED, 0

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream of ``seed``; a negative one stands for ``seed + 2⁶⁴``.

        Raises:
            RuntimeError: if the seed does not fit 64 bits.
        """
        self._seed, self._offset = _as_seed(seed), 0
        return self

    def seed(self) -> int:
        """Starts a stream that the operating system chooses, and returns its seed."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little"))
        return self._seed

    def initial_seed(self) -> int:
        """The seed of the present stream."""
        return self._seed

    def get_state(self) -> Tensor:
        """The state as 16 bytes: seed and offset, each a little-endian 64-bit integer."""
        return Tensor(memory.from_numpy(np.frombuffer(_STATE.pack(self._seed, self._offset), dtype=np.uint8).copy()))

    def set_state(self, state: Tensor) -> Generator:
        """Goes on from a state that :meth:`get_state` returned.

        Raises:
            TypeError: if it is no tensor of bytes.
            RuntimeError: if it has another length.
        """
        if not isinstance(state, Tensor) or state.dtype != memory.uint8 or state.device.type != "cpu":
            got = f"{state.dtype} on {state.device}" if isinstance(state, Tensor) else type(state).__name__
            raise TypeError(f"set_state: expected a uint8 Tensor on the CPU, got {got}")
        if tuple(state.shape) != (_STATE.size,):
            raise RuntimeError(f"set_state: expected {_STATE.size} bytes, got shape {tuple(state.shape)}")
        self._seed, self._offset = _STATE.unpack(bytes(state.tolist()))
        return self

    def signed_position(self) -> tuple[int, int]:
        """Seed and offset as signed 64-bit integers."""
        return _SIGNED.unpack(_STATE.pack(self._seed, self._offset))

    def reserve(self, counters: int) -> tuple[Seed, int]:
        """(seed, offset) of a draw that uses so many counters; the next draw starts after them.

        In a captured step the seed is device memory, from which the draws of a replay take seed and offset.
        """
        recording = active.recording
        if recording is not None:
            return recording.draw(self, counters)
        with self._lock:
            offset = self._offset
            self._offset = (offset + counters) % 2**64
        return self._seed, offset

    def __repr__(self) -> str:
        return f"<tinyflow.Generator seed={self._seed} offset={self._offset}>"


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seeds the default generator, which every draw without ``generator=`` uses."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seeds the default generator from the operating system, and returns the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The default generator's seed."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The default generator's state; :func:`set_rng_state` returns to it."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Sets the default generator's state."""
    default_generator.set_state(new_state)


@contextlib.contextmanager
def fork_rng() -> Iterator[None]:
    """Puts the default generator's state back after a block."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
