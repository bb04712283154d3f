"""What is allocated over time, by what it is for, and its peak."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tinyflow.autograd.grad_mode import mode
from tinyflow.kernels import memory
from tinyflow.kernels.memory import Buffer
from tinyflow.profiler.events import Event
from tinyflow.serialization import replacing
from tinyflow.tensor import Tensor

#: What memory is for, in the order in which it is stacked.
PARAMETER, STATE, GRADIENT, ACTIVATION, OTHER = "parameter", "optimizer state", "gradient", "activation", "other"
KINDS = (PARAMETER, STATE, GRADIENT, ACTIVATION, OTHER)

_COLOURS = {PARAMETER: "#1f5fbf", STATE: "#c9a227", GRADIENT: "#1f7a4d", ACTIVATION: "#c8553d", OTHER: "#8a93a3"}


class Clock(Protocol):
    """What is asked of the profile that notes."""

    def now(self) -> float: ...

    @property
    def current(self) -> Event | None: ...

    @property
    def in_backward(self) -> bool: ...


@dataclass(eq=False)
class Block:
    """One allocation.

    Attributes:
        bytes: its size.
        kind: what it is for.
        start, stop: seconds from the start of the profile; None: it was there before, or outlived it.
        event: in which it was made.
    """

    bytes: int
    kind: str
    start: float | None
    stop: float | None = None
    event: Event | None = None


class MemoryTimeline:
    """Allocations and when they were given back.

    Attributes:
        blocks: every allocation, in the order in which they were made.
        changes: when, +1 or −1, and the block that came or went.
        timed: whether times mean anything: on the ``meta`` device, where nothing is computed, they do not.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.changes: list[tuple[float, int, Block]] = []
        self.timed = False

    def steps(self) -> Iterator[tuple[float, dict[str, int]]]:
        """What is live after each change, in bytes by kind."""
        live = dict.fromkeys(KINDS, 0)
        for time, sign, block in self.changes:
            live[block.kind] += sign * block.bytes
            yield time, dict(live)

    @property
    def peak(self) -> int:
        """The most bytes that were live at a time."""
        return max((sum(live.values()) for _, live in self.steps()), default=0)

    @property
    def at_peak(self) -> dict[str, int]:
        """What was live at the peak, in bytes by kind."""
        nothing = dict.fromkeys(KINDS, 0)
        return max((live for _, live in self.steps()), key=lambda live: sum(live.values()), default=nothing)

    @property
    def peak_block(self) -> Block | None:
        """The allocation that made the peak; None if nothing was allocated."""
        totals = [sum(live.values()) for _, live in self.steps()]
        return self.changes[totals.index(max(totals))][2] if totals else None

    @property
    def peak_at(self) -> str:
        """Where the peak was: the module, and the operation in it."""
        block = self.peak_block
        return "" if block is None or block.event is None else block.event.path

    def __repr__(self) -> str:
        return f"<memory timeline of {len(self.blocks)} allocations, peak {self.peak / 1e6:.3g} MB at {self.peak_at}>"


class Watch:
    """Notes allocations in a block.

    Allocations made by a node of a backward pass are gradients, others made while gradients are recorded are activations.
    Which memory holds parameters, gradients that are kept and the state of an optimizer is looked up in these.
    """

    def __init__(self, clock: Clock, model: Any, optimizer: Any) -> None:
        self.timeline = MemoryTimeline()
        self._clock, self._model, self._optimizer = clock, model, optimizer
        self._live: dict[int, Block] = {}
        self._open = False

    def __enter__(self) -> Watch:
        self._open = True
        for kind, x in self._known():
            if memory.storage_key(x) not in self._live:
                self._add(x, Block(memory.storage_bytes(x), kind, None), 0.0)
        memory.allocation_hooks.append(self._allocated)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        memory.allocation_hooks.remove(self._allocated)
        self._open = False
        for found, x in self._known():
            block = self._live.get(memory.storage_key(x))
            if block is not None:
                block.kind = found
        self._live.clear()

    def _known(self) -> Iterator[tuple[str, Buffer]]:
        """Memory whose purpose can be looked up."""
        parameters = [] if self._model is None else list(self._model.parameters())
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        parameters += [p for group in groups for p in group["params"]]
        buffers = [] if self._model is None else self._model.buffers()
        for x in [*parameters, *buffers]:
            yield PARAMETER, x._data
        for p in parameters:
            if p.grad is not None:
                yield GRADIENT, p.grad._data
        for state in [] if self._optimizer is None else self._optimizer.state.values():
            for x in state.values():
                if isinstance(x, Tensor):
                    yield STATE, x._data

    def _allocated(self, x: Buffer) -> None:
        kind = GRADIENT if self._clock.in_backward else ACTIVATION if mode.records else OTHER
        now = self._clock.now()
        self._add(x, Block(memory.storage_bytes(x), kind, now, event=self._clock.current), now)

    def _add(self, x: Buffer, block: Block, now: float) -> None:
        if not block.bytes:
            return
        key = memory.storage_key(x)
        self._live[key] = block
        self.timeline.timed |= x.device.type != "meta"
        self.timeline.blocks.append(block)
        self.timeline.changes.append((now, 1, block))
        memory.when_freed(x, partial(self._freed, key, block))

    def _freed(self, key: int, block: Block) -> None:
        if self._open:
            block.stop = self._clock.now()
            self.timeline.changes.append((block.stop, -1, block))
            if self._live.get(key) is block:
                del self._live[key]


def draw(timeline: MemoryTimeline, path: Path) -> Path:
    """A picture of the timeline: bytes by kind, stacked, over time, or where that means nothing change after change."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = sum(block.start is None for block in timeline.blocks)
    steps = list(timeline.steps())[max(present - 1, 0) :]  # from when all that was there is counted
    times = [time * 1e3 if timeline.timed else number for number, (time, _) in enumerate(steps)]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    below = [0.0] * len(steps)
    for kind in KINDS:
        top = [b + live[kind] / 1e6 for b, (_, live) in zip(below, steps)]
        if any(live[kind] for _, live in steps):
            axes.fill_between(times, below, top, step="post", color=_COLOURS[kind], label=kind, linewidth=0)
        below = top
    if steps:
        _mark_peak(axes, times, below, timeline)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    axes.set_xlabel("ms" if timeline.timed else "allocations and frees", fontsize=8)
    axes.set_ylabel("MB allocated", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format=path.suffix.removeprefix(".") or "png")
    return path


def _mark_peak(axes: Any, times: list[float], total: list[float], timeline: MemoryTimeline) -> None:
    peak = max(total)
    place = times[total.index(peak)]
    axes.axhline(peak, color="#444a55", linewidth=0.8, linestyle="--")
    axes.plot([place], [peak], "o", color="#444a55", markersize=4)
    axes.set_ylim(0, 1.25 * peak)
    right = place > (times[0] + times[-1]) / 2
    axes.annotate(
        f"peak {peak:,.3g} MB\n{timeline.peak_at}",
        (place, peak),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom",
        fontsize=8,
    )
