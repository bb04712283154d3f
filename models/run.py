"""A training run: everything that changes from step to step, how it changes, and how it is saved and taken up again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import tinyflow
from tinyflow import optim
from tinyflow.data import Augment, Loader, Normalize, Splits
from tinyflow.models import checkpoint, metrics, plot
from tinyflow.models.catalogue import build
from tinyflow.models.classifier import Classifier, Preparation, judge
from tinyflow.models.config import Train
from tinyflow.models.device import choose_device, is_gpu
from tinyflow.models.display import Display, Status
from tinyflow.models.errors import InputError, one_line
from tinyflow.models.interrupt import Interruption
from tinyflow.models.metrics import EpochMetrics
from tinyflow.models.replay import Replayed
from tinyflow.nn import functional as F

LAST, BEST, METRICS, CURVE = "last.safetensors", "best.safetensors", "metrics.jsonl", "learning_curve.png"

_JUDGE_BATCH = 256
_READ_EVERY = 16  # steps between reads of the loss from a GPU: each read waits until it has caught up


class Interrupted(Exception):
    """The run was asked to stop, and is saved between two steps."""


@dataclass
class Running:
    """Sums over the steps of the epoch so far."""

    loss: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0


class Run:
    """Trains one model on one data set into one folder.

    Args:
        weights: weights to start from, see :class:`Train`.

    Raises:
        InputError, DataError: if options or data cannot be used.
    """

    def __init__(self, config: Train, splits: Splits, out: Path, weights: str | None = None) -> None:
        tinyflow.manual_seed(config.seed)
        device = choose_device(config.device)
        # what computes is the run's own, and is saved with it: it goes on in the same precision on any device
        config = replace(config, amp=is_gpu(device) if config.amp is None else config.amp)
        self.config = config
        self.out = out
        self.data = splits.name
        data = splits.train
        size = data.image_size
        augment = Augment(
            shift=size // 16 if config.shift is None else config.shift,
            flip=data.mirrors if config.flip is None else config.flip,
        )
        self.loader = Loader(data, config.batch_size, shuffle=True, drop_last=True, augment=augment, seed=config.seed)
        self.test_loader = Loader(splits.test, _JUDGE_BATCH)
        self.model = build(config.model, len(data.classes), weights).to(device)
        preparation = Preparation(data.channels, size, Normalize.of(data))
        self.classifier = Classifier(self.model, preparation, data.classes, device)
        self.optimizer = optim.SGD(
            self.model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        self.steps = config.epochs * len(self.loader)
        self.schedule = _schedule(config, self.optimizer, self.steps)
        self.running = Running()
        self.history: list[EpochMetrics] = []
        self._unread: list[tuple[tinyflow.Tensor, tinyflow.Tensor, int]] = []
        self._pace = Pace()
        self.captures = is_gpu(device) if config.capture is None else config.capture
        self._replayed: Replayed | None = None

    # ---- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, and what it takes to use the model alone."""
        self._read()
        config = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self.config).items()}
        return {
            "config": config,
            "classes": list(self.classifier.classes),
            "preparation": self.classifier.preparation.state_dict(),
            "weights": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "random": tinyflow.get_rng_state(),
            "loader": self.loader.state_dict(),
            "running": asdict(self.running),
            "history": [asdict(record) for record in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state.

        Raises:
            InputError: if it was made with other data, or by another version.
        """
        if tuple(state["classes"]) != self.classifier.classes:
            raise InputError("the data's classes are not those that the run to resume was started with")
        try:
            self.model.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.schedule is not None:
                self.schedule.load_state_dict(state["schedule"])
            tinyflow.set_rng_state(state["random"])
            self.loader.load_state_dict(state["loader"])
            self.running = Running(**state["running"])
            self.history = [EpochMetrics(**record) for record in state["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the checkpoint does not fit this version of tinyflow: {one_line(error)}") from None

    def write_history(self) -> None:
        """Makes metrics file and curve say what this run knows; shows early whether the folder can be written to."""
        metrics.rewrite(self.out / METRICS, self.history)
        if self.history:
            self.draw()

    def draw(self) -> None:
        """Writes the learning curve."""
        plot.learning_curve(self.out / CURVE, self.history, f"{self.config.model} on {self.data}")

    def save(self, name: str = LAST) -> None:
        """Writes the present state."""
        checkpoint.save(self.out / name, self.state_dict())

    # ---- training ------------------------------------------------------------------------------------------------

    def run(self, display: Display, interruption: Interruption) -> None:
        """Trains and judges until the last epoch is done.

        Raises:
            Interrupted: when asked to stop, after saving.
        """
        while len(self.history) < self.config.epochs:
            if self.loader.epoch == len(self.history):  # else it was stopped between training and judging
                self._train_epoch(display, interruption)
            record = self._judge_epoch(interruption)
            best = record.test_accuracy > max((r.test_accuracy for r in self.history), default=-1.0)
            self.history.append(record)
            self.running = Running()
            metrics.append(self.out / METRICS, record)
            if best:
                self.save(BEST)
            self.save(LAST)
            self.draw()
            display.epoch(record, self.config.epochs, best)

    def _train_epoch(self, display: Display, interruption: Interruption) -> None:
        self.model.train()
        reads_wait = self.classifier.device.type == "cuda"
        started = time.perf_counter()
        for pixels, labels in self.loader:
            self._step(pixels, labels, display.say)
            if not reads_wait or len(self._unread) == _READ_EVERY or not self.running.images:
                self._read()
            finished = time.perf_counter()
            self.running.seconds += finished - started
            self._pace.step(finished - started, len(labels))
            display.step(self._status())
            done = self._steps_done()
            if interruption.requested:
                self.save()
                raise Interrupted
            if self.config.checkpoint_every and done % self.config.checkpoint_every == 0:
                self.save()
            started = time.perf_counter()
        self._read()

    def _step(self, pixels: np.ndarray, labels: np.ndarray, say: Callable[[str], None]) -> None:
        images, target = (tinyflow.from_numpy(np.ascontiguousarray(x)) for x in (pixels, labels))
        device = self.classifier.device
        if self.captures:
            if self._replayed is None:
                self._replayed = Replayed(self._learn, self.model, self.optimizer, device, say)
            loss, correct = self._replayed(images, target)
        else:
            loss, correct = self._learn(images.to(device), target.to(device))
        if self.schedule is not None:
            self.schedule.step()
        self._unread.append((loss, correct, len(labels)))

    def _learn(self, images: tinyflow.Tensor, target: tinyflow.Tensor) -> tuple[tinyflow.Tensor, tinyflow.Tensor]:
        """One step on pixels and labels: the loss, and how many images were recognised."""
        with self._precision():
            logits = self.classifier.judge_pixels(images)
            loss = F.cross_entropy(logits, target, label_smoothing=self.config.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), logits.detach().argmax(1).eq(target).sum()

    def _precision(self) -> tinyflow.autocast:
        return tinyflow.autocast(self.classifier.device.type, dtype=tinyflow.bfloat16, enabled=bool(self.config.amp))

    def _read(self) -> None:
        """Adds to the sums what the device has computed since the last read."""
        for loss, correct, images in self._unread:
            self.running.loss += loss.item() * images
            self.running.correct += int(correct.item())
            self.running.images += images
        self._unread.clear()

    def _judge_epoch(self, interruption: Interruption) -> EpochMetrics:
        self.model.eval()
        started = time.perf_counter()
        with self._precision():
            judgement = judge(self.classifier, self._test_batches(interruption))
        self._pace.judged(time.perf_counter() - started)
        running = self.running
        return EpochMetrics(
            epoch=len(self.history) + 1,
            train_loss=running.loss / running.images,
            train_accuracy=running.correct / running.images,
            test_loss=judgement.loss,
            test_accuracy=judgement.accuracy,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            images_per_second=running.images / running.seconds,
            seconds=running.seconds,
        )

    def _test_batches(self, interruption: Interruption) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in self.test_loader:
            if interruption.requested:
                self.save()
                raise Interrupted
            yield batch

    def _steps_done(self) -> int:
        return self.loader.epoch * len(self.loader) + self.loader.batch

    def _status(self) -> Status:
        images = max(self.running.images, 1)
        done = self._steps_done()
        return Status(
            epoch=len(self.history) + 1,
            epochs=self.config.epochs,
            done=done,
            total=self.steps,
            loss=self.running.loss / images,
            accuracy=self.running.correct / images,
            images_per_second=self._pace.images_per_second,
            seconds_left=self._pace.left(self.steps - done, self.config.epochs - len(self.history)),
        )


class Pace:
    """How fast a run goes, from its recent steps (their weight fades by a tenth a step)."""

    def __init__(self) -> None:
        self._seconds = self._images = self._steps = 0.0
        self._judging = 0.0

    def step(self, seconds: float, images: int) -> None:
        self._seconds = 0.9 * self._seconds + seconds
        self._images = 0.9 * self._images + images
        self._steps = 0.9 * self._steps + 1

    def judged(self, seconds: float) -> None:
        self._judging = seconds

    @property
    def images_per_second(self) -> float:
        return self._images / self._seconds

    def left(self, steps: int, judgements: int) -> float:
        """Seconds that so many steps and judgements will take."""
        return steps * self._seconds / self._steps + judgements * self._judging


def _schedule(config: Train, optimizer: optim.SGD, steps: int) -> optim.lr_scheduler.LRScheduler | None:
    if config.schedule == "onecycle":
        return optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps, cycle_momentum=False)
    if config.schedule == "cosine":
        return optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return None
