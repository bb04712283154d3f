"""Ctrl-C that waits for the step to end, so that what is saved is a state between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interruption:
    """Whether someone asked to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def watch() -> Iterator[Interruption]:
    """Takes the first SIGINT or SIGTERM as a request to stop; a second one stops at once."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change handlers
        yield interruption
        return

    def request(number: int, frame: FrameType | None) -> None:
        if interruption.requested:
            raise KeyboardInterrupt
        interruption.requested = True

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
