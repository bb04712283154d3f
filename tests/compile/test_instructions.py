"""What a target gets of the convolutions by boxes: no spills, memory that fits, and the instructions that were promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Shared memory that one program can have on sm_90 and sm_100.
LIMIT = 227 * 1024


def spills(row: dict[str, Any], target: str, version: str) -> bool:
    """Whether a kernel puts registers aside, but for up to six at their bound where a version cannot do without."""
    if target == "sm_100":
        bound = version.startswith(("3.7", "3.8"))
    else:
        bound = version.startswith("3.8") and row["kernel"] == "_pooled_stem_weight_grad_kernel"
    return bool(row["stack"] > 24 if bound else row["stack"] or row["LDL"] or row["STL"])


def compiled(target: str, product: str, tmp_path: Path) -> list[dict[str, Any]]:
    """The rows of the table, of which none spills or asks for too much, and all take the instructions for products."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    environment.pop("TINYFLOW_STRICT", None)
    file = tmp_path / "compile.json"
    command = [sys.executable, "-m", "tests.compile.instructions", str(file), target]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr[-2000:]
    table = json.loads(file.read_text())
    rows = table["kernels"]
    spilled = [row for row in rows if spills(row, target, table["triton"])]
    too_large = [row for row in rows if row["shared"] > LIMIT]
    # the stem with its pooling reads the image by addresses
    by_address = [
        row for row in rows if not row[product] or (not row["UTMALDG"] and row["kernel"] != "_pooled_stem_kernel")
    ]
    assert (spilled, too_large, by_address) == ([], [], [])
    return rows


#: Products of a turn with sums that go on to the next, each of several instructions and waited for once.
WAITS = {
    "_box_conv2d_weight_grad_kernel": 9,
    "_stem_weight_grad_kernel": 4,
    "_pooled_stem_weight_grad_kernel": 4,
}


@pytest.mark.slow
def test_every_box_configuration_on_blackwell(tmp_path: Path) -> None:
    rows = compiled("sm_100", "UTCHMMA", tmp_path)
    assert len({row["kernel"] for row in rows}) == 5
    for row in rows:
        convolves = row["kernel"] in ("_box_conv2d_kernel", "_box_conv2d_input_grad_kernel")
        assert not convolves or row["UTMASTG"], row
        if convolves and "ReLU" not in row["epilogue"]:
            assert not row["LDSM"], row  # both factors straight from shared memory, not through registers


@pytest.mark.slow
def test_every_box_configuration_on_hopper(tmp_path: Path) -> None:
    rows = compiled("sm_90", "HGMMA", tmp_path)
    assert len({row["kernel"] for row in rows}) == 9
    for row in rows:
        convolves = row["kernel"] in ("_box_conv2d_kernel", "_box_conv2d_input_grad_kernel")
        by_rows = row["kernel"] in ("_row_conv2d_kernel", "_row_conv2d_input_grad_kernel")
        assert not (convolves or by_rows) or row["UTMASTG"], row
        if by_rows:
            assert (row["HGMMA"], row["WARPGROUP.DEPBAR"]) == (24, 6), row  # not a wait for every instruction
            if row["num_warps"] == 4 and "sums" not in row["epilogue"]:
                # two share the memory of a multiprocessor, of which each takes a KiB besides
                assert 2 * (row["shared"] + 1024) <= LIMIT + 1024, row
        if row["kernel"] in WAITS:
            assert row["WARPGROUP.DEPBAR"] == WAITS[row["kernel"]] < row["HGMMA"], row
        if row["kernel"] == "_stream_conv2d_weight_grad_kernel" or (convolves and "ReLU" not in row["epilogue"]):
            assert not row["LDSM"], row  # both factors straight from shared memory, not through registers
