"""Results as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks import figures
from benchmarks.case import OURS, TORCH
from tinyflow.serialization import replacing

_AHEAD, _BEHIND, _LINE = "#1f7a4d", "#1f5fbf", "#444a55"


def ratios(path: Path, records: Sequence[Mapping[str, Any]], title: str) -> None:
    """One bar a case, from 1 to the left where we are ahead, to the right where torch is."""
    values = [figures.ratio(r) for r in records]
    places = range(len(records))
    figure = Figure(figsize=(9, 1.3 + 0.3 * len(records)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = [_AHEAD if v <= 1 else _BEHIND for v in values]
    axes.barh(places, [v - 1 for v in values], left=1, height=0.68, color=colours)
    axes.axvline(1, color=_LINE, linewidth=1)
    for place, v in zip(places, values):
        axes.annotate(
            figures.times(v),
            (v, place),
            xytext=(4 if v > 1 else -4, 0),
            textcoords="offset points",
            ha="left" if v > 1 else "right",
            va="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    low, high = min([0.5, *values]), max([2.0, *values])
    room = (high / low) ** 0.12  # for the figures at the bars' ends
    axes.set_xlim(low / room, high * room)
    axes.set_ylim(-0.7, len(records) - 0.3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(places, [r["name"] for r in records], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"{OURS} / {TORCH} (left of the line: {OURS} ahead)", fontsize=8)
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
