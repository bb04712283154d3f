"""Reading and writing at indices. Reading and adding at the same indices are each other's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyflow.autocast_mode import WIDEST_ON_GPU
from tinyflow.kernels import elementwise, memory
from tinyflow.kernels import indexing as kernels
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.indexing import Index
from tinyflow.kernels.memory import Buffer
from tinyflow.ops import arithmetic
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import broadcast_tensors
from tinyflow.tensor import Tensor

METHODS = [
    "index_put",
    "index_put_",
    "index_select",
    "index_add",
    "index_add_",
    "gather",
    "scatter",
    "scatter_",
    "scatter_add",
    "scatter_add_",
    "nonzero",
    "masked_select",
    "masked_fill",
    "masked_fill_",
]  # fmt: skip
__all__ = ["index_select", "index_add", "gather", "scatter", "scatter_add", "nonzero", "masked_select", "masked_fill"]


def _writable(x: Buffer, out: Buffer | None) -> Buffer:
    """Memory with the elements of ``x`` to write into: ``out``, which has them, or a copy."""
    return elementwise.copy(x) if out is None else out


def _index_put_launcher(
    x: Buffer, indices: Sequence[Index], values: Buffer, accumulate: bool = False, *, out: Buffer | None = None
) -> Buffer:
    return kernels.index_put(_writable(x, out), indices, values, accumulate)


def _index_add_launcher(x: Buffer, dim: int, index: Buffer, source: Buffer, *, out: Buffer | None = None) -> Buffer:
    return kernels.index_add(_writable(x, out), dim, index, source)


def _scatter_launcher(x: Buffer, dim: int, index: Buffer, source: Buffer, *, out: Buffer | None = None) -> Buffer:
    return kernels.scatter(_writable(x, out), dim, index, source)


def _scatter_add_launcher(x: Buffer, dim: int, index: Buffer, source: Buffer, *, out: Buffer | None = None) -> Buffer:
    return kernels.scatter_add(_writable(x, out), dim, index, source)


def _zero(like: Tensor) -> Tensor:
    return Tensor._zeros((), like.dtype, like.device)


_index: Op = define(kernels.index, x=lambda g, indices, x_shape: _index_grad(g, indices, x_shape), indices=None)
_index_grad: Op = define(kernels.index_grad, grad=lambda g, indices: _index(g, indices), indices=None)
_index_put: Op = define(
    _index_put_launcher,
    name="index_put",
    autocast=WIDEST_ON_GPU.only("x", "values"),
    x=lambda g, indices, accumulate: g if accumulate else _index_put(g, indices, _zero(g)),
    indices=None,
    values=lambda g, indices: _index(g, indices),
)
index_select: Op = define(
    kernels.index_select, x=lambda g, dim, index, x_shape: _index_select_grad(g, dim, index, x_shape), index=None
)
_index_select_grad: Op = define(
    kernels.index_select_grad, grad=lambda g, dim, index: index_select(g, dim, index), index=None
)
index_add: Op = define(
    _index_add_launcher,
    name="index_add",
    x=lambda g: g,
    index=None,
    source=lambda g, dim, index: index_select(g, dim, index),
)
gather: Op = define(kernels.gather, x=lambda g, dim, index, x_shape: _gather_grad(g, dim, index, x_shape), index=None)
_gather_grad: Op = define(kernels.gather_grad, grad=lambda g, dim, index: gather(g, dim, index), index=None)
scatter_add: Op = define(
    _scatter_add_launcher,
    name="scatter_add",
    autocast=WIDEST_ON_GPU.only("x", "source"),
    x=lambda g: g,
    index=None,
    source=lambda g, dim, index: gather(g, dim, index),
)
_scatter: Op = define(
    _scatter_launcher,
    name="scatter",
    x=lambda g, dim, index: _scatter(g, dim, index, _zero(g).expand(index.shape)),
    index=None,
    source=lambda g, dim, index: gather(g, dim, index),
)
_nonzero = define(kernels.nonzero, x=None)


def mask_indices(mask: Tensor) -> tuple[Tensor, ...]:
    """The positions where ``mask`` is nonzero: an int64 vector for each of its dimensions."""
    return _nonzero(mask).unbind(1)


def _without_masks(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    expanded: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (memory.bool_, memory.uint8):
            expanded.extend(mask_indices(index))
        else:
            expanded.append(index)
    return expanded


def index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """``x[indices]``: integer tensors or masks for the leading dimensions, None for a dimension that is kept."""
    return _index(x, _without_masks(indices))


def _fitting(x: Tensor, indices: list[Tensor | None], values: Tensor) -> Tensor:
    """``values`` in the dtype and on the device of ``x``, without leading dimensions of 1 that the target lacks."""
    named = [i for i in indices if i is not None]
    ndim = x.dim() - len(named) + max((i.dim() for i in named), default=0)
    extra = values.dim() - ndim
    if extra > 0 and tuple(values.shape[:extra]) == (1,) * extra:
        values = values.reshape(values.shape[extra:])
    return values.to(x.device, x.dtype)


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of ``x`` with ``x[indices] = values``, or ``+=`` with ``accumulate``; values are broadcast and cast.

    Where an index appears twice the last value wins; with ``accumulate`` all are added, in a fixed order.
    """
    expanded = _without_masks(indices)
    return _index_put(x, expanded, _fitting(x, expanded, values), accumulate)


