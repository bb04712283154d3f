"""Convolutions by tensor-memory boxes, as the dispatcher sends them there: at every configuration that ships, on ragged
sizes, with every epilogue, against float64 torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import conv2d as kernels
from tinyflow.kernels import elementwise, hardware, launch, matmul
from tinyflow.kernels.conv2d import (
    box_forward,
    box_input_grad,
    box_stem,
    box_weight_grad,
    dispatch,
    statistics,
    stream_weight_grad,
)
from tinyflow.kernels.conv2d.boxes import boxed, for_boxes
from tinyflow.kernels.conv2d.geometry import Geometry, resolve
from tinyflow.kernels.conv2d.rows import rowed
from tinyflow.kernels.conv2d.stream_weight_grad import _stream
from tinyflow.kernels.launch import Config

HALF = [torch.bfloat16, torch.float16]

#: As many programs as share the work in the interpreter: neither one, nor a divisor of the tiles here.
PROGRAMS = 3


@pytest.fixture(autouse=True)
def _as_on_hopper() -> Iterator[None]:
    with hardware.assumed((9, 0), PROGRAMS), torch.device(tinyflow.get_default_device()):
        yield


def image(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


#: Who is asked where rows would do as well as boxes.
NARROW = {
    "_box_conv2d_kernel": box_forward.narrow_conv2d_configs,
    "_box_conv2d_input_grad_kernel": box_input_grad.narrow_conv2d_input_grad_configs,
}


@contextlib.contextmanager
def forced(configs: launch.Configs, config: Config | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for each in (configs, NARROW.get(configs.kernel)):
            if config is not None and each is not None:
                stack.enter_context(each.forced(config))
        yield


def reference(x: torch.Tensor, weight: torch.Tensor, stride: int = 1, padding: Any = 0) -> torch.Tensor:
    (top, bottom), (left, right) = kernels.geometry.sides("conv2d", padding)
    return torch.nn.functional.conv2d(torch.nn.functional.pad(x, (left, right, top, bottom)), weight, None, stride)


#: x, weight, parameters, and the forms of forward pass, input gradient and weight gradient; sizes leave boxes over in
#: every direction.
SHAPES = {
    "3x3": ((17, 24, 7, 9), (72, 24, 3, 3), {"padding": 1}, ("box", "box", "stream-K")),
    "3x3, few channels": ((3, 24, 7, 9), (40, 24, 3, 3), {"padding": 1}, ("box", "box", "nine taps")),
    "3x3, few images": ((3, 72, 5, 6), (72, 72, 3, 3), {"padding": 1}, ("box", "box", "general")),
    "3x3 with stride": ((17, 64, 6, 10), (72, 64, 3, 3), {"stride": 2, "padding": 1}, ("box", "box", "stream-K")),
    "1x1 with stride": ((17, 64, 6, 10), (72, 64, 1, 1), {"stride": 2}, ("box", "box", "stream-K")),
    "channels that no power of two covers, with stride": (
        (16, 192, 4, 4),
        (16, 192, 3, 3),
        {"stride": 2, "padding": 1},
        ("box", "box", "stream-K"),
    ),
    "1x1": ((17, 64, 5, 7), (72, 64, 1, 1), {}, ("box", "box", "stream-K")),
    "no padding, one row": ((16, 16, 1, 9), (16, 16, 1, 5), {}, ("box", "box", "stream-K")),
    "padding on one side": ((16, 8, 4, 5), (72, 8, 2, 5), {"padding": ((1, 0), (3, 1))}, ("box", "box", "stream-K")),
    "padding over the kernel": ((2, 16, 3, 2), (16, 16, 2, 2), {"padding": 3}, ("box", "box", "general")),
    "odd with stride": (
        (16, 64, 7, 9),
        (72, 64, 3, 3),
        {"stride": 2, "padding": 1},
        ("general", "general", "stream-K"),
    ),
    "stem": ((3, 3, 21, 18), (24, 3, 7, 7), {"stride": 2, "padding": 3}, ("stem", "general", "stem")),
    "stem of other taps": ((2, 4, 9, 8), (16, 4, 3, 5), {"stride": 2, "padding": 1}, ("stem", "general", "stem")),
}


def paths(found: Geometry, dtype: torch.dtype = torch.bfloat16) -> tuple[str, ...]:
    device = torch.device("cpu")
    return tuple(way(found, dtype, device) for way in (dispatch.forward, dispatch.input_grad, dispatch.weight_grad))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_agrees_with_float64(name: str, dtype: torch.dtype) -> None:
    shape, weight_shape, parameters, expected = SHAPES[name]
    assert paths(resolve("conv2d", shape, weight_shape, **window(parameters)), dtype) == expected
    x, weight, bias = (
        torch.randn(shape).to(dtype),
        torch.randn(weight_shape).to(dtype),
        torch.randn(weight_shape[0]).to(dtype),
    )
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    y64 = reference(x64, weight64, **parameters)
    grad = torch.randn(y64.shape).to(dtype)
    y64.backward(grad.double())
    y = kernels.conv2d(x, weight, bias, **parameters)
    terms = weight64[0].numel()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, y64.detach() + bias.double()[:, None, None], terms)
    assert_close(kernels.conv2d_input_grad(grad, weight, shape, **parameters), x64.grad, terms * weight.shape[0])
    assert_close(kernels.conv2d_weight_grad(grad, x, weight_shape, **parameters), weight64.grad, grad[:, 0].numel())
    wide = kernels.conv2d_weight_grad(grad, x, weight_shape, **parameters, dtype=torch.float32)
    assert wide.dtype == torch.float32
    assert_close(wide, weight64.grad, grad[:, 0].numel())


def window(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"stride": 1, "padding": 0, **parameters, "dilation": 1, "groups": 1}


def ragged(config: Config) -> tuple[int, int, int]:
    """Images, rows and columns of an output that takes two boxes of a configuration along each axis that it covers."""
    sizes = [config.blocks[name] for name in ("TN", "TH", "TW")]
    return tuple(size + (size > 1) for size in sizes)  # type: ignore[return-value]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("config", box_forward.box_conv2d_configs.shipped, ids=lambda c: str(tuple(c.blocks.values())))
def test_every_forward_config(config: Config, stride: int) -> None:
    """A little over two tiles of pixels and of output channels, and of input channels where these may be cut."""
    n, p, q = ragged(config)
    c, k = (config.blocks["BLOCK_C"] + 8 if stride == 1 else 64), config.blocks["BLOCK_K"] + 8
    x, weight = image((n, c, stride * p, stride * q), torch.bfloat16), image((k, c, 1, 3), torch.bfloat16)
    with box_forward.box_conv2d_configs.forced(config):
        y = kernels.conv2d(x, weight, None, stride, ((0, 0), (1, 1)))
    assert_close(y, reference(x.double(), weight.double(), stride, ((0, 0), (1, 1))), 3 * c)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "config", box_input_grad.box_conv2d_input_grad_configs.shipped, ids=lambda c: str(tuple(c.blocks.values()))
)
def test_every_input_grad_config(config: Config, stride: int) -> None:
    n, h, w = (size * (stride if axis else 1) for axis, size in enumerate(ragged(config)))
    k = config.blocks["BLOCK_K"] + 8
    c = config.blocks["BLOCK_C"] + 8 if stride == 1 else 2 * config.blocks["BLOCK_C"]
    weight, padding = image((k, c, 1, 3), torch.bfloat16), ((0, 0), (1, 1))
    x64 = torch.zeros(n, c, h, w, dtype=torch.float64, requires_grad=True)
    y64 = reference(x64, weight.double(), stride, padding)
    grad = image(tuple(y64.shape), torch.bfloat16)
    y64.backward(grad.double())
    with box_input_grad.box_conv2d_input_grad_configs.forced(config):
        g = kernels.conv2d_input_grad(grad, weight, x64.shape, stride, padding)
    assert_close(g, x64.grad, 3 * k)


def assert_weight_grad(shape: tuple[int, ...], weight_shape: tuple[int, ...], path: str, **parameters: Any) -> None:
    found = resolve("conv2d", shape, weight_shape, **window(parameters))
    assert paths(found)[2] == path
    x, grad = image(shape, torch.bfloat16), image(found.out_shape, torch.bfloat16)
    weight = torch.zeros(weight_shape, dtype=torch.float64, requires_grad=True)
    reference(x.double(), weight, **parameters).backward(grad.double())
    actual = kernels.conv2d_weight_grad(grad, x, weight_shape, **parameters)
    assert_close(actual, weight.grad, grad[:, 0].numel())


@pytest.mark.parametrize(
    "config", box_weight_grad.box_conv2d_weight_grad_configs.shipped, ids=lambda c: str(tuple(c.blocks.values()))
)
def test_every_nine_taps_config(config: Config) -> None:
    with box_weight_grad.box_conv2d_weight_grad_configs.forced(config):
        assert_weight_grad((3, 64, 9, 10), (56, 64, 3, 3), dispatch.NINE_TAPS, padding=1)


@pytest.mark.parametrize(
    "config",
    [*stream_weight_grad._SHIPPED, stream_weight_grad._BLACKWELL[-1]],
    ids=lambda c: str(tuple(c.blocks.values())),
)
def test_every_stream_config(config: Config) -> None:
    """Two tiles of filters, of channels and of images, shared out so that parts begin and end within taps."""
    n, k, c = (config.blocks[name] + 8 for name in ("TN", "BLOCK_K", "BLOCK_C"))
    with stream_weight_grad.stream_conv2d_weight_grad_configs.forced(config):
        assert_weight_grad((n, c, 1, 3), (k, c, 1, 3), dispatch.STREAM_K, padding=((0, 0), (1, 1)))


@pytest.mark.parametrize("programs", [1, 5, 40, 1000])
@pytest.mark.parametrize(
    ("shape", "weight_shape", "parameters"),
    [
        ((35, 24, 5, 3), (72, 24, 3, 3), {"padding": 1}),
        ((20, 24, 5, 4), (40, 24, 3, 3), {"padding": 1, "stride": 2}),
        ((20, 24, 3, 4), (40, 24, 1, 1), {"stride": 2}),
    ],
    ids=["3x3", "3x3 with stride", "1x1 with stride"],
)
def test_stream_of_any_number_of_programs(shape, weight_shape, parameters, programs: int) -> None:
    """Parts longer than a tap, shorter than one, and as many as steps; taps alone, and a row of them together."""
    for taps in {1, weight_shape[3]}:
        with (
            hardware.assumed(multiprocessors=programs),
            stream_weight_grad.stream_conv2d_weight_grad_configs.forced(_stream(16, 32, 16, taps)),
        ):
            assert_weight_grad(shape, weight_shape, dispatch.STREAM_K, **parameters)


@pytest.mark.parametrize("config", [*box_stem.stem_weight_grad_configs.shipped, None], ids=["shipped", "interpreter"])
@pytest.mark.parametrize("rows", [3, 5, 7])
def test_stem_weight_grad(config: Config | None, rows: int) -> None:
    with forced(box_stem.stem_weight_grad_configs, config):
        parameters = {"stride": 2, "padding": 2}
        assert_weight_grad((3, 3, 20, 19), (72, 3, rows, 7), dispatch.STEM, **parameters)


#: Ties of both half precisions, what overflows one or both, what is too small for them, and what is no number.
HARD = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 65520.0, 3.4e38, 2.0**-25, 1e-40, -0.0]
HARD += [float("inf"), float("-inf"), float("nan")]


def cells(found: Geometry, x: torch.Tensor) -> torch.Tensor:
    """A folded image, from its definition."""
    (n, c, h, w), (top, left) = x.shape, (-found.start[0], -found.start[1])
    rows, columns = found.out_shape[2] + -(-found.kernel[0] // 2) - 1, found.out_shape[3] + 3
    wide = torch.zeros((n, c, 2 * rows + h, 2 * columns + w), dtype=x.dtype)
    wide[:, :, top : top + h, left : left + w] = x
    by_pairs = wide[:, :, : 2 * rows, : 2 * columns].reshape(n, c, rows, 2, columns, 2)
    folded = torch.zeros((n, rows, columns, 16), dtype=x.dtype)
    folded[..., : 4 * c] = by_pairs.permute(0, 2, 4, 3, 5, 1).reshape(n, rows, columns, 4 * c)
    return folded


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "strided"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("source", [torch.float32, *HALF], ids=str)
def test_an_image_is_rounded_as_it_is_folded(source: torch.dtype, dtype: torch.dtype, layout: str) -> None:
    """As by a cast before, bit by bit, with both read and written once."""
    found = resolve("conv2d", (2, 3, 21, 18), (24, 3, 7, 7), **window({"stride": 2, "padding": 3}))
    x = torch.randn(found.x_shape)
    x[0, :, 3, : len(HARD)] = torch.tensor(HARD)
    x = x.to(source)
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x.repeat_interleave(2, dim=3).transpose(2, 3).contiguous()[:, :, ::2].transpose(2, 3)
    with launch.count() as records:
        folded = box_stem.fold_image(found, x, dtype)
    assert folded.dtype == dtype
    expected = box_stem.fold_image(found, elementwise.copy(x, dtype))
    assert torch.equal(folded.view(torch.int16), expected.view(torch.int16))
    torch.testing.assert_close(folded, cells(found, x.to(dtype)), rtol=0, atol=0, equal_nan=True)
    assert [r.cost.bytes for r in records] == [x.numel() * source.itemsize + folded.numel() * 2]


def test_only_floating_images_fold_to_half_precision() -> None:
    found = resolve("conv2d", (2, 3, 8, 8), (24, 3, 7, 7), **window({"stride": 2, "padding": 3}))
    for source, dtype in (
        (torch.float32, None),
        (torch.float64, torch.float16),
        (torch.uint8, torch.bfloat16),
        (torch.float16, torch.float32),
    ):
        expected = f"got {source} and {source if dtype is None else dtype}"
        with pytest.raises(TypeError, match=f"fold_image: expected an image of float32.*{expected}"):
            box_stem.fold_image(found, torch.zeros(found.x_shape, dtype=source), dtype)


SMALL = boxed((2, 4, 4), 32, 32, warps=4, stages=2)
EPILOGUES = {
    "3x3": ((3, 40, 7, 6), (48, 40, 3, 3), {"padding": 1}, SMALL),
    "3x3 with stride": ((3, 64, 6, 10), (48, 64, 3, 3), {"padding": 1, "stride": 2}, SMALL),
    "1x1": ((3, 40, 7, 6), (48, 40, 1, 1), {}, SMALL),
    "1x1 with stride": ((3, 64, 6, 10), (48, 64, 1, 1), {"stride": 2}, SMALL),
    "whole boxes": ((4, 32, 8, 4), (64, 32, 3, 3), {"padding": 1}, SMALL),
    "boxes of one position": ((20, 32, 3, 4), (48, 32, 3, 3), {"padding": 1}, boxed((16, 1, 1), 32, 32, 4, 2)),
    "one program": ((3, 40, 7, 6), (48, 40, 3, 3), {"padding": 1}, None),
    "rows": ((3, 40, 7, 6), (48, 40, 3, 3), {"padding": 1}, rowed(2, 8, 4, 2)),
    "rows of whole strips": ((2, 32, 5, 16), (32, 32, 3, 3), {"padding": 1}, rowed(2, 8, 4, 2, channels=32)),
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_statistics_in_the_epilogue(name: str) -> None:
    """Mean and variance are those of the rounded result, with no precision lost to a mean of a hundred deviations."""
    shape, weight_shape, parameters, config = EPILOGUES[name]
    found = resolve("conv2d", shape, weight_shape, **window(parameters))
    x, weight = image(shape, torch.float16), image(weight_shape, torch.float16)
    x[:] = 1 + x / 20
    weight[:] = (2 + weight / 100) / weight[0].numel()
    with forced(box_forward.box_conv2d_configs, config):
        y, rows = box_forward.box_conv2d(found, x, weight, statistics=True)
    assert rows is not None
    assert_close(y, reference(x.double(), weight.double(), **parameters), weight[0].numel())
    check_statistics(y, rows)


def check_statistics(y: torch.Tensor, rows: torch.Tensor) -> None:
    channels = y.shape[1]
    running = torch.randn(channels), torch.rand(channels), torch.zeros(channels), torch.ones(channels)
    expected_mean, expected_var = running[0].double() * 0.7, running[1].double() * 0.7
    var, mean = torch.var_mean(y.double(), (0, 2, 3), unbiased=False)
    expected_mean += 0.3 * mean
    expected_var += 0.3 * torch.var(y.double(), (0, 2, 3))
    found_mean, invstd = statistics.merge_statistics(rows, 1e-9, *running[:2], momentum=0.3)
    assert_close(found_mean, mean)
    assert_close(invstd, (var + 1e-9).rsqrt(), 100)
    assert_close(running[0], expected_mean)
    assert_close(running[1], expected_var, 100)


def test_statistics_of_a_stem() -> None:
    found = resolve("conv2d", (3, 3, 21, 18), (24, 3, 7, 7), **window({"stride": 2, "padding": 3}))
    x, weight = torch.randn(found.x_shape).bfloat16(), torch.randn(found.weight_shape).bfloat16()
    with box_forward.box_conv2d_configs.forced(boxed((2, 4, 4), 16, 64, 4, 2)):
        y, rows = box_stem.stem_conv2d(found, box_stem.fold_image(found, x), weight, relu=True, statistics=True)
    assert rows is not None
    assert_close(y, reference(x.double(), weight.double(), 2, 3).relu(), 147)
    check_statistics(y, rows)


@pytest.mark.parametrize("residual", [False, True], ids=["bias", "bias and residual"])
@pytest.mark.parametrize("name", EPILOGUES)
def test_inference_epilogue(name: str, residual: bool) -> None:
    shape, weight_shape, parameters, config = EPILOGUES[name]
    found = resolve("conv2d", shape, weight_shape, **window(parameters))
    x, weight, bias = image(shape, torch.bfloat16), image(weight_shape, torch.bfloat16), torch.randn(weight_shape[0])
    added = image(found.out_shape, torch.bfloat16) if residual else None
    with forced(box_forward.box_conv2d_configs, config):
        y, _ = box_forward.box_conv2d(found, x, weight, bias, added, relu=True)
    expected = reference(x.double(), weight.double(), **parameters) + bias.double()[:, None, None]
    assert_close(y, (expected if added is None else expected + added.double()).relu(), weight[0].numel())


#: The convolution that a shortcut joins, the shortcut's input and stride, and a configuration.
SHORTCUTS = {
    "strided": ((3, 40, 7, 6), (48, 40, 3, 3), 1, (3, 64, 14, 12), 2, SMALL),
    "strided, one program": ((3, 40, 7, 6), (48, 40, 3, 3), 1, (3, 64, 14, 12), 2, None),
    "both strided": ((2, 64, 8, 12), (48, 64, 3, 3), 2, (2, 32, 8, 12), 2, SMALL),
    "of one size": ((3, 40, 7, 6), (48, 40, 3, 3), 1, (3, 24, 7, 6), 1, SMALL),
    "in a row": ((3, 40, 7, 6), (48, 40, 1, 1), 1, (3, 24, 7, 6), 1, boxed((1, 1, 16), 32, 32, 4, 2)),
    "1x1, strided shortcut": ((3, 40, 7, 6), (48, 40, 1, 1), 1, (3, 32, 14, 12), 2, SMALL),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_shortcut_in_the_same_sum(name: str) -> None:
    shape, weight_shape, stride, short_shape, short_stride, config = SHORTCUTS[name]
    padding = weight_shape[2] // 2
    found = resolve("conv2d", shape, weight_shape, stride, padding, 1, 1)
    found_short = resolve("conv2d", short_shape, (weight_shape[0], short_shape[1], 1, 1), short_stride, 0, 1, 1)
    x, weight, bias = image(shape, torch.bfloat16), image(weight_shape, torch.bfloat16), torch.randn(weight_shape[0])
    x_short, weight_short = (image(s, torch.bfloat16) for s in (short_shape, found_short.weight_shape))
    bias_short = torch.randn(weight_shape[0])
    shortcut = box_forward.Shortcut(found_short, x_short, weight_short, bias_short)
    with forced(box_forward.box_conv2d_configs, config), launch.count() as records:
        y, _ = box_forward.box_conv2d(found, x, weight, bias, relu=True, shortcut=shortcut)
    expected = reference(x.double(), weight.double(), stride, padding)
    expected += reference(x_short.double(), weight_short.double(), short_stride)
    expected = (expected + (bias + bias_short).double()[:, None, None]).relu()
    assert_close(y, expected, weight[0].numel() + short_shape[1])
    (record,) = records
    assert record.cost.flops == found.flops + found_short.flops
    read = x_short.numel() * 2 // short_stride**2  # of the shortcut's input every second row and column, if strided
    assert record.cost.bytes == launch.nbytes(x, weight, bias, weight_short, bias_short, y) + read


def test_relu_passes_nan() -> None:
    found = resolve("conv2d", (2, 16, 4, 4), (16, 16, 1, 1), 1, 0, 1, 1)
    x, weight = image(found.x_shape, torch.bfloat16), image(found.weight_shape, torch.bfloat16)
    x[1, 0, 2, 3] = float("nan")
    y, _ = box_forward.box_conv2d(found, x, weight, relu=True)
    assert y[1, :, 2, 3].isnan().all() and y.isnan().sum() == 16


@pytest.mark.parametrize("parts", ["residual", "mask", "everything"])
@pytest.mark.parametrize("name", EPILOGUES)
def test_input_grad_epilogue(name: str, parts: str) -> None:
    shape, weight_shape, parameters, config = EPILOGUES[name]
    found = resolve("conv2d", shape, weight_shape, **window(parameters))
    grad, weight = image(found.out_shape, torch.bfloat16), image(weight_shape, torch.bfloat16)
    residual, x, y = (image(shape, torch.bfloat16) for _ in range(3))
    x.relu_()
    mean = torch.randn(shape[1])
    x64 = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    reference(x64, weight.double(), **parameters).backward(grad.double())
    expected, given = x64.grad, {}
    assert expected is not None
    if parts != "mask":
        expected, given = expected + residual.double(), {"residual": residual}
    if parts != "residual":
        expected, given = torch.where(x > 0, expected, 0), {**given, "x": x}
    if parts == "everything":
        given |= {"y": y, "mean": mean}
    with forced(box_input_grad.box_conv2d_input_grad_configs, config):
        g, sums = box_input_grad.box_conv2d_input_grad(found, grad, weight, **given)
    assert_close(g, expected, weight[:, 0].numel())
    assert (sums is not None) == (parts == "everything")
    if sums is not None:
        total = matmul.sum_partials(sums, torch.empty(sums.shape[1:]))
        g64, deviation = g.double(), y.double() - mean.double()[:, None, None]
        assert_close(total, torch.stack((g64.sum((0, 2, 3)), (g64 * deviation).sum((0, 2, 3)))), g[:, 0].numel())


@pytest.mark.parametrize("dtype", [None, torch.float32], ids=["rounded", "wide"])
@pytest.mark.parametrize("config", [*box_weight_grad.box_conv2d_weight_grad_configs.shipped, None], ids=str)
def test_weight_grad_makes_the_gradient(config: Config | None, dtype: torch.dtype | None) -> None:
    """Beyond rows and columns the made gradient is zero, though its offset is not and x, moved by a tap, is not."""
    found = resolve("conv2d", (3, 24, 9, 10), (40, 24, 3, 3), 1, 1, 1, 1)
    x, upstream, y = (image(shape, torch.bfloat16) for shape in (found.x_shape, found.out_shape, found.out_shape))
    affine = torch.randn(3, 40)
    slope, slope_y, offset = affine.double()[:, :, None, None]
    with forced(box_weight_grad.box_conv2d_weight_grad_configs, config):
        weight_grad, grad = box_weight_grad.box_conv2d_weight_grad(found, None, x, upstream, y, affine, dtype)
    assert (weight_grad.dtype, grad.dtype) == (dtype or torch.bfloat16, torch.bfloat16)
    assert_close(grad, slope * upstream.double() + slope_y * y.double() + offset, 3)
    weight = torch.zeros(found.weight_shape, dtype=torch.float64, requires_grad=True)
    reference(x.double(), weight, 1, 1).backward(grad.double())
    assert weight.grad is not None
    assert_close(weight_grad, weight.grad, grad[:, 0].numel())


def test_misaligned_memory_is_copied() -> None:
    """A view that begins between two multiples of 16 bytes, which a descriptor cannot reach."""
    memory = torch.randn(2 * 16 * 16 + 1).bfloat16()
    x = memory[1:].view(2, 4, 4, 16).permute(0, 3, 1, 2)
    assert for_boxes(x).data_ptr() % 16 == 0 and torch.equal(for_boxes(x), x)
    weight = image((16, 16, 3, 3), torch.bfloat16)
    assert_close(kernels.conv2d(x, weight, None, 1, 1), reference(x.double(), weight.double(), 1, 1), 144)


def test_masked_lanes_never_enter() -> None:
    """NaN in the image before, behind and below the batch in memory is not read."""
    memory = torch.full((5, 16, 5, 5), float("nan"), dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    x, weight = memory[1:4], image((16, 16, 3, 3), torch.bfloat16)
    x.copy_(torch.randn(3, 16, 5, 5))
    for config in (boxed((2, 4, 4), 16, 16, 4, 2), rowed(2, 8, 4, 2, channels=16)):
        with forced(box_forward.box_conv2d_configs, config):
            y = kernels.conv2d(x, weight, None, 1, 1)
        assert_close(y, reference(x.double(), weight.double(), 1, 1), 144)
