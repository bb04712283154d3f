"""A few of the cases for pytest-benchmark (its JSON, comparison, groups): ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

import tinyflow
from benchmarks.case import Case, scale_for
from benchmarks.cases import table
from benchmarks.timer import DeviceTimer

_DEVICE = tinyflow.get_default_device()
_ON_GPU = _DEVICE.type == "cuda"

_CHOSEN = (
    "elementwise/add",
    "copies/transposed",
    "reductions/sum of rows",
    "matmul/1024 cubed",
    "convolution/layer2 3×3, forward",
    "convolution/layer2 3×3, weight gradient",
    "batch_norm/training",
    "pooling/maximum 3×3/2",
    "softmax/softmax",
    "cross_entropy/cross_entropy",
    "engine/backward",
    "launcher/one store",
)
_CASES = {c.key: c for c in table(scale_for(_DEVICE, quick=False)) if isinstance(c, Case) and c.key in _CHOSEN}


class DeviceClock:
    """The device's own time, in seconds since the clock was made: that of an event, once all before it is done."""

    def __init__(self) -> None:
        self._start = self._event()

    def __call__(self) -> float:
        event = self._event()
        event.synchronize()
        return self._start.elapsed_time(event) / 1e3

    def __repr__(self) -> str:
        return "device events"

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@pytest.mark.parametrize("contender", ["tinyflow", "torch"])
@pytest.mark.parametrize("key", _CHOSEN)
@pytest.mark.benchmark(timer=DeviceClock() if _ON_GPU else time.perf_counter)
def test_case(benchmark: Any, key: str, contender: str) -> None:
    benchmark.group = key
    calls, missing = _CASES[key].calls(_DEVICE)
    assert not missing
    call = calls[contender]
    call()
    setup = DeviceTimer(_DEVICE).flush if _ON_GPU else None
    benchmark.pedantic(call, setup=setup, rounds=10)
