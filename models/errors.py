"""What the programs report in one sentence instead of a traceback."""

from typing import Any


class InputError(ValueError):
    """An option, a file or a folder that a program cannot work with; the message says what to do."""


def check_positive(config: Any, *names: str) -> None:
    """Raises InputError if one of a program's numbers is less than 1."""
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")


def one_line(error: Exception, limit: int = 300) -> str:
    """An error's message without line breaks, its end left out where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
