"""What a training run shows: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tinyflow.models.metrics import EpochMetrics

_PLAIN_EVERY = 10.0  # seconds between plain lines


@dataclass(frozen=True)
class Status:
    """Where a run stands; ``done`` and ``total`` count steps over all epochs."""

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float

    def text(self) -> str:
        return (
            f"loss {self.loss:.4f}  accuracy {100 * self.accuracy:4.1f} %  "
            f"{self.images_per_second:,.0f} images/s  {duration(self.seconds_left)} left"
        )


class Display:
    """Shows a run while its block lasts."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._live = self.console.is_terminal
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=not self._live,
            transient=True,
        )
        self._task = self._progress.add_task("train", epoch="1", status="", total=None)
        self._last_plain = time.monotonic()

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, status: Status) -> None:
        """Shows where the run stands; without a terminal, a line every ten seconds."""
        epoch = f"{status.epoch}/{status.epochs}"
        if self._live:
            self._progress.update(
                self._task, total=status.total, completed=status.done, epoch=epoch, status=status.text()
            )
        elif time.monotonic() - self._last_plain >= _PLAIN_EVERY:
            self._last_plain = time.monotonic()
            self.say(f"epoch {epoch}  step {status.done}/{status.total}  {status.text()}")

    def epoch(self, record: EpochMetrics, epochs: int, best: bool) -> None:
        """A lasting line for a finished epoch."""
        self.say(
            f"epoch {record.epoch}/{epochs}  "
            f"train loss {record.train_loss:.4f} accuracy {100 * record.train_accuracy:5.2f} %  "
            f"test loss {record.test_loss:.4f} accuracy {100 * record.test_accuracy:5.2f} %  "
            f"{record.images_per_second:,.0f} images/s" + ("  (best so far)" if best else "")
        )

    def say(self, text: str) -> None:
        """A lasting line."""
        self.console.print(text, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as a clock shows them."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
