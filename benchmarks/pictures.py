"""Results as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks import figures
from benchmarks.case import OURS, TORCH
from tinyflow.serialization import replacing

Record = Mapping[str, Any]

_AHEAD, _BEHIND, _LINE = "#1f7a4d", "#1f5fbf", "#444a55"
_OURS, _TORCH = "#1f5fbf", "#c9824a"
_PHASES = {"forward": "#1f5fbf", "backward": "#1f7a4d", "update": "#8a4fa3"}
#: Families of the roofline, each by a colour and a mark.
_COLOURS = (
    "#1f5fbf",
    "#c9824a",
    "#1f7a4d",
    "#b5403a",
    "#8a4fa3",
    "#7a6a4f",
    "#c65f9a",
    "#5a5a5a",
    "#8c8f2a",
    "#2a9aa5",
)
_MARKS = "osD^vPXph*"


@contextmanager
def _picture(path: Path, title: str, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written when the block ends."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def _plain(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def ratios(path: Path, records: Sequence[Record], title: str) -> None:
    """One bar a case, from 1 to the left where we are ahead, to the right where torch is."""
    values = [figures.ratio(r) or 1.0 for r in records]
    places = range(len(records))
    with _picture(path, title, 9, 1.3 + 0.3 * len(records)) as figure:
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
        _plain(axes, "x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="x", which="minor", length=0)
        axes.tick_params(axis="y", length=0)


def layers(path: Path, records: Sequence[Record], title: str) -> None:
    """For each direction the rate of every layer, ours beside torch's."""
    names: dict[str, dict[str, Record]] = {}
    for record in records:
        layer, _, direction = record["name"].rpartition(", ")
        names.setdefault(layer, {})[direction] = record
    directions = list(dict.fromkeys(direction for found in names.values() for direction in found))
    unit = 1e12 if max(r["flops"] / (figures.value(r, OURS) or 1) for r in records) > 1e12 else 1e9
    with _picture(path, title, 10, 2.4 * len(directions) + 0.8) as figure:
        for axes, direction in zip(figure.subplots(len(directions), sharex=True, squeeze=False)[:, 0], directions):
            places = np.arange(len(names))
            for shift, contender, colour in ((-0.2, OURS, _OURS), (0.2, TORCH, _TORCH)):
                found = [_layer_rate(layer.get(direction), contender) / unit for layer in names.values()]
                axes.bar(places + shift, found, 0.38, color=colour, label=contender)
            top = axes.get_ylim()[1]
            for place, layer in zip(places, names.values()):
                ratio = figures.ratio(layer[direction]) if direction in layer else None
                if ratio:
                    highest = max(_layer_rate(layer[direction], c) / unit for c in (OURS, TORCH))
                    colour = _AHEAD if ratio <= 1 else _LINE
                    words = f"{figures.three(1 / ratio)}×"
                    axes.text(place, highest + top * 0.01, words, ha="center", va="bottom", fontsize=7.5, color=colour)
            axes.set_ylim(0, top * 1.1)
            axes.set_xlim(-0.6, len(names) - 0.4)
            axes.set_ylabel("TFLOP/s" if unit == 1e12 else "GFLOP/s", fontsize=8)
            axes.set_title(direction, fontsize=9, loc="left")
            axes.set_xticks(places, list(names), rotation=20, ha="right")
            _plain(axes, "y")
        figure.axes[0].legend(fontsize=8, frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1, 1.2))
        figure.supxlabel(f"over the bars: {OURS}'s rate over {TORCH}'s", fontsize=8)


def _layer_rate(record: Record | None, contender: str) -> float:
    if record is None:
        return 0.0
    best = figures.best_torch(record)
    seconds = best[1] if contender == TORCH and best else figures.value(record, contender)
    return record["flops"] / seconds if seconds else 0.0


