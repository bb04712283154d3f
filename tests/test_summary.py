"""A model's layers as a table, of a run that computes nothing."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.memory_only import MemoryOnly
from tinyflow import nn
from tinyflow.kernels import memory
from tinyflow.models import resnet18

SMALL = """\
================================================================
Layer (type:depth-idx)  Output Shape        Param #
================================================================
Sequential              [2, 3, 4]           --
├─Conv2d: 1-1           [2, 3, 4, 4]        84
└─Block: 1-2            [2, 3, 4]           --
     ├─Linear: 2-1      [2, 3, 4]           20
     ├─ReLU: 2-2        [2, 3, 4]           --
     └─Linear: 2-3      [2, 3, 4]           (recursive)
================================================================
Total params: 104
"""


class Block(nn.Module):
    """The same layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: tinyflow.Tensor) -> tinyflow.Tensor:
        return self.linear(self.act(self.linear(x.mean(3))))


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Block())


def test_resnet18() -> None:
    """The totals that torchinfo prints of it for one image, where multiply-adds leave out activation and pooling."""
    found = tinyflow.summary(resnet18(), (1, 3, 224, 224), verbose=0)
    lines = str(found).splitlines()
    for line in (
        "Total params: 11,689,512",
        "Trainable params: 11,689,512",
        "Non-trainable params: 0",
        "Input size (MB): 0.60",
        "Forward/backward pass size (MB): 39.75",
        "Params size (MB): 46.76",
        "Estimated Total Size (MB): 87.11",
    ):
        assert line in lines
    convolution = next(layer for layer in found.root.tree() if layer.name == "conv1")
    assert convolution.mult_adds == 64 * 112 * 112 * 3 * 49 and convolution.kernel_size == (7, 7)
    products = sum(i.mult_adds for i in found.root.tree() if i.kind in ("Conv2d", "Linear"))
    assert products == 1_814_073_344
    assert products < found.total_mult_adds < 1.01 * products
    assert sum(i.num_params for i in found.root.tree() if not i.children and not i.recursive) == 11_689_512


def test_the_tree_and_the_columns() -> None:
    found = tinyflow.summary(small(), (2, 3, 4, 4), verbose=0, col_width=20)
    text = str(found)
    assert text.startswith(SMALL)
    assert repr(found) == text
    wide = tinyflow.summary(
        small(),
        (2, 3, 4, 4),
        verbose=0,
        col_names=("input_size", "kernel_size", "mult_adds", "params_percent", "trainable"),
        row_settings=("depth", "var_names"),
        depth=1,
    )
    rows = str(wide).splitlines()[3:6]
    products = f"{2 * 3 * 16 * 27:,}"
    assert rows[1].split()[1:] == ["(0):", "1-1", "[2,", "3,", "4,", "4]", "[3,", "3]", products, "80.77%", "True"]
    assert rows[2].split()[:3] == ["└─Block", "(1):", "1-2"] and rows[2].split()[-2:] == ["19.23%", "True"]
    assert "Linear" not in str(wide)


def test_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2, bias=False))
    model[0].weight.requires_grad = False
    found = tinyflow.summary(model, (1, 4), verbose=0, col_names=("trainable",))
    assert (found.total_params, found.trainable_params) == (14, 6)
    assert [str(found).splitlines()[k].split()[-1] for k in (3, 4, 5)] == ["Partial", "Partial", "True"]


def test_the_model_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    before = {name: value.tolist() for name, value in model.state_dict().items()}
    devices = {p.device.type for p in model.parameters()}
    tinyflow.summary(model, (4, 2, 3, 3), verbose=0, mode="train")
    assert {name: value.tolist() for name, value in model.state_dict().items()} == before
    assert {p.device.type for p in model.parameters()} == devices and model.training and model[1].training
    assert not model[0]._forward_hooks


def test_nothing_is_allocated() -> None:
    model = small()
    seen: list[torch.Tensor] = []
    memory.allocation_hooks.append(seen.append)
    try:
        with MemoryOnly():
            tinyflow.summary(model, (2, 3, 4, 4), verbose=0)
    finally:
        memory.allocation_hooks.remove(seen.append)
    assert seen and all(x.device.type == "meta" for x in seen)


def test_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: tinyflow.Tensor, b: tinyflow.Tensor, scale: float = 1.0) -> dict[str, tinyflow.Tensor]:
            return {"sum": (a + b) * scale, "first": a[0]}

    a, b = tinyflow.ones(2, 3), tinyflow.ones(3, dtype=tinyflow.float64)
    for given in (
        {"input_size": [(2, 3), (3,)], "dtypes": [tinyflow.float32, tinyflow.float64]},
        {"input_data": (a, b), "scale": 2.0},
        {"input_data": {"a": a, "b": b}},
    ):
        found = tinyflow.summary(Two(), verbose=0, **given)
        assert found.root.input_size == [(2, 3), (3,)] and found.root.output_size == {"sum": (2, 3), "first": (3,)}
        assert found.input_bytes == 2 * 3 * 4 + 3 * 8
    assert tinyflow.summary(nn.ReLU(), input_data=a, verbose=0).root.output_size == (2, 3)


def test_a_model_that_looks_at_values_runs_on_its_device() -> None:
    class Looks(nn.Module):
        def forward(self, x: tinyflow.Tensor) -> tinyflow.Tensor:
            return x.sin() if x.sum().item() == 0 else x

    device = tinyflow.get_default_device()
    model = Looks()
    assert tinyflow.summary(model, (2,), verbose=0, device=device).root.output_size == (2,)
    assert model.training and not model._forward_hooks


def test_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    found = tinyflow.summary(nn.ReLU(), (1, 2))
    assert capsys.readouterr().out == f"{found}\n"
    assert "Total mult-adds: 1" in str(found).splitlines()


def test_wrong_calls() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"unknown columns \['size'\]; expected some of input_size, output_size"):
        tinyflow.summary(model, (1, 2), col_names=("size",))
    with pytest.raises(ValueError, match="expected mode to be 'eval', 'train' or 'same', got 'test'"):
        tinyflow.summary(model, (1, 2), mode="test")
    for given in ({}, {"input_size": (1, 2), "input_data": tinyflow.ones(1, 2)}):
        with pytest.raises(ValueError, match="expected input_size or input_data, and not both"):
            tinyflow.summary(model, **given)
    with pytest.raises(ValueError, match="expected a dtype for each of 1 inputs, got 2"):
        tinyflow.summary(model, (1, 2), dtypes=[tinyflow.float32] * 2)
    with pytest.raises(TypeError, match="expected an nn.Module"):
        tinyflow.summary(3, (1, 2))
