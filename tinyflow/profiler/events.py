"""What a profile notes: calls of modules, operations, nodes of the backward pass, scopes of the user, and launches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tinyflow.kernels.launch import Cost, Launch
from tinyflow.kernels.memory import Buffer, Moment, device

#: The kinds of events.
MODULE, OPERATION, NODE, SCOPE, KERNEL = "module", "operation", "node", "scope", "kernel"


@dataclass(eq=False)
class Event:
    """Something that took time.

    Attributes:
        kind: ``module``, ``operation``, ``node``, ``scope`` or ``kernel``.
        name: what it is called.
        parent: the event in which it happened.
        module: the dotted name of the module that it belongs to, in the backward pass too; None: of no module.
        backward: whether it is part of a backward pass.
        start, stop: seconds on the host, from the start of the profile.
        seconds: of a kernel what it took: on the device where that knows, else on the host.
        device_start: when a kernel began on the device, from the start of the profile; None where the host's clock serves.
        cost: of a kernel its FLOPs and least bytes.
        family: of a kernel the file, or the folder, of kernels/ that it is in; of another's kernel its module.
        dtype: of a kernel the floating-point type that it computes with, by its first such operand.
        operands: of a kernel the shapes and dtypes of its buffers.
        forward: of a node the operation of the forward pass that it differentiates.
    """

    kind: str
    name: str
    parent: Event | None
    module: str | None
    backward: bool
    start: float
    stop: float = 0.0
    seconds: float = 0.0
    device_start: float | None = None
    cost: Cost = field(default_factory=Cost)
    family: str = ""
    dtype: str = ""
    operands: tuple[tuple[tuple[int, ...], Any], ...] = ()
    forward: Event | None = None

    def around(self) -> Iterator[Event]:
        """The events in which it happened, the innermost first."""
        event = self.parent
        while event is not None:
            yield event
            event = event.parent

    @property
    def operation(self) -> Event | None:
        """The operation that launched a kernel, or else the node in whose backward pass it was launched."""
        return next((e for e in self.around() if e.kind in (OPERATION, NODE)), None)

    @property
    def path(self) -> str:
        """Where it happened, from the outside in."""
        names = [e.name for e in (self, *self.around()) if e.kind != MODULE]
        where = "" if self.module is None else f" in {self.module or 'the model'}"
        return " › ".join(reversed(names)) + where


class Timed:
    """A kernel's event and its moments, from which its time is read when the device is done."""

    __slots__ = ("event", "_device", "_start", "_stop")

    def __init__(self, event: Event, launch: Launch) -> None:
        self.event, self._device = event, launch.device
        event.cost, event.family = launch.cost, _family(launch.kernel)
        buffers = [b for b in (getattr(x, "base", x) for x in launch.args) if isinstance(b, Buffer)]
        event.operands = tuple((tuple(b.shape), b.dtype) for b in buffers)
        floats = [b.dtype for b in buffers if b.dtype.is_floating_point]
        event.dtype = str(floats[0]).removeprefix("torch.") if floats else ""
        self._stop: Moment | None = None
        self._start = Moment(launch.device)

    def finish(self) -> None:
        self._stop = Moment(self._device)

    def settle(self, origin: Moment, device: device) -> None:
        """Reads the times, counted from ``origin`` on ``device``; waits for the kernel."""
        event, stop = self.event, self._stop
        event.start = self._start.host - origin.host
        event.stop = event.start if stop is None else stop.host - origin.host
        if stop is None or self._device.type == "meta":
            return
        event.seconds = stop.since(self._start)
        if self._start.is_queued and origin.is_queued and self._device == device:
            event.device_start = self._start.since(origin)


def kernel_name(launch: Launch) -> str:
    """The kernel's name, with that of the function that it applies to elements where it is given one."""
    function = getattr(launch.constexprs.get("FN"), "__name__", None)
    name: str = launch.kernel.__name__
    return name if function is None else f"{name} {function}"


def _family(kernel: Any) -> str:
    names = kernel.fn.__module__.split(".")
    return str(names[2] if names[:2] == ["tinyflow", "kernels"] else names[-1])
