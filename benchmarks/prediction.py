"""What a captured ResNet18 step may take on an H100, from the machine code alone: a prediction, and no measurement.

``python -m tests.compile.step`` compiles every launch of a step and counts its instructions; ``python -m benchmarks.report``
makes a table of it, in which each launch has the longest of five times:

- *memory*: the least bytes over the rate of a large copy;
- *cache*: the boxes that its loops fetch, over an assumed rate of the second-level cache;
- *products*: the FLOPs of its matrix instructions over the rate of a large product;
- *issue*: its warps' instructions, where a warp has one in four cycles and a multiprocessor at most 3.2 a cycle;
- *chain*: rounds of the loops of one program, one after the other, each of which waits for memory, as far as other
  programs of the multiprocessor do not fill the time.

Where a program has a multiprocessor for itself, what it does between two tiles hides behind nothing, and is added to the
products. Every launch takes a start besides. What the prediction does not know: conflicts of banks, replays, how well the
caches keep what is read twice, clocks under load.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import figures
from tinyflow.kernels.conv2d.times import CLOCK, CYCLES, REFILL
from tinyflow.profiler import known_ceilings
from tinyflow.serialization import replacing

WARP, WARPGROUP = 32, 4

#: Of a multiprocessor of sm_90: registers, shared memory in bytes and what each program loses of it, warps, programs.
_REGISTERS, _SHARED, _RESERVED, _WARPS, _PROGRAMS = 65536, 228 * 1024, 1024, 64, 32

#: Channels of a folded image, and what is done for each product of a 7×7 stem on three channels: on four rows of windows
#: of 64; or, for two columns, on 18 columns of 8 rows, in tiles of 64 pooled pixels of which 56 exist, 29 rows for 28.
_CELL, _FOLDED_STEM, _POOLED_STEM = 16, 4 * 64 / (3 * 7 * 7), 18 * 8 / (2 * 7 * 7) * (64 / 56) * (29 / 28)

#: Goals for a step, in ms.
GOALS = {"training": 9.1, "inference": 1.97}


@dataclass(frozen=True)
class Assumed:
    """What no file says, since nothing has measured it here."""

    clock: float = CLOCK
    cache_bandwidth: float = 6.5e12  # of reads that hit the second-level cache
    cycles_a_warp: float = CYCLES  # between two instructions of a warp
    instructions_a_cycle: float = 3.2  # of a multiprocessor
    latency: float = 0.6e-6  # of a load from memory
    refill: float = REFILL  # of a pipeline, from one tile to the next
    start: float = 2.0e-6  # of a launch in a device graph, until all programs are on their way


@dataclass(frozen=True)
class Predicted:
    """Seconds of one launch."""

    programs: int  # that a multiprocessor holds at a time
    floor: float
    memory: float
    cache: float
    products: float
    issue: float
    chain: float
    start: float

    @property
    def bound(self) -> str:
        return max(("memory", "cache", "products", "issue", "chain"), key=lambda name: getattr(self, name))

    @property
    def total(self) -> float:
        return getattr(self, self.bound) + self.start


def predicted(row: Mapping[str, Any], multiprocessors: int, flops: float, bandwidth: float, by: Assumed) -> Predicted:
    """The times of a launch.

    Args:
        row: from the file of ``tests.compile.step``.
        flops, bandwidth: rates of a large product and a large copy.
    """
    warps, grid = row["num_warps"], math.prod(row["grid"])
    resident = _resident(row)
    busy = min(grid, multiprocessors)
    at_a_time = min(resident, math.ceil(grid / busy))
    loop, outer = row.get("loop"), row.get("outer")
    rounds, tiles = _rounds(row, grid)
    once = row["all"]["instructions"] - (outer or loop or {"instructions": 0})["instructions"]
    between = outer["instructions"] - loop["instructions"] if outer is not None and loop is not None else 0
    looped = loop["instructions"] * rounds if loop is not None else 0
    rate = min(at_a_time * warps / by.cycles_a_warp, by.instructions_a_cycle) * by.clock
    share = math.ceil(grid / busy)  # programs of the busiest multiprocessor
    issue = share * warps * (once + looped + between * tiles) / rate
    products = (_done(row) if row["all"]["product_flops"] else 0) / flops * _unevenness(grid, multiprocessors, resident)
    if at_a_time == 1 and tiles:
        products += share * tiles * (by.refill + warps * between / rate)
    chain = 0.0
    if loop is not None and loop["LDG"]:
        chain = math.ceil(share / at_a_time) * rounds * by.latency
    return Predicted(
        programs=resident,
        floor=max(row["flops"] / flops, row["bytes"] / bandwidth),
        memory=row["bytes"] / bandwidth,
        cache=grid * rounds * row["boxed"] / by.cache_bandwidth,
        products=products,
        issue=issue,
        chain=chain,
        start=by.start,
    )


def _resident(row: Mapping[str, Any]) -> int:
    warps = row["num_warps"]
    by_registers = _REGISTERS // (max(math.ceil(row["registers"] / 8) * 8, 8) * WARP * warps)
    by_memory = _SHARED // (row["shared"] + _RESERVED)
    return max(min(by_registers, by_memory, _WARPS // warps, _PROGRAMS), 1)


def _done(row: Mapping[str, Any]) -> float:
    """FLOPs with those on what fills up a stem's windows, which are not counted."""
    if row["kernel"] == "_pooled_stem_kernel":
        return row["flops"] * _POOLED_STEM
    folded = any(len(shape) == 4 and shape[-1] == _CELL for shape in row["operands"])
    return row["flops"] * (_FOLDED_STEM if folded else 1)


