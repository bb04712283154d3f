"""What a mean over a window divides by."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.pooling.windows import window_end, window_start

#: What a mean divides by: the elements of the window inside the image, those with padding, or a given number.
INSIDE, WITH_PADDING, GIVEN = 0, 1, 2


@triton.jit
def mean_divisor(
    oh,
    ow,
    height,
    width,
    out_h,
    out_w,
    given,
    DIVISOR: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):
    """What the mean of window (oh, ow) divides by."""
    if DIVISOR == 2:
        count = oh * 0 + given
    else:
        top = window_start(oh, height, out_h, STRIDE_H, PADDING_H, ADAPTIVE)
        left = window_start(ow, width, out_w, STRIDE_W, PADDING_W, ADAPTIVE)
        bottom = tl.minimum(window_end(oh, top, height, out_h, KERNEL_H, ADAPTIVE), height + PADDING_H)
        right = tl.minimum(window_end(ow, left, width, out_w, KERNEL_W, ADAPTIVE), width + PADDING_W)
        if DIVISOR == 0:
            top, left = tl.maximum(top, 0), tl.maximum(left, 0)
            bottom, right = tl.minimum(bottom, height), tl.minimum(right, width)
        count = (bottom - top) * (right - left)
    return count


def divide_by(op: str, count_include_pad: bool, divisor_override: int | None) -> tuple[int, int]:
    """Which of the three, and the given number (1 where none is).

    Raises:
        RuntimeError: if the given number is 0.
    """
    if divisor_override is None:
        return (WITH_PADDING if count_include_pad else INSIDE), 1
    if divisor_override == 0:
        raise RuntimeError(f"{op}: divisor must be not zero")
    return GIVEN, divisor_override
