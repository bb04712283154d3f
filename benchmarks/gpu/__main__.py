"""``benchmarks/on_gpu``: see ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import summary
from benchmarks.gpu.scheduler import DONE, State, Task, run
from benchmarks.gpu.tasks import Settings, tasks

#: A call ends before eight minutes are over.
_SECONDS = 450.0

_PHASES = ("check", "tests", "tuning", "benchmarks", "profile", "report")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/on_gpu",
        description="Tests, tuning and benchmarks on a GPU machine. Each call goes on where the last one ended; it exits "
        "with 3 while there is more to do, with 1 if all is done and something failed, else with 0.",
    )
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="when a call ends (%(default).0f)")
    parser.add_argument("--phase", action="append", choices=_PHASES, help="only this; may be given again")
    parser.add_argument("--state", type=Path, default=Path(".benchmarks/gpu"), help="where a run keeps all it has")
    parser.add_argument(
        "--output", type=Path, default=os.environ.get("OUT"), help="a folder to copy all of it to ($OUT)"
    )
    parser.add_argument("--jobs", type=int, default=max(1, min((os.cpu_count() or 1) // 2, 8)), help="test processes")
    parser.add_argument("--tests", action="append", default=[], help="only these tests, as pytest names them")
    parser.add_argument("--trial", action="store_true", help="small problems, and without a GPU if there is none")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    options = parse(arguments)
    began = time.monotonic()
    folder = options.state.resolve()
    settings = Settings(folder, options.trial, options.jobs, options.tests)
    return do([t for t in tasks(settings) if not options.phase or t.phase in options.phase], folder, options, began)


def do(found: Sequence[Task], folder: Path, options: argparse.Namespace, began: float) -> int:
    """Runs tasks for the time of one call."""

    def saved(state: State) -> None:
        summary.write(state)
        if options.output is not None:
            summary.copy(folder, Path(options.output))

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

    state = State(folder, saved)
    state.save()
    done = run(found, state, began + options.seconds, {"tests": options.jobs}, say)
    state.save()
    print(summary.text(state), flush=True)
    if not done:
        print("There is more to do: call again.", flush=True)
        return 3
    return 0 if all(state.of(t)["status"] == DONE[0] for t in found) else 1


if __name__ == "__main__":
    sys.exit(main())
