"""The positions of the greatest and the least elements, alone or with the elements: one kernel and its launches."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.addressing import offsets, stored_bool_as_int
from tinyflow.kernels.elementwise import contiguous
from tinyflow.kernels.launch import Configs, Cost, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.reduction.plan import (
    SHIPPED,
    Walk,
    check_nonempty,
    choose_tiles,
    index_dtype,
    interpreter_tiles,
    normalize_dims,
    result_memory,
    tiles_of_partials,
    walk_over,
)
from tinyflow.kernels.reduction.rules import furthest, row_max, row_min

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
        winner = row_max(best)
    else:
        winner = row_min(best)
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


arg_reduce_configs = Configs("_arg_reduce_kernel", SHIPPED, choose_tiles, interpreter_tiles)


def _launch_arg_reduce(
    x: Buffer,
    positions: Buffer | None,
    values: Buffer | None,
    indices: Buffer,
    walk: Walk,
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
        INDEX=index_dtype(walk, x, best_at),
        KEPT_DIMS=len(walk.kept_sizes),
        REDUCED_DIMS=len(walk.reduced_sizes),
    )
    if split > 1:
        assert best is not None
        with arg_reduce_configs.forced(tiles_of_partials(walk.kept)):
            _launch_arg_reduce(best, best_at, values, indices, walk.of_partials(split), greatest, identity)


def _arg_reduce(
    op: str, x: Buffer, dim: int | None, keepdim: bool, greatest: bool, with_values: bool
) -> tuple[Buffer | None, Buffer]:
    if dim is None:
        check_nonempty(op, x, tuple(range(x.dim())))
        flat = contiguous(x)  # positions count row-major
        values, indices = _arg_reduce(op, memory.as_strided(flat, (x.numel(),), (1,)), 0, False, greatest, with_values)
        shape = (1,) * x.dim() if keepdim else ()
        return values, memory.as_strided(indices, shape, (1,) * len(shape))
    dims = normalize_dims(op, dim, x.dim())
    check_nonempty(op, x, dims)
    indices, full_indices = result_memory(x, dims, keepdim, memory.int64)
    values, full_values = result_memory(x, dims, keepdim, x.dtype) if with_values else (None, None)
    if indices.numel() == 0:
        return values, indices
    identity = furthest(x.dtype, greatest)
    _launch_arg_reduce(x, None, full_values, full_indices, walk_over(x, full_indices, dims), greatest, identity)
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
