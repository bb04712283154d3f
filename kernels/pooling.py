"""Maxima and means over windows of an image, and their gradients.

A window is where a kernel of ``kernel_size`` lands (stride, padding, dilation, as in a convolution), or, in adaptive
pooling, rows ``⌊o·size/out⌋`` to ``⌈(o+1)·size/out⌉`` for output row ``o``, and columns likewise. A kernel serves both.

Max-pooling notes which *tap* of each window won, as ``row_in_window · KERNEL_W + column_in_window``, in one byte where
that suffices: the first of equal values wins, and a NaN wins over everything, as in torch. The gradient of an input
pixel gathers from the few windows that hold it, so nothing is scattered, no atomic is needed and results are
deterministic. Max-pooling's gradient is linear and its own derivative gathers at the taps; a mean's gradient is its
transpose.

Tiles are (pixels, channels) with channels innermost: channels-last memory is the fast path, any strides are honoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, reduction, strides
from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer

IntPair = int | Sequence[int]

#: What a mean divides by: the elements of the window inside the image, those with padding, or a given number.
INSIDE, WITH_PADDING, GIVEN = 0, 1, 2

#: Up to this many taps a loop over a window is unrolled.
_UNROLLED_TAPS = 9
#: Up to this many programs, one for each remainder by the stride, are fewer than what they save.
_MOST_PHASES = 4


@triton.jit
def _pixel(p, height, width):
    """Image, row and column of flat pixels."""
    return p // (height * width), (p // width) % height, p % width


@triton.jit
def _pixel_offset(n, h, w, steps):
    return n * steps[0] + h * steps[2] + w * steps[3]


@triton.jit
def _window_start(o, size, out_size, STRIDE: tl.constexpr, PADDING: tl.constexpr, ADAPTIVE: tl.constexpr):
    if ADAPTIVE:
        start = (o * size) // out_size
    else:
        start = o * STRIDE - PADDING
    return start


@triton.jit
def _window_end(o, start, size, out_size, EXTENT: tl.constexpr, ADAPTIVE: tl.constexpr):
    """One past the window's last row, padding not cut off."""
    if ADAPTIVE:
        end = ((o + 1) * size + out_size - 1) // out_size
    else:
        end = start + EXTENT
    return end


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
def _divisor(
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
    if DIVISOR == 2:
        count = oh * 0 + given
    else:
        top = _window_start(oh, height, out_h, STRIDE_H, PADDING_H, ADAPTIVE)
        left = _window_start(ow, width, out_w, STRIDE_W, PADDING_W, ADAPTIVE)
        bottom = tl.minimum(_window_end(oh, top, height, out_h, KERNEL_H, ADAPTIVE), height + PADDING_H)
        right = tl.minimum(_window_end(ow, left, width, out_w, KERNEL_W, ADAPTIVE), width + PADDING_W)
        if DIVISOR == 0:
            top, left = tl.maximum(top, 0), tl.maximum(left, 0)
            bottom, right = tl.minimum(bottom, height), tl.minimum(right, width)
        count = (bottom - top) * (right - left)
    return count


@triton.jit
def _tile_at(n, h, w, c, steps):
    """Offsets of (pixels, channels)."""
    return _pixel_offset(n, h, w, steps)[:, None] + (c * steps[1])[None, :]


@triton.jit
def _tap_tile(
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
    """Offsets of one tap of every window, and which of them are inside."""
    h = top + (tap // KERNEL_W) * DILATION_H
    w = left + (tap % KERNEL_W) * DILATION_W
    inside = in_image & (h >= 0) & (h < bottom) & (w >= 0) & (w < right)
    return _tile_at(n, h, w, c, x_strides), inside[:, None] & (c < channels)[None, :]


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
    at, mask = _tap_tile(
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
    n, oh, ow = _pixel(p, out_h, out_w)
    top = _window_start(oh, height, out_h, STRIDE_H, PADDING_H, ADAPTIVE)
    left = _window_start(ow, width, out_w, STRIDE_W, PADDING_W, ADAPTIVE)
    bottom = tl.minimum(_window_end(oh, top, height, out_h, (KERNEL_H - 1) * DILATION_H + 1, ADAPTIVE), height)
    right = tl.minimum(_window_end(ow, left, width, out_w, (KERNEL_W - 1) * DILATION_W + 1, ADAPTIVE), width)
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
    tl.store(y_ptr + _tile_at(n, oh, ow, c, y_strides), best.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(taps_ptr + _tile_at(n, oh, ow, c, taps_strides), best_tap, mask=mask)


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
    n, h, w = _pixel(p, tl.cdiv(height, PHASES_H), tl.cdiv(width, PHASES_W))
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
        g = tl.load(g_ptr + _tile_at(n, oh, ow, c, g_strides), mask=mask, other=0).to(COMPUTE)
        if taps_ptr is not None:
            won = tl.load(taps_ptr + _tile_at(n, oh, ow, c, taps_strides), mask=mask, other=0)
            total += tl.where(won == tap.to(won.dtype)[:, None], g, 0.0)
        else:
            count = _divisor(
                oh, ow, height, width, out_h, out_w, divisor_given,
                DIVISOR, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, ADAPTIVE,
            )  # fmt: skip
            count = tl.where(holds, count, 1)
            total += g / count.to(COMPUTE)[:, None]
    mask = inside[:, None] & (c < channels)[None, :]
    tl.store(grad_x_ptr + _tile_at(n, h, w, c, grad_x_strides), total.to(grad_x_ptr.dtype.element_ty), mask=mask)


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
    n, oh, ow = _pixel(p, out_h, out_w)
    top = _window_start(oh, height, out_h, STRIDE_H, PADDING_H, ADAPTIVE)
    left = _window_start(ow, width, out_w, STRIDE_W, PADDING_W, ADAPTIVE)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    tap = tl.load(taps_ptr + _tile_at(n, oh, ow, c, taps_strides), mask=mask, other=0).to(INDEX)
    h = top[:, None] + (tap // KERNEL_W) * DILATION_H
    w = left[:, None] + (tap % KERNEL_W) * DILATION_W
    if x_ptr is None:
        selected = h.to(tl.int64) * width + w
    else:
        at = n[:, None] * x_strides[0] + (c * x_strides[1])[None, :] + h * x_strides[2] + w * x_strides[3]
        # a window wholly in padding, which dilation allows, has no winner
        inside = mask & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        selected = tl.load(x_ptr + at, mask=inside, other=0)
    tl.store(out_ptr + _tile_at(n, oh, ow, c, out_strides), selected, mask=mask)


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
    n, oh, ow = _pixel(p, out_h, out_w)
    top = _window_start(oh, height, out_h, STRIDE_H, PADDING_H, ADAPTIVE)
    left = _window_start(ow, width, out_w, STRIDE_W, PADDING_W, ADAPTIVE)
    bottom = tl.minimum(_window_end(oh, top, height, out_h, KERNEL_H, ADAPTIVE), height)
    right = tl.minimum(_window_end(ow, left, width, out_w, KERNEL_W, ADAPTIVE), width)
    total = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for tap in range(KERNEL_H * KERNEL_W):
        h = top + tap // KERNEL_W
        w = left + tap % KERNEL_W
        inside = (p < pixels) & (h >= 0) & (h < bottom) & (w >= 0) & (w < right)
        mask = inside[:, None] & (c < channels)[None, :]
        total += tl.load(x_ptr + _tile_at(n, h, w, c, x_strides), mask=mask, other=0).to(COMPUTE)
    count = _divisor(
        oh, ow, height, width, out_h, out_w, divisor_given,
        DIVISOR, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, ADAPTIVE,
    )  # fmt: skip
    y = total / count.to(COMPUTE)[:, None]
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    tl.store(y_ptr + _tile_at(n, oh, ow, c, y_strides), y.to(y_ptr.dtype.element_ty), mask=mask)


_DEEP = Config({"BLOCK_P": 32, "BLOCK_C": 64})
_FEW_CHANNELS = Config({"BLOCK_P": 128, "BLOCK_C": 16})


def _choose(pixels: int, channels: int) -> Config:
    return _DEEP if channels > 16 else _FEW_CHANNELS


def _interpreter(pixels: int, channels: int) -> Config:
    block_c = block(channels)
    return Config({"BLOCK_P": block(pixels, MAX_BLOCK // block_c), "BLOCK_C": block_c})


_SHIPPED = (_DEEP, _FEW_CHANNELS)
max_pool2d_configs = Configs("_max_pool2d_kernel", _SHIPPED, _choose, _interpreter)
max_pool2d_select_configs = Configs("_max_pool2d_select_kernel", _SHIPPED, _choose, _interpreter)
avg_pool2d_configs = Configs("_avg_pool2d_kernel", _SHIPPED, _choose, _interpreter)
pool2d_input_grad_configs = Configs("_pool2d_input_grad_kernel", _SHIPPED, _choose, _interpreter)


@dataclass(frozen=True)
class _Windows:
    """The windows of one call, rows and columns in turn."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]
    out_size: tuple[int, int]
    adaptive: bool = False

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def tap_dtype(self) -> memory.dtype:
        return memory.uint8 if self.taps <= 256 else memory.int32

    def windows_of_a_pixel(self, axis: int) -> int:
        """The most windows that hold one row (axis 0) or column (axis 1)."""
        if self.adaptive:
            size, out = self.size[axis], self.out_size[axis]
            return max(cdiv((i + 1) * out, size) - (i * out) // size for i in range(size))
        return cdiv((self.kernel[axis] - 1) * self.dilation[axis] + 1, self.stride[axis])

    def constexprs(self, *wanted: str) -> dict[str, Any]:
        named = {"KERNEL": self.kernel, "STRIDE": self.stride, "PADDING": self.padding, "DILATION": self.dilation}
        pairs = {f"{name}_{'HW'[k]}": pair[k] for name, pair in named.items() for k in (0, 1)}
        pairs = {name: value for name, value in pairs.items() if any(name.startswith(w) for w in wanted)}
        return {**pairs, "ADAPTIVE": self.adaptive}


def _pair(op: str, name: str, value: IntPair) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    if len(values) == 1:
        values *= 2
    if len(values) != 2 or not all(isinstance(v, int) for v in values):
        raise TypeError(f"{op}: expected {name} to be an int or two ints, got {value!r}")
    return values


def _check_image(op: str, shape: Sequence[int]) -> None:
    if len(shape) not in (3, 4) or 0 in shape[-2:]:
        raise RuntimeError(
            f"{op}: Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, got {tuple(shape)}"
        )


def _output_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    spare = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (spare + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:  # the last window starts in the image or in its left padding
        out -= 1
    return out


def _windows(
    op: str,
    shape: Sequence[int],
    kernel_size: IntPair,
    stride: IntPair | None,
    padding: IntPair,
    dilation: IntPair,
    ceil_mode: bool,
) -> _Windows:
    _check_image(op, shape)
    kernel = _pair(op, "kernel_size", kernel_size)
    step = kernel if stride is None or stride == () else _pair(op, "stride", stride)
    pad = _pair(op, "padding", padding)
    dilated = _pair(op, "dilation", dilation)
    for name, pair in (("kernel_size", kernel), ("stride", step), ("dilation", dilated)):
        if min(pair) < 1:
            raise RuntimeError(f"{op}: {name} should be greater than zero, but got {pair}")
    if min(pad) < 0:
        raise RuntimeError(f"{op}: pad must be non-negative, but got padding {pad}")
    if any(p > k // 2 for p, k in zip(pad, kernel)):
        raise RuntimeError(
            f"{op}: pad should be smaller than or equal to half of kernel size, "
            f"but got padding {pad} and kernel_size {kernel}"
        )
    size = (shape[-2], shape[-1])
    out = tuple(_output_size(size[k], kernel[k], step[k], pad[k], dilated[k], ceil_mode) for k in (0, 1))
    if min(out) < 1:
        raise RuntimeError(
            f"{op}: Given input size: {tuple(shape[-3:])}. Calculated output size: {(shape[-3], *out)}. "
            "Output size is too small"
        )
    return _Windows(kernel, step, pad, dilated, size, (out[0], out[1]))


def _adaptive_windows(op: str, shape: Sequence[int], output_size: int | Sequence[int | None] | None) -> _Windows:
    _check_image(op, shape)
    asked = (output_size, output_size) if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(asked) != 2:
        raise TypeError(f"{op}: expected output_size to be an int or two, each an int or None, got {output_size!r}")
    size = (shape[-2], shape[-1])
    out = tuple(n if o is None else o for o, n in zip(asked, size))
    if min(out) < 0:
        raise RuntimeError(f"{op}: elements of output_size must be greater than or equal to 0, but got {out}")
    kernel = [1, 1]
    for k in (0, 1):
        starts_ends = (((o * size[k]) // out[k], cdiv((o + 1) * size[k], out[k])) for o in range(out[k]))
        kernel[k] = max((end - start for start, end in starts_ends), default=1)
    return _Windows((kernel[0], kernel[1]), (1, 1), (0, 0), (1, 1), size, (out[0], out[1]), adaptive=True)


def _batched(x: Buffer) -> Buffer:
    if x.dim() == 4:
        return x
    return memory.as_strided(x, (1, *x.shape), (0, *x.stride()))


def _empty_image(shape: Sequence[int], dtype: memory.dtype, device: memory.device) -> Buffer:
    layout = strides.channels_last_strides(shape) if len(shape) == 4 else None
    return memory.empty(shape, dtype, device, layout)


def _launch(
    kernel: Any,
    configs: Configs,
    out: Buffer,
    others: Sequence[Buffer | None],
    sizes: Sequence[int],
    cost: Cost,
    extra: Sequence[Any] = (),
    phases: tuple[int, int] | None = None,
    **constexprs: Any,
) -> None:
    """Launches over pixels and channels of ``out``; the kernel takes pointers, sizes, then the pointers' strides.

    With ``phases``, over the pixels of every so many rows and columns at a time.
    """
    if out.numel() == 0:
        return
    channels, height, width = out.shape[-3:]
    pixels = out.numel() // channels
    if phases is not None:
        pixels = pixels // (height * width) * cdiv(height, phases[0]) * cdiv(width, phases[1])
        constexprs |= {"PHASES_H": phases[0], "PHASES_W": phases[1]}
    views = [None if v is None else _batched(v) for v in (out, *others)]
    config = configs(out.dtype, pixels=pixels, channels=channels)
    launch(
        kernel,
        (
            cdiv(pixels, config.blocks["BLOCK_P"]),
            cdiv(channels, config.blocks["BLOCK_C"]),
            1 if phases is None else phases[0] * phases[1],
        ),
        *views,
        pixels,
        channels,
        *sizes,
        *extra,
        *[None if v is None else tuple(v.stride()) for v in views],
        config=config,
        cost=cost,
        device=out.device,
        INDEX=offset_dtype(*views),
        **constexprs,
    )


def _max_pool(op: str, x: Buffer, windows: _Windows) -> tuple[Buffer, Buffer]:
    dtypes.check_floating(op, x=x)
    shape = (*x.shape[:-2], *windows.out_size)
    y = _empty_image(shape, x.dtype, x.device)
    taps = _empty_image(shape, windows.tap_dtype, x.device)
    _launch(
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


def _max_pool_input_grad(op: str, grad: Buffer, taps: Buffer, x_shape: Sequence[int], windows: _Windows) -> Buffer:
    dtypes.check_floating(op, grad=grad)
    _check_output_shape(op, x_shape, windows, grad=grad, taps=taps)
    grad_x = _empty_image(x_shape, grad.dtype, grad.device)
    return _input_grad(grad_x, grad, taps, windows, divisor=INSIDE, given=1)


def _phases(windows: _Windows, taps: Buffer | None) -> tuple[int, int]:
    """The interpreter takes pixels of one remainder by the stride together, which no or all of their windows hold."""
    if taps is not None and interpreting() and windows.stride[0] * windows.stride[1] <= _MOST_PHASES:
        return windows.stride
    return 1, 1


def _input_grad(
    grad_x: Buffer, grad: Buffer, taps: Buffer | None, windows: _Windows, divisor: int, given: int
) -> Buffer:
    held = tuple(windows.windows_of_a_pixel(k) if grad.numel() else 0 for k in (0, 1))
    _launch(
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


def _select(op: str, x: Buffer | None, taps: Buffer, x_shape: Sequence[int], windows: _Windows) -> Buffer:
    _check_output_shape(op, x_shape, windows, taps=taps)
    if x is not None and tuple(x.shape) != tuple(x_shape):
        raise RuntimeError(f"{op}: expected x of shape {tuple(x_shape)}, got {tuple(x.shape)}")
    out = _empty_image(taps.shape, memory.int64 if x is None else x.dtype, taps.device)
    _launch(
        _max_pool2d_select_kernel,
        max_pool2d_select_configs,
        out,
        (x, taps),
        (*windows.size, *windows.out_size),
        Cost(0, nbytes(out, taps) + (0 if x is None else nbytes(out))),
        **windows.constexprs("KERNEL_W", "STRIDE", "PADDING", "DILATION"),
    )
    return out


def _check_output_shape(op: str, x_shape: Sequence[int], windows: _Windows, **outputs: Buffer) -> None:
    expected = (*x_shape[:-2], *windows.out_size)
    for name, value in outputs.items():
        if tuple(value.shape) != expected:
            raise RuntimeError(
                f"{op}: expected {name} of shape {expected} for x of shape {tuple(x_shape)}, got {tuple(value.shape)}"
            )


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
        "max_pool2d", x, _windows("max_pool2d", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    )


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
        op, grad, taps, x_shape, _windows(op, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    )


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
    windows = _windows(op, x.shape, kernel_size, stride, padding, dilation, ceil_mode)
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
    windows = _windows(op, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    return _select(op, None, taps, x_shape, windows)


def adaptive_max_pool2d(x: Buffer, output_size: int | Sequence[int | None] | None) -> tuple[Buffer, Buffer]:
    """The maximum of each of ``output_size`` even windows; None keeps a dimension. Otherwise as :func:`max_pool2d`."""
    return _max_pool("adaptive_max_pool2d", x, _adaptive_windows("adaptive_max_pool2d", x.shape, output_size))


def adaptive_max_pool2d_input_grad(
    grad: Buffer, taps: Buffer, x_shape: Sequence[int], output_size: int | Sequence[int | None] | None
) -> Buffer:
    """The gradient of :func:`adaptive_max_pool2d`, as :func:`max_pool2d_input_grad`."""
    op = "adaptive_max_pool2d_input_grad"
    return _max_pool_input_grad(op, grad, taps, x_shape, _adaptive_windows(op, x_shape, output_size))


def adaptive_max_pool2d_select(x: Buffer, taps: Buffer, output_size: int | Sequence[int | None] | None) -> Buffer:
    """The elements of ``x`` that ``taps`` of :func:`adaptive_max_pool2d` points at."""
    op = "adaptive_max_pool2d_select"
    return _select(op, x, taps, x.shape, _adaptive_windows(op, x.shape, output_size))


def adaptive_max_pool2d_indices(
    taps: Buffer, x_shape: Sequence[int], output_size: int | Sequence[int | None] | None
) -> Buffer:
    """torch's indices of the winners, as :func:`max_pool2d_indices`."""
    op = "adaptive_max_pool2d_indices"
    return _select(op, None, taps, x_shape, _adaptive_windows(op, x_shape, output_size))


def _divide_by(op: str, count_include_pad: bool, divisor_override: int | None) -> tuple[int, int]:
    if divisor_override is None:
        return (WITH_PADDING if count_include_pad else INSIDE), 1
    if divisor_override == 0:
        raise RuntimeError(f"{op}: divisor must be not zero")
    return GIVEN, divisor_override


def _mean(op: str, x: Buffer, windows: _Windows, divisor: int, given: int) -> Buffer:
    dtypes.check_floating(op, x=x)
    if windows.adaptive and windows.out_size == (1, 1):
        return reduction.mean(x, (-2, -1), keepdim=True)  # whole images are long rows, which it splits over programs
    y = _empty_image((*x.shape[:-2], *windows.out_size), x.dtype, x.device)
    _launch(
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
    windows = _windows(op, x.shape, kernel_size, stride, padding, 1, ceil_mode)
    return _mean(op, x, windows, *_divide_by(op, count_include_pad, divisor_override))


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
    windows = _windows(op, x_shape, kernel_size, stride, padding, 1, ceil_mode)
    _check_output_shape(op, x_shape, windows, grad=grad)
    grad_x = _empty_image(x_shape, grad.dtype, grad.device)
    return _input_grad(grad_x, grad, None, windows, *_divide_by(op, count_include_pad, divisor_override))


def adaptive_avg_pool2d(x: Buffer, output_size: int | Sequence[int | None] | None) -> Buffer:
    """The mean of each of ``output_size`` even windows; None keeps a dimension. Otherwise as :func:`avg_pool2d`."""
    op = "adaptive_avg_pool2d"
    return _mean(op, x, _adaptive_windows(op, x.shape, output_size), INSIDE, 1)


def adaptive_avg_pool2d_input_grad(
    grad: Buffer, x_shape: Sequence[int], output_size: int | Sequence[int | None] | None
) -> Buffer:
    """The gradient of :func:`adaptive_avg_pool2d`, as :func:`avg_pool2d_input_grad`."""
    op = "adaptive_avg_pool2d_input_grad"
    dtypes.check_floating(op, grad=grad)
    windows = _adaptive_windows(op, x_shape, output_size)
    _check_output_shape(op, x_shape, windows, grad=grad)
    grad_x = _empty_image(x_shape, grad.dtype, grad.device)
    return _input_grad(grad_x, grad, None, windows, INSIDE, 1)
