"""Normalisation, residual, ReLU and the mean of each map in one pass that writes no map, and the way back.

    y = relu((x − mean) · invstd · weight + bias + residual)        pooled = Σ y / P, over the P pixels of a map

``y`` is rounded before it is summed, as if it were written. Its gradient is one number for a map, h = m · g / P with the
ReLU's mask m, so the sums that the normalisation's gradient needs are sums over images, of what forward leaves of each map:

    passed = (Σ m, Σ m·(x − mean))      grad_bias = Σ passed₀ · g / P      grad_weight = invstd · Σ passed₁ · g / P

What is left for the way back is one pass that makes ``y`` anew for its mask, in the same arithmetic, and writes the
gradients of x and of the residual.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.batch_norm.plans import interpreter_tile
from tinyflow.kernels.batch_norm.tiles import channel_values, input_gradient, norm_values, normalised
from tinyflow.kernels.elementwise import channels_last, contiguous
from tinyflow.kernels.fused.normalise.images import Norm, check_images, image, relu
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer

#: One program walks a map alone: larger ones, of few images, would leave a GPU idle.
_MOST_PIXELS = 1024


@triton.jit
def _activated(x, residual_ptr, at, mask, mean, scale, bias, DTYPE: tl.constexpr, COMPUTE: tl.constexpr):
    residual = tl.load(residual_ptr + at, mask=mask, other=0).to(COMPUTE)
    return relu(normalised(x, mean, scale, bias) + residual).to(DTYPE).to(COMPUTE)


@triton.jit
def _of_a_pixel(g_ptr, at, mask, pixels, COMPUTE: tl.constexpr):
    """The gradient of each pixel of maps, rounded as if it were written."""
    g = tl.load(g_ptr + at, mask=mask, other=0).to(COMPUTE) / tl.cast(pixels, COMPUTE)
    return g.to(g_ptr.dtype.element_ty).to(COMPUTE)


@triton.jit
def _normalise_mean_kernel(
    pooled_ptr,  # pooled[n, c]
    passed_ptr,  # passed[2, n, c]
    x_ptr,  # x[n, pixel, c]
    residual_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    pixels,  # of a map
    channels,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    n = tl.program_id(0).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    total = tl.zeros([BLOCK_C], COMPUTE)
    count = tl.zeros([BLOCK_C], COMPUTE)
    centred = tl.zeros([BLOCK_C], COMPUTE)
    for start in range(0, pixels, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P).to(INDEX)
        mask = (p < pixels)[:, None] & (c < channels)[None, :]
        at = ((n * pixels + p) * channels)[:, None] + c[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
        y = _activated(x, residual_ptr, at, mask, mean, scale, bias, x_ptr.dtype.element_ty, COMPUTE)
        blocked = (y <= 0) | (p >= pixels)[:, None]
        total += tl.sum(tl.where(blocked, 0.0, y), axis=0)
        count += tl.sum(tl.where(blocked, 0.0, 1.0).to(COMPUTE), axis=0)
        centred += tl.sum(tl.where(blocked, 0.0, x - mean[None, :]), axis=0)
    at = n * channels + c
    total = total / tl.cast(pixels, COMPUTE)
    tl.store(pooled_ptr + at, total.to(pooled_ptr.dtype.element_ty), mask=c < channels)
    tl.store(passed_ptr + at, count, mask=c < channels)
    tl.store(passed_ptr + tl.num_programs(0).to(INDEX) * channels + at, centred, mask=c < channels)


@triton.jit
def _normalise_mean_gradient_sums_kernel(
    grad_weight_ptr,
    grad_bias_ptr,
    g_ptr,  # g[n, c]
    passed_ptr,  # passed[2, n, c]
    invstd_ptr,
    images,
    pixels,
    channels,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    lane_h = tl.zeros([BLOCK_N, BLOCK_C], COMPUTE)
    lane_hx = tl.zeros([BLOCK_N, BLOCK_C], COMPUTE)
    for start in range(0, images, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N).to(INDEX)
        mask = (n < images)[:, None] & (c < channels)[None, :]
        at = (n * channels)[:, None] + c[None, :]
        g = _of_a_pixel(g_ptr, at, mask, pixels, COMPUTE)
        count = tl.load(passed_ptr + at, mask=mask, other=0)
        centred = tl.load(passed_ptr + (tl.cast(images, INDEX) * channels + at), mask=mask, other=0)
        lane_h += g * count
        lane_hx += g * centred
    invstd = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
    tl.store(grad_bias_ptr + c, tl.sum(lane_h, axis=0), mask=c < channels)
    tl.store(grad_weight_ptr + c, tl.sum(lane_hx, axis=0) * invstd, mask=c < channels)


@triton.jit
def _normalise_mean_input_grad_kernel(
    grad_x_ptr,  # None where nobody needs it, as grad_residual
    grad_residual_ptr,
    g_ptr,  # g[n, c]
    x_ptr,  # x[n, pixel, c]
    residual_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    images,
    pixels,
    channels,
    TRAINING: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    tiles = tl.cdiv(pixels, BLOCK_P)
    n = (tl.program_id(0) // tiles).to(INDEX)
    p = (tl.program_id(0) % tiles).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    at = ((n * pixels + p) * channels)[:, None] + c[None, :]
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
    y = _activated(x, residual_ptr, at, mask, mean, scale, bias, x_ptr.dtype.element_ty, COMPUTE)
    g = _of_a_pixel(g_ptr, n * channels + c, c < channels, pixels, COMPUTE)
    h = tl.where(y <= 0, 0.0, g[None, :])
    if grad_residual_ptr is not None:
        tl.store(grad_residual_ptr + at, h.to(grad_residual_ptr.dtype.element_ty), mask=mask)
    if grad_x_ptr is not None:
        if TRAINING:
            invstd = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
            grad_weight = channel_values(grad_weight_ptr, c, channels, 0.0, COMPUTE)
            grad_bias = channel_values(grad_bias_ptr, c, channels, 0.0, COMPUTE)
            total = tl.cast(images, INDEX) * pixels
            grad_x = input_gradient(h, x - mean[None, :], invstd, scale, grad_weight, grad_bias, total)
        else:
            grad_x = h * scale[None, :]
        tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


_MAPS, _SMALL_MAPS = Config({"BLOCK_P": 64, "BLOCK_C": 64}), Config({"BLOCK_P": 16, "BLOCK_C": 128})
_SUMS = Config({"BLOCK_N": 128, "BLOCK_C": 16}, num_warps=8)


def _choose(pixels: int, channels: int) -> Config:
    return _SMALL_MAPS if pixels <= 16 else _MAPS


mean_configs = Configs("_normalise_mean_kernel", (_MAPS, _SMALL_MAPS), _choose, interpreter_tile)
mean_input_grad_configs = Configs("_normalise_mean_input_grad_kernel", (_MAPS, _SMALL_MAPS), _choose, interpreter_tile)
mean_gradient_sums_configs = Configs(
    "_normalise_mean_gradient_sums_kernel",
    (_SUMS,),
    lambda images, channels: _SUMS,
    lambda images, channels: Config(
        {"BLOCK_N": block(images, MAX_BLOCK // block(channels)), "BLOCK_C": block(channels)}
    ),
)


def fits_mean(pixels: int) -> bool:
    """True for maps of so many pixels that :func:`normalise_mean` takes them."""
    return 0 < pixels <= _MOST_PIXELS


def normalise_mean(x: Buffer, norm: Norm, residual: Buffer) -> tuple[Buffer, Buffer]:
    """``relu((x − mean) · invstd · weight + bias + residual)``, of which only each map's mean is kept.

    Args:
        x: (N, C, H, W), floating point; computed in float32 (float64 for float64).
        norm: mean, invstd, weight, bias.
        residual: the shape and dtype of ``x``.

    Anything but channels-last memory is copied first. Returns the means (N, C, 1, 1) in the dtype of ``x``, and (2, N, C) in
    that of the arithmetic for :func:`normalise_mean_grad`.

    Raises:
        ValueError, RuntimeError, TypeError: if shapes, dtypes or devices do not fit, or maps are not :func:`fits_mean`.

    FLOPs: 9 an element. Bytes: each operand once, and the results.
    """
    op = "normalise_mean"
    total, channels = check_images(op, x, residual, **{f"vector {k}": v for k, v in enumerate(norm)})
    images, pixels = x.shape[0], x.shape[2] * x.shape[3]
    if not fits_mean(pixels):
        raise ValueError(f"{op}: expected maps of 1 to {_MOST_PIXELS} pixels, got x {tuple(x.shape)}")
    pooled = memory.empty((images, channels, 1, 1), x.dtype, x.device)
    passed = memory.empty((2, images, channels), dtypes.accumulate_dtype(x.dtype), x.device)
    x, residual = channels_last(x), channels_last(residual)
    vectors = [dense(v) for v in norm]
    config = mean_configs(pixels=pixels, channels=channels)
    launch(
        _normalise_mean_kernel,
        (images, cdiv(channels, config.blocks["BLOCK_C"])),
        pooled,
        passed,
        x,
        residual,
        *vectors,
        pixels,
        channels,
        config=config,
        cost=Cost(9 * total * channels, nbytes(pooled, passed, x, residual, *vectors)),
        device=x.device,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return pooled, passed


def normalise_mean_grad(
    grad: Buffer,
    x: Buffer,
    residual: Buffer,
    norm: Norm,
    passed: Buffer,
    training: bool = True,
    need_x: bool = True,
    need_residual: bool = True,
) -> tuple[Buffer | None, Buffer, Buffer, Buffer | None]:
    """The gradients of :func:`normalise_mean`.

    Args:
        grad: the gradient of the means, (N, C, 1, 1).
        x, residual, norm: as given.
        passed: as returned.
        training: whether mean and invstd are those of ``x``; if not, they are constants.
        need_x, need_residual: whether to return their gradients.

    Returns grad_x (or None) in the dtype of ``x``, grad_weight and grad_bias in that of the arithmetic, and the residual's
    gradient (or None). Images are channels-last.

    FLOPs: 5 for each mean, 11 an element. Bytes: ``passed`` once; x, the residual and each gradient once.
    """
    channels = x.shape[1]
    if grad.shape != (x.shape[0], channels, 1, 1) or grad.dtype != x.dtype:
        raise RuntimeError(
            f"normalise_mean_grad: expected grad {(x.shape[0], channels, 1, 1)} {x.dtype} for x {tuple(x.shape)}, "
            f"got {tuple(grad.shape)} {grad.dtype}"
        )
    check_images("normalise_mean_grad", x, residual)
    mean, invstd, weight, bias = (dense(v) for v in norm)
    assert mean is not None and invstd is not None
    norm = (mean, invstd, weight, bias)
    grad, x, residual = contiguous(grad), channels_last(x), channels_last(residual)
    grad_weight, grad_bias = (memory.empty((channels,), passed.dtype, x.device) for _ in range(2))
    pixels = x.shape[2] * x.shape[3]
    _gradient_sums(grad_weight, grad_bias, grad, passed, invstd, pixels)
    grad_x = image(x.shape, x) if need_x else None
    grad_residual = image(x.shape, x) if need_residual else None
    if need_x or need_residual:
        _input_grad(grad_x, grad_residual, grad, x, residual, norm, (grad_weight, grad_bias), training)
    return grad_x, grad_weight, grad_bias, grad_residual


def _gradient_sums(
    grad_weight: Buffer, grad_bias: Buffer, grad: Buffer, passed: Buffer, invstd: Buffer, pixels: int
) -> None:
    _, images, channels = passed.shape
    config = mean_gradient_sums_configs(images=images, channels=channels)
    launch(
        _normalise_mean_gradient_sums_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]),),
        grad_weight,
        grad_bias,
        grad,
        passed,
        invstd,
        images,
        pixels,
        channels,
        config=config,
        cost=Cost(5 * images * channels, nbytes(grad_weight, grad_bias, grad, passed, invstd)),
        device=grad.device,
        COMPUTE=dtypes.compute_dtype(grad.dtype),
        INDEX=offset_dtype(passed),
    )


def _input_grad(
    grad_x: Buffer | None,
    grad_residual: Buffer | None,
    grad: Buffer,
    x: Buffer,
    residual: Buffer,
    norm: Norm,
    sums: tuple[Buffer, Buffer],
    training: bool,
) -> None:
    images, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    config = mean_input_grad_configs(pixels=pixels, channels=channels)
    flops = 5 + (6 if training else 1) * (grad_x is not None)
    launch(
        _normalise_mean_input_grad_kernel,
        (images * cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        grad_x,
        grad_residual,
        grad,
        x,
        residual,
        *norm,
        *sums,
        images,
        pixels,
        channels,
        config=config,
        cost=Cost(flops * x.numel(), nbytes(grad_x, grad_residual, grad, x, residual, *norm, *sums)),
        device=x.device,
        TRAINING=training,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
