"""Pooling and its gradients, each linear in what flows through it: derivatives of every order stay in the family."""

from __future__ import annotations

from tinyflow.kernels import pooling as kernels
from tinyflow.kernels.pooling import IntPair, OutputSize
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d"]

_max_pool2d = define(
    kernels.max_pool2d,
    outputs=("y", "taps"),
    x=lambda g, taps, x_shape, kernel_size, stride, padding, dilation, ceil_mode: max_pool2d_input_grad(
        g, taps, x_shape, kernel_size, stride, padding, dilation, ceil_mode
    ),
)
max_pool2d_input_grad: Op = define(
    kernels.max_pool2d_input_grad,
    grad=lambda g, taps, kernel_size, stride, padding, dilation, ceil_mode: max_pool2d_select(
        g, taps, kernel_size, stride, padding, dilation, ceil_mode
    ),
    taps=None,
)
max_pool2d_select: Op = define(
    kernels.max_pool2d_select,
    x=lambda g, taps, x_shape, kernel_size, stride, padding, dilation, ceil_mode: max_pool2d_input_grad(
        g, taps, x_shape, kernel_size, stride, padding, dilation, ceil_mode
    ),
    taps=None,
)
_max_pool2d_indices = define(kernels.max_pool2d_indices, taps=None)

_adaptive_max_pool2d = define(
    kernels.adaptive_max_pool2d,
    outputs=("y", "taps"),
    x=lambda g, taps, x_shape, output_size: adaptive_max_pool2d_input_grad(g, taps, x_shape, output_size),
)
adaptive_max_pool2d_input_grad: Op = define(
    kernels.adaptive_max_pool2d_input_grad,
    grad=lambda g, taps, output_size: adaptive_max_pool2d_select(g, taps, output_size),
    taps=None,
)
adaptive_max_pool2d_select: Op = define(
    kernels.adaptive_max_pool2d_select,
    x=lambda g, taps, x_shape, output_size: adaptive_max_pool2d_input_grad(g, taps, x_shape, output_size),
    taps=None,
)
_adaptive_max_pool2d_indices = define(kernels.adaptive_max_pool2d_indices, taps=None)

_avg_pool2d = define(
    kernels.avg_pool2d,
    x=lambda g, x_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: (
        avg_pool2d_input_grad(g, x_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    ),
)
avg_pool2d_input_grad: Op = define(
    kernels.avg_pool2d_input_grad,
    grad=lambda g, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: _avg_pool2d(
        g, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    ),
)

_adaptive_avg_pool2d = define(
    kernels.adaptive_avg_pool2d,
    x=lambda g, x_shape, output_size: adaptive_avg_pool2d_input_grad(g, x_shape, output_size),
)
adaptive_avg_pool2d_input_grad: Op = define(
    kernels.adaptive_avg_pool2d_input_grad,
    grad=lambda g, output_size: _adaptive_avg_pool2d(g, output_size),
)


def max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The maximum of every window of (N, C, H, W) or (C, H, W); padding counts as −inf, a NaN wins.

    With ``return_indices`` also the int64 position ``h · W + w`` of each maximum, the first of equal ones.
    """
    y, taps = _max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return y
    return y, _max_pool2d_indices(taps, input.shape, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of every window of (N, C, H, W) or (C, H, W); padding is zeros, which ``count_include_pad`` counts."""
    return _avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def adaptive_avg_pool2d(input: Tensor, output_size: OutputSize) -> Tensor:
    """The mean of each of ``output_size`` even windows of (N, C, H, W) or (C, H, W); None keeps a dimension."""
    return _adaptive_avg_pool2d(input, output_size)


def adaptive_max_pool2d(
    input: Tensor, output_size: OutputSize, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """The maximum of each of ``output_size`` even windows; otherwise as :func:`max_pool2d`."""
    y, taps = _adaptive_max_pool2d(input, output_size)
    return (y, _adaptive_max_pool2d_indices(taps, input.shape, output_size)) if return_indices else y
