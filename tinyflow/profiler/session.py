"""``tinyflow.profile()``: what a block of a program launches, for which operation and module, and what it takes."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import Node, sequence
from tinyflow.autograd.module_calls import ModuleCall, ModuleCalls
from tinyflow.kernels import launch, memory
from tinyflow.kernels.ceilings import Ceilings, known
from tinyflow.kernels.mode import INTERPRETING
from tinyflow.ops import define
from tinyflow.profiler import averages, memory_timeline, trace
from tinyflow.profiler.averages import Row
from tinyflow.profiler.events import KERNEL, MODULE, NODE, OPERATION, SCOPE, Event, Timed, kernel_name
from tinyflow.profiler.memory_timeline import MemoryTimeline
from tinyflow.serialization import PathLike


class _Open(threading.local):
    def __init__(self) -> None:
        self.profiles: list[profile] = []


_open = _Open()


class profile:
    """Notes and times what this thread computes in a block.

    >>> with tinyflow.profile(model) as p:
    ...     F.cross_entropy(model(images), labels).backward()
    >>> print(p.table(group_by="kernel"))
    >>> p.chrome_trace("step.json")

    A kernel's time is the device's own, between two events around its launch, so it holds the gap that a host which does
    not run ahead leaves; in the interpreter it is the host's. On the ``meta`` device launches are counted and take none. A
    kernel's first launch compiles it: run a step before. Nothing is noted, nor paid for, outside of the block.

    Args:
        model: an ``nn.Module`` by whose modules launches are grouped; what is fused stays fused, and belongs to the module
            around it.
        optimizer: whose state the memory timeline knows.
        memory: note every allocation and when it is given back.
        ceilings: the rates that a share of the roofline is of; by default those known of the device.
    """

    def __init__(
        self, model: Any = None, *, optimizer: Any = None, memory: bool = False, ceilings: Ceilings | None = None
    ) -> None:
        self.events: list[Event] = []
        self.ceilings = ceilings
        self.seconds = 0.0
        self._calls = None if model is None else ModuleCalls(model, self._enter_module, self._leave_module)
        self._watch = memory_timeline.Watch(self, model, optimizer) if memory else None
        self._stack: list[Event] = []
        self._timed: list[Timed] = []
        self._marks: list[int] = []  # when operations began, as numbers of nodes ...
        self._marked: list[tuple[Event, Any]] = []  # ... their events, and what they are
        self._exits = contextlib.ExitStack()
        self._entered = False

    def __enter__(self) -> profile:
        if self._entered:
            raise RuntimeError("profile: a profile notes one block; make another for the next one")
        self._entered = True
        self._thread = threading.get_ident()
        with contextlib.ExitStack() as exits:
            _open.profiles.append(self)
            exits.callback(_open.profiles.remove, self)
            define.launch_observers.append(self._operation_begins)
            exits.callback(define.launch_observers.remove, self._operation_begins)
            mode.node_observers.append(self._node_begins)
            exits.callback(mode.node_observers.remove, self._node_begins)
            exits.enter_context(launch.observed(self._launched))
            if self._calls is not None:
                exits.enter_context(self._calls)
            if self._watch is not None:
                exits.enter_context(self._watch)
            on_gpu = memory.gpu_available() and not INTERPRETING
            self._device = memory.as_device("cuda") if on_gpu else memory.get_default_device()
            memory.synchronize()
            self._origin = memory.Moment(self._device)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.close()
        while self._stack:
            self._end()
        memory.synchronize()
        self.seconds = self.now()
        for timed in self._timed:
            timed.settle(self._origin, self._device)
        self._timed.clear()
        if self.ceilings is None:
            name = memory.device_name(self._device)
            self.ceilings = next((c for c in known().values() if name.startswith(c.device)), None)

    # ---- noting ----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the host since the block began."""
        return memory.Moment(memory.META).host - self._origin.host

    @property
    def current(self) -> Event | None:
        """The innermost event that is under way."""
        return self._stack[-1] if self._stack else None

    @property
    def in_backward(self) -> bool:
        """Whether a node of a backward pass runs."""
        return bool(self._stack) and self._stack[-1].backward

    def _event(self, kind: str, name: str) -> Event:
        parent = self.current
        module = None if parent is None else parent.module
        event = Event(kind, name, parent, module, self.in_backward, self.now())
        self.events.append(event)
        return event

    def _begin(self, kind: str, name: str) -> Event:
        event = self._event(kind, name)
        self._stack.append(event)
        return event

    def _end(self) -> None:
        self._stack.pop().stop = self.now()

    def _enter_module(self, call: ModuleCall) -> None:
        self._begin(MODULE, call.name).module = call.name

    def _leave_module(self, call: ModuleCall) -> None:
        self._end()

    def _operation_begins(
        self, op: define.Op, args: Sequence[Any], named: Mapping[str, Any]
    ) -> Callable[[], None] | None:
        if threading.get_ident() != self._thread:
            return None
        event = self._begin(OPERATION, op.name.strip("_"))
        self._marks.append(next(sequence))
        self._marked.append((event, op))
        return self._end

    def _node_begins(self, node: Node) -> Callable[[], None]:
        event = self._begin(NODE, node.name())
        event.backward = True
        call = None if self._calls is None else self._calls.of(node)
        if call is not None:
            event.module = call.name
        index = bisect_right(self._marks, node.sequence) - 1
        if index >= 0 and getattr(node, "op", None) is self._marked[index][1]:
            event.forward = self._marked[index][0]
            if event.module is None:
                event.module = event.forward.module
        return self._end

    def _launched(self, launched: launch.Launch) -> Callable[[], None]:
        timed = Timed(self._event(KERNEL, kernel_name(launched)), launched)
        self._timed.append(timed)
        return timed.finish

    # ---- telling ---------------------------------------------------------------------------------------------------

    @property
    def kernels(self) -> list[Event]:
        """The launches, in order."""
        return [e for e in self.events if e.kind == KERNEL]

    def key_averages(self, group_by: str = "operation") -> list[Row]:
        """What all launches of one operation, kernel, module or node of the backward pass took together.

        Raises:
            ValueError: for another ``group_by``.
        """
        return averages.rows(self.events, group_by, self.ceilings)

    def table(self, sort_by: str = "time", row_limit: int | None = 100, group_by: str = "operation") -> str:
        """The averages as text, the largest first.

        Args:
            sort_by: ``time`` (of kernels), ``host``, ``calls``, ``launches``, ``flops``, ``bytes``, ``least`` or ``name``.
            row_limit: how many rows; None or −1 for all. The last line sums all of them, shown or not.
            group_by: ``operation``, ``kernel``, ``module`` or ``node``.

        Raises:
            ValueError: for another ``sort_by`` or ``group_by``.
        """
        limit = None if row_limit is None or row_limit < 0 else row_limit
        return averages.table(self.key_averages(group_by), sort_by, limit, self.seconds, group_by)

    def chrome_trace(self, path: PathLike) -> Path:
        """Writes trace events that ui.perfetto.dev and chrome://tracing open, whole or not at all."""
        return trace.write(Path(path), self.events, None if self._watch is None else self._watch.timeline)

    export_chrome_trace = chrome_trace

    @property
    def memory(self) -> MemoryTimeline:
        """What was allocated over time, with ``memory=True``.

        Raises:
            RuntimeError: without.
        """
        if self._watch is None:
            raise RuntimeError("profile: allocations were not noted; make the profile with memory=True")
        return self._watch.timeline

    def memory_timeline(self, path: PathLike) -> Path:
        """Draws :attr:`memory` to a picture; the format is the path's suffix."""
        return memory_timeline.draw(self.memory, Path(path))

    def __repr__(self) -> str:
        return f"<profile of {len(self.kernels)} launches in {self.seconds:.3f} s>"


class record_function(contextlib.ContextDecorator):
    """A scope with a name of one's own in the profiles that are open, a context or a decorator; nothing without any."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._profiles: list[list[profile]] = []

    def __enter__(self) -> record_function:
        self._profiles.append(list(_open.profiles))
        for p in self._profiles[-1]:
            p._begin(SCOPE, self.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for p in self._profiles.pop():
            if p in _open.profiles:
                p._end()
