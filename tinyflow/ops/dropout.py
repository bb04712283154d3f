"""Dropout of whole channels, dropout that keeps mean and variance, and draws within activations."""

from __future__ import annotations

import math
import warnings

from tinyflow.ops.activation import leaky_relu
from tinyflow.ops.arithmetic import where
from tinyflow.ops.creation import empty, empty_like, zeros_like
from tinyflow.ops.random import bernoulli_, dropout, exponential_, uniform_
from tinyflow.ops.reduction import argmax
from tinyflow.ops.scatter import scatter
from tinyflow.ops.softmax import softmax
from tinyflow.tensor import Tensor

METHODS: list[str] = []
FUNCTIONAL = [
    "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu", "gumbel_softmax",
]  # fmt: skip
__all__: list[str] = []

#: What the SELU saturates at, less its sign: a dropped element becomes that (Klambauer et al. 2017).
_SATURATION = 1.7580993408473766


def _check(p: float) -> None:
    if not 0 <= p <= 1 or math.isnan(p):
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _channels(op: str, input: Tensor, batched: bool) -> tuple[int, ...]:
    """The shape of one draw for each channel."""
    if input.dim() < 2:
        raise RuntimeError(f"{op}: expected an input with channels, got shape {tuple(input.shape)}")
    kept = 2 if batched else 1
    return (*input.shape[:kept], *[1] * (input.dim() - kept))


def _drop_channels(op: str, input: Tensor, p: float, training: bool, inplace: bool, batched: bool) -> Tensor:
    _check(p)
    if not training or p == 0:
        return input
    draw = empty(_channels(op, input, batched), dtype=input.dtype, device=input.device).fill_(1)
    factors = dropout(draw, p)
    return input.mul_(factors) if inplace else input * factors


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeros whole channels of (N, C, L) or (C, L) with probability ``p``; the rest is divided by ``1 − p``.

    Raises:
        RuntimeError: for another number of dimensions.
        ValueError: if ``p`` is not a probability.
    """
    if input.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input of shape {tuple(input.shape)}"
        )
    return _drop_channels("dropout1d", input, p, training, inplace, input.dim() == 3)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeros whole channels of (N, C, H, W) with probability ``p``; the rest is divided by ``1 − p``.

    Three dimensions are taken for (N, C, L), as torch does, with a warning.

    Raises:
        RuntimeError: for an input without channels.
        ValueError: if ``p`` is not a probability.
    """
    if input.dim() not in (3, 4):
        warnings.warn(
            f"dropout2d: Received a {input.dim()}-D input to dropout2d, where (N, C, H, W) is expected", stacklevel=3
        )
    if input.dim() == 3:
        warnings.warn(
            "dropout2d: Received a 3D input, which is taken for (N, C, L); for (C, H, W) add a dimension, "
            "for (N, C, L) use dropout1d",
            stacklevel=3,
        )
    return _drop_channels("dropout2d", input, p, training, inplace, True)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeros whole channels of (N, C, D, H, W) or (C, D, H, W) with probability ``p``; the rest is divided by ``1 − p``.

    Raises:
        RuntimeError: for an input without channels.
        ValueError: if ``p`` is not a probability.
    """
    if input.dim() not in (4, 5):
        warnings.warn(
            f"dropout3d: Received a {input.dim()}-D input to dropout3d, where (N, C, D, H, W) is expected", stacklevel=3
        )
    return _drop_channels("dropout3d", input, p, training, inplace, input.dim() != 4)


def _alpha(input: Tensor, p: float, training: bool, inplace: bool, shape: tuple[int, ...]) -> Tensor:
    _check(p)
    if not training or p == 0:
        return input
    if p == 1:
        return input.mul_(0) if inplace else input * 0
    scale = 1 / math.sqrt((_SATURATION**2 * p + 1) * (1 - p))
    kept = bernoulli_(empty(shape, dtype=input.dtype, device=input.device), 1 - p)
    shift = (kept - (1 - p)) * (_SATURATION * scale)
    return input.mul_(kept * scale).add_(shift) if inplace else input * (kept * scale) + shift


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Sets elements to the SELU's saturation with probability ``p``, then restores mean 0 and variance 1.

    Raises:
        ValueError: if ``p`` is not a probability.
    """
    return _alpha(input, p, training, inplace, tuple(input.shape))


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """:func:`alpha_dropout` of whole channels of (N, C, …).

    Raises:
        RuntimeError: for an input without channels.
        ValueError: if ``p`` is not a probability.
    """
    return _alpha(input, p, training, inplace, _channels("feature_alpha_dropout", input, True))


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """x where it is positive, else x times a slope drawn uniformly from [lower, upper); the mean slope where not training.

    Raises:
        RuntimeError: if ``lower > upper``.
    """
    if lower > upper:
        raise RuntimeError(f"rrelu: Lower bound should be less than or equal to the upper bound, got {lower} and {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    slopes = uniform_(empty_like(input.detach()), lower, upper)
    factors = where(input.detach() > 0, 1.0, slopes)
    return input.mul_(factors) if inplace else input * factors


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """The softmax of ``(logits + Gumbel noise) / tau`` along ``dim`` (Jang et al. 2017).

    Args:
        tau: temperature.
        hard: whether the result is one-hot, with the gradient of the soft one.
        eps: must be left at its default: it has had no effect in torch for long.

    Raises:
        NotImplementedError: for another ``eps``.
    """
    if eps != 1e-10:
        raise NotImplementedError("gumbel_softmax: eps has no effect in torch and is not taken; leave it out")
    noise = -exponential_(empty_like(logits.detach())).log()
    soft = softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    chosen = argmax(soft.detach(), dim, True)
    one = empty(tuple(chosen.shape), dtype=soft.dtype, device=soft.device).fill_(1)
    return scatter(zeros_like(soft.detach()), dim, chosen, one) - soft.detach() + soft
