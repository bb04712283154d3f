"""Distances between the rows of matrices."""

from __future__ import annotations

from tinyflow import autocast_mode
from tinyflow.ops.arithmetic import sub
from tinyflow.ops.diagonals import triu_indices
from tinyflow.ops.indexing import index_select
from tinyflow.ops.reduction import norm
from tinyflow.ops.shape import unbind, unsqueeze
from tinyflow.tensor import Tensor

METHODS = ["dist"]
__all__ = ["dist", "cdist", "pdist"]

_MODES = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The ``p``-norm of ``input - other``, which broadcast: a 0-d tensor."""
    input, other = autocast_mode.full(input, other)
    return norm(sub(input, other), p)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """The ``p``-norm distance of every row of ``x1`` from every row of ``x2``: (\\*, P, M) and (\\*, R, M) give (\\*, P, R).

    Always from differences, which loses nothing where rows are close; it takes P·R·M elements of memory.

    Args:
        compute_mode: one of torch's three words; where they allow a matrix product, differences are no less exact.

    Raises:
        RuntimeError: if the rows differ in length, or ``p`` is negative.
        ValueError: for another ``compute_mode``.
    """
    if compute_mode is not None and compute_mode not in _MODES:
        raise ValueError(f"cdist: expected compute_mode to be one of {_MODES}, got '{compute_mode}'")
    if x1.dim() < 2 or x2.dim() < 2 or x1.shape[-1] != x2.shape[-1]:
        raise RuntimeError(
            f"cdist: expected shapes (*, P, M) and (*, R, M), got {tuple(x1.shape)} and {tuple(x2.shape)}"
        )
    _check_order("cdist", p)
    x1, x2 = autocast_mode.full(x1, x2)
    return norm(sub(unsqueeze(x1, -2), unsqueeze(x2, -3)), p, -1)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The ``p``-norm distance of every pair of rows i < j of (N, M), in order: a vector of N (N - 1) / 2.

    Raises:
        RuntimeError: if the input is no matrix, or ``p`` is negative.
    """
    if input.dim() != 2:
        raise RuntimeError(f"pdist: expected a matrix (N, M), got shape {tuple(input.shape)}")
    _check_order("pdist", p)
    (input,) = autocast_mode.full(input)
    first, second = unbind(triu_indices(input.shape[0], input.shape[0], 1, device=input.device))
    return norm(sub(index_select(input, 0, first), index_select(input, 0, second)), p, -1)


def _check_order(op: str, p: float) -> None:
    if p < 0:
        raise RuntimeError(f"{op}: expected p >= 0, got {p}")
