"""Batch normalisation and its gradient: against float64 torch, at every configuration that ships, in any layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from tests.closeness import assert_close
from tinyflow.kernels import batch_norm as kernels
from tinyflow.kernels import launch, memory

DEVICE = memory.get_default_device()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

SHAPES = {
    "features": (7, 5),
    "sequences of one": (9, 3, 1),
    "one channel": (4, 1, 3, 3),
    "sequences": (3, 5, 11),
    "images": (4, 6, 5, 3),
    "one pixel an image": (6, 4, 1, 1),
    "volumes": (2, 3, 2, 3, 5),
}


@contextlib.contextmanager
def every_kernel_at(config: launch.Config) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for configs in (
            kernels.statistics_configs,
            kernels.apply_configs,
            kernels.gradient_sums_configs,
            kernels.input_grad_configs,
        ):
            stack.enter_context(configs.forced(config))
        yield


def on_device(x: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides on the device under test."""
    memory_of_x = x.as_strided((memory.extent(x),), (1,))
    return memory_of_x.clone().to(DEVICE).as_strided(x.shape, x.stride(), 0)


def assert_training(x: torch.Tensor, affine: bool = True, parameter_dtype: torch.dtype | None = None) -> None:
    """Forward, running statistics and all gradients agree with torch's in float64."""
    channels, length = x.shape[1], x.numel() // x.shape[1]
    dtype = parameter_dtype or x.dtype
    weight, bias = (torch.randn(channels).to(dtype) for _ in range(2)) if affine else (None, None)
    running_mean, running_var = torch.randn(channels).to(dtype), torch.rand(channels).to(dtype)
    wide_mean, wide_var = running_mean.double().clone(), running_var.double().clone()
    leaves = [t.double().requires_grad_() for t in (x, weight, bias) if t is not None]
    expected = torch.nn.functional.batch_norm(
        leaves[0], wide_mean, wide_var, *(leaves[1:] or (None, None)), training=True, momentum=0.3, eps=1e-3
    )
    grad = torch.randn(x.shape).to(x.dtype)
    gradients = torch.autograd.grad(expected, leaves, grad.double())

    running = [on_device(running_mean), on_device(running_var)]
    parameters = [None if p is None else on_device(p) for p in (weight, bias)]
    on = on_device(x)
    y, mean, invstd = kernels.batch_norm(on, *parameters, *running, momentum=0.3, eps=1e-3)
    assert y.dtype == x.dtype
    assert_close(y, expected, length)
    assert_close(running[0], wide_mean, length)
    assert_close(running[1], wide_var, length)
    found = kernels.batch_norm_grad(on_device(grad), on, parameters[0], mean, invstd)
    assert found[0].dtype == x.dtype
    for mine, theirs in zip(found, gradients):
        assert_close(mine.to(x.dtype), theirs, length)
    if x.dim() == 4:
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", SHAPES)
def test_training_agrees_with_float64(name: str) -> None:
    assert_training(torch.randn(SHAPES[name]) * 2 + 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    assert_training(torch.randn(4, 6, 5, 3).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_activations_take_float32_parameters(dtype: torch.dtype) -> None:
    assert_training(torch.randn(4, 6, 5, 3).to(dtype), parameter_dtype=torch.float32)


def test_without_weight_and_bias() -> None:
    assert_training(torch.randn(4, 6, 5, 3), affine=False)


LAYOUTS = {
    "channels-last": lambda: torch.randn(4, 6, 5, 3).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(3, 5, 6, 4).permute(3, 2, 1, 0),
    "every other": lambda: torch.randn(8, 12, 10, 6)[::2, ::2, ::2, ::2],
    "expanded over images": lambda: torch.randn(1, 6, 5, 3).expand(4, 6, 5, 3),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout(name: str) -> None:
    assert_training(LAYOUTS[name]())


@pytest.mark.parametrize("config", kernels.statistics_configs.declared, ids=lambda c: str(c.blocks))
@pytest.mark.parametrize("channels_last", [False, True])
def test_shipped_configurations(config: launch.Config, channels_last: bool) -> None:
    # at least eight tiles of pixels, so that two splits of several tiles each meet, the last one ragged
    block_p, block_c = config.blocks["BLOCK_P"], config.blocks["BLOCK_C"]
    pixels = 8 * block_p + 3
    x = torch.randn(pixels, block_c + 3, 1, 1) if channels_last else torch.randn(1, block_c + 3, pixels)
    splits, split_pixels = kernels.pixel_splits(config, pixels, block_c + 3)
    assert splits > 1
    assert split_pixels > block_p
    with every_kernel_at(config):
        assert_training(x)


def test_wide_offsets() -> None:
    with launch.wide_offsets():
        assert_training(torch.randn(3, 5, 4, 2))


@pytest.mark.parametrize("config", [None, *kernels.statistics_configs.declared], ids=str)
def test_a_large_mean_costs_no_precision(config: launch.Config | None) -> None:
    # Σx² − (Σx)²/n in float32 would leave no digit of this variance
    x = (torch.randn(1400, 2) + torch.tensor([1e4, -2e4])).float()
    with contextlib.nullcontext() if config is None else every_kernel_at(config):
        _, mean, invstd = kernels.batch_norm(on_device(x), eps=1e-5)
    wide = x.double()
    assert_close(mean, wide.mean(0))
    expected = (wide.var(0, correction=0) + 1e-5).rsqrt()
    torch.testing.assert_close(invstd.cpu().double(), expected, rtol=1e-4, atol=0)


def test_one_outlier_in_front() -> None:
    # a variance taken around the first pixel would cancel
    x = torch.randn(500, 3)
    x[0] = 1e6
    _, _, invstd = kernels.batch_norm(on_device(x[1:]), eps=0.0)
    torch.testing.assert_close(invstd.cpu().double(), x[1:].double().var(0, correction=0).rsqrt(), rtol=1e-5, atol=0)
    _, _, invstd = kernels.batch_norm(on_device(x), eps=0.0)
    torch.testing.assert_close(invstd.cpu().double(), x.double().var(0, correction=0).rsqrt(), rtol=1e-5, atol=0)


def test_running_statistics_may_be_strided_or_absent() -> None:
    x = on_device(torch.randn(6, 3))
    spread = on_device(torch.zeros(6))
    kernels.batch_norm(x, running_mean=spread[::2], momentum=1.0)
    assert_close(spread[::2], x.double().mean(0), 6)
    assert not spread[1::2].any()


def test_a_float64_momentum_and_eps_keep_their_digits() -> None:
    x = on_device(torch.zeros(4, 2, dtype=torch.float64))
    running_mean = on_device(torch.ones(2, dtype=torch.float64))
    _, _, invstd = kernels.batch_norm(x, running_mean=running_mean, momentum=0.1, eps=0.1)
    assert running_mean.tolist() == [0.9, 0.9]
    assert_close(invstd, torch.full((2,), 0.1, dtype=torch.float64).rsqrt(), factor=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_inference_agrees_with_float64(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(SHAPES[name]).to(dtype)
    channels = x.shape[1]
    mean, weight, bias = (torch.randn(channels).to(dtype) for _ in range(3))
    var = (torch.rand(channels) + 0.5).to(dtype)
    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    expected = torch.nn.functional.batch_norm(leaves[0], mean.double(), var.double(), *leaves[1:], training=False)
    y = kernels.batch_norm_inference(*map(on_device, (x, mean, var, weight, bias)))
    assert_close(y, expected)
    grad = torch.randn(x.shape).to(dtype)
    statistic = torch.float64 if dtype == torch.float64 else torch.float32
    invstd = (var.double() + 1e-5).rsqrt().to(statistic)
    found = kernels.batch_norm_grad(*map(on_device, (grad, x, weight, mean.to(statistic), invstd)), training=False)
    for mine, theirs in zip(found, torch.autograd.grad(expected, leaves, grad.double())):
        assert_close(mine.to(dtype), theirs, x.numel() // channels)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = on_device(torch.empty(shape))
    running = on_device(torch.ones(shape[1]))
    y, mean, invstd = kernels.batch_norm(x, running_mean=running)
    assert y.shape == shape
    assert mean.shape == (shape[1],)
    assert running.tolist() == [1.0] * shape[1]
    grad_x, grad_weight, grad_bias = kernels.batch_norm_grad(y, x, None, mean, invstd)
    assert grad_x.shape == shape
    assert not grad_weight.any()
    assert not grad_bias.any()


def test_a_nan_stays_in_its_channel() -> None:
    x = torch.randn(4, 3, 2, 2)
    x[0, 1, 0, 0] = float("nan")
    y, _, _ = kernels.batch_norm(on_device(x))
    assert y[:, 1].isnan().all()
    assert not y[:, ::2].isnan().any()


def test_two_runs_give_the_same_bits() -> None:
    x = on_device(torch.randn(1100, 40))
    with every_kernel_at(kernels.statistics_configs.shipped[0]):
        first = kernels.batch_norm(x)
        second = kernels.batch_norm(x)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_cost_is_counted_without_computing() -> None:
    x = torch.empty(256, 64, 56, 56, device="meta", dtype=torch.bfloat16)
    with launch.count() as records:
        y, _, _ = kernels.batch_norm(x)
    assert y.shape == x.shape
    assert [r.kernel for r in records] == [
        "_batch_norm_statistics_kernel",
        "_batch_norm_finish_statistics_kernel",
        "_batch_norm_apply_kernel",
    ]
    assert sum(r.cost.flops for r in records) >= 9 * x.numel()
    assert sum(r.cost.bytes for r in records) >= 3 * x.numel() * 2


def test_errors() -> None:
    x = on_device(torch.randn(4, 3))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        kernels.batch_norm(x[:1])
    with pytest.raises(ValueError, match=r"expected x of shape \(N, C, ...\), got \(3,\)"):
        kernels.batch_norm(x[0])
    with pytest.raises(RuntimeError, match=r"expected weight of shape \(3,\) for x of shape \(4, 3\), got \(4,\)"):
        kernels.batch_norm(x, x[:, 0])
    with pytest.raises(
        RuntimeError, match=r"expected bias of dtype torch.float32 for x of torch.float32, got torch.float64"
    ):
        kernels.batch_norm(x, x[0], x[0].double())
    with pytest.raises(TypeError, match=r"expected floating-point x, got torch\.int64"):
        kernels.batch_norm(x.long())
    with pytest.raises(RuntimeError, match=r"expected grad of shape \(4, 3\), got \(3, 4\)"):
        kernels.batch_norm_grad(x.t(), x, None, x[0], x[0])
