"""Activations and their slopes: a line of arithmetic each, launchers of :mod:`tinyflow.kernels.elementwise`.

The gradient of an activation that has one kernel of its own is ``<name>_grad(grad, x, …) = grad · slope(x, …)``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.arithmetic import divide, logistic
from tinyflow.kernels.elementwise import FLOAT, Pointwise
from tinyflow.kernels.special import expm1_of, small_log1p


@triton.jit
def softplus_of(x):
    """log(1 + exp(x)) without overflow, and without loss where it is small."""
    return tl.where(x > 0, x, 0.0) + small_log1p(tl.exp(-tl.abs(x)))


@triton.jit
def hyperbolic_tangent(x):
    """tanh(x), from exp(-2|x|) - 1, which keeps its digits near 0."""
    e = expm1_of(-2.0 * tl.abs(x))
    t = divide(-e, 2.0 + e)
    return tl.where(x < 0, -t, tl.where(x == 0, x, t))


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.70710678118654752))


@triton.jit
def _gelu_grad(grad, x):
    cumulative = 0.5 * (1.0 + tl.erf(x * 0.70710678118654752))
    return grad * (cumulative + x * 0.39894228040143268 * tl.exp(-0.5 * x * x))


@triton.jit
def _gelu_tanh(x):
    inner = 0.79788456080286536 * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + hyperbolic_tangent(inner))


@triton.jit
def _gelu_tanh_grad(grad, x):
    t = hyperbolic_tangent(0.79788456080286536 * (x + 0.044715 * x * x * x))
    inner_slope = 0.79788456080286536 * (1.0 + 0.134145 * x * x)
    return grad * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner_slope)


@triton.jit
def _silu(x):
    return divide(x, 1.0 + tl.exp(-x))


@triton.jit
def _silu_grad(grad, x):
    s = logistic(x)
    return grad * s * (1.0 + x * (1.0 - s))


@triton.jit
def _mish(x):
    return x * hyperbolic_tangent(softplus_of(x))


@triton.jit
def _mish_grad(grad, x):
    t = hyperbolic_tangent(softplus_of(x))
    return grad * (t + x * logistic(x) * (1.0 - t * t))


@triton.jit
def _softplus(x, beta, threshold):
    scaled = x * beta
    return tl.where(scaled > threshold, x, divide(softplus_of(scaled), beta))


@triton.jit
def _softplus_grad(grad, x, beta, threshold):
    scaled = x * beta
    return tl.where(scaled > threshold, grad, grad * logistic(scaled))


@triton.jit
def _logsigmoid(x):
    return -softplus_of(-x)


@triton.jit
def _elu(x, alpha, scale, input_scale):
    return tl.where(x <= 0, expm1_of(x * input_scale) * alpha * scale, x * scale)


@triton.jit
def _leaky_relu(x, negative_slope):
    return tl.where(x > 0, x, x * negative_slope)


@triton.jit
def _threshold(x, threshold, value):
    return tl.where(x <= threshold, value, x)


@triton.jit
def _hardtanh(x, min_val, max_val):
    return tl.where(x < min_val, min_val, tl.where(x > max_val, max_val, x))


@triton.jit
def _hardsigmoid(x):
    return tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, 1.0, x * 0.16666666666666666 + 0.5))


@triton.jit
def _hardswish(x):
    return tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, x, x * (x + 3.0) * 0.16666666666666666))


@triton.jit
def _softsign(x):
    return divide(x, 1.0 + tl.abs(x))


@triton.jit
def _hardshrink(x, lambd):
    return tl.where((x >= -lambd) & (x <= lambd), 0.0, x)


@triton.jit
def _softshrink(x, lambd):
    return tl.where(x > lambd, x - lambd, tl.where(x < -lambd, x + lambd, x * 0.0))


gelu_exact = Pointwise("gelu", _gelu, FLOAT, flops=24)
gelu_exact_grad = Pointwise("gelu_grad", _gelu_grad, FLOAT, flops=30)
gelu_tanh = Pointwise("gelu", _gelu_tanh, FLOAT, flops=32)
gelu_tanh_grad = Pointwise("gelu_grad", _gelu_tanh_grad, FLOAT, flops=40)
silu = Pointwise("silu", _silu, FLOAT, flops=4)
silu_grad = Pointwise("silu_grad", _silu_grad, FLOAT, flops=7)
mish = Pointwise("mish", _mish, FLOAT, flops=65)
mish_grad = Pointwise("mish_grad", _mish_grad, FLOAT, flops=75)
softplus = Pointwise("softplus", _softplus, FLOAT, flops=42)
softplus_grad = Pointwise("softplus_grad", _softplus_grad, FLOAT, flops=6)
logsigmoid = Pointwise("logsigmoid", _logsigmoid, FLOAT, flops=41)
elu = Pointwise("elu", _elu, FLOAT, flops=20)
leaky_relu = Pointwise("leaky_relu", _leaky_relu, FLOAT)
threshold = Pointwise("threshold", _threshold, takes_bool=False)
hardtanh = Pointwise("hardtanh", _hardtanh, takes_bool=False)
hardsigmoid = Pointwise("hardsigmoid", _hardsigmoid, FLOAT, flops=2)
hardswish = Pointwise("hardswish", _hardswish, FLOAT, flops=3)
softsign = Pointwise("softsign", _softsign, FLOAT, flops=3)
hardshrink = Pointwise("hardshrink", _hardshrink, FLOAT)
softshrink = Pointwise("softshrink", _softshrink, FLOAT)
