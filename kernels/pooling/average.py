"""The mean of every window."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, reduction
from tinyflow.kernels.launch import Cost, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.pooling.divisor import INSIDE, divide_by, mean_divisor
from tinyflow.kernels.pooling.pixels import empty_image, launch_over_pixels, pixel, tile_at, tiles_of
from tinyflow.kernels.pooling.windows import (
    IntPair,
    OutputSize,
    Windows,
    adaptive_windows,
    sliding_windows,
    tap_tile,
    window_end,
    window_start,
)


@triton.jit
def _avg_pool2d_kernel(
    y_ptr,
    x_ptr,
    pixels,
    channels,
    height,
    width,
    out_h,
    out_w,
    divisor_given,
    y_strides,
    x_strides,
    DIVISOR: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    n, oh, ow = pixel(p, out_h, out_w)
    top = window_start(oh, height, out_h, STRIDE_H, PADDING_H, ADAPTIVE)
    left = window_start(ow, width, out_w, STRIDE_W, PADDING_W, ADAPTIVE)
    bottom = tl.minimum(window_end(oh, top, height, out_h, KERNEL_H, ADAPTIVE), height)
    right = tl.minimum(window_end(ow, left, width, out_w, KERNEL_W, ADAPTIVE), width)
    total = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for tap in range(KERNEL_H * KERNEL_W):
        at, mask = tap_tile(tap, n, top, left, bottom, right, p < pixels, c, channels, x_strides, KERNEL_W, 1, 1)
        total += tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
    count = mean_divisor(
        oh, ow, height, width, out_h, out_w, divisor_given,
        DIVISOR, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, ADAPTIVE,
    )  # fmt: skip
    y = total / count.to(COMPUTE)[:, None]
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    tl.store(y_ptr + tile_at(n, oh, ow, c, y_strides), y.to(y_ptr.dtype.element_ty), mask=mask)


avg_pool2d_configs = tiles_of("_avg_pool2d_kernel")


def _mean(op: str, x: Buffer, windows: Windows, divisor: int, given: int) -> Buffer:
    dtypes.check_floating(op, x=x)
    if windows.adaptive and windows.out_size == (1, 1):
        return reduction.mean(x, (-2, -1), keepdim=True)  # whole images are long rows, which it splits over programs
    y = empty_image((*x.shape[:-2], *windows.out_size), x.dtype, x.device)
    launch_over_pixels(
        _avg_pool2d_kernel,
        avg_pool2d_configs,
        y,
        (x,),
        (*windows.size, *windows.out_size),
        Cost((windows.taps + 1) * y.numel(), nbytes(x, y)),
        extra=(given,),
        DIVISOR=divisor,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        **windows.constexprs("KERNEL", "STRIDE", "PADDING"),
    )
    return y


def avg_pool2d(
    x: Buffer,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Buffer:
    """The mean of every window, padding counting as zeros.

    Args:
        x: (N, C, H, W) or (C, H, W), any strides, floating point. Summed in float32 (float64 for float64).
        kernel_size, stride, padding: an int or (rows, columns); ``stride`` defaults to ``kernel_size``.
        ceil_mode: rounds the output size up; what reaches over the padding is never counted.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: divides every sum by this number instead.

    Returns:
        (N, C, OH, OW) in channels-last memory, or (C, OH, OW).

    Raises:
        TypeError, RuntimeError: if the dtype, the dimensions or the windows make no sense.

    FLOPs: one addition a tap and a division. Least bytes: ``x`` and the result once.
    """
    op = "avg_pool2d"
    windows = sliding_windows(op, x.shape, kernel_size, stride, padding, 1, ceil_mode)
    return _mean(op, x, windows, *divide_by(op, count_include_pad, divisor_override))


def adaptive_avg_pool2d(x: Buffer, output_size: OutputSize) -> Buffer:
    """The mean of each of ``output_size`` even windows; None keeps a dimension. Otherwise as :func:`avg_pool2d`."""
    op = "adaptive_avg_pool2d"
    return _mean(op, x, adaptive_windows(op, x.shape, output_size), INSIDE, 1)
