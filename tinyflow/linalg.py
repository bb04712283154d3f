"""Linear algebra under the names that torch gives it; factorisations and solvers are not part of tinyflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyflow.kernels import memory
from tinyflow.operands import guard
from tinyflow.ops import reduction, shape
from tinyflow.ops.creation import arange
from tinyflow.ops.matmul import matmul as matmul
from tinyflow.ops.matmul import matrix_power as matrix_power
from tinyflow.tensor import Tensor

Dims = int | Sequence[int] | None

__all__ = [
    "cross", "diagonal", "matmul", "matrix_norm", "matrix_power", "multi_dot", "norm", "vander", "vecdot", "vector_norm",
]  # fmt: skip


def vector_norm(
    x: Tensor, ord: float = 2, dim: Dims = None, keepdim: bool = False, *, dtype: memory.dtype | None = None
) -> Tensor:
    """``(Σ |x|^ord)^(1/ord)`` over ``dim``, or all elements; ``ord`` is any number, ±infinity, or 0 (how many are nonzero).

    Raises:
        RuntimeError: if ``x`` is not floating point.
    """
    _check_floating("linalg.vector_norm", x if dtype is None else x.to(dtype))
    return reduction.norm(x, ord, dim, keepdim, dtype=dtype)


def matrix_norm(
    A: Tensor,
    ord: float | str = "fro",
    dim: tuple[int, int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: memory.dtype | None = None,
) -> Tensor:
    """A norm of the matrices in two dimensions: "fro" (of all elements), ±1 (columns' sums), ±infinity (rows' sums).

    Raises:
        RuntimeError: if ``A`` has no two such dimensions, or is not floating point.
        NotImplementedError: for "nuc" and ±2, which need singular values.
    """
    A = A if dtype is None else A.to(dtype)
    _check_floating("linalg.matrix_norm", A)
    if len(dim) != 2 or A.dim() < 2:
        raise RuntimeError(f"linalg.matrix_norm: expected two dimensions of a matrix, got dim={dim}, shape {tuple(A.shape)}")
    rows, columns = (shape.dimension("linalg.matrix_norm", d, A.dim()) for d in dim)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: expected two different dimensions, got dim={dim}")
    if ord == "fro":
        return reduction.norm(A, 2, (rows, columns), keepdim)
    if ord in ("nuc", 2, -2):
        raise NotImplementedError(f"linalg.matrix_norm: ord={ord!r} needs singular values; expected 'fro', ±1 or ±inf")
    if ord not in (1, -1, math.inf, -math.inf):
        raise RuntimeError(f"linalg.matrix_norm: expected ord 'fro', 'nuc', ±1, ±2 or ±inf, got {ord!r}")
    assert not isinstance(ord, str)
    added, kept = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = reduction.sum(A.abs(), added, True)
    largest = reduction.amax(sums, kept, True) if ord > 0 else reduction.amin(sums, kept, True)
    return largest if keepdim else shape.squeeze(largest, (rows, columns))


def norm(
    A: Tensor,
    ord: float | str | None = None,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: memory.dtype | None = None,
) -> Tensor:
    """:func:`vector_norm` over one dimension or all, :func:`matrix_norm` over two or where ``ord`` is a word.

    Raises:
        RuntimeError: if ``ord`` and ``dim`` do not fit the shape.
    """
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    dims = (dim,) if isinstance(dim, int) else tuple(range(A.dim())) if dim is None else tuple(dim)
    if dim is None and len(dims) not in (1, 2):
        raise RuntimeError(f"linalg.norm: expected a vector or matrix where ord comes without dim, got {tuple(A.shape)}")
    if len(dims) == 2:
        return matrix_norm(A, ord, (dims[0], dims[1]), keepdim, dtype=dtype)
    if isinstance(ord, str):
        raise RuntimeError(f"linalg.norm: ord={ord!r} is a matrix norm, expected two dimensions, got dim={dim}")
    return vector_norm(A, ord, dim, keepdim, dtype=dtype)


def _check_floating(op: str, x: Tensor) -> None:
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"{op}: expected a floating-point dtype, got {x.dtype}")


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Σ x·y over ``dim``; the other dimensions broadcast."""
    return reduction.sum(x * y, dim)


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """:func:`tinyflow.diagonal` of the last two dimensions: a view."""
    return shape.diagonal(A, offset, dim1, dim2)


def cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The cross product of vectors of three elements along ``dim``; the other dimensions broadcast.

    Raises:
        RuntimeError: if a vector does not have three elements.
    """
    if input.dim() != other.dim() or input.shape[dim] != 3 or other.shape[dim] != 3:
        raise RuntimeError(
            f"linalg.cross: expected as many dimensions, and 3 elements in dimension {dim}, "
            f"got shapes {tuple(input.shape)} and {tuple(other.shape)}"
        )
    input, other = shape.broadcast_tensors(input, other)
    a, b = (shape.unbind(x, dim) for x in (input, other))
    return shape.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]], dim)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """The powers 0 … N-1 of each element, (\\*, n) to (\\*, n, N); N is n if not given."""
    count = x.shape[-1] if N is None else N
    return shape.unsqueeze(x, -1) ** arange(count, device=x.device)


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of two or more matrices, in the order that takes the fewest operations; the ends may be vectors.

    Raises:
        RuntimeError: for fewer than two tensors, or shapes that do not fit.
    """
    if len(tensors) < 2:
        raise RuntimeError(f"linalg.multi_dot: expected at least 2 tensors, got {len(tensors)}")
    wrong = [x for i, x in enumerate(tensors) if x.dim() != 2 and not (x.dim() == 1 and i in (0, len(tensors) - 1))]
    if wrong:
        raise RuntimeError(f"linalg.multi_dot: expected matrices, and vectors at the ends only, got {tuple(wrong[0].shape)}")
    row, column = tensors[0].dim() == 1, tensors[-1].dim() == 1
    matrices = list(tensors)
    if row:
        matrices[0] = shape.unsqueeze(matrices[0], 0)
    if column:
        matrices[-1] = shape.unsqueeze(matrices[-1], 1)
    y = _multiply(matrices, _cheapest_splits([matrices[0].shape[0], *(x.shape[1] for x in matrices)]), 0, len(matrices) - 1)
    if column:
        y = shape.squeeze(y, -1)
    return shape.squeeze(y, 0) if row else y


def _multiply(matrices: Sequence[Tensor], splits: dict[tuple[int, int], int], first: int, last: int) -> Tensor:
    if first == last:
        return matrices[first]
    middle = splits[first, last]
    return matmul(_multiply(matrices, splits, first, middle), _multiply(matrices, splits, middle + 1, last))


def _cheapest_splits(sizes: Sequence[int]) -> dict[tuple[int, int], int]:
    """Behind which matrix to split each run of them, matrix i being (sizes[i], sizes[i+1]): a dynamic programme."""
    count = len(sizes) - 1
    cost = {(i, i): 0 for i in range(count)}
    splits: dict[tuple[int, int], int] = {}
    for length in range(1, count):
        for first in range(count - length):
            last = first + length
            cost[first, last], splits[first, last] = min(
                (cost[first, k] + cost[k + 1, last] + sizes[first] * sizes[k + 1] * sizes[last + 1], k)
                for k in range(first, last)
            )
    return splits


_ABSENT = (
    "svd", "svdvals", "qr", "eig", "eigh", "eigvals", "eigvalsh", "inv", "pinv", "solve", "lstsq", "cholesky", "det",
    "slogdet", "lu", "matrix_rank", "matrix_exp", "cond",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ABSENT:
        raise NotImplementedError(f"linalg.{name}: tinyflow has products and norms, no factorisations and solvers")
    raise AttributeError(f"module 'tinyflow.linalg' has no attribute '{name}'")


guard(globals(), __all__)
