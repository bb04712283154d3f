"""From a case to the record that the result file keeps."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks import ceilings
from benchmarks.case import OURS, STOCK, TORCH, Call, Case, reason, relative_error
from benchmarks.peak_memory import MemoryCase
from benchmarks.results import now
from benchmarks.timer import Contender, Effort, timer_for
from tinyflow import profiler
from tinyflow.kernels import interpreter


class Disagreement(Exception):
    """Contenders did not compute the same."""


def record(
    case: Case | MemoryCase, device: torch.device, effort: Effort, stock: bool, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Measures a case; one that fails gives a record that says how.

    Args:
        stock: whether Triton's own interpreter is measured too.
        known: the ceilings of the device, for the least time that the work takes.
    """
    about = _about(case)
    try:
        if isinstance(case, MemoryCase):
            return {**about, **case.measure()}
        with torch.random.fork_rng(devices=[]):
            return {**about, **_time(case, device, effort, stock, known or {})}
    except Exception as error:
        return {**about, "error": f"{type(error).__name__}: {error}"}
    finally:
        _free(device)


def unfinished(case: Case | MemoryCase) -> dict[str, Any]:
    """The record of a case in which every process so far has ended."""
    return {**_about(case), "error": "not measured: each process that began it was ended in the middle"}


def _about(case: Case | MemoryCase) -> dict[str, Any]:
    load = os.getloadavg()[0]
    return {"family": case.family, "name": case.name, "sizes": case.sizes, "date": now(), "load_before": load}


def _time(case: Case, device: torch.device, effort: Effort, stock: bool, known: Mapping[str, Any]) -> dict[str, Any]:
    calls, missing = case.calls(device)
    with profiler.count_launches() as launches:
        result = calls[OURS]()
    _check(case, result, calls, missing)
    del result
    contenders = {name: Contender(call) for name, call in calls.items()}
    if stock and case.stock and profiler.interpreting():
        contenders[STOCK] = Contender(calls[OURS], slow=True, context=interpreter.stock)
    timer = timer_for(device, case.on_host)
    with interpreter.use() if profiler.interpreting() else contextlib.nullcontext():
        timer.time(contenders, effort)
    return {
        "unit": "second",
        "parts": case.parts,
        "images": case.images,
        "products": case.products,
        "statistic": timer.statistic,
        "launches": len(launches),
        "flops": sum(r.cost.flops for r in launches),
        "bytes": sum(r.cost.bytes for r in launches),
        "floor_s": ceilings.floor(known, [r.cost for r in launches], case.products),
        "contenders": {name: c.summary() for name, c in contenders.items()},
        "not_measured": missing,
    }


def _free(device: torch.device) -> None:
    """Gives back what a case took, recorded steps and their memory too."""
    if device.type == "cuda":
        gc.collect()
        with contextlib.suppress(RuntimeError):  # of a device that an error has put out of use
            torch.cuda.empty_cache()


def _check(case: Case, result: Any, calls: dict[str, Call], missing: dict[str, str]) -> None:
    """Runs torch's calls once: what does not work is not measured, what gives something else is no figure."""
    for name in [name for name in calls if name != OURS]:
        try:
            theirs = calls[name]()
        except Exception as error:
            del calls[name]
            missing[name] = reason(error)
            continue
        if case.tolerance is not None and name == TORCH:
            error_found = relative_error(result, theirs)
            if not error_found <= case.tolerance:
                raise Disagreement(f"{OURS} and {TORCH} differ by {error_found:.2g}, more than {case.tolerance:.2g}")
