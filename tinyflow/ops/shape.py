"""Shapes: views and reshapes, joining and splitting. What can be a view is one."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

from tinyflow.kernels import dtypes, elementwise, memory, strides
from tinyflow.kernels.memory import Buffer
from tinyflow.ops.define import define
from tinyflow.ops.parts import share_out
from tinyflow.ops.views import Diagonal, Expand, Permute, Reshape, Slice, view_strides
from tinyflow.tensor import Tensor

METHODS = [
    "view", "view_as", "reshape", "reshape_as", "flatten", "ravel", "unflatten", "squeeze", "unsqueeze", "permute",
    "transpose", "t", "movedim", "expand", "expand_as", "broadcast_to", "sum_to_size", "select", "narrow", "split",
    "chunk", "unbind", "diagonal",
]  # fmt: skip

__all__ = [
    "reshape", "flatten", "ravel", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "movedim",
    "broadcast_to", "broadcast_tensors", "select", "narrow", "split", "chunk", "unbind", "diagonal", "cat", "stack",
]  # fmt: skip

Shape = tuple[int, ...]


def dimension(op: str, dim: int, ndim: int) -> int:
    """``dim`` counted from 0.

    Raises:
        IndexError: if it is outside [-ndim, ndim).
    """
    bound = max(ndim, 1)
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(f"{op}(): dim must be an int, got {type(dim).__name__}")
    if not -bound <= dim < bound:
        raise IndexError(
            f"{op}(): Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], but got {dim})"
        )
    return dim % bound


def listed(op: str, values: tuple[Any, ...], **named: Any) -> Shape:
    """The integers in ``f(2, 3)``, ``f((2, 3))`` and ``f(name=(2, 3))`` alike.

    Raises:
        TypeError: if they are given twice, or are no integers.
    """
    for name, value in named.items():
        if value is not None:
            if values:
                raise TypeError(f"{op}() got multiple values for argument '{name}'")
            values = (value,)
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = tuple(values[0])
    try:
        return tuple([operator.index(n) for n in values])
    except TypeError:
        raise TypeError(f"{op}(): expected integers, got {values}") from None


def _infer(op: str, shape: Shape, numel: int) -> Shape:
    """``shape`` with its one -1 worked out."""
    if any(n < -1 for n in shape) or shape.count(-1) > 1:
        raise RuntimeError(f"{op}: only one dimension can be inferred, and sizes must not be negative, got {shape}")
    if -1 in shape:
        known = math.prod(n for n in shape if n != -1)
        if known == 0:
            if numel == 0:
                raise RuntimeError(
                    f"{op}: cannot reshape tensor of 0 elements into shape {list(shape)}: the unspecified size is ambiguous"
                )
        elif numel % known == 0:
            return tuple(numel // known if n == -1 else n for n in shape)
    elif math.prod(shape) == numel:
        return shape
    raise RuntimeError(f"{op}: shape {list(shape)} is invalid for input of size {numel}")


# ---- reshape -------------------------------------------------------------------------------------------------------


def view(self: Tensor, *shape: Any, size: Sequence[int] | None = None, dtype: memory.dtype | None = None) -> Tensor:
    """The same memory in another shape; one size may be -1. ``view(dtype)`` reads the bytes as another dtype.

    Raises:
        RuntimeError: if only a copy could have that shape.
    """
    if dtype is None and len(shape) == 1 and isinstance(shape[0], memory.dtype):
        dtype, shape = shape[0], ()
    if dtype is not None:
        if shape or size is not None:
            raise TypeError("view(): expected a shape or a dtype, got both")
        return Tensor(memory.reinterpret(self._data, dtype), _counter=self._counter)
    return Reshape(_infer("view", listed("view", shape, size=size), self.numel())).record(self)


def view_as(self: Tensor, other: Tensor) -> Tensor:
    """The same memory in the shape of ``other``."""
    return view(self, tuple(other.shape))


_compact = define(elementwise.contiguous, name="clone", x=lambda g: g)


def reshape(input: Tensor, *sizes: Any, shape: Sequence[int] | None = None) -> Tensor:
    """A view in another shape where strides allow it, else a copy; one size may be -1."""
    wanted = _infer("reshape", listed("reshape", sizes, shape=shape), input.numel())
    if view_strides(input._data, wanted) is None:
        input = _compact(input)
    return Reshape(wanted).record(input)


def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """This tensor in the shape of ``other``."""
    return reshape(self, tuple(other.shape))


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions ``start_dim`` to ``end_dim`` as one."""
    first, last = (dimension("flatten", d, input.dim()) for d in (start_dim, end_dim))
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if input.dim() == 0:
        return reshape(input, 1)
    merged = math.prod(input.shape[first : last + 1])
    return reshape(input, *input.shape[:first], merged, *input.shape[last + 1 :])


