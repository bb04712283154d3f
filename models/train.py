"""``tinyflow train``: from a data set to a checkpoint, a metrics file and a learning curve."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tinyflow.data import open_data
from tinyflow.models import checkpoint
from tinyflow.models.config import Train
from tinyflow.models.display import Display
from tinyflow.models.errors import InputError
from tinyflow.models.interrupt import watch
from tinyflow.models.run import BEST, CURVE, LAST, METRICS, Interrupted, Run

STOPPED = 130  # what shells give for a program that Ctrl-C ended

#: Options that a resumed run may be given anew; the others are those of the run.
_FREE_ON_RESUME = ("resume", "out", "data", "device", "capture")


def train(config: Train) -> int:
    """Runs the program; returns its exit code.

    Raises:
        InputError, DataError: if options, data or checkpoint cannot be used.
    """
    state: dict[str, Any] | None = None
    if config.resume:
        state = checkpoint.load(_folder(config) / LAST)
        config = _resumed(config, state)
    _check(config)
    if config.data is not None:
        config = replace(config, data=config.data.expanduser().absolute())
    splits = open_data(config.data, config.image_size)
    out = config.out or Path("runs") / splits.name
    if state is None and (out / LAST).exists():
        raise InputError(
            f"{out} holds a run already; continue it with --resume, choose another folder with --out, or delete it"
        )
    run = Run(config, splits, out, None if config.resume else config.weights)
    if state is not None:
        run.load_state_dict(state)
    run.write_history()
    with Display() as display, watch() as interruption:
        display.say(
            f"{config.model} on {splits.name}, on {run.classifier.device}: {len(splits.train):,} images to learn from, "
            f"{len(splits.test):,} to test, {len(splits.train.classes)} classes, {run.steps:,} steps{_manner(run)}"
        )
        try:
            run.run(display, interruption)
        except Interrupted:
            quoted = shlex.quote(str(out))
            display.say(f"stopped; saved in {out / LAST}. Go on with: tinyflow train --resume --out {quoted}")
            return STOPPED
    top = max(run.history, key=lambda record: record.test_accuracy)
    display.say(
        f"best test accuracy {100 * top.test_accuracy:.2f} % in epoch {top.epoch}. "
        f"{out} holds {BEST}, {LAST}, {METRICS} and {CURVE}"
    )
    return 0


def _manner(run: Run) -> str:
    """How the steps are computed, where that is not in float32 one by one."""
    words = [", products in bfloat16"] * bool(run.config.amp) + [", the step recorded"] * run.captures
    return "".join(words)


def _folder(config: Train) -> Path:
    return config.out or Path("runs") / open_data(config.data, config.image_size).name


def _resumed(config: Train, state: dict[str, Any]) -> Train:
    """The saved run's options.

    Raises:
        InputError: if an option asks for something else.
    """
    try:
        saved = Train(**state["config"])
    except (KeyError, TypeError) as error:
        raise InputError(f"the checkpoint does not fit this version of tinyflow: {error}") from None
    for field in fields(Train):
        given, kept = getattr(config, field.name), getattr(saved, field.name)
        if field.name not in _FREE_ON_RESUME and given not in (field.default, kept):
            option = "--" + field.name.replace("_", "-")
            raise InputError(f"--resume continues the run as it was started, with {option} {kept}; leave {option} out")
    data = config.data or (Path(saved.data) if saved.data else None)
    out = config.out or (Path(saved.out) if saved.out else None)
    return replace(saved, resume=True, data=data, out=out, device=config.device, capture=config.capture)


def _check(config: Train) -> None:
    for name, value, allowed, wanted in (
        ("epochs", config.epochs, config.epochs >= 1, "at least 1"),
        ("batch-size", config.batch_size, config.batch_size >= 1, "at least 1"),
        ("lr", config.lr, 0 < config.lr < float("inf"), "a positive number"),
        ("momentum", config.momentum, 0 <= config.momentum < 1, "from 0 to below 1"),
        ("weight-decay", config.weight_decay, 0 <= config.weight_decay < float("inf"), "0 or more"),
        ("label-smoothing", config.label_smoothing, 0 <= config.label_smoothing <= 1, "from 0 to 1"),
        ("image-size", config.image_size, config.image_size is None or config.image_size >= 1, "at least 1"),
        ("shift", config.shift, config.shift is None or config.shift >= 0, "0 or more"),
        ("checkpoint-every", config.checkpoint_every, config.checkpoint_every >= 0, "0 or more"),
        ("seed", config.seed, config.seed >= 0, "0 or more"),
    ):
        if not allowed:
            raise InputError(f"--{name}: expected {wanted}, got {value}")
