"""Losses. Cross entropy is fused both ways; the derivative of its gradient goes through softmax.

Where nobody scales the loss, what flows back into it is a one: then the forward pass makes the gradient too, from the
logits that it has in hand, and the backward pass launches nothing. It is bit for bit what the backward pass would make.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

from tinyflow import autocast_mode
from tinyflow.autocast_mode import FULL
from tinyflow.autograd.engine import is_one
from tinyflow.autograd.grad_mode import is_grad_enabled
from tinyflow.kernels import loss as kernels
from tinyflow.kernels.loss import MEAN, NONE, SUM
from tinyflow.kernels.memory import Buffer
from tinyflow.ops.arithmetic import abs as absolute
from tinyflow.ops.arithmetic import square, where
from tinyflow.ops.creation import ones
from tinyflow.ops.define import Op, define, unwrap
from tinyflow.ops.softmax import log_softmax, softmax, softmax_input_grad
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["cross_entropy", "l1_loss", "mse_loss", "nll_loss"]


def _class_dim(x: Tensor) -> int:
    return 1 if x.dim() > 1 else 0


def _logits_slope(g: Any, grad: Any, x: Any, factor: Any, total: Any) -> Any:
    """The gradient is ``scale · softmax(x)`` less a constant, ``scale = grad · factor / total`` for each row."""
    scale = grad * factor if total is None else grad * factor / total
    scale = where(factor == 0, 0.0, scale)  # ignored rows: the mean of nothing divides by 0
    dim = _class_dim(x)
    return scale.unsqueeze(dim) * softmax_input_grad(g, softmax(x, dim), dim)


def _upstream_slope(
    g: Any,
    grad_shape: tuple[int, ...],
    x: Any,
    target: Any,
    weight: Any,
    normalizer: Any,
    factor: Any,
    total: Any,
    ignore_index: int,
    label_smoothing: float,
) -> Any:
    """The gradient is linear in ``grad``, which multiplies a row or everything."""
    one = ones(grad_shape, dtype=x.dtype, device=x.device)
    product = g * cross_entropy_input_grad(
        one, x, target, weight, normalizer, factor, total, ignore_index, label_smoothing
    )
    return product.sum(_class_dim(x)) if tuple(grad_shape) == tuple(factor.shape) else product.sum()


cross_entropy_input_grad: Op = define(
    kernels.cross_entropy_input_grad,
    grad=_upstream_slope,
    x=_logits_slope,
    target=None,
    weight=None,
    normalizer=None,
    factor=None,
    total=None,
)


class _Habit(threading.local):
    """Whether the last gradient that arrived at a cross entropy was a one, for which its own is made beforehand."""

    one = True


_habit = _Habit()


class _Made:
    """The gradient of a loss, made beside it; it goes to one walk, which may write over it."""

    def __init__(self) -> None:
        self.grad: Tensor | None = None

    def take(self) -> Tensor | None:
        grad, self.grad = self.grad, None
        return grad


def cross_entropy_forward(
    x: Buffer,
    target: Buffer,
    weight: Buffer | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    made: _Made | None,
) -> tuple[Buffer | None, ...]:
    """The loss and what its gradient needs, with ``made`` the gradient too; see :mod:`tinyflow.kernels.loss`."""
    options = ignore_index, reduction, label_smoothing
    if made is None:
        return *kernels.cross_entropy(x, target, weight, *options), None
    return kernels.cross_entropy_with_grad(x, target, weight, *options)


def _loss_slope(
    g: Any,
    x: Any,
    target: Any,
    weight: Any,
    normalizer: Any,
    factor: Any,
    total: Any,
    ignore_index: int,
    label_smoothing: float,
    made: _Made | None,
) -> Any:
    _habit.one = is_one(g)
    if made is not None and not is_grad_enabled():
        grad = made.take()
        if grad is not None and _habit.one:
            return grad
    return cross_entropy_input_grad(g, x, target, weight, normalizer, factor, total, ignore_index, label_smoothing)


_cross_entropy = define(
    cross_entropy_forward,
    name="cross_entropy",
    autocast=FULL,
    outputs=("loss", "normalizer", "factor", "total", "grad"),
    x=_loss_slope,
    target=None,
    weight=None,
)


def _nll_upstream_slope(
    g: Any, grad_shape: tuple[int, ...], target: Any, weight: Any, total: Any, ignore_index: int
) -> Any:
    """The loss is linear in ``x``: along ``g`` it grows by the loss of ``g``."""
    unreduced = tuple(grad_shape) == tuple(target.shape)
    reduction = MEAN if total is not None else NONE if unreduced else SUM
    return _nll_loss(g, target, weight, ignore_index, reduction)[0]


nll_loss_input_grad: Op = define(
    kernels.nll_loss_input_grad, grad=_nll_upstream_slope, target=None, weight=None, total=None
)
_nll_loss = define(
    kernels.nll_loss,
    autocast=FULL,
    outputs=("loss", "total"),
    x=lambda g, target, weight, total, x_shape, ignore_index: nll_loss_input_grad(
        g, target, weight, total, x_shape, ignore_index
    ),
    target=None,
    weight=None,
)


def reduced(op: str, values: Any, reduction: str) -> Tensor:
    if reduction not in (MEAN, SUM, NONE):
        raise ValueError(f"{op}: {reduction} is not a valid value for reduction; expected 'mean', 'sum' or 'none'")
    if reduction == NONE:
        return values
    return values.mean() if reduction == MEAN else values.sum()


def _probabilities_cross_entropy(x: Any, target: Any, weight: Any, reduction: str, label_smoothing: float) -> Tensor:
    """Cross entropy whose target has a gradient too."""
    dim = _class_dim(x)
    classes = x.shape[dim]
    q = target * (1 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        q = q * weight.reshape((-1,) + (1,) * (x.dim() - 1 - dim))
    return reduced("cross_entropy", -(q * log_softmax(x, dim)).sum(dim), reduction)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross entropy between logits and targets.

    Args:
        input: logits (C,), (N, C) or (N, C, d1, ...).
        target: class indices in int64, the shape of ``input`` without C; or probabilities of the shape of ``input``.
        weight: (C,), a factor for each class; it has no gradient.
        ignore_index: indices that count for nothing.
        reduction: 'mean' (over the weights of rows that count), 'sum' or 'none'.
        label_smoothing: share of the target that is spread evenly over all classes.

    Raises:
        IndexError: for an index out of range on the CPU. On a GPU its loss is NaN: looking would wait for the device.
        ValueError, RuntimeError, TypeError: if shapes, dtypes, devices or parameters do not fit.
    """
    if target.requires_grad:
        input, target, weight = autocast_mode.full(input, target, weight)
        x, q, w = (unwrap(t) for t in (input, target, weight))
        kernels.check_cross_entropy(x, q, w, ignore_index, reduction, label_smoothing)
        return _probabilities_cross_entropy(input, target, weight, reduction, label_smoothing)
    follows = input.requires_grad and is_grad_enabled() and reduction != NONE
    made = _Made() if follows and _habit.one else None
    loss, *_, grad = _cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing, made)
    if made is not None:
        made.grad = grad
    return loss


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """``−weight[t] · input[t]`` for class indices ``t`` and log-probabilities; otherwise as :func:`cross_entropy`."""
    return _nll_loss(input, target, weight, ignore_index, reduction)[0]


