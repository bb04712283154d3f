"""Activations under torch's names, and their gradients; those of one kernel have their curvature in operations."""

from __future__ import annotations

import math
from typing import Any

from tinyflow.autocast_mode import FULL_ON_GPU
from tinyflow.kernels import activation as kernels
from tinyflow.kernels import memory
from tinyflow.ops.arithmetic import exp, sigmoid, tanh, where
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS = ["hardshrink", "prelu"]
__all__ = [
    "celu", "celu_", "hardshrink", "prelu", "selu", "selu_", "threshold", "threshold_",
]  # fmt: skip

#: What only nn.functional exports, as torch does.
FUNCTIONAL = [
    "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu6", "silu",
    "softplus", "softshrink", "softsign", "tanhshrink",
]  # fmt: skip

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
_GELU = 1 / math.sqrt(2 * math.pi)
_GELU_TANH = math.sqrt(2 / math.pi)


def _gelu_curvature(x: Tensor) -> Tensor:
    return _GELU * exp(-0.5 * x * x) * (2 - x * x)


def _gelu_tanh_curvature(x: Tensor) -> Tensor:
    t = tanh(_GELU_TANH * (x + 0.044715 * x * x * x))
    slope, curve = _GELU_TANH * (1 + 3 * 0.044715 * x * x), _GELU_TANH * 6 * 0.044715 * x
    first = (1 - t * t) * slope
    return first + 0.5 * x * ((1 - t * t) * curve - 2 * t * first * slope)


def _silu_curvature(x: Tensor) -> Tensor:
    s = sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _mish_curvature(x: Tensor) -> Tensor:
    s, t = sigmoid(x), tanh(_softplus(x, 1.0, math.inf))
    first = s * (1 - t * t)
    return 2 * first + x * (first * (1 - s) - 2 * t * first * s)


def _softplus_curvature(x: Tensor, beta: float, threshold: float) -> Tensor:
    s = sigmoid(x * beta)
    return where(x * beta > threshold, 0.0, beta * s * (1 - s))


_gelu_grad: Op = define(
    kernels.gelu_exact_grad, grad=lambda g, x: _gelu_grad(g, x), x=lambda g, grad, x: g * grad * _gelu_curvature(x)
)
_gelu_tanh_grad: Op = define(
    kernels.gelu_tanh_grad,
    grad=lambda g, x: _gelu_tanh_grad(g, x),
    x=lambda g, grad, x: g * grad * _gelu_tanh_curvature(x),
)
_silu_grad: Op = define(
    kernels.silu_grad, grad=lambda g, x: _silu_grad(g, x), x=lambda g, grad, x: g * grad * _silu_curvature(x)
)
_mish_grad: Op = define(
    kernels.mish_grad, grad=lambda g, x: _mish_grad(g, x), x=lambda g, grad, x: g * grad * _mish_curvature(x)
)
_softplus_grad: Op = define(
    kernels.softplus_grad,
    grad=lambda g, x, beta, threshold: _softplus_grad(g, x, beta, threshold),
    x=lambda g, grad, x, beta, threshold: g * grad * _softplus_curvature(x, beta, threshold),
)
_gelu: Op = define(kernels.gelu_exact, x=lambda g, x: _gelu_grad(g, x))
_gelu_tanh: Op = define(kernels.gelu_tanh, x=lambda g, x: _gelu_tanh_grad(g, x))
_silu: Op = define(kernels.silu, x=lambda g, x: _silu_grad(g, x))
_mish: Op = define(kernels.mish, x=lambda g, x: _mish_grad(g, x))
_softplus: Op = define(
    kernels.softplus,
    autocast=FULL_ON_GPU,
    x=lambda g, x, beta, threshold: _softplus_grad(g, x, beta, threshold),
)
_logsigmoid: Op = define(kernels.logsigmoid, x=lambda g, x: g * sigmoid(-x))
_elu: Op = define(
    kernels.elu,
    x=lambda g, x, alpha, scale, input_scale: (
        g * where(x <= 0, alpha * scale * input_scale * exp(where(x <= 0, x, 0) * input_scale), scale)
    ),
)
_leaky_relu: Op = define(
    kernels.leaky_relu,
    x=lambda g, x, negative_slope: where(x > 0, g, g * negative_slope),
    negative_slope=lambda g, x: where(x > 0, 0, g * x),
)
_threshold: Op = define(kernels.threshold, x=lambda g, x, threshold: where(x <= threshold, 0, g))
_hardtanh: Op = define(kernels.hardtanh, x=lambda g, x, min_val, max_val: where((x <= min_val) | (x >= max_val), 0, g))
_hardsigmoid: Op = define(kernels.hardsigmoid, x=lambda g, x: where((x <= -3) | (x >= 3), 0, g * (1 / 6)))
_hardswish: Op = define(
    kernels.hardswish, x=lambda g, x: g * where(x <= -3, 0.0, where(x >= 3, 1.0, x * (1 / 3) + 0.5))
)
softsign: Op = define(kernels.softsign, x=lambda g, x: g / (1 + x.abs()).square())
_hardshrink: Op = define(kernels.hardshrink, x=lambda g, x, lambd: where((x >= -lambd) & (x <= lambd), 0, g))
_softshrink: Op = define(kernels.softshrink, x=lambda g, x, lambd: where((x >= -lambd) & (x <= lambd), 0, g))


