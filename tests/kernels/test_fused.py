"""Fused normalisation, residual, ReLU and pooling, and folding: against float64 torch, at every configuration that ships."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from tests.closeness import assert_close
from tinyflow.kernels import batch_norm, fused, launch, memory
from tinyflow.kernels.fused import folding, normalise, stem

DEVICE = memory.get_default_device()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

#: Odd and prime sizes; one pixel an image; more channels than pixels; a batch of one.
SHAPES = [(3, 5, 7, 6), (6, 4, 1, 1), (2, 37, 3, 1), (1, 1, 5, 5)]


@contextlib.contextmanager
def every_kernel_at(config: launch.Config, *kernels: launch.Configs) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for configs in kernels:
            stack.enter_context(configs.forced(config))
        yield


def images(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def vectors(channels: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias, in the dtype of the arithmetic."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.rand(channels).to(wide) + 0.5, torch.randn(channels).to(wide)


def to(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.to(DEVICE)


def wide_leaf(x: torch.Tensor) -> torch.Tensor:
    return x.double().clone().requires_grad_()


def assert_normalises(
    x: torch.Tensor, residual: torch.Tensor | None, act: str, training: bool, affine: bool = True
) -> None:
    """Value and all gradients agree with torch's in float64, which takes x and the residual as they are rounded."""
    channels, length = x.shape[1], x.numel() // x.shape[1]
    weight, bias = vectors(channels, x.dtype)
    if training:
        mean, invstd = batch_norm.batch_norm_statistics(to(x))
    else:
        mean, invstd = (to(v) for v in vectors(channels, x.dtype)[::-1])
        invstd = invstd.abs() + 0.5
    leaves = [wide_leaf(t) for t in (x, weight, bias) if t is not None]
    wide_residual = None if residual is None else wide_leaf(residual)
    affine_leaves = leaves[1:] if affine else [None, None]
    given = (None, None) if training else (mean.cpu().double(), invstd.cpu().double() ** -2)
    expected = F.batch_norm(leaves[0], *given, *affine_leaves, training=training, eps=1e-5 if training else 0.0)
    if wide_residual is not None:
        expected = expected + wide_residual
    norm = (mean, invstd, *((to(weight), to(bias)) if affine else (None, None)))
    y = fused.normalise_act(to(x), norm, to(residual), act)
    assert y.dtype == x.dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, expected.relu() if act == "relu" else expected, length)

    grad = images(x.shape, x.dtype)
    masked = torch.where(y.cpu() <= 0, 0.0, grad.double()) if act == "relu" else grad.double()
    wanted = [leaf for leaf in (leaves[0], *affine_leaves, wide_residual) if leaf is not None]
    gradients = torch.autograd.grad(expected, wanted, masked)
    grad_x, grad_weight, grad_bias, grad_residual = fused.normalise_act_grad(
        to(grad), to(x), y, norm, act, training, residual is not None
    )
    assert grad_x.dtype == x.dtype
    assert_close(grad_x, gradients[0], length)
    if affine:
        assert_close(grad_weight, gradients[1], length)
        assert_close(grad_bias, gradients[2], length)
    if residual is not None:
        assert_close(grad_residual, gradients[-1])
    else:
        assert grad_residual is None


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("act", ["relu", "none"])
@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalise_agrees_with_float64(dtype, with_residual, act, training) -> None:
    shape = SHAPES[0]
    residual = images(shape, dtype) if with_residual else None
    assert_normalises(images(shape, dtype), residual, act, training)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_ragged_shapes(shape) -> None:
    assert_normalises(images(shape, torch.float32), images(shape, torch.float32), "relu", shape[0] > 1)


def test_no_weight_and_bias_and_another_layout() -> None:
    x = torch.randn(8, 10, 6, 4)[::2, ::2, ::2]
    assert_normalises(x, torch.randn(1, 5, 3, 4).expand(4, 5, 3, 4), "relu", True, affine=False)


@pytest.mark.parametrize("config", normalise.normalise_configs.shipped, ids=lambda c: str(c.blocks))
def test_shipped_configurations(config) -> None:
    # eight ragged tiles of pixels so that two splits of several tiles meet, and two of channels
    x = images((1, config.blocks["BLOCK_C"] + 3, 8 * config.blocks["BLOCK_P"] + 3, 1), torch.float32)
    kernels = normalise.normalise_configs, normalise.gradient_sums_configs, normalise.input_grad_configs
    with every_kernel_at(config, *kernels), launch.wide_offsets():
        assert_normalises(x, None, "relu", True)
        assert_normalises(x, torch.randn_like(x), "relu", True)