def index_put_(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """In-place :func:`index_put`."""
    expanded = _without_masks(indices)
    return _index_put.inplace(x, expanded, _fitting(x, expanded, values), accumulate)


def index_add_(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """In-place :func:`index_add`."""
    return index_add.inplace(x, dim, index, source)


def _source(x: Tensor, index: Tensor, source: Tensor | Scalar) -> Tensor:
    if isinstance(source, Tensor):
        return source
    return Tensor._full((), source, x.dtype, x.device).expand(index.shape)


def scatter(x: Tensor, dim: int, index: Tensor, source: Tensor | Scalar) -> Tensor:
    """A copy of ``x`` with ``x[index[i, j, k], j, k] = source[i, j, k]`` (``dim`` 0); the last of several wins."""
    return _scatter(x, dim, index, _source(x, index, source))


def scatter_(x: Tensor, dim: int, index: Tensor, source: Tensor | Scalar) -> Tensor:
    """In-place :func:`scatter`."""
    return _scatter.inplace(x, dim, index, _source(x, index, source))


def scatter_add_(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """In-place :func:`scatter_add`."""
    return scatter_add.inplace(x, dim, index, source)


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The coordinates of the nonzero elements, (count, dimensions), or with ``as_tuple`` one vector a dimension."""
    return mask_indices(input) if as_tuple else _nonzero(input)


def _check_mask(op: str, mask: Tensor) -> None:
    if mask.dtype != memory.bool_:
        raise RuntimeError(f"{op}: expected a bool mask, got {mask.dtype}")


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements of ``input`` where ``mask``, broadcast with it, is True: a vector."""
    _check_mask("masked_select", mask)
    input, mask = broadcast_tensors(input, mask)
    if input.dim() == 0:
        input, mask = input.reshape(1), mask.reshape(1)
    return index(input, [mask])


def _check_fill(x: Tensor, mask: Tensor, value: Tensor | Scalar) -> None:
    _check_mask("masked_fill", mask)
    if isinstance(value, Tensor) and value.dim() != 0:
        raise RuntimeError(f"masked_fill only supports a 0-dimensional value tensor, got {value.dim()} dimensions")
    if isinstance(value, float) and not x.dtype.is_floating_point:
        raise RuntimeError(f"masked_fill: value {value} cannot be converted to {x.dtype} without overflow or loss")


def masked_fill(input: Tensor, mask: Tensor, value: Tensor | Scalar) -> Tensor:
    """``value`` (a number or a 0-dimensional tensor) where ``mask`` is True, ``input`` elsewhere."""
    _check_fill(input, mask, value)
    return arithmetic.where(mask, value, input).to(input.dtype)


def masked_fill_(input: Tensor, mask: Tensor, value: Tensor | Scalar) -> Tensor:
    """In-place :func:`masked_fill`."""
    return input.copy_(masked_fill(input, mask, value))
