"""Makes a Markdown table and pictures of every result file, from nothing else: ``python -m benchmarks.report``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures, pictures, profile_report
from benchmarks.case import OURS, STOCK, TORCH
from benchmarks.results import FOLDER, PROFILE_SUFFIX, files, read
from tinyflow.serialization import replacing


def by_family(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    families: dict[str, list[Mapping[str, Any]]] = {}
    for found in results["cases"].values():
        families.setdefault(found["family"], []).append(found)
    return families


def markdown(results: Mapping[str, Any], profile: Mapping[str, Any] | None, folder: str) -> str:
    """The report on one device; ``folder`` is where its pictures are."""
    lines = [*_heading(results), *_reading(results)]
    for family, records in by_family(results).items():
        lines += [f"## {family}", "", *_table(records), ""]
        if any("error" not in r for r in records):
            lines += [f"![{family}: {OURS} over {TORCH}]({folder}/{family}.png)", ""]
    if profile is not None:
        lines += profile_report.section(profile)
    return "\n".join(lines).rstrip() + "\n"


def _heading(results: Mapping[str, Any]) -> list[str]:
    about = results["machine"]
    dates = sorted(r["date"] for r in results["cases"].values())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    processor = "" if about["kind"] == "cpu" else f" Host: {about['processor']}."
    return [
        f"# {about['device']}",
        "",
        f"{about['cores']} cores, torch with {about['torch_threads']} threads, kernels in mode: {about['mode']}."
        f"{processor} {versions}, {about['platform']}. Measured {dates[0]} to {dates[-1]}.",
        "",
    ]


def _reading(results: Mapping[str, Any]) -> list[str]:
    timed = [r for r in results["cases"].values() if r.get("unit") == "second"]
    statistics = " and ".join(sorted({r["statistic"].removesuffix("_s") for r in timed}))
    samples = [c["samples"] for r in timed for name, c in r["contenders"].items() if name != STOCK]
    slow = [r["contenders"][STOCK]["samples"] for r in timed if STOCK in r["contenders"]]
    load = _range([r["load_before"] for r in results["cases"].values()])
    return [
        f"Times are the {statistics} of {_range(samples)} samples ({_range(slow)} of the {STOCK}), contenders taking "
        f"turns. *Ratio* is {OURS} over the fastest torch variant: below 1 {OURS} is ahead. The *{STOCK}* is Triton's "
        f"own, on the same kernels. Engine and launcher are given for one node and one launch. The load average before "
        f"a case, which this run is part of, was {load}.",
        "",
    ]


def _range(numbers: Sequence[float]) -> str:
    if not numbers:
        return "0"
    low, high = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return low if low == high else f"{low} to {high}"


def _table(records: Iterable[Mapping[str, Any]]) -> list[str]:
    head = ("case", "size", OURS, TORCH, "ratio", "rate", STOCK, f"{STOCK} / {OURS}")
    return figures.table(head, map(_row, records))


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    if "error" in record:
        return (record["name"], record["sizes"], f"failed: {record['error'].splitlines()[0]}", *[""] * 5)
    unit = record["unit"]
    name, theirs = figures.best_torch(record)
    variant = "" if name == TORCH else f" ({name.removeprefix(TORCH).strip()})"
    return (
        record["name"],
        record["sizes"],
        figures.quantity(figures.value(record, OURS), unit),
        figures.quantity(theirs, unit) + variant,
        figures.times(figures.ratio(record)),
        figures.rate(record),
        figures.quantity(figures.value(record, STOCK), unit),
        figures.times(figures.stock_ratio(record)),
    )


def profile_beside(path: Path, results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The training step's profile that the same machine with the same versions has written, if it did."""
    beside = path.with_name(path.stem + PROFILE_SUFFIX)
    profile = read(beside) if beside.exists() else None
    return profile if profile is not None and profile["machine"] == results["machine"] else None


def write(path: Path) -> Path:
    """The report of one result file, beside it; returns its path."""
    results = read(path)
    profile = profile_beside(path, results)
    for family, records in by_family(results).items():
        measured = [r for r in records if "error" not in r]
        if measured:
            title = f"{family} on {results['machine']['device']}"
            pictures.ratios(path.with_suffix("") / f"{family}.png", measured, title)
    target = path.with_suffix(".md")
    with replacing(target) as unfinished:
        unfinished.write_text(markdown(results, profile, path.stem), encoding="utf-8")
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where the result files are")
    folder = parser.parse_args(arguments).folder
    paths = files(folder)
    if not paths:
        print(f"benchmarks.report: no result file in {folder}", file=sys.stderr)
        return 2
    for path in paths:
        print(write(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
