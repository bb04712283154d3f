"""Makes Markdown tables and pictures of every result file, from nothing else: ``python -m benchmarks.report``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import compile_report, figures, goals, prediction, profile_report, quotes
from benchmarks.case import OURS, STOCK, TORCH
from benchmarks.results import FOLDER, PROFILE_SUFFIX, files, read
from tinyflow.serialization import replacing

#: A family with fewer figures needs no picture.
_FEW = 2


def by_family(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    families: dict[str, list[Mapping[str, Any]]] = {}
    for found in results["cases"].values():
        families.setdefault(found["family"], []).append(found)
    return families


def compared(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that have a figure of ours and one of torch's."""
    return [r for r in records if "error" not in r and figures.ratio(r) is not None]


def markdown(results: Mapping[str, Any], profile: Mapping[str, Any] | None, folder: str) -> str:
    """The report on one device; ``folder`` is where its pictures are."""
    lines = [*_heading(results), *_reading(results)]
    if results.get("ceilings"):
        lines += [*_ceilings(results["ceilings"]), _picture("roofline", "FLOP/s over FLOPs a byte", folder), ""]
    for family, records in by_family(results).items():
        lines += [f"## {family}", "", *_table(records), "", *_not_measured(records)]
        if len(compared(records)) >= _FEW:
            lines += [_picture(family, f"{family}: {OURS} over {TORCH}", folder), ""]
        if family == "convolution" and compared(records):
            lines += [_picture("convolution-layers", "the rate of each layer in its three directions", folder), ""]
        if family == "throughput" and compared(records):
            lines += [_picture("throughput-by-batch", "images a second by batch size", folder), ""]
    if profile is not None:
        lines += profile_report.section(profile)
        lines += [_picture("step", "a training step, part by part", folder), ""]
    return "\n".join(lines).rstrip() + "\n"


def _picture(name: str, words: str, folder: str) -> str:
    return f"![{words}]({folder}/{name}.png)"


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
    stock = (
        [
            f"The *{STOCK}* is Triton's own, on the same kernels, with {_range(slow)} samples.",
        ]
        if slow
        else []
    )
    words = [
        f"Times are the {statistics} of {_range(samples)} samples, contenders taking turns.",
        f"*Ratio* is {OURS} over the fastest torch variant: below 1 {OURS} is ahead.",
        "*Share* is the least time that the launches could take at the ceilings over the time that they took.",
        *stock,
        "Engine and launcher are given for one node and one launch.",
        f"The load average before a case, which this run is part of, was {load}.",
    ]
    return [" ".join(words), ""]


def _ceilings(found: Mapping[str, Any]) -> list[str]:
    rates = ", ".join(f"{figures.quantity(v, 'FLOP/s')} in {name}" for name, v in found["flops_per_s"].items())
    return [
        f"The ceilings are torch's: a copy of {found['elements']:,} float32 elements at "
        f"{figures.quantity(found['bytes_per_s'], 'byte/s')}, and a product of {found['side']}-wide square matrices at "
        f"{rates}.",
        "",
    ]


def _range(numbers: Sequence[float]) -> str:
    if not numbers:
        return "0"
    low, high = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return low if low == high else f"{low} to {high}"


def _table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a case; columns in which nothing would stand are left out."""
    head = ("case", "size", OURS, TORCH, "ratio", "rate", "share", "images/s", STOCK, f"{STOCK} / {OURS}")
    rows = [_row(r) for r in records]
    kept = [k for k in range(len(head)) if k < 5 or any(row[k] for row in rows)]
    return figures.table([head[k] for k in kept], [[row[k] for k in kept] for row in rows])


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    if "error" in record:
        return (record["name"], record["sizes"], f"failed: {record['error'].splitlines()[0]}", *[""] * 7)
    unit, best = record["unit"], figures.best_torch(record)
    theirs = "not measured"
    if best is not None:
        variant = "" if best[0] == TORCH else f" ({best[0].removeprefix(TORCH).strip()})"
        theirs = figures.quantity(best[1], unit) + variant
    images = figures.throughput(record, OURS)
    return (
        record["name"],
        record["sizes"],
        figures.quantity(figures.value(record, OURS), unit),
        theirs,
        figures.times(figures.ratio(record)),
        figures.rate(record),
        figures.percent(figures.share(record)),
        "" if images is None else f"{images:,.0f}",
        figures.quantity(figures.value(record, STOCK), unit),
        figures.times(figures.stock_ratio(record)),
    )


def _not_measured(records: Sequence[Mapping[str, Any]]) -> list[str]:
    missing = [(r["name"], name, why) for r in records for name, why in r.get("not_measured", {}).items()]
    return [*(f"- {case}: {name} not measured: {why}" for case, name, why in missing), *[""] * bool(missing)]


def profile_beside(path: Path, results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The training step's profile that the same machine with the same versions has written, if it did."""
    beside = path.with_name(path.stem + PROFILE_SUFFIX)
    profile = read(beside) if beside.exists() else None
    return profile if profile is not None and profile["machine"] == results["machine"] else None


def write(path: Path) -> Path:
    """The report of one result file, beside it; returns its path. Without matplotlib there are no pictures."""
    results = read(path)
    profile = profile_beside(path, results)
    if importlib.util.find_spec("matplotlib") is not None:
        _draw(path.with_suffix(""), results, profile)
    target = path.with_suffix(".md")
    with replacing(target) as unfinished:
        unfinished.write_text(markdown(results, profile, path.stem), encoding="utf-8")
    return target


def _draw(folder: Path, results: Mapping[str, Any], profile: Mapping[str, Any] | None) -> None:
    from benchmarks import pictures

    device, families = results["machine"]["device"], by_family(results)
    if results.get("ceilings"):
        pictures.roofline(folder / "roofline.png", results, f"Kernels beside the ceilings of {device}")
    for family, records in families.items():
        if len(compared(records)) >= _FEW:
            pictures.ratios(folder / f"{family}.png", compared(records), f"{family} on {device}")
    if layers := compared(families.get("convolution", [])):
        pictures.layers(folder / "convolution-layers.png", layers, f"ResNet18's convolutions on {device}")
    if batches := compared(families.get("throughput", [])):
        pictures.throughput(folder / "throughput-by-batch.png", batches, f"ResNet18 on {device}")
    if profile is not None:
        pictures.waterfall(folder / "step.png", profile, f"A ResNet18 training step on {device}")


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
    if folder.resolve() == FOLDER.resolve():
        for path in (
            *compile_report.write_all(folder),
            *prediction.write_all(folder),
            goals.write(folder),
            *quotes.renew(folder),
        ):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
