"""Normalisation, residual, ReLU and the mean of each map without the map: against the passes apart, and float64 torch."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F

from tests.closeness import assert_close
from tinyflow.kernels import batch_norm, fused, launch, memory
from tinyflow.kernels.fused import normalise

DEVICE = memory.get_default_device()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

#: Odd and prime sizes; one pixel a map; one image and one channel; more channels than pixels.
SHAPES = [(3, 5, 3, 5), (6, 4, 1, 1), (1, 1, 5, 5), (2, 37, 3, 1)]


def to(x: torch.Tensor) -> torch.Tensor:
    return x.to(DEVICE)


def images(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def assert_averages(
    x: torch.Tensor,
    residual: torch.Tensor,
    training: bool = True,
    affine: bool = True,
    grad: torch.Tensor | None = None,
) -> None:
    """The mean is that of the map which ``normalise_act`` writes; gradients agree with torch's in float64."""
    channels, length = x.shape[1], x.numel() // x.shape[1]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    vectors = [torch.randn(channels).to(wide), torch.rand(channels).to(wide) + 0.5, torch.randn(channels).to(wide)]
    mean, invstd = batch_norm.batch_norm_statistics(to(x)) if training else map(to, vectors[:2])
    norm = (mean, invstd, *(map(to, vectors[1:]) if affine else (None, None)))
    pooled, passed = fused.normalise_mean(to(x), norm, to(residual))
    y = fused.normalise_act(to(x), norm, to(residual)).cpu()
    assert pooled.dtype == x.dtype
    assert_close(pooled, y.double().mean((2, 3), keepdim=True), x.shape[2] * x.shape[3])

    grad = torch.randn(pooled.shape).to(x.dtype) if grad is None else grad
    each = (grad.double() / (x.shape[2] * x.shape[3])).to(x.dtype).double()
    leaves = [t.double().clone().requires_grad_() for t in (x, residual, *vectors[1:])]
    given = (None, None) if training else (mean.cpu().double(), invstd.cpu().double() ** -2)
    parameters = leaves[2:] if affine else [None, None]
    expected = F.batch_norm(leaves[0], *given, *parameters, training=training, eps=1e-5 if training else 0.0)
    wanted = leaves if affine else leaves[:2]
    gradients = torch.autograd.grad(expected + leaves[1], wanted, each.expand(x.shape) * ~(y <= 0))
    found = fused.normalise_mean_grad(to(grad), to(x), to(residual), norm, passed, training)
    assert found[0].dtype == found[3].dtype == x.dtype
    assert_close(found[0], gradients[0], length)
    assert_close(found[3], gradients[1])
    if affine:
        assert_close(found[1], gradients[2], length)
        assert_close(found[2], gradients[3], length)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype, training) -> None:
    assert_averages(images(SHAPES[0], dtype), images(SHAPES[0], dtype), training)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_ragged_shapes(shape) -> None:
    assert_averages(images(shape, torch.float32), images(shape, torch.float32))


def test_any_strides_and_no_weight() -> None:
    x = torch.randn(8, 10, 6, 4)[::2, ::2, ::2]
    grad = torch.randn(1, 5, 1, 1).expand(4, 5, 1, 1)
    assert_averages(x, torch.randn(1, 5, 3, 4).expand(4, 5, 3, 4), affine=False, grad=grad)


