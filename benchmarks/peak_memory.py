"""Peak memory of a training step, each contender in a process of its own: ``python -m benchmarks.peak_memory NAME``."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import OURS, TORCH


@dataclass(frozen=True)
class MemoryCase:
    """What three training steps of a model add to the memory that the process had before the model was made."""

    family: str
    name: str
    model: str
    batch: int
    image: int
    half: bool = False

    @property
    def key(self) -> str:
        return f"{self.family}/{self.name}"

    @property
    def sizes(self) -> str:
        return f"{self.batch}×3×{self.image}×{self.image}"

    def measure(self) -> dict[str, Any]:
        """The record for the result file."""
        return {"unit": "byte", "contenders": {name: self._in_process(name) for name in (OURS, TORCH)}}

    def _in_process(self, contender: str) -> dict[str, int]:
        size = ["--model", self.model, "--batch", str(self.batch), "--image", str(self.image)]
        command = [sys.executable, "-m", "benchmarks.peak_memory", contender, *size, *["--half"] * self.half]
        root = Path(__file__).resolve().parent.parent
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"{' '.join(command[1:])} failed: {found.stderr[-1000:]}")
        return json.loads(found.stdout.splitlines()[-1])


def _resident(field: str) -> int:
    """Bytes of this process's memory: ``VmRSS`` now, ``VmHWM`` at its peak.

    The peak that getrusage gives would count the process that started this one until it was replaced.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, f"/proc/self/status has no {field}"
    return int(found.group(1)) * 1024


def _measure(contender: str, model: str, batch: int, image: int, half: bool) -> dict[str, int]:
    import tinyflow
    from benchmarks.cases import training

    device = tinyflow.get_default_device()
    images = torch.randn(batch, 3, image, image).to(device)
    labels = torch.randint(1000, (batch,)).to(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else _resident("VmRSS")
    step: Any
    if contender == OURS:
        step = training.TrainingStep(images, labels, model=model, half=half)
    else:
        memory_format = torch.channels_last if half else torch.contiguous_format
        step = training.TorchTrainingStep(images, labels, memory_format, model=model, half=half)
    for _ in range(3):
        step()
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")
    return {"peak": peak, "before": before, "added": peak - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=(OURS, TORCH))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image", type=int, default=64)
    parser.add_argument("--half", action="store_true", help="products in bfloat16")
    arguments = parser.parse_args()
    sizes = arguments.model, arguments.batch, arguments.image, arguments.half
    print(json.dumps(_measure(arguments.contender, *sizes)))


if __name__ == "__main__":
    main()
