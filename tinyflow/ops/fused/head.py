"""The end of a residual network's maps as one operation: convolution, batch normalisation, residual, ReLU, and the mean.

The map is never written, nor its gradient, which is one number for all pixels: the mask of the ReLU is made anew.
"""

from __future__ import annotations

from typing import Any

from tinyflow.autocast_mode import HALF
from tinyflow.autograd.grad_mode import is_grad_enabled
from tinyflow.kernels import fused, memory
from tinyflow.kernels.fused.convolution import Window
from tinyflow.kernels.memory import Buffer
from tinyflow.ops.arithmetic import where
from tinyflow.ops.define import define, unwrap, wrap
from tinyflow.ops.fused.batch import Batch, check_running, record_batch, statistics
from tinyflow.ops.fused.gradients import composed, input_gradient, weight_gradient
from tinyflow.tensor import Tensor


def _forward(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    residual: Buffer,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    num_batches: Buffer | None,
    batch: Batch,
) -> tuple[Buffer, ...]:
    z, mean, invstd, _ = statistics(x, conv_weight, running_mean, running_var, num_batches, batch)
    pooled, passed = fused.normalise_mean(z, (mean, invstd, weight, bias), residual)
    return pooled, z, mean, invstd, passed


def _gradients(
    g: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    residual: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    passed: Any,
    batch: Batch,
    conv_weight_grad_dtype: memory.dtype | None,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    norm = (mean._data, invstd._data, unwrap(weight), unwrap(bias))
    if is_grad_enabled():
        y = wrap(fused.normalise_act(z._data, norm, residual._data))
        h = where(y <= 0, 0.0, g / (y.shape[2] * y.shape[3]))
        return *composed(h, x, conv_weight, weight, mean, invstd, batch, conv_weight_grad_dtype), h
    need_z = needs[0] or needs[1]
    grad_z, grad_weight, grad_bias, h = fused.normalise_mean_grad(
        g._data, z._data, residual._data, norm, passed._data, batch.training, need_z, needs[4]
    )
    grad_x = input_gradient(grad_z, x, conv_weight, batch.window) if needs[0] else None
    grad_conv = weight_gradient(grad_z, x, conv_weight, batch.window, conv_weight_grad_dtype) if needs[1] else None
    return grad_x, grad_conv, wrap(grad_weight), wrap(grad_bias), wrap(h)


_conv_bn_act_mean = define(
    _forward,
    name="conv_bn_act_mean",
    outputs=("y", "z", "mean", "invstd", "passed"),
    autocast=HALF.only("x", "conv_weight", "residual"),
    joint={("x", "conv_weight", "weight", "bias", "residual"): _gradients},
    running_mean=None,
    running_var=None,
    num_batches=None,
)


def averages(height: int, width: int) -> bool:
    """True for maps that :func:`conv_bn_act_mean` takes: of a size that one program walks alone."""
    return fused.fits_mean(height * width)


def conv_bn_act_mean(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    residual: Tensor,
    window: Window = Window(),
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    num_batches: Tensor | None = None,
) -> Tensor:
    """The mean of each map of ``relu(batch_norm(conv2d(x, conv_weight)) + residual)``, (N, K, 1, 1).

    Maps are rounded before they are averaged, as if they were written. Otherwise as :func:`conv_bn_act`.

    Raises:
        ValueError: for maps that :func:`averages` refuses; else as the operations that it stands for.
    """
    check_running(training, running_mean, running_var)
    batch = Batch(window, training, momentum, eps)
    running = (running_mean, running_var, num_batches)
    y = _conv_bn_act_mean(x, conv_weight, weight, bias, residual, *running, batch)[0]
    record_batch(training, *running)
    return y
