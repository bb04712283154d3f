"""Windows of images as columns (unfold), and columns summed back into images (fold), each the other's gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinyflow.kernels import windows as kernels
from tinyflow.ops import shape
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS: list[str] = []
FUNCTIONAL = ["unfold", "fold"]
__all__: list[str] = []

IntPair = int | Sequence[int]
Pair = tuple[int, int]

_unfold: Op = define(
    kernels.unfold,
    name="im2col",
    x=lambda g, x_shape, stride, padding, dilation: _fold(g, x_shape[2:], stride, padding, dilation),
)
_fold: Op = define(
    kernels.fold,
    name="col2im",
    x=lambda g, x_shape, stride, padding, dilation: _unfold(g, x_shape[2:4], stride, padding, dilation),
)


def _pair(op: str, name: str, value: IntPair, least: int) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) == 1:
        pair = pair * 2
    if len(pair) != 2:
        raise RuntimeError(f"{op}: expected {name} to be an integer or two, got {value}")
    if min(pair) < least:
        wanted = "greater than zero" if least else "non-negative"
        raise RuntimeError(f"{op}: {name} should be {wanted}, but got {name} {pair}")
    return pair


def _windows(
    op: str, size: Pair, kernel_size: IntPair, dilation: IntPair, padding: IntPair, stride: IntPair
) -> tuple[Pair, Pair, Pair, Pair, Pair]:
    """Kernel size, dilation, padding and stride as pairs, and how many windows there are."""
    kernel = _pair(op, "kernel_size", kernel_size, 1)
    apart, around, step = (
        _pair(op, "dilation", dilation, 1),
        _pair(op, "padding", padding, 0),
        _pair(op, "stride", stride, 1),
    )
    down, across = (kernels.count(n + 2 * p, k, s, d) for n, p, k, s, d in zip(size, around, kernel, step, apart))
    if down < 1 or across < 1:
        raise RuntimeError(
            f"{op}: Given spatial size {size}, kernel_size={kernel}, dilation={apart}, padding={around}, stride={step}, "
            f"calculated shape of the array of sliding blocks as {(down, across)}, but its components must be at least one."
        )
    return kernel, apart, around, step, (down, across)


def unfold(
    input: Tensor, kernel_size: IntPair, dilation: IntPair = 1, padding: IntPair = 0, stride: IntPair = 1
) -> Tensor:
    """The windows of an image as columns: (N, C, H, W) to (N, C · kernel_h · kernel_w, windows), or without N.

    Raises:
        RuntimeError: for another number of dimensions, or if no window fits.
    """
    if input.dim() not in (3, 4) or 0 in input.shape[-3:]:
        raise RuntimeError(
            f"unfold: Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for "
            f"input, but got: {list(input.shape)}"
        )
    if input.dim() == 3:
        return shape.squeeze(unfold(shape.unsqueeze(input, 0), kernel_size, dilation, padding, stride), 0)
    size = (input.shape[2], input.shape[3])
    kernel, apart, around, step, _ = _windows("unfold", size, kernel_size, dilation, padding, stride)
    y = _unfold(input, kernel, step, around, apart)
    return shape.flatten(shape.flatten(y, 4, 5), 1, 3)


def fold(
    input: Tensor,
    output_size: IntPair,
    kernel_size: IntPair,
    dilation: IntPair = 1,
    padding: IntPair = 0,
    stride: IntPair = 1,
) -> Tensor:
    """Columns summed back into images where windows overlap: the transpose of :func:`unfold`.

    ``input``: (N, C · kernel_h · kernel_w, windows), or without N; the result: (N, C, output_h, output_w).

    Raises:
        RuntimeError: for another number of dimensions, or sizes that do not come from such windows.
    """
    if input.dim() not in (2, 3) or 0 in input.shape[-2:]:
        raise RuntimeError(
            f"fold: Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for "
            f"input, but got: {list(input.shape)}"
        )
    if input.dim() == 2:
        batched = fold(shape.unsqueeze(input, 0), output_size, kernel_size, dilation, padding, stride)
        return shape.squeeze(batched, 0)
    size = _pair("fold", "output_size", output_size, 1)
    kernel, apart, around, step, windows = _windows("fold", size, kernel_size, dilation, padding, stride)
    n, columns, blocks = input.shape
    if columns % math.prod(kernel):
        raise RuntimeError(
            f"fold: Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
            f"input.size(1)={columns} and kernel_size={kernel}."
        )
    if blocks != math.prod(windows):
        raise RuntimeError(
            f"fold: Given output_size={size}, kernel_size={kernel}, dilation={apart}, padding={around}, stride={step}, "
            f"expected size of input's dimension 2 to match the calculated number of sliding blocks {windows[0]} * "
            f"{windows[1]} = {math.prod(windows)}, but got input.size(2)={blocks}."
        )
    apart_by_tap = shape.reshape(input, n, columns // math.prod(kernel), *kernel, *windows)
    return _fold(apart_by_tap, size, step, around, apart)
