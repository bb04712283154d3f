"""Reductions over any dimensions: sum, mean, prod, amax, amin, any, all, variance, and the arg-reductions.

One kernel serves all value reductions. It is given four JIT functions: ``MAP`` (an element, and the row's centre, to a
term), ``COMBINE`` (two tiles of terms to one), ``COLLAPSE`` (a tile to one value a row) and ``FINISH`` (the total and a
divisor to the result). The host merges the kept and the reduced dimensions to the fewest that walk memory
(``strides.coalesce``); a program keeps one accumulator for every lane of its tile, so a sum is a tree over lanes of
short chains. A reduction with few results is split over programs: each writes its partial to a workspace, which a
second launch reduces in a fixed order, so results are the same bits in every run.

Accumulation: float32 for float32 and the half precisions, float64 for float64, int64 for integers and bool.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_from_bits, offsets, stored_bool_as_int
from tinyflow.kernels.elementwise import Pointwise, contiguous, copy, fill
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.strides import Shape

Dims = int | Sequence[int] | None


@triton.jit
def _element(x, center):
    return x


@triton.jit
def _squared_deviation(x, center):
    return (x - center) * (x - center)


@triton.jit
def _element_unless_nan(x, center):
    return tl.where(x != x, 0, x)


@triton.jit
def _magnitude(x, center):
    return tl.abs(x)


@triton.jit
def _square(x, center):
    return x * x


@triton.jit
def _exp_of_deviation(x, center):
    return tl.exp(x - tl.where(tl.abs(center) == float("inf"), 0.0, center))


@triton.jit
def _truth(x, center):
    return (x != 0).to(x.dtype)


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def greater(a, b):
    return tl.where((a > b) | (a != a), a, b)  # a NaN wins, as in torch


@triton.jit
def lesser(a, b):
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def _row_sum(tile):
    return tl.sum(tile, axis=1)


@triton.jit
def _row_product(tile):
    # halves the columns until one is left: known reductions are fast everywhere, a product is not among them
    ROWS: tl.constexpr = tile.shape[0]
    for _ in tl.static_range(20):
        if tile.shape[1] > 1:
            left, right = tl.split(tl.reshape(tile, (ROWS, tile.shape[1] // 2, 2)))
            tile = left * right
    return tl.reshape(tile, (ROWS,))


@triton.jit
def _with_nan(result, tile):
    if tile.dtype.is_floating():
        has_nan = tl.max((tile != tile).to(tl.int32), axis=1) > 0
        result = tl.where(has_nan, float("nan"), result)
    return result


@triton.jit
def _row_max(tile):
    return _with_nan(tl.max(tile, axis=1), tile)


@triton.jit
def _row_min(tile):
    return _with_nan(tl.min(tile, axis=1), tile)


@triton.jit
def _total(total, divisor):
    return total


@triton.jit
def _quotient(total, divisor):
    return total / divisor


@triton.jit
def _root_quotient(total, divisor):
    return tl.sqrt(total / divisor)


@triton.jit
def _root(total, divisor):
    return tl.sqrt(total)


@triton.jit
def _logarithm(total, divisor):
    return tl.log(total)


@triton.jit
def _reduce_kernel(
    x_ptr,
    center_ptr,  # laid out as out, in ACCUMULATE; or None
    out_ptr,  # the result, or the workspace (SPLIT, kept) of partial results
    kept,
    reduced,
    chunk,  # reduced elements of one of the SPLIT parts, a multiple of BLOCK_N
    divisor_bits,
    kept_sizes,
    x_kept_strides,
    out_strides,
    reduced_sizes,
    reduced_strides,
    MAP: tl.constexpr,
    COMBINE: tl.constexpr,
    COLLAPSE: tl.constexpr,
    FINISH: tl.constexpr,
    IDENTITY: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    INDEX: tl.constexpr,
    KEPT_DIMS: tl.constexpr,
    REDUCED_DIMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
):
    program = tl.program_id(0).to(INDEX)
    part = program % SPLIT
    m = (program // SPLIT) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    m_mask = m < kept
    x_rows = x_ptr + offsets(m, kept_sizes, x_kept_strides, KEPT_DIMS)
    out_at = offsets(m, kept_sizes, out_strides, KEPT_DIMS)
    if center_ptr is not None:
        center = tl.load(center_ptr + out_at, mask=m_mask, other=0)[:, None]
    else:
        center = 0
    accumulator = tl.full((BLOCK_M, BLOCK_N), IDENTITY, ACCUMULATE)
    start = part * chunk
    end = tl.minimum(start + chunk, reduced)
    for n_start in range(start, end, BLOCK_N):
        n = n_start + tl.arange(0, BLOCK_N).to(INDEX)
        mask = m_mask[:, None] & (n < end)[None, :]
        x = tl.load(
            x_rows[:, None] + offsets(n, reduced_sizes, reduced_strides, REDUCED_DIMS)[None, :],
            mask=mask,
            other=IDENTITY,
        )
        term = MAP(stored_bool_as_int(x).to(ACCUMULATE), center)
        if center_ptr is not None:  # a padded lane has a deviation too
            term = tl.where(mask, term, IDENTITY)
        accumulator = COMBINE(accumulator, term)
    total = COLLAPSE(accumulator)
    if SPLIT == 1:
        result = FINISH(total, float_from_bits(divisor_bits).to(ACCUMULATE))
        if out_ptr.dtype.element_ty == tl.int1:
            result = result != 0
        tl.store(out_ptr + out_at, result.to(out_ptr.dtype.element_ty), mask=m_mask)
    else:
        tl.store(out_ptr + part * kept + m, total, mask=m_mask)


#: The position of a lane that holds no element.
_NOWHERE = tl.constexpr(2**63 - 1)


@triton.jit
def _arg_reduce_kernel(
    x_ptr,
    positions_ptr,  # of the partial results in x, laid out as x; or None: an element's position is its number
    values_ptr,  # or None
    indices_ptr,
    kept,
    reduced,
    chunk,
    kept_sizes,
    x_kept_strides,
    out_strides,
    reduced_sizes,
    reduced_strides,
    GREATEST: tl.constexpr,
    IDENTITY: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    INDEX: tl.constexpr,
    KEPT_DIMS: tl.constexpr,
    REDUCED_DIMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
):
    program = tl.program_id(0).to(INDEX)
    part = program % SPLIT
    m = (program // SPLIT) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    m_mask = m < kept
    rows = offsets(m, kept_sizes, x_kept_strides, KEPT_DIMS)
    best = tl.full((BLOCK_M, BLOCK_N), IDENTITY, ACCUMULATE)
    best_at = tl.full((BLOCK_M, BLOCK_N), _NOWHERE, tl.int64)
    start = part * chunk
    end = tl.minimum(start + chunk, reduced)
    for n_start in range(start, end, BLOCK_N):
        n = n_start + tl.arange(0, BLOCK_N).to(INDEX)
        mask = m_mask[:, None] & (n < end)[None, :]
        where = rows[:, None] + offsets(n, reduced_sizes, reduced_strides, REDUCED_DIMS)[None, :]
        x = stored_bool_as_int(tl.load(x_ptr + where, mask=mask, other=IDENTITY)).to(ACCUMULATE)
        if positions_ptr is not None:
            at = tl.load(positions_ptr + where, mask=mask, other=_NOWHERE)
        else:
            at = tl.broadcast_to(n[None, :].to(tl.int64), (BLOCK_M, BLOCK_N))
        if GREATEST:
            better = x > best
        else:
            better = x < best
        # an earlier equal element stays; a NaN beats all but an earlier NaN
        better = mask & (better | ((x != x) & (best == best)) | (best_at == _NOWHERE))
        best = tl.where(better, x, best)
        best_at = tl.where(better, at, best_at)
    if GREATEST:
        winner = _row_max(best)
    else:
        winner = _row_min(best)
    wins = (best == winner[:, None]) | (best != best)
    winner_at = tl.min(tl.where(wins, best_at, _NOWHERE), axis=1)
    if SPLIT == 1:
        out_at = offsets(m, kept_sizes, out_strides, KEPT_DIMS)
    else:
        out_at = part * kept + m
    tl.store(indices_ptr + out_at, winner_at, mask=m_mask)
    if values_ptr is not None:
        if values_ptr.dtype.element_ty == tl.int1:
            winner = winner != 0
        tl.store(values_ptr + out_at, winner.to(values_ptr.dtype.element_ty), mask=m_mask)


def _tiles(block_m: int, block_n: int, split: int, num_warps: int) -> Config:
    return Config({"BLOCK_M": block_m, "BLOCK_N": block_n, "SPLIT": split}, num_warps)


# Rows lie in memory one after the other (reduced elements are neighbours), or across it (kept ones are).
_ALONG = (_tiles(1, 2048, 1, 8), _tiles(8, 256, 1, 4), _tiles(32, 32, 1, 4))
_ACROSS = (_tiles(64, 32, 1, 4),)
_SPLIT = (_tiles(1, 2048, 16, 8), _tiles(1, 2048, 256, 8), _tiles(64, 32, 16, 4), _tiles(64, 32, 256, 4))

#: Programs that keep a large GPU busy; fixed, so that results do not depend on the GPU's size.
_ENOUGH_PROGRAMS = 512


def _choose(kept: int, reduced: int, across: bool) -> Config:
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


def _interpreter(kept: int, reduced: int, across: bool) -> Config:
    block_n = block(reduced)
    return _tiles(block(kept, MAX_BLOCK // block_n), block_n, 1, 4)


reduce_configs = Configs("_reduce_kernel", (*_ALONG, *_ACROSS, *_SPLIT), _choose, _interpreter)
arg_reduce_configs = Configs("_arg_reduce_kernel", (*_ALONG, *_ACROSS, *_SPLIT), _choose, _interpreter)


class _Rule(NamedTuple):
    """The four functions of a reduction and its neutral element."""

    map: Any
    combine: Any
    collapse: Any
    finish: Any
    identity: float | int


class _Walk(NamedTuple):
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

    def of_partials(self, split: int) -> _Walk:
        """The walk over a workspace of shape (split, kept) that has the same results."""
        return self._replace(
            x_kept_strides=strides.contiguous_strides(self.kept_sizes),
            reduced_sizes=(split,),
            reduced_strides=(self.kept,),
        )


def normalize_dims(op: str, dim: Dims, ndim: int) -> tuple[int, ...]:
    """The dimensions that ``dim`` names, counted from the front, in order; ``None`` and ``()`` name all of them.

    Raises:
        IndexError: if one is out of range.
        RuntimeError: if one appears twice.
    """
    named = [] if dim is None else [dim] if isinstance(dim, int) else list(dim)
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


def _result(x: Buffer, dims: tuple[int, ...], keepdim: bool, dtype: memory.dtype) -> tuple[Buffer, Buffer]:
    """Memory for the result, dense in the order of ``x``, and the same with the reduced dimensions kept as 1."""
    shape = tuple(1 if k in dims else n for k, n in enumerate(x.shape))
    full = memory.empty(shape, dtype, x.device, strides.like(x, shape))
    if keepdim:
        return full, full
    rest = [k for k in range(x.dim()) if k not in dims]
    return memory.as_strided(full, [shape[k] for k in rest], [full.stride(k) for k in rest]), full


def _walk(x: Buffer, full: Buffer, dims: tuple[int, ...]) -> _Walk:
    kept = [k for k in range(x.dim()) if k not in dims]
    kept_sizes, (x_kept, out) = strides.coalesce(
        [x.shape[k] for k in kept], [x.stride(k) for k in kept], [full.stride(k) for k in kept]
    )
    sizes, (reduced,) = strides.coalesce([x.shape[k] for k in dims], [x.stride(k) for k in dims])
    return _Walk(
        tuple(kept_sizes or [1]), tuple(x_kept or [0]), tuple(out or [0]), tuple(sizes or [1]), tuple(reduced or [0])
    )


def _index_dtype(walk: _Walk, *buffers: Buffer | None) -> Any:
    many = max(walk.kept, walk.reduced) > 2**30  # counts of elements, rounded up to tiles, and not places in memory
    return tl.int64 if many else offset_dtype(*buffers)


def _launch_reduce(
    x: Buffer, out: Buffer, walk: _Walk, rule: _Rule, accumulate: memory.dtype, divisor: float, center: Buffer | None
) -> None:
    config = reduce_configs(x.dtype, kept=walk.kept, reduced=walk.reduced, across=walk.across)
    split, block_m, block_n = (config.blocks[name] for name in ("SPLIT", "BLOCK_M", "BLOCK_N"))
    target = out if split == 1 else memory.empty((split, walk.kept), accumulate, x.device)
    launch(
        _reduce_kernel,
        (cdiv(walk.kept, block_m) * split,),
        x,
        center,
        target,
        walk.kept,
        walk.reduced,
        cdiv(cdiv(walk.reduced, split), block_n) * block_n,
        struct.unpack("q", struct.pack("d", divisor))[0],
        *walk,
        config=config,
        cost=Cost(walk.kept * walk.reduced, nbytes(x, center, target)),
        device=x.device,
        MAP=rule.map,
        COMBINE=rule.combine,
        COLLAPSE=rule.collapse,
        FINISH=rule.finish,
        IDENTITY=rule.identity,
        ACCUMULATE=dtypes.triton_dtype(accumulate),
        INDEX=_index_dtype(walk, x, target),
        KEPT_DIMS=len(walk.kept_sizes),
        REDUCED_DIMS=len(walk.reduced_sizes),
    )
    if split > 1:
        with reduce_configs.forced(_whole(walk.kept, split)):
            _launch_reduce(target, out, walk.of_partials(split), rule._replace(map=_element), accumulate, divisor, None)


def _whole(kept: int, split: int) -> Config:
    """The configuration that reduces the partial results of ``split`` programs in one go."""
    return _tiles(64, 32, 1, 4) if kept > 1 else _tiles(1, 2048, 1, 8)


def _reduce(
    op: str,
    x: Buffer,
    dim: Dims,
    keepdim: bool,
    dtype: memory.dtype,
    rule: _Rule,
    accumulate: memory.dtype,
    divisor: float = 1.0,
    center: Buffer | None = None,
    empty: float | int | None = None,
) -> Buffer:
    """Reduces ``x`` by ``rule``; ``empty`` is the result over no elements, which ``None`` refuses."""
    dims = normalize_dims(op, dim, x.dim())
    if empty is None:
        _check_nonempty(op, x, dims)
    out, full = _result(x, dims, keepdim, dtype)
    if out.numel() == 0:
        return out
    if x.numel() == 0:
        assert empty is not None
        return fill(out, empty)
    _launch_reduce(x, full, _walk(x, full, dims), rule, accumulate, divisor, center)
    return out


def _check_nonempty(op: str, x: Buffer, dims: tuple[int, ...]) -> None:
    for d in dims:
        if x.shape[d] == 0:
            raise IndexError(f"{op}: expected dimension {d} of {tuple(x.shape)} to have elements; no element, no {op}")


def _count(x: Buffer, dims: tuple[int, ...]) -> int:
    return strides.numel([x.shape[d] for d in dims])


def sum(x: Buffer, dim: Dims = None, keepdim: bool = False, dtype: memory.dtype | None = None) -> Buffer:
    """``out = Σ x`` over the dimensions ``dim`` (all by default).

    Args:
        x: any shape, strides and dtype.
        dtype: what elements are cast to before they are summed; by default that of ``x``, int64 for integers and bool.

    Returns a buffer of ``dtype`` without the reduced dimensions (with them as 1 if ``keepdim``); 0 over no elements.
    FLOPs: one an element. Bytes: ``x`` read and the result written once.
    """
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else memory.int64)
    return _reduce("sum", x, dim, keepdim, dtype, _SUM, dtypes.accumulate_dtype(dtype), empty=0)


def nansum(x: Buffer, dim: Dims = None, keepdim: bool = False, dtype: memory.dtype | None = None) -> Buffer:
    """:func:`sum` with 0 in the place of every NaN."""
    if not x.dtype.is_floating_point:
        return sum(x, dim, keepdim, dtype)
    dtype = dtype or x.dtype
    rule = _SUM._replace(map=_element_unless_nan)
    return _reduce("nansum", x, dim, keepdim, dtype, rule, dtypes.accumulate_dtype(dtype), empty=0)


def norm(x: Buffer, ord: float = 2, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """``out = (Σ |x|^ord)^(1/ord)`` over ``dim`` for the orders 1, 2 and ±infinity (the greatest, the least magnitude).

    Floating-point ``x`` only. FLOPs: two an element. Bytes: ``x`` read and the result written once.

    Raises:
        ValueError: for another order.
        RuntimeError: if ``x`` is not floating point, or has no elements for the order -infinity or infinity.
    """
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"norm: expected a floating-point dtype, got {x.dtype}")
    if ord not in _NORMS:
        raise ValueError(f"norm: expected an order among {sorted(_NORMS)}, got {ord}")
    empty = None if ord == float("-inf") else 0
    return _reduce("norm", x, dim, keepdim, x.dtype, _NORMS[ord], dtypes.accumulate_dtype(x.dtype), empty=empty)


def logsumexp(x: Buffer, dim: Dims, keepdim: bool = False) -> Buffer:
    """``out = log Σ exp(x)`` over ``dim``, in two passes: the maximum first, so that nothing overflows.

    Floating-point results only (integers are lifted); -inf over no elements. FLOPs: three an element. Bytes: ``x`` twice.
    """
    if not x.dtype.is_floating_point:
        x = copy(x, memory.get_default_dtype())
    dims = normalize_dims("logsumexp", dim, x.dim())
    if x.numel() == 0:
        return fill(_result(x, dims, keepdim, x.dtype)[0], float("-inf"))
    accumulate = dtypes.accumulate_dtype(x.dtype)
    rule = _MAX._replace(identity=float("-inf"))
    center = _reduce("logsumexp", x, dim, True, accumulate, rule, accumulate)
    log_rule = _SUM._replace(map=_exp_of_deviation, finish=_logarithm)
    rest = _reduce("logsumexp", x, dim, True, accumulate, log_rule, accumulate, center=center)
    out, full = _result(x, dims, keepdim, x.dtype)
    log_of_sum(rest, center, out=full)
    return out


@triton.jit
def _restore_center(rest, center):
    return rest + tl.where(tl.abs(center) == float("inf"), 0.0, center)


log_of_sum = Pointwise("logsumexp", _restore_center)


def mean(x: Buffer, dim: Dims = None, keepdim: bool = False, dtype: memory.dtype | None = None) -> Buffer:
    """``out = Σ x / n`` over ``dim``, ``n`` elements each; NaN over no elements. Else as :func:`sum`.

    Raises:
        RuntimeError: if neither ``x`` nor ``dtype`` is floating point.
    """
    dtype = dtype or x.dtype
    if not dtype.is_floating_point:
        raise RuntimeError(f"mean: expected a floating-point dtype, got {dtype}; name one with dtype=")
    n = _count(x, normalize_dims("mean", dim, x.dim()))
    accumulate = dtypes.accumulate_dtype(dtype)
    return _reduce(
        "mean", x, dim, keepdim, dtype, _SUM._replace(finish=_quotient), accumulate, float(n), empty=float("nan")
    )


def _spread(op: str, x: Buffer, dim: Dims, correction: float, keepdim: bool, finish: Any) -> Buffer:
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"{op}: expected a floating-point dtype, got {x.dtype}")
    accumulate = dtypes.accumulate_dtype(x.dtype)
    center = mean(x, dim, keepdim=True, dtype=accumulate)
    freedom = max(0.0, _count(x, normalize_dims(op, dim, x.dim())) - correction)
    rule = _SUM._replace(map=_squared_deviation, finish=finish)
    return _reduce(op, x, dim, keepdim, x.dtype, rule, accumulate, freedom, center, empty=float("nan"))


def var(x: Buffer, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Buffer:
    """``out = Σ (x − mean(x))² / max(0, n − correction)`` over ``dim``, in two passes over ``x``.

    Floating-point ``x`` only; NaN where no degree of freedom is left. FLOPs: four an element. Bytes: ``x`` read twice.

    Raises:
        RuntimeError: if ``x`` is not floating point.
    """
    return _spread("var", x, dim, correction, keepdim, _quotient)


def std(x: Buffer, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Buffer:
    """The square root of :func:`var`."""
    return _spread("std", x, dim, correction, keepdim, _root_quotient)


def prod(x: Buffer, dim: int | None = None, keepdim: bool = False, dtype: memory.dtype | None = None) -> Buffer:
    """``out = Π x`` over ``dim``; 1 over no elements. Dtypes as :func:`sum`."""
    dtype = dtype or (x.dtype if x.dtype.is_floating_point else memory.int64)
    return _reduce("prod", x, dim, keepdim, dtype, _PROD, dtypes.accumulate_dtype(dtype), empty=1)


def _extreme(op: str, x: Buffer, dim: Dims, keepdim: bool, rule: _Rule, greatest: bool) -> Buffer:
    rule = rule._replace(identity=furthest(x.dtype, greatest))
    return _reduce(op, x, dim, keepdim, x.dtype, rule, dtypes.accumulate_dtype(x.dtype))


def furthest(dtype: memory.dtype, greatest: bool) -> float | int:
    """The value of ``dtype`` that any other beats."""
    if dtype.is_floating_point:
        return float("-inf") if greatest else float("inf")
    if dtype == memory.bool_:
        return 0 if greatest else 1
    limits = memory.iinfo(dtype)
    return limits.min if greatest else limits.max


def amax(x: Buffer, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """``out = max x`` over ``dim``; a NaN wins. Any dtype; FLOPs: one an element. Bytes: ``x`` read once.

    Raises:
        IndexError: if a reduced dimension has no elements.
    """
    return _extreme("amax", x, dim, keepdim, _MAX, True)


def amin(x: Buffer, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """``out = min x`` over ``dim``; as :func:`amax`."""
    return _extreme("amin", x, dim, keepdim, _MIN, False)


def _truth_over(op: str, x: Buffer, dim: Dims, keepdim: bool, rule: _Rule, empty: int) -> Buffer:
    if dim is not None and not isinstance(dim, int) and not dim:  # here, unlike elsewhere, () names no dimension
        x, dim, keepdim = memory.as_strided(x, (*x.shape, 1), (*x.stride(), 1)), -1, False
    dtype = memory.uint8 if x.dtype == memory.uint8 else memory.bool_
    return _reduce(op, x, dim, keepdim, dtype, rule, dtypes.accumulate_dtype(x.dtype), empty=empty)


def any(x: Buffer, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """True where some element over ``dim`` is nonzero (a NaN is); False over no elements. bool, of a uint8 ``x`` uint8."""
    return _truth_over("any", x, dim, keepdim, _ANY, 0)


def all(x: Buffer, dim: Dims = None, keepdim: bool = False) -> Buffer:
    """True where every element over ``dim`` is nonzero (a NaN is); True over no elements. bool, of a uint8 ``x`` uint8."""
    return _truth_over("all", x, dim, keepdim, _ALL, 1)


_SUM = _Rule(_element, add, _row_sum, _total, 0)
_NORMS = {
    1: _SUM._replace(map=_magnitude),
    2: _SUM._replace(map=_square, finish=_root),
    float("inf"): _Rule(_magnitude, greater, _row_max, _total, 0),
    float("-inf"): _Rule(_magnitude, lesser, _row_min, _total, float("inf")),
}
_PROD = _Rule(_element, multiply, _row_product, _total, 1)
_MAX = _Rule(_element, greater, _row_max, _total, 0)
_MIN = _Rule(_element, lesser, _row_min, _total, 0)
_ANY = _Rule(_truth, greater, _row_max, _total, 0)
_ALL = _Rule(_truth, lesser, _row_min, _total, 1)


def _launch_arg_reduce(
    x: Buffer,
    positions: Buffer | None,
    values: Buffer | None,
    indices: Buffer,
    walk: _Walk,
    greatest: bool,
    identity: float | int,
) -> None:
    config = arg_reduce_configs(x.dtype, kept=walk.kept, reduced=walk.reduced, across=walk.across)
    split, block_m, block_n = (config.blocks[name] for name in ("SPLIT", "BLOCK_M", "BLOCK_N"))
    best, best_at = values, indices
    if split > 1:
        best = memory.empty((split, walk.kept), dtypes.accumulate_dtype(x.dtype), x.device)
        best_at = memory.empty((split, walk.kept), memory.int64, x.device)
    launch(
        _arg_reduce_kernel,
        (cdiv(walk.kept, block_m) * split,),
        x,
        positions,
        best,
        best_at,
        walk.kept,
        walk.reduced,
        cdiv(cdiv(walk.reduced, split), block_n) * block_n,
        *walk,
        config=config,
        cost=Cost(walk.kept * walk.reduced, nbytes(x, positions, best, best_at)),
        device=x.device,
        GREATEST=greatest,
        IDENTITY=identity,
        ACCUMULATE=dtypes.triton_dtype(dtypes.accumulate_dtype(x.dtype)),
        INDEX=_index_dtype(walk, x, best_at),
        KEPT_DIMS=len(walk.kept_sizes),
        REDUCED_DIMS=len(walk.reduced_sizes),
    )
    if split > 1:
        assert best is not None
        with arg_reduce_configs.forced(_whole(walk.kept, split)):
            _launch_arg_reduce(best, best_at, values, indices, walk.of_partials(split), greatest, identity)


def _arg_reduce(
    op: str, x: Buffer, dim: int | None, keepdim: bool, greatest: bool, with_values: bool
) -> tuple[Buffer | None, Buffer]:
    if dim is None:
        _check_nonempty(op, x, tuple(range(x.dim())))
        flat = contiguous(x)  # positions count row-major
        values, indices = _arg_reduce(op, memory.as_strided(flat, (x.numel(),), (1,)), 0, False, greatest, with_values)
        shape = (1,) * x.dim() if keepdim else ()
        return values, memory.as_strided(indices, shape, (1,) * len(shape))
    dims = normalize_dims(op, dim, x.dim())
    _check_nonempty(op, x, dims)
    indices, full_indices = _result(x, dims, keepdim, memory.int64)
    values, full_values = _result(x, dims, keepdim, x.dtype) if with_values else (None, None)
    if indices.numel() == 0:
        return values, indices
    identity = furthest(x.dtype, greatest)
    _launch_arg_reduce(x, None, full_values, full_indices, _walk(x, full_indices, dims), greatest, identity)
    return values, indices


def _refuse_bool(op: str, x: Buffer) -> None:
    if x.dtype == memory.bool_:
        raise RuntimeError(f"{op}(): does not support bool input; cast it to an integer dtype")


def argmax(x: Buffer, dim: int | None = None, keepdim: bool = False) -> Buffer:
    """The int64 position along ``dim`` of the first greatest element; a NaN counts as greatest.

    ``dim=None`` gives the position in ``x`` read row-major. FLOPs: one an element. Bytes: ``x`` read once.

    Raises:
        IndexError: if the dimension is out of range or has no elements.
        RuntimeError: if ``x`` is bool.
    """
    _refuse_bool("argmax", x)
    return _arg_reduce("argmax", x, dim, keepdim, True, False)[1]


def argmin(x: Buffer, dim: int | None = None, keepdim: bool = False) -> Buffer:
    """The int64 position of the first least element; a NaN counts as least. As :func:`argmax`."""
    _refuse_bool("argmin", x)
    return _arg_reduce("argmin", x, dim, keepdim, False, False)[1]


def max_with_index(x: Buffer, dim: int, keepdim: bool = False) -> tuple[Buffer, Buffer]:
    """The greatest elements along ``dim`` and their positions: (:func:`amax`, :func:`argmax`) in one pass."""
    values, indices = _arg_reduce("max", x, dim, keepdim, True, True)
    assert values is not None
    return values, indices


def min_with_index(x: Buffer, dim: int, keepdim: bool = False) -> tuple[Buffer, Buffer]:
    """The least elements along ``dim`` and their positions: (:func:`amin`, :func:`argmin`) in one pass."""
    values, indices = _arg_reduce("min", x, dim, keepdim, False, True)
    assert values is not None
    return values, indices