def test_a_residual_with_statistics_of_its_own() -> None:
    x, residual = images(SHAPES[0], torch.float32), images(SHAPES[0], torch.float32)
    norms = [(*batch_norm.batch_norm_statistics(to(t)), *map(to, vectors(5, t.dtype))) for t in (x, residual)]
    expected = sum(
        F.batch_norm(t.double(), None, None, n[2].cpu().double(), n[3].cpu().double(), True)
        for t, n in zip((x, residual), norms)
    )
    assert_close(fused.normalise_act(to(x), norms[0], to(residual), "relu", norms[1]), expected.relu(), 126)


def test_bias_act() -> None:
    x, residual = images(SHAPES[0], torch.bfloat16), images(SHAPES[0], torch.bfloat16)
    bias = torch.randn(5)
    expected = (x.double() + bias.double()[:, None, None] + residual.double()).relu()
    assert_close(fused.bias_act(to(x), to(bias), to(residual)), expected)
    assert_close(fused.bias_act(to(x), None, None, "none"), x.double())


def test_known_sums_are_taken_as_they_are() -> None:
    x, grad = images(SHAPES[0], torch.float32), images(SHAPES[0], torch.float32)
    weight, bias = map(to, vectors(5, x.dtype))
    norm = (*batch_norm.batch_norm_statistics(to(x)), weight, bias)
    y = fused.normalise_act(to(x), norm)
    expected = fused.normalise_act_grad(to(grad), to(x), y, norm)
    masked = torch.where(y.cpu() > 0, grad, torch.zeros(())).contiguous(memory_format=torch.channels_last)
    with launch.count() as records:
        found = fused.normalise_act_grad(to(masked), to(x), y, norm, sums=expected[1:3])
    assert [r.kernel for r in records] == ["_normalise_act_input_grad_kernel"]
    assert_close(found[0], expected[0].double())


