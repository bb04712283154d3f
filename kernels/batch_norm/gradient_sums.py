"""The two sums of the gradient, which are those of bias and weight: one pass, in splits where pixels are many.

What adds up the splits has all that the gradient of x takes but its elements, and can leave it as an affine map.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.batch_norm.operands import dense, walk_pixels
from tinyflow.kernels.batch_norm.plans import (
    TILES,
    choose_tile,
    finish_config,
    interpreter_tile,
    is_one_program,
    pixel_splits,
)
from tinyflow.kernels.batch_norm.tiles import (
    channel_values,
    input_gradient,
    split_places,
    store_partial,
    tile_places,
)
from tinyflow.kernels.launch import Configs, Cost, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _batch_norm_gradient_sums_kernel(
    g_ptr,
    x_ptr,
    mean_ptr,
    partial_ptr,  # [2, splits, channels]: Σ g, Σ g·(x − mean); None for a single split, which finishes
    invstd_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    grad_x_ptr,  # the gradient of x in training, where one tile holds all pixels and it is wanted at once; or None
    weight_ptr,
    pixels,
    channels,
    split_pixels,
    sizes,
    g_strides,
    x_strides,
    grad_x_strides,
    g_stride_c,
    x_stride_c,
    grad_x_stride_c,
    ONE_TILE: tl.constexpr,  # whether a split is one tile
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first, last, c = split_places(pixels, split_pixels, INDEX, BLOCK_C)
    mean = channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
    lane = tl.arange(0, BLOCK_P).to(INDEX)
    if ONE_TILE:
        g_at, mask = tile_places(first + lane, last, c, channels, sizes, g_strides, g_stride_c, DIMS)
        x_at, mask = tile_places(first + lane, last, c, channels, sizes, x_strides, x_stride_c, DIMS)
        lane_g = tl.load(g_ptr + g_at, mask=mask, other=0).to(COMPUTE)
        x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
        centred = x - mean[None, :]
        lane_gx = lane_g * centred
    else:
        lane_g = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
        lane_gx = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
        for start in range(first, last, BLOCK_P):
            g_at, mask = tile_places(start + lane, last, c, channels, sizes, g_strides, g_stride_c, DIMS)
            x_at, mask = tile_places(start + lane, last, c, channels, sizes, x_strides, x_stride_c, DIMS)
            g = tl.load(g_ptr + g_at, mask=mask, other=0).to(COMPUTE)
            x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
            lane_g += g
            lane_gx += g * (x - mean[None, :])
    sum_g = tl.sum(lane_g, axis=0)
    sum_gx = tl.sum(lane_gx, axis=0)
    if partial_ptr is None:
        invstd = tl.load(invstd_ptr + c, mask=c < channels, other=0)
        grad_weight = sum_gx * invstd
        tl.store(grad_weight_ptr + c, grad_weight, mask=c < channels)
        tl.store(grad_bias_ptr + c, sum_g, mask=c < channels)
        if grad_x_ptr is not None:
            scale = invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
            grad_x = input_gradient(lane_g, centred, invstd, scale, grad_weight, sum_g, pixels)
            at, mask = tile_places(first + lane, last, c, channels, sizes, grad_x_strides, grad_x_stride_c, DIMS)
            tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    else:
        store_partial(partial_ptr, sum_g, sum_gx, c, channels, INDEX)


@triton.jit
def _batch_norm_finish_gradient_sums_kernel(
    partial_ptr,
    invstd_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    affine_ptr,  # [3, channels]: a, b, c with grad_x = a·g + b·x + c; or None, and then so are the next two
    mean_ptr,
    weight_ptr,
    pixels,
    channels,
    splits,
    partial_stride_sum,
    partial_stride_split,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    s = tl.arange(0, BLOCK_S).to(INDEX)
    mask = (s < splits)[:, None] & (c < channels)[None, :]
    at = (s * partial_stride_split)[:, None] + c[None, :]
    sum_g = tl.sum(tl.load(partial_ptr + at, mask=mask, other=0), axis=0)
    sum_gx = tl.sum(tl.load(partial_ptr + partial_stride_sum + at, mask=mask, other=0), axis=0)
    invstd = tl.load(invstd_ptr + c, mask=c < channels, other=0)
    grad_weight = sum_gx * invstd
    tl.store(grad_weight_ptr + c, grad_weight, mask=c < channels)
    tl.store(grad_bias_ptr + c, sum_g, mask=c < channels)
    if affine_ptr is not None:
        total = tl.cast(pixels, COMPUTE)
        by_g = invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
        by_x = -by_g * invstd * grad_weight / total
        constant = -by_g * sum_g / total - by_x * channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
        tl.store(affine_ptr + c, by_g, mask=c < channels)
        tl.store(affine_ptr + channels + c, by_x, mask=c < channels)
        tl.store(affine_ptr + 2 * channels + c, constant, mask=c < channels)


gradient_sums_configs = Configs("_batch_norm_gradient_sums_kernel", TILES, choose_tile, interpreter_tile)


def gradient_sums(
    grad: Buffer,
    x: Buffer,
    mean: Buffer,
    invstd: Buffer,
    grad_weight: Buffer,
    grad_bias: Buffer,
    grad_x: Buffer | None,
    weight: Buffer | None,
) -> bool:
    """Fills ``grad_weight`` and ``grad_bias``; a batch of no pixels gives zeros.

    Returns whether ``grad_x``, the gradient in training, was filled too: where one tile holds all pixels.
    """
    channels = x.shape[1]
    if channels == 0:
        return False
    pixels = x.numel() // channels
    config = gradient_sums_configs(x.dtype, pixels=pixels, channels=channels)
    splits, split_pixels = pixel_splits(config, pixels, channels)
    one_tile = split_pixels <= config.blocks["BLOCK_P"]
    at_once = grad_x is not None and is_one_program(splits, one_tile)
    target = grad_x if grad_x is not None and at_once else x
    sizes, (g_strides, x_strides, target_strides) = walk_pixels(grad, x, target)
    partial = memory.empty((2, splits, channels), grad_bias.dtype, x.device) if splits != 1 else None
    results: list[Buffer | None] = [invstd, grad_weight, grad_bias] if partial is None else [partial]
    results += [grad_x, weight] if at_once else []
    launch(
        _batch_norm_gradient_sums_kernel,
        (splits, cdiv(channels, config.blocks["BLOCK_C"])),
        grad,
        x,
        mean,
        partial,
        invstd,
        grad_weight,
        grad_bias,
        *((target, dense(weight)) if at_once else (None, None)),
        pixels,
        channels,
        split_pixels,
        sizes,
        g_strides,
        x_strides,
        target_strides,
        grad.stride(1),
        x.stride(1),
        target.stride(1),
        config=config,
        cost=Cost((9 if at_once else 4) * x.numel(), nbytes(grad, x, mean, *results)),
        device=x.device,
        ONE_TILE=one_tile,
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(grad, x, target),
    )
    if partial is not None:
        finish_gradient_sums(partial, invstd, grad_weight, grad_bias)
    return at_once


class Affine(NamedTuple):
    """A place for the gradient of x in training as an affine map of each channel, and what it takes beside the sums.

    ``out`` is (3, C): a, b, c with ``grad_x = a·g + b·x + c``, where x has ``pixels``, those included whose g is 0.
    """

    out: Buffer
    mean: Buffer
    weight: Buffer | None
    pixels: int


def finish_gradient_sums(
    partial: Buffer, invstd: Buffer, grad_weight: Buffer, grad_bias: Buffer, affine: Affine | None = None
) -> None:
    """Adds up partial sums (2, splits, C) of g and of g·(x − mean): ``grad_bias``, and times invstd ``grad_weight``.

    The channels of ``partial`` lie next to each other. FLOPs: 2 a split and channel, 9 a channel for ``affine``. Bytes: all
    once.
    """
    _, splits, channels = partial.shape
    out, mean, weight, pixels = (None, None, None, 0) if affine is None else affine
    weight = dense(weight)
    config = finish_config(splits, channels)
    launch(
        _batch_norm_finish_gradient_sums_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]),),
        partial,
        invstd,
        grad_weight,
        grad_bias,
        out,
        mean,
        weight,
        pixels,
        channels,
        splits,
        *partial.stride()[:2],
        config=config,
        cost=Cost(
            (2 * splits + (9 if affine else 0)) * channels,
            nbytes(partial, invstd, grad_weight, grad_bias, out, mean, weight),
        ),
        device=partial.device,
        COMPUTE=dtypes.triton_dtype(partial.dtype),
        INDEX=offset_dtype(partial),
    )
