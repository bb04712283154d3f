"""From a case to the record that the result file keeps."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from benchmarks.case import OURS, STOCK, TORCH, Call, Case, relative_error
from benchmarks.peak_memory import MemoryCase
from benchmarks.results import now
from benchmarks.timer import Contender, Effort, timer_for
from tinyflow import profiler
from tinyflow.kernels import interpreter


class Disagreement(Exception):
    """Contenders did not compute the same."""


def record(case: Case | MemoryCase, device: torch.device, effort: Effort, stock: bool) -> dict[str, Any]:
    """Measures a case; one that fails gives a record that says how."""
    about: dict[str, Any] = {
        "family": case.family,
        "name": case.name,
        "sizes": case.sizes,
        "date": now(),
        "load_before": os.getloadavg()[0],
    }
    try:
        if isinstance(case, MemoryCase):
            return {**about, **case.measure()}
        with torch.random.fork_rng(devices=[]):
            return {**about, **_time(case, device, effort, stock)}
    except Exception as error:
        return {**about, "error": f"{type(error).__name__}: {error}"}


def _time(case: Case, device: torch.device, effort: Effort, stock: bool) -> dict[str, Any]:
    calls = case.calls(device)
    with profiler.count_launches() as launches:
        result = calls[OURS]()
    _check(case, result, calls)
    contenders = {name: Contender(call) for name, call in calls.items()}
    if stock and case.kernels and profiler.interpreting():
        contenders[STOCK] = Contender(calls[OURS], slow=True, context=interpreter.stock)
    timer = timer_for(device, case.on_host)
    with interpreter.use() if profiler.interpreting() else contextlib.nullcontext():
        timer.time(contenders, effort)
    return {
        "unit": "second",
        "parts": case.parts,
        "statistic": timer.statistic,
        "launches": len(launches),
        "flops": sum(r.cost.flops for r in launches),
        "bytes": sum(r.cost.bytes for r in launches),
        "contenders": {name: c.summary() for name, c in contenders.items()},
    }


def _check(case: Case, result: Any, calls: dict[str, Call]) -> None:
    if case.tolerance is None:
        return
    error = relative_error(result, calls[TORCH]())
    if not error <= case.tolerance:
        raise Disagreement(f"{OURS} and {TORCH} differ by {error:.2g}, more than {case.tolerance:.2g}")
