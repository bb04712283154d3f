"""What the environment says (docs/README.md lists the variables). A value that means nothing is an error, never ignored."""

from __future__ import annotations

import difflib
import os
import warnings

#: The variables that there are.
NAMES = (
    "TINYFLOW_INTERPRETER",
    "TINYFLOW_INTERPRETER_THREADS",
    "TINYFLOW_LAUNCHER",
    "TINYFLOW_LOG",
    "TINYFLOW_QUIET",
    "TINYFLOW_STRICT",
    "TINYFLOW_STRICT_SEED",
    "TINYFLOW_TUNED",
)

#: Words for yes, in any case; Triton takes the same for its own variables.
YES = ("1", "true", "yes", "on", "y")
_NO = ("0", "false", "no", "off", "n")


def warn_of_mistyped() -> None:
    """A UserWarning for each variable that is set and is called almost as one of ours."""
    for name in os.environ:
        if name.startswith("TINYFLOW_") and name not in NAMES:
            meant = difflib.get_close_matches(name, NAMES, 1, cutoff=0.9)
            if meant:
                warnings.warn(f"{name} means nothing here; was {meant[0]} meant?", stacklevel=2)


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()


def choice(name: str, known: tuple[str, ...]) -> str:
    """The variable's word, the first of ``known`` where it is unset or empty.

    Raises:
        ValueError: for a word that is not known.
    """
    value = _value(name).lower() or known[0]
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    return value


def words(name: str, known: tuple[str, ...]) -> frozenset[str]:
    """The variable's words, divided by commas.

    Raises:
        ValueError: for a word that is not known.
    """
    found = [word.strip() for word in _value(name).split(",")]
    for word in found:
        if word and word not in known:
            raise ValueError(f"{name}: unknown word {word!r}; known are {', '.join(map(repr, known))}")
    return frozenset(filter(None, found))


def flag(name: str) -> bool:
    """True for 1, true, yes, on and y, False for their opposites and where the variable is unset or empty.

    Raises:
        ValueError: for another word.
    """
    value = _value(name).lower()
    if value and value not in YES + _NO:
        raise ValueError(f"{name} must be one of {', '.join(YES)}, or of {', '.join(_NO)}, got {value!r}")
    return value in YES


def integer(name: str, least: int | None = None) -> int | None:
    """The variable's number, None where it is unset or empty.

    Raises:
        ValueError: for what is no integer, or one below ``least``.
    """
    value = _value(name)
    if not value:
        return None
    try:
        number = int(value)
    except ValueError:
        number = None
    if number is None or (least is not None and number < least):
        kind = {None: "an integer", 1: "a positive integer"}.get(least, f"an integer from {least} on")
        raise ValueError(f"{name} must be {kind}, got {value!r}") from None
    return number
