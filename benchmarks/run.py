"""Measures cases and writes ``benchmarks/results/<device>.json`` as it goes: ``python -m benchmarks.run``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import tinyflow
from benchmarks import ceilings, figures, machine, measure, profile, report
from benchmarks.case import QUICK_ON_GPU, scale_for, selected
from benchmarks.cases import table
from benchmarks.gpu.scheduler import DEVICE_LOST, FAILURES, TIME_RAN_OUT
from benchmarks.results import FOLDER, QUICK_FOLDER, Results
from benchmarks.timer import QUICK_EFFORT, Effort, device_is_lost

#: Times that a resumed run may be ended in the middle of a case before it leaves that out.
_ATTEMPTS = 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--family", action="append", default=[], help="only this family; may be given again")
    parser.add_argument("--without", default=None, metavar="WORDS", help="leave out cases whose name has these words")
    parser.add_argument("--quick", action="store_true", help="small problems, few repetitions: a trial, not a result")
    parser.add_argument(
        "--as-on-gpu", action="store_true", help="with --quick, in half precision and recorded, without a GPU too"
    )
    parser.add_argument("--resume", action="store_true", help="keep what the file has already")
    parser.add_argument("--no-stock", action="store_true", help="leave Triton's own interpreter out")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument(
        "--report", action="store_true", help="then profile a training step, and make tables and pictures"
    )
    parser.add_argument("--output", type=Path, help="folder of the result file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code: 1 where a case failed, 3 where time ran out, 74 where the GPU is lost."""
    options = parse(arguments)
    device = tinyflow.get_default_device()
    scale, effort = scale_for(device, options.quick), QUICK_EFFORT if options.quick else Effort()
    if options.as_on_gpu and options.quick:
        scale = QUICK_ON_GPU
    everything = table(scale)
    try:
        cases = [
            c for c in selected(everything, options.family) if options.without is None or options.without not in c.name
        ]
    except ValueError as error:
        print(f"benchmarks.run: {error}", file=sys.stderr)
        return 2
    about = machine.describe()
    folder = options.output or (QUICK_FOLDER if options.quick else FOLDER)
    results = Results(folder / f"{machine.slug(about)}.json", about, [c.key for c in everything])
    torch.backends.cudnn.benchmark = True
    if not (options.resume and results.ceilings):
        results.set_ceilings(ceilings.measure(device, scale, effort))
    code = _measure(cases, results, device, effort, options)
    print(results.path)
    if options.report and code in (0, FAILURES):
        code = max(
            code, profile.main(["--output", str(folder), *["--quick"] * options.quick]), report.main([str(folder)])
        )
    return code


def _measure(
    cases: Sequence[Any], results: Results, device: torch.device, effort: Effort, options: argparse.Namespace
) -> int:
    end = time.monotonic() + options.seconds
    failed = 0
    for number, case in enumerate(cases, 1):
        if options.resume and "error" not in results.cases.get(case.key, {"error": "missing"}):
            continue
        if time.monotonic() > end:
            print(f"{results.path}: time ran out before {case.key}; go on with --resume", file=sys.stderr)
            return TIME_RAN_OUT
        if options.resume and results.begin(case.key) >= _ATTEMPTS:
            found = measure.unfinished(case)
        else:
            found = measure.record(case, device, effort, stock=not options.no_stock, known=results.ceilings)
        results.add(case.key, found)
        failed += "error" in found
        print(f"[{number}/{len(cases)}] {case.key}: {figures.line(found)}", flush=True)
        if "error" in found and device_is_lost():
            print(f"benchmarks.run: the device is lost after {case.key}; go on with --resume", file=sys.stderr)
            return DEVICE_LOST
    return FAILURES if failed else 0


if __name__ == "__main__":
    sys.exit(main())
