"""What a device reaches at best, by torch: a large copy, and a large product of matrices of random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.case import Input, Scale
from benchmarks.results import now
from benchmarks.timer import Contender, Effort, timer_for
from tinyflow.profiler import Cost


def measure(device: torch.device, scale: Scale, effort: Effort) -> dict[str, Any]:
    """Bytes/s of a copy, reading plus writing, and FLOP/s of a product by dtype, with what was measured on."""
    x = Input((scale.elements,)).make(device)
    moved = 2 * x.numel() * x.element_size()
    found = {"date": now(), "elements": scale.elements, "side": scale.side}
    found["bytes_per_s"] = moved / _seconds(lambda: torch.clone(x), device, effort)
    rates = {}
    for dtype in dict.fromkeys((torch.float32, scale.dtype)):
        a, b = (Input((scale.side, scale.side), dtype).make(device) for _ in range(2))
        seconds = _seconds(lambda a=a, b=b: torch.matmul(a, b), device, effort)
        rates[str(dtype).removeprefix("torch.")] = 2 * scale.side**3 / seconds
    return {**found, "flops_per_s": rates}


def _seconds(call: Any, device: torch.device, effort: Effort) -> float:
    timer, contender = timer_for(device, on_host=False), Contender(call)
    timer.time({"torch": contender}, effort)
    return contender.summary()[timer.statistic]


def floor(known: Mapping[str, Any], costs: Sequence[Cost], products: str) -> float | None:
    """Seconds that launches take at least at the ceilings: each the longer of FLOPs / rate and bytes / bandwidth."""
    rate = known.get("flops_per_s", {}).get(products)
    if rate is None or not costs:
        return None
    return sum(max(cost.flops / rate, cost.bytes / known["bytes_per_s"]) for cost in costs)
