"""Measured figures that are quoted in prose: ``python -m benchmarks.report`` writes them anew from the result files.

A quotation stands between two comments, the first of which says where it comes from::

    takes <!--= resnet18/training step: ratio -->4.25×<!--/--> as long as torch's
    ... <!--= profile: share conv2d -->51.6 %<!--/--> of the step

After the case stand ``tinyflow``, ``torch``, ``stock``, ``ratio``, ``stock ratio``, ``rate``, ``share`` or ``images``;
after ``profile`` ``share`` or ``time`` with a family, ``rate`` with a phase and a kernel, ``launches``, ``framework`` or
``launch``.
The figures are those of the machine whose results have the most cases without a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.case import OURS, STOCK
from benchmarks.results import PROFILE_SUFFIX, files, read
from tinyflow.serialization import replacing

_ROOT = Path(__file__).resolve().parents[1]

#: Texts that quote figures.
PAGES = (_ROOT / "benchmarks" / "NOTES.md", _ROOT / "README.md")

_QUOTATION = re.compile(r"<!--= (?P<source>[^>]*?): (?P<what>[^>:]*?) -->(?P<figure>[^<]*)<!--/-->")


def renewed(text: str, results: Mapping[str, Any], profile: Mapping[str, Any] | None) -> str:
    """A text with its quotations as the results have them.

    Raises:
        ValueError: for a quotation of what was not measured.
    """

    def figure(match: re.Match[str]) -> str:
        source, what = match["source"], match["what"]
        try:
            new = _of_profile(profile or {}, what) if source == "profile" else _of_case(results["cases"][source], what)
        except (KeyError, StopIteration):
            new = ""
        if not new:
            raise ValueError(f"a text quotes {source}: {what}, and there is no such figure")
        return f"<!--= {source}: {what} -->{new}<!--/-->"

    return _QUOTATION.sub(figure, text)


def _of_case(record: Mapping[str, Any], what: str) -> str:
    unit = record["unit"]
    best = figures.best_torch(record)
    images = figures.throughput(record, OURS)
    found = {
        OURS: lambda: figures.quantity(figures.value(record, OURS), unit),
        "torch": lambda: "" if best is None else figures.quantity(best[1], unit),
        "stock": lambda: figures.quantity(figures.value(record, STOCK), unit),
        "ratio": lambda: figures.times(figures.ratio(record)),
        "stock ratio": lambda: figures.times(figures.stock_ratio(record)),
        "rate": lambda: figures.rate(record),
        "share": lambda: figures.percent(figures.share(record)),
        "images": lambda: "" if images is None else f"{images:,.0f}",
    }
    return found[what]()


def _of_profile(profile: Mapping[str, Any], what: str) -> str:
    kind, _, rest = what.partition(" ")
    if kind in ("share", "time"):
        seconds = next(f["tinyflow_s"] for f in profile["families"] if f["family"] == rest)
        whole = sum(profile["phases"].values())
        return figures.percent(seconds / whole) if kind == "share" else figures.quantity(seconds, "second")
    if kind == "rate":
        phase, _, name = rest.partition(" ")
        kernel = next(k for k in profile["kernels"] if (k["phase"], k["kernel"]) == (phase, name))
        return figures.per_second(kernel["flops"], kernel["bytes"], kernel["seconds"])
    if kind == "launches":
        return str(sum(k["launches"] for k in profile["kernels"]))
    return figures.quantity(profile[{"framework": "framework_s", "launch": "one_launch_s"}[kind]], "second")


def measured_here(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any] | None] | None:
    """The results that are quoted, and the profile beside them."""
    found = [
        (len(content["cases"]), path) for path in files(folder) if (content := read(path))["machine"]["kind"] == "cpu"
    ]
    if not found:
        return None
    path = max(found)[1]
    beside = path.with_name(path.stem + PROFILE_SUFFIX)
    return read(path), read(beside) if beside.exists() else None


def renew(folder: Path) -> list[Path]:
    """Writes the quotations of all pages anew; returns the pages that changed."""
    found = measured_here(folder)
    changed = []
    for page in PAGES if found is not None else ():
        before = page.read_text(encoding="utf-8")
        after = renewed(before, *found)  # type: ignore[misc]
        if after != before:
            with replacing(page) as unfinished:
                unfinished.write_text(after, encoding="utf-8")
            changed.append(page)
    return changed
