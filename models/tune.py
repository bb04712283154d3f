"""``tinyflow tune``: measures which configuration of each kernel is fastest here, for the problems of a model's step."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import tinyflow
from tinyflow import nn, profiler, tuning
from tinyflow.models.catalogue import build
from tinyflow.models.config import Tune
from tinyflow.models.device import choose_device
from tinyflow.models.errors import InputError, check_positive, one_line
from tinyflow.tuning import Call, Problem, Trial

_PACKAGES = ("torch", "triton")


def tune(config: Tune) -> int:
    """Runs the program; returns its exit code: 1 if no candidate of some problem was right, 3 if time ran out.

    Raises:
        InputError: if there is no such model, kernel or device, or the table cannot be written.
    """
    check_positive(config, "image_size", "batch_size", "classes", "rounds")
    device = choose_device(config.device)
    if config.out is None and profiler.interpreting():
        raise InputError("the interpreter's times say nothing about a GPU: name a table of your own with --out")
    calls = calls_of_a_step(config)
    found = tuning.problems(calls, device, config.kernel)
    if not found:
        known = sorted({problem.configs.kernel for problem in tuning.problems(calls, device)})
        raise InputError(f"{config.kernel} has nothing to choose in a step of {config.shapes}; try {', '.join(known)}")
    return _tune(found, device, config)


def calls_of_a_step(config: Tune) -> list[Call]:
    """The launchers of one training step and of inference, on the ``meta`` device."""
    before = tinyflow.get_default_device()
    tinyflow.set_default_device("meta")
    try:
        dtype = getattr(tinyflow, config.dtype)
        model = build(config.shapes, config.classes).to(dtype)
        images = tinyflow.empty((config.batch_size, 3, config.image_size, config.image_size), dtype=dtype)
        labels = tinyflow.empty((config.batch_size,), dtype=tinyflow.int64)
        with profiler.planned_for_gpu(), tuning.recorded() as calls:
            nn.functional.cross_entropy(model(images), labels).backward()
            with tinyflow.inference_mode():
                model.eval()(images)
        return calls
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        size = f"{config.batch_size} images of {config.image_size}×{config.image_size}"
        raise InputError(f"{config.shapes} does not train on {size}: {one_line(error)}") from None
    finally:
        tinyflow.set_default_device(before)


def _tune(found: Sequence[Problem], device: tinyflow.device, config: Tune) -> int:
    path = config.out or tuning.table_of(device)
    path.parent.mkdir(parents=True, exist_ok=True)  # before anything is searched
    name = profiler.device_name(device)
    versions = {"tinyflow": tinyflow.__version__, **{package: metadata.version(package) for package in _PACKAGES}}
    table = _table(path, name) if config.resume else {}
    missing = [p for p in found if p.problem not in table.get(p.configs.kernel, {})]
    begun = _Begun(path) if config.resume else None
    end = time.monotonic() + config.seconds
    failed = 0
    for count, problem in enumerate(missing, len(found) - len(missing) + 1):
        if time.monotonic() > end:
            print(
                f"tinyflow tune: time ran out before problem {count} of {len(found)}; go on with --resume",
                file=sys.stderr,
            )
            return 3
        if begun is not None and begun.again(problem):
            print(
                f"tinyflow tune: {problem.configs.kernel}: {problem.problem}: ended the process before", file=sys.stderr
            )
            failed += 1
            continue
        trials = tuning.search(problem, device, config.rounds)
        print(f"[{count}/{len(found)}] {problem.configs.kernel}: {problem.problem}", flush=True)
        for trial in trials:
            print(f"    {_described(trial)}", flush=True)
        if trials[0].seconds is None:
            failed += 1
            print(f"tinyflow tune: {problem.configs.kernel}: no configuration is right", file=sys.stderr)
            continue
        try:
            tuning.write(path, name, versions, problem, trials[0])  # at once: what was found outlives a stop
        except ValueError as error:
            raise InputError(f"--out {one_line(error)}") from None
    print(f"{len(found) - failed} of {len(found)} problems are in {path}")
    return 1 if failed else 0


class _Begun:
    """Problems that a resumed search has begun, beside its table: one that ends every process is left out in the end."""

    _ATTEMPTS = 2

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.begun")

    def again(self, problem: Problem) -> bool:
        """Notes that a problem is begun; True if that was done too often without an entry in the table."""
        line = f"{problem.configs.kernel} {problem.problem}\n"
        before = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(line)
        return before.splitlines(keepends=True).count(line) >= self._ATTEMPTS


def _table(path: Path, device: str) -> Mapping[str, Mapping[str, object]]:
    """What was found before."""
    try:
        return tuning.read(path, device)
    except ValueError as error:
        raise InputError(f"--out {one_line(error)}") from None


def _described(trial: Trial) -> str:
    blocks = " ".join(f"{name}={value}" for name, value in trial.config.blocks.items())
    options = f"num_warps={trial.config.num_warps} num_stages={trial.config.num_stages}"
    what = f"wrong: {trial.wrong}" if trial.seconds is None else f"{trial.seconds * 1e6:.1f} µs"
    return f"{blocks} {options}: {what}"
