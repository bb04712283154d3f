"""``tinyflow train``: what a run leaves, and that one which was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.memory_only import MemoryOnly
from tests.models.conftest import OPTIONS
from tinyflow import serialization
from tinyflow.capture import Captured
from tinyflow.models import checkpoint
from tinyflow.models.cli import main

_TIMES = ("images_per_second", "seconds")


def lines(folder: Path) -> list[dict[str, float]]:
    """The metrics without what depends on the clock."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in _TIMES} for record in records]


def assert_same_bits(a: Path, b: Path) -> None:
    """Weights, statistics and momentum of two checkpoints."""
    first, second = (serialization.load_tensors(path) for path in (a, b))
    assert set(first) == set(second)
    assert len(first) > 15
    for name, tensor in first.items():
        x, y = tensor.to_torch(), second[name].to_torch()
        assert torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)), name


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    code = """
import sys
from tests.models import small_model
from tinyflow.models.cli import main
small_model.register()
sys.exit(main())
"""
    command = [sys.executable, "-c", code, *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def position(folder: Path) -> tuple[int, int]:
    """Epoch and batch of the last checkpoint."""
    path = folder / "last.safetensors"
    if not path.exists():
        return (0, 0)
    loader = json.loads(serialization.load_metadata(path)["tinyflow"])["state"]["loader"]
    return loader["epoch"], loader["batch"]


def test_a_run_leaves_its_files(finished: Path) -> None:
    assert sorted(f.name for f in finished.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "learning_curve.png",
        "metrics.jsonl",
    ]
    assert [record["epoch"] for record in lines(finished)] == [1, 2, 3]
    state = checkpoint.load(finished / "last.safetensors")
    assert state["classes"] == ["lying", "standing"]
    assert state["config"]["batch_size"] == 4
    assert state["loader"] == {"seed": 0, "epoch": 3, "batch": 0}
    assert [record["epoch"] for record in state["history"]] == [1, 2, 3]


def test_killed_in_the_middle_of_an_epoch_it_goes_on_bit_for_bit(stripes: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = start("train", "--data", stripes, "--out", out, *OPTIONS)
    wait_for(lambda: position(out) >= (1, 2), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (1, 2) <= position(out) < (3, 0)
    with open(out / "metrics.jsonl", "a") as file:  # what a kill between the two writes of an epoch's end would leave
        file.write('{"epoch": 3, "train_loss": 0.5}\n{"epo')
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert_same_bits(out / "last.safetensors", finished / "last.safetensors")
    assert_same_bits(out / "best.safetensors", finished / "best.safetensors")
    assert lines(out) == lines(finished)


def test_ctrl_c_saves_and_says_how_to_go_on(stripes: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = start("train", "--data", stripes, "--out", out, *OPTIONS, "--checkpoint-every", "0")
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(lines(out)) >= 1, process)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == 130, output
    assert f"tinyflow train --resume --out {out}" in output
    assert "Traceback" not in output
    assert (1, 0) <= position(out) < (3, 0)
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert lines(out) == lines(finished)
    assert_same_bits(out / "last.safetensors", finished / "last.safetensors")


def test_another_seed_is_another_run(stripes: Path, finished: Path, tmp_path: Path) -> None:
    options = ["--data", str(stripes), "--out", str(tmp_path), *OPTIONS, "--epochs", "1"]
    assert main(["train", *options, "--seed", "1"]) == 0
    assert lines(tmp_path)[0]["train_loss"] != lines(finished)[0]["train_loss"]


def test_a_finished_run_is_not_overwritten(stripes: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "last.safetensors").stat().st_mtime_ns
    assert main(["train", "--data", str(stripes), "--out", str(finished)]) == 2
    assert "holds a run already; continue it with --resume" in capsys.readouterr().err
    assert (finished / "last.safetensors").stat().st_mtime_ns == before


def test_a_resumed_run_keeps_its_options(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "--out", str(finished), "--batch-size", "8"]) == 2
    assert "started, with --batch-size 4; leave --batch-size out" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(finished), "--batch-size", "4"]) == 0
    assert "best test accuracy" in capsys.readouterr().out


def test_a_run_is_not_resumed_with_other_classes(
    stripes: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "lying").symlink_to(stripes / part / "lying")
        (tmp_path / part / "upright").symlink_to(stripes / part / "standing")
    assert main(["train", "--resume", "--out", str(finished), "--data", str(tmp_path)]) == 2
    assert "classes are not those" in capsys.readouterr().err


def test_torch_computes_nothing(stripes: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "--epochs", "1"]
    with MemoryOnly() as watch:
        assert main(["train", "--data", str(stripes), "--out", str(tmp_path), *options]) == 0
        assert main(["train", "--resume", "--out", str(tmp_path)]) == 0
        assert main(["evaluate", "--checkpoint", str(tmp_path / "best.safetensors")]) == 0
        image = str(next((stripes / "val" / "lying").iterdir()))
        assert main(["predict", image, "--checkpoint", str(tmp_path / "best.safetensors")]) == 0
    assert watch.seen


