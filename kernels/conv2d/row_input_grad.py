"""The input gradient of a convolution by rows (see ``rows``), with the backward pass of what lies below on the row in hand.

The gradient of a 3×3 convolution that keeps sizes is one itself, with the taps mirrored and the weights transposed. The
epilogue is that of ``box_input_grad``.
"""

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
from tinyflow.kernels.launch import Config, Cost, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def _finish_row(
    acc,
    n,
    h,
    w,
    total,
    product,
    x_grad,
    residual,
    x,
    y,
    mean_ptr,
    C,
    TN: tl.constexpr,
    TW: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Writes row h of the gradient; returns the sums with those of that row."""
    PIXELS: tl.constexpr = TN * TW
    if residual is not None:
        acc += residual.load([n, h, w, 0]).reshape(PIXELS, CHANNELS).to(tl.float32)
    if x is not None:
        acc = tl.where(x.load([n, h, w, 0]).reshape(PIXELS, CHANNELS).to(tl.float32) > 0, acc, 0.0)
    g = acc.to(x_grad.dtype)
    x_grad.store([n, h, w, 0], g.reshape(TN, 1, TW, CHANNELS))
    if y is not None:
        g = g.to(tl.float32)  # zero outside the images, as x is there
        c = tl.arange(0, CHANNELS)
        mean = tl.load(mean_ptr + c, mask=c < C, other=0)
        deviation = y.load([n, h, w, 0]).reshape(PIXELS, CHANNELS).to(tl.float32) - mean[None, :]
        total += tl.sum(g, axis=0)
        product += tl.sum(g * deviation, axis=0)
    return total, product


@triton.jit
def _row_conv2d_input_grad_kernel(
    x_grad,  # boxes of x_grad[n, h, w, c]
    grad,  # boxes of grad[n, p, q, k]
    single,  # tiles of weight[r, s, k, c], of one tap
    pair,  # tiles of weight[r, s, k, c], of one tap row and the next
    residual,  # boxes of residual[n, h, w, c]
    x,  # boxes of x[n, h, w, c]
    y,  # boxes of y[n, h, w, c]
    mean_ptr,  # mean[c]
    sums_ptr,  # sums[program, (g, g · (y − mean)), c]
    steps,
    C,
    H,
    W,
    TN: tl.constexpr,
    TW: tl.constexpr,
    CHANNELS: tl.constexpr,
    STAGES: tl.constexpr,
):
    weights = all_tap_weights(single, pair, CHANNELS, True)
    first, end = share_of_steps(steps)
    done = tl.zeros((TN * TW, CHANNELS), tl.float32)
    above = done
    here = done
    n = tl.cast(0, tl.int32)
    w = n
    row = n + H
    total = tl.zeros((CHANNELS,), tl.float32)
    product = total
    for step in tl.range(tl.maximum(first - 2, 0), end + 1, num_stages=STAGES):
        total, product = _finish_row(
            done, n, row, w, total, product, x_grad, residual, x, y, mean_ptr, C, TN, TW, CHANNELS
        )
        n, p, w = place_of_step(step, H, W, TN, TW)
        done, above, here = take_row(grad, n, p, w, H, above, here, weights, TN * TW, CHANNELS, True)
        row = tl.where((step >= first) & (p > 0), p - 1, H)
    if sums_ptr is not None:
        c = tl.arange(0, CHANNELS)
        out_ptr = sums_ptr + tl.program_id(0) * 2 * C + c
        tl.store(out_ptr, total, mask=c < C)
        tl.store(out_ptr + C, product, mask=c < C)


#: A large program with all its boxes on their way at once; or small ones, two a multiprocessor if the epilogue is short.
ROW_INPUT_GRAD_CONFIGS = (rowed(16, 8, warps=8, stages=2), rowed(8, 8, warps=4, stages=2))


def row_conv2d_input_grad(
    config: Config,
    g: Buffer,
    grad: Buffer,
    weight: Buffer,
    residual: Buffer | None,
    x: Buffer | None,
    y: Buffer | None,
    mean: Buffer | None,
    cost: Cost,
) -> Buffer | None:
    """Fills ``g`` as ``box_input_grad.box_conv2d_input_grad`` says, where ``rows.rows_suit``; the rows of sums, if any.

    FLOPs: 2·N·K·H·W·C·9, and as many for every padded channel. Bytes: every operand read and every result written once.
    """
    images, c, height, width = g.shape
    steps = row_steps(config, images, height, width)
    programs = row_programs(config, steps, [residual, x, y], g.device)
    sums = None if y is None else memory.empty((programs, 2, c), memory.float32, g.device)
    launch(
        _row_conv2d_input_grad_kernel,
        (programs,),
        row_boxes(g, config),
        row_boxes(grad, config),
        *tap_tiles(weight, config),
        *(None if other is None else row_boxes(other, config) for other in (residual, x, y)),
        mean,
        sums,
        steps,
        c,
        height,
        width,
        config=config,
        cost=cost + Cost(0, nbytes(mean, sums)),
        device=g.device,
    )
    return sums
