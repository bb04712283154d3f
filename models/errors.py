"""What the programs report in one sentence instead of a traceback."""


class InputError(ValueError):
    """An option, a file or a folder that a program cannot work with; the message says what to do."""


def one_line(error: Exception, limit: int = 300) -> str:
    """An error's message without line breaks, its end left out where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
