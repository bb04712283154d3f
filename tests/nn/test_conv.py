"""Convolution layers: how they begin, what surrounds the input, and sizes asked for."""

from __future__ import annotations

import math

import pytest
import torch

from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn

SHAPES = {1: (2, 4, 7), 2: (2, 4, 6, 5), 3: (1, 4, 4, 5, 3)}


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("form", ["Conv", "ConvTranspose"])
def test_layers_begin_as_those_of_torch(form: str, ndim: int) -> None:
    """Same names and shapes; values from U(−1/√fan_in, 1/√fan_in), with fan_in as torch counts it."""
    ours, theirs = (getattr(m, f"{form}{ndim}d")(8, 32, 3, groups=2) for m in (nn, torch.nn))
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    bound = 1 / math.sqrt(theirs.weight.shape[1] * 3**ndim)
    for parameter in ours.parameters():
        largest = on_cpu(parameter).abs().max()
        assert 0.8 * bound < largest <= bound


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_weights_lie_with_channels_innermost(ndim: int) -> None:
    weight = getattr(nn, f"Conv{ndim}d")(4, 6, 3).weight.to_torch()
    order = {1: (0, 2, 1), 2: (0, 2, 3, 1), 3: (0, 3, 4, 2, 1)}[ndim]
    assert weight.permute(order).is_contiguous()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_padding_modes(ndim: int, mode: str) -> None:
    settings = {"padding": "same", "dilation": 2} if ndim == 1 else {"padding": tuple(range(ndim))}
    ours, theirs = (getattr(m, f"Conv{ndim}d")(4, 2, 3, padding_mode=mode, **settings) for m in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({k: on_device(v.clone()) for k, v in theirs.state_dict().items()})
    x = torch.randn(SHAPES[ndim])
    assert_close(on_cpu(ours(on_device(x))), theirs.double()(x.double()).detach(), 4 * 3**ndim)


def test_a_padding_mode_is_not_lost_in_a_fused_block() -> None:
    conv, bn = nn.Conv2d(4, 3, 3, padding=1, bias=False, padding_mode="circular"), nn.BatchNorm2d(3)
    x = on_device(torch.randn(SHAPES[2]))
    with nn.fusion.fused(True):
        y = nn.functional.conv_bn_act(x, conv, bn)
    bn.reset_running_stats()
    assert_close(on_cpu(y), on_cpu(bn(conv(x)).relu()).double(), 36)


def test_a_transposed_convolution_gives_the_size_that_is_asked_for() -> None:
    layer, x = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1), on_device(torch.randn(SHAPES[2]))
    assert layer(x).shape == (2, 3, 11, 9)
    assert layer(x, output_size=(12, 9)).shape == (2, 3, 12, 9)
    assert layer(x, output_size=(2, 3, 11, 10)).shape == (2, 3, 11, 10)
    with pytest.raises(
        ValueError, match=r"requested an output size of \(13, 9\), but dimension 0 .* can become 11 to 12"
    ):
        layer(x, output_size=(13, 9))
    with pytest.raises(ValueError, match="expected output_size of 2 or 4 elements"):
        layer(x, output_size=(13,))


def test_mistakes_say_so() -> None:
    with pytest.raises(ValueError, match="ConvTranspose1d: only 'zeros' padding mode is supported, got 'reflect'"):
        nn.ConvTranspose1d(3, 4, 3, padding_mode="reflect")
    with pytest.raises(TypeError, match="expected padding as numbers, got 'same'"):
        nn.ConvTranspose3d(3, 4, 3, padding="same")
    with pytest.raises(ValueError, match="Conv3d: in_channels and out_channels must be divisible by groups=2"):
        nn.Conv3d(3, 4, 3, groups=2)
    with pytest.raises(TypeError, match=r"Conv2d: expected kernel_size to be an integer or 2 integers, got '3'"):
        nn.Conv2d(3, 4, "3")
    with pytest.raises(TypeError, match=r"Conv3d: expected kernel_size to be an integer or 3 integers, got \(3, 3\)"):
        nn.Conv3d(3, 4, (3, 3))
    with pytest.raises(TypeError, match=r"Conv1d: expected stride to be one integer, got 1.5"):
        nn.Conv1d(3, 4, 3, stride=1.5)