@pytest.mark.parametrize("config", [None, *normalise.gradient_sums_configs.declared], ids=str)
@pytest.mark.parametrize("affine", [True, False], ids=["weight and bias", "plain"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_last_pass_as_an_affine_map(dtype, affine, config) -> None:
    """In the kernel that adds up the splits, of which shipped tiles have several; with pixels that have no gradient."""
    pixels = 3 if config is None else 9 * config.blocks["BLOCK_P"]
    x, grad = (images((2, 5, pixels, 1), dtype) for _ in range(2))
    mean, invstd = batch_norm.batch_norm_statistics(to(x))
    norm = (mean, invstd, *(map(to, vectors(5, dtype)) if affine else (None, None)))
    residual = fused.normalise_act(to(x), norm)
    half = slice(0, 1)  # the other image's gradient is nothing
    grad[1] = 0
    with every_kernel_at(config, normalise.gradient_sums_configs) if config else contextlib.nullcontext():
        sums, h = normalise.normalise_act_gradient_sums(
            to(grad)[half], to(x)[half], residual[half], norm, has_residual=True, pixels=2 * pixels
        )
        expected = fused.normalise_act_grad(to(grad), to(x), residual, norm, has_residual=True)
    slope, slope_x, offset = (v[:, None, None].double() for v in sums.affine)
    assert_close(sums.grad_weight, expected[1].double(), 2 * pixels)
    assert_close(sums.grad_bias, expected[2].double(), 2 * pixels)
    assert_close(expected[0][half], slope * h.double() + slope_x * to(x)[half].double() + offset, 2 * pixels)
    assert sums.affine.shape == (3, 5) and sums.affine.dtype == dtype


def test_nan_passes_the_relu_both_ways_and_an_empty_batch_is_one() -> None:
    x = images((1, 1, 2, 2), torch.float32)
    x[0, 0, 0, 0] = float("nan")
    norm = (torch.zeros(1), torch.ones(1), None, None)
    norm = tuple(map(to, norm))
    y = fused.normalise_act(to(x), norm)
    assert y.cpu().isnan().sum() == 1
    grad_x = fused.normalise_act_grad(to(torch.ones_like(x)), to(x), y, norm, training=False)[0]
    assert grad_x.cpu()[0, 0, 0, 0] == 1
    empty = to(torch.empty(0, 1, 2, 2))
    assert fused.normalise_act(empty, norm).shape == empty.shape
    assert fused.normalise_act_grad(empty, empty, None, norm)[2].tolist() == [0.0]
    assert fused.normalise_pool(empty, norm)[0].shape == (0, 1, 1, 1)


#: Even and odd sizes, one pixel, one row.
MAPS = [(8, 8), (7, 9), (1, 1), (1, 6), (13, 6)]


def assert_pools(x: torch.Tensor) -> None:
    """Value, winner and gradients agree with torch's; x has many ties."""
    channels, length = x.shape[1], x.numel() // x.shape[1]
    weight, bias = vectors(channels, x.dtype)
    norm = (*batch_norm.batch_norm_statistics(to(x)), to(weight), to(bias))
    y, taps, won = fused.normalise_pool(to(x), norm)
    composed = fused.normalise_act(to(x), norm).cpu()
    value, index = F.max_pool2d(composed.double(), 3, 2, 1, return_indices=True)
    assert torch.equal(y.cpu().double(), value)
    assert taps.dtype == torch.uint8
    rows, columns = torch.arange(y.shape[2])[:, None] * 2 - 1, torch.arange(y.shape[3]) * 2 - 1
    taps = taps.cpu().long()
    assert torch.equal((rows + taps // 3) * x.shape[3] + columns + taps % 3, index)
    assert torch.equal(won.cpu().flatten(2), x.flatten(2).gather(2, index.flatten(2)))

    leaves = [wide_leaf(t) for t in (x, weight, bias)]
    map_between = F.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
    map_between = map_between * (composed > 0)
    grad = torch.randn(y.shape).to(x.dtype)
    winners = map_between.flatten(2).gather(2, index.flatten(2)).view(index.shape)
    gradients = torch.autograd.grad(winners, leaves, grad.double())
    found = fused.normalise_pool_grad(to(grad), to(taps.to(torch.uint8)), won, to(x), norm)
    assert found[0].dtype == x.dtype
    for mine, theirs in zip(found, gradients):
        assert_close(mine, theirs, length)


@pytest.mark.parametrize("size", MAPS, ids=str)
def test_pooling(size) -> None:
    assert_pools((images((3, 5, *size), torch.float32) * 4).round() / 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pooling_in_every_dtype(dtype) -> None:
    assert_pools((images((2, 3, 9, 6), dtype) * 4).round() / 4)


@pytest.mark.parametrize("config", stem.pool_configs.declared, ids=lambda c: str(c.blocks))
def test_shipped_pooling_configurations(config) -> None:
    kernels = stem.pool_configs, stem.pool_input_grad_configs
    with every_kernel_at(config, *kernels), launch.wide_offsets():
        # eight ragged tiles of cells, two of channels
        assert_pools(images((2, config.blocks["BLOCK_C"] + 3, 31, config.blocks["BLOCK_P"] - 1), torch.float32))


def test_pooling_by_constant_statistics() -> None:
    x, (weight, bias) = images((2, 3, 6, 5), torch.float64), vectors(3, torch.float64)
    mean, invstd = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    leaf = wide_leaf(x)
    y = F.max_pool2d(F.batch_norm(leaf, mean, invstd**-2, weight, bias, False, eps=0.0).relu(), 3, 2, 1)
    grad = torch.randn(y.shape, dtype=torch.float64)
    norm = tuple(map(to, (mean, invstd, weight, bias)))
    _, taps, won = fused.normalise_pool(to(x), norm)
    found = fused.normalise_pool_grad(to(grad), taps, won, to(x), norm, training=False)
    assert_close(found[0], torch.autograd.grad(y, leaf, grad)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", [None, *folding.fold_configs.shipped], ids=str)
def test_folding(dtype, config) -> None:
    weight = torch.randn(19, 33, 3, 3).to(dtype)  # two ragged tiles each way
    conv_bias, mean, scale, bias = (torch.randn(19) for _ in range(4))
    var = torch.rand(19)
    with folding.fold_configs.forced(config) if config else contextlib.nullcontext():
        found = fused.fold_batch_norm(*map(to, (weight, conv_bias, mean, var, scale, bias)), eps=1e-3)
    factor = scale.double() / (var.double() + 1e-3).sqrt()
    assert found[0].dtype == dtype
    assert_close(found[0], weight.double() * factor[:, None, None, None])
    assert_close(found[1], (conv_bias.double() - mean.double()) * factor + bias.double(), 4)


def test_errors() -> None:
    x, vector = to(torch.randn(2, 3, 4, 4)), to(torch.ones(3))
    norm = (vector, vector, None, None)
    with pytest.raises(ValueError, match=r"expected x of shape \(N, C, H, W\), got \(2, 3\)"):
        fused.normalise_act(x[:, :, 0, 0], norm)
    with pytest.raises(ValueError, match="expected act 'relu' or 'none', got 'gelu'"):
        fused.normalise_act(x, norm, act="gelu")
    with pytest.raises(RuntimeError, match=r"expected \(2, 3, 4, 4\) torch.float32 as x, got \(2, 3, 4, 2\)"):
        fused.normalise_act(x, norm, x[..., :2])
    with pytest.raises(ValueError, match="expected y, from which the mask is read"):
        fused.normalise_act_grad(x, x, None, norm, has_residual=True)
    with pytest.raises(RuntimeError, match=r"fold_batch_norm: expected running_mean of shape \(4,\), got \(3,\)"):
        fused.fold_batch_norm(to(torch.ones(4, 2, 1, 1)), None, vector, vector)
