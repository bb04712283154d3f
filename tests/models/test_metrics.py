"""The metrics file, the learning curve and the display of a run."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from tinyflow.models import metrics, plot
from tinyflow.models.display import Display, Status, duration
from tinyflow.models.metrics import EpochMetrics


def record(epoch: int) -> EpochMetrics:
    return EpochMetrics(epoch, 1 / epoch, 0.9, 1.5 / epoch, 0.8, 0.1, 100.0, 2.0)


def test_each_epoch_is_one_line_of_json(tmp_path: Path) -> None:
    for epoch in (1, 2):
        metrics.append(tmp_path / "m.jsonl", record(epoch))
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(record(1)), asdict(record(2))]


def test_rewriting_drops_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    for epoch in (1, 2, 3):
        metrics.append(path, record(epoch))
    path.write_text(path.read_text() + '{"epoch": 4, "tra')
    metrics.rewrite(path, [record(1), record(2)])
    assert path.read_text() == record(1).line() + record(2).line()


def test_the_learning_curve_is_a_picture(tmp_path: Path) -> None:
    for epochs in (1, 7):
        plot.learning_curve(tmp_path / "c.png", [record(e) for e in range(1, epochs + 1)], "resnet18 on digits")
        with Image.open(tmp_path / "c.png") as picture:
            assert picture.format == "PNG"
            assert picture.width > picture.height > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    assert [f.name for f in tmp_path.iterdir()] == ["c.png"]


STATUS = Status(
    epoch=2, epochs=5, done=30, total=110, loss=0.5, accuracy=0.875, images_per_second=1234.5, seconds_left=83.4
)


def test_without_a_terminal_the_display_prints_plain_lines() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)) as display:
        for _ in range(50):
            display.step(STATUS)
        display.epoch(record(1), 5, best=True)
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
    line = out.getvalue()
    for part in ("epoch 1/5", "train loss 1.0000", "accuracy 90.00 %", "test loss 1.5000", "80.00 %", "best so far"):
        assert part in line


def test_without_a_terminal_a_long_epoch_says_where_it_is(monkeypatch: object) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)) as display:
        display._last_plain -= 11
        display.step(STATUS)
        display.step(STATUS)
    assert out.getvalue() == "epoch 2/5  step 30/110  " + STATUS.text() + "\n"


def test_on_a_terminal_the_line_is_live() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=120, force_terminal=True, highlight=False)) as display:
        display.step(STATUS)
        display._progress.refresh()
    for part in ("epoch 2/5", "loss 0.5000", "accuracy 87.5 %", "1,234 images/s", "1:23 left"):
        assert part in out.getvalue()


def test_durations_read_like_a_clock() -> None:
    clocks = {-1: "0:00", 0: "0:00", 59.6: "1:00", 61: "1:01", 3600: "1:00:00", 36061.2: "10:01:01"}
    assert {seconds: duration(seconds) for seconds in clocks} == clocks
