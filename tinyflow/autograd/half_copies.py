"""Half-precision copies of parameters, written by the optimizer's step and taken by the next autocast region.

A region that has to cast a parameter wants its copy from then on (:func:`want`). A step that changes the parameter writes
the copy too, into new memory, since a graph may still hold the one before, and leaves it here (:func:`offer`). It serves
(:func:`find`) while the parameter is unchanged since: anyone else's change moves its version or its memory, and memory that
was handed out, by ``data`` or to numpy, has no copy. One that nobody took by the next step is not made again.

A captured step takes its copies from memory that stays (:func:`find_recorded`): the recorded optimizer writes it, and a
replay casts once more where somebody else has changed the parameter since the last one.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinyflow.autograd.function import Function
from tinyflow.kernels import elementwise, memory, strides
from tinyflow.kernels.memory import Buffer
from tinyflow.recording import Recording
from tinyflow.tensor import Tensor


@dataclass
class _Entry:
    """A parameter that is cast to ``dtype``, and a copy of what it was at ``version`` in ``data``, if one was offered."""

    parameter: weakref.ref[Tensor]
    dtype: memory.dtype
    copy: Buffer | None = None
    data: Buffer | None = None
    version: int = 0
    stamp: tuple[int, int] | None = None
    taken: bool = True


_entries: dict[int, _Entry] = {}  # by the identity of the parameter, and only as long as it lives


def _entry(parameter: Tensor) -> _Entry | None:
    found = _entries.get(id(parameter))
    return found if found is not None and found.parameter() is parameter else None


def want(parameter: Tensor, dtype: memory.dtype) -> None:
    """Has the next step of an optimizer leave a copy of ``parameter`` in ``dtype``."""
    key = id(parameter)
    _entries[key] = _Entry(weakref.ref(parameter, lambda ref: _forget(key, ref)), dtype)


def _forget(key: int, ref: weakref.ref[Any]) -> None:
    found = _entries.get(key)
    if found is not None and found.parameter is ref:
        del _entries[key]


def wanted(parameter: Tensor) -> memory.dtype | None:
    """In which dtype a step is to leave a copy of ``parameter``, if at all."""
    found = _entry(parameter)
    if found is None:
        return None
    if not found.taken or memory.stamp(parameter._data) is None:
        del _entries[id(parameter)]
        return None
    return found.dtype


def offer(parameter: Tensor, copy: Buffer) -> None:
    """Leaves a copy of what ``parameter`` holds now."""
    found = _entry(parameter)
    if found is not None:
        found.copy, found.taken = copy, False
        found.data, found.version, found.stamp = parameter._data, parameter._version, memory.stamp(parameter._data)


def find(parameter: Tensor, dtype: memory.dtype) -> Tensor | None:
    """``parameter`` in ``dtype``, with the history of a cast, if a copy of what it holds now was left."""
    found = _entry(parameter)
    if found is None or found.copy is None or found.dtype != dtype:
        return None
    now = parameter._version, memory.stamp(parameter._data)
    if found.data is not parameter._data or found.stamp is None or (found.version, found.stamp) != now:
        return None
    found.taken = True
    return _Cast.apply(parameter, found.copy)


class _Fixed:
    """The copy of a parameter in the memory of a captured step."""

    def __init__(self, parameter: Tensor, dtype: memory.dtype) -> None:
        self.parameter, self.dtype = parameter, dtype
        self.copy: Buffer | None = None
        self.casts: list[Tensor] = []
        self.now: Any = None  # what the parameter was when the copy, or the last run, was known to be of it
        self.run = 0
        self.taken = self.written = -1  # the parameter's version where this run took it first, and where it was written
        self.kept = False  # whether a run left the parameter as the step took it, or as an optimizer wrote it

    def unchanged(self) -> bool:
        return self.now is not None and self.now == self._state()

    def _state(self) -> Any:
        """None where nobody counts what is written to the parameter."""
        stamp = memory.stamp(self.parameter._data)
        return None if stamp is None else (id(self.parameter._data), self.parameter._version, stamp)

    def start(self, run: int) -> None:
        """At the first use in a run of the step."""
        self.run, self.taken, self.written = run, self.parameter._version, -1
        self.copy, self.casts = None, []

    def ran(self) -> None:
        """After a run of the step that computed, but wrote no copy."""
        self.kept = self.parameter._version in (self.taken, self.written)
        self.now = self._state()

    def replayed(self) -> None:
        """After a replay, which left the parameter as it took it, or wrote it and its copy."""
        self.now = self._state()

    def refresh(self) -> None:
        """Before a replay: makes the copy anew, unless the replay before left it."""
        if self.copy is not None and not self.unchanged():
            elementwise.copy_into(self.copy, self.parameter._data)


def find_recorded(recording: Recording, parameter: Tensor, dtype: memory.dtype) -> Tensor | None:
    """``parameter`` in ``dtype`` from memory that each replay finds up to date; None where a cast must be recorded.

    Runs that compute show first that a step leaves the parameter as it takes it, or as its optimizer writes it.
    """
    key = id(parameter), dtype  # an identity that stays: the entry keeps the parameter
    fixed = recording.copies.get(key)
    if fixed is None:
        fixed = recording.copies[key] = _Fixed(parameter, dtype)
    first = fixed.run != recording.runs
    if first:
        fixed.start(recording.runs)
    if recording.computes:
        if first:
            recording.after(fixed.ran)
        return None
    if first and fixed.kept and fixed.unchanged():
        fixed.copy = memory.empty(parameter.shape, dtype, parameter.device, strides.like(parameter._data))
        fixed.now = None  # the first replay makes it
        recording.before(fixed.refresh)
        recording.after(fixed.replayed)
    if fixed.copy is None or parameter._version != fixed.taken:
        return None
    fixed.casts.append(_Cast.apply(parameter, fixed.copy))
    return fixed.casts[-1]


def recorded_copies(recording: Recording, parameters: Sequence[Tensor]) -> list[Buffer | None]:
    """Where a captured step's optimizer writes copies of these parameters; nowhere in a run that computes."""
    return [None if fixed is None else fixed.copy for fixed in _written(recording, parameters)]


def note_written(recording: Recording, parameters: Sequence[Tensor]) -> None:
    """An optimizer has changed the parameters, and written what :func:`recorded_copies` gave."""
    for fixed in _written(recording, parameters):
        if fixed is not None:
            fixed.written = fixed.parameter._version
            for cast in fixed.casts:  # so that a graph that still needs the old one says so
                cast._bump_version()


def _written(recording: Recording, parameters: Sequence[Tensor]) -> list[_Fixed | None]:
    """The copies, all in one dtype, that a step took."""
    taken: dict[int, _Fixed] = {}
    for fixed in recording.copies.values():
        if fixed.run == recording.runs:
            taken.setdefault(id(fixed.parameter), fixed)
    found = [taken.get(id(p)) for p in parameters]
    chosen = next((fixed.dtype for fixed in found if fixed is not None), None)
    return [None if fixed is None or fixed.dtype != chosen else fixed for fixed in found]


class _Cast(Function):
    """A cast whose result is there already."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, copy: Buffer) -> Tensor:
        ctx.dtype = parameter.dtype
        ctx.results_are_new = ctx.only_casts = True  # the gradient's cast is the parameter's to keep
        return Tensor(copy)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].to(ctx.dtype), None
