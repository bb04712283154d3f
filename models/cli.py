"""The ``tinyflow`` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from tinyflow.data import DataError
from tinyflow.models.config import Evaluate, Info, Predict, Train, Tune
from tinyflow.models.errors import InputError

#: What shells give for a program that Ctrl-C ended, and what this one gives for input that it cannot work with.
_INTERRUPTED, _BAD_INPUT = 130, 2

_COMMANDS: Any = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
)


#: Options of which a program chooses for itself, unless told: ``--amp`` and ``--no-amp`` for ``--amp True`` and False.
_CHOSEN = ("flip", "amp", "capture")


def _spelled_out(arguments: Sequence[str]) -> list[str]:
    """The arguments with the value of each option that goes without."""
    short = {f"--{name}": (f"--{name}", "True") for name in _CHOSEN}
    short |= {f"--no-{name}": (f"--{name}", "False") for name in _CHOSEN}
    spelled: list[str] = []
    for k, argument in enumerate(arguments):
        valued = arguments[k + 1 : k + 2] and arguments[k + 1] in ("None", "True", "False")
        spelled.extend((argument,) if valued else short.get(argument, (argument,)))
    return spelled


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses ``arguments`` (default: the command line), runs the program, and returns the exit code."""
    config = tyro.cli(
        _COMMANDS,
        prog="tinyflow",
        description="Trains and uses image classifiers whose every floating-point operation is a Triton kernel.",
        args=_spelled_out(sys.argv[1:] if arguments is None else arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    name = type(config).__name__.lower()
    try:
        return _run(config)
    except (DataError, InputError) as error:
        print(f"tinyflow {name}: {error}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush to
            return 1
        where = f"{error.filename}: " if error.filename else ""
        print(f"tinyflow {name}: {where}{error.strerror or error}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print(f"tinyflow {name}: stopped", file=sys.stderr)
        return _INTERRUPTED


def _run(config: Train | Evaluate | Predict | Info | Tune) -> int:
    # Each program is imported when it is asked for: the others' kernels are not needed.
    if isinstance(config, Train):
        from tinyflow.models.train import train

        return train(config)
    if isinstance(config, Evaluate):
        from tinyflow.models.evaluate import evaluate

        return evaluate(config)
    if isinstance(config, Predict):
        from tinyflow.models.predict import predict

        return predict(config)
    if isinstance(config, Tune):
        from tinyflow.models.tune import tune

        return tune(config)
    from tinyflow.models.info import info

    return info(config)
