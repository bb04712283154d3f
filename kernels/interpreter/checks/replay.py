"""Whether what should not matter does: masked lanes of loads without ``other``, and integers that wrapped around.

The launch is run again from the same memory with those values changed, and the traces of all accesses are compared. If
no address, mask or stored value differs, the kernel does not use them. A difference is proof, with the place where it
first shows; running once more for each suspect alone names the guilty one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton.language as tl

from tinyflow.kernels.interpreter.checks.access import Access
from tinyflow.kernels.interpreter.checks.overflow import Overflow, overflow_report
from tinyflow.kernels.interpreter.checks.report import Place, StrictError, failure

CHECK = "masked-lane-used"
#: What undefined lanes hold, run by run. Each catches what another hides: NaN survives a product with 0 and gets lost
#: in a maximum, large numbers the other way round.
FILLS = ("nan", "high", "low")

_FLOAT = {"nan": float("nan"), "high": 3e4, "low": -3e4}
_INTEGER = {"nan": 85, "high": 23, "low": -91}


class _TooLong(Exception):
    """A run went on far longer than the one that it is compared with."""


@dataclass
class Pass:
    """One more run of a launch and the trace of its accesses."""

    #: what masked lanes of loads without ``other`` hold: a name in FILLS, or None for zero
    fill: str | None = None
    #: only the loads at this place are filled
    only: Any = None
    #: integers that wrapped are moved to the end of their range
    clip: bool = False
    #: the access whose lanes are kept
    capture: int = -1
    most: int = 1 << 62
    trace: list[tuple[Any, ...]] = field(default_factory=list)
    accesses: list[tuple[Place | None, tuple[int, ...], str]] = field(default_factory=list)
    captured: tuple[Access, np.ndarray | None] | None = None
    error: str | None = None

    def note(self, access: Access, values: np.ndarray | None) -> None:
        """Adds an access to the trace."""
        if len(self.trace) == self.capture:
            self.captured = access, values
        if len(self.trace) > self.most:
            raise _TooLong
        lanes = zlib.crc32(access.active.tobytes()) if access.active is not None else 0
        address = zlib.crc32(access.addresses.tobytes(), lanes)
        value = zlib.crc32(np.ascontiguousarray(values).tobytes()) if values is not None else 0
        self.trace.append((access.place.key if access.place else None, access.program, address, value))
        self.accesses.append((access.place, access.program, access.kind))

    def end(self, error: Exception) -> None:
        self.error = "it does not end" if isinstance(error, _TooLong) else f"it fails: {error!r}"

    def fills(self, place: Place | None) -> bool:
        return self.fill is not None and (self.only is None or (place is not None and place.key == self.only))


#: expression -> the kind of the access that it makes, and its place
Suspects = Mapping[Any, tuple[str, Place | None]]
Replay = Callable[[Pass], Pass]


def undefined_value(dtype: Any, fill: str | None) -> Any:
    """What an undefined lane of a Triton type holds in a run, as its numpy array keeps it."""
    if fill is None:
        return 0
    scalar = dtype.scalar
    if scalar == tl.bfloat16:
        return np.array(_FLOAT[fill], np.float32).view(np.uint32) >> np.uint32(16)
    if scalar.is_floating() and scalar.primitive_bitwidth >= 16:
        return _FLOAT[fill]
    if scalar == tl.int1:
        return fill != "low"
    return (
        abs(_INTEGER[fill]) if scalar.is_ptr() or scalar.is_floating() or not scalar.is_int_signed() else _INTEGER[fill]
    )


def find_difference(
    replay: Replay, masked: Suspects, overflows: Sequence[Overflow], kernel: str, grid: Sequence[int]
) -> StrictError | None:
    """Runs the launch again as often as it takes to judge the suspects; the error, if one of them matters."""
    base = replay(Pass())
    limit = 4 * len(base.trace) + 1000
    for fill in FILLS if masked else ():
        k = _first_difference(base, replay(Pass(fill, most=limit)), whole=True)
        if k is not None:
            return _masked_error(replay, base, k, fill, masked, limit, kernel, grid)
    if overflows:
        other = replay(Pass(clip=True, most=limit))
        k = _first_difference(base, other, whole=False)
        if k is not None:
            return overflow_report(overflows[0], kernel, grid, [f"the wrapped value decides {_what(base, k)}"])
    return None


def _first_difference(a: Pass, b: Pass, whole: bool) -> int | None:
    """The first access in which two runs differ: in place, lanes or addresses, and if ``whole`` in value."""
    for k, (x, y) in enumerate(zip(a.trace, b.trace)):
        if x != y if whole else x[:3] != y[:3]:
            return k
    return min(len(a.trace), len(b.trace)) if len(a.trace) != len(b.trace) or a.error != b.error else None


def _what(base: Pass, k: int) -> str:
    place, _, kind = base.accesses[min(k, len(base.accesses) - 1)]
    return f"which address the {kind} at line {place.line} touches" if place else f"which address a {kind} touches"


def _masked_error(
    replay: Replay, base: Pass, k: int, fill: str, masked: Suspects, limit: int, kernel: str, grid: Sequence[int]
) -> StrictError:
    guilty, other = next(iter(masked)), None
    for key in masked:
        alone = replay(Pass(fill, only=key, most=limit))
        at = _first_difference(base, alone, whole=True)
        if at is not None:
            guilty, other, k = key, alone, at
            break
    place, program, kind = base.accesses[min(k, len(base.accesses) - 1)]
    notes = []
    if other is not None and other.error is not None and k >= len(other.trace):
        notes.append(f"with other values in those lanes {other.error}")
    else:
        notes.append(_lane_that_differs(replay, k, fill, guilty, kind))
    what, source = masked[guilty]
    if what == "load":
        notes.append("masked lanes of a load without other= are undefined on a GPU; the interpreter gives zeros")
        help = "name the value of masked lanes with other=, or mask what uses them"
    else:
        notes.append("an atomic gives its masked lanes no value")
        help = "choose the value of masked lanes with tl.where, or mask what uses them"
    return failure(
        CHECK,
        f"the masked lanes of this {what} are used",
        kernel=kernel,
        place=source,
        program=program,
        grid=grid,
        notes=notes,
        also=(f"they reach this {kind}", place),
        help=help,
    )


def _lane_that_differs(replay: Replay, k: int, fill: str, guilty: Any, kind: str) -> str:
    first, second = (replay(Pass(f, only=guilty, capture=k)).captured for f in (None, fill))
    if first is None or second is None:
        return f"the {kind} that they reach is number {k} of the launch"
    (a, x), (b, y) = first, second
    if a.addresses.shape != b.addresses.shape:
        return f"they decide which lanes of the {kind} are on"
    moved = a.addresses != b.addresses
    different = moved.copy()
    if x is not None and y is not None:
        pairs = (v.reshape(len(moved), -1).view(np.uint8) for v in (x, y))
        different |= np.not_equal(*pairs).any(axis=1)
    lane = a.lane(int(np.argmax(different)))
    return f"they decide {'the address' if moved.any() else 'the value'} of {lane} of the {kind}"
