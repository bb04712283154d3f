"""Batch normalisation over every dimension but the channels, with its gradient.

    y = (x − mean) · invstd · weight + bias        invstd = 1 / √(var + eps)

In training ``mean`` and ``var`` are those of the batch: a first kernel gives every split of the pixels its mean and its
sum of squared deviations (Welford 1962), a second merges the splits in fixed order (Chan, Golub & LeVeque 1983,
"Algorithms for computing the sample variance"), so that a large mean costs no precision and padded lanes never count.
The gradient (Ioffe & Szegedy 2015, section 3), with x̂ = (x − mean) · invstd over ``n`` pixels, needs one pass for its
two sums and one for the result:

    grad_bias = Σ g      grad_weight = Σ g·x̂      grad_x = weight · invstd · (g − (grad_bias + x̂ · grad_weight) / n)

In the interpreter, where a launch costs more than its work, a program whose one tile holds all pixels of its channels
goes on from its sums to the result, forward and backward.

A *pixel* is a position in all dimensions but the channels. Memory with the channels innermost is the fast path.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_bits, float_from_bits, offsets, walk
from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.elementwise import contiguous, fill
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


@triton.jit
def channel_values(ptr, c, channels, default, COMPUTE: tl.constexpr):
    if ptr is None:
        values = tl.full(c.shape, default, COMPUTE)
    else:
        values = tl.load(ptr + c, mask=c < channels, other=0).to(COMPUTE)
    return values


@triton.jit
def _tile_places(p, last, c, channels, sizes, strides, stride_c, DIMS: tl.constexpr):
    """Where pixels ``p`` and channels ``c`` of a buffer lie, and which of them exist."""
    mask = (p < last)[:, None] & (c < channels)[None, :]
    return offsets(p, sizes, strides, DIMS)[:, None] + (c * stride_c)[None, :], mask


@triton.jit
def _store_statistics(
    mean_ptr,
    invstd_ptr,
    running_mean_ptr,
    running_var_ptr,
    running_mean_stride,
    running_var_stride,
    mean,
    squares,
    c,
    exists,
    total,
    eps_bits,
    momentum_bits,
    COMPUTE: tl.constexpr,
):
    invstd = 1.0 / tl.sqrt(squares / total + float_from_bits(eps_bits).to(COMPUTE))
    tl.store(mean_ptr + c, mean, mask=exists)
    tl.store(invstd_ptr + c, invstd, mask=exists)
    momentum = float_from_bits(momentum_bits).to(COMPUTE)
    if running_mean_ptr is not None:
        at_mean = running_mean_ptr + c * running_mean_stride
        running = tl.load(at_mean, mask=exists, other=0).to(COMPUTE)
        running = (1.0 - momentum) * running + momentum * mean
        tl.store(at_mean, running.to(running_mean_ptr.dtype.element_ty), mask=exists)
    if running_var_ptr is not None:
        at_var = running_var_ptr + c * running_var_stride
        running = tl.load(at_var, mask=exists, other=0).to(COMPUTE)
        running = (1.0 - momentum) * running + momentum * (squares / (total - 1.0))
        tl.store(at_var, running.to(running_var_ptr.dtype.element_ty), mask=exists)
    return invstd


@triton.jit
def _normalised(x, mean, invstd, weight_ptr, bias_ptr, c, channels, COMPUTE: tl.constexpr):
    scale = invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
    bias = channel_values(bias_ptr, c, channels, 0.0, COMPUTE)
    return (x - mean[None, :]) * scale[None, :] + bias[None, :]


@triton.jit
def _input_grad(g, centred, invstd, sum_g, grad_weight, total, weight_ptr, c, channels, COMPUTE: tl.constexpr):
    """In training; ``centred`` is x − mean."""
    scale = invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
    slope = grad_weight * invstd / total
    return (g - (sum_g / total)[None, :] - centred * slope[None, :]) * scale[None, :]


@triton.jit(do_not_specialize=["eps_bits", "momentum_bits"])
def _batch_norm_statistics_kernel(
    x_ptr,
    y_ptr,  # the normalised result, where one tile holds all pixels and it is wanted at once; or None
    weight_ptr,
    bias_ptr,
    partial_ptr,  # [2, splits, channels]: mean, sum of squared deviations; None for a single split, which finishes
    mean_ptr,
    invstd_ptr,
    running_mean_ptr,
    running_var_ptr,
    running_mean_stride,
    running_var_stride,
    pixels,
    channels,
    split_pixels,
    eps_bits,
    momentum_bits,
    sizes,
    x_strides,
    y_strides,
    x_stride_c,
    y_stride_c,
    ONE_TILE: tl.constexpr,  # whether a split is one tile
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    split = tl.program_id(0).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    first = split * split_pixels
    last = tl.minimum(first + split_pixels, pixels)
    lane = tl.arange(0, BLOCK_P).to(INDEX)
    total = tl.cast(last - first, COMPUTE)
    if ONE_TILE:
        at, mask = _tile_places(first + lane, last, c, channels, sizes, x_strides, x_stride_c, DIMS)
        x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
        mean = tl.sum(x, axis=0) / total
        deviation = tl.where(mask, x - mean[None, :], 0.0)
        lost = tl.sum(deviation, axis=0)  # by the sum above
        squares = tl.sum(deviation * deviation, axis=0)
        rounding = lost / total
        squares -= rounding * rounding * total
    else:
        # Each lane of the tile follows its own pixels, so that the loop has no reduction in it
        lane_mean = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
        lane_squares = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
        for start in range(first, last, BLOCK_P):
            at, mask = _tile_places(start + lane, last, c, channels, sizes, x_strides, x_stride_c, DIMS)
            x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
            delta = tl.where(mask, x - lane_mean, 0.0)
            lane_mean += delta / tl.cast((start - first) // BLOCK_P + 1, COMPUTE)
            lane_squares += delta * (x - lane_mean)
        counts = tl.maximum((last - first - lane + BLOCK_P - 1) // BLOCK_P, 0).to(COMPUTE)[:, None]
        mean = tl.sum(counts * lane_mean, axis=0) / total
        weighted = counts * (lane_mean - mean[None, :])
        rounding = tl.sum(weighted, axis=0) / total
        squares = tl.sum(lane_squares + weighted * (lane_mean - mean[None, :]), axis=0) - rounding * rounding * total
    mean += rounding
    if partial_ptr is None:
        invstd = _store_statistics(
            mean_ptr,
            invstd_ptr,
            running_mean_ptr,
            running_var_ptr,
            running_mean_stride,
            running_var_stride,
            mean,
            squares,
            c,
            c < channels,
            total,
            eps_bits,
            momentum_bits,
            COMPUTE,
        )
        if y_ptr is not None:
            y = _normalised(x, mean, invstd, weight_ptr, bias_ptr, c, channels, COMPUTE)
            y_at, mask = _tile_places(first + lane, last, c, channels, sizes, y_strides, y_stride_c, DIMS)
            tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=mask)
    else:
        out = split * channels + c
        tl.store(partial_ptr + out, mean, mask=c < channels)
        tl.store(partial_ptr + tl.num_programs(0).to(INDEX) * channels + out, squares, mask=c < channels)


@triton.jit(do_not_specialize=["eps_bits", "momentum_bits"])
def _batch_norm_finish_statistics_kernel(
    partial_ptr,
    mean_ptr,
    invstd_ptr,
    running_mean_ptr,
    running_var_ptr,
    running_mean_stride,
    running_var_stride,
    pixels,
    channels,
    split_pixels,
    splits,
    eps_bits,
    momentum_bits,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    s = tl.arange(0, BLOCK_S).to(INDEX)
    mask = (s < splits)[:, None] & (c < channels)[None, :]
    at = (s * channels)[:, None] + c[None, :]
    split_means = tl.load(partial_ptr + at, mask=mask, other=0)
    split_squares = tl.load(partial_ptr + splits * channels + at, mask=mask, other=0)
    counts = tl.maximum(tl.minimum(pixels - s * split_pixels, split_pixels), 0).to(COMPUTE)[:, None]
    total = tl.cast(pixels, COMPUTE)
    mean = tl.sum(counts * split_means, axis=0) / total
    delta = tl.where(mask, split_means - mean[None, :], 0.0)
    squares = tl.sum(split_squares + counts * delta * delta, axis=0)
    _store_statistics(
        mean_ptr,
        invstd_ptr,
        running_mean_ptr,
        running_var_ptr,
        running_mean_stride,
        running_var_stride,
        mean,
        squares,
        c,
        c < channels,
        total,
        eps_bits,
        momentum_bits,
        COMPUTE,
    )


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
    x_at, mask = _tile_places(p, pixels, c, channels, sizes, x_strides, x_stride_c, DIMS)
    y_at, mask = _tile_places(p, pixels, c, channels, sizes, y_strides, y_stride_c, DIMS)
    x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
    y = _normalised(x, mean, spread, weight_ptr, bias_ptr, c, channels, COMPUTE)
    tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=mask)


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
    split = tl.program_id(0).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    first = split * split_pixels
    last = tl.minimum(first + split_pixels, pixels)
    mean = channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
    lane = tl.arange(0, BLOCK_P).to(INDEX)
    if ONE_TILE:
        g_at, mask = _tile_places(first + lane, last, c, channels, sizes, g_strides, g_stride_c, DIMS)
        x_at, mask = _tile_places(first + lane, last, c, channels, sizes, x_strides, x_stride_c, DIMS)
        lane_g = tl.load(g_ptr + g_at, mask=mask, other=0).to(COMPUTE)
        x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
        centred = x - mean[None, :]
        lane_gx = lane_g * centred
    else:
        lane_g = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
        lane_gx = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
        for start in range(first, last, BLOCK_P):
            g_at, mask = _tile_places(start + lane, last, c, channels, sizes, g_strides, g_stride_c, DIMS)
            x_at, mask = _tile_places(start + lane, last, c, channels, sizes, x_strides, x_stride_c, DIMS)
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
            total = tl.cast(pixels, COMPUTE)
            grad_x = _input_grad(lane_g, centred, invstd, sum_g, grad_weight, total, weight_ptr, c, channels, COMPUTE)
            at, mask = _tile_places(first + lane, last, c, channels, sizes, grad_x_strides, grad_x_stride_c, DIMS)
            tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    else:
        out = split * channels + c
        tl.store(partial_ptr + out, sum_g, mask=c < channels)
        tl.store(partial_ptr + tl.num_programs(0).to(INDEX) * channels + out, sum_gx, mask=c < channels)


@triton.jit
def _batch_norm_finish_gradient_sums_kernel(
    partial_ptr,
    invstd_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    channels,
    splits,
    partial_stride_sum,
    partial_stride_split,
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
    tl.store(grad_weight_ptr + c, sum_gx * invstd, mask=c < channels)
    tl.store(grad_bias_ptr + c, sum_g, mask=c < channels)


@triton.jit
def _batch_norm_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    x_ptr,
    weight_ptr,
    mean_ptr,
    invstd_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    pixels,
    channels,
    sizes,
    grad_x_strides,
    g_strides,
    x_strides,
    grad_x_stride_c,
    g_stride_c,
    x_stride_c,
    DIMS: tl.constexpr,
    TRAINING: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    invstd = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
    g_at, mask = _tile_places(p, pixels, c, channels, sizes, g_strides, g_stride_c, DIMS)
    out_at, mask = _tile_places(p, pixels, c, channels, sizes, grad_x_strides, grad_x_stride_c, DIMS)
    g = tl.load(g_ptr + g_at, mask=mask, other=0).to(COMPUTE)
    if TRAINING:
        x_at, mask = _tile_places(p, pixels, c, channels, sizes, x_strides, x_stride_c, DIMS)
        x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
        mean = channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
        sum_g = channel_values(grad_bias_ptr, c, channels, 0.0, COMPUTE)
        grad_weight = channel_values(grad_weight_ptr, c, channels, 0.0, COMPUTE)
        total = tl.cast(pixels, COMPUTE)
        centred = x - mean[None, :]
        grad_x = _input_grad(g, centred, invstd, sum_g, grad_weight, total, weight_ptr, c, channels, COMPUTE)
    else:
        grad_x = g * (invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE))[None, :]
    tl.store(grad_x_ptr + out_at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


_TALL = Config({"BLOCK_P": 128, "BLOCK_C": 32})
_WIDE = Config({"BLOCK_P": 32, "BLOCK_C": 128})

#: Partial results of one channel: enough programs to fill a GPU, few enough for one finishing tile.
_MAX_SPLITS = 256

#: Tiles of so many elements, which only the interpreter has, are a split each: a loop over several costs more there.
_HUGE_TILE = 2**16


def _choose(pixels: int, channels: int) -> Config:
    return _WIDE if channels > 64 else _TALL


def _interpreter(pixels: int, channels: int) -> Config:
    block_c = block(channels)
    return Config({"BLOCK_P": block(pixels, MAX_BLOCK // block_c), "BLOCK_C": block_c})


statistics_configs = Configs("_batch_norm_statistics_kernel", (_TALL, _WIDE), _choose, _interpreter)
apply_configs = Configs("_batch_norm_apply_kernel", (_TALL, _WIDE), _choose, _interpreter)
gradient_sums_configs = Configs("_batch_norm_gradient_sums_kernel", (_TALL, _WIDE), _choose, _interpreter)
input_grad_configs = Configs("_batch_norm_input_grad_kernel", (_TALL, _WIDE), _choose, _interpreter)


def pixel_splits(config: Config, pixels: int, channels: int) -> tuple[int, int]:
    """How many splits of how many pixels (a whole number of tiles) share a reduction; it depends on shapes alone."""
    block_p = config.blocks["BLOCK_P"]
    tiles = cdiv(pixels, block_p)
    if block_p * config.blocks["BLOCK_C"] >= _HUGE_TILE:
        wanted = min(_MAX_SPLITS, tiles)
    else:
        wanted = max(1, min(_MAX_SPLITS, 1024 // cdiv(channels, config.blocks["BLOCK_C"]), tiles // 4))
    split_pixels = cdiv(tiles, wanted) * block_p
    return cdiv(pixels, split_pixels), split_pixels


def _is_one_program(splits: int, one_tile: bool) -> bool:
    """True where a program that has a channel's sums goes on to its result: a launch costs more than its work."""
    return interpreting() and splits == 1 and one_tile


