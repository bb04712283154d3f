"""The time of every kernel that is launched in a block."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cases.framework import one_store_kernel
from tinyflow import profiler
from tinyflow.kernels import compiled


class KernelClock:
    """Times each launch while it is open: by the host's clock in the interpreter, by device events on a GPU.

    >>> with KernelClock(device) as clock: ...
    >>> clock.rows()
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._launches: list[tuple[str, str, profiler.Cost, Callable[[], float]]] = []

    def __enter__(self) -> KernelClock:
        self._counting = profiler.count_launches()
        self._records = self._counting.__enter__()
        self._owner = type(one_store_kernel)  # of all kernels: they are compiled, or interpreted
        self._run = self._owner.run
        clock = self

        def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
            return clock._timed(kernel, args, kwargs)

        self._owner.run = run
        self._path = compiled.through_triton()
        self._path.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._path.__exit__(*error)
        self._owner.run = self._run
        self._counting.__exit__(*error)

    def _timed(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        function = getattr(kwargs.get("FN"), "__name__", None)  # what an elementwise kernel computes
        name = kernel.__name__ if function is None else f"{kernel.__name__} {function}"
        cost = self._records[-1].cost if self._records else profiler.Cost()
        start = _Mark(self._device)
        result = self._run(kernel, *args, **kwargs)
        stop = _Mark(self._device)
        self._launches.append((name, _family(kernel), cost, lambda: stop.since(start)))
        return result

    def rows(self) -> dict[str, dict[str, Any]]:
        """By kernel: its family, launches, seconds, FLOPs and bytes; the device has to be done."""
        rows: dict[str, dict[str, Any]] = {}
        for name, family, cost, elapsed in self._launches:
            row = rows.setdefault(name, {"family": family, "launches": 0, "seconds": 0.0, "flops": 0, "bytes": 0})
            row["launches"] += 1
            row["seconds"] += elapsed()
            row["flops"] += cost.flops
            row["bytes"] += cost.bytes
        return rows


class _Mark:
    """A moment: on the host, or in the device's queue."""

    def __init__(self, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        self._time = time.perf_counter()
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def since(self, other: _Mark) -> float:
        if self._event is None or other._event is None:
            return self._time - other._time
        return other._event.elapsed_time(self._event) / 1e3


def _family(kernel: Any) -> str:
    """The file, or the folder, of kernels/ that a kernel is in."""
    names = kernel.fn.__module__.split(".")
    return names[2] if names[:2] == ["tinyflow", "kernels"] else names[-1]
