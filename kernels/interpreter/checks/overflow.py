"""Signed integers that wrap around on the way to an address or a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton.language as tl

from tinyflow.kernels.interpreter.checks.report import Place, Program, StrictError, failure

CHECK = "integer-overflow"

_WIDE: dict[str, tuple[str, Callable[..., Any]]] = {
    "create_add": ("+", np.add),
    "create_sub": ("-", np.subtract),
    "create_mul": ("*", np.multiply),
}
OPERATIONS = tuple(_WIDE)
_SIGNED = (tl.int8, tl.int16, tl.int32)


@dataclass(frozen=True)
class Overflow:
    """One operation whose result did not fit its type, on its first such lane."""

    place: Place | None
    program: Program
    sign: str
    left: int
    right: int
    value: int
    got: int
    dtype: str


def wrapped_lanes(operation: str, left: Any, right: Any, result: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """For a signed operation that wrapped: which lanes, and the true values as int64; else None."""
    if result.dtype.scalar not in _SIGNED:
        return None
    a, b = np.asarray(left.data), np.asarray(right.data)
    if a.dtype.kind != "i" or b.dtype.kind != "i":
        return None
    wide = np.asarray(_WIDE[operation][1](a.astype(np.int64), b.astype(np.int64)))
    lost = wide != result.data
    return (lost, wide) if lost.any() else None


def describe(
    operation: str,
    left: Any,
    right: Any,
    result: Any,
    lost: np.ndarray,
    wide: np.ndarray,
    place: Place | None,
    program: Program,
) -> Overflow:
    """The first wrapped lane, for a report."""
    at = np.unravel_index(int(np.argmax(lost)), lost.shape)
    a, b = (int(np.broadcast_to(np.asarray(h.data), lost.shape)[at]) for h in (left, right))
    got = int(np.broadcast_to(np.asarray(result.data), lost.shape)[at])
    return Overflow(place, program, _WIDE[operation][0], a, b, int(wide[at]), got, str(result.dtype.scalar))


def clipped(result: Any, wide: np.ndarray) -> Any:
    """The result with its wrapped lanes at the end of the type's range, where a comparison sees the true side."""
    limits = np.iinfo(result.data.dtype)
    return type(result)(np.clip(wide, limits.min, limits.max).astype(result.data.dtype), result.dtype)


def overflow_report(found: Overflow, kernel: str, grid: Sequence[int], notes: Sequence[str]) -> StrictError:
    """The error on an overflow that reaches an address or a mask."""
    formula = f"{found.left} {found.sign} {found.right} = {found.value}"
    return failure(
        CHECK,
        f"index arithmetic leaves {found.dtype}: {formula} wraps to {found.got}",
        kernel=kernel,
        place=found.place,
        program=found.program,
        grid=grid,
        notes=notes,
        help="make one operand 64-bit before the operation, for example with .to(tl.int64)",
    )
