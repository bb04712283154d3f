"""The second half of a batch's statistics: splits are merged, mean and invstd stored, running statistics updated."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes
from tinyflow.kernels.addressing import float_bits, float_from_bits
from tinyflow.kernels.batch_norm.plans import finish_config
from tinyflow.kernels.launch import Cost, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer

#: Where statistics go: mean, invstd, running mean and running variance, (C,) each, and the number of batches, one int64;
#: those that run may be None, and so may the number.
Results = tuple[Buffer, Buffer, "Buffer | None", "Buffer | None", "Buffer | None"]


@triton.jit
def merged_statistics(counts, means, squares, mask, total):
    """Mean and sum of squared deviations of channels, from those of parts of their ``total`` pixels: [parts, channels]."""
    mean = tl.sum(counts * means, axis=0) / total
    delta = tl.where(mask, means - mean[None, :], 0.0)
    return mean, tl.sum(squares + counts * delta * delta, axis=0)


@triton.jit
def _move(running_ptr, at, batch, momentum, exists, COMPUTE: tl.constexpr):
    running = tl.load(running_ptr + at, mask=exists, other=0).to(COMPUTE)
    running = (1.0 - momentum) * running + momentum * batch
    tl.store(running_ptr + at, running.to(running_ptr.dtype.element_ty), mask=exists)


@triton.jit
def store_statistics(
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
    COMPUTE: tl.constexpr,
):
    """Stores ``mean`` and invstd, moves the running statistics towards the batch's, and returns invstd.

    Where there is a number of batches, the first program counts this one.
    """
    invstd = 1.0 / tl.sqrt(squares / total + float_from_bits(eps_bits).to(COMPUTE))
    tl.store(mean_ptr + c, mean, mask=exists)
    tl.store(invstd_ptr + c, invstd, mask=exists)
    momentum = float_from_bits(momentum_bits).to(COMPUTE)
    if running_mean_ptr is not None:
        _move(running_mean_ptr, c * running_mean_stride, mean, momentum, exists, COMPUTE)
    if running_var_ptr is not None:
        _move(running_var_ptr, c * running_var_stride, squares / (total - 1.0), momentum, exists, COMPUTE)
    if num_batches_ptr is not None:
        first = tl.program_id(0) + tl.program_id(1) == 0
        tl.store(num_batches_ptr, tl.load(num_batches_ptr, mask=first, other=0) + 1, mask=first)
    return invstd


@triton.jit(do_not_specialize=["eps_bits", "momentum_bits"])
def _batch_norm_finish_statistics_kernel(
    partial_ptr,
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
    mean, squares = merged_statistics(counts, split_means, split_squares, mask, total)
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
        c < channels,
        total,
        eps_bits,
        momentum_bits,
        COMPUTE,
    )


def running_strides(results: Results) -> list[int]:
    """Strides of the running statistics; 0 where there are none."""
    return [0 if running is None else running.stride(0) for running in results[2:4]]


def finish_statistics(
    partial: Buffer, results: Results, x: Buffer, split_pixels: int, momentum: float, eps: float
) -> None:
    """Merges means and sums of squared deviations (2, splits, C) of splits of ``x``.

    FLOPs: 8 a split and channel. Bytes: ``partial`` read and results written once.
    """
    _, splits, channels = partial.shape
    config = finish_config(splits, channels)
    launch(
        _batch_norm_finish_statistics_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]),),
        partial,
        *results,
        *running_strides(results),
        x.numel() // channels,
        channels,
        split_pixels,
        splits,
        float_bits(eps),
        float_bits(momentum),
        config=config,
        cost=Cost(8 * splits * channels, nbytes(partial, *results)),
        device=x.device,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
