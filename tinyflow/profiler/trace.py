"""A profile in the trace event format that Perfetto and Chrome open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinyflow.profiler.events import KERNEL, NODE, SCOPE, Event
from tinyflow.profiler.memory_timeline import MemoryTimeline
from tinyflow.serialization import replacing

_HOST, _DEVICE = 1, 2
#: The host's tracks, in the order in which they are shown.
_SCOPES, _FORWARD, _BACKWARD, _KERNELS = range(1, 5)
_TRACKS = {_SCOPES: "scopes", _FORWARD: "forward", _BACKWARD: "backward", _KERNELS: "kernels"}

Place = tuple[int, int, float]  # a process, a track of it, and seconds


def write(path: Path, events: Sequence[Event], timeline: MemoryTimeline | None) -> Path:
    """Writes the events, and what is allocated over time."""
    found = [*_names(events), *_all(events)]
    if timeline is not None:
        found += _counters(timeline)
    with replacing(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        json.dump({"traceEvents": found, "displayTimeUnit": "ms"}, file)
    return path


def _names(events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    on_device = any(e.device_start is not None for e in events)
    processes = {_HOST: "tinyflow"} | ({_DEVICE: "device"} if on_device else {})
    for process, name in processes.items():
        yield {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}}
    tracks = [(_HOST, track, name) for track, name in _TRACKS.items()]
    if on_device:
        tracks = [*tracks[:-1], (_HOST, _KERNELS, "launches"), (_DEVICE, _KERNELS, "kernels")]
    for process, track, name in tracks:
        yield {"ph": "M", "name": "thread_name", "pid": process, "tid": track, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": process, "tid": track, "args": {"sort_index": track}}


def _all(events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    for number, event in enumerate(events):
        yield _complete(event, _HOST, _track(event), event.start, event.stop - event.start)
        if event.device_start is not None:
            yield _complete(event, _DEVICE, _KERNELS, event.device_start, event.seconds)
            yield from _flow(
                "launch", 2 * number, (_HOST, _KERNELS, event.start), (_DEVICE, _KERNELS, event.device_start)
            )
        if event.forward is not None:
            start, stop = (_HOST, _track(event.forward), event.forward.start), (_HOST, _track(event), event.start)
            yield from _flow("backward", 2 * number + 1, start, stop)


def _track(event: Event) -> int:
    if event.kind in (KERNEL, SCOPE):
        return _KERNELS if event.kind == KERNEL else _SCOPES
    return _BACKWARD if event.backward else _FORWARD


def _complete(event: Event, process: int, track: int, start: float, seconds: float) -> dict[str, Any]:
    name = event.name or "model"
    found = {"ph": "X", "name": name, "cat": event.kind, "pid": process, "tid": track}
    return found | {"ts": _us(start), "dur": _us(seconds), "args": _arguments(event)}


def _arguments(event: Event) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if event.module is not None:
        arguments["module"] = event.module or "model"
    if event.kind == KERNEL:
        operation = event.operation
        arguments["operation"] = "" if operation is None else operation.name
        arguments |= {"FLOPs": event.cost.flops, "bytes": event.cost.bytes}
        arguments["operands"] = [f"{str(dtype).removeprefix('torch.')}{list(shape)}" for shape, dtype in event.operands]
        if event.seconds:
            arguments["GB/s"] = round(event.cost.bytes / event.seconds / 1e9, 3)
            arguments["GFLOP/s"] = round(event.cost.flops / event.seconds / 1e9, 3)
    elif event.kind == NODE and event.forward is not None:
        arguments["forward"] = event.forward.name
    return arguments


def _flow(name: str, number: int, start: Place, stop: Place) -> Iterator[dict[str, Any]]:
    """An arrow from one event to another."""
    shared = {"name": name, "cat": "flow", "id": number}
    yield shared | {"ph": "s", "pid": start[0], "tid": start[1], "ts": _us(start[2])}
    yield shared | {"ph": "f", "bp": "e", "pid": stop[0], "tid": stop[1], "ts": _us(stop[2])}


def _counters(timeline: MemoryTimeline) -> Iterator[dict[str, Any]]:
    for time, live in timeline.steps():
        yield {"ph": "C", "name": "memory", "pid": _HOST, "tid": 0, "ts": _us(time), "args": dict(live)}


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)
