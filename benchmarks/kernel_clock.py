"""The time of every kernel that is launched in a block."""

from __future__ import annotations

from typing import Any

import tinyflow


def rows(profile: tinyflow.profile) -> dict[str, dict[str, Any]]:
    """By kernel: its family, launches, seconds, FLOPs and bytes."""
    found: dict[str, dict[str, Any]] = {}
    for event in profile.kernels:
        new = {"family": event.family, "launches": 0, "seconds": 0.0, "flops": 0, "bytes": 0}
        row = found.setdefault(event.name, new)
        row["launches"] += 1
        row["seconds"] += event.seconds
        row["flops"] += event.cost.flops
        row["bytes"] += event.cost.bytes
    return found
