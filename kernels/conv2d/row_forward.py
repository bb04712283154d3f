"""Convolution by rows (see ``rows``), with what follows it done on the row in hand, as in ``box_forward``."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.conv2d.rows import (
    all_tap_weights,
    place_of_step,
    row_boxes,
    row_programs,
    row_steps,
    rowed,
    share_of_steps,
    take_row,
    tap_tiles,
)
from tinyflow.kernels.conv2d.statistics import merge_tile
from tinyflow.kernels.launch import Config, Cost, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def _finish_row(
    acc,
    n,
    p,
    q,
    count,
    mean,
    squares,
    y,
    bias_ptr,
    residual,
    N,
    P,
    Q,
    K,
    RELU: tl.constexpr,
    STATISTICS: tl.constexpr,
    TN: tl.constexpr,
    TW: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Writes output row p; returns the statistics with those of that row."""
    if bias_ptr is not None:
        k = tl.arange(0, CHANNELS)
        acc += tl.load(bias_ptr + k, mask=k < K, other=0).to(tl.float32)[None, :]
    if residual is not None:
        acc += residual.load([n, p, q, 0]).reshape(TN * TW, CHANNELS).to(tl.float32)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    out = acc.to(y.dtype)
    y.store([n, p, q, 0], out.reshape(TN, 1, TW, CHANNELS))
    if STATISTICS:
        count, mean, squares = merge_tile(count, mean, squares, out.T, n, p, q, N, P, Q, TN, 1, TW, False)
    return count, mean, squares


@triton.jit
def _row_conv2d_kernel(
    y,  # boxes of y[n, p, q, k]
    x,  # boxes of x[n, h, w, c]
    single,  # tiles of weight[r, s, k, c], of one tap
    pair,  # tiles of weight[r, s, k, c], of one tap row and the next
    bias_ptr,  # bias[k]
    residual,  # boxes of residual[n, p, q, k]
    statistics_ptr,  # statistics[program, (count, mean, squares), k]
    steps,
    N,
    H,
    W,
    K,
    RELU: tl.constexpr,
    TN: tl.constexpr,
    TW: tl.constexpr,
    CHANNELS: tl.constexpr,
    STAGES: tl.constexpr,
):
    STATISTICS: tl.constexpr = statistics_ptr is not None
    weights = all_tap_weights(single, pair, CHANNELS, False)
    first, end = share_of_steps(steps)
    done = tl.zeros((TN * TW, CHANNELS), tl.float32)
    above = done
    here = done
    n = tl.cast(0, tl.int32)
    w = n
    row = n + H
    count = tl.cast(0.0, tl.float32)
    mean = tl.zeros((CHANNELS,), tl.float32)
    squares = mean
    for step in tl.range(tl.maximum(first - 2, 0), end + 1, num_stages=STAGES):
        count, mean, squares = _finish_row(
            done, n, row, w, count, mean, squares, y, bias_ptr, residual, N, H, W, K, RELU, STATISTICS, TN, TW, CHANNELS
        )
        n, h, w = place_of_step(step, H, W, TN, TW)
        done, above, here = take_row(x, n, h, w, H, above, here, weights, TN * TW, CHANNELS, False)
        row = tl.where((step >= first) & (h > 0), h - 1, H)
    if STATISTICS:
        k = tl.arange(0, CHANNELS)
        out_ptr = statistics_ptr + tl.program_id(0) * 3 * K + k
        tl.store(out_ptr, tl.zeros((CHANNELS,), tl.float32) + count, mask=k < K)
        tl.store(out_ptr + K, mean, mask=k < K)
        tl.store(out_ptr + 2 * K, squares, mask=k < K)


#: Two small programs a multiprocessor, or a large one, which may fetch boxes further ahead.
ROW_CONFIGS = (
    rowed(8, 8, warps=4, stages=2),
    rowed(16, 8, warps=8, stages=2),
    rowed(16, 8, warps=8, stages=3),
)


def row_conv2d(
    config: Config,
    y: Buffer,
    x: Buffer,
    weight: Buffer,
    bias: Buffer | None,
    residual: Buffer | None,
    relu: bool,
    statistics: bool,
    cost: Cost,
) -> Buffer | None:
    """Fills ``y`` as ``box_forward.box_conv2d`` says, where ``rows.rows_suit``; the rows of statistics, if asked for.

    FLOPs: 2·N·K·H·W·C·9, and as many for every padded channel. Bytes: every operand read and every result written once.
    """
    images, k, height, width = y.shape
    steps = row_steps(config, images, height, width)
    programs = row_programs(config, steps, [residual], y.device)
    rows = memory.empty((programs, 3, k), memory.float32, y.device) if statistics else None
    launch(
        _row_conv2d_kernel,
        (programs,),
        row_boxes(y, config),
        row_boxes(x, config),
        *tap_tiles(weight, config),
        bias,
        None if residual is None else row_boxes(residual, config),
        rows,
        steps,
        images,
        height,
        width,
        k,
        config=config,
        cost=cost + Cost(0, nbytes(rows)),
        device=y.device,
        RELU=relu,
    )
    return rows
