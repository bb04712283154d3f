"""2-d convolution and its two gradients: against float64 torch, at every configuration that ships, in any layout."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import conv2d as kernels
from tinyflow.kernels import launch
from tinyflow.kernels.conv2d import correlation, weight_gradient
from tinyflow.kernels.precision import tf32


@pytest.fixture(autouse=True)
def _exact_products_on_the_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tf32, "convolution", False)
    with torch.device(tinyflow.get_default_device()):
        yield


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def assert_agrees(y: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, terms: int) -> None:
    assert y.dtype == dtype
    assert_close(y, expected, max(terms, 1))


def assert_three(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> None:
    """The forward pass and both gradients agree with torch's in float64."""
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    bias64 = None if bias is None else bias.double()
    expected = torch.nn.functional.conv2d(x64, weight64, bias64, stride, padding, dilation, groups)
    channels, filters, taps = weight.shape[1], weight.shape[0] // groups, weight.shape[2] * weight.shape[3]
    y = kernels.conv2d(x, weight, bias, stride, padding, dilation, groups)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_agrees(y, expected.detach(), x.dtype, channels * taps)
    grad = torch.randn(expected.shape).to(x.dtype).contiguous(memory_format=torch.channels_last)
    expected.backward(grad.double())
    x_grad = kernels.conv2d_input_grad(grad, weight, x.shape, stride, padding, dilation, groups)
    assert x_grad.is_contiguous(memory_format=torch.channels_last)
    assert_agrees(x_grad, x64.grad, x.dtype, filters * taps)
    weight_grad = kernels.conv2d_weight_grad(grad, x, weight.shape, stride, padding, dilation, groups)
    assert weight_grad.is_contiguous(memory_format=torch.channels_last)
    assert_agrees(weight_grad, weight64.grad, x.dtype, y.shape[0] * y.shape[2] * y.shape[3])


#: x (N, C, H, W), weight (K, C / groups, R, S), and the parameters, with what the shape is for.
GEOMETRIES = {
    "one of everything": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "3x3, same size": ((2, 17, 7, 6), (5, 17, 3, 3), {"padding": 1}),
    "1x1": ((2, 19, 5, 4), (18, 19, 1, 1), {}),
    "1x1 with stride: phases without taps": ((2, 19, 5, 4), (18, 19, 1, 1), {"stride": 2}),
    "stem: few channels, taps folded": ((2, 3, 13, 11), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    "folded without a border": ((1, 2, 6, 7), (17, 2, 3, 2), {}),
    "few output channels: input gradient folded": ((2, 20, 6, 5), (3, 20, 3, 3), {"stride": 2, "padding": 1}),
    "stride and size that do not divide": ((1, 18, 8, 9), (4, 18, 3, 2), {"stride": (2, 3), "padding": (0, 1)}),
    "dilation": ((1, 16, 9, 8), (4, 16, 3, 3), {"dilation": (2, 3), "padding": 2}),
    "stride and dilation share a factor": ((1, 16, 11, 10), (4, 16, 3, 3), {"stride": 2, "dilation": 2, "padding": 1}),
    "stride and dilation share none": ((1, 16, 11, 10), (4, 16, 3, 3), {"stride": 3, "dilation": 2, "padding": 1}),
    "stride over the kernel: rows unseen": ((1, 16, 9, 9), (4, 16, 2, 2), {"stride": 4}),
    "padding over the kernel": ((1, 16, 3, 2), (4, 16, 2, 2), {"padding": 3}),
    "groups": ((2, 36, 5, 4), (34, 18, 3, 3), {"groups": 2, "padding": 1}),
    "narrow groups, summed directly": ((2, 6, 5, 4), (9, 2, 3, 3), {"groups": 3, "stride": 2, "padding": 1}),
    "depthwise": ((2, 19, 6, 5), (19, 1, 3, 3), {"groups": 19, "padding": 1}),
    "depthwise with a multiplier": ((2, 5, 6, 5), (15, 1, 3, 2), {"groups": 5, "dilation": 2, "stride": (1, 2)}),
}


def operands(shape, weight_shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype), torch.randn(weight_shape).to(dtype), torch.randn(weight_shape[0]).to(dtype)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_agrees_with_float64(name: str) -> None:
    shape, weight_shape, parameters = GEOMETRIES[name]
    assert_three(*operands(shape, weight_shape), **parameters)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["3x3, same size", "stem: few channels, taps folded", "depthwise"])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    shape, weight_shape, parameters = GEOMETRIES[name]
    assert_three(*operands(shape, weight_shape, dtype), **parameters)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        lambda x: torch.randn(2 * x.shape[0], x.shape[1] + 1, x.shape[2], 3 * x.shape[3])[::2, 1:, :, ::3],
        lambda x: x[:, :, :1, :1].expand(x.shape),
    ],
    ids=["channels-last", "reversed", "strided", "expanded"],
)
@pytest.mark.parametrize("channels", [17, 3], ids=["by taps", "folded"])
def test_layouts(layout, channels: int) -> None:
    x, weight, _ = operands((2, channels, 5, 6), (4, channels, 3, 3))
    assert_three(layout(x), layout(weight), torch.randn(9)[::2][:4], padding=1)
    grad = layout(torch.randn(2, 4, 5, 6))
    arguments = ((2, channels, 5, 6), 1, 1)
    dense = kernels.conv2d_input_grad(grad.contiguous(), weight, *arguments)
    assert torch.equal(kernels.conv2d_input_grad(grad, weight, *arguments), dense)


