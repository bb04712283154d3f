"""Whether operations are recorded in the graph: one switch per thread."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _Mode(threading.local):
    enabled = True
    inference = False


_mode = _Mode()


def is_grad_enabled() -> bool:
    """True if operations on tensors that require gradients are being recorded in this thread."""
    return _mode.enabled


def is_inference_mode_enabled() -> bool:
    """True inside :class:`inference_mode`."""
    return _mode.inference


class _GradMode:
    """A context manager and decorator that sets the switch and puts it back."""

    def __init__(self, enabled: bool, inference: bool = False) -> None:
        self._target = enabled, inference
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((_mode.enabled, _mode.inference))
        _mode.enabled, _mode.inference = self._target[0], self._target[1] or _mode.inference

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _mode.enabled, _mode.inference = self._before.pop()

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
    """As :class:`no_grad`; ``mode=False`` leaves recording on."""

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode, mode)


class set_grad_enabled(_GradMode):
    """Sets recording to ``mode`` at once, and puts it back where it is used as a context manager or decorator."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        self._previous = _mode.enabled
        _mode.enabled = bool(mode)

    def __enter__(self) -> None:
        self._before.append((self._previous, _mode.inference))
        _mode.enabled = self._target[0]

    def __call__(self, function: F) -> F:
        _mode.enabled = self._previous
        return super().__call__(function)
