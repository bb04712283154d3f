"""Figures out of records, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.case import OURS, STOCK, TORCH

Record = Mapping[str, Any]

_UNITS = {
    "second": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "byte": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
    "FLOP/s": ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")),
    "byte/s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s")),
}


def value(record: Record, contender: str) -> float | None:
    """A contender's figure for one node, launch or call: seconds, or bytes. None if it was not measured."""
    found = record.get("contenders", {}).get(contender)
    if found is None:
        return None
    return found["added"] if record["unit"] == "byte" else found[record["statistic"]] / record["parts"]


def best_torch(record: Record) -> tuple[str, float] | None:
    """The torch variant with the least figure, if one was measured."""
    names = [name for name in record.get("contenders", {}) if name.split()[0] == TORCH]
    found = [(name, value(record, name) or 0.0) for name in names]
    return min(found, key=lambda pair: pair[1], default=None)


def ratio(record: Record) -> float | None:
    """Ours over the best torch variant's: below 1 we are ahead."""
    best = best_torch(record)
    return None if best is None else (value(record, OURS) or 0.0) / max(best[1], 1e-12)


def share(record: Record) -> float | None:
    """The least time that our launches could take at the measured ceilings, over the time that they took."""
    least, ours = record.get("floor_s"), value(record, OURS)
    return None if not least or not ours or record["parts"] != 1 else least / ours


def throughput(record: Record, contender: str) -> float | None:
    """Images a second, where that is what counts."""
    seconds = value(record, contender)
    return record["images"] / seconds if record.get("images") and seconds else None


def stock_ratio(record: Record) -> float | None:
    """Triton's own interpreter over ours."""
    stock, ours = value(record, STOCK), value(record, OURS)
    return None if stock is None or not ours else stock / ours


def rate(record: Record) -> str:
    """What of the machine our kernels use; empty where nothing was counted."""
    if record["unit"] != "second" or not record["bytes"] or record["parts"] != 1:
        return ""
    return per_second(record["flops"], record["bytes"], value(record, OURS) or float("inf"))


def per_second(flops: int, moved: int, seconds: float) -> str:
    """FLOPs a second where there are many to a byte, else bytes a second."""
    if not moved:
        return ""
    if flops > 8 * moved:
        return quantity(flops / seconds, "FLOP/s")
    return quantity(moved / seconds, "byte/s")


def three(number: float) -> str:
    """Three significant digits, or all of the integer part."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:#.3g}".rstrip(".")


def quantity(number: float | None, unit: str) -> str:
    """A figure with a unit of fitting size."""
    if number is None:
        return ""
    size, name = next(((s, n) for s, n in _UNITS[unit] if number >= s), _UNITS[unit][-1])
    return f"{three(number / size)} {name}"


def percent(number: float | None) -> str:
    """A share."""
    return "" if number is None else f"{100 * number:.1f} %"


def times(number: float | None) -> str:
    """A ratio."""
    return "" if number is None else f"{three(number)}×"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table's lines."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def line(record: Record) -> str:
    """A record in a few words."""
    if "error" in record:
        return f"FAILED, {record['error']}"
    best, unit = best_torch(record), record["unit"]
    words = [f"{OURS} {quantity(value(record, OURS), unit)}"]
    words.append(f"{TORCH} not measured" if best is None else f"{best[0]} {quantity(best[1], unit)}")
    words += filter(None, (times(ratio(record)), percent(share(record))))
    if stock_ratio(record) is not None:
        words.append(f"{STOCK} {quantity(value(record, STOCK), unit)}")
    return ", ".join(words)
