"""The same elements in another order, or several times: flips, rolls, repeats, and sections along a dimension."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tinyflow.kernels import memory, padding, strides
from tinyflow.operands import as_tuple, check_tensors
from tinyflow.ops import shape
from tinyflow.ops.creation import full
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import dimension, listed
from tinyflow.tensor import Tensor

METHODS = [
    "repeat", "repeat_interleave", "tile", "flip", "fliplr", "flipud", "roll", "rot90", "swapaxes", "swapdims", "moveaxis",
    "tensor_split", "hsplit", "vsplit", "dsplit",
]  # fmt: skip
__all__ = [
    "repeat_interleave", "tile", "flip", "fliplr", "flipud", "roll", "rot90", "swapaxes", "swapdims", "moveaxis",
    "tensor_split", "hsplit", "vsplit", "dsplit", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_shapes",
]  # fmt: skip

Dims = int | Sequence[int]


# ---- order ---------------------------------------------------------------------------------------------------------

_flip: Op = define(padding.flip, x=lambda g, dims: _flip(g, dims))
_roll: Op = define(padding.roll, x=lambda g, shifts, dims: _roll(g, [-s for s in shifts], dims))


def flip(input: Tensor, *axes: Any, dims: Sequence[int] | None = None) -> Tensor:
    """A copy with the order of elements reversed along ``dims``.

    Raises:
        RuntimeError: if a dimension is named twice.
    """
    found = tuple(dimension("flip", d, input.dim()) for d in listed("flip", axes, dims=dims))
    for d in found:
        if found.count(d) > 1:
            raise RuntimeError(f"flip: dim {d} appears multiple times in the list of dims")
    return _flip(input, () if input.dim() == 0 else found)


def fliplr(input: Tensor) -> Tensor:
    """A copy with the order of columns reversed."""
    if input.dim() < 2:
        raise RuntimeError(f"fliplr: Input must be >= 2-d, got shape {tuple(input.shape)}")
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """A copy with the order of rows reversed."""
    if input.dim() < 1:
        raise RuntimeError(f"flipud: Input must be >= 1-d, got shape {tuple(input.shape)}")
    return flip(input, 0)


def roll(input: Tensor, shifts: Dims, dims: Dims | None = None) -> Tensor:
    """A copy moved by ``shifts`` along ``dims``: what leaves at one end enters at the other. No dims: as one flat row.

    Raises:
        RuntimeError: if there are not as many shifts as dims.
    """
    by = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    if not by:
        raise RuntimeError("roll: `shifts` required")
    if dims is None or (isinstance(dims, (tuple, list)) and not dims):
        if len(by) > 1:
            raise RuntimeError(f"roll: shifts and dimensions must align. shifts: {len(by)}, dims:0")
        return shape.reshape(_roll(shape.ravel(input), by, (0,)), tuple(input.shape))
    along = tuple(dimension("roll", d, input.dim()) for d in ((dims,) if isinstance(dims, int) else dims))
    if len(along) != len(by):
        raise RuntimeError(f"roll: shifts and dimensions must align. shifts: {len(by)}, dims:{len(along)}")
    if input.dim() == 0:
        return input.clone()
    return _roll(input, by, along)


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned by ``k`` quarters, from the first of two ``dims`` towards the second.

    Raises:
        RuntimeError: unless there are two different dims.
    """
    if len(dims) != 2:
        raise RuntimeError(f"rot90: expected total rotation dims == 2, but got dims = {len(dims)}")
    if input.dim() < 2:
        raise RuntimeError(f"rot90: expected total dims >= 2, but got total dims = {input.dim()}")
    a, b = (dimension("rot90", d, input.dim()) for d in dims)
    if a == b:
        raise RuntimeError(
            f"rot90: expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}"
        )
    quarters = k % 4
    if quarters == 2:
        return flip(input, a, b)
    if quarters == 0:
        return input.clone()
    return shape.transpose(flip(input, b if quarters == 1 else a), a, b)


def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """Two dimensions exchanged: a view."""
    return shape.transpose(input, axis0, axis1)


