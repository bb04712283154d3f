"""What changes from replay to replay of a captured step: numbers that the host knows and the device reads.

While a step runs under :func:`record`, an optimizer or a generator asks the recording for a few words of device memory
(:meth:`Recording.words`, :meth:`Recording.draw`) in place of handing numbers to kernels. Before a replay the same words
are written anew in one copy.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tinyflow.kernels import memory
from tinyflow.kernels.memory import Buffer

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor

_MOST_WORDS = 4096

Read = Callable[[], Sequence[int]]


class Generator(Protocol):
    """A stream of random numbers, of which the next draw takes a seed and an offset."""

    def signed_position(self) -> tuple[int, int]: ...

    def reserve(self, counters: int) -> object: ...


class _Draws:
    """A generator's place among the words, and how many counters the step has drawn so far."""

    def __init__(self, generator: Generator, words: Buffer) -> None:
        self.generator, self.words, self.counters = generator, words, 0


class Recording:
    """The words of one captured step, and the leaves that it gives gradients to."""

    def __init__(self, device: memory.device) -> None:
        self.leaves: dict[int, Tensor] = {}
        self._words = memory.empty((_MOST_WORDS,), memory.int64, device)
        self._sources: list[tuple[int, int, Read]] = []
        self._draws: dict[int, _Draws] = {}
        self._after: list[Callable[[], None]] = []
        self._before: list[Callable[[], None]] = []
        self.copies: dict[Any, Any] = {}  # of parameters in half precision, kept from run to run
        self._used = 0
        self._writes = True
        self.runs = 0

    def start(self, writes: bool) -> None:
        """Before a run of the step; ``writes``: it computes, so that words are needed at once."""
        self._sources, self._draws, self._after, self._used, self._writes = [], {}, [], 0, writes
        self._before = []
        self.runs += 1
        self.leaves = {}

    def words(self, read: Read) -> Buffer:
        """int64 words on the device that hold what ``read()`` gives, now or at each replay.

        Raises:
            RuntimeError: if the step asks for too many.
        """
        values = read()
        start, count = self._used, len(values)
        if start + count > _MOST_WORDS:
            raise RuntimeError(
                f"capture: a step may read at most {_MOST_WORDS} numbers that change from replay to replay; "
                "it has more parameter groups and generators than that"
            )
        self._used += count
        self._sources.append((start, count, read))
        place = memory.as_strided(self._words, (count,), (1,), start)
        if self._writes:
            memory.upload_into(place, np.array(values, np.int64))
        return place

    def draw(self, generator: Generator, counters: int) -> tuple[Buffer, int]:
        """The words with a generator's seed and offset, and where after them a draw of so many counters starts."""
        draws = self._draws.get(id(generator))
        if draws is None:
            draws = self._draws[id(generator)] = _Draws(generator, self.words(generator.signed_position))
        before = draws.counters
        draws.counters += counters
        return draws.words, before

    def after(self, advance: Callable[[], None]) -> None:
        """Has ``advance`` called whenever the step has computed: now run, or replayed."""
        self._after.append(advance)

    @property
    def computes(self) -> bool:
        """Whether the step is run, and not recorded."""
        return self._writes

    def before(self, refresh: Callable[[], None]) -> None:
        """Has ``refresh`` called before each replay."""
        self._before.append(refresh)

    def refresh(self) -> None:
        """Before a replay: writes all words anew, in one copy, and calls what wants to be called."""
        for refresh in self._before:
            refresh()
        if self._used:
            values = np.empty(self._used, np.int64)
            for start, count, read in self._sources:
                values[start : start + count] = read()
            memory.upload_into(memory.as_strided(self._words, (self._used,), (1,), 0), values)

    def advance(self) -> None:
        """After a run that computed, or a replay: generators and counts have moved on."""
        for draws in self._draws.values():
            draws.generator.reserve(draws.counters)
        for advance in self._after:
            advance()

    def leaf(self, variable: Tensor) -> None:
        """Notes a leaf whose gradient the step computes."""
        self.leaves[id(variable)] = variable


class _Active(threading.local):
    recording: Recording | None = None


active = _Active()


def may_read(x: Tensor) -> bool:
    """Whether a check may look at the values of ``x``: on the CPU that waits for nothing; a captured step has no host."""
    return x.device.type == "cpu" and active.recording is None


@contextlib.contextmanager
def record(recording: Recording, writes: bool) -> Iterator[None]:
    """Makes ``recording`` the one of this thread while the step runs, cut off from the host.

    Raises:
        RuntimeError: if a captured step is running already.
    """
    if active.recording is not None:
        raise RuntimeError("capture: a captured step cannot be part of another one; capture the outer step alone")
    recording.start(writes)
    active.recording = recording
    try:
        with memory.without_host():
            yield
    finally:
        active.recording = None
