"""How a reduction is laid out: its dimensions, its result's memory, the walk over the input, and its tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, NamedTuple

import triton.language as tl

from tinyflow.kernels import memory, strides
from tinyflow.kernels.launch import MAX_BLOCK, Config, block, cdiv, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.strides import Shape

Dims = int | Sequence[int] | None


def normalize_dims(op: str, dim: Dims, ndim: int) -> tuple[int, ...]:
    """The dimensions that ``dim`` names, counted from the front, in order; ``None`` and ``()`` name all of them.

    Raises:
        IndexError: if one is out of range.
        RuntimeError: if one appears twice.
        TypeError: if one is no integer.
    """
    try:
        named = [] if dim is None else [*map(index, dim if isinstance(dim, Iterable) else (dim,))]
    except TypeError:
        raise TypeError(f"{op}: expected dim to be an integer or several, got {dim!r}") from None
    if not named:
        return tuple(range(ndim))
    limit = max(ndim, 1)  # a 0-dimensional buffer accepts 0 and -1
    for d in named:
        if not -limit <= d < limit:
            raise IndexError(f"{op}: dimension out of range: expected one in [{-limit}, {limit - 1}], got {d}")
    found = sorted(d % limit for d in named)
    if len(set(found)) < len(found):
        raise RuntimeError(f"{op}: expected each dimension once, got {tuple(named)}")
    return tuple(d for d in found if d < ndim)


def check_nonempty(op: str, x: Buffer, dims: tuple[int, ...]) -> None:
    """Refuses a reduction without a neutral element over none of them."""
    for d in dims:
        if x.shape[d] == 0:
            raise IndexError(f"{op}: expected dimension {d} of {tuple(x.shape)} to have elements; no element, no {op}")


def count(x: Buffer, dims: tuple[int, ...]) -> int:
    """The number of elements of each result."""
    return strides.numel([x.shape[d] for d in dims])


def result_memory(x: Buffer, dims: tuple[int, ...], keepdim: bool, dtype: memory.dtype) -> tuple[Buffer, Buffer]:
    """Memory for the result, dense in the order of ``x``, and the same with the reduced dimensions kept as 1."""
    shape = tuple(1 if k in dims else n for k, n in enumerate(x.shape))
    full = memory.empty(shape, dtype, x.device, strides.like(x, shape))
    if keepdim:
        return full, full
    rest = [k for k in range(x.dim()) if k not in dims]
    return memory.as_strided(full, [shape[k] for k in rest], [full.stride(k) for k in rest]), full


class Walk(NamedTuple):
    """How a reduction walks memory: the merged kept dimensions with input's and output's strides, the reduced ones."""

    kept_sizes: Shape
    x_kept_strides: Shape
    out_strides: Shape
    reduced_sizes: Shape
    reduced_strides: Shape

    @property
    def kept(self) -> int:
        return strides.numel(self.kept_sizes)

    @property
    def reduced(self) -> int:
        return strides.numel(self.reduced_sizes)

    @property
    def across(self) -> bool:
        """True if the input's nearest neighbours belong to different results."""
        return self.kept > 1 and self.x_kept_strides[-1] < self.reduced_strides[-1]

    def of_partials(self, split: int) -> Walk:
        """The walk over a workspace of shape (split, kept) that has the same results."""
        return self._replace(
            x_kept_strides=strides.contiguous_strides(self.kept_sizes),
            reduced_sizes=(split,),
            reduced_strides=(self.kept,),
        )


def walk_over(x: Buffer, full: Buffer, dims: tuple[int, ...]) -> Walk:
    """The walk over ``x`` to the results ``full``, which have the reduced dimensions as 1."""
    kept = [k for k in range(x.dim()) if k not in dims]
    kept_sizes, (x_kept, out) = strides.coalesce(
        [x.shape[k] for k in kept], [x.stride(k) for k in kept], [full.stride(k) for k in kept]
    )
    sizes, (reduced,) = strides.coalesce([x.shape[k] for k in dims], [x.stride(k) for k in dims])
    return Walk(
        tuple(kept_sizes or [1]), tuple(x_kept or [0]), tuple(out or [0]), tuple(sizes or [1]), tuple(reduced or [0])
    )


def index_dtype(walk: Walk, *buffers: Buffer | None) -> Any:
    """The Triton dtype that counts elements of the walk, and places in the buffers."""
    many = max(walk.kept, walk.reduced) > 2**30  # counts of elements, rounded up to tiles, and not places in memory
    return tl.int64 if many else offset_dtype(*buffers)


def _tiles(block_m: int, block_n: int, split: int, num_warps: int) -> Config:
    return Config({"BLOCK_M": block_m, "BLOCK_N": block_n, "SPLIT": split}, num_warps)


# Rows lie in memory one after the other (reduced elements are neighbours), or across it (kept ones are).
_ALONG = (_tiles(1, 2048, 1, 8), _tiles(8, 256, 1, 4), _tiles(32, 32, 1, 4))
_ACROSS = (_tiles(64, 32, 1, 4),)
_SPLIT = (_tiles(1, 2048, 16, 8), _tiles(1, 2048, 256, 8), _tiles(64, 32, 16, 4), _tiles(64, 32, 256, 4))
SHIPPED = (*_ALONG, *_ACROSS, *_SPLIT)

#: Programs that keep a large GPU busy; fixed, so that results do not depend on the GPU's size.
_ENOUGH_PROGRAMS = 512


def choose_tiles(kept: int, reduced: int, across: bool) -> Config:
    """A GPU's configuration, split over programs where few results have many elements."""
    if across:
        config = _ACROSS[0]
    else:
        config = next((c for c in _ALONG if reduced * 2 > c.blocks["BLOCK_N"]), _ALONG[-1])
    programs = cdiv(kept, config.blocks["BLOCK_M"])
    steps = cdiv(reduced, 2048 if not across else config.blocks["BLOCK_N"])
    for split in (256, 16):
        if programs * split <= 4 * _ENOUGH_PROGRAMS and steps >= 2 * split:
            return next(c for c in _SPLIT if c.blocks["SPLIT"] == split and (c.blocks["BLOCK_M"] > 1) == across)
    return config


def interpreter_tiles(kept: int, reduced: int, across: bool) -> Config:
    """Tiles as large as the problem."""
    block_n = block(reduced)
    return _tiles(block(kept, MAX_BLOCK // block_n), block_n, 1, 4)


def tiles_of_partials(kept: int) -> Config:
    """The configuration that reduces the partial results of all parts in one go."""
    return _tiles(64, 32, 1, 4) if kept > 1 else _tiles(1, 2048, 1, 8)
