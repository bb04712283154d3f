"""Worker threads, one per core, and the number of threads that the BLAS under numpy uses.

Numpy releases the interpreter lock inside its loops and products, so threads that each take the next block of a large
tile keep all cores busy. While they do, the BLAS itself must run on one thread. A process that forks starts afresh.
"""

from __future__ import annotations

import ctypes
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyflow.kernels import environment
from tinyflow.kernels.interpreter import blas

_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def _available_cores() -> int:
    requested = environment.integer("TINYFLOW_INTERPRETER_THREADS", least=1)
    if requested is not None:
        return requested
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


CORES = _available_cores()


def _find_blas() -> tuple[Callable[[int], None], Callable[[], int]] | None:
    """The functions that set and get the thread count of the OpenBLAS in numpy's wheel, or None."""
    found = blas.openblas()
    for name in _SETTERS if found is not None else ():
        getter = name.replace("_set_", "_get_")
        if hasattr(found, name) and hasattr(found, getter):
            get = getattr(found, getter)
            get.restype = ctypes.c_int
            return getattr(found, name), get
    return None


class _Load:
    """How many other threads of the machine want to run, from samples of /proc/loadavg.

    A thread that is preempted while it holds the interpreter lock stops all others for a time slice, many times what a
    second core gains: beside other work, one thread is faster.
    """

    def __init__(self) -> None:
        self.others = 0.0
        self.next_sample = 0.0
        self.readable = os.path.exists("/proc/loadavg")

    def has_idle_core(self) -> bool:
        now = time.monotonic()
        if self.readable and now >= self.next_sample:
            self.next_sample = now + 0.02
            with open("/proc/loadavg") as file:
                running = int(file.read().split()[3].split("/")[0])
            self.others += 0.25 * (max(running - 1, 0) - self.others)
        return self.others < (CORES - 1) / 2


_load = _Load()


class _SerialBlas:
    """A context in which the BLAS runs on the calling thread alone."""

    def __init__(self) -> None:
        self._found: Any = False

    @property
    def controllable(self) -> bool:
        if self._found is False:
            self._found = _find_blas()
        return self._found is not None

    def __enter__(self) -> None:
        if not self.controllable:
            self._before = 1
            return
        set_threads, get_threads = self._found
        self._before = get_threads()
        if self._before != 1:
            set_threads(1)

    def __exit__(self, *_: Any) -> None:
        if self._before != 1:
            self._found[0](self._before)


serial_blas = _SerialBlas()


class _Team:
    """CORES - 1 daemon threads that wait for work."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for _ in range(CORES - 1):
            threading.Thread(target=self._serve, daemon=True, name="tinyflow-interpreter").start()

    def _serve(self) -> None:
        np.seterr(all="ignore")
        while True:
            self.requests.get()()


_team: _Team | None = None


def share(items: Sequence[Any], make_worker: Callable[[], Callable[[Any], None]], parallel: bool) -> None:
    """Calls a worker on every item, in any order. Each thread makes its own worker; the first error is raised.

    The calling thread makes its worker before another may begin: that computes the values yet to be computed which workers
    read, and two threads must not compute one value.
    """
    if not parallel or CORES == 1 or len(items) < 2 or not _load.has_idle_core():
        worker = make_worker()
        for item in items:
            worker(item)
        return
    global _team
    if _team is None or _team.process != os.getpid():
        _team = _Team()
    worker = make_worker()
    job = _Job(items, make_worker)
    for _ in range(min(CORES, len(items)) - 1):
        _team.requests.put(job.help_out)
    job.work(lambda: worker)
    job.wait()


class _Job:
    """Items shared by the calling thread and whoever of the team comes to help while there are any left."""

    def __init__(self, items: Sequence[Any], make_worker: Callable[[], Callable[[Any], None]]) -> None:
        self.remaining = iter(items)  # next() on a list iterator is atomic
        self.make_worker = make_worker
        self.lock = threading.Lock()
        self.helpers = 0
        self.closed = False
        self.finished = threading.Semaphore(0)
        self.errors: list[BaseException] = []

    def work(self, make_worker: Callable[[], Callable[[Any], None]]) -> None:
        try:
            worker = make_worker()
            for item in self.remaining:
                worker(item)
        except BaseException as error:
            self.errors.append(error)

    def help_out(self) -> None:
        with self.lock:
            if self.closed:
                return
            self.helpers += 1
        self.work(self.make_worker)
        self.finished.release()

    def wait(self) -> None:
        """Waits for those who came; who comes later finds nothing to do."""
        with self.lock:
            self.closed = True
        for _ in range(self.helpers):
            self.finished.acquire()
        if self.errors:
            raise self.errors[0]
