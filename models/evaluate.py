"""``tinyflow evaluate``: how well a checkpoint recognises images it has not learnt from."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tinyflow.data import Loader, open_data
from tinyflow.models import checkpoint
from tinyflow.models.classifier import Classifier, Judgement, judge
from tinyflow.models.config import Evaluate
from tinyflow.models.device import choose_device
from tinyflow.models.errors import InputError, check_positive


def evaluate(config: Evaluate) -> int:
    """Runs the program; returns its exit code.

    Raises:
        InputError, DataError: if checkpoint or data cannot be used.
    """
    check_positive(config, "batch_size")
    state = checkpoint.load(config.checkpoint)
    classifier = Classifier.from_state(state, config.checkpoint, choose_device(config.device))
    trained_on = state["config"]["data"]
    data = config.data or (Path(trained_on) if trained_on else None)
    preparation = classifier.preparation
    test = open_data(data, preparation.image_size).test
    if test.classes != classifier.classes or test.channels != preparation.channels:
        raise InputError(
            f"{config.checkpoint} knows {len(classifier.classes)} classes in {_kind(preparation.channels)}, "
            f"but the data has {len(test.classes)} in {_kind(test.channels)}, or calls them otherwise"
        )
    judgement = judge(classifier, Loader(test, config.batch_size))
    if config.json:
        print(json.dumps(_summary(judgement, classifier.classes)))
    else:
        Console(highlight=False).print(_table(judgement, classifier.classes))
    return 0


def _kind(channels: int) -> str:
    return "grey images" if channels == 1 else "colour images"


def _summary(judgement: Judgement, classes: tuple[str, ...]) -> dict[str, object]:
    return {
        "loss": judgement.loss,
        "accuracy": judgement.accuracy,
        "images": int(judgement.count.sum()),
        "classes": {
            name: {"correct": int(correct), "images": int(count)}
            for name, correct, count in zip(classes, judgement.correct, judgement.count)
        },
    }


def _table(judgement: Judgement, classes: tuple[str, ...]) -> Table:
    table = Table(caption=f"mean cross-entropy {judgement.loss:.4f}", show_footer=True)
    table.add_column("class", footer="all")
    table.add_column("images", justify="right", footer=f"{judgement.count.sum():,}")
    table.add_column("recognised", justify="right", footer=f"{judgement.correct.sum():,}")
    table.add_column("accuracy", justify="right", footer=f"{100 * judgement.accuracy:.2f} %")
    for name, correct, count in zip(classes, judgement.correct, judgement.count):
        table.add_row(name, f"{count:,}", f"{correct:,}", f"{100 * correct / count:.2f} %" if count else "")
    return table
