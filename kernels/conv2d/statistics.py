"""Batch statistics from the rows that a convolution leaves (``box_forward``): the second, tiny half of the work.

Each row holds for every channel the count, the mean and the sum of squared deviations of one program's pixels. They merge
in fixed order about the common mean (Chan, Golub & LeVeque 1983), so that no precision is lost to a large mean.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.addressing import float_bits, float_from_bits
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit(do_not_specialize=["eps_bits", "momentum_bits"])
def _merge_statistics_kernel(
    rows_ptr,  # rows[row, (count, mean, squares), channel]
    mean_ptr,
    invstd_ptr,
    running_mean_ptr,
    running_var_ptr,
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
    mean = tl.sum(counts * means, axis=0) / total
    delta = tl.where(mask, means - mean[None, :], 0.0)
    squares = tl.load(rows_ptr + 2 * channels + at, mask=mask, other=0)
    squares = tl.sum(squares + counts * delta * delta, axis=0)
    eps = float_from_bits(eps_bits).to(tl.float32)
    tl.store(mean_ptr + c, mean, mask=exists)
    tl.store(invstd_ptr + c, 1.0 / tl.sqrt(squares / total + eps), mask=exists)
    momentum = float_from_bits(momentum_bits).to(tl.float32)
    if running_mean_ptr is not None:
        place = running_mean_ptr + c * running_mean_stride
        running = tl.load(place, mask=exists, other=0).to(tl.float32)
        running = (1.0 - momentum) * running + momentum * mean
        tl.store(place, running.to(running_mean_ptr.dtype.element_ty), mask=exists)
    if running_var_ptr is not None:
        place = running_var_ptr + c * running_var_stride
        running = tl.load(place, mask=exists, other=0).to(tl.float32)
        running = (1.0 - momentum) * running + momentum * (squares / (total - 1.0))
        tl.store(place, running.to(running_var_ptr.dtype.element_ty), mask=exists)


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
) -> tuple[Buffer, Buffer]:
    """Mean and ``invstd = 1 / √(var + eps)`` of each channel from the rows of statistics of a convolution.

    Args:
        rows: (rows, 3, C), float32, contiguous, from :func:`box_conv2d` or :func:`stem_conv2d`.
        running_mean, running_var: (C,), updated in place by ``momentum`` as torch does (the variance unbiased), or None.

    Returns two buffers (C,) in float32. FLOPs: 8 a value. Bytes: rows read and results written once.
    """
    count, _, channels = rows.shape
    mean = memory.empty((channels,), memory.float32, rows.device)
    invstd = memory.empty((channels,), memory.float32, rows.device)
    config = merge_statistics_configs(rows.dtype, channels=channels)
    launch(
        _merge_statistics_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]),),
        rows,
        mean,
        invstd,
        running_mean,
        running_var,
        0 if running_mean is None else running_mean.stride(0),
        0 if running_var is None else running_var.stride(0),
        count,
        channels,
        float_bits(eps),
        float_bits(momentum),
        config=config,
        cost=Cost(8 * count * channels, nbytes(rows, mean, invstd, running_mean, running_var)),
        device=rows.device,
        BLOCK_R=block(count),
    )
    return mean, invstd