def _apply(op: Op, inplace: bool, x: Tensor, *args: Any) -> Tensor:
    if not x.dtype.is_floating_point:
        raise NotImplementedError(f"{op.name}: expected a floating-point input, got {x.dtype}")
    return op.inplace(x, *args) if inplace else op(x, *args)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x·Φ(x), Φ the normal distribution's function; ``approximate="tanh"`` takes tanh in place of erf.

    Raises:
        RuntimeError: for another approximation.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate argument must be either none or tanh, got '{approximate}'")
    return _apply(_gelu_tanh if approximate == "tanh" else _gelu, False, input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x·sigmoid(x)."""
    return _apply(_silu, inplace, input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x·tanh(softplus(x))."""
    return _apply(_mish, inplace, input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(β·x)) / β; x itself where β·x is above ``threshold``."""
    return _apply(_softplus, False, input, beta, threshold)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x))."""
    return _apply(_logsigmoid, False, input)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x above 0, α·(exp(x) − 1) below."""
    return _apply(_elu, inplace, input, alpha, 1.0, 1.0)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """:func:`elu` scaled so that normal inputs stay normal."""
    return _apply(_elu, inplace, input, _SELU_ALPHA, _SELU_SCALE, 1.0)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(0, x) + min(0, α·(exp(x/α) − 1)).

    Raises:
        RuntimeError: if ``alpha`` is 0.
    """
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return _apply(_elu, inplace, input, alpha, 1.0, 1.0 / alpha)


def selu_(input: Tensor) -> Tensor:
    """In-place :func:`selu`."""
    return selu(input, inplace=True)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place :func:`celu`."""
    return celu(input, alpha, inplace=True)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x above 0, ``negative_slope``·x below."""
    return _apply(_leaky_relu, inplace, input, negative_slope)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """:func:`leaky_relu` with a learnt slope: one, or one for each channel (dimension 1).

    Raises:
        RuntimeError: if the number of slopes is neither 1 nor the number of channels.
    """
    channels = input.shape[1] if input.dim() > 1 else 1
    if weight.dim() > 1 or weight.numel() not in (1, channels):
        raise RuntimeError(
            f"prelu: expected weight to hold 1 or {channels} values in at most one dimension, got {tuple(weight.shape)}"
        )
    if weight.dim() == 1:
        weight = weight.reshape((weight.numel(),) + (1,) * max(0, input.dim() - 2) if input.dim() else ())
    return _apply(_leaky_relu, False, input, weight)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x above ``threshold``, else ``value``."""
    return _threshold.inplace(input, threshold, value) if inplace else _threshold(input, threshold, value)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """In-place :func:`threshold`."""
    return _threshold.inplace(input, threshold, value)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x held between ``min_val`` and ``max_val``.

    Raises:
        ValueError: if ``min_val`` is above ``max_val``.
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val cannot be greater than max_val, got {min_val} and {max_val}")
    if not input.dtype.is_floating_point and input.dtype != memory.bool_:
        min_val, max_val = int(min_val), int(max_val)
    return _hardtanh.inplace(input, min_val, max_val) if inplace else _hardtanh(input, min_val, max_val)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x held between 0 and 6."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6."""
    return _apply(_hardsigmoid, inplace, input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x·relu6(x + 3) / 6."""
    return _apply(_hardswish, inplace, input)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x where it is further than ``lambd`` from 0, else 0."""
    return _apply(_hardshrink, False, input, lambd)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x drawn towards 0 by ``lambd``.

    Raises:
        RuntimeError: if ``lambd`` is negative.
    """
    if lambd < 0:
        raise RuntimeError(f"softshrink: lambda must be greater or equal to 0, but found to be {lambd}.")
    return _apply(_softshrink, False, input, lambd)


def tanhshrink(input: Tensor) -> Tensor:
    """x − tanh(x)."""
    return input - tanh(input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half along ``dim`` times the sigmoid of the second.

    Raises:
        RuntimeError: if the input has no dimension, or an odd number of elements along ``dim``.
    """
    if input.dim() == 0:
        raise RuntimeError("glu does not support 0-dimensional tensors")
    size = input.shape[dim]
    if size % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim % input.dim()} is size {size}")
    return input.narrow(dim, 0, size // 2) * sigmoid(input.narrow(dim, size // 2, size // 2))
