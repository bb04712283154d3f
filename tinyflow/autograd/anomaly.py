"""Anomaly mode: says where in the program the operation was called whose backward pass fails, or makes NaN."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import PARENT, WHERE, Node

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor


def is_anomaly_enabled() -> bool:
    """True if anomaly mode is on in this thread."""
    return mode.anomaly


def is_anomaly_check_nan_enabled() -> bool:
    """True if anomaly mode, when it is on, refuses NaN in gradients."""
    return mode.check_nan


def _set(enabled: bool, check_nan: bool) -> None:
    mode.anomaly, mode.check_nan = enabled, check_nan
    mode.look()


class detect_anomaly:
    """A context in which the forward pass notes where each operation is called, and the backward pass says it in errors.

    With ``check_nan`` a gradient that holds NaN is an error, naming the operation whose backward pass made it. Both cost
    time: every operation keeps its call stack, and every gradient is read on the host. For debugging.
    """

    def __init__(self, check_nan: bool = True) -> None:
        self._check_nan = check_nan
        self._before = mode.anomaly, mode.check_nan
        warnings.warn(
            "Anomaly Detection has been enabled. This mode will increase the runtime and should only be enabled for "
            "debugging.",
            stacklevel=2,
        )

    def __enter__(self) -> None:
        self._before = mode.anomaly, mode.check_nan
        _set(True, self._check_nan)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set(*self._before)


class set_detect_anomaly:
    """Turns anomaly mode on or off at once, and puts it back where it is used as a context manager."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = is_anomaly_enabled(), is_anomaly_check_nan_enabled()
        _set(bool(mode), bool(check_nan))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set(*self._before)


def explain(node: Node) -> str:
    """Where the operation of ``node`` was called, and where that of the node whose backward pass called it."""
    lines = []
    current: Node | None = node
    while current is not None:
        notes = {} if current.attached is None else current.attached.metadata
        where = notes.get(WHERE)
        lines.append(
            f"Error detected in {current.name()}. No forward pass information available. Enable detect anomaly during "
            "forward pass for more information."
            if where is None
            else f"Error detected in {current.name()}. Traceback of forward call that caused the error:\n{where}"
        )
        current = notes.get(PARENT)
    return "\n\nPrevious calculation was induced by the following one.\n".join(lines)


def refuse_nan(node: Node, results: Sequence[Tensor | None]) -> None:
    """Raises for NaN in the gradients that a node gave.

    Raises:
        RuntimeError: naming the node and which of its results it is.
    """
    for k, grad in enumerate(results):
        if grad is not None and grad.device.type != "meta" and bool(grad.detach().isnan().any()):
            raise RuntimeError(f"Function '{node.name()}' returned nan values in its {k}th output.")
