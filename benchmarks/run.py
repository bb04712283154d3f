"""Measures cases and writes ``benchmarks/results/<device>.json`` as it goes: ``python -m benchmarks.run``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tinyflow
from benchmarks import figures, machine, measure
from benchmarks.case import FULL, QUICK, selected
from benchmarks.cases import table
from benchmarks.results import FOLDER, QUICK_FOLDER, Results
from benchmarks.timer import QUICK_EFFORT, Effort


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--family", action="append", default=[], help="only this family; may be given again")
    parser.add_argument("--quick", action="store_true", help="small problems, few repetitions: a trial, not a result")
    parser.add_argument("--resume", action="store_true", help="keep what the file has already")
    parser.add_argument("--no-stock", action="store_true", help="leave Triton's own interpreter out")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--output", type=Path, help="folder of the result file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code: 1 where a case failed, 3 where time ran out before the last one."""
    options = parse(arguments)
    everything = table(QUICK if options.quick else FULL)
    try:
        cases = selected(everything, options.family)
    except ValueError as error:
        print(f"benchmarks.run: {error}", file=sys.stderr)
        return 2
    effort = QUICK_EFFORT if options.quick else Effort()
    about = machine.describe()
    folder = options.output or (QUICK_FOLDER if options.quick else FOLDER)
    results = Results(folder / f"{machine.slug(about)}.json", about, [c.key for c in everything])
    device = tinyflow.get_default_device()
    end = time.monotonic() + options.seconds
    failed = 0
    for number, case in enumerate(cases, 1):
        if options.resume and "error" not in results.cases.get(case.key, {"error": "missing"}):
            continue
        if time.monotonic() > end:
            print(f"{results.path}: time ran out before {case.key}; go on with --resume", file=sys.stderr)
            return 3
        found = measure.record(case, device, effort, stock=not options.no_stock)
        results.add(case.key, found)
        failed += "error" in found
        print(f"[{number}/{len(cases)}] {case.key}: {figures.line(found)}", flush=True)
    print(results.path)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
