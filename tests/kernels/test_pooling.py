"""Maxima and means over windows, and their gradients: against torch, with ties, NaN and every configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.closeness import assert_close
from tinyflow.kernels import launch, memory
from tinyflow.kernels import pooling as kernels

DEVICE = memory.get_default_device()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(2, 3, 7, 6), (3, 8, 9), (1, 5, 12, 11)]

MAX_WINDOWS: dict[str, dict[str, Any]] = {
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "side by side": {"kernel_size": 2},
    "dilated": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 1), "dilation": (2, 1)},
    "reaching over the edge": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "the last one dropped": {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    "more than nine taps": {"kernel_size": 5, "stride": 1, "padding": 2},
    "strided and dilated": {"kernel_size": 2, "stride": 3, "dilation": 3},
}

MEAN_WINDOWS: dict[str, dict[str, Any]] = {
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "side by side": {"kernel_size": 2},
    "without padding": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 1), "count_include_pad": False},
    "reaching over the edge": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "reaching over padding": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    "the last one dropped": {
        "kernel_size": 2,
        "stride": 3,
        "padding": 1,
        "ceil_mode": True,
        "count_include_pad": False,
    },
    "a given divisor": {"kernel_size": 3, "stride": 1, "padding": 1, "divisor_override": 7},
}

OUTPUT_SIZES = [1, (2, 3), (None, 4), 5, (13, 9), (1, 2)]

ALL_CONFIGS = (
    kernels.max_pool2d_configs,
    kernels.max_pool2d_select_configs,
    kernels.avg_pool2d_configs,
    kernels.pool2d_input_grad_configs,
)


@contextlib.contextmanager
def every_kernel_at(config: launch.Config) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for configs in ALL_CONFIGS:
            stack.enter_context(configs.forced(config))
        yield


def with_ties(shape: tuple[int, ...]) -> torch.Tensor:
    """Whole numbers that repeat, a NaN, and an image or channel of nothing but −inf."""
    x = torch.randint(-3, 4, shape).float()
    x[..., 1, 2, 3] = float("nan")
    x[..., 0, :, :] = float("-inf")
    return x


def assert_max(x: torch.Tensor, windows: dict[str, Any]) -> None:
    """Values, indices, gradient and its transpose, bit for bit but for the gradient's sums."""
    wide = x.double().clone().requires_grad_()
    expected, indices = F.max_pool2d(wide, **windows, return_indices=True)
    on = x.to(DEVICE)
    y, taps = kernels.max_pool2d(on, **windows)
    assert y.dtype == x.dtype
    torch.testing.assert_close(y.cpu(), expected.detach().to(x.dtype), rtol=0, atol=0, equal_nan=True)
    found = kernels.max_pool2d_indices(taps, x.shape, **windows)
    assert found.dtype == torch.int64
    assert torch.equal(found.cpu(), indices)
    grad = torch.randn(expected.shape).to(x.dtype)
    expected.backward(grad.double())
    x_grad = kernels.max_pool2d_input_grad(grad.to(DEVICE), taps, x.shape, **windows)
    assert_close(x_grad, wide.grad, 9)
    h = torch.randn(x.shape).to(x.dtype)
    selected = kernels.max_pool2d_select(h.to(DEVICE), taps, **windows)
    assert torch.equal(selected.cpu(), h.flatten(-2).gather(-1, indices.flatten(-2)).view(indices.shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAX_WINDOWS)
def test_max_agrees_with_torch(name: str, shape: tuple[int, ...]) -> None:
    assert_max(with_ties(shape), MAX_WINDOWS[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_max_dtypes(dtype: torch.dtype) -> None:
    assert_max(torch.randn(2, 3, 7, 6).to(dtype), MAX_WINDOWS["overlapping"])


def test_a_window_of_many_taps_needs_wider_indices() -> None:
    x = torch.randn(1, 2, 20, 19)
    assert kernels.max_pool2d(x.to(DEVICE), (18, 17))[1].dtype == torch.int32
    assert kernels.max_pool2d(x.to(DEVICE), 16)[1].dtype == torch.uint8
    assert_max(x, {"kernel_size": (18, 17), "stride": 1})
    assert_max(x, {"kernel_size": 16, "stride": 1})


def assert_mean(x: torch.Tensor, windows: dict[str, Any]) -> None:
    wide = x.double().clone().requires_grad_()
    expected = F.avg_pool2d(wide, **windows)
    y = kernels.avg_pool2d(x.to(DEVICE), **windows)
    assert y.dtype == x.dtype
    assert_close(y, expected, 9)
    grad = torch.randn(expected.shape).to(x.dtype)
    expected.backward(grad.double())
    assert_close(kernels.avg_pool2d_input_grad(grad.to(DEVICE), x.shape, **windows), wide.grad, 9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MEAN_WINDOWS)
def test_mean_agrees_with_float64(name: str, shape: tuple[int, ...]) -> None:
    assert_mean(torch.randn(shape), MEAN_WINDOWS[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mean_dtypes(dtype: torch.dtype) -> None:
    assert_mean(torch.randn(2, 3, 7, 6).to(dtype), MEAN_WINDOWS["overlapping"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("output_size", OUTPUT_SIZES, ids=str)
def test_adaptive_agrees_with_torch(output_size: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    wide = x.double().clone().requires_grad_()
    expected = F.adaptive_avg_pool2d(wide, output_size)
    grad = torch.randn(expected.shape)
    on, on_grad = x.to(DEVICE), grad.to(DEVICE)
    assert_close(kernels.adaptive_avg_pool2d(on, output_size), expected, 132)
    (wanted,) = torch.autograd.grad(expected, wide, grad.double())
    assert_close(kernels.adaptive_avg_pool2d_input_grad(on_grad, x.shape, output_size), wanted, 12)

    expected, indices = F.adaptive_max_pool2d(wide, output_size, return_indices=True)
    y, taps = kernels.adaptive_max_pool2d(on, output_size)
    assert torch.equal(y.cpu(), expected.detach().float())
    assert torch.equal(kernels.adaptive_max_pool2d_indices(taps, x.shape, output_size).cpu(), indices)
    (wanted,) = torch.autograd.grad(expected, wide, grad.double())
    assert_close(kernels.adaptive_max_pool2d_input_grad(on_grad, taps, x.shape, output_size), wanted, 12)
    assert torch.equal(kernels.adaptive_max_pool2d_select(on, taps, output_size).cpu(), expected.detach().float())


LAYOUTS = {
    "channels-last": lambda: torch.randn(2, 5, 7, 6).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(6, 7, 5, 2).permute(3, 2, 1, 0),
    "every other": lambda: torch.randn(4, 10, 14, 12)[::2, ::2, ::2, ::2],
    "expanded": lambda: torch.randn(1, 5, 7, 1).expand(2, 5, 7, 6),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout(name: str) -> None:
    x = LAYOUTS[name]()
    windows = MAX_WINDOWS["overlapping"]
    y, taps = kernels.max_pool2d(x.to(DEVICE), **windows)
    assert torch.equal(y.cpu(), F.max_pool2d(x, **windows))
    assert_close(kernels.avg_pool2d(x.to(DEVICE), **windows), F.avg_pool2d(x.double(), **windows), 9)
    grad = LAYOUTS[name]()[:, :, : y.shape[2], : y.shape[3]]
    wide = x.double().clone().requires_grad_()
    F.max_pool2d(wide, **windows).backward(grad.double())
    x_grad = kernels.max_pool2d_input_grad(grad.to(DEVICE), taps, x.shape, **windows)
    assert_close(x_grad, wide.grad, 9)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (y, taps, x_grad))


@pytest.mark.parametrize("config", kernels.max_pool2d_configs.shipped, ids=lambda c: str(c.blocks))
def test_shipped_configurations(config: launch.Config) -> None:
    channels = config.blocks["BLOCK_C"] + 3  # two tiles of channels, the second ragged; more than two of pixels
    x = with_ties((2, channels, 13, 17))
    with every_kernel_at(config):
        assert_max(x, MAX_WINDOWS["overlapping"])
        assert_max(x, MAX_WINDOWS["more than nine taps"])
        assert_mean(torch.randn(x.shape), MEAN_WINDOWS["overlapping"])


def test_wide_offsets() -> None:
    with launch.wide_offsets():
        assert_max(with_ties((2, 3, 7, 6)), MAX_WINDOWS["dilated"])
        assert_mean(torch.randn(2, 3, 7, 6), MEAN_WINDOWS["without padding"])


def test_a_window_wholly_in_padding() -> None:
    # dilation lets both taps miss a narrow image: nothing wins, and nothing gets a gradient
    x = torch.randn(1, 2, 3, 2)
    windows = {"kernel_size": (1, 2), "padding": (0, 1), "dilation": (1, 3), "stride": 1}
    y, taps = kernels.max_pool2d(x.to(DEVICE), **windows)
    assert torch.equal(y.cpu(), F.max_pool2d(x, **windows))
    assert torch.isinf(y).all()
    assert not kernels.max_pool2d_input_grad(torch.ones_like(y), taps, x.shape, **windows).any()
    assert not kernels.max_pool2d_select(x.to(DEVICE), taps, **windows).any()


def test_no_images() -> None:
    x = torch.empty(0, 3, 8, 8, device=DEVICE)
    y, taps = kernels.max_pool2d(x, 2)
    assert y.shape == taps.shape == (0, 3, 4, 4)
    assert kernels.max_pool2d_input_grad(y, taps, x.shape, 2).shape == x.shape
    assert kernels.avg_pool2d(x, 3).shape == (0, 3, 2, 2)
    assert kernels.adaptive_avg_pool2d(x, (2, 3)).shape == (0, 3, 2, 3)
    assert kernels.adaptive_avg_pool2d(torch.randn(2, 3, 8, 8, device=DEVICE), (0, 3)).shape == (2, 3, 0, 3)


def test_errors() -> None:
    x = torch.randn(2, 3, 6, 6, device=DEVICE)
    with pytest.raises(
        RuntimeError,
        match=r"equal to half of kernel size, but got padding \(2, 2\) and kernel_size \(3, 3\)",
    ):
        kernels.max_pool2d(x, 3, padding=2)
    with pytest.raises(RuntimeError, match=r"Given input size: \(3, 6, 6\). Calculated output size: \(3, 0, 0\)"):
        kernels.avg_pool2d(x, 7)
    with pytest.raises(RuntimeError, match=r"Expected 3D or 4D .* for input, got \(6, 6\)"):
        kernels.max_pool2d(x[0, 0], 2)
    with pytest.raises(RuntimeError, match=r"Expected 3D or 4D .* for input, got \(2, 3, 0, 6\)"):
        kernels.adaptive_avg_pool2d(x[:, :, :0], 2)
    with pytest.raises(RuntimeError, match=r"stride should be greater than zero, but got \(0, 1\)"):
        kernels.avg_pool2d(x, 2, stride=(0, 1))
    with pytest.raises(RuntimeError, match="divisor must be not zero"):
        kernels.avg_pool2d(x, 2, divisor_override=0)
    with pytest.raises(TypeError, match=r"expected kernel_size to be an int or two ints, got \(2, 2, 2\)"):
        kernels.max_pool2d(x, (2, 2, 2))
    with pytest.raises(TypeError, match=r"expected floating-point x, got torch\.int64"):
        kernels.max_pool2d(x.long(), 2)
    with pytest.raises(
        RuntimeError, match=r"expected grad of shape \(2, 3, 3, 3\) for x of shape \(2, 3, 6, 6\), got \(2, 3, 6, 6\)"
    ):
        kernels.avg_pool2d_input_grad(x, x.shape, 2)
