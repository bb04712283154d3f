"""2-d convolution: forward, input gradient and weight gradient, each the derivative of the others.

All three are linear in each of two tensors out of x, weight and the output's gradient, and are the same sum of products
read three ways; so derivatives of every order stay within the three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyflow.autocast_mode import HALF
from tinyflow.kernels import conv2d as kernels
from tinyflow.kernels.conv2d.geometry import IntPair, Padding
from tinyflow.ops import reduction
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["conv2d"]


def convolution(
    forward: Callable[..., Any], input_grad: Callable[..., Any], weight_grad: Callable[..., Any], dims: int
) -> tuple[Op, Op, Op]:
    """The three operations of a convolution over ``dims`` dimensions from their launchers.

    A weight gradient, and a gradient with respect to one, may be in a wider dtype than its factors.
    """
    batch_and_space = (0, *range(2, 2 + dims))
    convolve = define(
        forward,
        autocast=HALF,
        x=lambda g, weight, x_shape, stride, padding, dilation, groups, allow_tf32: to_input(
            g, weight, x_shape, stride, padding, dilation, groups, allow_tf32
        ),
        weight=lambda g, x, weight_shape, stride, padding, dilation, groups, allow_tf32, weight_grad_dtype: to_weight(
            g, x, weight_shape, stride, padding, dilation, groups, allow_tf32, weight_grad_dtype
        ),
        bias=lambda g, bias_grad_dtype: reduction.sum(g, batch_and_space, False, bias_grad_dtype),
    )
    to_input = define(
        input_grad,
        grad=lambda g, weight, stride, padding, dilation, groups, allow_tf32: convolve(
            g, weight, None, stride, padding, dilation, groups, allow_tf32
        ),
        weight=lambda g, grad, weight_shape, stride, padding, dilation, groups, allow_tf32, weight_grad_dtype: (
            to_weight(grad, g, weight_shape, stride, padding, dilation, groups, allow_tf32, weight_grad_dtype)
        ),
    )
    to_weight = define(
        weight_grad,
        grad=lambda g, x, stride, padding, dilation, groups, allow_tf32: convolve(
            x, g.to(x.dtype), None, stride, padding, dilation, groups, allow_tf32
        ),
        x=lambda g, grad, x_shape, stride, padding, dilation, groups, allow_tf32: to_input(
            grad, g.to(grad.dtype), x_shape, stride, padding, dilation, groups, allow_tf32
        ),
    )
    return convolve, to_input, to_weight


convolve2d, conv2d_input_grad, conv2d_weight_grad = convolution(
    kernels.conv2d, kernels.conv2d_input_grad, kernels.conv2d_weight_grad, 2
)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: Padding | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """The sums of products of ``weight`` with the windows of ``input``.

    Args:
        input: (N, C, H, W), or (C, H, W) for one image.
        weight: (K, C / groups, R, S).
        bias: (K,).
        stride, dilation: an integer, or (height, width).
        padding: zeros around the image: an integer, (height, width), ((top, bottom), (left, right)), ``"valid"`` for
            none, or ``"same"`` for as many as keep the size (with stride 1).
        groups: parts into which the channels are divided; each part of the output sees its part of the input.

    Returns (N, K, P, Q) in channels-last memory, or (K, P, Q).

    Raises:
        RuntimeError: on shapes, dtypes or devices that do not fit.
        ValueError: on an unknown word for padding.
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
    """
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"conv2d: expected padding 'same', 'valid' or integers, got {padding!r}")
        same = padding == "same"
        padding = kernels.same_padding("conv2d", weight.shape[2:], stride, dilation) if same else 0
    if input.dim() != 3:
        return convolve2d(input, weight, bias, stride, padding, dilation, groups)
    y = convolve2d(input.reshape(1, *input.shape), weight, bias, stride, padding, dilation, groups)
    return y.reshape(y.shape[1:])
