"""Launches added up by operation, kernel, module or node, as rows and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tinyflow.kernels.ceilings import Ceilings
from tinyflow.profiler.events import KERNEL, MODULE, NODE, OPERATION, Event

#: What launches can be grouped by, and the kind of the events whose calls are counted.
GROUPS = {"operation": OPERATION, "kernel": KERNEL, "module": MODULE, "node": NODE}

_OUTSIDE = "(outside)"


@dataclass
class Row:
    """What all events of one name took together.

    Attributes:
        backward: whether they were part of a backward pass.
        calls: how often it was called; of a module in the forward pass, where its backward pass has none.
        launches: of kernels.
        host: seconds on the host from begin to end, of operations, nodes, and launches.
        time: seconds that kernels took.
        flops, bytes: of the kernels; bytes are the least that they must move.
        least: the least seconds of the kernels at the device's rates: each the longer of bytes / bandwidth and, where the
            rate of its dtype is known, FLOPs / rate. None if no rates are known.
    """

    name: str
    backward: bool
    calls: int = 0
    launches: int = 0
    host: float = 0.0
    time: float = 0.0
    flops: int = 0
    bytes: int = 0
    least: float | None = None

    @property
    def roofline(self) -> float | None:
        """The share of the roofline that was reached: least time / time."""
        return None if self.least is None or not self.time else self.least / self.time


def least_seconds(kernel: Event, ceilings: Ceilings) -> float:
    """The least time of a launch."""
    rate = ceilings.flops.get(kernel.dtype)
    arithmetic = 0.0 if rate is None else kernel.cost.flops / rate
    return max(arithmetic, kernel.cost.bytes / ceilings.bandwidth)


def rows(events: Sequence[Event], group_by: str, ceilings: Ceilings | None) -> list[Row]:
    """One row for each name and pass, in the order in which they first happened."""
    if group_by not in GROUPS:
        raise ValueError(f"profile: expected group_by to be one of {', '.join(GROUPS)}, got {group_by!r}")
    found: dict[tuple[str, bool], Row] = {}

    def row(event: Event) -> Row:
        name = _name(event, group_by)
        return found.setdefault((name, event.backward), Row(name, event.backward, least=_zero(ceilings)))

    for event in events:
        if event.kind == GROUPS[group_by]:
            row(event).calls += 1
        if event.kind == _timed_on_host(group_by):
            row(event).host += event.stop - event.start
        if event.kind == KERNEL:
            r = row(event)
            r.launches += 1
            r.time += event.seconds
            r.flops += event.cost.flops
            r.bytes += event.cost.bytes
            if ceilings is not None:
                r.least = (r.least or 0.0) + least_seconds(event, ceilings)
    kept = [r for r in found.values() if r.calls or r.launches]
    return [r for r in kept if group_by != "node" or r.backward]


def _zero(ceilings: Ceilings | None) -> float | None:
    return None if ceilings is None else 0.0


def _timed_on_host(group_by: str) -> str:
    return OPERATION if group_by == "module" else GROUPS[group_by]


def _name(event: Event, group_by: str) -> str:
    if group_by == "module":
        return _OUTSIDE if event.module is None else event.module or "(model)"
    if event.kind != KERNEL or group_by == "kernel":
        return event.name
    if group_by == "node":
        return next((e.name for e in event.around() if e.kind == NODE), _OUTSIDE)
    return (event.operation or event).name  # an optimizer launches without an operation


# ---- text ---------------------------------------------------------------------------------------------------------------

_KEYS: dict[str, Callable[[Row], Any]] = {
    "time": lambda r: (r.time, r.host, r.bytes),
    "host": lambda r: r.host,
    "calls": lambda r: r.calls,
    "launches": lambda r: r.launches,
    "flops": lambda r: r.flops,
    "bytes": lambda r: r.bytes,
    "least": lambda r: r.least or 0.0,
    "name": lambda r: r.name,
}


def table(found: Sequence[Row], sort_by: str, limit: int | None, seconds: float, group_by: str) -> str:
    """Rows as text, with the sum of all below."""
    if sort_by not in _KEYS:
        raise ValueError(f"profile: expected sort_by to be one of {', '.join(_KEYS)}, got {sort_by!r}")
    ordered = sorted(found, key=_KEYS[sort_by], reverse=sort_by != "name")
    time = sum(r.time for r in found)
    rated = any(r.least is not None for r in found)
    heads = [group_by, "pass", "calls", "launches", "host", "time", "share", "FLOPs", "bytes", "FLOP/s", "B/s"]
    heads += ["least", "roofline"] if rated else []
    shown = [_cells(r, time, rated) for r in ordered[:limit]]
    summed = {f: sum(getattr(r, f) for r in found) for f in ("launches", "host", "time", "flops", "bytes")}
    least = sum(r.least or 0.0 for r in found) if rated else None
    last = _cells(Row("all", False, least=least, **summed), time, rated)
    last[1] = last[2] = ""
    widths = [max(len(row[k]) for row in [heads, *shown, last]) for k in range(len(heads))]
    rule = "  ".join("-" * w for w in widths)
    lines = [_line(heads, widths), rule, *(_line(row, widths) for row in shown), rule, _line(last, widths)]
    hidden = len(found) - len(shown)
    more = [f"{hidden} more rows"] if hidden else []
    return "\n".join([*lines, *more, f"the block took {_time(seconds)}"])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    texts = [c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths))]
    return "  ".join(texts).rstrip()


def _cells(row: Row, time: float, rated: bool) -> list[str]:
    cells = [row.name, "backward" if row.backward else "forward", str(row.calls), str(row.launches), _time(row.host)]
    cells += [_time(row.time), f"{100 * row.time / time:.1f}%" if time else ""]
    cells += [_count(row.flops), _count(row.bytes)]
    cells += [_count(row.flops / row.time) if row.time else "", _count(row.bytes / row.time) if row.time else ""]
    if rated:
        cells += ["" if row.least is None else _time(row.least)]
        cells += ["" if row.roofline is None else f"{100 * row.roofline:.0f}%"]
    return cells


def _time(seconds: float) -> str:
    """Seconds in three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds / 1e-9)} ns" if seconds else "0"


def _count(number: float) -> str:
    """A number in three digits and a thousand's letter."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{_three(number / size)} {letter}"
    return f"{number:.0f}" if number else ""


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
