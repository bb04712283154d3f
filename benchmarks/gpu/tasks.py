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

#: Where compiled kernels stay: for all tasks, and all calls on a machine.
_COMPILED = ROOT / ".benchmarks" / "compiled"

#: Tests of what a GPU has no part in, or that need packages from a network.
_NOT_HERE = ("benchmarks", "compile", "docs", "house", "interpreter")

#: Tests of what never ran on a GPU before, and all else stands on: recorded steps, boxes of memory, the launcher, fused
#: blocks.
_RISKY = (
    "tests/test_capture.py",
    "tests/kernels/test_compiled.py",
    "tests/kernels/test_conv2d_boxes.py",
    "tests/kernels/test_conv2d_rows.py",
    "tests/kernels/test_fused.py",
    "tests/kernels/test_matmul.py",
    "tests/kernels/test_memory.py",
    "tests/kernels/test_optimizer.py",
    "tests/nn/test_fusion.py",
)

#: What it takes torch minutes to compile.
_SLOW = "torch.compile"

#: Families by the worth of their figures, and what of them waits; what is left comes after them.
_FIRST = (
    ("resnet18", _SLOW),
    ("convolution", None),
    ("resnet18", None),
    ("matmul", None),
    ("fused", None),
    ("resnet50", _SLOW),
    ("resnet50", None),
)

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

    @property
    def untuned(self) -> Path:
        """The first figures, from before there was a table."""
        return self.folder / "untuned"


def tasks(settings: Settings) -> list[Task]:
    """All tasks, in the order of their phases."""
    return [
        *_check(settings),
        *_ahead(settings, "compile"),
        *_first(settings),
        *_tests(settings),
        *_ahead(settings, "candidates"),
        *_tuning(settings),
        *_benchmarks(settings),
        *_reports(settings),
    ]


def _environment(settings: Settings) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found = {"PYTHONPATH": path, "TINYFLOW_QUIET": "1", "PYTHONUNBUFFERED": "1"}
    for name, folder in (("TRITON_CACHE_DIR", "triton"), ("TORCHINDUCTOR_CACHE_DIR", "inductor")):
        found[name] = os.environ.get(name, str(_COMPILED / folder))
    return found if settings.trial else {**found, "TRITON_INTERPRET": "0"}


#: Processes that run side by side share the cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def _tuned(settings: Settings) -> dict[str, str]:
    """With the table that was found here, as soon as there is one."""
    return {"TINYFLOW_TUNED": str(settings.table)} if settings.table.exists() else {}


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _check(settings: Settings) -> list[Task]:
    """Small problems and the riskiest tests, which show what is broken before more time goes into it."""
    families = [word for family in ("elementwise", "matmul", "convolution") for word in ("--family", family)]
    arguments = ["--quick", "--no-stock", "--resume", "--output", str(settings.folder / "check"), *families]
    check = Task("check", "check", lambda left: _module("benchmarks.run", *arguments), _environment(settings))
    risky = settings.tests or _RISKY
    return [check, *_parts(settings, "risky tests", "check", risky)]


def _ahead(settings: Settings, phase: str) -> list[Task]:
    """Kernels of the models' steps, or what a search tries, compiled on all cores; only for its speed, so it may fail."""
    options = ["--candidates"] if phase == "candidates" else []
    models = ("resnet18",) if phase == "compile" or settings.trial else ("resnet18", "resnet50")
    options += [word for model in models for word in ("--model", model)]
    options += ["--batch", "2", "--image", "64"] if settings.trial else []
    environment = {**_environment(settings), **_ONE_THREAD, "TRITON_INTERPRET": "0"}

    def task(k: int) -> Task:
        def command(left: float) -> list[str]:
            words = ["--part", f"{k}/{settings.jobs}", "--seconds", f"{left - 10:.0f}", *options]
            return _module("benchmarks.gpu.ahead", *words)

        return Task(phase, f"{phase} {k} of {settings.jobs}", command, environment)

    return [task(k) for k in range(1, settings.jobs + 1)]


def _first(settings: Settings) -> list[Task]:
    """The figures that matter most, before anything is searched."""

    def command(left: float) -> list[str]:
        options = ["--quick", "--as-on-gpu"] if settings.trial else []
        options += ["--resume", "--no-stock", "--output", str(settings.untuned), "--seconds", f"{left - _FINISH:.0f}"]
        return _module("benchmarks.run", "--family", "resnet18", "--without", _SLOW, *options)

    progress = tuple(settings.untuned.glob("*.json"))
    return [Task("first", "first figures", command, _environment(settings), progress, least_s=_FINISH + 30)]


def _tests(settings: Settings) -> list[Task]:
    chosen = settings.tests or [f"--ignore=tests/{name}" for name in _NOT_HERE]
    return _parts(settings, "tests", "tests", chosen)


def _parts(settings: Settings, name: str, phase: str, chosen: Sequence[str]) -> list[Task]:
    """Tests in as many processes as run side by side."""
    jobs = settings.jobs
    options = ("-m", "not slow", "-q", "--tb=short", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    # the project's own options name plugins that may not be here, and other versions warn of other things
    options += ("-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default", "--color=no", "-rN")

    def task(k: int) -> Task:
        file = settings.folder / name.replace(" ", "-") / f"{k}-of-{jobs}.jsonl"
        arguments = ("-p", "benchmarks.gpu.journal", "--journal", str(file), "--part", f"{k}/{jobs}", *options, *chosen)
        return Task(
            phase,
            f"{name} {k} of {jobs}",
            lambda left: _module("pytest", *arguments),
            {**_environment(settings), **_ONE_THREAD},
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
        size = {"batch_size": 2, "image_size": 64, "rounds": 1, "kernel": "_normalise_act_kernel"}
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
    def task(family: str | None, without: str | None = None) -> Task:
        def command(left: float) -> list[str]:
            options = ["--family", family] if family else []
            options += ["--without", without] if without else []
            options += ["--quick"] if settings.trial else []
            tuned = [f"{name}={value}" for name, value in _tuned(settings).items()]
            run = _module("benchmarks.run", "--resume", "--no-stock", "--output", str(settings.results), *options)
            return ["env", *tuned, *run, "--seconds", f"{left - _FINISH:.0f}"]

        name = f"benchmarks {family or 'of the rest'}" + (f" without {without}" if without else "")
        files = tuple(settings.results.glob("*.json"))
        compiles = without is None and family in (None, "resnet18", "resnet50")
        stall_s = 600.0 if compiles else 300.0  # torch says nothing while it compiles
        return Task("benchmarks", name, command, _environment(settings), files, stall_s, _FINISH + 30)

    return [*(task(family, without) for family, without in _FIRST), task(None)]


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
