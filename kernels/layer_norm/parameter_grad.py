"""The gradients of weight and bias: sums over the dimensions along which they were broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets, walk
from tinyflow.kernels.batch_norm.plans import SMALL_TILES, TILES, choose_tile, interpreter_tile, pixel_splits
from tinyflow.kernels.elementwise import fill
from tinyflow.kernels.launch import (
    Config,
    Configs,
    Cost,
    cdiv,
    check_same_device,
    launch,
    nbytes,
    offset_dtype,
)
from tinyflow.kernels.matmul import sum_partials
from tinyflow.kernels.memory import Buffer


@triton.jit
def _statistic_tile(ptr, p_at, c_at, p_exists, mask, ACROSS: tl.constexpr):
    if ACROSS:
        values = tl.load(ptr + p_at[:, None] + c_at[None, :], mask=mask, other=0)
    else:
        values = tl.load(ptr + p_at, mask=p_exists, other=0)[:, None]
    return values


@triton.jit
def _layer_norm_parameter_grad_kernel(
    partial_ptr,  # [splits, 2, channels]: Σ g x̂, Σ g
    g_ptr,
    x_ptr,
    mean_ptr,
    invstd_ptr,
    pixels,
    channels,
    split_pixels,
    pixel_sizes,
    x_pixel_strides,
    g_pixel_strides,
    statistic_pixel_strides,
    channel_sizes,
    x_channel_strides,
    g_channel_strides,
    statistic_channel_strides,
    ACROSS: tl.constexpr,  # whether statistics change from channel to channel
    PIXEL_DIMS: tl.constexpr,
    CHANNEL_DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    split = tl.program_id(1).to(INDEX)
    c = tl.program_id(0).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    first = split * split_pixels
    last = tl.minimum(first + split_pixels, pixels)
    x_column = offsets(c, channel_sizes, x_channel_strides, CHANNEL_DIMS)[None, :]
    g_column = offsets(c, channel_sizes, g_channel_strides, CHANNEL_DIMS)[None, :]
    s_column = offsets(c, channel_sizes, statistic_channel_strides, CHANNEL_DIMS)
    lane_gx = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    lane_g = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for start in range(first, last, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P).to(INDEX)
        mask = (p < last)[:, None] & (c < channels)[None, :]
        s_at = offsets(p, pixel_sizes, statistic_pixel_strides, PIXEL_DIMS)
        g_at = offsets(p, pixel_sizes, g_pixel_strides, PIXEL_DIMS)[:, None] + g_column
        x_at = offsets(p, pixel_sizes, x_pixel_strides, PIXEL_DIMS)[:, None] + x_column
        g = tl.load(g_ptr + g_at, mask=mask, other=0).to(COMPUTE)
        x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
        if mean_ptr is not None:
            x -= _statistic_tile(mean_ptr, s_at, s_column, p < last, mask, ACROSS)
        lane_gx += g * x * _statistic_tile(invstd_ptr, s_at, s_column, p < last, mask, ACROSS)
        lane_g += g
    out = split * 2 * channels + c
    element: tl.constexpr = partial_ptr.dtype.element_ty
    tl.store(partial_ptr + out, tl.sum(lane_gx, axis=0).to(element), mask=c < channels)
    tl.store(partial_ptr + channels + out, tl.sum(lane_g, axis=0).to(element), mask=c < channels)


def _choose(pixels: int, channels: int, across: bool) -> Config:
    tile = choose_tile(pixels, channels)
    return SMALL_TILES[TILES.index(tile)] if across else tile


layer_norm_parameter_grad_configs = Configs(
    "_layer_norm_parameter_grad_kernel",
    (*TILES, *SMALL_TILES),
    _choose,
    lambda pixels, channels, across: interpreter_tile(pixels, channels),
    float64=(*SMALL_TILES, *SMALL_TILES),
)


def _pick(sequence: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    return tuple([sequence[d] for d in dims])


def layer_norm_parameter_grad(
    grad: Buffer, x: Buffer, mean: Buffer | None, invstd: Buffer, shape: Sequence[int], dtype: memory.dtype
) -> tuple[Buffer, Buffer]:
    """The gradients of weight and bias, of ``shape`` and ``dtype``, in :func:`layer_norm`: ``Σ g x̂`` and ``Σ g``.

    Other arguments as in :func:`layer_norm_input_grad`. Splits of the sum are added in a fixed order.
    FLOPs: 5 an element. Least bytes: ``grad`` and ``x`` once.
    """
    dtypes.check_floating("layer_norm_parameter_grad", grad=grad, x=x)
    device = check_same_device("layer_norm_parameter_grad", grad=grad, x=x, mean=mean, invstd=invstd)
    lead, shape = invstd.dim(), tuple(shape)
    channels = strides.numel(shape)
    both = memory.empty((2, channels), dtype, device)
    grads = memory.as_strided(both, shape, strides.contiguous_strides(shape))
    grads_bias = memory.as_strided(both, shape, strides.contiguous_strides(shape), channels)
    if x.numel() == 0:
        fill(both, 0)
        return grads, grads_bias
    statistic = (*strides.contiguous_strides(tuple(invstd.shape)), *(0,) * (x.dim() - lead))
    views = (x.stride(), grad.stride(), statistic)
    channel_dims = [d for d, n in enumerate(shape) if n == x.shape[d]]
    pixel_dims = [d for d in range(x.dim()) if d not in channel_dims]
    order = strides.contiguous_strides(shape)  # first, so that channels are numbered as the result lies
    channel_sizes, (_, *channel_walks) = walk(
        _pick(x.shape, channel_dims), *(_pick(v, channel_dims) for v in (order, *views))
    )
    pixel_sizes, pixel_walks = walk(_pick(x.shape, pixel_dims), *(_pick(v, pixel_dims) for v in views))
    pixels = x.numel() // channels
    across = any(channel_walks[-1])
    config = layer_norm_parameter_grad_configs(x.dtype, pixels=pixels, channels=channels, across=across)
    splits, split_pixels = pixel_splits(config, pixels, channels)
    partial = both
    if splits > 1:
        partial = memory.empty((splits, 2, channels), dtypes.accumulate_dtype(x.dtype), device)
    launch(
        _layer_norm_parameter_grad_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]), splits),  # the second axis of a grid has 65,535 places
        partial,
        grad,
        x,
        mean,
        invstd,
        pixels,
        channels,
        split_pixels,
        pixel_sizes,
        *pixel_walks,
        channel_sizes,
        *channel_walks,
        config=config,
        cost=Cost(5 * x.numel(), nbytes(partial, grad, x, mean, invstd)),
        device=device,
        ACROSS=across,
        PIXEL_DIMS=len(pixel_sizes),
        CHANNEL_DIMS=len(channel_sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(grad, x),
    )
    if splits > 1:
        sum_partials(partial, both)
    return grads, grads_bias
