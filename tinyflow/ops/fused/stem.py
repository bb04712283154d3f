"""A network's stem as one operation: convolution, batch normalisation, ReLU, and a max-pooling.

What flows back into a pooled value goes to one element of the map between, the winner, whose ReLU is the pooled value's. So
an upper operation can deliver to this one too: the sums of the batch normalisation follow from the winners alone.
"""

from __future__ import annotations

from typing import Any

from tinyflow import autocast_mode
from tinyflow.autocast_mode import HALF
from tinyflow.autograd.grad_mode import carries_tangents, is_grad_enabled
from tinyflow.kernels import fused, memory
from tinyflow.kernels.fused import convolution
from tinyflow.kernels.fused.convolution import Window
from tinyflow.kernels.fused.normalise import RELU
from tinyflow.kernels.memory import Buffer, float64
from tinyflow.ops.arithmetic import where
from tinyflow.ops.define import define, unwrap, wrap
from tinyflow.ops.fused.batch import Batch, check_running, record_batch, statistics
from tinyflow.ops.fused.gradients import Delivery, composed, input_gradient, weight_gradient
from tinyflow.ops.pooling import max_pool2d_input_grad
from tinyflow.tensor import Tensor

#: Kernel, stride, padding, dilation and rounding of the pooling.
_POOL = (3, 2, 1, 1, False)


def _forward_pool(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    num_batches: Buffer | None,
    batch: Batch,
    delivery: Delivery,
    rounds: bool = False,
    act: str = RELU,
) -> tuple[Buffer | None, ...]:
    z, mean, invstd, folded = statistics(x, conv_weight, running_mean, running_var, num_batches, batch, rounds)
    return *fused.normalise_pool(z, (mean, invstd, weight, bias)), z, mean, invstd, folded


def _pool_gradients(
    g: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    y: Any,
    taps: Any,
    winners: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    folded: Any,
    batch: Batch,
    delivery: Delivery,
    act: str,
    conv_weight_grad_dtype: memory.dtype | None,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    window, training, _, _ = batch
    norm = (mean._data, invstd._data, unwrap(weight), unwrap(bias))
    if is_grad_enabled():
        h = max_pool2d_input_grad(g, taps, tuple(z.shape), *_POOL)
        h = where(wrap(fused.normalise_act(z._data, norm)) <= 0, 0.0, h)
        rounded = x.to(conv_weight.dtype)
        return composed(h, rounded, conv_weight, weight, mean, invstd, batch, conv_weight_grad_dtype)
    sums = delivery.take(g)
    pooled = g._data, y._data, taps._data, winners._data
    if folded is not None and training and not needs[0] and needs[1]:
        made = convolution.stem_grad(
            *pooled, z._data, norm, tuple(x.shape), folded._data, tuple(conv_weight.shape), window, sums,
            conv_weight_grad_dtype,
        )  # fmt: skip
        return None, *map(wrap, made)
    need_x = needs[0] or needs[1]
    grad_z, grad_weight, grad_bias = fused.normalise_pool_grad(
        g._data, taps._data, winners._data, z._data, norm, training, need_x, sums
    )
    grad_x = input_gradient(grad_z, x, conv_weight, window) if needs[0] else None
    grad_conv = weight_gradient(grad_z, x, conv_weight, window, conv_weight_grad_dtype) if needs[1] else None
    return grad_x, grad_conv, wrap(grad_weight), wrap(grad_bias)


_conv_bn_relu_pool = define(
    _forward_pool,
    name="conv_bn_relu_pool",
    outputs=("y", "taps", "winners", "z", "mean", "invstd", "folded"),
    autocast=HALF.only("conv_weight"),  # the image's cast may be part of its fold
    joint={("x", "conv_weight", "weight", "bias"): _pool_gradients},
    running_mean=None,
    running_var=None,
    num_batches=None,
)


def _rounds(x: Tensor, conv_weight: Tensor, batch: Batch) -> bool:
    """Whether an autocast region's cast of the image is done as it is folded, and needs no pass of its own."""
    if not autocast_mode.is_autocast_enabled(x.device.type) or not batch.training:
        return False
    if x.requires_grad or carries_tangents() or conv_weight.dtype == float64:
        return False
    dtype = autocast_mode.get_autocast_dtype(x.device.type)
    return x.dtype != dtype and convolution.rounds_image(x._data, conv_weight.shape, batch.window, dtype)


def conv_bn_relu_pool(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    window: Window = Window(),
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    num_batches: Tensor | None = None,
) -> Tensor:
    """``max_pool2d(relu(batch_norm(conv2d(x, conv_weight))), 3, stride=2, padding=1)``, otherwise as :func:`conv_bn_act`."""
    check_running(training, running_mean, running_var)
    batch = Batch(window, training, momentum, eps)
    running = (running_mean, running_var, num_batches)
    rounds = _rounds(x, conv_weight, batch)
    if not rounds:
        (x,) = autocast_mode.half(x)
    y = _conv_bn_relu_pool(x, conv_weight, weight, bias, *running, batch, Delivery(), rounds)[0]
    record_batch(training, *running)
    return y
