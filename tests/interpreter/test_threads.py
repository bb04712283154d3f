"""Work that is shared out to threads: what they read is computed once, by the thread that shares it out."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import tinyflow  # noqa: F401  (first: it installs the interpreter)
from tinyflow.kernels.interpreter import expressions, threads
from tinyflow.kernels.interpreter.expressions import Applied, Deferred


@pytest.fixture(autouse=True)
def _two_idle_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "CORES", 2)
    monkeypatch.setattr(threads, "_team", None)
    monkeypatch.setattr(threads._load, "has_idle_core", lambda: True)


def test_the_first_worker_is_made_alone() -> None:
    made: list[tuple[str, str]] = []

    def make_worker():
        name = threading.current_thread().name
        made.append(("begins", name))
        time.sleep(0.02)
        made.append(("ends", name))
        return lambda item: time.sleep(0.01)

    threads.share(range(12), make_worker, parallel=True)
    here = threading.current_thread().name
    assert made[:2] == [("begins", here), ("ends", here)]
    assert len(made) == 4


class SlowSum(Deferred):
    """A value that takes a while, and whose parts are let go once it is computed."""

    __slots__ = ("parts", "times")

    def __init__(self, parts: list[np.ndarray]) -> None:
        super().__init__(parts[0].shape, parts[0].dtype)
        self.parts = parts
        self.times = 0

    def compute_into(self, out: np.ndarray) -> None:
        self.times += 1
        np.add(*self.parts, out=out)
        self.parts = []
        time.sleep(0.02)


def test_a_deferred_leaf_is_computed_once() -> None:
    """Each thread asks for the leaf when it makes its worker; the second would find the leaf's parts gone."""
    x = np.arange(1 << 16, dtype=np.float32).reshape(256, 256)
    leaf = SlowSum([x, x])
    value = Applied(x.shape, x.dtype, np.multiply, (leaf, np.full(x.shape, 3, np.float32)))
    out = np.empty_like(x)

    def make_worker():
        read = expressions.block_reader(value)

        def work(rows: slice) -> None:
            out[rows] = read((rows, slice(0, 256)), np.empty((rows.stop - rows.start, 256), np.float32))
            time.sleep(0.005)

        return work

    threads.share([slice(k, k + 32) for k in range(0, 256, 32)], make_worker, parallel=True)
    assert leaf.times == 1
    np.testing.assert_array_equal(out, 6 * x)


def test_an_error_of_a_worker_is_raised() -> None:
    def make_worker():
        def work(item: int) -> None:
            time.sleep(0.005)
            if item == 3:
                raise ValueError("the third")

        return work

    with pytest.raises(ValueError, match="the third"):
        threads.share(range(8), make_worker, parallel=True)
