"""Where the time of a ResNet18 training step goes, kernel by kernel: ``python -m benchmarks.profile``.

Writes ``benchmarks/results/<device>-profile.json``, which ``python -m benchmarks.report`` shows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import tinyflow
from benchmarks import machine, torch_profile
from benchmarks.case import Call, Input, Scale, scale_for
from benchmarks.cases.framework import launch_one_store
from benchmarks.cases.training import TorchTrainingStep, TrainingStep
from benchmarks.kernel_clock import rows
from benchmarks.results import FOLDER, FORMAT, PROFILE_SUFFIX, QUICK_FOLDER, now, write
from tinyflow.kernels.memory import default_device_as


@dataclass
class Phase:
    """A part of the step: its whole time, and that of each kernel in it."""

    seconds: float = 0.0
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)


def measure(scale: Scale, steps: int) -> dict[str, Any]:
    """The fastest of ``steps`` steps of ours, and of torch's, taken apart."""
    device = tinyflow.get_default_device()
    torch.manual_seed(0)
    images = Input((scale.batch, 3, scale.image, scale.image)).make(device)
    labels = Input((scale.batch,), torch.int64, below=1000).make(device)
    ours = TrainingStep(images, labels, half=scale.half)
    theirs = TorchTrainingStep(images, labels, torch.channels_last, half=scale.half)
    ours(), theirs()
    found, torch_found = [], []
    for _ in range(steps):  # in turns, so that both meet the same load
        found.append(_step(ours, device))
        torch_found.append(torch_profile.families(theirs, device))
    phases = min(found, key=lambda parts: sum(p.seconds for p in parts.values()))
    torch_families = min(torch_found, key=lambda times: sum(times.values()))
    return {
        "format": FORMAT,
        "machine": machine.describe(),
        "date": now(),
        "problem": f"ResNet18, {scale.batch}×3×{scale.image}×{scale.image}, {_precision(scale)}",
        "steps": steps,
        "framework_s": _framework(scale, steps),
        "one_launch_s": _one_launch(device),
        "phases": {name: phase.seconds for name, phase in phases.items()},
        "kernels": [
            {"phase": name, "kernel": kernel, **row} for name, p in phases.items() for kernel, row in p.kernels.items()
        ],
        "families": _families(phases, torch_families),
    }


def _precision(scale: Scale) -> str:
    return "mixed precision" if scale.half else "float32"


def _step(step: TrainingStep, device: torch.device) -> dict[str, Phase]:
    phases = {name: Phase() for name in ("forward", "backward", "update")}
    loss: Any = None
    for name, phase in phases.items():
        tinyflow.synchronize(device)
        with tinyflow.profile() as taken:
            start = _Moment(device)
            if name == "forward":
                loss = step.forward()
            elif name == "backward":
                step.backward(loss)
            else:
                step.update()
            stop = _Moment(device, ahead=False)
            tinyflow.synchronize(device)
            phase.seconds = stop.since(start)
        phase.kernels = rows(taken)
    return phases


class _Moment:
    """A moment: of the host, or in the device's queue, which then is first kept busy, so that the host runs ahead."""

    _CYCLES = 300_000_000

    def __init__(self, device: torch.device, ahead: bool = True) -> None:
        self._event: torch.cuda.Event | None = None
        self._time = time.perf_counter()
        if device.type == "cuda":
            if ahead:
                torch.cuda._sleep(self._CYCLES)
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def since(self, other: _Moment) -> float:
        if self._event is None or other._event is None:
            return self._time - other._time
        return other._event.elapsed_time(self._event) / 1e3


def _framework(scale: Scale, steps: int) -> float:
    """Seconds of the step where nothing is computed: what the engine, the operations and the launchers take."""
    meta = torch.device("meta")
    images = torch.empty(scale.batch, 3, scale.image, scale.image, device=meta)
    labels = torch.empty(scale.batch, dtype=torch.int64, device=meta)
    with default_device_as(meta):
        step = TrainingStep(images, labels, half=scale.half)
        step()
        return min(_seconds(step) for _ in range(steps))


def _one_launch(device: torch.device, launches: int = 100) -> float:
    """Seconds of the launch of a kernel that stores one number."""
    x = torch.empty(1, device=device)

    def several() -> None:
        for _ in range(launches):
            launch_one_store(x)
        tinyflow.synchronize(device)

    several()
    return min(_seconds(several) for _ in range(5)) / launches


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _families(phases: dict[str, Phase], theirs: dict[str, float]) -> list[dict[str, Any]]:
    """Seconds of ours and of torch by family, the longest first."""
    ours: dict[str, float] = defaultdict(float)
    for phase in phases.values():
        for row in phase.kernels.values():
            ours[row["family"]] += row["seconds"]
    ours[torch_profile.OUTSIDE] = sum(p.seconds for p in phases.values()) - sum(ours.values())
    names = sorted({*ours, *theirs}, key=lambda name: -ours.get(name, 0.0))
    return [{"family": name, "tinyflow_s": ours.get(name, 0.0), "torch_s": theirs.get(name, 0.0)} for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small problem: a trial, not a result")
    parser.add_argument("--steps", type=int, default=5, help="of which the fastest is shown")
    parser.add_argument("--output", type=Path, help="folder of the result file")
    options = parser.parse_args(arguments)
    found = measure(scale_for(tinyflow.get_default_device(), options.quick), options.steps)
    folder = options.output or (QUICK_FOLDER if options.quick else FOLDER)
    path = folder / (machine.slug(found["machine"]) + PROFILE_SUFFIX)
    write(path, found)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
