"""The kernel of all reductions to values, and its launches."""

from __future__ import annotations

import struct

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.addressing import float_from_bits, offsets, stored_bool_as_int
from tinyflow.kernels.elementwise import fill
from tinyflow.kernels.launch import Configs, Cost, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.reduction.plan import (
    SHIPPED,
    Dims,
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
from tinyflow.kernels.reduction.rules import Rule


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


reduce_configs = Configs("_reduce_kernel", SHIPPED, choose_tiles, interpreter_tiles)


def _launch_reduce(
    x: Buffer, out: Buffer, walk: Walk, rule: Rule, accumulate: memory.dtype, divisor: float, center: Buffer | None
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
        INDEX=index_dtype(walk, x, target),
        KEPT_DIMS=len(walk.kept_sizes),
        REDUCED_DIMS=len(walk.reduced_sizes),
    )
    if split > 1:
        with reduce_configs.forced(tiles_of_partials(walk.kept)):
            _launch_reduce(target, out, walk.of_partials(split), rule.of_partials(), accumulate, divisor, None)


def reduce(
    op: str,
    x: Buffer,
    dim: Dims,
    keepdim: bool,
    dtype: memory.dtype,
    rule: Rule,
    accumulate: memory.dtype,
    divisor: float = 1.0,
    center: Buffer | None = None,
    empty: float | int | None = None,
) -> Buffer:
    """Reduces ``x`` by ``rule``; ``empty`` is the result over no elements, which ``None`` refuses."""
    dims = normalize_dims(op, dim, x.dim())
    if empty is None:
        check_nonempty(op, x, dims)
    out, full = result_memory(x, dims, keepdim, dtype)
    if out.numel() == 0:
        return out
    if x.numel() == 0:
        assert empty is not None
        return fill(out, empty)
    _launch_reduce(x, full, walk_over(x, full, dims), rule, accumulate, divisor, center)
    return out