def _pixels(config: launch.Config) -> tuple[int, int, int]:
    """A batch of images whose pixels take a little over two tiles."""
    return 2, 3, config.blocks["BLOCK_P"] // 3


@pytest.mark.parametrize("folded", [False, True], ids=["by taps", "folded"])
@pytest.mark.parametrize("config", correlation.correlate_configs.shipped, ids=lambda c: str(dict(c.blocks)))
def test_every_correlation_config(config: launch.Config, folded: bool) -> None:
    n, h, w = _pixels(config)
    c = 7 if folded else config.blocks["BLOCK_C"] + 3
    k = config.blocks["BLOCK_K"] + 5
    x, weight, bias = operands((n, c, h, w), (k, c, 3, 3))
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    with correlation.correlate_configs.forced(config):
        assert_agrees(kernels.conv2d(x, weight, bias, 1, 1), expected, torch.float32, 9 * c)


@pytest.mark.parametrize("config", correlation.correlate_direct_configs.shipped, ids=lambda c: str(dict(c.blocks)))
def test_every_direct_correlation_config(config: launch.Config) -> None:
    n, h, w = _pixels(config)
    groups = config.blocks["BLOCK_K"] // 2 + 3
    x, weight, bias = operands((n, 2 * groups, h, w), (2 * groups, 2, 3, 3))
    with correlation.correlate_direct_configs.forced(config):
        expected = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1, groups=groups)
        assert_agrees(kernels.conv2d(x, weight, bias, 1, 1, 1, groups), expected, torch.float32, 18)


