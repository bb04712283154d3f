"""``benchmarks/on_gpu``: see ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tinyflow
from benchmarks.gpu import keep, summary
from benchmarks.gpu.scheduler import DONE, Busy, State, Task, alone, run
from benchmarks.gpu.tasks import Settings, tasks

#: A call ends before eight minutes are over.
_SECONDS = 450.0

_PHASES = ("check", "compile", "first", "tests", "candidates", "tuning", "benchmarks", "profile", "report")

#: Phases whose tasks run side by side.
_WIDE = ("check", "compile", "tests", "candidates")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/on_gpu",
        description="Tests, tuning and benchmarks on a GPU machine. Each call goes on where the last one ended; it exits "
        "with 3 while there is more to do, with 1 if all is done and something failed, with 2 if another call is at work, "
        "else with 0.",
    )
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="when a call ends (%(default).0f)")
    parser.add_argument("--phase", action="append", choices=_PHASES, help="only this; may be given again")
    parser.add_argument("--state", type=Path, default=Path(".benchmarks/gpu"), help="where a run keeps all it has")
    parser.add_argument(
        "--output", type=Path, default=os.environ.get("OUT"), help="a folder to collect all of it in ($OUT)"
    )
    parser.add_argument("--jobs", type=int, default=_jobs(), help="processes that test or compile (%(default)s)")
    parser.add_argument("--tests", action="append", default=[], help="only these tests, as pytest names them")
    parser.add_argument("--trial", action="store_true", help="small problems, and without a GPU if there is none")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="COLLECTED",
        help="puts what a run collected where it belongs in the project; runs none",
    )
    return parser.parse_args(arguments)


def _jobs() -> int:
    """Two cores are left to what else there is, the driver above all."""
    return max(1, min((os.cpu_count() or 1) - 2, 14))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    options = parse(arguments)
    if options.keep is not None:
        return keep.main(options.keep)
    if not options.trial and not tinyflow.gpu_available():
        print("benchmarks/on_gpu: torch finds no GPU here; --trial goes through all of it without one", file=sys.stderr)
        return 2
    began = time.monotonic()
    folder = options.state.resolve()
    settings = Settings(folder, options.trial, options.jobs, options.tests)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with alone(folder):
            chosen = [t for t in tasks(settings) if not options.phase or t.phase in options.phase]
            return do(chosen, folder, options, began)
    except Busy as error:
        print(f"benchmarks/on_gpu: {error}", file=sys.stderr)
        return 2


def _stop(number: int, frame: Any) -> None:
    """Ends the call as an error would, so that its tasks are ended and written down."""
    sys.exit(128 + number)


def do(found: Sequence[Task], folder: Path, options: argparse.Namespace, began: float) -> int:
    """Runs tasks for the time of one call."""

    def saved(state: State) -> None:
        summary.write(state)
        if options.output is not None:
            with contextlib.suppress(
                FileNotFoundError
            ):  # a task may replace a file at any moment: the next copy has it
                summary.copy(folder, Path(options.output))

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

    state = State(folder, saved)
    state.save()
    done = run(found, state, began + options.seconds, dict.fromkeys(_WIDE, options.jobs), say)
    state.save()
    print(summary.text(state), flush=True)
    if not done:
        print("There is more to do: call again.", flush=True)
        return 3
    return 0 if all(state.of(t)["status"] == DONE[0] for t in found) else 1


if __name__ == "__main__":
    sys.exit(main())
