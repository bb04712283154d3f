"""The maximum of every window, and which tap of it won."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes
from tinyflow.kernels.launch import Cost, nbytes
from tinyflow.kernels.memory import Buffer
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

#: Up to this many taps a loop over a window is unrolled.
_UNROLLED_TAPS = 9


@triton.jit
def _max_of_tap(
    x_ptr,
    best,
    best_tap,
    tap,
    n,
    top,
    left,
    bottom,
    right,
    in_image,
    c,
    channels,
    x_strides,
    KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
):
    at, mask = tap_tile(
        tap, n, top, left, bottom, right, in_image, c, channels, x_strides, KERNEL_W, DILATION_H, DILATION_W
    )
    x = tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(best.dtype)
    better = (x > best) | (x != x)
    best = tl.maximum(x, best, propagate_nan=tl.PropagateNan.ALL)
    return best, tl.where(better, tl.cast(tap, best_tap.dtype), best_tap)


@triton.jit
def _max_pool2d_kernel(
    y_ptr,
    taps_ptr,
    x_ptr,
    pixels,
    channels,
    height,
    width,
    out_h,
    out_w,
    y_strides,
    taps_strides,
    x_strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    UNROLL: tl.constexpr,
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
    bottom = tl.minimum(window_end(oh, top, height, out_h, (KERNEL_H - 1) * DILATION_H + 1, ADAPTIVE), height)
    right = tl.minimum(window_end(ow, left, width, out_w, (KERNEL_W - 1) * DILATION_W + 1, ADAPTIVE), width)
    first_h = (tl.maximum(-top, 0) + DILATION_H - 1) // DILATION_H
    first_w = (tl.maximum(-left, 0) + DILATION_W - 1) // DILATION_W
    best = tl.full([BLOCK_P, BLOCK_C], float("-inf"), COMPUTE)
    # a window of nothing but -inf points at its first element
    first_tap = (first_h * KERNEL_W + first_w).to(taps_ptr.dtype.element_ty)
    best_tap = tl.broadcast_to(first_tap[:, None], BLOCK_P, BLOCK_C)
    if UNROLL:
        for tap in tl.static_range(KERNEL_H * KERNEL_W):
            best, best_tap = _max_of_tap(
                x_ptr, best, best_tap, tap, n, top, left, bottom, right, p < pixels, c, channels, x_strides,
                KERNEL_W, DILATION_H, DILATION_W,
            )  # fmt: skip
    else:
        for tap in range(KERNEL_H * KERNEL_W):
            best, best_tap = _max_of_tap(
                x_ptr, best, best_tap, tap, n, top, left, bottom, right, p < pixels, c, channels, x_strides,
                KERNEL_W, DILATION_H, DILATION_W,
            )  # fmt: skip
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    tl.store(y_ptr + tile_at(n, oh, ow, c, y_strides), best.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(taps_ptr + tile_at(n, oh, ow, c, taps_strides), best_tap, mask=mask)


max_pool2d_configs = tiles_of("_max_pool2d_kernel")


def _max_pool(op: str, x: Buffer, windows: Windows) -> tuple[Buffer, Buffer]:
    dtypes.check_floating(op, x=x)
    shape = (*x.shape[:-2], *windows.out_size)
    y = empty_image(shape, x.dtype, x.device)
    taps = empty_image(shape, windows.tap_dtype, x.device)
    launch_over_pixels(
        _max_pool2d_kernel,
        max_pool2d_configs,
        y,
        (taps, x),
        (*windows.size, *windows.out_size),
        Cost(windows.taps * y.numel(), nbytes(x, y, taps)),
        UNROLL=windows.taps <= _UNROLLED_TAPS,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        **windows.constexprs("KERNEL", "STRIDE", "PADDING", "DILATION"),
    )
    return y, taps


def max_pool2d(
    x: Buffer,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> tuple[Buffer, Buffer]:
    """The maximum of every window: ``y[n, c, o, q] = max of x[n, c, o·stride − padding + r·dilation, …]``.

    Args:
        x: (N, C, H, W) or (C, H, W), any strides, floating point; padding counts as −inf.
        kernel_size, stride, padding, dilation: an int or (rows, columns); ``stride`` defaults to ``kernel_size``.
        ceil_mode: rounds the output size up, so that a last window may reach over the edge.

    Returns:
        ``y`` and ``taps`` (uint8, int32 above 256 taps): which element of its window won. Channels-last memory for 4-d.

    Raises:
        TypeError, RuntimeError: if the dtype, the dimensions or the windows make no sense.

    FLOPs: one comparison a tap. Least bytes: ``x``, ``y`` and ``taps`` once.
    """
    return _max_pool(
        "max_pool2d", x, sliding_windows("max_pool2d", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    )


def adaptive_max_pool2d(x: Buffer, output_size: OutputSize) -> tuple[Buffer, Buffer]:
    """The maximum of each of ``output_size`` even windows; None keeps a dimension. Otherwise as :func:`max_pool2d`."""
    return _max_pool("adaptive_max_pool2d", x, adaptive_windows("adaptive_max_pool2d", x.shape, output_size))