def warn_of_broadcast(op: str, input: Any, target: Any) -> None:
    if input.shape != target.shape:
        warnings.warn(
            f"{op}: a target size {tuple(target.shape)} that is different to the input size {tuple(input.shape)} "
            "broadcasts, which is rarely meant; give both one shape",
            stacklevel=4,
        )


def check_weight(op: str, input: Any, weight: Any) -> None:
    if weight.shape != input.shape:
        raise ValueError(
            f"{op}: expected a weight of the input's shape {tuple(input.shape)}, got {tuple(weight.shape)}"
        )


def _weighted(op: str, loss: Any, reduction: str, weight: Tensor | None) -> Tensor:
    """The mean is over the weights."""
    if weight is None:
        return reduced(op, loss, reduction)
    check_weight(op, loss, weight)
    if reduction == MEAN:
        return (loss * weight).sum() / weight.sum()
    return reduced(op, loss * weight, reduction)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean", *, weight: Tensor | None = None) -> Tensor:
    """``(input − target)²``, times ``weight``, averaged (over the weights), summed or as it is.

    Raises:
        ValueError: for an unknown reduction, or a weight of another shape.
    """
    warn_of_broadcast("mse_loss", input, target)
    input, target = autocast_mode.full(input, target)
    return _weighted("mse_loss", square(input - target), reduction, weight)


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", *, weight: Tensor | None = None) -> Tensor:
    """``|input − target|``, times ``weight``, averaged (over the weights), summed or as it is.

    Raises:
        ValueError: for an unknown reduction, or a weight of another shape.
    """
    warn_of_broadcast("l1_loss", input, target)
    input, target = autocast_mode.full(input, target)
    return _weighted("l1_loss", absolute(input - target), reduction, weight)