def test_weights_to_start_from(stripes: Path, finished: Path, tmp_path: Path) -> None:
    state = checkpoint.load(finished / "best.safetensors")["weights"]
    serialization.save(state, tmp_path / "weights.safetensors")
    options = ["--data", str(stripes), "--out", str(tmp_path / "tuned"), *OPTIONS, "--epochs", "1", "--lr", "1e-12"]
    assert main(["train", *options, "--weights", str(tmp_path / "weights.safetensors")]) == 0
    tuned = checkpoint.load(tmp_path / "tuned" / "last.safetensors")["weights"]
    assert torch.allclose(tuned["fc.weight"].to_torch(), state["fc.weight"].to_torch())
    assert torch.allclose(tuned["features.0.weight"].to_torch(), state["features.0.weight"].to_torch())


def test_a_captured_step_trains_the_same_bits(stripes: Path, finished: Path, tmp_path: Path) -> None:
    """And a captured run may be resumed without, as --capture says how and not what is computed."""
    options = ["--data", str(stripes), "--out", str(tmp_path), *OPTIONS]
    assert main(["train", *options, "--capture"]) == 0
    assert lines(tmp_path) == lines(finished)
    assert_same_bits(tmp_path / "last.safetensors", finished / "last.safetensors")
    assert main(["train", "--resume", "--out", str(tmp_path), "--no-capture"]) == 0


def test_mixed_precision_learns_in_float32(
    stripes: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(stripes), "--out", str(tmp_path), *OPTIONS, "--epochs", "1"]
    assert main(["train", *options, "--amp"]) == 0
    expected, found = lines(finished)[0], lines(tmp_path)[0]
    assert found["train_loss"] != expected["train_loss"]
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=0.05)
    weights = checkpoint.load(tmp_path / "last.safetensors")["weights"]
    assert {w.dtype for w in weights.values() if w.is_floating_point()} == {torch.float32}
    assert main(["train", "--resume", "--out", str(tmp_path), "--no-amp"]) == 2
    assert "started, with --amp True; leave --amp out" in capsys.readouterr().err


def test_a_gpu_gets_half_precision_and_a_recorded_step_by_itself(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(stripes), *OPTIONS, "--epochs", "1"]
    wanted, found, without = tmp_path / "wanted", tmp_path / "found", tmp_path / "without"
    assert main(["train", *options, "--out", str(wanted), "--amp", "--capture"]) == 0
    monkeypatch.setattr("tinyflow.models.run.is_gpu", lambda device: True)
    capsys.readouterr()
    assert main(["train", *options, "--out", str(found)]) == 0
    assert "6 steps, products in bfloat16, the step recorded\n" in capsys.readouterr().out
    assert lines(found) == lines(wanted)
    assert_same_bits(found / "last.safetensors", wanted / "last.safetensors")
    assert main(["train", *options, "--out", str(without), "--no-amp", "--no-capture"]) == 0
    assert "6 steps\n" in capsys.readouterr().out
    assert lines(without) != lines(found)
    assert [checkpoint.load(out / "last.safetensors")["config"]["amp"] for out in (without, found)] == [False, True]
    monkeypatch.undo()
    assert main(["train", "--resume", "--out", str(found)]) == 0  # in the run's own precision, on the CPU too
    assert "products in bfloat16\n" in capsys.readouterr().out


@pytest.mark.parametrize("call", [1, 4])
def test_a_step_that_cannot_be_recorded_is_run_as_it_is(
    call: int,
    stripes: Path,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failure after the step has changed everything that it changes: the run's bits are those of one without capture."""
    made, original = [], Captured.__call__

    def fail_late(self: Captured, *inputs: object) -> object:
        made.append(self)
        result = original(self, *inputs)
        if len(made) == call:
            raise RuntimeError("no recording\nhere")
        return result

    monkeypatch.setattr(Captured, "__call__", fail_late)
    capsys.readouterr()
    assert main(["train", "--data", str(stripes), "--out", str(tmp_path), *OPTIONS, "--capture"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("the step cannot be recorded here") == 1
    assert "(--no-capture does so from the start): RuntimeError: no recording" in printed
    assert len(made) == call
    assert lines(tmp_path) == lines(finished)
    assert_same_bits(tmp_path / "last.safetensors", finished / "last.safetensors")


def test_a_recorded_step_that_fails_later_is_an_error(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, original = [], Captured.__call__

    def fail_late(self: Captured, *inputs: object) -> object:
        made.append(self)
        if len(made) == 6:
            raise RuntimeError("the device is gone")
        return original(self, *inputs)

    monkeypatch.setattr(Captured, "__call__", fail_late)
    with pytest.raises(RuntimeError, match="the device is gone"):
        main(["train", "--data", str(stripes), "--out", str(tmp_path), *OPTIONS, "--capture"])
