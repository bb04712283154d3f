"""A stem in one kernel: convolution, bias, ReLU and max-pooling against float64 torch, at every configuration that ships."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F

from tests.closeness import assert_close
from tinyflow.kernels import configs, fused, hardware, launch, memory
from tinyflow.kernels.conv2d.geometry import resolve
from tinyflow.kernels.fused import convolution, pooled_stem
from tinyflow.kernels.fused.convolution import Window

DEVICE = memory.get_default_device()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

#: x, weight and padding: the stem of residual networks on an odd image; the channels and taps that it ends at; no channel
#: and tap too many to be one; a map of one pixel; a padding that differs by side.
SHAPES = [
    ((3, 3, 33, 29), (21, 3, 7, 7), 3),
    ((2, 4, 13, 8), (5, 4, 8, 8), 4),
    ((2, 1, 9, 10), (5, 1, 3, 3), 1),
    ((1, 2, 2, 3), (3, 2, 1, 2), 0),
    ((2, 3, 11, 9), (4, 3, 4, 5), ((1, 2), (0, 3))),
]


def operands(x_shape, weight_shape, dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, weight = torch.randn(x_shape).to(dtype), torch.randn(weight_shape).to(dtype)
    return x, weight, torch.randn(weight_shape[0]).to(torch.float64 if dtype == torch.float64 else torch.float32)


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding) -> torch.Tensor:
    (top, bottom), (left, right) = padding if isinstance(padding, tuple) else ((padding, padding),) * 2
    x = F.pad(x.double(), (left, right, top, bottom))
    return F.max_pool2d(F.conv2d(x, weight.double(), bias.double(), 2).relu(), 3, 2, 1)


def found_by(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding) -> torch.Tensor:
    found = resolve("conv2d", x.shape, weight.shape, 2, padding, 1, 1)
    assert pooled_stem.fits(found)
    return pooled_stem.pooled_stem(found, x.to(DEVICE), weight.to(DEVICE), bias.to(DEVICE)).cpu()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("x_shape", "weight_shape", "padding"), SHAPES, ids=str)
def test_agrees_with_float64(x_shape, weight_shape, padding, dtype) -> None:
    given = operands(x_shape, weight_shape, dtype)
    y = found_by(*given, padding)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, reference(*given, padding), given[1][0].numel())


@pytest.mark.parametrize("config", [*pooled_stem.pooled_stem_configs.shipped], ids=lambda c: str(c.blocks))
def test_shipped_configurations(config) -> None:
    # two ragged tiles of images, strips, columns and filters
    images, columns, strip = (config.blocks[name] for name in ("TN", "TW", "STRIP"))
    x, weight, bias = operands((images + 1, 1, 4 * strip + 5, 4 * columns + 7), (67, 1, 3, 3), torch.bfloat16)
    with pooled_stem.pooled_stem_configs.forced(config), launch.wide_offsets():
        assert_close(found_by(x, weight, bias, 1), reference(x, weight, bias, 1), 9)


@pytest.mark.parametrize("layout", ["channels-last", "every second", "expanded"])
def test_any_strides(layout) -> None:
    x, weight, bias = operands((4, 3, 17, 14), (5, 3, 7, 7), torch.float32)
    if layout == "channels-last":
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    elif layout == "every second":
        x, weight, bias = x[::2, :, ::2, ::2], weight.flip(0)[:, :, ::2, ::2], torch.stack((bias, bias), 1)[:, 0]
    else:
        x = x[:1].expand(4, 3, 17, 14)
    assert_close(found_by(x, weight, bias, 3), reference(x, weight, bias, 3), weight[0].numel())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_its_windows_alone(value) -> None:
    """A window holds a column and a row more than the kernel, whose weights are zero: zero times infinity is NaN."""
    x, weight, bias = operands((1, 3, 40, 40), (4, 3, 7, 7), torch.float32)
    x[0, 1, 17, 22] = value
    weight.abs_()
    expected = F.max_pool2d(F.conv2d(x, weight, bias, 2, 3).relu(), 3, 2, 1)
    y = found_by(x, weight, bias, 3)
    assert torch.equal(y.isnan(), expected.isnan()) and torch.equal(y.isinf(), expected.isinf())
    assert (y.isnan() | y.isinf()).any()


def test_empty() -> None:
    x, weight, bias = operands((0, 3, 9, 9), (4, 3, 7, 7), torch.float32)
    assert found_by(x, weight, bias, 3).shape == (0, 4, 3, 3)


@pytest.mark.parametrize("change", [{"stride": 1}, {"dilation": 2}, {"groups": 2}, {"weight": (4, 3, 9, 9)}], ids=str)
def test_what_is_no_stem(change) -> None:
    groups, shape = change.get("groups", 1), change.get("weight", (4, 3, 7, 7))
    x_shape = (1, shape[1] * groups, 32, 32)
    found = resolve("conv2d", x_shape, shape, change.get("stride", 2), 3, change.get("dilation", 1), groups)
    assert not pooled_stem.fits(found)
    assert not pooled_stem.fits(resolve("conv2d", (1, 5, 32, 32), (4, 5, 7, 7), 2, 3, 1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_half_precision_on_a_gpu_takes_one_launch(dtype) -> None:
    x, weight, bias = (t.to(DEVICE) for t in operands((2, 3, 20, 18), (8, 3, 7, 7), dtype))
    with contextlib.ExitStack() as stack:
        if DEVICE.type == "cpu":
            stack.enter_context(configs.planned_for_gpu())
        records = stack.enter_context(launch.count())
        y = convolution.conv2d_bias_relu_pool(x, weight, bias, Window(2, 3))
    names = [r.kernel for r in records]
    assert (names == ["_pooled_stem_kernel"]) == (dtype == torch.bfloat16), names
    assert_close(y.cpu(), reference(x.cpu(), weight.cpu(), bias.cpu(), 3), 147)
    apart, *_ = fused.normalise_pool(
        convolution.conv2d(x, weight, None, 2, 3), (None, None, None, bias), with_taps=False
    )
    assert_close(y.cpu(), apart.cpu().double(), 147)


@pytest.mark.parametrize(("capability", "suits"), [((8, 0), False), ((9, 0), True), ((10, 0), False)], ids=str)
def test_only_hopper_of_one_maker_gets_there(capability, suits) -> None:
    found = resolve("conv2d", (2, 3, 20, 18), (8, 3, 7, 7), 2, 3, 1, 1)
    with hardware.assumed(capability, 132):
        assert pooled_stem.suits(found, torch.bfloat16, torch.device("meta")) is suits
        assert not pooled_stem.suits(found, torch.float32, torch.device("meta"))
