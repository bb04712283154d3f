"""Losses of an input and a target of one shape, element by element, then averaged, summed or kept."""

from __future__ import annotations

import math
import warnings

from tinyflow import autocast_mode
from tinyflow.autocast_mode import FULL
from tinyflow.kernels import elementwise_loss as kernels
from tinyflow.kernels import strides
from tinyflow.ops.activation import logsigmoid
from tinyflow.ops.arithmetic import where
from tinyflow.ops.define import Op, define
from tinyflow.ops.loss import check_weight, l1_loss, reduced, warn_of_broadcast
from tinyflow.recording import may_read
from tinyflow.tensor import Tensor

METHODS: list[str] = []
FUNCTIONAL = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "smooth_l1_loss", "huber_loss", "kl_div",
    "soft_margin_loss", "hinge_embedding_loss", "poisson_nll_loss", "gaussian_nll_loss",
]  # fmt: skip
__all__: list[str] = []

_binary_cross_entropy: Op = define(
    kernels.binary_cross_entropy,
    x=lambda g, x, target: g * (x - target) / (x * (1 - x)).clamp(min=1e-12),
    target=lambda g, x: g * ((1 - x).log().clamp(min=-100) - x.log().clamp(min=-100)),
)
_binary_cross_entropy_with_logits: Op = define(
    kernels.binary_cross_entropy_with_logits,
    autocast=FULL,
    x=lambda g, x, target, weight, pos_weight: (
        g * weight * ((1 - target) - (1 + (pos_weight - 1) * target) * (-x).sigmoid())
    ),
    target=lambda g, x, weight, pos_weight: g * weight * (-x - (pos_weight - 1) * logsigmoid(x)),
    weight=None,
    pos_weight=None,
)
_smooth_l1: Op = define(
    kernels.smooth_l1,
    autocast=FULL,
    x=lambda g, x, target, beta: g * ((x - target) / beta).clamp(-1, 1),
    target=lambda g, x, target, beta: g * ((target - x) / beta).clamp(-1, 1),
)
_huber: Op = define(
    kernels.huber,
    autocast=FULL,
    x=lambda g, x, target, delta: g * (x - target).clamp(-delta, delta),
    target=lambda g, x, target, delta: g * (target - x).clamp(-delta, delta),
)
_kl_div: Op = define(
    kernels.kl_div,
    autocast=FULL,
    x=lambda g, target: -g * target,
    target=lambda g, x, target: g * (target.log() + 1 - x),
)
_kl_div_of_logs: Op = define(
    kernels.kl_div_of_logs,
    autocast=FULL,
    x=lambda g, target: -g * target.exp(),
    target=lambda g, x, target: g * target.exp() * (target - x + 1),
)


def _check_same_shape(op: str, input: Tensor, target: Tensor) -> None:
    if tuple(input.shape) != tuple(target.shape):
        raise ValueError(
            f"{op}: expected a target of the input's shape {tuple(input.shape)}, got {tuple(target.shape)}"
        )


def _check_positive(op: str, name: str, value: float, least: str = "> 0") -> None:
    if value < 0 or (value == 0 and least == "> 0"):
        raise RuntimeError(f"{op}: expected {name} {least}, got {value}")


def _check_broadcasts(op: str, input: Tensor, **weights: Tensor | None) -> None:
    for name, weight in weights.items():
        if weight is not None and strides.broadcast_shapes(op, input.shape, weight.shape) != tuple(input.shape):
            raise RuntimeError(
                f"{op}: expected a {name} that broadcasts to the input's shape {tuple(input.shape)}, "
                f"got {tuple(weight.shape)}"
            )


