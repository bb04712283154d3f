"""Losses of what should differ by a margin: classes, rankings, pairs and triplets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyflow import autocast_mode
from tinyflow.kernels import memory
from tinyflow.ops.activation import logsigmoid
from tinyflow.ops.arithmetic import minimum, where
from tinyflow.ops.creation import arange
from tinyflow.ops.indexing import index_select
from tinyflow.ops.loss import reduced
from tinyflow.ops.reduction import norm
from tinyflow.ops.scatter import gather
from tinyflow.tensor import Tensor

METHODS: list[str] = []
FUNCTIONAL = [
    "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss",
    "cosine_embedding_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip
__all__: list[str] = []

#: Keeps the cosine of a zero vector a number, as torch's loss has it.
_TINY = 1e-12


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, *, reduction: str = "mean"
) -> Tensor:
    """``max(0, −target · (input1 − input2) + margin)``; a target of 1 wants ``input1`` higher, −1 ``input2``.

    Raises:
        RuntimeError: if the operands have different numbers of dimensions.
        ValueError: for an unknown reduction.
    """
    if not input1.dim() == input2.dim() == target.dim():
        raise RuntimeError(
            "margin_ranking_loss: expected inputs and target of as many dimensions, got shapes "
            f"{tuple(input1.shape)}, {tuple(input2.shape)} and {tuple(target.shape)}"
        )
    input1, input2, target = autocast_mode.full(input1, input2, target)
    return reduced("margin_ranking_loss", (-target * (input1 - input2) + margin).clamp(min=0), reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """``Σ_{c ≠ t} weight[t] · max(0, margin − x_t + x_c)^p / C`` for scores x (N, C) or (C,) and classes t (N,) or ().

    Raises:
        ValueError: if ``p`` is neither 1 nor 2, if the weight is no vector, or for an unknown reduction.
        RuntimeError: if the shapes do not fit.
    """
    if weight is not None and tuple(weight.shape) != tuple(input.shape[-1:]):
        raise (ValueError if weight.dim() != 1 else RuntimeError)(
            f"multi_margin_loss: expected a weight for each class of {tuple(input.shape)}, got {tuple(weight.shape)}"
        )
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: expected p to be 1 or 2, got {p}")
    input, weight = autocast_mode.full(input, weight)
    scores, classes = _rows("multi_margin_loss", input, target, input.dim() - 1)
    classes = classes.reshape(-1, 1)
    over = (margin - gather(scores, 1, classes) + scores).clamp(min=0)
    over = over if p == 1 else over.square()
    if weight is not None:
        over = over * index_select(weight, 0, classes.reshape(-1)).unsqueeze(1)
    others = arange(scores.shape[1], device=input.device) != classes
    loss = where(others, over, 0).sum(1) / scores.shape[1]
    return reduced("multi_margin_loss", loss.reshape(target.shape), reduction)


def _rows(op: str, input: Tensor, target: Tensor, target_dim: int) -> tuple[Tensor, Tensor]:
    """Scores as (N, C), and targets with N rows if they have the dimensions of the scores."""
    if input.dim() not in (1, 2) or target.dim() != target_dim or input.shape[0] != (
        target.shape[0] if target.dim() else input.shape[0]
    ):  # fmt: skip
        expected = "(N,), or (C,) and ()" if target_dim < input.dim() else "(N, C), or (C,) and (C,)"
        raise RuntimeError(
            f"{op}: expected scores (N, C) and targets {expected}, "
            f"got shapes {tuple(input.shape)} and {tuple(target.shape)}"
        )
    if input.dim() == 2:
        return input, target
    return input.unsqueeze(0), target.unsqueeze(0) if target_dim else target


def multilabel_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """``Σ_{t, c ∉ T} max(0, 1 − x_t + x_c) / C`` over each row's classes t ∈ T, listed in ``target`` until a −1.

    Takes N·C² elements of memory.

    Args:
        input: scores (N, C) or (C,).
        target: int64 of that shape.

    Raises:
        RuntimeError: if the shapes do not fit.
        ValueError: for an unknown reduction.
    """
    (input,) = autocast_mode.full(input)
    scores, listed = _rows("multilabel_margin_loss", input, target, input.dim())
    if listed.shape != scores.shape:
        raise RuntimeError(
            f"multilabel_margin_loss: expected a target of shape {tuple(input.shape)}, got {tuple(target.shape)}"
        )
    count = scores.shape[1]
    counts = (listed < 0).to(memory.int64).cumsum(1) == 0  # what stands before the first -1
    listed = where(counts, listed, 0)
    classes = arange(count, device=input.device)
    wanted = ((listed.unsqueeze(2) == classes) & counts.unsqueeze(2)).any(1)  # (N, class)
    over = (1 - gather(scores, 1, listed).unsqueeze(2) + scores.unsqueeze(1)).clamp(min=0)  # (N, listed, class)
    loss = where(counts.unsqueeze(2) & ~wanted.unsqueeze(1), over, 0).sum((1, 2)) / count
    return reduced("multilabel_margin_loss", loss.reshape(input.shape[:-1]), reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """``−Σ_c weight_c (t_c log σ(x_c) + (1 − t_c) log σ(−x_c)) / C`` over the last dimension.

    Raises:
        ValueError: for an unknown reduction.
    """
    loss = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    loss = loss if weight is None else loss * weight
    return reduced("multilabel_soft_margin_loss", loss.mean(-1), reduction)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, *, reduction: str = "mean"
) -> Tensor:
    """``1 − cos(input1, input2)`` where the target is 1, ``max(0, cos − margin)`` where it is −1.

    Args:
        input1, input2: (N, D) or (D,).
        target: (N,) or ().

    Raises:
        RuntimeError: if the shapes do not fit.
        ValueError: for an unknown reduction.
    """
    if input1.dim() not in (1, 2) or input1.dim() != input2.dim() or target.dim() != input1.dim() - 1:
        raise RuntimeError(
            "cosine_embedding_loss: expected inputs (N, D) and a target (N,), or (D,) and (), got shapes "
            f"{tuple(input1.shape)}, {tuple(input2.shape)} and {tuple(target.shape)}"
        )
    input1, input2, target = autocast_mode.full(input1, input2, target)
    squares = (input1.square().sum(-1) + _TINY) * (input2.square().sum(-1) + _TINY)
    cosine = (input1 * input2).sum(-1) / squares.sqrt()
    far = where(target == -1, (cosine - margin).clamp(min=0), 0)
    return reduced("cosine_embedding_loss", where(target == 1, 1 - cosine, 0) + far, reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """``max(0, d(anchor, positive) − d(anchor, negative) + margin)`` with ``d(a, b) = ‖a − b + eps‖_p`` (Balntas 2016).

    Args:
        anchor, positive, negative: (N, D) or (D,).
        swap: takes the negative's distance from the positive where that is the smaller one.

    Raises:
        RuntimeError: if the numbers of dimensions differ.
        ValueError: if the margin is not positive, or for an unknown reduction.
    """
    if not anchor.dim() == positive.dim() == negative.dim():
        raise RuntimeError(
            "triplet_margin_loss: expected anchor, positive and negative of as many dimensions, got shapes "
            f"{tuple(anchor.shape)}, {tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    return triplet_margin_with_distance_loss(
        *autocast_mode.full(anchor, positive, negative),
        distance_function=lambda a, b: norm(a - b + eps, p, -1),
        margin=margin,
        swap=swap,
        reduction=reduction,
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """:func:`triplet_margin_loss` with any distance, ``‖a − b + 1e-6‖₂`` if none is given.

    Raises:
        ValueError: if the margin is not positive, or for an unknown reduction.
    """
    if margin <= 0:
        raise ValueError(f"triplet_margin_loss: expected margin > 0, got {margin}")
    distance: Callable[[Tensor, Tensor], Any] = distance_function or (lambda a, b: norm(a - b + 1e-6, 2, -1))
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced("triplet_margin_loss", (near - far + margin).clamp(min=0), reduction)