def finish_config(splits: int, channels: int) -> Config:
    # 16 channels of 256 splits are 4096 elements; the interpreter has one split and takes all channels at once
    return Config({"BLOCK_S": block(splits), "BLOCK_C": block(channels, max(16, 4096 // block(splits)))})


def _without_channels(sequence: Sequence[int]) -> tuple[int, ...]:
    return (sequence[0], *sequence[2:])


def _output_strides(x: Buffer) -> tuple[int, ...]:
    return strides.channels_last_strides(x.shape) if x.dim() == 4 else strides.like(x)


def _check_input(op: str, x: Buffer, training: bool) -> tuple[int, int]:
    """Pixels and channels of ``x``."""
    if x.dim() < 2:
        raise ValueError(f"{op}: expected x of shape (N, C, ...), got {tuple(x.shape)}")
    channels = x.shape[1]
    pixels = strides.numel(_without_channels(x.shape))
    if training and pixels == 1:
        raise ValueError(f"{op}: Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    return pixels, channels


def _check_parameters(op: str, x: Buffer, **parameters: Buffer | None) -> None:
    allowed = (x.dtype, dtypes.accumulate_dtype(x.dtype))
    for name, value in parameters.items():
        if value is None:
            continue
        if tuple(value.shape) != (x.shape[1],):
            raise RuntimeError(
                f"{op}: expected {name} of shape ({x.shape[1]},) for x of shape {tuple(x.shape)}, "
                f"got {tuple(value.shape)}"
            )
        if value.dtype not in allowed:
            expected = " or ".join(dict.fromkeys(str(d) for d in allowed))
            raise RuntimeError(f"{op}: expected {name} of dtype {expected} for x of {x.dtype}, got {value.dtype}")


def batch_norm(
    x: Buffer,
    weight: Buffer | None = None,
    bias: Buffer | None = None,
    running_mean: Buffer | None = None,
    running_var: Buffer | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Buffer, Buffer, Buffer]:
    """Normalises each channel by the batch's own mean and variance, and updates the running statistics in place.

    Args:
        x: (N, C, ...), any strides, floating point. Computed in float32 (float64 for float64).
        weight, bias: (C,), of the dtype of ``x`` or of the arithmetic; None is 1 and 0.
        running_mean, running_var: (C,); become (1 − momentum) · running + momentum · batch, the variance unbiased.
        momentum: weight of this batch in the running statistics.
        eps: added to the variance.

    Returns:
        ``y`` like ``x`` (channels-last memory for 4-d); ``mean`` and ``invstd`` (C,) in the dtype of the arithmetic.

    Raises:
        ValueError: if ``x`` has less than two dimensions, or one value per channel.
        TypeError, RuntimeError: if dtypes, shapes or devices do not fit.

    An empty batch leaves the running statistics as they are.

    FLOPs: 9 an element (6 for the statistics). Least bytes: ``x`` twice, ``y`` once.
    """
    op = "batch_norm"
    dtypes.check_floating(op, x=x)
    _check_input(op, x, training=True)
    _check_parameters(op, x, weight=weight, bias=bias)
    check_same_device(op, x=x, weight=weight, bias=bias)
    y = memory.empty(x.shape, x.dtype, x.device, _output_strides(x))
    mean, invstd, done = _statistics(x, running_mean, running_var, momentum, eps, y, weight, bias)
    if not done:
        _apply(y, x, mean, invstd, weight, bias, eps, spread_is_variance=False)
    return y, mean, invstd


def batch_norm_statistics(
    x: Buffer,
    running_mean: Buffer | None = None,
    running_var: Buffer | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Buffer, Buffer]:
    """Each channel's mean and ``invstd`` over the batch; updates the running statistics in place.

    Arguments, dtypes and errors as in :func:`batch_norm`. FLOPs: 6 an element. Least bytes: ``x`` once.
    """
    return _statistics(x, running_mean, running_var, momentum, eps)[:2]


def _statistics(
    x: Buffer,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    momentum: float,
    eps: float,
    y: Buffer | None = None,
    weight: Buffer | None = None,
    bias: Buffer | None = None,
) -> tuple[Buffer, Buffer, bool]:
    """Mean and ``invstd``, and whether ``y`` was filled with the result too: where one tile holds all pixels."""
    op = "batch_norm"
    dtypes.check_floating(op, x=x)
    pixels, channels = _check_input(op, x, training=True)
    _check_parameters(op, x, running_mean=running_mean, running_var=running_var)
    device = check_same_device(op, x=x, running_mean=running_mean, running_var=running_var)
    compute = dtypes.compute_dtype(x.dtype)
    statistic_dtype = dtypes.accumulate_dtype(x.dtype)
    mean = memory.empty((channels,), statistic_dtype, device)
    invstd = memory.empty((channels,), statistic_dtype, device)
    if pixels and channels:
        config = statistics_configs(x.dtype, pixels=pixels, channels=channels)
        splits, split_pixels = pixel_splits(config, pixels, channels)
        one_tile = split_pixels <= config.blocks["BLOCK_P"]
        at_once = y is not None and _is_one_program(splits, one_tile)
        result = y if y is not None and at_once else x
        sizes, (x_strides, y_strides) = walk(
            _without_channels(x.shape), _without_channels(x.stride()), _without_channels(result.stride())
        )
        partial = memory.empty((2, splits, channels), statistic_dtype, device) if splits > 1 else None
        running_strides = [0 if running is None else running.stride(0) for running in (running_mean, running_var)]
        results = [mean, invstd, running_mean, running_var]
        read = [x, y, weight, bias] if at_once else [x]
        launch(
            _batch_norm_statistics_kernel,
            (splits, cdiv(channels, config.blocks["BLOCK_C"])),
            x,
            result if at_once else None,
            contiguous(weight) if at_once and weight is not None else None,
            contiguous(bias) if at_once and bias is not None else None,
            partial,
            *results,
            *running_strides,
            pixels,
            channels,
            split_pixels,
            float_bits(eps),
            float_bits(momentum),
            sizes,
            x_strides,
            y_strides,
            x.stride(1),
            result.stride(1),
            config=config,
            cost=Cost((9 if at_once else 6) * x.numel(), nbytes(*read, *(results if partial is None else [partial]))),
            device=device,
            ONE_TILE=one_tile,
            DIMS=len(sizes),
            COMPUTE=compute,
            INDEX=offset_dtype(x, result),
        )
        if partial is None:
            return mean, invstd, at_once
        config = finish_config(splits, channels)
        launch(
            _batch_norm_finish_statistics_kernel,
            (cdiv(channels, config.blocks["BLOCK_C"]),),
            partial,
            *results,
            *running_strides,
            pixels,
            channels,
            split_pixels,
            splits,
            float_bits(eps),
            float_bits(momentum),
            config=config,
            cost=Cost(8 * splits * channels, nbytes(partial, *results)),
            device=device,
            COMPUTE=compute,
            INDEX=offset_dtype(x),
        )
    else:
        fill(mean, 0), fill(invstd, 0)
    return mean, invstd, False


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
    _check_input(op, x, training=False)
    _check_parameters(op, x, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    check_same_device(op, x=x, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    mean, var = contiguous(running_mean), contiguous(running_var)
    y = memory.empty(x.shape, x.dtype, x.device, _output_strides(x))
    _apply(y, x, mean, var, weight, bias, eps, spread_is_variance=True)
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
    sizes, (y_strides, x_strides) = walk(
        _without_channels(x.shape), _without_channels(y.stride()), _without_channels(x.stride())
    )
    config = apply_configs(x.dtype, pixels=pixels, channels=channels)
    launch(
        _batch_norm_apply_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        y,
        x,
        mean,
        spread,
        None if weight is None else contiguous(weight),
        None if bias is None else contiguous(bias),
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


def batch_norm_grad(
    grad: Buffer, x: Buffer, weight: Buffer | None, mean: Buffer, invstd: Buffer, training: bool = True
) -> tuple[Buffer, Buffer, Buffer]:
    """The gradients of :func:`batch_norm`, or of :func:`batch_norm_inference` with ``training=False``.

    Args:
        grad: gradient of ``y``, the shape and dtype of ``x``, any strides.
        x: (N, C, ...), the input, any strides.
        weight: (C,) or None for 1.
        mean, invstd: (C,), float32 (float64 for float64), the statistics that the forward pass used.
        training: whether ``mean`` and ``invstd`` follow ``x``; if not, grad_x = grad · weight · invstd.

    Returns:
        ``grad_x`` like ``x`` (channels-last memory for 4-d); ``grad_weight`` and ``grad_bias`` (C,) in the dtype of
        ``mean``.

    Raises:
        TypeError, RuntimeError: if dtypes, shapes or devices do not fit.

    FLOPs: 9 an element. Least bytes: ``grad`` and ``x`` twice, ``grad_x`` once.
    """
    op = "batch_norm_grad"
    dtypes.check_floating(op, grad=grad, x=x)
    if grad.shape != x.shape:
        raise RuntimeError(f"{op}: expected grad of shape {tuple(x.shape)}, got {tuple(grad.shape)}")
    _check_input(op, x, training=False)
    _check_parameters(op, x, weight=weight, mean=mean, invstd=invstd)
    device = check_same_device(op, grad=grad, x=x, weight=weight, mean=mean, invstd=invstd)
    channels = x.shape[1]
    statistic_dtype = dtypes.accumulate_dtype(x.dtype)
    grad_x = memory.empty(x.shape, x.dtype, device, _output_strides(x))
    grad_weight = memory.empty((channels,), statistic_dtype, device)
    grad_bias = memory.empty((channels,), statistic_dtype, device)
    mean, invstd = contiguous(mean), contiguous(invstd)
    done = _gradient_sums(grad, x, mean, invstd, grad_weight, grad_bias, grad_x if training else None, weight)
    if done or x.numel() == 0:
        return grad_x, grad_weight, grad_bias
    pixels = x.numel() // channels
    sizes, (out_strides, g_strides, x_strides) = walk(
        _without_channels(x.shape), *(_without_channels(v.stride()) for v in (grad_x, grad, x))
    )
    read = [x, weight, mean, invstd, grad_weight, grad_bias] if training else [weight, invstd]
    config = input_grad_configs(x.dtype, pixels=pixels, channels=channels)
    launch(
        _batch_norm_input_grad_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        grad_x,
        grad,
        x,
        None if weight is None else contiguous(weight),
        mean,
        invstd,
        grad_weight,
        grad_bias,
        pixels,
        channels,
        sizes,
        out_strides,
        g_strides,
        x_strides,
        grad_x.stride(1),
        grad.stride(1),
        x.stride(1),
        config=config,
        cost=Cost(5 * x.numel() if training else x.numel(), nbytes(grad_x, grad, *read)),
        device=device,
        DIMS=len(sizes),
        TRAINING=training,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(grad_x, grad, x),
    )
    return grad_x, grad_weight, grad_bias


def _gradient_sums(
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
    splits, split_pixels = pixel_splits(config, pixels, channels) if pixels else (0, 0)
    one_tile = split_pixels <= config.blocks["BLOCK_P"]
    at_once = grad_x is not None and _is_one_program(splits, one_tile)
    target = grad_x if grad_x is not None and at_once else x
    sizes, (g_strides, x_strides, target_strides) = walk(
        _without_channels(x.shape), *(_without_channels(v.stride()) for v in (grad, x, target))
    )
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
        target if at_once else None,
        contiguous(weight) if at_once and weight is not None else None,
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


def finish_gradient_sums(partial: Buffer, invstd: Buffer, grad_weight: Buffer, grad_bias: Buffer) -> None:
    """Adds up partial sums (2, splits, C) of g and of g·(x − mean): ``grad_bias``, and times invstd ``grad_weight``.

    The channels of ``partial`` lie next to each other.
    """
    _, splits, channels = partial.shape
    config = finish_config(splits, channels)
    launch(
        _batch_norm_finish_gradient_sums_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]),),
        partial,
        invstd,
        grad_weight,
        grad_bias,
        channels,
        splits,
        *partial.stride()[:2],
        config=config,
        cost=Cost(2 * splits * channels, nbytes(partial, invstd, grad_weight, grad_bias)),
        device=partial.device,
        INDEX=offset_dtype(partial),
    )
