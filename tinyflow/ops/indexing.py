"""Reading and writing at indices and masks. Reading and adding at the same indices are each other's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyflow.autocast_mode import WIDEST_ON_GPU
from tinyflow.kernels import dtypes, elementwise, memory
from tinyflow.kernels import indexing as kernels
from tinyflow.kernels import scatter as writing
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.indexing import Index
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.nonzero import nonzero as find_nonzero
from tinyflow.ops import arithmetic
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import broadcast_tensors, dimension
from tinyflow.tensor import Tensor

METHODS = [
    "index_put", "index_put_", "index_select", "index_add", "index_add_", "index_copy", "index_copy_", "index_fill",
    "index_fill_", "take", "put", "put_", "nonzero", "argwhere", "masked_select", "masked_fill", "masked_fill_",
    "masked_scatter", "masked_scatter_",
]  # fmt: skip
__all__ = [
    "index_put", "index_put_", "index_select", "index_add", "index_copy", "index_fill", "take", "put", "nonzero",
    "argwhere", "where", "masked_select", "masked_fill", "masked_scatter",
]  # fmt: skip


def _writable(x: Buffer, out: Buffer | None) -> Buffer:
    """Memory with the elements of ``x`` to write into: ``out``, which has them, or a copy."""
    return elementwise.copy(x) if out is None else out


def _index_put_launcher(
    x: Buffer, indices: Sequence[Index], values: Buffer, accumulate: bool = False, *, out: Buffer | None = None
) -> Buffer:
    return writing.index_put(_writable(x, out), indices, values, accumulate)


def _index_add_launcher(x: Buffer, dim: int, index: Buffer, source: Buffer, *, out: Buffer | None = None) -> Buffer:
    return writing.index_add(_writable(x, out), dim, index, source)


def _zero(like: Tensor) -> Tensor:
    return Tensor._zeros((), like.dtype, like.device)


_index: Op = define(kernels.index, x=lambda g, indices, x_shape: _index_grad(g, indices, x_shape), indices=None)
_index_grad: Op = define(writing.index_grad, grad=lambda g, indices: _index(g, indices), indices=None)
_index_put: Op = define(
    _index_put_launcher,
    name="index_put",
    autocast=WIDEST_ON_GPU.only("x", "values"),
    x=lambda g, indices, accumulate: g if accumulate else _index_put(g, indices, _zero(g)),
    indices=None,
    values=lambda g, indices: _index(g, indices),
)
_index_select: Op = define(
    kernels.index_select,
    name="index_select",
    x=lambda g, dim, index, x_shape: _index_select_grad(g, dim, index, x_shape),
    index=None,
)
_index_select_grad: Op = define(
    writing.index_select_grad, grad=lambda g, dim, index: _index_select(g, dim, index), index=None
)
_index_add: Op = define(
    _index_add_launcher,
    name="index_add",
    x=lambda g: g,
    index=None,
    source=lambda g, dim, index: _index_select(g, dim, index),
)
_nonzero = define(find_nonzero, name="nonzero", x=None)


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


def index_put(input: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of ``input`` with ``input[indices] = values``, or ``+=`` with ``accumulate``; values are broadcast and cast.

    Where an index appears twice the last value wins; with ``accumulate`` all are added, in a fixed order.
    """
    expanded = _without_masks(indices)
    return _index_put(input, expanded, _fitting(input, expanded, values), accumulate)


