"""Batch statistics in a convolution's epilogue: of each tile as it is written, and at last of all programs.

A program leaves a row that holds for every channel the count, the mean and the sum of squared deviations of its pixels. It
merges its tiles one by one, and the rows merge in fixed order about the common mean (Chan, Golub & LeVeque 1983), so that
no precision is lost to a large mean.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.addressing import float_bits
from tinyflow.kernels.batch_norm.finish_statistics import merged_statistics, running_strides, store_statistics
from tinyflow.kernels.batch_norm.operands import check_count
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def merge_tile(
    count, mean, squares, y, n, p, q, N, P, Q, TN: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, WHOLE: tl.constexpr
):
    """Statistics of each row with those of a tile ``y`` of rows by pixels; pixels outside the images do not count.

    A tile all of whose pixels lie outside changes nothing, unless it is said to be WHOLE.
    """
    images = tl.minimum(N - n, TN)
    rows = tl.minimum(P - p, TH)
    columns = tl.minimum(Q - q, TW)
    added = (images * rows * columns).to(tl.float32)
    total = count + added
    share = added / tl.maximum(total, 1.0)
    if WHOLE:
        tile_mean = tl.sum(y.to(tl.float32), axis=1) / added
        deviation = y.to(tl.float32) - tile_mean[:, None]
    else:
        pixel = tl.arange(0, TN * TH * TW)
        inside = (pixel // (TH * TW) < images) & (pixel // TW % TH < rows) & (pixel % TW < columns)
        tile_mean = tl.sum(tl.where(inside[None, :], y.to(tl.float32), 0.0), axis=1) / tl.maximum(added, 1.0)
        deviation = tl.where(inside[None, :], y.to(tl.float32) - tile_mean[:, None], 0.0)
    delta = tile_mean - mean
    squares += tl.sum(deviation * deviation, axis=1) + delta * delta * (count * share)
    return total, mean + delta * share, squares


@triton.jit(do_not_specialize=["eps_bits", "momentum_bits"])
def _merge_statistics_kernel(
    rows_ptr,  # rows[row, (count, mean, squares), channel]
    mean_ptr,
    invstd_ptr,
    running_mean_ptr,
    running_var_ptr,
    num_batches_ptr,
    running_mean_stride,
    running_var_stride,
    rows,
    channels,
    eps_bits,
    momentum_bits,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.arange(0, BLOCK_R)
    exists = c < channels
    mask = (row < rows)[:, None] & exists[None, :]
    at = (row * 3 * channels)[:, None] + c[None, :]
    counts = tl.load(rows_ptr + at, mask=mask, other=0)
    means = tl.load(rows_ptr + channels + at, mask=mask, other=0)
    total = tl.sum(counts, axis=0)
    total = tl.where(exists, total, 1.0)
    squares = tl.load(rows_ptr + 2 * channels + at, mask=mask, other=0)
    mean, squares = merged_statistics(counts, means, squares, mask, total)
    store_statistics(
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
        exists,
        total,
        eps_bits,
        momentum_bits,
        tl.float32,
    )


_SHIPPED = Config({"BLOCK_C": 8}, num_warps=4, num_stages=1)

merge_statistics_configs = Configs(
    "_merge_statistics_kernel",
    (_SHIPPED,),
    lambda channels: _SHIPPED,
    lambda channels: Config({"BLOCK_C": block(channels, 4096)}),
)


def merge_statistics(
    rows: Buffer,
    eps: float,
    running_mean: Buffer | None = None,
    running_var: Buffer | None = None,
    momentum: float = 0.1,
    num_batches: Buffer | None = None,
) -> tuple[Buffer, Buffer]:
    """Mean and ``invstd = 1 / √(var + eps)`` of each channel from the rows of statistics of a convolution.

    Args:
        rows: (rows, 3, C), float32, contiguous, from :func:`box_conv2d` or :func:`stem_conv2d`.
        running_mean, running_var: (C,), updated in place by ``momentum`` as torch does (the variance unbiased), or None.
        num_batches: one int64, becomes one more; or None.

    Returns two buffers (C,) in float32. FLOPs: 8 a value. Bytes: rows read and results written once.
    """
    check_count("conv2d", num_batches)
    count, _, channels = rows.shape
    mean = memory.empty((channels,), memory.float32, rows.device)
    invstd = memory.empty((channels,), memory.float32, rows.device)
    results = (mean, invstd, running_mean, running_var, num_batches)
    config = merge_statistics_configs(rows.dtype, channels=channels)
    launch(
        _merge_statistics_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]),),
        rows,
        *results,
        *running_strides(results),
        count,
        channels,
        float_bits(eps),
        float_bits(momentum),
        config=config,
        cost=Cost(8 * count * channels, nbytes(rows, *results)),
        device=rows.device,
        BLOCK_R=block(count),
    )
    return mean, invstd