def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension."""
    return reshape(input, -1)


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension ``dim`` as several; one of ``sizes`` may be -1."""
    d = dimension("unflatten", dim, input.dim())
    inner = _infer("unflatten", tuple(sizes), input.shape[d])
    return reshape(input, *input.shape[:d], *inner, *input.shape[d + 1 :])


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without dimensions of size 1: all of them, or those named."""
    if dim is None:
        dropped = set(range(input.dim()))
    else:
        named = [dimension("squeeze", d, input.dim()) for d in ((dim,) if isinstance(dim, int) else dim)]
        dropped = set(named)
        if len(dropped) < len(named):
            raise RuntimeError(f"squeeze: dim {max(named, key=named.count)} appears multiple times in the list of dims")
    picks = tuple(0 if n == 1 and k in dropped else (0, 1, n) for k, n in enumerate(input.shape))
    return Slice(picks, label="squeeze").record(input)


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new dimension of size 1 at ``dim``."""
    d = dimension("unsqueeze", dim, input.dim() + 1)
    kept: list[Any] = [(0, 1, n) for n in input.shape]
    return Slice(tuple(kept[:d] + [None] + kept[d:]), label="unsqueeze").record(input)


# ---- order of dimensions -------------------------------------------------------------------------------------------


def permute(input: Tensor, *order: Any, dims: Sequence[int] | None = None) -> Tensor:
    """Dimensions in another order."""
    wanted = listed("permute", order, dims=dims)
    if len(wanted) != input.dim():
        raise RuntimeError(
            f"permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired "
            f"ordering of dimensions i.e. input.dim() = {input.dim()} is not equal to len(dims) = {len(wanted)}".replace(
                "(sparse_coo)", ""
            )
        )
    found = tuple(dimension("permute", d, input.dim()) for d in wanted)
    if len(set(found)) != len(found):
        raise RuntimeError(f"permute(): duplicate dims are not allowed, got {wanted}")
    return Permute(found, label="permute").record(input)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    a, b = (dimension("transpose", d, input.dim()) for d in (dim0, dim1))
    order = list(range(input.dim()))
    if order:
        order[a], order[b] = order[b], order[a]
    return Permute(tuple(order), label="transpose").record(input)


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; vectors and scalars as they are."""
    if input.dim() > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.dim()}D")
    return Permute(tuple(range(input.dim()))[::-1], label="t").record(input)


def matrix_transpose(input: Tensor) -> Tensor:
    """The last two dimensions exchanged."""
    return transpose(input, -2, -1)


def reverse_dims(input: Tensor) -> Tensor:
    """All dimensions in reverse order."""
    return Permute(tuple(range(input.dim()))[::-1], label="permute").record(input)


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Dimensions moved to other places, the others kept in order."""
    sources = [dimension("movedim", d, input.dim()) for d in ((source,) if isinstance(source, int) else source)]
    places = [
        dimension("movedim", d, input.dim()) for d in ((destination,) if isinstance(destination, int) else destination)
    ]
    if len(sources) != len(places) or len(set(sources)) != len(sources) or len(set(places)) != len(places):
        raise RuntimeError(
            f"movedim: expected as many distinct sources as destinations, got {source} and {destination}"
        )
    rest = iter([d for d in range(input.dim()) if d not in sources])
    order = [sources[places.index(k)] if k in places else next(rest) for k in range(input.dim())]
    return Permute(tuple(order), label="permute").record(input)


