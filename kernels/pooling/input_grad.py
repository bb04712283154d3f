"""The gradients of maxima and means: every pixel gathers from the few windows that hold it."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes
from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.launch import Cost, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.pooling.divisor import INSIDE, divide_by, mean_divisor
from tinyflow.kernels.pooling.pixels import empty_image, launch_over_pixels, pixel, tile_at, tiles_of
from tinyflow.kernels.pooling.windows import (
    IntPair,
    OutputSize,
    Windows,
    adaptive_windows,
    check_output_shape,
    sliding_windows,
)

#: Up to this many programs, one for each remainder by the stride, are fewer than what they save.
_MOST_PHASES = 4


@triton.jit
def _holding_window(
    i,
    k,
    size,
    out_size,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):
    """The ``k``-th window that may hold row ``i``: its number, which of its taps ``i`` is, and whether it does."""
    if ADAPTIVE:
        o = (i * out_size) // size + k
        tap = i - (o * size) // out_size
        holds = (o < out_size) & (tap >= 0)
    else:
        o = (i + PADDING) // STRIDE - k
        distance = i + PADDING - o * STRIDE
        tap = distance // DILATION
        holds = (o >= 0) & (o < out_size) & (distance % DILATION == 0) & (tap < KERNEL)
    return o, tap, holds


@triton.jit
def _held(
    k,
    h,
    w,
    inside,
    c,
    channels,
    height,
    width,
    out_h,
    out_w,
    WINDOWS_W: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):
    """The ``k``-th window of every pixel: row, column, which tap the pixel is, whether it is one, and the same by lane."""
    oh, tap_h, holds_h = _holding_window(
        h, k // WINDOWS_W, height, out_h, KERNEL_H, STRIDE_H, PADDING_H, DILATION_H, ADAPTIVE
    )
    ow, tap_w, holds_w = _holding_window(
        w, k % WINDOWS_W, width, out_w, KERNEL_W, STRIDE_W, PADDING_W, DILATION_W, ADAPTIVE
    )
    holds = holds_h & holds_w
    return oh, ow, tap_h * KERNEL_W + tap_w, holds, (inside & holds)[:, None] & (c < channels)[None, :]


@triton.jit
def _pool2d_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    taps_ptr,  # None for a mean
    pixels,
    channels,
    height,
    width,
    out_h,
    out_w,
    divisor_given,
    grad_x_strides,
    g_strides,
    taps_strides,
    DIVISOR: tl.constexpr,
    WINDOWS_H: tl.constexpr,
    WINDOWS_W: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    PHASES_H: tl.constexpr,  # a program takes rows h with one remainder by PHASES_H, and columns likewise
    PHASES_W: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    n, h, w = pixel(p, tl.cdiv(height, PHASES_H), tl.cdiv(width, PHASES_W))
    inside = p < pixels
    if PHASES_H * PHASES_W > 1:
        h = h * PHASES_H + tl.program_id(2) // PHASES_W
        w = w * PHASES_W + tl.program_id(2) % PHASES_W
        inside = inside & (h < height) & (w < width)
    total = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for k in range(WINDOWS_H * WINDOWS_W):
        oh, ow, tap, holds, mask = _held(
            k, h, w, inside, c, channels, height, width, out_h, out_w, WINDOWS_W,
            KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, DILATION_H, DILATION_W, ADAPTIVE,
        )  # fmt: skip
        g = tl.load(g_ptr + tile_at(n, oh, ow, c, g_strides), mask=mask, other=0).to(COMPUTE)
        if taps_ptr is not None:
            won = tl.load(taps_ptr + tile_at(n, oh, ow, c, taps_strides), mask=mask, other=0)
            total += tl.where(won == tap.to(won.dtype)[:, None], g, 0.0)
        else:
            count = mean_divisor(
                oh, ow, height, width, out_h, out_w, divisor_given,
                DIVISOR, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, ADAPTIVE,
            )  # fmt: skip
            count = tl.where(holds, count, 1)
            total += g / count.to(COMPUTE)[:, None]
    mask = inside[:, None] & (c < channels)[None, :]
    tl.store(grad_x_ptr + tile_at(n, h, w, c, grad_x_strides), total.to(grad_x_ptr.dtype.element_ty), mask=mask)


pool2d_input_grad_configs = tiles_of("_pool2d_input_grad_kernel")


def _phases(windows: Windows, taps: Buffer | None) -> tuple[int, int]:
    """The interpreter takes pixels of one remainder by the stride together, which no or all of their windows hold."""
    if taps is not None and interpreting() and windows.stride[0] * windows.stride[1] <= _MOST_PHASES:
        return windows.stride
    return 1, 1


def _input_grad(
    grad: Buffer,
    taps: Buffer | None,
    x_shape: Sequence[int],
    windows: Windows,
    divisor: int = INSIDE,
    given: int = 1,
) -> Buffer:
    grad_x = empty_image(x_shape, grad.dtype, grad.device)
    held = tuple(windows.windows_of_a_pixel(k) if grad.numel() else 0 for k in (0, 1))
    launch_over_pixels(
        _pool2d_input_grad_kernel,
        pool2d_input_grad_configs,
        grad_x,
        (grad, taps),
        (*windows.size, *windows.out_size),
        Cost(held[0] * held[1] * grad_x.numel(), nbytes(grad_x, grad, taps)),
        extra=(given,),
        phases=_phases(windows, taps),
        DIVISOR=divisor,
        WINDOWS_H=held[0],
        WINDOWS_W=held[1],
        COMPUTE=dtypes.compute_dtype(grad.dtype),
        **windows.constexprs("KERNEL", "STRIDE", "PADDING", "DILATION"),
    )
    return grad_x


def _max_pool_input_grad(op: str, grad: Buffer, taps: Buffer, x_shape: Sequence[int], windows: Windows) -> Buffer:
    dtypes.check_floating(op, grad=grad)
    check_output_shape(op, x_shape, windows, grad=grad, taps=taps)
    return _input_grad(grad, taps, x_shape, windows)


def max_pool2d_input_grad(
    grad: Buffer,
    taps: Buffer,
    x_shape: Sequence[int],
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> Buffer:
    """The gradient of :func:`max_pool2d`: each ``grad`` goes to the element that won its window.

    ``grad`` and ``taps`` have the output's shape, any strides; returns ``x_shape`` in the dtype of ``grad``.
    FLOPs: one addition for each window that holds a pixel. Least bytes: ``grad``, ``taps`` and the result once.
    """
    op = "max_pool2d_input_grad"
    return _max_pool_input_grad(
        op, grad, taps, x_shape, sliding_windows(op, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    )


def adaptive_max_pool2d_input_grad(
    grad: Buffer, taps: Buffer, x_shape: Sequence[int], output_size: OutputSize
) -> Buffer:
    """The gradient of :func:`adaptive_max_pool2d`, as :func:`max_pool2d_input_grad`."""
    op = "adaptive_max_pool2d_input_grad"
    return _max_pool_input_grad(op, grad, taps, x_shape, adaptive_windows(op, x_shape, output_size))


def avg_pool2d_input_grad(
    grad: Buffer,
    x_shape: Sequence[int],
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Buffer:
    """The gradient of :func:`avg_pool2d`, its transpose: a pixel sums ``grad / divisor`` of the windows that hold it.

    FLOPs: two for each window that holds a pixel. Least bytes: ``grad`` and the result once.
    """
    op = "avg_pool2d_input_grad"
    dtypes.check_floating(op, grad=grad)
    windows = sliding_windows(op, x_shape, kernel_size, stride, padding, 1, ceil_mode)
    check_output_shape(op, x_shape, windows, grad=grad)
    return _input_grad(grad, None, x_shape, windows, *divide_by(op, count_include_pad, divisor_override))


def adaptive_avg_pool2d_input_grad(grad: Buffer, x_shape: Sequence[int], output_size: OutputSize) -> Buffer:
    """The gradient of :func:`adaptive_avg_pool2d`, as :func:`avg_pool2d_input_grad`."""
    op = "adaptive_avg_pool2d_input_grad"
    dtypes.check_floating(op, grad=grad)
    windows = adaptive_windows(op, x_shape, output_size)
    check_output_shape(op, x_shape, windows, grad=grad)
    return _input_grad(grad, None, x_shape, windows)
