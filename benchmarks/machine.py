"""On what a result was measured."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import tinyflow
from tinyflow import profiler

_PACKAGES = ("torch", "triton", "numpy")


def _processor() -> str:
    """The processor's name as it gives it itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Device, processor, cores, threads and versions: results with the same description can be compared."""
    device = tinyflow.get_default_device()
    on_gpu = device.type == "cuda"
    return {
        "device": profiler.device_name(device) if on_gpu else _processor(),
        "kind": device.type,
        "processor": _processor(),
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "mode": "Triton's interpreter" if profiler.interpreting() else "compiled",
        "versions": {
            "python": platform.python_version(),
            "tinyflow": tinyflow.__version__,
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        "platform": f"{platform.system()} {platform.machine()}",
    }


def slug(machine: dict[str, Any]) -> str:
    """The name of the machine's result file."""
    name = re.sub(r"\((r|tm)\)", "", machine["device"].lower())
    name = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    return name if machine["kind"] == "cuda" else f"{name}-{machine['cores']}-cores"