# ---- repeating -----------------------------------------------------------------------------------------------------


def expand(self: Tensor, *sizes: Any, size: Sequence[int] | None = None) -> Tensor:
    """Dimensions of size 1, and new leading ones, repeated without a copy; -1 keeps a size."""
    wanted = listed("expand", sizes, size=size)
    lead = len(wanted) - self.dim()
    if lead < 0:
        raise RuntimeError(
            f"expand(): the number of sizes provided ({len(wanted)}) must be greater or equal to the number of "
            f"dimensions in the tensor ({self.dim()})"
        )
    shape = []
    for k, n in enumerate(wanted):
        have = 1 if k < lead else self.shape[k - lead]
        if n == -1 and k >= lead:
            n = have
        if n < 0 or (have != 1 and n != have):
            raise RuntimeError(
                f"The expanded size of the tensor ({n}) must match the existing size ({have}) at non-singleton "
                f"dimension {k}. "
                f"Target sizes: {list(wanted)}. Tensor sizes: {list(self.shape)}"
            )
        shape.append(n)
    return Expand(tuple(shape), label="expand").record(self)


def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Repeated to the shape of ``other``."""
    return expand(self, tuple(other.shape))


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """Repeated to ``size``."""
    return expand(input, tuple(size))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All expanded to their common shape."""
    shape = strides.broadcast_shapes("broadcast_tensors", *(x.shape for x in tensors))
    return tuple(expand(x, shape) for x in tensors)


def sum_to_size(self: Tensor, *size: Any) -> Tensor:
    """The sum over the dimensions that expanding to this shape from ``size`` repeats.

    Raises:
        RuntimeError: if ``size`` does not expand to this shape.
    """
    shape = listed("sum_to_size", size)
    lead = self.dim() - len(shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(shape, self.shape[max(lead, 0) :])):
        raise RuntimeError(f"sum_to_size: size {list(shape)} is not expandable to size {list(self.shape)}.")
    dims = [*range(lead), *(lead + k for k, n in enumerate(shape) if n == 1 and self.shape[lead + k] != 1)]
    result = self.sum(dims, keepdim=True) if dims else self
    return result if tuple(result.shape) == shape else reshape(result, shape)


# ---- parts ---------------------------------------------------------------------------------------------------------


def selected(op: str, input: Tensor, dim: int, index: int) -> Slice:
    """The view of one index of a dimension.

    Raises:
        IndexError: if there is no such index, or no dimension.
    """
    if input.dim() == 0:
        raise IndexError(f"{op}() cannot be applied to a 0-dim tensor.")
    d = dimension(op, dim, input.dim())
    n = input.shape[d]
    if not -n <= index < n:
        raise IndexError(f"{op}(): index {index} out of range for tensor of size {list(input.shape)} at dimension {d}")
    picks = tuple(operator.index(index) % n if k == d else (0, 1, m) for k, m in enumerate(input.shape))
    return Slice(picks, label="select")


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """The slice at ``index`` of ``dim``, without that dimension."""
    return selected("select", input, dim, index).record(input)


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """``length`` slices of ``dim`` from ``start``."""
    d = dimension("narrow", dim, input.dim())
    n = input.shape[d]
    start = operator.index(start)
    first = start + n if start < 0 else start
    if length < 0 or not 0 <= first <= n or first + length > n:
        raise RuntimeError(f"narrow(): start ({start}) + length ({length}) exceeds dimension size ({n}).")
    picks = tuple((first, 1, length) if k == d else (0, 1, m) for k, m in enumerate(input.shape))
    return Slice(picks, label="slice").record(input)


