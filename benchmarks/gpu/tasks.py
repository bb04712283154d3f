"""The tasks of a GPU machine, in the order of their worth."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu import journal
from benchmarks.gpu.scheduler import Task

ROOT = Path(__file__).resolve().parents[2]

#: Tests of what a GPU has no part in, or that need packages from a network.
_NOT_HERE = ("benchmarks", "compile", "docs", "house", "interpreter")

#: Families by the worth of their figures; what is left comes after them.
_FIRST = ("resnet18", "convolution", "resnet50", "matmul", "fused")

#: Seconds that a program gets to finish what it has begun when its time is over.
_FINISH = 90.0


@dataclass(frozen=True)
class Settings:
    """Where a run keeps its things, and how large it is.

    Attributes:
        trial: small problems, in the interpreter where there is no GPU: to try the tasks, not for figures.
        jobs: test processes at a time.
        tests: what of the tests is run; all that a GPU has a part in for none.
    """

    folder: Path
    trial: bool = False
    jobs: int = 1
    tests: Sequence[str] = ()

    @property
    def table(self) -> Path:
        return self.folder / "tuned.json"

    @property
    def results(self) -> Path:
        return self.folder / "results"


def tasks(settings: Settings) -> list[Task]:
    """All tasks."""
    return [*_check(settings), *_tests(settings), *_tuning(settings), *_benchmarks(settings), *_reports(settings)]


def _environment(settings: Settings) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found = {"PYTHONPATH": path, "TINYFLOW_QUIET": "1", "PYTHONUNBUFFERED": "1"}
    return found if settings.trial else {**found, "TRITON_INTERPRET": "0"}


def _tuned(settings: Settings) -> dict[str, str]:
    """With the table that was found here, as soon as there is one."""
    return {"TINYFLOW_TUNED": str(settings.table)} if settings.table.exists() else {}


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _check(settings: Settings) -> list[Task]:
    """A minute on small problems, which shows what is broken before more time goes into it."""
    families = [word for family in ("elementwise", "matmul", "convolution") for word in ("--family", family)]
    arguments = ["--quick", "--no-stock", "--resume", "--output", str(settings.folder / "check"), *families]
    return [Task("check", "check", lambda left: _module("benchmarks.run", *arguments), _environment(settings))]


def _tests(settings: Settings) -> list[Task]:
    chosen = settings.tests or [f"--ignore=tests/{name}" for name in _NOT_HERE]
    jobs = settings.jobs
    options = ("-m", "not slow", "-q", "--tb=short", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    # the project's own options name plugins that may not be here, and other versions warn of other things
    options += ("-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default", "--color=no", "-rN")

    def task(k: int) -> Task:
        file = settings.folder / "tests" / f"{k}-of-{jobs}.jsonl"
        arguments = ("-p", "benchmarks.gpu.journal", "--journal", str(file), "--part", f"{k}/{jobs}", *options, *chosen)
        return Task(
            "tests",
            f"tests {k} of {jobs}",
            lambda left: _module("pytest", *arguments),
            _environment(settings),
            (file,),
            stall_s=180.0,
            least_s=45.0,
            on_cut=lambda: journal.note_cut(file),
        )

    return [task(k) for k in range(1, jobs + 1)]


def _tuning(settings: Settings) -> list[Task]:
    """Tables for the models' shapes; without the command line, whose packages may not be here."""
    size: dict[str, object] = {"batch_size": 256}
    if settings.trial:
        size = {"batch_size": 2, "image_size": 32, "rounds": 1, "kernel": "_normalise_act_kernel"}
    begun = settings.table.with_name(f"{settings.table.name}.begun")

    def task(model: str) -> Task:
        def command(left: float) -> list[str]:
            options = {"shapes": model, "resume": True, "seconds": left - _FINISH, **size}
            words = ", ".join(f"{name}={value!r}" for name, value in options.items())
            program = (
                "import sys; from pathlib import Path; from tinyflow.models.config import Tune; "
                "from tinyflow.models.tune import tune; "
                f"sys.exit(tune(Tune({words}, out=Path({str(settings.table)!r}))))"
            )
            return [sys.executable, "-c", program]

        environment = _environment(settings)
        files = (settings.table, begun)
        return Task("tuning", f"tune {model}", command, environment, files, stall_s=150.0, least_s=_FINISH + 30)

    return [task(model) for model in (("resnet18",) if settings.trial else ("resnet18", "resnet50"))]


def _benchmarks(settings: Settings) -> list[Task]:
    def task(family: str | None) -> Task:
        def command(left: float) -> list[str]:
            options = ["--family", family] if family else []
            options += ["--quick"] if settings.trial else []
            tuned = [f"{name}={value}" for name, value in _tuned(settings).items()]
            run = _module("benchmarks.run", "--resume", "--no-stock", "--output", str(settings.results), *options)
            return ["env", *tuned, *run, "--seconds", f"{left - _FINISH:.0f}"]

        name = f"benchmarks {family or 'of the rest'}"
        files = tuple(settings.results.glob("*.json"))
        return Task("benchmarks", name, command, _environment(settings), files, least_s=_FINISH + 30)

    return [task(family) for family in (*_FIRST, None)]


def _reports(settings: Settings) -> list[Task]:
    quick = ["--quick", "--steps", "1"] if settings.trial else []

    def profile(left: float) -> list[str]:
        tuned = [f"{name}={value}" for name, value in _tuned(settings).items()]
        return ["env", *tuned, *_module("benchmarks.profile", "--output", str(settings.results), *quick)]

    return [
        Task("profile", "profile", profile, _environment(settings), least_s=90.0),
        Task(
            "report",
            "report",
            lambda left: _module("benchmarks.report", str(settings.results)),
            _environment(settings),
        ),
    ]