def _check_probabilities(name: str, x: Tensor) -> None:
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise RuntimeError(f"binary_cross_entropy: expected {name} in [0, 1], got an element outside")


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """``−weight · (target · log input + (1 − target) · log(1 − input))``, no logarithm below −100.

    Args:
        input: probabilities.
        target: of the same shape, between 0 and 1.
        weight: broadcasts to it.
        reduction: 'mean', 'sum' or 'none'.

    Raises:
        ValueError: if the shapes differ, or for an unknown reduction.
        RuntimeError: if the weight does not broadcast; on the CPU, if a probability or a target is outside [0, 1]; inside
            autocast, which would round them away from 0 and 1: use :func:`binary_cross_entropy_with_logits` there.
    """
    _check_same_shape("binary_cross_entropy", input, target)
    _check_broadcasts("binary_cross_entropy", input, weight=weight)
    if autocast_mode.state.active:
        raise RuntimeError(
            "binary_cross_entropy: expected no autocast, where probabilities are rounded too coarsely; "
            "use binary_cross_entropy_with_logits"
        )
    if may_read(input):
        _check_probabilities("probabilities", input)
        _check_probabilities("targets", target)
    loss = _binary_cross_entropy(input, target)
    return reduced("binary_cross_entropy", loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """:func:`binary_cross_entropy` of ``sigmoid(input)`` in one stable expression; ``pos_weight`` multiplies targets of 1.

    ``weight`` and ``pos_weight`` broadcast and have no gradient.

    Raises:
        ValueError: if the shapes differ, or for an unknown reduction.
        RuntimeError: if a weight does not broadcast to the input.
    """
    _check_same_shape("binary_cross_entropy_with_logits", input, target)
    _check_broadcasts("binary_cross_entropy_with_logits", input, weight=weight, pos_weight=pos_weight)
    loss = _binary_cross_entropy_with_logits(
        input, target, 1 if weight is None else weight, 1 if pos_weight is None else pos_weight
    )
    return reduced("binary_cross_entropy_with_logits", loss, reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """``d²/2β`` where ``d = |input − target|`` is below β, ``d − β/2`` elsewhere (Girshick 2015); β = 0 is the L1 loss.

    Raises:
        RuntimeError: if β is negative.
        ValueError: for an unknown reduction.
    """
    _check_positive("smooth_l1_loss", "beta", beta, ">= 0")
    warn_of_broadcast("smooth_l1_loss", input, target)
    if beta == 0:
        return l1_loss(input, target, reduction)
    return reduced("smooth_l1_loss", _smooth_l1(input, target, beta), reduction)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """``d²/2`` where ``d = |input − target|`` is at most δ, ``δ(d − δ/2)`` elsewhere (Huber 1964), times ``weight``.

    Raises:
        RuntimeError: if δ is not positive.
        ValueError: if the weight has another shape, or for an unknown reduction.
    """
    _check_positive("huber_loss", "delta", delta)
    warn_of_broadcast("huber_loss", input, target)
    loss = _huber(input, target, delta)
    if weight is not None:
        check_weight("huber_loss", input, weight)
        loss = loss * weight
    return reduced("huber_loss", loss, reduction)


def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """``target · (log target − input)``: the divergence of ``target`` from the distribution whose logarithm is ``input``.

    Args:
        input: logarithms of probabilities.
        target: probabilities, or their logarithms with ``log_target``.
        reduction: 'batchmean' (the sum over the first dimension's size, which is the divergence), 'mean' (over all
            elements), 'sum' or 'none'.

    Raises:
        ValueError: for an unknown reduction.
    """
    loss = (_kl_div_of_logs if log_target else _kl_div)(input, target)
    if reduction == "mean":
        warnings.warn(
            "kl_div: reduction 'mean' divides by the number of elements; 'batchmean' gives the divergence", stacklevel=3
        )
    if reduction == "batchmean":
        return loss.sum() / input.shape[0] if input.dim() else loss.sum()
    return reduced("kl_div", loss, reduction)


def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """``log(1 + exp(−target · input))``, for targets −1 and 1.

    Raises:
        ValueError: for an unknown reduction.
    """
    input, target = autocast_mode.full(input, target)
    return reduced("soft_margin_loss", -logsigmoid(target * input), reduction)


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean") -> Tensor:
    """``input`` where the target is 1, ``max(0, margin − input)`` where it is −1.

    Raises:
        ValueError: for an unknown reduction.
    """
    input, target = autocast_mode.full(input, target)
    far = where(target != 1, (margin - input).clamp(min=0), 0)
    return reduced("hinge_embedding_loss", where(target != -1, input, 0) + far, reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """Less the logarithm of Poisson's probability of ``target``: ``exp(input) − target · input``.

    Args:
        log_input: ``input`` is the rate's logarithm; else the rate, ``input − target · log(input + eps)``.
        full: with Stirling's approximation of ``log(target!)`` for targets above 1.

    Raises:
        ValueError: for an unknown reduction.
    """
    input, target = autocast_mode.full(input, target)
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        counts = where(target > 1, target, 1)
        loss = loss + where(target > 1, target * counts.log() - target + 0.5 * (2 * math.pi * counts).log(), 0)
    return reduced("poisson_nll_loss", loss, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Less the logarithm of the normal density at ``target``: ``½(log var + (input − target)² / var)``.

    Args:
        var: the variance, of the input's shape, or with a last dimension of 1 or none; no less than ``eps`` is used.
        full: with the constant ``½ log 2π``.

    Raises:
        ValueError: if ``var`` does not fit or is negative, or for an unknown reduction.
    """
    if not isinstance(var, Tensor):
        if var < 0:
            raise ValueError(f"gaussian_nll_loss: expected var >= 0, got {var}")
        var = input.new_full((), float(var)).expand_as(input)
    elif may_read(var) and bool((var < 0).any()):
        raise ValueError("gaussian_nll_loss: expected var >= 0, got an element below")
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = var.unsqueeze(-1)
        elif tuple(var.shape) != (*input.shape[:-1], 1):
            raise ValueError(
                f"gaussian_nll_loss: expected var of shape {tuple(input.shape)}, or with a last dimension of 1 or none, "
                f"got {tuple(var.shape)}"
            )
    # the bound changes the value, not the gradient
    bounded: Tensor = where(var < eps, var - var.detach() + eps, var)
    loss = 0.5 * (bounded.log() + (input - target).square() / bounded)
    return reduced("gaussian_nll_loss", loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)
