"""Whether operations are recorded in the graph: one switch per thread."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Mode(threading.local):
    """What recording depends on, in one place that every operation reads."""

    def __init__(self) -> None:
        self.enabled = True
        self.inference = False
        #: ``enabled``, and not in inference mode.
        self.records = True
        #: Somebody looks at what is recorded: any of what follows.
        self.watched = False
        #: Pairs of functions that keep saved tensors, the innermost last, and why hooks are forbidden at present.
        self.saved_tensor_hooks: list[Any] = []
        self.hooks_forbidden: list[str] = []
        #: Copies saved tensors before they are changed.
        self.mutation: Any = None
        #: Anomaly mode, whether it looks for NaN, and the node whose backward pass is running.
        self.anomaly = False
        self.check_nan = True
        self.running: Any = None
        #: Each is told of a node before its backward pass, and returns what is to be called after it.
        self.node_observers: list[Callable[[Any], Callable[[], None]]] = []
        #: The levels of forward-mode differentiation.
        self.dual_levels: list[Any] = []

    def switch(self, enabled: bool, inference: bool) -> None:
        """Sets the two switches."""
        self.enabled, self.inference, self.records = enabled, inference, enabled and not inference

    def look(self) -> None:
        """Finds out anew whether somebody looks."""
        self.watched = bool(self.saved_tensor_hooks or self.mutation or self.anomaly or self.dual_levels)


mode = Mode()


def is_grad_enabled() -> bool:
    """True if operations on tensors that require gradients are being recorded in this thread."""
    return mode.enabled


def is_inference_mode_enabled() -> bool:
    """True inside :class:`inference_mode`."""
    return mode.inference


def carries_tangents() -> bool:
    """True inside a level of forward mode, where what computes must be made of operations, recorded or not."""
    return bool(mode.dual_levels)


class _GradMode:
    """A context manager and decorator that sets the switches and puts them back; None leaves inference mode as it is."""

    def __init__(self, enabled: bool, inference: bool | None = None) -> None:
        self._target = enabled, inference
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((mode.enabled, mode.inference))
        enabled, inference = self._target
        mode.switch(enabled, mode.inference if inference is None else inference)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.switch(*self._before.pop())

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            return self._generator(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _GradMode(*self._target):
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]

    def _generator(self, function: F) -> F:
        """The switch holds while the generator runs, and not while its caller does."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            sent: Any = None
            try:
                while True:
                    with _GradMode(*self._target):
                        value = generator.send(sent)
                    sent = yield value
            except StopIteration as end:
                return end.value
            finally:
                generator.close()

        return wrapped  # type: ignore[return-value]


class _BareDecorator(_GradMode):
    """A mode that decorates without parentheses too."""

    def __new__(cls, function: Any = None) -> Any:
        return cls()(function) if callable(function) else super().__new__(cls)


class no_grad(_BareDecorator):
    """Records nothing: results do not require gradients. A context manager, or a decorator."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_BareDecorator):
    """Records again inside a :class:`no_grad` block."""

    def __init__(self) -> None:
        super().__init__(True)


class inference_mode(_BareDecorator):
    """As :class:`no_grad`, and new tensors are *inference tensors*, for which not even changes are counted.

    They can be read anywhere, but outside of inference mode they can neither be changed in place nor saved for a backward
    pass: ``clone()`` gives a normal tensor. ``mode=False`` leaves inference mode for a block.
    """

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode, mode)


class set_grad_enabled(_GradMode):
    """Sets recording to ``mode`` at once, and puts it back where it is used as a context manager or decorator."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        self._previous = is_grad_enabled()
        _set_enabled(bool(mode))

    def __enter__(self) -> None:
        self._before.append((self._previous, mode.inference))
        _set_enabled(self._target[0])

    def __call__(self, function: F) -> F:
        _set_enabled(self._previous)
        return super().__call__(function)


def _set_enabled(enabled: bool) -> None:
    mode.switch(enabled, mode.inference)
