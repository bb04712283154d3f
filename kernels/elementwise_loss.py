"""Losses of single elements: a line of arithmetic each, launchers of :mod:`tinyflow.kernels.elementwise`."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.activation import softplus_of
from tinyflow.kernels.arithmetic import divide
from tinyflow.kernels.elementwise import FLOAT, Pointwise


@triton.jit
def _binary_cross_entropy(x, target):
    present = tl.maximum(tl.log(x), -100.0, propagate_nan=tl.PropagateNan.ALL)
    absent = tl.maximum(tl.log(1.0 - x), -100.0, propagate_nan=tl.PropagateNan.ALL)
    return -(target * present + (1.0 - target) * absent)


@triton.jit
def _binary_cross_entropy_with_logits(x, target, weight, pos_weight):
    return weight * ((1.0 - target) * x + (1.0 + (pos_weight - 1.0) * target) * softplus_of(-x))


@triton.jit
def _smooth_l1(x, target, beta):
    d = tl.abs(x - target)
    return tl.where(d < beta, divide(0.5 * d * d, beta), d - 0.5 * beta)


@triton.jit
def _huber(x, target, delta):
    d = tl.abs(x - target)
    return tl.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))


@triton.jit
def _kl_div(x, target):
    return tl.where(target == 0, 0.0, target * tl.log(target)) - target * x


@triton.jit
def _kl_div_of_logs(x, target):
    return tl.exp(target) * (target - x)


binary_cross_entropy = Pointwise("binary_cross_entropy", _binary_cross_entropy, FLOAT, flops=46)
binary_cross_entropy_with_logits = Pointwise(
    "binary_cross_entropy_with_logits", _binary_cross_entropy_with_logits, FLOAT, flops=48
)
smooth_l1 = Pointwise("smooth_l1_loss", _smooth_l1, FLOAT, flops=6)
huber = Pointwise("huber_loss", _huber, FLOAT, flops=6)
kl_div = Pointwise("kl_div", _kl_div, FLOAT, flops=24)
kl_div_of_logs = Pointwise("kl_div", _kl_div_of_logs, FLOAT, flops=12)
