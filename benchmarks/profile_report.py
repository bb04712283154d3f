"""A training step's profile as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import figures
from benchmarks.case import OURS, TORCH


def section(profile: Mapping[str, Any]) -> list[str]:
    """A training step taken apart: by family beside torch, then by kernel."""
    return [
        "## Where a training step's time goes",
        "",
        *_words(profile),
        "",
        *figures.table(("family", OURS, "share", TORCH), [_family(f, _step(profile)) for f in profile["families"]]),
        "",
        *figures.table(
            ("kernel", "phase", "launches", "time", "share", "rate"),
            [_kernel(k, _step(profile)) for k in sorted(profile["kernels"], key=lambda k: -k["seconds"])],
        ),
        "",
    ]


def _words(profile: Mapping[str, Any]) -> list[str]:
    phases = ", ".join(f"{name} {_time(seconds)}" for name, seconds in profile["phases"].items())
    theirs = sum(f["torch_s"] for f in profile["families"])
    launches = sum(k["launches"] for k in profile["kernels"])
    one = profile["one_launch_s"]
    return [
        f"{profile['problem']}: the fastest of {profile['steps']} steps took {_time(_step(profile))} ({phases}); "
        f"torch, channels-last, took {_time(theirs)} under its profiler. Measured {profile['date']}.",
        "",
        f"Where nothing is computed (on the meta device) the step takes {_time(profile['framework_s'])}: that is what "
        f"the engine, the operations and the launchers take. It makes {launches} launches; a kernel that stores one "
        f"number takes {_time(one)}, so many of them {_time(launches * one)}.",
    ]


def _step(profile: Mapping[str, Any]) -> float:
    return sum(profile["phases"].values())


def _family(found: Mapping[str, Any], step: float) -> tuple[str, ...]:
    theirs = _time(found["torch_s"]) if found["torch_s"] else ""
    return (found["family"], _time(found["tinyflow_s"]), _share(found["tinyflow_s"], step), theirs)


def _kernel(found: Mapping[str, Any], step: float) -> tuple[str, ...]:
    seconds = found["seconds"]
    return (
        f"`{found['kernel']}`",
        found["phase"],
        str(found["launches"]),
        _time(seconds),
        _share(seconds, step),
        figures.per_second(found["flops"], found["bytes"], seconds),
    )


def _time(seconds: float) -> str:
    return figures.quantity(seconds, "second")


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %"
