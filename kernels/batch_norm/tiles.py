"""What a kernel does for the channels of a tile [pixels, channels]: their values, the arithmetic with them, the sums."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.addressing import offsets


@triton.jit
def channel_values(ptr, c, channels, default, COMPUTE: tl.constexpr):
    if ptr is None:
        values = tl.full(c.shape, default, COMPUTE)
    else:
        values = tl.load(ptr + c, mask=c < channels, other=0).to(COMPUTE)
    return values


@triton.jit
def affine_values(invstd, weight_ptr, bias_ptr, c, channels, COMPUTE: tl.constexpr):
    """invstd · weight and bias of channels; 1 and 0 where there is no weight or bias."""
    scale = invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
    return scale, channel_values(bias_ptr, c, channels, 0.0, COMPUTE)


@triton.jit
def norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE: tl.constexpr):
    """Mean, invstd · weight and bias of channels; 0, 1 and 0 where there are none."""
    invstd = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
    scale, bias = affine_values(invstd, weight_ptr, bias_ptr, c, channels, COMPUTE)
    return channel_values(mean_ptr, c, channels, 0.0, COMPUTE), scale, bias


@triton.jit
def normalised(x, mean, scale, bias):
    return (x - mean[None, :]) * scale[None, :] + bias[None, :]


@triton.jit
def input_gradient(g, centred, invstd, scale, grad_weight, grad_bias, pixels):
    """grad_x in training, where every statistic follows x; ``centred`` is x − mean and ``scale`` invstd · weight."""
    total = tl.cast(pixels, g.dtype)
    slope = grad_weight * invstd / total
    return (g - (grad_bias / total)[None, :] - centred * slope[None, :]) * scale[None, :]


@triton.jit
def tile_places(p, last, c, channels, sizes, strides, stride_c, DIMS: tl.constexpr):
    """Where pixels ``p`` and channels ``c`` of a buffer lie, and which of them exist."""
    mask = (p < last)[:, None] & (c < channels)[None, :]
    return offsets(p, sizes, strides, DIMS)[:, None] + (c * stride_c)[None, :], mask


@triton.jit
def split_places(pixels, split_pixels, INDEX: tl.constexpr, BLOCK_C: tl.constexpr):
    """The first pixel of a program's split, the one after its last, and the program's channels."""
    first = tl.program_id(0).to(INDEX) * split_pixels
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    return first, tl.minimum(first + split_pixels, pixels), c


@triton.jit
def store_partial(partial_ptr, first, second, c, channels, INDEX: tl.constexpr):
    """Two results of a program's split, into [2, splits, channels]."""
    at = tl.program_id(0).to(INDEX) * channels + c
    tl.store(partial_ptr + at, first, mask=c < channels)
    tl.store(partial_ptr + tl.num_programs(0).to(INDEX) * channels + at, second, mask=c < channels)