def index_put_(self: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """In-place :func:`index_put`."""
    expanded = _without_masks(indices)
    return _index_put.inplace(self, expanded, _fitting(self, expanded, values), accumulate)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of ``input`` along ``dim`` at the positions in the vector ``index``."""
    return _index_select(input, dim, index)


def _added(x: Tensor, source: Tensor, alpha: Scalar) -> Tensor:
    if not x.dtype.is_floating_point:
        alpha = int(alpha)
    return source if alpha == 1 else (source * alpha).to(x.dtype)


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Scalar = 1) -> Tensor:
    """``input`` with ``alpha`` times the slices of ``source`` along ``dim`` added at the positions in ``index``."""
    return _index_add(input, dim, index, _added(input, source, alpha))


def index_add_(self: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Scalar = 1) -> Tensor:
    """In-place :func:`index_add`."""
    return _index_add.inplace(self, dim, index, _added(self, source, alpha))


def _at(op: str, x: Tensor, dim: int, index: Tensor) -> list[Tensor | None]:
    """A vector of positions along ``dim`` as an index of all dimensions."""
    if index.dtype != memory.int64 or index.dim() > 1:
        raise IndexError(f"{op}: expected a vector of int64 positions, got {index.dtype} of shape {tuple(index.shape)}")
    return [None] * dimension(op, dim, x.dim()) + [index.reshape(-1)]


def _checked_slices(op: str, x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    if source.dtype != x.dtype:
        raise RuntimeError(f"{op}: expected a source of dtype {x.dtype}, got {source.dtype}")
    d = dimension(op, dim, x.dim())
    shape = tuple(index.numel() if k == d else n for k, n in enumerate(x.shape)) or (index.numel(),)
    if source.dim() == max(x.dim(), 1) and source.shape[d] != index.numel():
        raise IndexError(
            f"{op}: Number of indices ({index.numel()}) should be equal to source.size(dim) ({source.shape[d]})"
        )
    if tuple(source.shape) != shape and (x.dim() or source.numel() != index.numel()):
        raise RuntimeError(
            f"{op}: expected a source of shape {shape} for {index.numel()} positions, got {tuple(source.shape)}"
        )
    return source.reshape(shape)


def _with_a_dimension(x: Tensor) -> Tensor:
    return x if x.dim() else x.reshape(1)


def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``input`` with the slices of ``source`` along ``dim`` written at the positions in ``index``; the last one wins."""
    source = _checked_slices("index_copy", input, dim, index, source)
    return _index_put(_with_a_dimension(input), _at("index_copy", input, dim, index), source).reshape(input.shape)


def index_copy_(self: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """In-place :func:`index_copy`."""
    source = _checked_slices("index_copy_", self, dim, index, source)
    _index_put.inplace(_with_a_dimension(self), _at("index_copy_", self, dim, index), source)
    return self


def _slice_mask(op: str, x: Tensor, dim: int, index: Tensor) -> Tensor:
    """True along ``dim`` at the positions in ``index``, of size 1 in the other dimensions."""
    _at(op, x, dim, index)
    d = dimension(op, dim, x.dim())
    n = x.shape[d] if x.dim() else 1
    chosen = _index_put(
        Tensor._zeros((n,), memory.bool_, x.device), [index.reshape(-1)], Tensor._full((), 1, memory.bool_, x.device)
    )
    return chosen.reshape([n if k == d else 1 for k in range(x.dim())])


def _filler(op: str, x: Tensor, value: Tensor | Scalar) -> Tensor | Scalar:
    if isinstance(value, Tensor) and value.dim() != 0:
        raise RuntimeError(
            f"{op} only supports a 0-dimensional value tensor, but got tensor with {value.dim()} dimension(s)."
        )
    return value.to(x.dtype) if isinstance(value, Tensor) else dtypes.stored(value, x.dtype)


def index_fill(input: Tensor, dim: int, index: Tensor, value: Tensor | Scalar) -> Tensor:
    """``input`` with ``value`` (a number or a 0-dimensional tensor) along ``dim`` at the positions in ``index``."""
    return arithmetic.where(
        _slice_mask("index_fill", input, dim, index), _filler("index_fill", input, value), input
    ).to(input.dtype)


def index_fill_(self: Tensor, dim: int, index: Tensor, value: Tensor | Scalar) -> Tensor:
    """In-place :func:`index_fill`."""
    return self.copy_(index_fill(self, dim, index, value))


def _flat_positions(op: str, index: Tensor) -> Tensor:
    if index.dtype != memory.int64:
        raise RuntimeError(f"{op}(): Expected a long tensor for index, but got {index.dtype}")
    return index


def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements of ``input``, read row-major as a vector, at the positions ``index``, in the shape of ``index``."""
    return _index(input.reshape(-1), [_flat_positions("take", index)])


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """``input`` with the elements of ``source`` written, or added, at the positions ``index`` of it read row-major."""
    if source.dtype != input.dtype:
        raise RuntimeError(
            f"put_(): self and source expected to have the same dtype, got {input.dtype}, {source.dtype}"
        )
    if source.numel() != index.numel():
        raise RuntimeError(
            f"put_(): Expected source and index to have the same number of elements, got {source.numel()} and "
            f"{index.numel()}"
        )
    positions = _flat_positions("put_", index).reshape(-1)
    return _index_put(input.reshape(-1), [positions], source.reshape(-1), accumulate).reshape(input.shape)


def put_(self: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """In-place :func:`put`."""
    return self.copy_(put(self, index, source, accumulate))


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The coordinates of the nonzero elements, (count, dimensions), or with ``as_tuple`` one vector a dimension,
    where a number counts as a vector of one."""
    if as_tuple:
        return mask_indices(input if input.dim() else input.reshape(1))
    return _nonzero(input)


def argwhere(input: Tensor) -> Tensor:
    """The coordinates of the nonzero elements: (count, dimensions)."""
    return _nonzero(input)


_where = arithmetic.where


def where(condition: Tensor, input: Tensor | Scalar | None = None, other: Tensor | Scalar | None = None) -> Any:
    """``input`` where ``condition`` holds, else ``other``; of a condition alone the positions where it does, as
    ``nonzero(condition, as_tuple=True)``.

    Raises:
        RuntimeError: if the condition is neither bool nor uint8.
    """
    if input is None and other is None:
        return nonzero(condition, as_tuple=True)
    if input is None or other is None:
        raise TypeError(
            f"where(): expected both input and other, or neither, got {'other' if input is None else 'input'}"
        )
    if condition.dtype not in (memory.bool_, memory.uint8):
        raise RuntimeError(f"where: expected a bool condition, got {condition.dtype}")
    return _where(condition, input, other)


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


def masked_fill(input: Tensor, mask: Tensor, value: Tensor | Scalar) -> Tensor:
    """``value`` (a number or a 0-dimensional tensor) where ``mask`` is True, ``input`` elsewhere."""
    _check_mask("masked_fill", mask)
    return arithmetic.where(mask, _filler("masked_fill", input, value), input).to(input.dtype)


def masked_fill_(input: Tensor, mask: Tensor, value: Tensor | Scalar) -> Tensor:
    """In-place :func:`masked_fill`."""
    return input.copy_(masked_fill(input, mask, value))


def _scattered(op: str, x: Tensor, mask: Tensor, source: Tensor) -> tuple[list[Tensor | None], Tensor]:
    """Where the mask is True, and as many elements of the source."""
    _check_mask(op, mask)
    if source.dtype != x.dtype:
        raise RuntimeError(f"{op}: expected self and source to have same dtypes but got {x.dtype} and {source.dtype}")
    places: list[Tensor | None] = [*mask_indices(mask.expand(x.shape) if x.dim() else mask.reshape(1))]
    count = places[0].numel() if places[0] is not None else 0
    if source.numel() < count:
        raise RuntimeError(
            f"{op}: expected a source of at least {count} elements, as the mask has, got {source.numel()}"
        )
    return places, source.reshape(-1)[:count]


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """``input`` with the elements of ``source``, in order, where ``mask`` is True; the two are broadcast together."""
    input, mask = broadcast_tensors(input, mask)
    places, values = _scattered("masked_scatter", input, mask, source)
    return _index_put(_with_a_dimension(input), places, values).reshape(input.shape)


def masked_scatter_(self: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """In-place :func:`masked_scatter`; the mask is broadcast to this shape."""
    places, values = _scattered("masked_scatter_", self, mask, source)
    _index_put.inplace(_with_a_dimension(self), places, values)
    return self
