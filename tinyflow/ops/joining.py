"""Several tensors as one: stacks along fixed dimensions, blocks on a diagonal, grids and products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyflow.kernels import dtypes, elementwise, memory
from tinyflow.kernels.memory import Buffer
from tinyflow.operands import check_tensors
from tinyflow.ops import shape
from tinyflow.ops.arrange import atleast_1d, atleast_2d, atleast_3d
from tinyflow.ops.define import define
from tinyflow.ops.views import Slice
from tinyflow.tensor import Tensor

__all__ = [
    "hstack", "vstack", "row_stack", "dstack", "column_stack", "concat", "concatenate", "block_diag", "meshgrid",
    "cartesian_prod", "combinations",
]  # fmt: skip

concat = concatenate = shape.cat


def _some(op: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    if not len(tensors):
        raise RuntimeError(f"{op} expects a non-empty TensorList")
    return tensors


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along columns, vectors along their elements."""
    shown = atleast_1d(_some("hstack", tensors))
    return shape.cat(shown, 0 if shown[0].dim() == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along rows; vectors are rows."""
    return shape.cat(atleast_2d(_some("vstack", tensors)), 0)


row_stack = vstack


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the third dimension; matrices get one."""
    return shape.cat(atleast_3d(_some("dstack", tensors)), 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along columns; vectors and numbers are columns."""
    return hstack([shape.reshape(x, -1, 1) if x.dim() <= 1 else x for x in _some("column_stack", tensors)])


def _block(size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a block of a shape; a vector is a row."""
    rows, columns = (1,) * (2 - len(size)) + tuple(size)
    return rows, columns


def _blocks(blocks: Sequence[tuple[int, int]]) -> list[Slice]:
    """The view of each block in the whole."""
    views, row, column = [], 0, 0
    for rows, columns in blocks:
        views.append(Slice(((row, 1, rows), (column, 1, columns)), label="slice"))
        row, column = row + rows, column + columns
    return views


def _block_diag(tensors: Sequence[Buffer], dtype: memory.dtype) -> Buffer:
    blocks = [_block(x.shape) for x in tensors]
    out = elementwise.full([sum(sizes) for sizes in zip(*blocks)], 0, dtype, tensors[0].device)
    for view, x in zip(_blocks(blocks), tensors):
        elementwise.copy_into(view.read(out), x)
    return out


def _block_diag_grad(g: Tensor, tensors_shape: Sequence[tuple[int, ...]]) -> list[Tensor]:
    views = _blocks([_block(s) for s in tensors_shape])
    return [shape.reshape(view.record(g), s) for view, s in zip(views, tensors_shape)]


_block_diag_op = define(_block_diag, name="block_diag", tensors=_block_diag_grad)


def block_diag(*tensors: Tensor) -> Tensor:
    """A matrix of zeros with the tensors, of up to two dimensions, one after another along its diagonal.

    Raises:
        RuntimeError: for one of more dimensions.
    """
    if not tensors:
        return Tensor._zeros((1, 0), memory.get_default_dtype(), memory.get_default_device())
    for k, x in enumerate(tensors):
        if x.dim() > 2:
            raise RuntimeError(
                f"block_diag: Input tensors must have 2 or fewer dimensions. Input {k} has {x.dim()} dimensions"
            )
    return _block_diag_op(list(tensors), dtypes.result_type(*[x._data for x in tensors]))


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """The coordinates of a grid's points: for each vector a view of it along its own dimension, repeated along the others.

    Args:
        tensors: vectors or numbers of one dtype, given one by one or as a sequence.
        indexing: ``"ij"``, which None means too: dimension k belongs to tensor k; ``"xy"``: the first two exchanged.

    Raises:
        RuntimeError: for tensors of more dimensions or several dtypes, or another ``indexing``.
    """
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    if indexing not in (None, "ij", "xy"):
        raise RuntimeError(f'meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    check_tensors("meshgrid()", "tensors", tensors)
    if not tensors:
        raise RuntimeError("meshgrid: expects a non-empty TensorList")
    if any(x.dim() > 1 for x in tensors):
        raise RuntimeError(
            f"meshgrid: Expected 0D or 1D tensor in the tensor list but got shapes {[tuple(x.shape) for x in tensors]}"
        )
    if any(x.dtype != tensors[0].dtype for x in tensors):
        raise RuntimeError(f"meshgrid expects all tensors to have the same dtype, got {[x.dtype for x in tensors]}")
    exchanged = indexing == "xy" and len(tensors) >= 2
    axes = [1, 0, *range(2, len(tensors))] if exchanged else list(range(len(tensors)))
    sizes = [0] * len(tensors)
    for axis, x in zip(axes, tensors):
        sizes[axis] = x.numel()
    return tuple(
        shape.expand(shape.reshape(x, [x.numel() if k == axis else 1 for k in range(len(tensors))]), sizes)
        for axis, x in zip(axes, tensors)
    )


def _check_vector(op: str, x: Tensor) -> None:
    if x.dim() != 1:
        raise RuntimeError(f"{op}: Expect a 1D vector, but got shape {list(x.shape)}")


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All choices of one element from each vector: (product of sizes, vectors), the last one running fastest."""
    for x in tensors:
        _check_vector("cartesian_prod", x)
    if len(tensors) == 1:
        return shape.view(tensors[0], tensors[0].numel())
    return shape.stack([shape.ravel(grid) for grid in meshgrid(*tensors)], 1)


def _choices(n: int, r: int, with_replacement: bool) -> np.ndarray:
    """Every ascending choice of ``r`` of 0 … n − 1, as rows in lexicographic order."""
    rows = np.zeros((1, 0), np.int64)
    for _ in range(r):
        last = rows[:, -1] if rows.shape[1] else np.full(1, 0 if with_replacement else -1)
        lowest = last + (0 if with_replacement else 1)
        counts = np.maximum(n - lowest, 0)
        begins = np.repeat(np.cumsum(counts) - counts, counts)
        following = np.arange(len(begins)) - begins + np.repeat(lowest, counts)
        rows = np.column_stack([np.repeat(rows, counts, axis=0), following])
    return np.ascontiguousarray(rows, np.int64)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All combinations of ``r`` elements of a vector, as rows, in the order in which they stand."""
    _check_vector("combinations", input)
    if r < 0:
        raise RuntimeError(f"combinations: Expect a non-negative number, but got {r}")
    if r == 0:
        return Tensor(memory.empty((0,), input.dtype, input.device))
    chosen = memory.upload(_choices(input.numel(), r, with_replacement), input.device)
    return input[Tensor(chosen)]
