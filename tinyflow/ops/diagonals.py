"""Triangles and diagonals of matrices, and copies of a tensor with one of its views replaced."""

from __future__ import annotations

from typing import Any

from tinyflow.kernels import memory, triangle
from tinyflow.ops import shape
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import dimension, selected
from tinyflow.ops.views import Diagonal, Slice, View, scatter_through
from tinyflow.tensor import Tensor

METHODS = [
    "tril", "triu", "diag", "diagflat", "diag_embed", "trace", "diagonal_scatter", "select_scatter", "slice_scatter",
    "fill_diagonal_",
]  # fmt: skip
INPLACE = ["tril", "triu"]
__all__ = [
    "tril", "triu", "tril_indices", "triu_indices", "diag", "diagflat", "diag_embed", "trace", "diagonal_scatter",
    "select_scatter", "slice_scatter",
]  # fmt: skip

tril: Op = define(triangle.tril, x=lambda g, diagonal: tril(g, diagonal))
triu: Op = define(triangle.triu, x=lambda g, diagonal: triu(g, diagonal))


def _triangle_shape(op: str, row: int, col: int) -> None:
    for name, n in (("row", row), ("col", col)):
        if n < 0:
            raise RuntimeError(f"{op}: {name} must be non-negative, got {n}")


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: memory.dtype = memory.int64, device: Any = None
) -> Tensor:
    """Where ``tril`` of a (row, col) matrix keeps elements: their rows and their columns, (2, count), row by row."""
    _triangle_shape("tril_indices", row, col)
    return Tensor(triangle.tril_indices(row, col, offset, dtype, memory.as_device(device)))


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: memory.dtype = memory.int64, device: Any = None
) -> Tensor:
    """Where ``triu`` of a (row, col) matrix keeps elements: their rows and their columns, (2, count), row by row."""
    _triangle_shape("triu_indices", row, col)
    return Tensor(triangle.triu_indices(row, col, offset, dtype, memory.as_device(device)))


# ---- diagonals -----------------------------------------------------------------------------------------------------


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The square matrix with a vector as its diagonal, or a copy of a matrix's diagonal."""
    if input.dim() == 1:
        return diag_embed(input, diagonal, 0, 1)
    if input.dim() == 2:
        return shape.diagonal(input, diagonal).clone()
    raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {input.dim()}D")


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The square matrix with all elements of ``input`` as its diagonal."""
    return diag_embed(shape.ravel(input), offset, 0, 1)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Square matrices in dimensions ``dim1``, ``dim2`` of the result, whose diagonals are the last dimension of ``input``.

    Raises:
        RuntimeError: if the two dimensions are one.
    """
    ndim = input.dim() + 1
    a, b = dimension("diag_embed", dim1, ndim), dimension("diag_embed", dim2, ndim)
    if a == b:
        raise RuntimeError(f"diag_embed: diagonal dimensions cannot be identical {dim1}, {dim2}")
    n = input.shape[-1] + abs(offset)
    rest = iter(input.shape[:-1])
    sizes = tuple(n if d in (a, b) else next(rest) for d in range(ndim))
    return scatter_through(None, input, (Diagonal(offset, a, b, label="diagonal"),), sizes)


def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if input.dim() != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {input.dim()}")
    return shape.diagonal(input).sum()


def fill_diagonal_(self: Tensor, fill_value: float, wrap: bool = False) -> Tensor:
    """Writes one value over the elements (i, i, …); ``wrap``: of a tall matrix, over a new diagonal below each that ends.

    Raises:
        RuntimeError: for less than two dimensions, or more than two of different sizes.
    """
    if self.dim() < 2:
        raise RuntimeError(f"fill_diagonal_: dimensions must larger than 1, got shape {tuple(self.shape)}")
    if self.dim() > 2 and len(set(self.shape)) > 1:
        raise RuntimeError(f"fill_diagonal_: all dimensions of input must be of equal length, got {tuple(self.shape)}")
    rows, columns = self.shape[:2]
    starts = range(0, rows, columns + 1) if wrap and self.dim() == 2 else (0,)
    for start in starts:
        shown = shape.narrow(self, 0, start, min(columns, rows - start))
        while shown.dim() > 1:
            shown = shape.diagonal(shown, 0, 0, -1)
        shown.fill_(fill_value)
    return self


# ---- one view replaced ---------------------------------------------------------------------------------------------


def _replace(op: str, input: Tensor, src: Tensor, view: View) -> Tensor:
    shown = view.read(input._data)
    if tuple(src.shape) != tuple(shown.shape):
        raise RuntimeError(
            f"{op}: expected src to have a size equal to the slice of self. src size = {list(src.shape)}, slice size = "
            f"{list(shown.shape)}"
        )
    return scatter_through(input, src, (view,), tuple(input.shape))


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A copy of ``input`` with ``src`` in place of ``input.diagonal(offset, dim1, dim2)``."""
    a, b = dimension("diagonal_scatter", dim1, input.dim()), dimension("diagonal_scatter", dim2, input.dim())
    if a == b:
        raise RuntimeError(f"diagonal_scatter: diagonal dimensions cannot be identical {dim1}, {dim2}")
    return _replace("diagonal_scatter", input, src, Diagonal(offset, a, b, label="diagonal"))


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of ``input`` with ``src`` in place of ``input.select(dim, index)``."""
    return _replace("select_scatter", input, src, selected("select_scatter", input, dim, index))


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy of ``input`` with ``src`` in place of the slice ``start:end:step`` of ``dim``."""
    if step <= 0:
        raise RuntimeError(f"slice_scatter: step must be positive, got {step}")
    d = dimension("slice_scatter", dim, input.dim())
    first, stop, _ = slice(start, end).indices(input.shape[d])
    part = (first, step, max(-(-(stop - first) // step), 0))
    picks = tuple(part if k == d else (0, 1, m) for k, m in enumerate(input.shape))
    return _replace("slice_scatter", input, src, Slice(picks, label="slice"))
