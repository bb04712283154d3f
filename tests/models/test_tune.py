"""``tinyflow tune``: problems from a model's step, a table that later runs use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models import small_model
from tinyflow import profiler
from tinyflow.kernels import tuned
from tinyflow.kernels.configs import Configs
from tinyflow.models.cli import main

STEP = ["--shapes", "small", "--batch", "2", "--size", "8", "--classes", "3", "--dtype", "float32", "--rounds", "1"]

only_interpreted = pytest.mark.skipif(not profiler.interpreting(), reason="about the interpreter")


@pytest.fixture(autouse=True)
def _small() -> None:
    small_model.register()


def test_a_table_is_written_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    assert main(["tune", "_batch_norm_apply_kernel", *STEP, "--out", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "_batch_norm_apply_kernel: float32 pixels=32 channels=8" in printed
    assert "BLOCK_P=128 BLOCK_C=32 num_warps=4 num_stages=2: " in printed and " µs" in printed
    assert f"2 of 2 problems are in {path}" in printed
    table = json.loads(path.read_text())
    assert table["device"] == profiler.device_name()
    assert {"tinyflow", "torch", "triton"} <= set(table["versions"])
    entries = table["kernels"]["_batch_norm_apply_kernel"]
    assert set(entries) == {"float32 pixels=32 channels=8", "float32 pixels=8 channels=16"}
    assert all(entry["us"] > 0 for entry in entries.values())

    entries["float32 pixels=32 channels=8"]["blocks"] = {"BLOCK_P": 32, "BLOCK_C": 128}  # not what is chosen without it
    path.write_text(json.dumps(table))
    monkeypatch.setenv("TINYFLOW_TUNED", str(path))
    configs = Configs.registry["_batch_norm_apply_kernel"]
    configs.forget_tables()
    import torch

    try:
        with profiler.planned_for_gpu():
            assert configs(torch.float32, pixels=30, channels=8).blocks == {"BLOCK_P": 32, "BLOCK_C": 128}
            assert configs(torch.float32, pixels=300, channels=8).blocks == {"BLOCK_P": 128, "BLOCK_C": 32}
    finally:
        configs.forget_tables()


def test_a_search_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.json"
    arguments = ["tune", "_batch_norm_apply_kernel", *STEP, "--out", str(path), "--resume"]
    assert main([*arguments, "--seconds", "-1"]) == 3
    assert "time ran out before problem 1 of 2; go on with --resume" in capsys.readouterr().err
    assert main(arguments) == 0
    table = json.loads(path.read_text())
    kept = table["kernels"]["_batch_norm_apply_kernel"]["float32 pixels=32 channels=8"]
    kept["us"] = 12345.0
    del table["kernels"]["_batch_norm_apply_kernel"]["float32 pixels=8 channels=16"]
    path.write_text(json.dumps(table))
    capsys.readouterr()
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "[2/2] _batch_norm_apply_kernel: float32 pixels=8 channels=16" in printed and "[1/2]" not in printed
    entries = json.loads(path.read_text())["kernels"]["_batch_norm_apply_kernel"]
    assert entries["float32 pixels=32 channels=8"] == kept and len(entries) == 2
    del table["kernels"]["_batch_norm_apply_kernel"]["float32 pixels=32 channels=8"]
    path.write_text(json.dumps(table))
    begun = tmp_path / "table.json.begun"
    begun.write_text("_batch_norm_apply_kernel float32 pixels=32 channels=8\n" * 2)  # each ended its process
    assert main(arguments) == 1
    assert "_batch_norm_apply_kernel: float32 pixels=32 channels=8: ended the process before" in capsys.readouterr().err
    path.write_text(json.dumps({**table, "device": "another"}))
    assert "is the table of 'another', not of" in fails([*arguments[1:]], capsys)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["tune", *arguments]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "t.json")]
    message = fails(["_no_kernel", *STEP, *out], capsys)
    assert "_no_kernel has nothing to choose in a step of small; try _batch_norm_apply_kernel, " in message
    assert "tinyflow tune: there is no model 'lenet'" in fails(["--shapes", "lenet", *out], capsys)
    assert "--rounds: expected at least 1, got 0" in fails([*STEP[:-1], "0", *out], capsys)
    one = ["--shapes", "resnet18", "--batch", "1", "--size", "32", *out]
    assert "resnet18 does not train on 1 images of 32×32: batch_norm: Expected more than 1 value" in fails(one, capsys)
    (tmp_path / "t.json").write_text("no table")
    assert "is no table of configurations" in fails(["_batch_norm_apply_kernel", *STEP, *out], capsys)


@only_interpreted
def test_the_interpreters_times_are_not_for_a_gpus_table(capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tuned.FOLDER.iterdir())
    assert "say nothing about a GPU: name a table of your own with --out" in fails(STEP, capsys)
    assert sorted(tuned.FOLDER.iterdir()) == before
