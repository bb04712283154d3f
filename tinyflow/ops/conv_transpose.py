"""Transposed convolution over one, two and three dimensions: the input gradient of a convolution as an operation.

Its own gradients are that convolution and that convolution's weight gradient, so derivatives of every order stay in the
family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyflow.autocast_mode import HALF
from tinyflow.kernels import conv_transpose as kernels
from tinyflow.ops import reduction
from tinyflow.ops.conv2d import conv2d_weight_grad, convolve2d
from tinyflow.ops.conv_nd import Single, check_dims, conv3d_weight_grad, convolve3d, flat, single
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import cat
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

Ints = int | Sequence[int]


def _transposed(launcher: Callable[..., Any], convolve: Op, weight_grad: Op, dims: int) -> Op:
    batch_and_space = (0, *range(2, 2 + dims))
    return define(
        launcher,
        autocast=HALF,
        x=lambda g, weight, stride, padding, dilation, groups, allow_tf32: convolve(
            g, weight, None, stride, padding, dilation, groups, allow_tf32
        ),
        weight=lambda g, x, weight_shape, stride, padding, dilation, groups, allow_tf32, weight_grad_dtype: weight_grad(
            x, g, weight_shape, stride, padding, dilation, groups, allow_tf32, weight_grad_dtype
        ),
        bias=lambda g, bias_grad_dtype: reduction.sum(g, batch_and_space, False, bias_grad_dtype),
    )


_conv_transpose2d = _transposed(kernels.conv_transpose2d, convolve2d, conv2d_weight_grad, 2)
_conv_transpose3d = _transposed(kernels.conv_transpose3d, convolve3d, conv3d_weight_grad, 3)


def _each(op: str, name: str, value: Ints, ndim: int) -> list[int]:
    values = [value] * ndim if isinstance(value, int) else list(value)
    if len(values) == 1:
        values *= ndim
    if len(values) != ndim or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise TypeError(f"{op}: expected {name} to be an integer or {ndim} integers, got {value!r}")
    return values


def _conv_transpose(
    op: Op,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> Tensor:
    ndim = weight.dim() - 2
    settings: Any = (
        ("stride", stride),
        ("padding", padding),
        ("output_padding", output_padding),
        ("dilation", dilation),
    )
    steps, around, extra, spread = (_each(op.name, name, value, ndim) for name, value in settings)
    if min(steps) < 1:
        raise RuntimeError(f"{op.name}: expected stride of at least 1, got {steps}")
    if any(e >= max(s, d) for e, s, d in zip(extra, steps, spread)):
        raise RuntimeError(
            f"{op.name}: output padding must be smaller than either stride or dilation, but got output_padding: {extra}, "
            f"stride: {steps}, dilation: {spread}"
        )
    for axis, (e, s) in enumerate(zip(extra, steps)):
        if e >= s:  # as many rows of zeros after the input as whole strides
            shape = [*input.shape]
            shape[2 + axis] = e // s
            input = cat([input, Tensor._zeros(tuple(shape), input.dtype, input.device)], 2 + axis)
            extra[axis] = e % s
    return op(input, weight, bias, tuple(steps), tuple(around), tuple(extra), groups, tuple(spread))


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Single = 1,
    padding: Single = 0,
    output_padding: Single = 0,
    groups: int = 1,
    dilation: Single = 1,
) -> Tensor:
    """:func:`conv_transpose2d` over one dimension: ``input`` (N, C, L) or (C, L), ``weight`` (C, K / groups, S)."""
    op = "conv_transpose1d"
    check_dims(op, input, weight, 1)
    step, around = (1, single(op, "stride", stride)), (0, single(op, "padding", padding))
    extra, spread = (0, single(op, "output_padding", output_padding)), (1, single(op, "dilation", dilation))
    batched = input.dim() == 3
    x = flat(input if batched else input.reshape(1, *input.shape))
    y = _conv_transpose(_conv_transpose2d, x, flat(weight), bias, step, around, extra, groups, spread)
    return y.reshape(y.shape[0], y.shape[1], y.shape[3]) if batched else y.reshape(y.shape[1], y.shape[3])


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """The input gradient of the convolution with these settings, as a layer.

    Args:
        input: (N, C, H, W), or (C, H, W) for one image.
        weight: (C, K / groups, R, S).
        bias: (K,).
        stride, dilation: step between the windows that inputs are spread over, and between taps in one.
        padding: rows and columns cut off each side of the result.
        output_padding: rows and columns more at the end of the result.
        groups: parts into which the channels are divided; each part of the output sees its part of the input.

    Returns (N, K, P, Q) in channels-last memory, ``P = (H − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1``.

    Raises:
        RuntimeError: on shapes, dtypes or devices that do not fit, or an output padding of a stride or a dilation or more.
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
    """
    check_dims("conv_transpose2d", input, weight, 2)
    x = input if input.dim() == 4 else input.reshape(1, *input.shape)
    y = _conv_transpose(_conv_transpose2d, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return y if input.dim() == 4 else y.reshape(y.shape[1:])


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """:func:`conv_transpose2d` over three dimensions.

    ``input`` is (N, C, D, H, W) or (C, D, H, W), ``weight`` (C, K / groups, T, R, S).
    """
    check_dims("conv_transpose3d", input, weight, 3)
    x = input if input.dim() == 5 else input.reshape(1, *input.shape)
    y = _conv_transpose(_conv_transpose3d, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return y if input.dim() == 5 else y.reshape(y.shape[1:])
