"""Where the time of torch's training step goes, by the families of our kernels."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

import tinyflow

#: Families of torch's operations: the first whose word a name contains. Ours are the kernels' files.
_TORCH_FAMILIES = {
    "convolution": "conv2d",
    "batch_norm": "batch_norm",
    "pool": "pooling",
    "softmax": "loss",
    "nll": "loss",
    "cross_entropy": "loss",
    "mm": "matmul",
    "mean": "reduction",
    "sum": "reduction",
    "add": "elementwise",
    "mul": "elementwise",
    "clamp": "elementwise",
    "relu": "elementwise",
    "threshold": "elementwise",
    "div": "elementwise",
    "fill": "elementwise",
    "copy": "elementwise",
}
OUTSIDE = "outside kernels"


def families(step: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Seconds of a training step by family; what torch's operations do not account for is outside kernels."""
    on_gpu = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *[torch.profiler.ProfilerActivity.CUDA] * on_gpu]
    tinyflow.synchronize(device)
    with torch.profiler.profile(activities=activities) as profiled:
        start = time.perf_counter()
        step()
        tinyflow.synchronize(device)
        whole = time.perf_counter() - start
    seconds: dict[str, float] = defaultdict(float)
    for event in profiled.events():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        family = "optimizer" if _within_optimizer(event) else _torch_family(event.name)
        if family is not None:
            seconds[family] += own / 1e6
    return {**seconds, OUTSIDE: max(whole - sum(seconds.values()), 0.0)}


def _within_optimizer(event: Any) -> bool:
    while event is not None:
        if event.name.startswith("Optimizer."):
            return True
        event = event.cpu_parent
    return False


def _torch_family(name: str) -> str | None:
    if not name.startswith("aten::"):
        return None
    return next((family for word, family in _TORCH_FAMILIES.items() if word in name), None)
