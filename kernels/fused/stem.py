"""Batch normalisation by given statistics, ReLU and a 3×3 max-pooling of stride 2 in one pass, and the way back.

The map between is never written: forward keeps one byte for each pooled value, the tap (row · 3 + column) that won, ties
and NaN as torch has them. Back, a pooled value (i, j) stands for the *cell* of four pixels (2i + a, 2j + b). A pixel lies
in at most four windows, those of its own cell and of the cells to the right and below, so a program gathers the gradients
of whole cells from four pooled values each, without atomics. One pass makes the two sums of the batch normalisation's
gradient, another the gradient itself; neither writes the gradient of the map between.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.batch_norm import finish_gradient_sums, pixel_splits
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.batch_norm.plans import interpreter_tile
from tinyflow.kernels.batch_norm.tiles import (
    channel_values,
    input_gradient,
    norm_values,
    normalised,
    split_places,
    store_partial,
)
from tinyflow.kernels.elementwise import channels_last, contiguous
from tinyflow.kernels.fused.normalise import Norm, check_images, image, relu
from tinyflow.kernels.launch import Config, Configs, Cost, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _normalise_pool_kernel(
    y_ptr,  # y[n, i, j, c]
    taps_ptr,  # as y; None where there is no way back
    x_ptr,  # x[n, h, w, c]
    mean_ptr,  # None: only the bias is added
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    cells,
    channels,
    height,
    width,
    out_h,
    out_w,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    n = p // (out_h * out_w)
    i = p // out_w % out_h
    j = p % out_w
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    best = tl.full([BLOCK_P, BLOCK_C], float("-inf"), COMPUTE)
    best_tap = tl.zeros([BLOCK_P, BLOCK_C], tl.int32)
    for tap in tl.static_range(9):
        h = 2 * i - 1 + tap // 3
        w = 2 * j - 1 + tap % 3
        inside = (p < cells) & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        mask = inside[:, None] & (c < channels)[None, :]
        at = (((n * height + h) * width + w) * channels)[:, None] + c[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
        # rounded before it is compared, so that ties are those of the composition
        if mean_ptr is not None:
            z = normalised(x, mean, scale, bias)
        else:
            z = x + bias[None, :]
        z = relu(z).to(y_ptr.dtype.element_ty).to(COMPUTE)
        better = mask & ((z > best) | (z != z))
        best = tl.where(better, z, best)
        best_tap = tl.where(better, tap, best_tap)
    mask = (p < cells)[:, None] & (c < channels)[None, :]
    at = (p * channels)[:, None] + c[None, :]
    tl.store(y_ptr + at, best.to(y_ptr.dtype.element_ty), mask=mask)
    if taps_ptr is not None:
        tl.store(taps_ptr + at, best_tap.to(tl.uint8), mask=mask)


@triton.jit
def _pooled(g_ptr, taps_ptr, at, exists, c, channels, COMPUTE: tl.constexpr):
    """Gradients of pooled values and the taps that they go to; 0 where there are none."""
    mask = exists[:, None] & (c < channels)[None, :]
    g = tl.load(g_ptr + at, mask=mask, other=0).to(COMPUTE)
    return g, tl.load(taps_ptr + at, mask=mask, other=0).to(tl.int32)


@triton.jit
def _gathered(g_ptr, taps_ptr, p, last, i, j, c, channels, out_h, out_w, COMPUTE: tl.constexpr):
    """Gradients and taps of cells ``p``, which are (i, j) of an image, and of those to the right, below and across."""
    at = (p * channels)[:, None] + c[None, :]
    row, across = out_w * channels, j + 1 < out_w
    below = i + 1 < out_h
    g, tap = _pooled(g_ptr, taps_ptr, at, p < last, c, channels, COMPUTE)
    g1, tap1 = _pooled(g_ptr, taps_ptr, at + channels, (p < last) & across, c, channels, COMPUTE)
    g2, tap2 = _pooled(g_ptr, taps_ptr, at + row, (p < last) & below, c, channels, COMPUTE)
    g3, tap3 = _pooled(g_ptr, taps_ptr, at + row + channels, (p < last) & across & below, c, channels, COMPUTE)
    return g, tap, g1, tap1, g2, tap2, g3, tap3


@triton.jit
def _pixel_places(n, i, j, exists, c, channels, height, width, PIXEL: tl.constexpr):
    """Where one of the four pixels of cells lies, and which of them exist."""
    h = 2 * i + PIXEL // 2
    w = 2 * j + PIXEL % 2
    mask = (exists & (h < height) & (w < width))[:, None] & (c < channels)[None, :]
    return (((n * height + h) * width + w) * channels)[:, None] + c[None, :], mask


@triton.jit
def _of_pixel(g, tap, g_right, tap_right, g_below, tap_below, g_across, tap_across, A: tl.constexpr, B: tl.constexpr):
    """The gradient of pixels (2i + A, 2j + B) from the windows of their cell, and of those to the right and below."""
    total = tl.where(tap == 3 * (1 + A) + 1 + B, g, 0.0)
    if B == 1:
        total += tl.where(tap_right == 3 * (1 + A), g_right, 0.0)
    if A == 1:
        total += tl.where(tap_below == 1 + B, g_below, 0.0)
    if A + B == 2:
        total += tl.where(tap_across == 0, g_across, 0.0)
    return total


@triton.jit
def _normalise_pool_gradient_sums_kernel(
    g_ptr,
    taps_ptr,
    x_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    partial_ptr,  # [2, splits, channels]: Σ h, Σ h·(x − mean)
    cells,
    channels,
    height,
    width,
    out_h,
    out_w,
    split_cells,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first, last, c = split_places(cells, split_cells, INDEX, BLOCK_C)
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    lane_h = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    lane_hx = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for start in range(first, last, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P).to(INDEX)
        n = p // (out_h * out_w)
        i = p // out_w % out_h
        j = p % out_w
        g, tap, g1, tap1, g2, tap2, g3, tap3 = _gathered(
            g_ptr, taps_ptr, p, last, i, j, c, channels, out_h, out_w, COMPUTE
        )
        for pixel in tl.static_range(4):
            x_at, mask = _pixel_places(n, i, j, p < last, c, channels, height, width, pixel)
            x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
            z = normalised(x, mean, scale, bias).to(x_ptr.dtype.element_ty).to(COMPUTE)
            grad = _of_pixel(g, tap, g1, tap1, g2, tap2, g3, tap3, pixel // 2, pixel % 2)
            grad = tl.where(mask & ((z <= 0) == 0), grad, 0.0)  # a pixel past the edge is none of the batch's
            lane_h += grad
            lane_hx += grad * (x - mean[None, :])
    store_partial(partial_ptr, tl.sum(lane_h, axis=0), tl.sum(lane_hx, axis=0), c, channels, INDEX)


@triton.jit
def _normalise_pool_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    taps_ptr,
    x_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    cells,
    channels,
    height,
    width,
    out_h,
    out_w,
    TRAINING: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    invstd = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
    grad_weight = channel_values(grad_weight_ptr, c, channels, 0.0, COMPUTE)
    grad_bias = channel_values(grad_bias_ptr, c, channels, 0.0, COMPUTE)
    n = p // (out_h * out_w)
    i = p // out_w % out_h
    j = p % out_w
    g, tap, g1, tap1, g2, tap2, g3, tap3 = _gathered(
        g_ptr, taps_ptr, p, cells, i, j, c, channels, out_h, out_w, COMPUTE
    )
    for pixel in tl.static_range(4):
        x_at, mask = _pixel_places(n, i, j, p < cells, c, channels, height, width, pixel)
        x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
        z = normalised(x, mean, scale, bias).to(x_ptr.dtype.element_ty).to(COMPUTE)
        grad = _of_pixel(g, tap, g1, tap1, g2, tap2, g3, tap3, pixel // 2, pixel % 2)
        grad = tl.where(z <= 0, 0.0, grad)
        if TRAINING:
            pixels = (cells // (out_h * out_w)) * height * width
            grad_x = input_gradient(grad, x - mean[None, :], invstd, scale, grad_weight, grad_bias, pixels)
        else:
            grad_x = grad * scale[None, :]
        tl.store(grad_x_ptr + x_at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


_SMALL = Config({"BLOCK_P": 16, "BLOCK_C": 64})
_LARGE = Config({"BLOCK_P": 32, "BLOCK_C": 64}, num_warps=8)


def _choose(pixels: int, channels: int) -> Config:
    return _SMALL


_SHIPPED = (_SMALL, _LARGE)
pool_configs = Configs("_normalise_pool_kernel", _SHIPPED, _choose, interpreter_tile)
pool_gradient_sums_configs = Configs("_normalise_pool_gradient_sums_kernel", _SHIPPED, _choose, interpreter_tile)
pool_input_grad_configs = Configs("_normalise_pool_input_grad_kernel", _SHIPPED, _choose, interpreter_tile)


def normalise_pool(
    x: Buffer, norm: Norm | tuple[None, None, None, Buffer], with_taps: bool = True
) -> tuple[Buffer, Buffer | None]:
    """``y = max_pool2d(relu((x − mean) · invstd · weight + bias), 3, stride=2, padding=1)``.

    Args:
        x: (N, C, H, W), floating point; computed in float32 (float64 for float64), rounded before values are compared.
        norm: mean, invstd, weight, bias (None for 1 and 0), each (C,); a bias alone is added.
        with_taps: whether to return the taps.

    Returns y (N, C, ⌈H/2⌉, ⌈W/2⌉) and the winning taps in uint8, as :func:`pooling.max_pool2d` gives them, channels-last.

    Raises:
        ValueError, RuntimeError, TypeError: if shapes, dtypes or devices do not fit.

    FLOPs: 45 a pooled value. Bytes: ``x`` read, y and the taps written once.
    """
    op = "normalise_pool"
    mean, invstd, weight, bias = norm
    _, channels = check_images(op, x, mean=mean, invstd=invstd, weight=weight, bias=bias)
    n, _, height, width = x.shape
    shape = (n, channels, cdiv(height, 2), cdiv(width, 2))
    y = image(shape, x)
    taps = memory.empty(shape, memory.uint8, x.device, y.stride()) if with_taps else None
    if y.numel() == 0:
        return y, taps
    x = channels_last(x)
    cells = y.numel() // channels
    config = pool_configs(pixels=cells, channels=channels)
    launch(
        _normalise_pool_kernel,
        (cdiv(cells, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        y,
        taps,
        x,
        *(dense(v) for v in norm),
        cells,
        channels,
        height,
        width,
        *shape[2:],
        config=config,
        cost=Cost(45 * y.numel(), nbytes(x, y, taps, *norm)),
        device=x.device,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return y, taps


def normalise_pool_grad(
    grad: Buffer, taps: Buffer, x: Buffer, norm: Norm, training: bool = True, need_x: bool = True
) -> tuple[Buffer | None, Buffer, Buffer]:
    """The gradients of :func:`normalise_pool`: grad_x (or None) as ``x``, grad_weight and grad_bias.

    Args:
        grad: the gradient of y.
        taps: from :func:`normalise_pool`.
        x, norm: as given there.
        training: whether mean and invstd are those of ``x``; if not, they are constants.
        need_x: whether to return grad_x.

    FLOPs: 11 an element of ``x``, 16 for grad_x too. Bytes: ``grad``, ``taps`` and ``x`` once for the sums and once for
    grad_x; grad_x once.
    """
    op = "normalise_pool_grad"
    mean, invstd, weight, bias = norm
    _, channels = check_images(op, x, mean=mean, invstd=invstd, weight=weight, bias=bias)
    grad, taps, x = channels_last(grad), channels_last(taps), channels_last(x)
    given = tuple(dense(v) for v in norm)
    n, _, height, width = x.shape
    cells = n * cdiv(height, 2) * cdiv(width, 2)
    sizes = (cells, channels, height, width, cdiv(height, 2), cdiv(width, 2))
    statistic = dtypes.accumulate_dtype(x.dtype)
    grad_weight, grad_bias = (memory.empty((channels,), statistic, x.device) for _ in range(2))
    grad_x = image(x.shape, x) if need_x else None
    if channels == 0:
        return grad_x, grad_weight, grad_bias
    config = pool_gradient_sums_configs(pixels=cells, channels=channels)
    splits, split_cells = pixel_splits(config, cells, channels)
    partial = memory.empty((2, splits, channels), statistic, x.device)
    compute, index = dtypes.compute_dtype(x.dtype), offset_dtype(x)
    launch(
        _normalise_pool_gradient_sums_kernel,
        (splits, cdiv(channels, config.blocks["BLOCK_C"])),
        grad,
        taps,
        x,
        *given,
        partial,
        *sizes,
        split_cells,
        config=config,
        cost=Cost(11 * x.numel(), nbytes(grad, taps, x, *given, partial)),
        device=x.device,
        COMPUTE=compute,
        INDEX=index,
    )
    finish_gradient_sums(partial, contiguous(invstd), grad_weight, grad_bias)
    if grad_x is None or grad_x.numel() == 0:
        return grad_x, grad_weight, grad_bias
    config = pool_input_grad_configs(pixels=cells, channels=channels)
    launch(
        _normalise_pool_input_grad_kernel,
        (cdiv(cells, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        grad_x,
        grad,
        taps,
        x,
        *given,
        grad_weight,
        grad_bias,
        *sizes,
        config=config,
        cost=Cost(16 * x.numel(), nbytes(grad_x, grad, taps, x, *given, grad_weight, grad_bias)),
        device=x.device,
        TRAINING=training,
        COMPUTE=compute,
        INDEX=index,
    )
    return grad_x, grad_weight, grad_bias
