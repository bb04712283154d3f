"""Where windows lie in an image: their starts and ends inside kernels, and the settings and sizes of one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.launch import cdiv
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.pooling.pixels import tile_at

IntPair = int | Sequence[int]
OutputSize = int | Sequence[int | None] | None


@triton.jit
def window_start(o, size, out_size, STRIDE: tl.constexpr, PADDING: tl.constexpr, ADAPTIVE: tl.constexpr):
    """The window's first row, which may lie in the padding."""
    if ADAPTIVE:
        start = (o * size) // out_size
    else:
        start = o * STRIDE - PADDING
    return start


@triton.jit
def window_end(o, start, size, out_size, EXTENT: tl.constexpr, ADAPTIVE: tl.constexpr):
    """One past the window's last row, padding not cut off."""
    if ADAPTIVE:
        end = ((o + 1) * size + out_size - 1) // out_size
    else:
        end = start + EXTENT
    return end


@triton.jit
def tap_tile(
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
    return tile_at(n, h, w, c, x_strides), inside[:, None] & (c < channels)[None, :]


@dataclass(frozen=True)
class Windows:
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


def sliding_windows(
    op: str,
    shape: Sequence[int],
    kernel_size: IntPair,
    stride: IntPair | None,
    padding: IntPair,
    dilation: IntPair,
    ceil_mode: bool,
) -> Windows:
    """The windows that a kernel of ``kernel_size`` covers at each of its steps.

    Raises:
        TypeError, RuntimeError: if dimensions or settings make no sense.
    """
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
    return Windows(kernel, step, pad, dilated, size, (out[0], out[1]))


def adaptive_windows(op: str, shape: Sequence[int], output_size: OutputSize) -> Windows:
    """``output_size`` even windows; None keeps a dimension.

    Raises:
        TypeError, RuntimeError: if dimensions or the size make no sense.
    """
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
    return Windows((kernel[0], kernel[1]), (1, 1), (0, 0), (1, 1), size, (out[0], out[1]), adaptive=True)


def check_output_shape(op: str, x_shape: Sequence[int], windows: Windows, **outputs: Buffer) -> None:
    expected = (*x_shape[:-2], *windows.out_size)
    for name, value in outputs.items():
        if tuple(value.shape) != expected:
            raise RuntimeError(
                f"{op}: expected {name} of shape {expected} for x of shape {tuple(x_shape)}, got {tuple(value.shape)}"
            )
