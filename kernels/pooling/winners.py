"""What the noted taps of a maximum point at: elements of ``x``, or their positions in the image."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.launch import Cost, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.pooling.pixels import empty_image, launch_over_pixels, pixel, tile_at, tiles_of
from tinyflow.kernels.pooling.windows import (
    IntPair,
    OutputSize,
    Windows,
    adaptive_windows,
    check_output_shape,
    sliding_windows,
    window_start,
)


@triton.jit
def _max_pool2d_select_kernel(
    out_ptr,
    x_ptr,  # None: write the flat position h · width + w of each winner, not its value
    taps_ptr,
    pixels,
    channels,
    height,
    width,
    out_h,
    out_w,
    out_strides,
    x_strides,
    taps_strides,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    n, oh, ow = pixel(p, out_h, out_w)
    top = window_start(oh, height, out_h, STRIDE_H, PADDING_H, ADAPTIVE)
    left = window_start(ow, width, out_w, STRIDE_W, PADDING_W, ADAPTIVE)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    tap = tl.load(taps_ptr + tile_at(n, oh, ow, c, taps_strides), mask=mask, other=0).to(INDEX)
    h = top[:, None] + (tap // KERNEL_W) * DILATION_H
    w = left[:, None] + (tap % KERNEL_W) * DILATION_W
    if x_ptr is None:
        selected = h.to(tl.int64) * width + w
    else:
        at = n[:, None] * x_strides[0] + (c * x_strides[1])[None, :] + h * x_strides[2] + w * x_strides[3]
        # a window wholly in padding, which dilation allows, has no winner
        inside = mask & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        selected = tl.load(x_ptr + at, mask=inside, other=0)
    tl.store(out_ptr + tile_at(n, oh, ow, c, out_strides), selected, mask=mask)


max_pool2d_select_configs = tiles_of("_max_pool2d_select_kernel")


def _select(op: str, x: Buffer | None, taps: Buffer, x_shape: Sequence[int], windows: Windows) -> Buffer:
    check_output_shape(op, x_shape, windows, taps=taps)
    if x is not None and tuple(x.shape) != tuple(x_shape):
        raise RuntimeError(f"{op}: expected x of shape {tuple(x_shape)}, got {tuple(x.shape)}")
    out = empty_image(taps.shape, memory.int64 if x is None else x.dtype, taps.device)
    launch_over_pixels(
        _max_pool2d_select_kernel,
        max_pool2d_select_configs,
        out,
        (x, taps),
        (*windows.size, *windows.out_size),
        Cost(0, nbytes(out, taps) + (0 if x is None else nbytes(out))),
        **windows.constexprs("KERNEL_W", "STRIDE", "PADDING", "DILATION"),
    )
    return out


def max_pool2d_select(
    x: Buffer,
    taps: Buffer,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> Buffer:
    """The elements of ``x`` that ``taps`` of :func:`max_pool2d` points at.

    The transpose of :func:`max_pool2d_input_grad`.
    FLOPs 0. Least bytes: ``taps`` and the result once, and as many elements of ``x``.
    """
    op = "max_pool2d_select"
    windows = sliding_windows(op, x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    return _select(op, x, taps, x.shape, windows)


def max_pool2d_indices(
    taps: Buffer,
    x_shape: Sequence[int],
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> Buffer:
    """torch's indices of the winners: the int64 position ``h · W + w`` in the image. FLOPs 0."""
    op = "max_pool2d_indices"
    windows = sliding_windows(op, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    return _select(op, None, taps, x_shape, windows)


def adaptive_max_pool2d_select(x: Buffer, taps: Buffer, output_size: OutputSize) -> Buffer:
    """The elements of ``x`` that ``taps`` of :func:`adaptive_max_pool2d` points at."""
    op = "adaptive_max_pool2d_select"
    return _select(op, x, taps, x.shape, adaptive_windows(op, x.shape, output_size))


def adaptive_max_pool2d_indices(taps: Buffer, x_shape: Sequence[int], output_size: OutputSize) -> Buffer:
    """torch's indices of the winners, as :func:`max_pool2d_indices`."""
    op = "adaptive_max_pool2d_indices"
    return _select(op, None, taps, x_shape, adaptive_windows(op, x_shape, output_size))
