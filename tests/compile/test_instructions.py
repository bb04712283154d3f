"""What sm_90 gets of the convolutions by boxes: no spills, memory that fits, and the instructions that were promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Shared memory that one program can have on sm_90.
LIMIT = 227 * 1024


@pytest.mark.slow
def test_every_box_configuration_on_hopper(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    environment.pop("TINYFLOW_STRICT", None)
    file = tmp_path / "compile_sm_90.json"
    command = [sys.executable, "-m", "tests.compile.instructions", str(file)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = json.loads(file.read_text())["kernels"]
    assert len({row["kernel"] for row in rows}) == 6
    spilled = [row for row in rows if row["LDL"] or row["STL"] or row["stack"]]
    too_large = [row for row in rows if row["shared"] > LIMIT]
    # the stem with its pooling reads the image by addresses
    by_address = [
        row for row in rows if not row["HGMMA"] or (not row["UTMALDG"] and row["kernel"] != "_pooled_stem_kernel")
    ]
    assert (spilled, too_large, by_address) == ([], [], [])
    for row in rows:
        convolves = row["kernel"] in ("_box_conv2d_kernel", "_box_conv2d_input_grad_kernel")
        assert not convolves or row["UTMASTG"], row
        if row["kernel"] == "_stream_conv2d_weight_grad_kernel" or (convolves and "ReLU" not in row["epilogue"]):
            assert not row["LDSM"], row  # both factors straight from shared memory, not through registers
