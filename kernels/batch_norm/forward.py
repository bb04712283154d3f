"""Batch normalisation itself: by the batch's statistics, or by given ones for inference."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes
from tinyflow.kernels.addressing import float_bits, float_from_bits
from tinyflow.kernels.batch_norm.operands import check_input, check_parameters, dense, empty_like, walk_pixels
from tinyflow.kernels.batch_norm.plans import TILES, choose_tile, interpreter_tile
from tinyflow.kernels.batch_norm.statistics import find_statistics
from tinyflow.kernels.batch_norm.tiles import affine_values, channel_values, normalised, tile_places
from tinyflow.kernels.elementwise import contiguous
from tinyflow.kernels.launch import Configs, Cost, cdiv, check_same_device, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit(do_not_specialize=["eps_bits"])
def _batch_norm_apply_kernel(
    y_ptr,
    x_ptr,
    mean_ptr,
    spread_ptr,  # [channels]: invstd, or the variance where SPREAD_IS_VARIANCE
    weight_ptr,
    bias_ptr,
    eps_bits,
    pixels,
    channels,
    sizes,
    y_strides,
    x_strides,
    y_stride_c,
    x_stride_c,
    DIMS: tl.constexpr,
    SPREAD_IS_VARIANCE: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    mean = channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
    spread = channel_values(spread_ptr, c, channels, 1.0, COMPUTE)
    if SPREAD_IS_VARIANCE:
        spread = 1.0 / tl.sqrt(spread + float_from_bits(eps_bits).to(COMPUTE))
    scale, bias = affine_values(spread, weight_ptr, bias_ptr, c, channels, COMPUTE)
    x_at, mask = tile_places(p, pixels, c, channels, sizes, x_strides, x_stride_c, DIMS)
    y_at, mask = tile_places(p, pixels, c, channels, sizes, y_strides, y_stride_c, DIMS)
    x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
    tl.store(y_ptr + y_at, normalised(x, mean, scale, bias).to(y_ptr.dtype.element_ty), mask=mask)


apply_configs = Configs("_batch_norm_apply_kernel", TILES, choose_tile, interpreter_tile)


def batch_norm(
    x: Buffer,
    weight: Buffer | None = None,
    bias: Buffer | None = None,
    running_mean: Buffer | None = None,
    running_var: Buffer | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    num_batches: Buffer | None = None,
) -> tuple[Buffer, Buffer, Buffer]:
    """Normalises each channel by the batch's own mean and variance, and updates the running statistics in place.

    Args:
        x: (N, C, ...), any strides, floating point. Computed in float32 (float64 for float64).
        weight, bias: (C,), of the dtype of ``x`` or of the arithmetic; None is 1 and 0.
        running_mean, running_var: (C,); become (1 − momentum) · running + momentum · batch, the variance unbiased.
        momentum: weight of this batch in the running statistics.
        eps: added to the variance.
        num_batches: one int64, becomes one more; or None.

    Returns:
        ``y`` like ``x`` (channels-last memory for 4-d); ``mean`` and ``invstd`` (C,) in the dtype of the arithmetic.

    Raises:
        ValueError: if ``x`` has less than two dimensions, or one value per channel.
        TypeError, RuntimeError: if dtypes, shapes or devices do not fit.

    An empty batch counts, and leaves the running statistics as they are.

    FLOPs: 9 an element (6 for the statistics). Least bytes: ``x`` twice, ``y`` once.
    """
    op = "batch_norm"
    dtypes.check_floating(op, x=x)
    check_input(op, x, training=True)
    check_parameters(op, x, weight=weight, bias=bias)
    check_same_device(op, x=x, weight=weight, bias=bias)
    y = empty_like(x)
    mean, invstd, done = find_statistics(x, running_mean, running_var, num_batches, momentum, eps, y, weight, bias)
    if not done:
        _apply(y, x, mean, invstd, weight, bias, eps, spread_is_variance=False)
    return y, mean, invstd


def batch_norm_inference(
    x: Buffer,
    running_mean: Buffer,
    running_var: Buffer,
    weight: Buffer | None = None,
    bias: Buffer | None = None,
    eps: float = 1e-5,
) -> Buffer:
    """Normalises each channel by given statistics: ``(x − running_mean) / √(running_var + eps) · weight + bias``.

    Shapes, dtypes, result and errors as in :func:`batch_norm`; one value per channel is enough here.
    FLOPs: 3 an element. Least bytes: ``x`` and ``y`` once.
    """
    op = "batch_norm"
    dtypes.check_floating(op, x=x)
    check_input(op, x, training=False)
    check_parameters(op, x, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    check_same_device(op, x=x, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    y = empty_like(x)
    _apply(y, x, contiguous(running_mean), contiguous(running_var), weight, bias, eps, spread_is_variance=True)
    return y


def _apply(
    y: Buffer,
    x: Buffer,
    mean: Buffer,
    spread: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    eps: float,
    spread_is_variance: bool,
) -> None:
    if y.numel() == 0:
        return
    channels = x.shape[1]
    pixels = x.numel() // channels
    sizes, (y_strides, x_strides) = walk_pixels(y, x)
    config = apply_configs(x.dtype, pixels=pixels, channels=channels)
    launch(
        _batch_norm_apply_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        y,
        x,
        mean,
        spread,
        dense(weight),
        dense(bias),
        float_bits(eps),
        pixels,
        channels,
        sizes,
        y_strides,
        x_strides,
        y.stride(1),
        x.stride(1),
        config=config,
        cost=Cost(3 * x.numel(), nbytes(x, y, mean, spread, weight, bias)),
        device=x.device,
        DIMS=len(sizes),
        SPREAD_IS_VARIANCE=spread_is_variance,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, y),
    )