def swapdims(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged: a view."""
    return shape.transpose(input, dim0, dim1)


moveaxis = shape.movedim


# ---- repeating -----------------------------------------------------------------------------------------------------


def _repeat_rule(g: Tensor, x_shape: Sequence[int], counts: Sequence[int]) -> Tensor:
    apart = shape.reshape(g, [m for count, n in zip(counts, x_shape) for m in (count, n)])
    return apart.sum(tuple(range(0, apart.dim(), 2)))


_repeat: Op = define(padding.repeat, x=_repeat_rule)


def repeat(self: Tensor, *times: Any, repeats: Sequence[int] | None = None) -> Tensor:
    """A copy with the whole tensor repeated along each dimension; more numbers than dimensions add leading ones.

    Raises:
        RuntimeError: if there are fewer numbers than dimensions, or one is negative.
    """
    counts = listed("repeat", times, repeats=repeats)
    lead = len(counts) - self.dim()
    if lead < 0:
        raise RuntimeError(
            f"repeat: Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor, got "
            f"{len(counts)} for shape {tuple(self.shape)}"
        )
    if any(n < 0 for n in counts):
        raise RuntimeError(f"repeat: repeats must not be negative, got {counts}")
    sizes = (1,) * lead + tuple(self.shape)
    if all(n == 1 for n in counts):
        return shape.reshape(self.clone(), sizes)
    return _repeat(shape.reshape(self, sizes), counts)


def tile(input: Tensor, *times: Any, dims: Sequence[int] | None = None) -> Tensor:
    """:func:`repeat`, where missing leading numbers are 1."""
    counts = listed("tile", times, dims=dims)
    return repeat(input, (1,) * (input.dim() - len(counts)) + counts)


def repeat_interleave(
    input: Tensor, repeats: int | Tensor | None = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each slice of ``dim`` repeated: all as often, or as an integer vector ``repeats`` says. No dim: as one flat row.

    ``repeat_interleave(repeats)`` gives the positions 0, 1, …, each as often as ``repeats`` says. ``output_size``, the sum
    of ``repeats``, spares a GPU the wait for it.

    Raises:
        RuntimeError: for negative repeats, others than integers, another number of them than slices, or a wrong
        ``output_size`` (which a GPU does not see).
    """
    if repeats is None:
        return _repeated_positions(input, output_size)
    if dim is None:
        input, dim = shape.ravel(input), 0
    d = dimension("repeat_interleave", dim, input.dim())
    if input.dim() == 0:
        input = shape.reshape(input, 1)
    n = input.shape[d]
    if isinstance(repeats, Tensor):
        if repeats.dim() > 1 or repeats.numel() not in (1, n):
            raise RuntimeError(
                f"repeat_interleave: repeats must have the same size as input along dim, but got repeats of shape "
                f"{tuple(repeats.shape)} and input.size({d}) = {n}"
            )
        return input.index_select(d, _repeated_positions(shape.expand(shape.ravel(repeats), n), output_size))
    if repeats < 0:
        raise RuntimeError(f"repeat_interleave: Repeats must be non-negative, got {repeats}")
    if output_size not in (None, n * repeats):
        raise RuntimeError(f"repeat_interleave: Invalid output_size, expected {n * repeats} but got {output_size}")
    spread = shape.expand(shape.unsqueeze(input, d + 1), [*input.shape[: d + 1], repeats, *input.shape[d + 1 :]])
    result = shape.reshape(spread, [*input.shape[:d], n * repeats, *input.shape[d + 1 :]])
    return result.clone() if repeats == 1 else result


def _repeated_positions(repeats: Tensor, output_size: int | None) -> Tensor:
    """0 as often as the first of ``repeats``, 1 as often as the second, and so on."""
    if repeats.dtype not in (memory.int64, memory.int32):
        raise RuntimeError(f"repeat_interleave: repeats has to be Long or Int tensor, got {repeats.dtype}")
    if repeats.dim() != 1:
        raise RuntimeError(
            f"repeat_interleave: repeats must be 0-dim or 1-dim tensor, got shape {tuple(repeats.shape)}"
        )
    ends = repeats.cumsum(0)
    visible = repeats.device.type == "cpu"
    if (visible or output_size is None) and repeats.numel():
        total = int(ends[-1].item())
        if bool((repeats < 0).any()):
            raise RuntimeError("repeat_interleave: repeats can not be negative")
    else:
        total = output_size or 0
    if output_size not in (None, total):
        raise RuntimeError(f"repeat_interleave: Invalid output_size, expected {total} but got {output_size}")
    # position p shows the slice that as many others end before, or at, as there are marks up to p
    marks = full((total + 1,), 0, device=repeats.device)
    marks.index_add_(0, ends, full((ends.numel(),), 1, device=repeats.device))
    return shape.narrow(marks.cumsum(0), 0, 0, total)


# ---- sections ------------------------------------------------------------------------------------------------------


def tensor_split(input: Tensor, indices_or_sections: int | Sequence[int] | Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of sections along ``dim``: so many, the first ones larger by one where needed, or cut before the indices listed.

    Raises:
        RuntimeError: for a tensor of no dimensions, or less than one section.
    """
    if input.dim() == 0:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    d = dimension("tensor_split", dim, input.dim())
    n = input.shape[d]
    wanted = indices_or_sections.tolist() if isinstance(indices_or_sections, Tensor) else indices_or_sections
    if isinstance(wanted, int):
        if wanted <= 0:
            raise RuntimeError(f"tensor_split: number of sections must be larger than 0, got {wanted}")
        more = n % wanted
        return shape.split(input, [n // wanted + (k < more) for k in range(wanted)], d)
    if not all(hasattr(i, "__index__") for i in wanted):
        raise TypeError(f"tensor_split: expected a number of sections or a list of indices, got {indices_or_sections}")
    bounds = [slice(None, i).indices(n)[1] for i in wanted]
    cuts = [0, *bounds, n]
    if cuts == sorted(cuts):
        return shape.split(input, [stop - start for start, stop in itertools.pairwise(cuts)], d)
    return tuple(shape.narrow(input, d, start, max(stop - start, 0)) for start, stop in itertools.pairwise(cuts))


def _split_along(op: str, input: Tensor, indices_or_sections: int | Sequence[int], dim: int) -> tuple[Tensor, ...]:
    n = input.shape[dim]
    if isinstance(indices_or_sections, int) and (indices_or_sections < 1 or n % indices_or_sections):
        raise RuntimeError(
            f"{op} attempted to split along dimension {dim}, but the size of the dimension {n} is not divisible by "
            f"the split_size {indices_or_sections}!"
        )
    return tensor_split(input, indices_or_sections, dim)


def _at_least(op: str, input: Tensor, ndim: int) -> None:
    if input.dim() < ndim:
        raise RuntimeError(
            f"{op} requires a tensor with at least {ndim} dimension{'s' * (ndim > 1)}, but got a tensor with "
            f"{input.dim()} dimensions!"
        )


def hsplit(input: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """:func:`tensor_split` along columns (a vector: along its elements); an integer must divide."""
    _at_least("hsplit", input, 1)
    return _split_along("hsplit", input, indices_or_sections, 0 if input.dim() == 1 else 1)


def vsplit(input: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """:func:`tensor_split` along rows; an integer must divide."""
    _at_least("vsplit", input, 2)
    return _split_along("vsplit", input, indices_or_sections, 0)


def dsplit(input: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """:func:`tensor_split` along the third dimension; an integer must divide."""
    _at_least("dsplit", input, 3)
    return _split_along("dsplit", input, indices_or_sections, 2)


# ---- rank ----------------------------------------------------------------------------------------------------------


def _each(op: str, tensors: tuple[Any, ...], function: Any) -> Any:
    """``function`` of the one tensor, or a tuple of its results for several or for a sequence of them."""
    if len(tensors) == 1 and isinstance(tensors[0], Tensor):
        return function(tensors[0])
    if len(tensors) == 1:
        tensors = as_tuple(tensors[0])
    check_tensors(f"{op}()", "tensors", tensors)
    return tuple(function(x) for x in tensors)


def _to_1d(x: Tensor) -> Tensor:
    return shape.reshape(x, 1) if x.dim() == 0 else x


def _to_2d(x: Tensor) -> Tensor:
    return x if x.dim() >= 2 else shape.unsqueeze(_to_1d(x), 0)


def _to_3d(x: Tensor) -> Tensor:
    return x if x.dim() >= 3 else shape.unsqueeze(_to_2d(x), -1)


def atleast_1d(*tensors: Any) -> Any:
    """Views with at least one dimension: of one tensor, or a tuple of them."""
    return _each("atleast_1d", tensors, _to_1d)


def atleast_2d(*tensors: Any) -> Any:
    """Views with at least two dimensions; a vector becomes a row."""
    return _each("atleast_2d", tensors, _to_2d)


def atleast_3d(*tensors: Any) -> Any:
    """Views with at least three dimensions; a vector of n becomes (1, n, 1), a matrix gets a last dimension."""
    return _each("atleast_3d", tensors, _to_3d)


def broadcast_shapes(*shapes: int | Sequence[int]) -> memory.Size:
    """The shape that tensors of these shapes broadcast to.

    Raises:
        RuntimeError: if there is none, or a size is negative.
    """
    listed = [(s,) if isinstance(s, int) else tuple(s) for s in shapes]
    if any(n < 0 for s in listed for n in s):
        raise RuntimeError(f"broadcast_shapes: sizes must not be negative, got {listed}")
    return memory.Size(strides.broadcast_shapes("broadcast_shapes", *listed))
