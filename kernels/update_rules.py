"""The optimisers' rules, each for one element; see :mod:`tinyflow.kernels.optimizer`.

Means over time move by ``m + (1 − β)(g − m)``. Numbers are float64: what is subtracted from 1 is so before it is rounded.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.arithmetic import divide, square_root
from tinyflow.kernels.optimizer import Update


@triton.jit
def _mean(m, x, beta):
    return m + (1.0 - beta).to(x.dtype) * (x - m)


@triton.jit
def _mean_square(v, x, beta):
    return beta.to(x.dtype) * v + (1.0 - beta).to(x.dtype) * x * x


@triton.jit
def _sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)  # 0 for NaN: such an element stays


@triton.jit
def _adam(p, g, m, v, c, beta1, beta2, eps, step_size, root_correction, r5):
    m = _mean(m, g, beta1)
    v = _mean_square(v, g, beta2)
    scale = divide(square_root(v), root_correction.to(g.dtype)) + eps.to(g.dtype)
    return p - step_size.to(g.dtype) * divide(m, scale), m, v, c


@triton.jit
def _amsgrad(p, g, m, v, largest, beta1, beta2, eps, step_size, root_correction, r5):
    m = _mean(m, g, beta1)
    v = _mean_square(v, g, beta2)
    largest = tl.maximum(largest, v, propagate_nan=tl.PropagateNan.ALL)
    scale = divide(square_root(largest), root_correction.to(g.dtype)) + eps.to(g.dtype)
    return p - step_size.to(g.dtype) * divide(m, scale), m, v, largest


@triton.jit
def _nadam(p, g, m, v, c, beta1, beta2, eps, gradient_size, mean_size, correction):
    m = _mean(m, g, beta1)
    v = _mean_square(v, g, beta2)
    scale = square_root(divide(v, correction.to(g.dtype))) + eps.to(g.dtype)
    p -= gradient_size.to(g.dtype) * divide(g, scale)
    return p - mean_size.to(g.dtype) * divide(m, scale), m, v, c


@triton.jit
def _radam(p, g, m, v, c, beta1, beta2, eps, step_size, rectification, r5):
    # a rectification of 0: the variance of the adaptive rate has no bound yet, and the step is momentum's
    m = _mean(m, g, beta1)
    v = _mean_square(v, g, beta2)
    adaptive = divide(rectification.to(g.dtype) + tl.zeros_like(v), square_root(v) + eps.to(g.dtype))
    return p - step_size.to(g.dtype) * m * tl.where(rectification > 0, adaptive, 1.0), m, v, c


@triton.jit
def _adamax(p, g, m, largest, c, beta1, beta2, eps, step_size, r4, r5):
    m = _mean(m, g, beta1)
    faded = beta2.to(g.dtype) * largest
    largest = tl.maximum(faded, tl.abs(g) + eps.to(g.dtype), propagate_nan=tl.PropagateNan.ALL)
    return p - step_size.to(g.dtype) * divide(m, largest), m, largest, c


@triton.jit
def _adagrad(p, g, total, b, c, step_size, eps, r2, r3, r4, r5):
    total += g * g
    return p - step_size.to(g.dtype) * divide(g, square_root(total) + eps.to(g.dtype)), total, b, c


@triton.jit
def _adadelta(p, g, v, moved, c, rho, eps, lr, r3, r4, r5):
    v = _mean_square(v, g, rho)
    change = divide(square_root(moved + eps.to(g.dtype)), square_root(v + eps.to(g.dtype))) * g
    moved = _mean_square(moved, change, rho)
    return p - lr.to(g.dtype) * change, v, moved, c


@triton.jit
def _rmsprop(p, g, v, b, c, alpha, eps, lr, momentum, r4, r5):
    v = _mean_square(v, g, alpha)
    return p - lr.to(g.dtype) * divide(g, square_root(v) + eps.to(g.dtype)), v, b, c


@triton.jit
def _rmsprop_momentum(p, g, v, buffer, c, alpha, eps, lr, momentum, r4, r5):
    v = _mean_square(v, g, alpha)
    buffer = momentum.to(g.dtype) * buffer + divide(g, square_root(v) + eps.to(g.dtype))
    return p - lr.to(g.dtype) * buffer, v, buffer, c


@triton.jit
def _centred_root(v, m, eps):
    return square_root(v - m * m) + eps.to(v.dtype)


@triton.jit
def _rmsprop_centred(p, g, v, m, c, alpha, eps, lr, momentum, r4, r5):
    v = _mean_square(v, g, alpha)
    m = _mean(m, g, alpha)
    return p - lr.to(g.dtype) * divide(g, _centred_root(v, m, eps)), v, m, c


@triton.jit
def _rmsprop_centred_momentum(p, g, v, m, buffer, alpha, eps, lr, momentum, r4, r5):
    v = _mean_square(v, g, alpha)
    m = _mean(m, g, alpha)
    buffer = momentum.to(g.dtype) * buffer + divide(g, _centred_root(v, m, eps))
    return p - lr.to(g.dtype) * buffer, v, m, buffer


@triton.jit
def _rprop(p, g, before, size, c, less, more, least, most, r4, r5):
    agreement = g * before
    factor = tl.where(agreement > 0, more, tl.where(agreement < 0, less, 1.0)).to(g.dtype)
    size = tl.minimum(tl.maximum(size * factor, least.to(g.dtype)), most.to(g.dtype))
    g = tl.where(agreement < 0, 0.0, g).to(g.dtype)
    return p - _sign(g) * size, g, size, c


@triton.jit
def _asgd(p, g, average, b, c, eta, mu, r2, r3, r4, r5):
    p -= eta.to(g.dtype) * g
    return p, tl.where(mu == 1, p, average + (p - average) * mu.to(g.dtype)), b, c


@triton.jit
def _lamb_direction(p, g, m, v, direction, beta1, beta2, eps, correction1, correction2, decay):
    m = _mean(m, g, beta1)
    v = _mean_square(v, g, beta2)
    scale = square_root(divide(v, correction2.to(g.dtype))) + eps.to(g.dtype)
    direction = divide(divide(m, correction1.to(g.dtype)), scale) + decay.to(g.dtype) * p
    return p, m, v, direction


@triton.jit
def _lars(p, g, buffer, b, c, lr, momentum, dampening, r3, r4, r5):
    buffer = momentum.to(g.dtype) * buffer + (1.0 - dampening).to(g.dtype) * lr.to(g.dtype) * g
    return p - buffer, buffer, b, c


@triton.jit
def _lars_nesterov(p, g, buffer, b, c, lr, momentum, dampening, r3, r4, r5):
    step = lr.to(g.dtype) * g
    buffer = momentum.to(g.dtype) * buffer + (1.0 - dampening).to(g.dtype) * step
    return p - step - momentum.to(g.dtype) * buffer, buffer, b, c


@triton.jit
def _muon(p, g, buffer, direction, c, momentum, r1, r2, r3, r4, r5):
    buffer = _mean(buffer, g, momentum)
    return p, buffer, buffer, c


@triton.jit
def _muon_nesterov(p, g, buffer, direction, c, momentum, r1, r2, r3, r4, r5):
    buffer = _mean(buffer, g, momentum)
    return p, buffer, g + momentum.to(g.dtype) * (buffer - g), c


@triton.jit
def _momentum(p, g, buffer, b, c, lr, momentum, dampening, r3, r4, r5):
    buffer = momentum.to(g.dtype) * buffer + (1.0 - dampening).to(g.dtype) * g
    return p - lr.to(g.dtype) * buffer, buffer, b, c


@triton.jit
def _momentum_begins(p, g, buffer, b, c, lr, momentum, dampening, r3, r4, r5):
    return p - lr.to(g.dtype) * g, g, b, c  # the buffer holds nothing yet, and takes the whole gradient


@triton.jit
def _nesterov(p, g, buffer, b, c, lr, momentum, dampening, r3, r4, r5):
    mu = momentum.to(g.dtype)
    buffer = mu * buffer + (1.0 - dampening).to(g.dtype) * g
    return p - lr.to(g.dtype) * (g + mu * buffer), buffer, b, c


@triton.jit
def _nesterov_begins(p, g, buffer, b, c, lr, momentum, dampening, r3, r4, r5):
    return p - lr.to(g.dtype) * (g + momentum.to(g.dtype) * g), g, b, c


@triton.jit
def _descend(p, g, a, b, c, lr, r1, r2, r3, r4, r5):
    return p - lr.to(g.dtype) * g, a, b, c


@triton.jit
def _average(p, g, a, b, c, kept, r1, r2, r3, r4, r5):
    return _mean(p, g, kept), a, b, c


@triton.jit
def _clamp(p, g, a, b, c, bound, r1, r2, r3, r4, r5):
    most = bound.to(g.dtype)
    at_least = tl.maximum(g, -most, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(at_least, most, propagate_nan=tl.PropagateNan.ALL), a, b, c


@triton.jit
def _replace(p, g, a, b, c, r0, r1, r2, r3, r4, r5):
    return g, a, b, c


momentum = Update("sgd", _momentum, states=1, flops=5)
momentum_begins = Update("sgd", _momentum_begins, states=1, flops=2, fresh=1)
nesterov = Update("sgd", _nesterov, states=1, flops=7)
nesterov_begins = Update("sgd", _nesterov_begins, states=1, flops=4, fresh=1)
adam = Update("adam", _adam, states=2, flops=12)
amsgrad = Update("amsgrad", _amsgrad, states=3, flops=13)
nadam = Update("nadam", _nadam, states=2, flops=16)
radam = Update("radam", _radam, states=2, flops=13)
adamax = Update("adamax", _adamax, states=2, flops=9)
adagrad = Update("adagrad", _adagrad, states=1, flops=7)
adadelta = Update("adadelta", _adadelta, states=2, flops=15)
rmsprop = Update("rmsprop", _rmsprop, states=1, flops=9)
rmsprop_momentum = Update("rmsprop", _rmsprop_momentum, states=2, flops=11)
rmsprop_centred = Update("rmsprop", _rmsprop_centred, states=2, flops=14)
rmsprop_centred_momentum = Update("rmsprop", _rmsprop_centred_momentum, states=3, flops=16)
rprop = Update("rprop", _rprop, states=2, flops=8)
asgd = Update("asgd", _asgd, states=1, flops=5)
lamb_direction = Update("lamb", _lamb_direction, states=3, flops=15, fresh=1, moves=False)
lars = Update("lars", _lars, states=1, flops=5)
lars_nesterov = Update("lars", _lars_nesterov, states=1, flops=7)
muon = Update("muon", _muon, states=2, flops=3, fresh=1, moves=False)
muon_nesterov = Update("muon", _muon_nesterov, states=2, flops=6, fresh=1, moves=False)
descend = Update("descend", _descend, states=0, flops=2)
average = Update("average", _average, states=0, flops=3)
clamp = Update("clamp", _clamp, states=0, flops=2)
replace = Update("scale", _replace, states=0, flops=0)