def split(input: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Parts of equal size (the last may be smaller), or of the sizes listed."""
    if input.dim() == 0:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    d = dimension("split", dim, input.dim())
    n = input.shape[d]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 0 or (size == 0 and n):
            raise RuntimeError(f"split expects split_size be positive, but got split_size={size}")
        sizes = [min(size, n - k) for k in range(0, n, size)] if n else [0]
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != n or any(size < 0 for size in sizes):
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at dimension {d}), "
                f"but got {sizes}"
            )
    label = "split" if isinstance(split_size_or_sections, int) else "split_with_sizes"
    return share_out(input, _sections(input.shape, d, sizes), label)


def _sections(shape: Sequence[int], d: int, sizes: Sequence[int]) -> list[Slice]:
    """The views of parts of ``sizes`` that follow one another along ``d``."""
    full = [(0, 1, n) for n in shape]
    starts = itertools.accumulate(sizes, initial=0)
    return [Slice((*full[:d], (start, 1, size), *full[d + 1 :]), label="slice") for start, size in zip(starts, sizes)]


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` parts of equal size; of nothing so many empty ones."""
    if input.dim() == 0:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    n = input.shape[dimension("chunk", dim, input.dim())]
    if n == 0:
        return split(input, [0] * chunks, dim)
    return split(input, max(-(-n // chunks), 1), dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Every slice of ``dim``."""
    if input.dim() == 0:
        raise IndexError("unbind(): dimension specified as 0 but tensor has no dimensions")
    d = dimension("unbind", dim, input.dim())
    full = [(0, 1, n) for n in input.shape]
    views = [Slice((*full[:d], k, *full[d + 1 :]), label="select") for k in range(input.shape[d])]
    return share_out(input, views, "unbind")


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The elements (i, i + offset) of two dimensions, as a new last dimension."""
    a, b = dimension("diagonal", dim1, input.dim()), dimension("diagonal", dim2, input.dim())
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return Diagonal(offset, a, b, label="diagonal").record(input)


# ---- joining -------------------------------------------------------------------------------------------------------


def _cat(tensors: Sequence[Buffer], dim: int, dtype: memory.dtype) -> Buffer:
    sizes = [x.shape[dim] for x in tensors]
    shape = [*tensors[0].shape[:dim], sum(sizes), *tensors[0].shape[dim + 1 :]]
    out = memory.empty(shape, dtype, tensors[0].device, strides.like(tensors[0], tuple(shape)))
    at = 0
    for x, n in zip(tensors, sizes):
        part = memory.as_strided(out, x.shape, out.stride(), at * out.stride(dim))
        elementwise.copy_into(part, x)
        at += n
    return out


_cat_op = define(
    _cat,
    name="cat",
    tensors=lambda g, tensors_shape, dim: split(g, [s[dim] for s in tensors_shape], dim),
)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along an existing dimension, with promoted dtype.

    Raises:
        RuntimeError: if there is none, or they differ in another dimension.
    """
    given = tensors
    tensors = [x for x in given if tuple(x.shape) != (0,)] or list(given[:1])
    if not tensors:
        raise RuntimeError("cat(): expected a non-empty list of Tensors")
    if tensors[0].dim() == 0:
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    d = dimension("cat", dim, tensors[0].dim())
    for k, x in enumerate(tensors):
        same = x.dim() == tensors[0].dim() and all(
            n == m for j, (n, m) in enumerate(zip(x.shape, tensors[0].shape)) if j != d
        )
        if not same:
            raise RuntimeError(
                f"cat(): sizes of tensors must match except in dimension {d}: tensor 0 is {tuple(tensors[0].shape)}, "
                f"tensor {k} is {tuple(x.shape)}"
            )
    dtype = given[0].dtype
    for x in given[1:]:
        dtype = dtypes.promote_types(dtype, x.dtype)
    return _cat_op(tensors, d, dtype)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new dimension."""
    if not len(tensors):
        raise RuntimeError("stack expects a non-empty TensorList")
    for k, x in enumerate(tensors):
        if x.shape != tensors[0].shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(tensors[0].shape)} at entry 0 "
                f"and {list(x.shape)} at entry {k}"
            )
    d = dimension("stack", dim, tensors[0].dim() + 1)
    return cat([unsqueeze(x, d) for x in tensors], d)
