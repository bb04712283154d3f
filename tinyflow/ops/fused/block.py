"""Convolution, batch normalisation, residual and ReLU as one operation; with a shortcut that forks off, or joins.

Forward is the convolution with statistics and one pass; back are the passes of ``kernels.fused`` and the convolution's two
gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyflow.autocast_mode import HALF
from tinyflow.autograd.grad_mode import is_grad_enabled
from tinyflow.kernels import fused, memory
from tinyflow.kernels.fused import convolution
from tinyflow.kernels.fused.convolution import Window
from tinyflow.kernels.fused.normalise import NO_ACT, RELU
from tinyflow.kernels.memory import Buffer
from tinyflow.ops.arithmetic import where
from tinyflow.ops.define import define, unwrap, wrap
from tinyflow.ops.fused.batch import Batch, check_running, record_batch, statistics
from tinyflow.ops.fused.gradients import Delivery, composed, input_gradient, weight_gradient
from tinyflow.tensor import Tensor


def _forward(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    residual: Buffer | None,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    num_batches: Buffer | None,
    batch: Batch,
    act: str,
    delivery: Delivery,
) -> tuple[Buffer, ...]:
    z, mean, invstd, _ = statistics(x, conv_weight, running_mean, running_var, num_batches, batch)
    return fused.normalise_act(z, (mean, invstd, weight, bias), residual, act), z, mean, invstd


def _forward_fork(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    residual: Buffer | None,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    num_batches: Buffer | None,
    batch: Batch,
    act: str,
    delivery: Delivery,
) -> tuple[Buffer, ...]:
    running = (running_mean, running_var, num_batches)
    return *_forward(x, conv_weight, weight, bias, residual, *running, batch, act, delivery), memory.detach(x)


def _forward_joined(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    x_short: Buffer,
    conv_weight_short: Buffer,
    weight_short: Buffer | None,
    bias_short: Buffer | None,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    num_batches: Buffer | None,
    running_mean_short: Buffer | None,
    running_var_short: Buffer | None,
    num_batches_short: Buffer | None,
    batch: Batch,
    batch_short: Batch,
    delivery: Delivery,
    act: str = RELU,
) -> tuple[Buffer, ...]:
    z, mean, invstd, _ = statistics(x, conv_weight, running_mean, running_var, num_batches, batch)
    running_short = (running_mean_short, running_var_short, num_batches_short)
    short = statistics(x_short, conv_weight_short, *running_short, batch_short)
    norm_short = (short.mean, short.invstd, weight_short, bias_short)
    y = fused.normalise_act(z, (mean, invstd, weight, bias), short.z, act, norm_short)
    return y, z, mean, invstd, *short[:3]


def _gradients(
    g: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    residual_shape: tuple[int, ...],
    y: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    batch: Batch,
    act: str,
    delivery: Delivery,
    conv_weight_grad_dtype: memory.dtype | None,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    return _backward(
        g, None, x, conv_weight, weight, bias, residual_shape, y, z, mean, invstd, batch, act, delivery,
        conv_weight_grad_dtype, needs,
    )  # fmt: skip


def _backward(
    g: Any,
    g_shortcut: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    residual_shape: tuple[int, ...],
    y: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    batch: Batch,
    act: str,
    delivery: Delivery,
    conv_weight_grad_dtype: memory.dtype | None,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    if is_grad_enabled():
        h = g if act == NO_ACT else where(y.detach() <= 0, 0.0, g)
        grad_x, *others = composed(h, x, conv_weight, weight, mean, invstd, batch, conv_weight_grad_dtype)
        return grad_x if g_shortcut is None else grad_x + g_shortcut, *others, h if residual_shape else None
    window, training, _, _ = batch
    norm = (mean._data, invstd._data, unwrap(weight), unwrap(bias))
    sums = delivery.take(g)
    if sums is not None and sums.affine is not None and training and needs[1]:
        made = convolution.conv2d_weight_grad_through(
            g._data, z._data, sums.affine, x._data, tuple(conv_weight.shape), window, conv_weight_grad_dtype
        )
        if made is not None:
            grad_conv_weight, grad_z = made
            grad_x = input_gradient(grad_z, x, conv_weight, window, g_shortcut) if needs[0] else None
            affine_grads = wrap(sums.grad_weight), wrap(sums.grad_bias)
            return grad_x, wrap(grad_conv_weight), *affine_grads, g if residual_shape else None
    found, grad_weight, grad_bias, h = fused.normalise_act_grad(
        g._data, z._data, y._data, norm, act, training, residual_shape != (), sums, need_x=needs[0] or needs[1]
    )
    residual_grad = g if h is g._data else wrap(h)
    grad_x = input_gradient(found, x, conv_weight, window, g_shortcut) if needs[0] else None
    grad_conv = weight_gradient(found, x, conv_weight, window, conv_weight_grad_dtype) if needs[1] else None
    return grad_x, grad_conv, wrap(grad_weight), wrap(grad_bias), residual_grad


def _joined_gradients(
    g: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    x_short: Any,
    conv_weight_short: Any,
    weight_short: Any,
    y: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    z_short: Any,
    mean_short: Any,
    invstd_short: Any,
    batch: Batch,
    batch_short: Batch,
    delivery: Delivery,
    act: str,
    conv_weight_grad_dtype: memory.dtype | None,
    conv_weight_short_grad_dtype: memory.dtype | None,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    # the shortcut's branch is a normalisation without ReLU of the gradient that a residual would get
    residual_shape = tuple(z.shape)
    *main, h = _backward(
        g, None, x, conv_weight, weight, bias, residual_shape, y, z, mean, invstd, batch, act, delivery,
        conv_weight_grad_dtype, needs[:4],
    )  # fmt: skip
    *short, _ = _backward(
        h, None, x_short, conv_weight_short, weight_short, None, (), z_short, z_short, mean_short, invstd_short,
        batch_short, NO_ACT, Delivery(), conv_weight_short_grad_dtype, needs[4:],
    )  # fmt: skip
    return *main, *short


_INPUTS = ("x", "conv_weight", "weight", "bias", "residual")
_conv_bn_act = define(
    _forward,
    name="conv_bn_act",
    outputs=("y", "z", "mean", "invstd"),
    autocast=HALF.only("x", "conv_weight", "residual"),
    joint={_INPUTS: _gradients},
    running_mean=None,
    running_var=None,
    num_batches=None,
)
_conv_bn_act_fork = define(
    _forward_fork,
    name="conv_bn_act",
    outputs=("y", "z", "mean", "invstd", "shortcut"),
    autocast=HALF.only("x", "conv_weight", "residual"),
    joint={_INPUTS: _backward},
    running_mean=None,
    running_var=None,
    num_batches=None,
)
_JOINED = (*_INPUTS[:4], "x_short", "conv_weight_short", "weight_short", "bias_short")
_conv_bn_joined = define(
    _forward_joined,
    name="conv_bn_joined",
    autocast=HALF.only("x", "conv_weight", "x_short", "conv_weight_short"),
    outputs=("y", "z", "mean", "invstd", "z_short", "mean_short", "invstd_short"),
    joint={_JOINED: _joined_gradients},
    running_mean=None,
    running_var=None,
    num_batches=None,
    running_mean_short=None,
    running_var_short=None,
    num_batches_short=None,
)


def conv_bn_act(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    residual: Tensor | None = None,
    act: str = RELU,
    window: Window = Window(),
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    num_batches: Tensor | None = None,
) -> Tensor:
    """``act(batch_norm(conv2d(x, conv_weight)) + residual)``.

    Args:
        x: (N, C, H, W).
        conv_weight: (K, C / groups, R, S), of the dtype of ``x``.
        weight, bias, running_mean, running_var: (K,), as in :func:`tinyflow.batch_norm`.
        residual: (N, K, P, Q), or None.
        act: 'relu' or 'none'.
        window: stride, padding, dilation and groups of the convolution.
        training, momentum, eps: as in :func:`tinyflow.batch_norm`.
        num_batches: one int64, becomes one more in training; or None.

    Returns (N, K, P, Q) in channels-last memory.

    Raises:
        ValueError, RuntimeError, TypeError: as the operations that it stands for.
    """
    check_running(training, running_mean, running_var)
    batch = Batch(window, training, momentum, eps)
    running = (running_mean, running_var, num_batches)
    y = _conv_bn_act(x, conv_weight, weight, bias, residual, *running, batch, act, Delivery())[0]
    record_batch(training, *running)
    return y


def conv_bn_act_fork(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    act: str = RELU,
    window: Window = Window(),
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    num_batches: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`conv_bn_act`, and ``x`` itself to take a shortcut: its gradient comes back through this operation.

    What flows back by the shortcut is then added where the convolution's input gradient is made.
    """
    check_running(training, running_mean, running_var)
    batch = Batch(window, training, momentum, eps)
    running = (running_mean, running_var, num_batches)
    y, _, _, _, shortcut = _conv_bn_act_fork(x, conv_weight, weight, bias, None, *running, batch, act, Delivery())
    shortcut._counter = x._counter  # one memory, one version
    record_batch(training, *running)
    return y, shortcut


class Branch(NamedTuple):
    """What a convolution and the batch normalisation behind it take."""

    x: Tensor
    conv_weight: Tensor
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    batch: Batch
    num_batches: Tensor | None = None

    @property
    def running(self) -> tuple[Tensor | None, ...]:
        """What a training batch updates."""
        return self.running_mean, self.running_var, self.num_batches


def conv_bn_joined(main: Branch, short: Branch) -> Tensor:
    """``relu(batch_norm(conv2d(main)) + batch_norm(conv2d(short)))``: both are normalised as they are added.

    Raises:
        ValueError, RuntimeError, TypeError: as the operations that it stands for.
    """
    for branch in (main, short):
        check_running(branch.batch.training, branch.running_mean, branch.running_var)
    running = (*main.running, *short.running)
    y = _conv_bn_joined(*main[:4], *short[:4], *running, main.batch, short.batch, Delivery())[0]
    for branch in (main, short):
        record_batch(branch.batch.training, *branch.running)
    return y
