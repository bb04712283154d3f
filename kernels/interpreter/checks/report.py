"""What a failed check says: where in the kernel's source, in which program, on which element, and what to do."""

from __future__ import annotations

import itertools
import linecache
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType

import triton

_HIDDEN = (os.path.dirname(triton.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)
_LAUNCHER = os.path.join(os.path.dirname(__file__), "launch.py")
_ALLOW = re.compile(r"#\s*strict:\s*allow\s+(?P<check>[\w-]+)\s+\S")

Program = tuple[int, ...]


class StrictError(RuntimeError):
    """A kernel broke a rule that the strict interpreter checks.

    Attributes:
        check: the check that failed, such as ``"out-of-bounds"``.
        kernel: the name of the kernel that was launched.
        file, line: the place in the source.
        program: the program ids.
    """

    def __init__(self, message: str, check: str, kernel: str, place: Place | None, program: Program | None) -> None:
        super().__init__(message)
        self.check = check
        self.kernel = kernel
        self.file = place.file if place else ""
        self.line = place.line if place else 0
        self.program = program


@dataclass(frozen=True)
class Place:
    """An expression in a kernel's source, and the device-function calls that led to it, innermost first."""

    code: CodeType
    instruction: int
    line: int
    callers: tuple[tuple[CodeType, int], ...] = ()

    @property
    def key(self) -> tuple[CodeType, int]:
        """Equal for two visits of the same expression."""
        return self.code, self.instruction

    @property
    def file(self) -> str:
        return self.code.co_filename

    def allows(self, check: str) -> bool:
        """True if a comment ``# strict: allow CHECK reason`` stands on the line."""
        match = _ALLOW.search(linecache.getline(self.file, self.line))
        return match is not None and match["check"] == check

    def show(self) -> list[str]:
        """The place as a compiler prints it: file and line, the source line, the expression underlined."""
        text = linecache.getline(self.file, self.line).rstrip()
        gutter = " " * len(str(self.line))
        shown = [f"{gutter}--> {self.file}:{self.line} in {self.code.co_name}"]
        if text:
            code = text.lstrip()
            shown += [f"{gutter} |", f"{self.line} | {code}"]
            first, last = self._columns(text, len(text) - len(code))
            if last > first:
                shown.append(f"{gutter} | {' ' * first}{'^' * (last - first)}")
        shown += [f"{gutter} = called from {code.co_filename}:{line} in {code.co_name}" for code, line in self.callers]
        return shown

    def _columns(self, text: str, indent: int) -> tuple[int, int]:
        """First and last column of the expression in the line without its indentation; (0, 0) if unknown."""
        positions = getattr(self.code, "co_positions", None)  # Python 3.11 and later
        if positions is None:
            return 0, 0
        line, end_line, first, last = next(itertools.islice(positions(), self.instruction // 2, None))
        if None in (line, end_line, first, last) or line != self.line:
            return 0, 0
        # Triton compiles a kernel's source without the indentation of its `def`.
        shift = indent - self._dedent()
        last = last if end_line == line else len(text) - self._dedent()
        return max(first - shift, 0), max(min(last - shift, len(text) - indent), 0)

    def _dedent(self) -> int:
        header = linecache.getline(self.file, self.code.co_firstlineno)
        return len(header) - len(header.lstrip())


def here() -> Place | None:
    """The place in a kernel that the caller runs for."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_HIDDEN):
        frame = frame.f_back
    if frame is None:
        return None
    first, callers = frame, []
    while (frame := frame.f_back) is not None:
        name = frame.f_code.co_filename
        if name == _LAUNCHER:
            break
        if not name.startswith(_HIDDEN):
            callers.append((frame.f_code, frame.f_lineno))
    return Place(first.f_code, first.f_lasti, first.f_lineno, tuple(callers[:8]))


def failure(
    check: str,
    headline: str,
    *,
    kernel: str,
    place: Place | None,
    program: Program | None = None,
    grid: Sequence[int] | None = None,
    notes: Iterable[str] = (),
    also: tuple[str, Place | None] | None = None,
    help: str = "",
) -> StrictError:
    """The error of one finding.

    Args:
        notes: facts, one a line.
        also: a second place that has to do with it, and what happened there.
        help: what to do.
    """
    lines = [f"{check}: {headline}"]
    lines += place.show() if place else [f" --> kernel {kernel}"]
    width = len(str(place.line)) if place else 0
    facts = list(notes)
    if program is not None:
        facts.insert(0, f"kernel {kernel}, program {program}" + (f" of grid {tuple(grid)}" if grid is not None else ""))
    for fact in facts:
        lines += textwrap.wrap(
            fact, 116 - width, initial_indent=" " * width + " = ", subsequent_indent=" " * width + "   "
        )
    if also is not None and also[1] is not None:
        lines += [f"{also[0]}:", *also[1].show()]
    if help:
        lines += textwrap.wrap(
            f"help: {help}", 116 - width, initial_indent=" " * width + " = ", subsequent_indent=" " * width + "   "
        )
    return StrictError("\n".join(lines), check, kernel, place, program)
