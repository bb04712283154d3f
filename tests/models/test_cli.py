"""The ``tinyflow`` command: what it answers, and that bad input is a sentence and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyflow.models import checkpoint
from tinyflow.models.catalogue import MODELS, imagenet_classes
from tinyflow.models.classifier import Classifier
from tinyflow.models.cli import main
from tinyflow.models.device import choose_device


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    wave = 128 + 90 * np.sin(np.arange(20))[:, None] + np.zeros((20, 20))
    Image.fromarray(wave.astype(np.uint8)).save(tmp_path / "lying.png")
    return tmp_path / "lying.png"


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command prints on stderr."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"tinyflow {arguments[0]}: ")
    return captured.err


def test_the_package_is_the_command(tmp_path: Path) -> None:
    """Where ``tinyflow`` is not installed."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tinyflow.models", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    found = run("info", "--json", "--size", "32", "--batch", "1")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["model"] == "resnet18"
    refused = run("info", "--model", "resnet17")
    assert refused.returncode == 2
    assert refused.stderr.startswith("tinyflow info: there is no model 'resnet17'")


# ---- predict ---------------------------------------------------------------------------------------------------------


def test_predict_names_the_classes_of_each_image(
    finished: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(picture), str(picture), "--checkpoint", str(finished / "best.safetensors")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith(f"{picture}: ")
    assert "lying (" in first
    assert "standing (" in first


def test_predict_as_json(finished: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / "best.safetensors"
    assert main(["predict", str(picture), "--checkpoint", str(path), "--json", "--top", "9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["image"] == str(picture)
    probabilities = [p["probability"] for p in found["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert {(p["index"], p["class"]) for p in found["predictions"]} == {(0, "lying"), (1, "standing")}
    classifier = Classifier.from_checkpoint(path, choose_device(None))
    expected = classifier.probabilities(classifier.preparation.read(picture)[None])[0]
    assert probabilities == pytest.approx(sorted(expected.tolist(), reverse=True))


def test_invert_is_the_negative(
    finished: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(picture) as image:
        Image.fromarray(255 - np.asarray(image)).save(tmp_path / "negative.png")
    options = ["--checkpoint", str(finished / "best.safetensors"), "--json"]
    assert main(["predict", str(picture), "--invert", *options]) == 0
    assert main(["predict", str(tmp_path / "negative.png"), *options]) == 0
    first, second = (json.loads(line)["predictions"] for line in capsys.readouterr().out.splitlines())
    assert first == second


def test_predict_with_images_that_are_none(
    finished: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(finished / "best.safetensors")]
    (tmp_path / "bad.png").write_bytes(picture.read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    assert "missing.png does not exist" in fails(["predict", str(tmp_path / "missing.png"), *options], capsys)
    assert "bad.png" in fails(["predict", str(picture), str(tmp_path / "bad.png"), *options], capsys)
    assert "empty.png is empty" in fails(["predict", str(tmp_path / "empty.png"), *options], capsys)
    assert "at least one image" in fails(["predict", *options], capsys)
    assert "--top: expected at least 1, got 0" in fails(["predict", str(picture), "--top", "0", *options], capsys)


def test_predict_with_checkpoints_that_are_none(
    finished: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (finished / "best.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").touch()
    state = checkpoint.load(finished / "best.safetensors")
    checkpoint.save(tmp_path / "less.safetensors", {**state, "weights": {"fc.bias": state["weights"]["fc.bias"]}})
    checkpoint.save(tmp_path / "other.safetensors", {**state, "config": {**state["config"], "model": "lenet"}})
    for name, message in (
        ("missing", "does not exist"),
        ("cut", "is not a checkpoint that can be read"),
        ("empty", "is not a checkpoint that can be read"),
        ("less", "does not fit this version of tinyflow"),
        ("other", "there is no model 'lenet'; expected one of resnet18"),
    ):
        path = tmp_path / f"{name}.safetensors"
        assert message in fails(["predict", str(picture), "--checkpoint", str(path)], capsys)


def test_predict_with_weights_that_are_none(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.pth").write_text("no weights")
    for weights in ("missing.pth", "weights.pth"):
        message = fails(["predict", str(picture), "--weights", str(tmp_path / weights)], capsys)
        assert "weights" in message
        assert "resnet18" in message


# ---- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_finds_what_training_found(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert main(["evaluate", "--checkpoint", str(finished / "last.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == last["test_accuracy"]
    assert found["loss"] == pytest.approx(last["test_loss"], rel=1e-5)
    assert found["images"] == 10
    assert [c["images"] for c in found["classes"].values()] == [5, 5]


def test_evaluate_prints_a_table(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint", str(finished / "last.safetensors"), "--batch-size", "3"]) == 0
    table = capsys.readouterr().out
    for word in ("lying", "standing", "all", "recognised", "mean cross-entropy"):
        assert word in table


def test_evaluate_refuses_data_of_another_kind(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(finished / "last.safetensors")]
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{k}.png")
    assert "knows 2 classes in colour images" in fails(["evaluate", "--data", str(tmp_path), *options], capsys)
    assert "does not exist" in fails(["evaluate", "--data", str(tmp_path / "x"), *options], capsys)


# ---- train -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs: expected at least 1, got 0"),
        (["--batch-size", "-1"], "--batch-size: expected at least 1, got -1"),
        (["--lr", "nan"], "--lr: expected a positive number, got nan"),
        (["--lr", "0"], "--lr: expected a positive number"),
        (["--momentum", "1"], "--momentum: expected from 0 to below 1"),
        (["--label-smoothing", "2"], "--label-smoothing: expected from 0 to 1"),
        (["--shift", "-2"], "--shift: expected 0 or more"),
        (["--model", "lenet"], "there is no model 'lenet'; expected one of resnet18, resnet34"),
        (["--data", "/nowhere"], "/nowhere does not exist"),
        (["--batch-size", "100000"], "make no batch of 100000"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--resume"], "last.safetensors does not exist"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_train_with_options_that_cannot_be(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(["train", "--out", str(tmp_path / "run"), *options], capsys)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_to(stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "run")
    assert f"{tmp_path}/file" in fails(["train", "--data", str(stripes), "--batch-size", "4", "--out", out], capsys)


@pytest.mark.parametrize(
    "arguments", [["train", "--epochs", "many"], ["train", "--speed", "3"], ["fly"], [], ["train", "--schedule", "x"]]
)
def test_what_the_command_line_does_not_know(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_counts_parameters_and_flops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert sum(layer["parameters"] for layer in found["layers"]) == 11_689_512
    assert layers["conv1"]["output"] == [1, 64, 112, 112]
    assert layers["conv1"]["flops"] == 2 * 64 * 112 * 112 * 3 * 49
    assert layers["layer4.1.conv2"]["flops"] == 2 * 512 * 7 * 7 * 512 * 9
    assert layers["fc"]["output"] == [1, 1000]
    convolutions = sum(layer["flops"] for layer in found["layers"] if layer["kind"] in ("Conv2d", "Linear"))
    assert convolutions == pytest.approx(2 * 1.814e9, rel=1e-3)
    assert {"device", "mode", "tinyflow", "torch", "triton", "python"} <= set(found)


def test_info_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", "resnet50", "--image-size", "64", "--batch-size", "2", "--classes", "7"]) == 0
    table = capsys.readouterr().out
    for word in ("layer4.2.conv3", "Bottleneck", "2×7", "triton", "FLOPs"):
        assert word in table


def test_info_with_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no model" in fails(["info", "--model", "lenet"], capsys)
    assert "--image-size: expected at least 1" in fails(["info", "--image-size", "0"], capsys)


# ---- names -----------------------------------------------------------------------------------------------------------


def test_imagenet_has_a_thousand_names() -> None:
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    for index, name in ((0, "tench"), (207, "golden retriever"), (340, "zebra"), (817, "sports car"), (954, "banana")):
        assert names[index] == name


def test_every_model_of_the_catalogue_is_named_like_its_function() -> None:
    assert all(function.__name__ == name for name, function in MODELS.items())
