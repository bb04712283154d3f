"""What the compiler made of the kernels, as a table for those who tune them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import figures
from tinyflow.serialization import replacing


def markdown(content: Mapping[str, Any]) -> str:
    """Registers, stack, shared memory and counts of instructions of each kernel and configuration."""
    rows = content["kernels"]
    told = ("kernel", "epilogue", "blocks", "num_warps", "num_stages")
    numbers = [name for name in rows[0] if name not in told]
    lines = [
        f"# Compiled for {content['target']}",
        "",
        f"{content['dtype']}, Triton {content['triton']}, without a GPU: registers and bytes of stack a thread, bytes of "
        "shared memory a program, and how often an instruction stands in the code. `python -m tests.compile.instructions` "
        "compiles all of it anew. LDL and STL are spills; HGMMA is a product, WARPGROUP.DEPBAR a wait for products, UTMALDG "
        "and UTMASTG move boxes, LDSM takes a factor through registers.",
        "",
    ]
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        found = [row for row in rows if row["kernel"] == kernel]
        head = ("form", "configuration", "warps", "stages", *numbers)
        lines += [f"## `{kernel}`", "", *figures.table(head, [_row(row, numbers) for row in found]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(row: Mapping[str, Any], numbers: list[str]) -> list[str]:
    blocks = " ".join(f"{name}={value}" for name, value in row["blocks"].items())
    settings = (row["epilogue"], blocks, row["num_warps"], row["num_stages"])
    return [str(value) for value in (*settings, *(row[name] for name in numbers))]


def write_all(folder: Path) -> list[Path]:
    """The tables of a folder's compile results, beside them."""
    written = []
    for path in sorted(folder.glob("compile_*.json")):
        target = path.with_suffix(".md")
        with replacing(target) as unfinished:
            unfinished.write_text(markdown(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
        written.append(target)
    return written
