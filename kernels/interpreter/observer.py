"""The one place where a checker looks into a running kernel.

``observer`` is None and costs nothing, until ``observe(checker)`` names an object with the methods of ``Observer``. They
are called with *handles*: ``handle.data`` is the tile as a numpy array (pointers as uint64 addresses, in bytes),
``handle._form`` may hold its symbolic form (see ``forms``), from which bounds and strides can be read without building
the array. A method that raises ends the launch with that error. Descriptor accesses arrive as loads and stores of the
pointers and the mask they stand for. The program that runs is ``launch.program()``, the kernel ``launch.current``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Observer(Protocol):
    """What a checker may implement; all arguments are to be read only."""

    def on_launch(self, kernel: Any, arguments: Mapping[str, Any], grid: tuple[int, int, int]) -> None:
        """Before the first program: the kernel (an InterpretedFunction), its arguments by name, the grid."""

    def on_program(self, index: tuple[int, int, int]) -> None:
        """Before each program."""

    def on_load(self, pointer: Any, mask: Any | None, other: Any | None) -> None:
        """Before a load; ``mask`` and ``other`` are handles or None."""

    def on_store(self, pointer: Any, value: Any, mask: Any | None) -> None:
        """Before a store."""

    def on_atomic(self, pointer: Any, value: Any, mask: Any | None) -> None:
        """Before an atomic read-modify-write or compare-and-swap."""

    def on_finish(self, kernel: Any, arguments: Mapping[str, Any]) -> None:
        """After the last program, if none raised."""


#: The observer in force, or None.
current: Observer | None = None


def observe(observer: Observer | None) -> Observer | None:
    """Makes ``observer`` the one that is told of every launch and access; returns the one before."""
    global current
    previous, current = current, observer
    return previous
