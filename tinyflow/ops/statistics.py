"""Differences and integrals along a dimension, and how observations vary together."""

from __future__ import annotations

from typing import Any

from tinyflow.kernels import memory
from tinyflow.kernels.dtypes import Scalar
from tinyflow.ops import arithmetic
from tinyflow.ops.matmul import matmul
from tinyflow.ops.scan import cumsum
from tinyflow.ops.shape import cat, dimension
from tinyflow.tensor import Tensor

METHODS = ["diff", "cov", "corrcoef"]
__all__ = ["diff", "trapezoid", "trapz", "cumulative_trapezoid", "cov", "corrcoef"]


def _neighbours(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """All but the last and all but the first along ``dim``."""
    n = max(x.shape[dim] - 1, 0)
    return x.narrow(dim, 0, n), x.narrow(dim, x.shape[dim] - n, n)


def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """The ``n``-th differences of neighbours along ``dim``, with ``prepend`` and ``append`` joined on first.

    Of bools: whether they differ.

    Raises:
        RuntimeError: if ``n`` is negative or the input 0-dimensional.
    """
    if input.dim() == 0:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    d = dimension("diff", dim, input.dim())
    joined = [x for x in (prepend, input, append) if x is not None]
    x = cat(joined, d) if len(joined) > 1 and n else input
    for _ in range(n):
        left, right = _neighbours(x, d)
        x = right != left if x.dtype == memory.bool_ else right - left
    return x.clone() if n == 0 else x


def _areas(op: str, y: Tensor, x: Tensor | None, dx: Scalar | None, dim: int) -> Tensor:
    """The trapezoids between neighbours of ``y`` along ``dim``."""
    if x is not None and dx is not None:
        raise TypeError(f"{op}(): expected one of x= and dx=, got both")
    if y.dtype == memory.bool_ or (x is not None and x.dtype == memory.bool_):
        raise RuntimeError(f"{op}(): received a bool input, but bool is not supported")
    d = dimension(op, dim, y.dim())
    left, right = _neighbours(y, d)
    if x is None:
        width: Any = 1 if dx is None else dx
    else:
        if x.dim() == 1:
            x = x.reshape([-1 if k == d else 1 for k in range(y.dim())])
        if x.shape[dimension(op, dim, x.dim())] != y.shape[d]:
            raise RuntimeError(
                f"{op}(): There must be one `x` value for each sample point, got x of shape {tuple(x.shape)} and y of "
                f"shape {tuple(y.shape)}"
            )
        width = diff(x, dim=dim)
    return (left + right) * width / 2


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Scalar | None = None, dim: int = -1) -> Tensor:
    """The integral of ``y`` along ``dim`` by the trapezoidal rule, at the points ``x`` or with spacing ``dx`` (1)."""
    return _areas("trapezoid", y, x, dx, dim).sum(dim)


def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Scalar | None = None, dim: int = -1) -> Tensor:
    """The integrals of ``y`` up to each point but the first; as :func:`trapezoid`."""
    return cumsum(_areas("cumulative_trapezoid", y, x, dx, dim), dim)


trapz = trapezoid


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """The covariances of the variables in the rows of ``input``, whose columns are observations; of a vector its variance.

    ``fweights``: how often each observation was made (integers); ``aweights``: its importance.

    Raises:
        RuntimeError: for more than two dimensions, or weights of another shape or dtype.
    """
    if input.dim() > 2:
        raise RuntimeError(f"cov(): expected input to have two or fewer dimensions but got {input.dim()} dimensions")
    if input.dtype == memory.bool_:
        raise RuntimeError("cov(): bool dtype is not supported for input")
    x = input.reshape(1, -1) if input.dim() < 2 else input
    x = x if x.dtype.is_floating_point else x.to(memory.get_default_dtype())
    count = x.shape[1]
    weights: Tensor | None = None
    for name, w, floating in (("fweights", fweights, False), ("aweights", aweights, True)):
        if w is None:
            continue
        if w.dim() != 1 or w.shape[0] != count or w.dtype.is_floating_point != floating:
            raise RuntimeError(
                f"cov(): expected {name} to be a vector of {count} {'floating-point numbers' if floating else 'integers'}, "
                f"got {w.dtype} of shape {tuple(w.shape)}"
            )
        weights = w if weights is None else weights * w
    if weights is None:
        freedom: Any = count - correction
        centered = x - (x.mean(1, keepdim=True) if count else x.sum(1, keepdim=True))
        scaled = centered
    else:
        weights = weights.to(x.dtype)
        total = weights.sum()
        centered = x - (x * weights).sum(1, keepdim=True) / total
        scaled = centered * weights
        if aweights is None or correction == 0:
            freedom = total - correction
        else:
            freedom = total - correction * (weights * aweights.to(x.dtype)).sum() / total
    freedom = arithmetic.clamp(freedom, min=0) if isinstance(freedom, Tensor) else max(freedom, 0)
    result = _divided(matmul(scaled, centered.transpose(0, 1)), freedom)
    return result.reshape(()) if input.dim() < 2 else result


def _divided(x: Tensor, by: Any) -> Tensor:
    """A quotient that is infinite or NaN over 0, also where that is a Python number."""
    return x / (by if isinstance(by, Tensor) else Tensor._full((), float(by), x.dtype, x.device))


def corrcoef(input: Tensor) -> Tensor:
    """The correlations of the variables in the rows of ``input``: :func:`cov` over both deviations, within [-1, 1]."""
    if input.dim() > 2:
        raise RuntimeError(
            f"corrcoef(): expected input to have two or fewer dimensions but got {input.dim()} dimensions"
        )
    c = cov(input)
    if c.dim() == 0:
        return c / c
    deviation = c.diagonal().sqrt()
    return arithmetic.clamp(c / deviation.unsqueeze(1) / deviation.unsqueeze(0), -1, 1)
