"""What tinyflow is meant to reach on a GPU, and what has been measured of it: ``results/gpu.md``.

Where no GPU gave a figure the page says so; the figures come from the result files of GPUs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.case import ON_GPU, OURS
from benchmarks.results import files, read
from tinyflow.serialization import replacing

NOT_MEASURED = "not measured"

Cases = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A figure that is to be reached: in words, and how it is found among the cases of a device, None where it is not."""

    words: str
    wanted: str
    found: Callable[[Cases], tuple[str, bool] | None]


def goals() -> list[Goal]:
    """For an H100."""
    return [
        Goal("ResNet18 training step, images/s", "28,000 or more", _images("resnet18/training step", 28_000)),
        Goal("ResNet18 inference, images/s", "130,000 or more", _images("resnet18/inference", 130_000)),
        Goal("ResNet18 training step over torch eager", "1 or less", _ratio("resnet18/training step", 1.0)),
        Goal(
            "ResNet18 training step over torch.compile",
            "1 or less",
            _ratio("resnet18/training step, beside torch.compile", 1.0),
        ),
        Goal(
            "ResNet18 inference over torch.compile",
            "1 or less",
            _ratio("resnet18/inference, beside torch.compile", 1.0),
        ),
        *(
            Goal(f"slowest of ResNet18's convolutions over cuDNN, {way}", "1 or less", _slowest(way))
            for way in ("forward", "input gradient", "weight gradient")
        ),
        Goal("large matrix product over cuBLAS", "1.05 or less", _ratio(f"matmul/{ON_GPU.side} cubed", 1.05)),
    ]


def _images(key: str, wanted: float) -> Callable[[Cases], tuple[str, bool] | None]:
    def found(cases: Cases) -> tuple[str, bool] | None:
        rate = figures.throughput(cases[key], OURS) if key in cases else None
        return None if rate is None else (f"{rate:,.0f}", rate >= wanted)

    return found


def _ratio(key: str, wanted: float) -> Callable[[Cases], tuple[str, bool] | None]:
    def found(cases: Cases) -> tuple[str, bool] | None:
        ratio = figures.ratio(cases[key]) if key in cases else None
        return None if ratio is None else (figures.times(ratio), ratio <= wanted)

    return found


def _slowest(direction: str) -> Callable[[Cases], tuple[str, bool] | None]:
    def found(cases: Cases) -> tuple[str, bool] | None:
        own = [r for key, r in cases.items() if key.startswith("convolution/") and r["name"].endswith(f", {direction}")]
        ratios = [(ratio, r["name"]) for r in own if (ratio := figures.ratio(r)) is not None]
        if not ratios:
            return None
        ratio, name = max(ratios)
        return f"{figures.times(ratio)} ({name.rpartition(', ')[0]})", ratio <= 1

    return found


def markdown(devices: Mapping[str, Cases]) -> str:
    """The goals, with a column for each GPU that was measured."""
    head = ("goal, on an H100", "wanted", *(devices or {"any GPU": {}}))
    rows = [
        (goal.words, goal.wanted, *(_cell(goal, cases) for cases in (devices or {"any GPU": {}}).values()))
        for goal in goals()
    ]
    sizes = f"batches of {ON_GPU.batch} images of {ON_GPU.image} by {ON_GPU.image}, bfloat16"
    return "\n".join(
        [
            "# On a GPU",
            "",
            f"Models: {sizes}, steps recorded and replayed; torch: channels-last, autocast, `cudnn.benchmark`. "
            "`benchmarks/on_gpu` measures on a GPU machine, `benchmarks/on_gpu --keep` fills this table from what it "
            "collected there, and nothing else does.",
            "",
            *figures.table(head, rows),
            "",
        ]
    )


def _cell(goal: Goal, cases: Cases) -> str:
    found = goal.found({key: r for key, r in cases.items() if "error" not in r})
    if found is None:
        return NOT_MEASURED
    figure, reached = found
    return f"{figure}, {'reached' if reached else 'missed'}"


def write(folder: Path) -> Path:
    """Writes the page from the folder's result files; returns its path."""
    found = [read(path) for path in files(folder)]
    devices = {r["machine"]["device"]: r["cases"] for r in found if r["machine"]["kind"] == "cuda"}
    target = folder / "gpu.md"
    with replacing(target) as unfinished:
        unfinished.write_text(markdown(devices), encoding="utf-8")
    return target
