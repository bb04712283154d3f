"""Batch normalisation by given statistics, ReLU and a 3×3 max-pooling of stride 2 in one pass, and the way back.

The map between is never written: forward keeps for each pooled value the tap (row · 3 + column) that won, in one byte, ties
and NaN as torch has them, and the winner itself, an element of ``x``. With the winners the two sums of the batch
normalisation's gradient need nothing but pooled maps: each pooled gradient goes to one winner, whose ReLU is the pooled
value's.

Back, a pooled value (i, j) stands for the *cell* of four pixels (2i + a, 2j + b). A pixel lies in at most four windows,
those of its own cell and of the cells to the right and below, so a program gathers the gradients of whole cells from four
pooled values each, without atomics; the gradient of the map between is not written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.batch_norm.plans import interpreter_tile
from tinyflow.kernels.batch_norm.tiles import channel_values, input_gradient, norm_values, normalised
from tinyflow.kernels.elementwise import channels_last
from tinyflow.kernels.fused.normalise import Norm, Sums, check_images, image, normalise_act_gradient_sums
from tinyflow.kernels.launch import Config, Configs, Cost, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _inside(row, first, size):
    """A row of the window that starts at ``first``, or the one beside it that stands for it past the edge."""
    return tl.minimum(tl.maximum(row, -first), size - 1 - first)


@triton.jit
def _normalise_pool_kernel(
    y_ptr,  # y[n, i, j, c]
    taps_ptr,  # as y, and winners too; None where there is no way back
    winners_ptr,
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
    h = 2 * (p // out_w % out_h) - 1
    w = 2 * (p % out_w) - 1
    mask = (p < cells)[:, None] & (c < channels)[None, :]
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    best = tl.full([BLOCK_P, BLOCK_C], float("-inf"), COMPUTE)
    best_tap = tl.zeros([BLOCK_P, BLOCK_C], tl.int32)
    best_x = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for tap in tl.static_range(9):
        # past the edge the pixel beside it is seen twice, so that nothing but whole cells is masked
        row = n * height + h + _inside(tap // 3, h, height)
        at = ((row * width + w + _inside(tap % 3, w, width)) * channels)[:, None] + c[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
        # rounded before it is compared, so that ties are those of the composition
        if mean_ptr is not None:
            z = normalised(x, mean, scale, bias)
        else:
            z = x + bias[None, :]
        z = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL).to(y_ptr.dtype.element_ty).to(COMPUTE)
        if taps_ptr is not None:
            better = (z > best) | (z != z)
            best_tap = tl.where(better, tap, best_tap)
            best_x = tl.where(better, x, best_x)
        best = tl.maximum(best, z, propagate_nan=tl.PropagateNan.ALL)
    at = (p * channels)[:, None] + c[None, :]
    tl.store(y_ptr + at, best.to(y_ptr.dtype.element_ty), mask=mask)
    if taps_ptr is not None:
        row = _inside(best_tap // 3, h[:, None], height)
        column = _inside(best_tap % 3, w[:, None], width)
        tl.store(taps_ptr + at, (row * 3 + column).to(tl.uint8), mask=mask)
        tl.store(winners_ptr + at, best_x.to(winners_ptr.dtype.element_ty), mask=mask)


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
_OF_FLOAT64 = Config({"BLOCK_P": 8, "BLOCK_C": 32}), Config({"BLOCK_P": 16, "BLOCK_C": 32}, num_warps=8)
pool_configs = Configs("_normalise_pool_kernel", _SHIPPED, _choose, interpreter_tile, float64=_OF_FLOAT64)
pool_input_grad_configs = Configs(
    "_normalise_pool_input_grad_kernel", _SHIPPED, _choose, interpreter_tile, float64=_OF_FLOAT64
)


def normalise_pool(
    x: Buffer, norm: Norm | tuple[None, None, None, Buffer], with_taps: bool = True
) -> tuple[Buffer, Buffer | None, Buffer | None]:
    """``y = max_pool2d(relu((x − mean) · invstd · weight + bias), 3, stride=2, padding=1)``.

    Args:
        x: (N, C, H, W), floating point; computed in float32 (float64 for float64), rounded before values are compared.
        norm: mean, invstd, weight, bias (None for 1 and 0), each (C,); a bias alone is added.
        with_taps: whether to return taps and winners.

    Returns y (N, C, ⌈H/2⌉, ⌈W/2⌉), the winning taps in uint8, as :func:`pooling.max_pool2d` gives them, and the elements of
    x that they point at, all channels-last.

    Raises:
        ValueError, RuntimeError, TypeError: if shapes, dtypes or devices do not fit.

    FLOPs: 45 a pooled value. Bytes: ``x`` read, y, taps and winners written once.
    """
    op = "normalise_pool"
    mean, invstd, weight, bias = norm
    _, channels = check_images(op, x, mean=mean, invstd=invstd, weight=weight, bias=bias)
    n, _, height, width = x.shape
    shape = (n, channels, cdiv(height, 2), cdiv(width, 2))
    y = image(shape, x)
    taps = memory.empty(shape, memory.uint8, x.device, y.stride()) if with_taps else None
    winners = image(shape, x) if with_taps else None
    if y.numel() == 0:
        return y, taps, winners
    x = channels_last(x)
    cells = y.numel() // channels
    config = pool_configs(x.dtype, pixels=cells, channels=channels)
    launch(
        _normalise_pool_kernel,
        (cdiv(cells, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        y,
        taps,
        winners,
        x,
        *(dense(v) for v in norm),
        cells,
        channels,
        height,
        width,
        *shape[2:],
        config=config,
        cost=Cost(45 * y.numel(), nbytes(x, y, taps, winners, *norm)),
        device=x.device,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return y, taps, winners


def normalise_pool_grad(
    grad: Buffer,
    taps: Buffer,
    winners: Buffer,
    x: Buffer,
    norm: Norm,
    training: bool = True,
    need_x: bool = True,
    sums: Sums | tuple[Buffer, Buffer] | None = None,
) -> tuple[Buffer | None, Buffer, Buffer]:
    """The gradients of :func:`normalise_pool`: grad_x (or None) as ``x``, grad_weight and grad_bias.

    Args:
        grad: the gradient of y.
        taps, winners: from :func:`normalise_pool`.
        x, norm: as given there.
        training: whether mean and invstd are those of ``x``; if not, they are constants.
        need_x: whether to return grad_x.
        sums: grad_weight and grad_bias, where they are known already.

    FLOPs: 7 a pooled value for the sums, 16 an element of ``x`` for grad_x. Bytes: ``grad`` and ``winners`` for the sums;
    ``grad``, ``taps`` and ``x`` read and grad_x written once.
    """
    op = "normalise_pool_grad"
    mean, invstd, weight, bias = norm
    _, channels = check_images(op, x, mean=mean, invstd=invstd, weight=weight, bias=bias)
    grad, taps, x = channels_last(grad), channels_last(taps), channels_last(x)
    given = tuple(dense(v) for v in norm)
    if sums is None:
        sums = normalise_act_gradient_sums(grad, winners, None, norm)[0]
    grad_weight, grad_bias = sums[:2]
    if not need_x:
        return None, grad_weight, grad_bias
    grad_x = image(x.shape, x)
    if grad_x.numel() == 0:
        return grad_x, grad_weight, grad_bias
    n, _, height, width = x.shape
    shape = (cdiv(height, 2), cdiv(width, 2))
    cells = n * shape[0] * shape[1]
    config = pool_input_grad_configs(x.dtype, pixels=cells, channels=channels)
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
        cells,
        channels,
        height,
        width,
        *shape,
        config=config,
        cost=Cost(16 * x.numel(), nbytes(grad_x, grad, taps, x, *given, grad_weight, grad_bias)),
        device=x.device,
        TRAINING=training,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return grad_x, grad_weight, grad_bias
