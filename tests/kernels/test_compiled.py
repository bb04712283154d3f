"""The cheap launcher hands a compiled kernel what Triton would, and steps aside where it does not know Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinyflow.kernels import compiled

ROOT = Path(__file__).resolve().parents[2]


def compare(tmp_path: Path, **environment: str) -> dict[str, object]:
    """Runs ``tests/compile/cheap_launches.py``, which compiles, in a process of its own."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("TINYFLOW_STRICT", "TINYFLOW_LAUNCHER")}
    inherited |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.compile.cheap_launches"],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.stdout, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_looked_up_launch_is_tritons_launch(tmp_path: Path) -> None:
    found = compare(tmp_path)
    assert found["wrong"] == []
    assert found["compared"] >= 18


@pytest.mark.slow
def test_it_can_be_switched_off(tmp_path: Path) -> None:
    wrong = compare(tmp_path, TINYFLOW_LAUNCHER="triton")["wrong"]
    assert isinstance(wrong, list)
    assert {text.rpartition(": ")[2] for text in wrong if "launched by" in text} == {"launched by triton"}


@pytest.mark.parametrize(
    ("version", "known"),
    [("3.5.1", False), ("3.6.0", True), ("3.7.0+git1a2b", True), ("3.9.1", True), ("3.10.0", False), ("4.0.0", False)],
)
def test_versions(version: str, known: bool) -> None:
    assert compiled.is_known(version) is known


def test_the_interpreter_does_not_use_it() -> None:
    if compiled.INTERPRETING:
        assert compiled._wanted is False
