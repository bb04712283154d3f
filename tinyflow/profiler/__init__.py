"""What runs where, and what it costs: launches counted, timed, and laid out over time; memory too."""

from __future__ import annotations

from tinyflow.kernels import memory, mode
from tinyflow.kernels.ceilings import Ceilings as Ceilings
from tinyflow.kernels.ceilings import known as known_ceilings
from tinyflow.kernels.configs import planned_for_gpu as planned_for_gpu
from tinyflow.kernels.launch import Cost as Cost
from tinyflow.kernels.launch import Record as Record
from tinyflow.kernels.launch import count as count_launches
from tinyflow.profiler.averages import Row as Row
from tinyflow.profiler.events import Event as Event
from tinyflow.profiler.layers import Layer as Layer
from tinyflow.profiler.layers import summarise as summarise
from tinyflow.profiler.layers import total as total
from tinyflow.profiler.memory_timeline import MemoryTimeline as MemoryTimeline
from tinyflow.profiler.session import profile as profile
from tinyflow.profiler.session import record_function as record_function


def interpreting() -> bool:
    """True where kernels run in Triton's interpreter on the CPU, False where they are compiled for a GPU."""
    return mode.INTERPRETING


def device_name(device: str | memory.device | None = None) -> str:
    """A device's name as its driver gives it, or ``cpu``; None is the default device."""
    return memory.device_name(memory.as_device(device))


__all__ = [
    "Ceilings",
    "Cost",
    "Event",
    "Layer",
    "MemoryTimeline",
    "Record",
    "Row",
    "count_launches",
    "device_name",
    "interpreting",
    "known_ceilings",
    "planned_for_gpu",
    "profile",
    "record_function",
    "summarise",
    "total",
]