def roofline(path: Path, results: Mapping[str, Any], title: str) -> None:
    """Every case by FLOPs a byte and FLOPs a second, ours filled and torch's hollow, under the ceilings."""
    ceilings = results["ceilings"]
    cases = [r for r in results["cases"].values() if "error" not in r and r.get("flops") and r.get("bytes")]
    cases = [r for r in cases if r["parts"] == 1 and not r.get("images")]
    families = list(dict.fromkeys(r["family"] for r in cases))
    with _picture(path, title, 9, 6) as figure:
        axes = figure.subplots()
        handles = []
        for k, family in enumerate(families):
            colour, mark = _COLOURS[k % len(_COLOURS)], _MARKS[(k + k // len(_COLOURS)) % len(_MARKS)]
            handles.append(Line2D([], [], color=colour, marker=mark, linestyle="", markersize=5, label=family))
            for r in (r for r in cases if r["family"] == family):
                best = figures.best_torch(r)
                points = {colour: figures.value(r, OURS), "none": None if best is None else best[1]}
                for fill, seconds in points.items():
                    if seconds:
                        x, y = r["flops"] / r["bytes"], r["flops"] / seconds
                        axes.plot(x, y, mark, color=colour, markerfacecolor=fill, markersize=5, alpha=0.85)
        low = min((r["flops"] / r["bytes"] for r in cases), default=0.1) / 2
        high = max([r["flops"] / r["bytes"] for r in cases] + [1e3]) * 2
        x = np.geomspace(low, high, 200)
        for (name, rate), style in zip(ceilings["flops_per_s"].items(), ("-", "--", ":")):
            axes.plot(x, np.minimum(rate, x * ceilings["bytes_per_s"]), style, color=_LINE, linewidth=1.2)
            axes.annotate(
                f"{name}: {figures.quantity(rate, 'FLOP/s')}", (high, rate), ha="right", va="bottom", fontsize=8
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("FLOPs a byte, of the least bytes that must be moved", fontsize=8)
        axes.set_ylabel("FLOP/s", fontsize=8)
        axes.annotate(
            f"copy: {figures.quantity(ceilings['bytes_per_s'], 'byte/s')}",
            (low * 1.3, low * 1.3 * ceilings["bytes_per_s"]),
            xytext=(14, -8),
            textcoords="offset points",
            fontsize=8,
        )
        hollow = Line2D(
            [], [], color=_LINE, marker="o", linestyle="", markerfacecolor="none", markersize=5, label=TORCH
        )
        filled = Line2D([], [], color=_LINE, marker="o", linestyle="", markersize=5, label=OURS)
        figure.legend(handles=[filled, hollow, *handles], fontsize=8, frameon=False, loc="outside right upper")
        _plain(axes, "both")


def throughput(path: Path, records: Sequence[Record], title: str) -> None:
    """Images a second by the size of the batch, for training and inference."""
    kinds = list(dict.fromkeys(r["name"].partition(",")[0] for r in records))
    with _picture(path, title, 4.6 * len(kinds), 3.8) as figure:
        for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds):
            found = sorted((r for r in records if r["name"].startswith(kind)), key=lambda r: r["images"])
            batches = [r["images"] for r in found]
            theirs = [r["images"] / best[1] for r in found if (best := figures.best_torch(r))]
            ours = [figures.throughput(r, OURS) or 0.0 for r in found]
            for rates, colour, mark, label in ((ours, _OURS, "o", OURS), (theirs, _TORCH, "s", TORCH)):
                axes.plot(batches, rates, color=colour, marker=mark, markersize=5, label=label)
            for batch, rate in zip(batches, ours):
                below = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 7.5}
                axes.annotate(f"{rate:,.0f}", (batch, rate), color=_OURS, **below)
            axes.set_xscale("log", base=2)
            axes.set_xticks(batches, [str(b) for b in batches])
            axes.set_ylim(min(0, -0.06 * max(ours + theirs)), 1.12 * max(ours + theirs))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 0 else ""))
            axes.set_xlabel("images a batch", fontsize=8)
            axes.set_title(kind, fontsize=9, loc="left")
            _plain(axes, "y")
        figure.axes[0].set_ylabel("images/s", fontsize=8)
        figure.axes[0].legend(fontsize=8, frameon=False, loc="upper left")


def waterfall(path: Path, profile: Mapping[str, Any], title: str) -> None:
    """Where the time of a step goes: each family of kernels from where the one before it ends, phase by phase."""
    steps = list(_steps(profile))
    whole = sum(profile["phases"].values())
    theirs = sum(f["torch_s"] for f in profile["families"])
    size, unit = (1e-3, "ms") if whole < 10 else (1.0, "s")
    with _picture(path, title, 9, 1.5 + 0.27 * (len(steps) + 2)) as figure:
        axes = figure.subplots()
        start = 0.0
        for place, (phase, _, seconds) in enumerate(steps):
            axes.barh(place, seconds / size, left=start / size, height=0.7, color=_PHASES[phase])
            words = f"{figures.quantity(seconds, 'second')}, {100 * seconds / whole:.1f} %"
            _beside(axes, start / size, seconds / size, place, words, whole / size)
            start += seconds
        labels = [family for _, family, _ in steps]
        for label, seconds, colour in ((f"{OURS}, all", whole, _LINE), (f"{TORCH}, all", theirs, _TORCH)):
            axes.barh(len(labels), seconds / size, height=0.7, color=colour)
            _beside(axes, 0, seconds / size, len(labels), figures.quantity(seconds, "second"), whole / size)
            labels.append(label)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(0, max(whole, theirs) / size * 1.02)
        axes.set_xlabel(unit, fontsize=8)
        _plain(axes, "x")
        bars = [Line2D([], [], color=colour, linewidth=6, label=phase) for phase, colour in _PHASES.items()]
        figure.legend(handles=bars, fontsize=8, frameon=False, ncols=3, loc="outside lower center")


def _beside(axes: Axes, left: float, width: float, place: int, words: str, whole: float) -> None:
    """A bar's figure, on the side where there is room."""
    right = left + width < 0.78 * whole
    axes.annotate(
        words,
        (left + width if right else left if left > 0.2 * whole else left + width, place),
        xytext=(4 if right else -4, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=7.5,
        color="white" if not right and left <= 0.2 * whole else "black",
    )


def _steps(profile: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """The families of each phase, the longest first, and what is outside kernels."""
    for phase, seconds in profile["phases"].items():
        families: dict[str, float] = {}
        for kernel in profile["kernels"]:
            if kernel["phase"] == phase:
                families[kernel["family"]] = families.get(kernel["family"], 0.0) + kernel["seconds"]
        for family, taken in sorted(families.items(), key=lambda pair: -pair[1]):
            if taken > 0.002 * sum(profile["phases"].values()):
                yield phase, family, taken
        yield phase, "between kernels", max(seconds - sum(families.values()), 0.0)