def _weight_grad(x, grad, weight_shape, groups) -> torch.Tensor:
    weight = torch.zeros(weight_shape, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.conv2d(x.double(), weight, None, 1, 1, 1, groups).backward(grad.double())
    return weight.grad


@pytest.mark.parametrize("folded", [False, True], ids=["by taps", "folded"])
@pytest.mark.parametrize(
    "config",
    [c for c in weight_gradient.weight_grad_configs.shipped if c.blocks["SPLITS"] <= 8],
    ids=lambda c: str(dict(c.blocks)),
)
def test_every_weight_gradient_config(config: launch.Config, folded: bool) -> None:
    n, h, w = _pixels(config)
    c = 7 if folded else config.blocks["BLOCK_C"] + 3
    k = config.blocks["BLOCK_K"] + 5
    x, grad = torch.randn(n, c, h, w), torch.randn(n, k, h, w)
    with weight_gradient.weight_grad_configs.forced(config):
        y = kernels.conv2d_weight_grad(grad, x, (k, c, 3, 2), 1, ((1, 1), (0, 1)))
        again = kernels.conv2d_weight_grad(grad, x, (k, c, 3, 2), 1, ((1, 1), (0, 1)))
    padded = torch.nn.functional.pad(x, (0, 1, 1, 1))
    weight = torch.zeros((k, c, 3, 2), dtype=torch.float64, requires_grad=True)
    torch.nn.functional.conv2d(padded.double(), weight).backward(grad.double())
    assert_agrees(y, weight.grad, torch.float32, n * h * w)
    assert torch.equal(y, again)


@pytest.mark.parametrize(
    "config",
    [c for c in weight_gradient.weight_grad_direct_configs.shipped if c.blocks["SPLITS"] <= 8],
    ids=lambda c: str(dict(c.blocks)),
)
def test_every_direct_weight_gradient_config(config: launch.Config) -> None:
    n, h, w = _pixels(config)
    groups = config.blocks["BLOCK_K"] // 2 + 3
    x, grad = torch.randn(n, 2 * groups, h, w), torch.randn(n, 2 * groups, h, w)
    with weight_gradient.weight_grad_direct_configs.forced(config):
        y = kernels.conv2d_weight_grad(grad, x, (2 * groups, 2, 3, 3), 1, 1, 1, groups)
    assert_agrees(y, _weight_grad(x, grad, (2 * groups, 2, 3, 3), groups), torch.float32, n * h * w)


@pytest.mark.parametrize("splits", [32, 128])
def test_splits_beyond_the_pixels_add_nothing(splits: int) -> None:
    x, grad = torch.randn(2, 17, 3, 4), torch.randn(2, 5, 3, 4)
    config = next(c for c in weight_gradient.weight_grad_configs.shipped if c.blocks["SPLITS"] == splits)
    with weight_gradient.weight_grad_configs.forced(config):
        y = kernels.conv2d_weight_grad(grad, x, (5, 17, 1, 1))
    expected = torch.einsum("nkpq,ncpq->kc", grad.double(), x.double())[:, :, None, None]
    assert_agrees(y, expected, torch.float32, 24)


@pytest.mark.parametrize("chosen", [64 * 56 * 56, 49], ids=["many pixels", "few pixels"])
@pytest.mark.parametrize("itemsize", [8, 4, 2])
def test_choices_ship(chosen: int, itemsize: int) -> None:
    for k, c in [(64, 3), (64, 64), (512, 512), (16, 16)]:
        config = correlation.correlate_configs.choose(pixels=chosen, k=k, c=c, folded=c == 3, itemsize=itemsize)
        assert config in correlation.correlate_configs.shipped
        config = weight_gradient.weight_grad_configs.choose(
            pixels=chosen, k=k, c=c, steps=9, groups=1, folded=False, itemsize=itemsize
        )
        assert config in weight_gradient.weight_grad_configs.shipped


def test_more_pixels_than_a_block_holds() -> None:
    """The interpreter's tiles too must come in twos: several tiles of pixels in each of the three."""
    x, weight, bias = operands((1, 16, 33, 41), (600, 16, 1, 1))
    assert_three(x, weight, bias)
    x, weight, bias = operands((2, 1, 129, 130), (16, 1, 3, 3))
    assert_three(x, weight, bias, padding=1)


def test_wide_offsets() -> None:
    with launch.wide_offsets():
        for name in ("3x3, same size", "stem: few channels, taps folded", "depthwise"):
            shape, weight_shape, parameters = GEOMETRIES[name]
            assert_three(*operands(shape, weight_shape), **parameters)


@pytest.mark.parametrize(
    ("shape", "weight_shape"),
    [((0, 3, 5, 4), (2, 3, 3, 3)), ((2, 0, 5, 4), (3, 0, 3, 3)), ((2, 3, 5, 4), (0, 3, 3, 3))],
    ids=["no images", "no channels", "no filters"],
)
def test_empty(shape, weight_shape) -> None:
    x, weight, bias = operands(shape, weight_shape)
    y = kernels.conv2d(x, weight, bias)
    assert y.shape == (shape[0], weight_shape[0], 3, 2)
    assert torch.equal(y, bias[None, :, None, None].expand(y.shape))
    grad = torch.randn(y.shape)
    assert torch.equal(kernels.conv2d_input_grad(grad, weight, shape), torch.zeros(shape))
    assert torch.equal(kernels.conv2d_weight_grad(grad, x, weight_shape), torch.zeros(weight_shape))


def test_uneven_padding() -> None:
    x, weight, _ = operands((1, 17, 5, 6), (4, 17, 2, 4))
    padding = kernels.same_padding("conv2d", (2, 4), 1, (1, 2))
    assert padding == ((0, 1), (3, 3))
    padded = torch.nn.functional.pad(x.double(), (3, 3, 0, 1))
    expected = torch.nn.functional.conv2d(padded, weight.double(), dilation=(1, 2))
    assert_agrees(kernels.conv2d(x, weight, None, 1, padding, (1, 2)), expected, torch.float32, 17 * 8)


def test_masked_lanes_never_enter() -> None:
    """A NaN beside the image in memory, or under a tap beyond it, is not read."""
    memory = torch.full((2, 17, 7, 8), float("nan"))
    x = memory[:, :, 1:6, 2:6]
    x.copy_(torch.randn(2, 17, 5, 4))
    weight = torch.randn(4, 17, 3, 3)
    assert torch.equal(kernels.conv2d(x, weight, None, 1, 1), kernels.conv2d(x.clone(), weight, None, 1, 1))


def test_counts_all_taps_once() -> None:
    x, weight = torch.empty(2, 8, 9, 9, device="meta"), torch.empty(6, 4, 3, 3, device="meta")
    flops = 2 * 2 * 6 * 5 * 5 * 4 * 9
    grad = torch.empty(2, 6, 5, 5, device="meta")
    for call in (
        lambda: kernels.conv2d(x, weight, None, 2, 1, 1, 2),
        lambda: kernels.conv2d_input_grad(grad, weight, x.shape, 2, 1, 1, 2),
        lambda: kernels.conv2d_weight_grad(grad, x, weight.shape, 2, 1, 1, 2),
    ):
        with launch.count() as records:
            call()
        main = [r for r in records if "correlate" in r.kernel or "weight_grad" in r.kernel]
        assert sum(r.cost.flops for r in main) == flops
        assert sum(r.cost.bytes for r in main) == 4 * (2 * 8 * 81 + 6 * 4 * 9 + 2 * 6 * 25)


@pytest.mark.parametrize(
    ("shape", "weight_shape", "parameters", "error", "message"),
    [
        ((3, 8, 8), (4, 3, 3, 3), {}, RuntimeError, r"expected x \(N, C, H, W\) .* got \(3, 8, 8\)"),
        (
            (2, 3, 32, 32),
            (8, 4, 3, 3),
            {},
            RuntimeError,
            r"weight \(8, 4, 3, 3\) expects 4 input channels with groups=1, got 3",
        ),
        ((2, 4, 8, 8), (3, 2, 3, 3), {"groups": 2}, RuntimeError, "output channels divisible by groups=2"),
        ((2, 4, 8, 8), (3, 4, 3, 3), {"groups": 0}, RuntimeError, "groups of at least 1, got 0"),
        ((2, 4, 2, 8), (3, 4, 3, 3), {}, RuntimeError, r"fits the padded input \(2, 8\), got \(3, 3\)"),
        ((2, 4, 4, 8), (3, 4, 3, 3), {"dilation": 2}, RuntimeError, r"fits the padded input .* dilation \(2, 2\)"),
        ((2, 4, 8, 8), (3, 4, 3, 3), {"stride": 0}, RuntimeError, "stride of at least 1, got 0"),
        ((2, 4, 8, 8), (3, 4, 3, 3), {"padding": -1}, RuntimeError, "padding of at least 0, got -1"),
        (
            (2, 4, 8, 8),
            (3, 4, 3, 3),
            {"stride": 1.5},
            TypeError,
            "stride to be an integer or a pair of integers, got 1.5",
        ),
        ((2, 4, 8, 8), (3, 4, 3, 3), {"padding": (1, 2, 3)}, TypeError, "padding to be an integer or a pair"),
    ],
    ids=["image", "channels", "filters", "groups", "kernel", "dilated kernel", "stride", "padding", "float", "triple"],
)
def test_errors(shape, weight_shape, parameters, error, message) -> None:
    with pytest.raises(error, match=message):
        kernels.conv2d(torch.ones(shape), torch.ones(weight_shape), **parameters)


def test_errors_of_operands() -> None:
    x, weight = torch.ones(2, 3, 5, 5), torch.ones(4, 3, 3, 3)
    with pytest.raises(RuntimeError, match=r"expected bias of shape \(4,\), got \(3,\)"):
        kernels.conv2d(x, weight, torch.ones(3))
    with pytest.raises(RuntimeError, match=r"one dtype, got x torch.float32, weight torch.float64"):
        kernels.conv2d(x, weight.double())
    with pytest.raises(TypeError, match=r"floating-point x, got torch.int64"):
        kernels.conv2d(x.long(), weight.long())
    with pytest.raises(RuntimeError, match=r"expected grad of shape \(2, 4, 3, 3\) .* got \(2, 4, 5, 5\)"):
        kernels.conv2d_input_grad(torch.ones(2, 4, 5, 5), weight, x.shape)
    with pytest.raises(RuntimeError, match=r"conv2d_weight_grad: expected grad of shape \(2, 4, 3, 3\)"):
        kernels.conv2d_weight_grad(torch.ones(2, 4, 5, 5), x, weight.shape)
    with pytest.raises(RuntimeError, match="padding='same' needs stride 1, got 2"):
        kernels.same_padding("conv2d", (3, 3), 2, 1)
