"""Which form each convolution takes, on each kind of device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tinyflow.kernels import conv2d as kernels
from tinyflow.kernels import hardware, launch
from tinyflow.kernels.configs import Config, Configs, planned_for_gpu
from tinyflow.kernels.conv2d import dispatch
from tinyflow.kernels.conv2d.geometry import resolve

BATCH = 256
META = torch.device("meta")

#: ResNet18's convolutions at 224²: input, weight, stride, padding.
RESNET18 = {
    "stem": ((BATCH, 3, 224, 224), (64, 3, 7, 7), 2, 3),
    "layer1": ((BATCH, 64, 56, 56), (64, 64, 3, 3), 1, 1),
    "layer2.0.conv1": ((BATCH, 64, 56, 56), (128, 64, 3, 3), 2, 1),
    "layer2.0.downsample": ((BATCH, 64, 56, 56), (128, 64, 1, 1), 2, 0),
    "layer2": ((BATCH, 128, 28, 28), (128, 128, 3, 3), 1, 1),
    "layer3.0.conv1": ((BATCH, 128, 28, 28), (256, 128, 3, 3), 2, 1),
    "layer3.0.downsample": ((BATCH, 128, 28, 28), (256, 128, 1, 1), 2, 0),
    "layer3": ((BATCH, 256, 14, 14), (256, 256, 3, 3), 1, 1),
    "layer4.0.conv1": ((BATCH, 256, 14, 14), (512, 256, 3, 3), 2, 1),
    "layer4.0.downsample": ((BATCH, 256, 14, 14), (512, 256, 1, 1), 2, 0),
    "layer4": ((BATCH, 512, 7, 7), (512, 512, 3, 3), 1, 1),
}

#: Forward pass, input gradient, weight gradient on sm_90 and sm_100 in bfloat16. In training the stem's image needs no
#: gradient.
EXPECTED = {
    "stem": ("stem", "general", "stem"),
    "layer1": ("box", "box", "nine taps"),
    "layer2.0.conv1": ("box", "box", "stream-K"),
    "layer2.0.downsample": ("box", "box", "stream-K"),
    "layer2": ("box", "box", "stream-K"),
    "layer3.0.conv1": ("box", "box", "stream-K"),
    "layer3.0.downsample": ("box", "box", "stream-K"),
    "layer3": ("box", "box", "stream-K"),
    "layer4.0.conv1": ("box", "box", "stream-K"),
    "layer4.0.downsample": ("box", "box", "stream-K"),
    "layer4": ("box", "box", "stream-K"),
}

GENERAL = (dispatch.GENERAL,) * 3


def paths(shape, weight_shape, stride=1, padding=0, dilation=1, groups=1, dtype=torch.bfloat16) -> tuple[str, ...]:
    found = resolve("conv2d", shape, weight_shape, stride, padding, dilation, groups)
    return tuple(way(found, dtype, META) for way in (dispatch.forward, dispatch.input_grad, dispatch.weight_grad))


@pytest.mark.parametrize("layer", RESNET18)
@pytest.mark.parametrize("capability", [(9, 0), (10, 0), (10, 3)], ids=["sm_90", "sm_100", "sm_103"])
def test_resnet18_by_boxes(layer: str, capability: tuple[int, int]) -> None:
    with hardware.assumed(capability):
        assert paths(*RESNET18[layer]) == EXPECTED[layer]
        assert paths(*RESNET18[layer], dtype=torch.float32) == GENERAL


@pytest.mark.parametrize("layer", RESNET18)
@pytest.mark.parametrize("capability", [(0, 0), (8, 0), (11, 0), (12, 0)], ids=["none", "sm_80", "sm_110", "sm_120"])
def test_resnet18_elsewhere(layer: str, capability: tuple[int, int]) -> None:
    with hardware.assumed(capability):
        assert paths(*RESNET18[layer]) == GENERAL


@pytest.mark.parametrize(
    ("shape", "weight_shape", "parameters"),
    [
        ((32, 64, 8, 8), (64, 16, 3, 3), {"groups": 4}),
        ((32, 64, 8, 8), (64, 64, 3, 3), {"dilation": 2}),
        ((32, 64, 8, 8), (64, 64, 3, 3), {"stride": 3}),
        ((32, 64, 8, 8), (64, 64, 3, 3), {"stride": (1, 2)}),
        ((32, 20, 8, 8), (64, 20, 3, 3), {}),
        ((32, 64, 8, 8), (20, 64, 3, 3), {}),
        ((0, 64, 8, 8), (64, 64, 3, 3), {}),
    ],
    ids=["groups", "dilation", "stride", "two strides", "channels", "filters", "empty"],
)
def test_what_boxes_do_not_cover(shape, weight_shape, parameters) -> None:
    with hardware.assumed((9, 0)):
        assert paths(shape, weight_shape, **parameters) == GENERAL


def test_the_launchers_take_the_path() -> None:
    """What is launched for a layer, in order; the dispatcher's word is the launchers' deed."""
    x = torch.empty(32, 64, 8, 8, dtype=torch.bfloat16, device=META).to(memory_format=torch.channels_last)
    weight = torch.empty(64, 64, 3, 3, dtype=torch.bfloat16, device=META).to(memory_format=torch.channels_last)
    with hardware.assumed((9, 0), 132), launch.count() as records:
        y = kernels.conv2d(x, weight, None, 1, 1)
        kernels.conv2d_input_grad(y, weight, x.shape, 1, 1)
        kernels.conv2d_weight_grad(y, x, weight.shape, 1, 1)
    assert [r.kernel for r in records] == [
        "_box_conv2d_kernel",
        "_box_conv2d_input_grad_kernel",
        "_box_conv2d_weight_grad_kernel",
        "_sum_partials_kernel",
    ]
    assert [r.cost.flops for r in records[:3]] == [2 * 32 * 64 * 64 * 64 * 9] * 3


@pytest.mark.parametrize("layer", [layer for layer in RESNET18 if layer != "stem"])
@pytest.mark.parametrize("capability", [(9, 0), (10, 0)], ids=["sm_90", "sm_100"])
def test_what_is_chosen_ships(layer: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """For that GPU: the largest tiles for sm_90 do not compile, or spill, for sm_100."""
    chosen: list[tuple[Configs, Config]] = []
    choose = Configs.__call__

    def noting(configs: Configs, dtype: torch.dtype | None = None, /, **problem: Any) -> Config:
        chosen.append((configs, choose(configs, dtype, **problem)))
        return chosen[-1][1]

    monkeypatch.setattr(Configs, "__call__", noting)
    shape, weight_shape, stride, padding = RESNET18[layer]
    x = torch.empty(shape, dtype=torch.bfloat16, device=META).to(memory_format=torch.channels_last)
    weight = torch.empty(weight_shape, dtype=torch.bfloat16, device=META).to(memory_format=torch.channels_last)
    with hardware.assumed(capability, 148), planned_for_gpu():
        y = kernels.conv2d(x, weight, None, stride, padding)
        kernels.conv2d_input_grad(y, weight, x.shape, stride, padding)
        kernels.conv2d_weight_grad(y, x, weight.shape, stride, padding)
    assert len(chosen) >= 3
    assert [config for configs, config in chosen if config not in configs.shipped_for(capability)] == []


def test_an_assumption_ends_with_its_block() -> None:
    before = hardware.capability(META), hardware.multiprocessors(META)
    with hardware.assumed((9, 0), 132):
        with hardware.assumed(multiprocessors=7):
            assert (hardware.capability(META), hardware.multiprocessors(META)) == ((9, 0), 7)
        assert hardware.multiprocessors(META) == 132
    assert (hardware.capability(META), hardware.multiprocessors(META)) == before
