"""A run's learning curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinyflow.models.metrics import EpochMetrics
from tinyflow.serialization import replacing

_TRAIN, _TEST = "#8a94a6", "#1f5fbf"


def learning_curve(path: Path, history: Sequence[EpochMetrics], title: str) -> None:
    """Draws loss and accuracy by epoch, training and test, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # loaded late: it is slow, and only training draws
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [record.epoch for record in history]
    panels = (
        ("loss", "log", [r.train_loss for r in history], [r.test_loss for r in history]),
        ("accuracy, %", "linear", [100 * r.train_accuracy for r in history], [100 * r.test_accuracy for r in history]),
    )
    for axes, (name, scale, train, test) in zip(figure.subplots(1, 2), panels):
        axes.plot(epochs, train, color=_TRAIN, marker="o", markersize=4, label="training")
        axes.plot(epochs, test, color=_TEST, marker="o", markersize=4, label="test")
        end = (epochs[-1], test[-1])
        axes.annotate(f"{test[-1]:.4g}", end, xytext=(6, 0), textcoords="offset points", color=_TEST, va="center")
        axes.set(xlabel="epoch", ylabel=name, yscale=scale)
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=144, format="png")