def _rounds(row: Mapping[str, Any], grid: int) -> tuple[float, float]:
    """How often a program goes through its innermost loop, and through the one around it: from what they must do in all."""
    loop = row.get("loop")
    if loop is None:
        return 0, 0
    if loop["product_flops"]:
        groups = max(row["num_warps"] // WARPGROUP, 1)
        rounds = _done(row) / (grid * groups * loop["product_flops"])
    else:
        moved = (loop["bytes_loaded"] + loop["bytes_stored"]) * row["num_warps"] * WARP
        rounds = row["bytes"] / (grid * moved) if moved else 1
    return rounds, _tiles(row, grid) if row.get("outer") is not None else 0


def _tiles(row: Mapping[str, Any], grid: int) -> float:
    """Tiles of a persistent convolution's program."""
    blocks, result = row["blocks"], math.prod(row["operands"][0])
    pixels = math.prod(blocks.get(name, 1) for name in ("TN", "TH", "TW"))
    rows = blocks.get("BLOCK_C" if "input_grad" in row["kernel"] else "BLOCK_K", 1)
    return result / (pixels * rows * grid) if "weight_grad" not in row["kernel"] else 1


def _unevenness(grid: int, multiprocessors: int, resident: int) -> float:
    """How much longer the last multiprocessor works than the average, for programs that do not walk."""
    waves = grid / (multiprocessors * resident)
    return math.ceil(waves) / waves if 1 < waves < 8 else 1.0


def markdown(content: Mapping[str, Any], by: Assumed = Assumed()) -> str:
    """The table of launches, alike ones together, and the sums beside the goals."""
    gpu = known_ceilings()["h100"]
    flops, bandwidth = gpu.flops[content["dtype"]], gpu.bandwidth
    lines = [
        f"# Predicted for {gpu.device}",
        "",
        "**A prediction from instructions, and no measurement**: no GPU has run this. ResNet18, "
        f"{content['images']} images of {content['size']}×{content['size']}, {content['dtype']}, compiled for "
        f"{content['target']} by Triton {content['triton']}. `benchmarks/prediction.py` says how; "
        "`python -m tests.compile.step` compiles anew.",
        "",
        f"Rates: {flops / 1e12:.0f} TFLOP/s and {bandwidth / 1e12:.1f} TB/s as measured on that GPU elsewhere; assumed: "
        f"{by.cache_bandwidth / 1e12:.1f} TB/s from the second-level cache, {by.clock / 1e9:.3f} GHz, "
        f"{by.start * 1e6:.0f} µs a launch.",
        "",
    ]
    for name, rows in content["steps"].items():
        found = [(row, predicted(row, content["multiprocessors"], flops, bandwidth, by)) for row in rows]
        total, floor = sum(p.total for _, p in found) * 1e3, sum(p.floor for _, p in found) * 1e3
        starts = sum(p.start for _, p in found) * 1e3
        lines += [
            f"## {name}",
            "",
            f"{total:.2f} ms predicted in {len(found)} launches, {starts:.2f} ms of it their starts; the floor of the same "
            f"launches is {floor:.2f} ms, the goal {GOALS[name]:.2f} ms.",
            "",
            *figures.table(_HEAD, _grouped(found)),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


_HEAD = (
    "kernel", "result", "times", "grid", "configuration", "registers", "a SM", "instructions", "in the loop", "products",
    "waits", "boxes, kB", "floor, µs", "memory", "cache", "products, µs", "issue", "chain", "predicted, µs", "together, µs",
)  # fmt: skip


def _grouped(found: Sequence[tuple[Mapping[str, Any], Predicted]]) -> list[list[str]]:
    """Launches that differ in nothing told, in one row; in the order of the first."""
    groups: dict[tuple[str, ...], list[Predicted]] = {}
    for row, times in found:
        groups.setdefault(tuple(_described(row, times)), []).append(times)
    table = []
    for words, times in groups.items():
        one = times[0]
        numbers = [
            one.floor,
            one.memory,
            one.cache,
            one.products,
            one.issue,
            one.chain,
            one.total,
            one.total * len(times),
        ]
        table.append([*words[:2], str(len(times)), *words[2:], *(f"{t * 1e6:.1f}" for t in numbers)])
    return table


def _described(row: Mapping[str, Any], times: Predicted) -> list[str]:
    blocks = "×".join(str(value) for value in row["blocks"].values())
    loop = row.get("loop", {})
    return [
        row["kernel"].removeprefix("_").removesuffix("_kernel"),
        "×".join(map(str, row["operands"][0])) if row["operands"] else "",
        "×".join(map(str, row["grid"])),
        f"{blocks} w{row['num_warps']} s{row['num_stages']}",
        str(row["registers"]) + ("" if not row["stack"] else f" (stack {row['stack']})"),
        str(times.programs),
        str(row["all"]["instructions"]),
        str(loop.get("instructions", "")),
        str(loop.get("HGMMA", "") or ""),
        str(loop.get("waits", "") or ""),
        f"{row['boxed'] / 1024:.0f}" if row["boxed"] else "",
    ]


def write_all(folder: Path) -> list[Path]:
    """The predictions of a folder's compiled steps, beside them."""
    written = []
    for path in sorted(folder.glob("step_*.json")):
        target = path.with_suffix(".md")
        with replacing(target) as unfinished:
            unfinished.write_text(markdown(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
        written.append(target)
    return written
