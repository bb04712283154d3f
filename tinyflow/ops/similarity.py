"""Directions and distances of vectors, from norms."""

from __future__ import annotations

from tinyflow import autocast_mode
from tinyflow.kernels import dtypes
from tinyflow.ops.arithmetic import clamp, div, mul, sub
from tinyflow.ops.reduction import norm
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["cosine_similarity", "pairwise_distance"]
FUNCTIONAL = ["normalize"]


def normalize(
    input: Tensor, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """``input / max(‖input‖ₚ, eps)`` along ``dim``.

    Raises:
        NotImplementedError: for ``out``.
    """
    if out is not None:
        raise NotImplementedError("normalize: out= is not implemented; use the result that is returned")
    return div(input, clamp(norm(input, p, dim, True), min=eps))


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``x1·x2 / (max(‖x1‖, eps) max(‖x2‖, eps))`` along ``dim``; the inputs broadcast.

    Raises:
        RuntimeError: if neither is floating point.
    """
    if not (x1.dtype.is_floating_point or x2.dtype.is_floating_point):
        raise RuntimeError(
            f"cosine_similarity: expected common dtype to be floating point, got {x1.dtype} and {x2.dtype}"
        )
    x1, x2 = autocast_mode.full(x1, x2)
    common = dtypes.promote_types(x1.dtype, x2.dtype)
    x1, x2 = x1.to(common), x2.to(common)
    first, second = (div(x, clamp(norm(x, 2, dim, True), min=eps)) for x in (x1, x2))
    return mul(first, second).sum(dim)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """``‖x1 − x2 + eps‖ₚ`` along the last dimension; the inputs broadcast."""
    return norm(sub(x1, x2) + eps, p, -1, keepdim)
