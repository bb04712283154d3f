"""A batch's mean and invstd: one pass over its pixels, in splits where they are many."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.addressing import float_bits
from tinyflow.kernels.arithmetic import add
from tinyflow.kernels.batch_norm.finish_statistics import (
    finish_statistics,
    running_strides,
    store_statistics,
)
from tinyflow.kernels.batch_norm.operands import check_count, check_input, check_parameters, dense, walk_pixels
from tinyflow.kernels.batch_norm.plans import (
    SMALL_TILES,
    TILES,
    choose_tile,
    interpreter_tile,
    is_one_program,
    pixel_splits,
)
from tinyflow.kernels.batch_norm.tiles import affine_values, normalised, split_places, store_partial, tile_places
from tinyflow.kernels.elementwise import fill
from tinyflow.kernels.launch import Configs, Cost, cdiv, check_same_device, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


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
    num_batches_ptr,
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
    first, last, c = split_places(pixels, split_pixels, INDEX, BLOCK_C)
    lane = tl.arange(0, BLOCK_P).to(INDEX)
    total = tl.cast(last - first, COMPUTE)
    if ONE_TILE:
        at, mask = tile_places(first + lane, last, c, channels, sizes, x_strides, x_stride_c, DIMS)
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
            at, mask = tile_places(start + lane, last, c, channels, sizes, x_strides, x_stride_c, DIMS)
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
        invstd = store_statistics(
            mean_ptr,
            invstd_ptr,
            running_mean_ptr,
            running_var_ptr,
            num_batches_ptr,
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
            scale, bias = affine_values(invstd, weight_ptr, bias_ptr, c, channels, COMPUTE)
            y_at, mask = tile_places(first + lane, last, c, channels, sizes, y_strides, y_stride_c, DIMS)
            tl.store(y_ptr + y_at, normalised(x, mean, scale, bias).to(y_ptr.dtype.element_ty), mask=mask)
    else:
        store_partial(partial_ptr, mean, squares, c, channels, INDEX)


statistics_configs = Configs("_batch_norm_statistics_kernel", TILES, choose_tile, interpreter_tile, float64=SMALL_TILES)


def batch_norm_statistics(
    x: Buffer,
    running_mean: Buffer | None = None,
    running_var: Buffer | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    num_batches: Buffer | None = None,
) -> tuple[Buffer, Buffer]:
    """Each channel's mean and ``invstd`` over the batch; updates the running statistics and ``num_batches`` in place.

    Arguments, dtypes and errors as in :func:`batch_norm`. FLOPs: 6 an element. Least bytes: ``x`` once.
    """
    return find_statistics(x, running_mean, running_var, num_batches, momentum, eps)[:2]


def find_statistics(
    x: Buffer,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    num_batches: Buffer | None,
    momentum: float,
    eps: float,
    y: Buffer | None = None,
    weight: Buffer | None = None,
    bias: Buffer | None = None,
) -> tuple[Buffer, Buffer, bool]:
    """Mean and ``invstd``, and whether ``y`` was filled with the result too: where one tile holds all pixels."""
    op = "batch_norm"
    dtypes.check_floating(op, x=x)
    pixels, channels = check_input(op, x, training=True)
    check_parameters(op, x, running_mean=running_mean, running_var=running_var)
    check_count(op, num_batches)
    device = check_same_device(op, x=x, running_mean=running_mean, running_var=running_var, num_batches=num_batches)
    statistic = dtypes.accumulate_dtype(x.dtype)
    mean, invstd = (memory.empty((channels,), statistic, device) for _ in range(2))
    if not (pixels and channels):
        fill(mean, 0), fill(invstd, 0)
        if num_batches is not None:
            add(num_batches, 1, out=num_batches)
        return mean, invstd, False
    results = (mean, invstd, running_mean, running_var, num_batches)
    config = statistics_configs(x.dtype, pixels=pixels, channels=channels)
    splits, split_pixels = pixel_splits(config, pixels, channels)
    one_tile = split_pixels <= config.blocks["BLOCK_P"]
    at_once = y is not None and is_one_program(splits, one_tile)
    partial = memory.empty((2, splits, channels), statistic, device) if splits > 1 else None
    target = y if y is not None and at_once else x
    sizes, (x_strides, y_strides) = walk_pixels(x, target)
    read = [x, y, weight, bias] if at_once else [x]
    launch(
        _batch_norm_statistics_kernel,
        (splits, cdiv(channels, config.blocks["BLOCK_C"])),
        x,
        *((target, dense(weight), dense(bias)) if at_once else (None, None, None)),
        partial,
        *results,
        *running_strides(results),
        pixels,
        channels,
        split_pixels,
        float_bits(eps),
        float_bits(momentum),
        sizes,
        x_strides,
        y_strides,
        x.stride(1),
        target.stride(1),
        config=config,
        cost=Cost((9 if at_once else 6) * x.numel(), nbytes(*read, *(results if partial is None else [partial]))),
        device=device,
        ONE_TILE=one_tile,
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, target),
    )
    if partial is not None:
        finish_statistics(partial, results, x, split_pixels, momentum, eps)
    return mean, invstd, at_once
