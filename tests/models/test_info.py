"""``tinyflow info``: counts of a forward pass and of a training step, and the least time at measured rates."""

from __future__ import annotations

import json

import pytest

from tinyflow.models.cli import main


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["info", "--json", *arguments]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_training_step(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "--batch", "8", "--size", "64", "--train", "--dtype", "bfloat16", "--gpu", "h200")
    layers = found["layers"]
    assert isinstance(layers, list)
    names = [layer["name"] for layer in layers]
    assert names[0] == "conv1" and names[-2:] == ["(loss)", "(optimizer)"]
    last = next(layer for layer in layers if layer["name"] == "layer4.1.conv2")
    assert last["backward_flops"] == pytest.approx(2 * last["flops"], rel=1e-3)
    floor = found["floor"]
    assert isinstance(floor, dict)
    assert floor["device"] == "NVIDIA H200"
    assert floor["ms"] == pytest.approx(sum(layer["floor"] for layer in layers))
    assert floor["images_per_second"] == pytest.approx(8 / floor["ms"] * 1e3)


def test_a_fused_step_lists_the_pooling_with_the_last_block(capsys: pytest.CaptureFixture[str]) -> None:
    common = "--fused", "--batch", "8", "--size", "64", "--dtype", "bfloat16"
    training, inference = (as_json(capsys, *common, *more)["layers"] for more in (("--train",), ()))
    assert isinstance(training, list) and isinstance(inference, list)
    blocks = [f"layer{k}.{j}" for k in range(1, 5) for j in range(2)]
    assert [layer["name"] for layer in training] == [*blocks, "fc", "(model)", "(loss)", "(optimizer)"]
    assert [layer["name"] for layer in inference] == [*blocks, "avgpool", "fc", "(model)"]
    assert training[7]["output"] == [8, 512, 1, 1] and inference[7]["output"] == [8, 512, 2, 2]


def test_bytes_follow_the_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    single, half = (as_json(capsys, "--size", "64", "--dtype", dtype) for dtype in ("float32", "bfloat16"))
    sums = [sum(layer["bytes"] for layer in found["layers"]) for found in (single, half)]  # type: ignore[attr-defined]
    assert sums[0] == pytest.approx(2 * sums[1], rel=1e-2)


def test_the_bytes_give_the_time_where_no_rate_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "--size", "64")
    layers, floor = found["layers"], found["floor"]
    assert isinstance(layers, list) and isinstance(floor, dict)
    assert floor["flops_per_second"] is None
    assert floor["ms"] == pytest.approx(sum(layer["bytes"] for layer in layers) / floor["bytes_per_second"] * 1e3)
    assert main(["info", "--size", "64"]) == 0
    assert "(no rate of float32 products, 3.0 TB/s): " in capsys.readouterr().out


def test_the_table_of_a_training_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--size", "64", "--train", "--dtype", "bfloat16"]) == 0
    table = capsys.readouterr().out
    for word in ("training step, bfloat16", "(optimizer)", "least time on NVIDIA H100 80GB", "images/s"):
        assert word in table


def test_an_unknown_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--gpu", "abacus"]) == 2
    assert "no rates of 'abacus' were measured; expected one of h100, h200" in capsys.readouterr().err


def test_an_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", "lenet"]) == 2
    assert "tinyflow info: there is no model 'lenet'; expected one of resnet18, " in capsys.readouterr().err
