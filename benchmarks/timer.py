"""How long calls take: contenders take turns, so that whatever else the machine does meets them alike."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from benchmarks.case import Call


@dataclass(frozen=True)
class Effort:
    """How much time a case may take.

    Attributes:
        seconds: for the samples of all contenders but the slow ones.
        turns: how often each contender has its turn.
        most: samples of a turn.
        slow: turns of a slow contender, one sample each.
        sample_s: as many calls make a sample as fill this time.
        pause_s: rest before a turn, so that threads which still wait for work of the contender before give up their core.
    """

    seconds: float = 1.0
    turns: int = 5
    most: int = 10
    slow: int = 2
    sample_s: float = 2e-3
    pause_s: float = 0.05


QUICK_EFFORT = Effort(seconds=0.02, turns=2, most=1, slow=1, sample_s=0.0, pause_s=0.0)


@dataclass
class Contender:
    """A call, what it runs under, and its samples in seconds a call."""

    call: Call
    slow: bool = False
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    calls_per_sample: int = 1
    samples: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {
            "minimum_s": min(self.samples),
            "median_s": statistics.median(self.samples),
            "samples": len(self.samples),
            "calls_per_sample": self.calls_per_sample,
        }


class Timer(Protocol):
    """Adds samples to contenders."""

    #: Which of a contender's figures counts.
    statistic: str

    def time(self, contenders: Mapping[str, Contender], effort: Effort) -> None: ...


class HostTimer:
    """The wall clock around calls. Other processes only ever add to a sample, so its minimum counts."""

    statistic = "minimum_s"

    def __init__(self, synchronize: Callable[[], Any] = lambda: None) -> None:
        self._synchronize = synchronize

    def time(self, contenders: Mapping[str, Contender], effort: Effort) -> None:
        quick = [c for c in contenders.values() if not c.slow]
        for c in quick:
            c.call()
            c.calls_per_sample = _calls(self._sample(c), effort)
        slow = [c for c in contenders.values() if c.slow]
        share = effort.seconds / effort.turns / max(len(quick), 1)
        for turn in range(effort.turns):
            for c in quick:
                self._turn(c, effort, share)
            if turn < effort.slow:
                self._time_slow(slow, effort)

    def _turn(self, c: Contender, effort: Effort, seconds: float) -> None:
        """A rest, a call that is not timed, and samples until the time is over, one at least."""
        time.sleep(effort.pause_s)
        c.call()
        end = time.perf_counter() + seconds
        for _ in range(effort.most):
            c.samples.append(self._sample(c))
            if time.perf_counter() > end:
                break

    def _time_slow(self, contenders: Sequence[Contender], effort: Effort) -> None:
        """One sample of each that has not shown itself too slow for a second."""
        for c in contenders:
            if not c.samples or c.samples[-1] < effort.seconds:
                with c.context():
                    c.samples.append(self._sample(c))

    def _sample(self, c: Contender) -> float:
        self._synchronize()
        start = time.perf_counter()
        for _ in range(c.calls_per_sample):
            c.call()
        self._synchronize()
        return (time.perf_counter() - start) / c.calls_per_sample


def _calls(seconds: float, effort: Effort) -> int:
    """As many calls as fill a sample that the clock can tell."""
    return max(1, min(math.ceil(effort.sample_s / max(seconds, 1e-9)), 10_000))


class DeviceTimer:
    """Device events around each call, with the last-level cache emptied before it. The median counts."""

    statistic = "median_s"
    _FLUSH_BYTES = 512 << 20  # also the time in which the host may get ahead

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flushed = torch.empty(self._FLUSH_BYTES, dtype=torch.int8, device=device)

    def flush(self) -> None:
        """Empties the cache, which keeps the device busy too, while the host prepares the call."""
        self._flushed.zero_()

    def time(self, contenders: Mapping[str, Contender], effort: Effort) -> None:
        for c in contenders.values():
            for _ in range(3):
                c.call()
        end = time.perf_counter() + effort.seconds
        for round_ in range(effort.turns * effort.most):
            if round_ >= effort.turns and time.perf_counter() > end:
                break
            marks = {name: self._mark(c.call) for name, c in contenders.items()}
            torch.cuda.synchronize(self._device)
            for name, (start, stop) in marks.items():
                contenders[name].samples.append(start.elapsed_time(stop) / 1e3)

    def _mark(self, call: Call) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flush()
        start.record()
        call()
        stop.record()
        return start, stop


def timer_for(device: torch.device, on_host: bool) -> Timer:
    """Events where a device does the work, else the host's clock."""
    if device.type != "cuda":
        return HostTimer()
    return HostTimer(lambda: torch.cuda.synchronize(device)) if on_host else DeviceTimer(device)


def device_is_lost() -> bool:
    """Whether an error has left the GPU of no more use to this process."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
