"""The mean of each map and a linear layer on the means, in one kernel for a few images.

    out[n, k] = Σ_c weight[k, c] · (Σ_p x[n, c, p] / P) + bias[k]        over the P pixels of a map

A program makes the means of a whole image for a tile of classes, so the maps are read once for each tile. For a few images
that comes out of the second-level cache, and costs less than the launch that it saves; for many, two kernels read less.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.elementwise import channels_last, contiguous
from tinyflow.kernels.fused.normalise import fits_mean
from tinyflow.kernels.launch import (
    MAX_BLOCK,
    Config,
    Configs,
    Cost,
    block,
    cdiv,
    check_same_device,
    launch,
    nbytes,
    offset_dtype,
)
from tinyflow.kernels.memory import Buffer

#: Of ResNet18's last maps (50 kB an image, re-read by 63 tiles of classes) so many take about as long to read as a launch.
_FEW_IMAGES = 4


@triton.jit
def _mean_linear_kernel(
    out_ptr,  # out[n, k]
    x_ptr,  # x[n, pixel, c]
    weight_ptr,  # weight[k, c]
    bias_ptr,
    pixels,
    channels,
    classes,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    n = tl.program_id(0).to(INDEX)
    k = tl.program_id(1).to(INDEX) * BLOCK_K + tl.arange(0, BLOCK_K).to(INDEX)
    lanes = tl.zeros([BLOCK_K, BLOCK_C], COMPUTE)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C).to(INDEX)
        weight_ptrs = weight_ptr + (k * channels)[:, None] + c[None, :]
        weight = tl.load(weight_ptrs, mask=(k < classes)[:, None] & (c < channels)[None, :], other=0).to(COMPUTE)
        total = tl.zeros([BLOCK_C], COMPUTE)
        for start in range(0, pixels, BLOCK_P):
            p = start + tl.arange(0, BLOCK_P).to(INDEX)
            mask = (p < pixels)[:, None] & (c < channels)[None, :]
            at = ((n * pixels + p) * channels)[:, None] + c[None, :]
            total += tl.sum(tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE), axis=0)
        mean = (total / tl.cast(pixels, COMPUTE)).to(x_ptr.dtype.element_ty).to(COMPUTE)
        lanes += weight * mean[None, :]
    out = tl.sum(lanes, axis=1)
    if bias_ptr is not None:
        out += tl.load(bias_ptr + k, mask=k < classes, other=0).to(COMPUTE)
    tl.store(out_ptr + n * classes + k, out.to(out_ptr.dtype.element_ty), mask=k < classes)


_TILE = Config({"BLOCK_P": 64, "BLOCK_C": 64, "BLOCK_K": 16}, num_warps=8)
_TILE_OF_WIDE_TYPE = Config({"BLOCK_P": 64, "BLOCK_C": 32, "BLOCK_K": 16}, num_warps=8)


def _choose(pixels: int, channels: int, classes: int, itemsize: int) -> Config:
    return _TILE_OF_WIDE_TYPE if itemsize == 8 else _TILE


def _interpreter(pixels: int, channels: int, classes: int, itemsize: int) -> Config:
    block_c = block(channels)
    most = MAX_BLOCK // block_c
    return Config({"BLOCK_P": block(pixels, most), "BLOCK_C": block_c, "BLOCK_K": block(classes, most)})


mean_linear_configs = Configs("_mean_linear_kernel", (_TILE, _TILE_OF_WIDE_TYPE), _choose, _interpreter)


def fits_mean_linear(images: int, pixels: int) -> bool:
    """True where :func:`mean_linear` takes less time than a mean and a product."""
    return images <= _FEW_IMAGES and fits_mean(pixels)


def mean_linear(x: Buffer, weight: Buffer, bias: Buffer | None = None) -> Buffer:
    """``mean(x, (2, 3)) @ weight.T + bias``, the mean rounded to the dtype of ``x``.

    Args:
        x: (N, C, H, W), floating point; summed in float32 (float64 for float64).
        weight: (K, C), of the dtype of ``x``.
        bias: (K,), likewise, or None.

    Anything but channels-last x and contiguous weights is copied first. Returns (N, K) in the dtype of ``x``.

    Raises:
        ValueError: if x is not of 4 dimensions, or has no pixels.
        RuntimeError: if shapes, dtypes or devices do not fit.

    FLOPs: 1 an element of x, 2·N·K·C for the product. Bytes: each operand and the result once.
    """
    op = "mean_linear"
    if x.dim() != 4 or 0 in x.shape[2:]:
        raise ValueError(f"{op}: expected x of shape (N, C, H, W) with pixels, got {tuple(x.shape)}")
    dtypes.check_floating(op, x=x, weight=weight, bias=bias)
    if weight.dim() != 2 or weight.shape[1] != x.shape[1]:
        raise RuntimeError(f"{op}: expected weight (K, {x.shape[1]}) for x {tuple(x.shape)}, got {tuple(weight.shape)}")
    images, channels, pixels, classes = x.shape[0], x.shape[1], x.shape[2] * x.shape[3], weight.shape[0]
    if bias is not None and tuple(bias.shape) != (classes,):
        raise RuntimeError(f"{op}: expected bias ({classes},), got {tuple(bias.shape)}")
    device = check_same_device(op, x=x, weight=weight, bias=bias)
    out = memory.empty((images, classes), x.dtype, device)
    x, weight = channels_last(x), contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    config = mean_linear_configs(x.dtype, pixels=pixels, channels=channels, classes=classes, itemsize=x.dtype.itemsize)
    launch(
        _mean_linear_kernel,
        (images, cdiv(classes, config.blocks["BLOCK_K"])),
        out,
        x,
        weight,
        bias,
        pixels,
        channels,
        classes,
        config=config,
        cost=Cost(x.numel() + 2 * images * classes * channels, nbytes(out, x, weight, bias)),
        device=device,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, weight),
    )
    return out