@pytest.mark.parametrize("config", normalise.mean_configs.shipped, ids=lambda c: str(c.blocks))
def test_shipped_configurations(config) -> None:
    # three ragged tiles of pixels and two of channels; more images than a tile of the sums, with another of those shipped
    (sums,) = normalise.mean_gradient_sums_configs.shipped
    shape = (3, config.blocks["BLOCK_C"] + 3, 2 * config.blocks["BLOCK_P"] + 3, 1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(launch.wide_offsets())
        for configs in (normalise.mean_configs, normalise.mean_input_grad_configs):
            stack.enter_context(configs.forced(config))
        stack.enter_context(normalise.mean_gradient_sums_configs.forced(sums))
        assert_averages(images(shape, torch.float32), images(shape, torch.float32))


def test_more_images_than_a_tile_of_the_sums() -> None:
    (sums,) = normalise.mean_gradient_sums_configs.shipped
    shape = (sums.blocks["BLOCK_N"] + 3, sums.blocks["BLOCK_C"] + 3, 1, 2)
    with normalise.mean_gradient_sums_configs.forced(sums):
        assert_averages(images(shape, torch.float32), images(shape, torch.float32))


def test_the_sum_takes_rounded_values() -> None:
    """Two of three values round up to 1 + 2⁻⁷ in bfloat16, so their mean does; the exact mean is nearer to 1."""
    x = torch.ones(1, 1, 1, 3).bfloat16()
    residual = torch.tensor([2.0**-8 + 2.0**-12, 2.0**-8 + 2.0**-12, 0.0]).bfloat16().view(x.shape)
    norm = (to(torch.zeros(1)), to(torch.ones(1)), None, None)
    assert fused.normalise_mean(to(x), norm, to(residual))[0].item() == 1.0 + 2.0**-7


def test_only_what_is_wanted_is_written() -> None:
    x = images(SHAPES[0], torch.float32)
    norm = (*batch_norm.batch_norm_statistics(to(x)), None, None)
    pooled, passed = fused.normalise_mean(to(x), norm, to(x))
    every = fused.normalise_mean_grad(pooled, to(x), to(x), norm, passed)
    for need_x, need_residual in ((True, False), (False, True), (False, False)):
        with launch.count() as records:
            found = fused.normalise_mean_grad(pooled, to(x), to(x), norm, passed, True, need_x, need_residual)
        assert len(records) == 1 + (need_x or need_residual)
        for mine, theirs, wanted in zip(found, every, (need_x, True, True, need_residual)):
            assert (mine is not None) == wanted
            assert mine is None or torch.equal(mine.cpu(), theirs.cpu())


def test_nan_passes_both_ways_and_an_empty_batch_is_one() -> None:
    x = images((1, 2, 2, 2), torch.float32)
    x[0, 0, 0, 0] = float("nan")
    norm = (to(torch.zeros(2)), to(torch.ones(2)), None, None)
    zeros = to(torch.zeros(1, 2, 2, 2))
    pooled, passed = fused.normalise_mean(to(x), norm, zeros)
    assert pooled.cpu().isnan().flatten().tolist() == [True, False]
    grad_x = fused.normalise_mean_grad(to(torch.ones(1, 2, 1, 1)), to(x), zeros, norm, passed, training=False)[0]
    assert grad_x.cpu()[0, 0, 0, 0] == 0.25
    empty = to(torch.empty(0, 2, 2, 2))
    pooled, passed = fused.normalise_mean(empty, norm, empty)
    assert pooled.shape == (0, 2, 1, 1)
    grad_x, grad_weight, grad_bias, _ = fused.normalise_mean_grad(pooled, empty, empty, norm, passed)
    assert grad_x.shape == empty.shape
    assert grad_weight.tolist() == grad_bias.tolist() == [0.0, 0.0]


def test_errors() -> None:
    x, vector = to(torch.randn(2, 3, 4, 4)), to(torch.ones(3))
    norm = (vector, vector, None, None)
    with pytest.raises(RuntimeError, match=r"expected \(2, 3, 4, 4\) torch.float32 as x, got \(2, 3, 4, 2\)"):
        fused.normalise_mean(x, norm, x[..., :2])
    with pytest.raises(ValueError, match=r"expected maps of 1 to 1024 pixels, got x \(2, 3, 0, 4\)"):
        fused.normalise_mean(x[:, :, :0], norm, x[:, :, :0])
    with pytest.raises(RuntimeError, match=r"expected grad \(2, 3, 1, 1\) torch.float32 .*, got \(2, 3, 4, 4\)"):
        fused.normalise_mean_grad(x, x, x, norm, to(torch.zeros(2, 2, 3)))
