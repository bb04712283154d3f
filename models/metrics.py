"""What a run measures: one record an epoch, as lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tinyflow.serialization import replacing


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch: means over its images; ``seconds`` and ``images_per_second`` are of training, without judging."""

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    learning_rate: float
    images_per_second: float
    seconds: float

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def append(path: Path, record: EpochMetrics) -> None:
    """Adds a line and waits until it is on the disk."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(record.line())
        file.flush()
        os.fsync(file.fileno())


def rewrite(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Makes the file say what the checkpoint knows, so that a resumed run repeats no line and lacks none."""
    with replacing(path) as unfinished:
        unfinished.write_text("".join(record.line() for record in history), encoding="utf-8")
