"""The backward pass: one kernel a tile of queries, which also sums δ, then one a tile of keys."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import memory, strides
from tinyflow.kernels.addressing import float_bits, float_from_bits, offsets
from tinyflow.kernels.attention.problem import (
    Problem,
    arithmetic,
    configured,
    dropout_arguments,
    resolve,
    tile,
    view_of,
    walk_batch,
    whole_tile,
)
from tinyflow.kernels.attention.tiles import LOG2_E, binary_scores, kept, load_tile, rescale
from tinyflow.kernels.elementwise import fill
from tinyflow.kernels.launch import Config, Configs, Cost, cdiv, check_same_device, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.random import Seed


@triton.jit
def _binary_shift(lse):
    """``lse`` in powers of two; 0 where a query may look at nothing, so that −inf is never subtracted from itself."""
    return tl.where(lse == float("-inf"), 0.0, lse * LOG2_E)


@triton.jit(do_not_specialize=["scale_bits", "p_bits", "seed", "offset"])
def _attention_query_grad_kernel(
    grad_q_ptr,
    grad_mask_ptr,  # [heads, groups, L, S], or None
    delta_ptr,  # [heads, groups, L]
    g_ptr,
    out_ptr,
    lse_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    L,
    S,
    E,
    V,
    groups,
    batch_sizes,
    grad_q_strides,
    g_strides,
    out_strides,
    q_strides,
    k_strides,
    v_strides,
    mask_strides,
    scale_bits,
    p_bits,
    seed,
    offset,
    state_ptr,
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles = tl.cdiv(L, BLOCK_M)
    place = tl.program_id(0) % tiles
    if CAUSAL:
        place = tiles - 1 - place
    head = (tl.program_id(0) // tiles).to(INDEX)
    batch = head // groups
    group = head % groups
    m = place.to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    lane = tl.arange(0, BLOCK_N).to(INDEX)
    e = tl.arange(0, BLOCK_E).to(INDEX)
    f = tl.arange(0, BLOCK_V).to(INDEX)
    if state_ptr is not None:
        seed = tl.load(state_ptr)
        offset = tl.load(state_ptr + 1) + offset
    q_head = q_ptr + offsets(batch, batch_sizes, q_strides, DIMS) + group * q_strides[DIMS]
    g_head = g_ptr + offsets(batch, batch_sizes, g_strides, DIMS) + group * g_strides[DIMS]
    out_head = out_ptr + offsets(batch, batch_sizes, out_strides, DIMS) + group * out_strides[DIMS]
    k_head = k_ptr + offsets(batch, batch_sizes, k_strides, DIMS)
    v_head = v_ptr + offsets(batch, batch_sizes, v_strides, DIMS)
    mask_head = mask_ptr
    if mask_ptr is not None:
        mask_head = mask_ptr + offsets(batch, batch_sizes, mask_strides, DIMS) + group * mask_strides[DIMS]
    scale = float_from_bits(scale_bits).to(ACC)

    q = load_tile(q_head, m, e, L, E, q_strides[DIMS + 1], q_strides[DIMS + 2])
    g = load_tile(g_head, m, f, L, V, g_strides[DIMS + 1], g_strides[DIMS + 2])
    out = load_tile(out_head, m, f, L, V, out_strides[DIMS + 1], out_strides[DIMS + 2])
    row = head * L + m
    delta = tl.sum(g.to(ACC) * out.to(ACC), axis=1)
    tl.store(delta_ptr + row, delta, mask=m < L)
    shift = _binary_shift(tl.load(lse_ptr + row, mask=m < L, other=0))
    acc = tl.zeros([BLOCK_M, BLOCK_E], ACC)
    end = S
    if CAUSAL:
        end = tl.minimum(S, (place + 1) * BLOCK_M)
    for start in range(0, end, BLOCK_N):
        n = start + lane
        k = load_tile(k_head, n, e, S, E, k_strides[DIMS], k_strides[DIMS + 1])
        v = load_tile(v_head, n, f, S, V, v_strides[DIMS], v_strides[DIMS + 1])
        products = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC)
        scores = binary_scores(
            products,
            m[:, None],
            n[None, :],
            L,
            S,
            mask_head,
            mask_strides[DIMS + 1],
            mask_strides[DIMS + 2],
            scale,
            CAUSAL,
        )
        p = tl.exp2(scores - shift[:, None])
        grad_p = tl.dot(g, tl.trans(v), input_precision=PRECISION, out_dtype=ACC)
        if DROPOUT:
            keep = kept(seed, offset, row, start, S, p_bits, BLOCK_N)
            grad_p = tl.where(keep, grad_p * rescale(p_bits, ACC), 0.0)
        grad_s = p * (grad_p - delta[:, None])
        if grad_mask_ptr is not None:
            exists = (m < L)[:, None] & (n < S)[None, :]
            at = (row * S)[:, None] + n[None, :]
            tl.store(grad_mask_ptr + at, grad_s.to(grad_mask_ptr.dtype.element_ty), mask=exists)
        acc = tl.dot(grad_s.to(k.dtype), k, acc, input_precision=PRECISION, out_dtype=ACC)

    grad_head = grad_q_ptr + offsets(batch, batch_sizes, grad_q_strides, DIMS) + group * grad_q_strides[DIMS]
    at = (m * grad_q_strides[DIMS + 1])[:, None] + (e * grad_q_strides[DIMS + 2])[None, :]
    grad_q = (acc * scale).to(grad_q_ptr.dtype.element_ty)
    tl.store(grad_head + at, grad_q, mask=(m < L)[:, None] & (e < E)[None, :])


@triton.jit(do_not_specialize=["scale_bits", "p_bits", "seed", "offset"])
def _attention_key_grad_kernel(
    grad_k_ptr,
    grad_v_ptr,
    delta_ptr,
    g_ptr,
    lse_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    L,
    S,
    E,
    V,
    groups,
    batch_sizes,
    grad_k_strides,
    grad_v_strides,
    g_strides,
    q_strides,
    k_strides,
    v_strides,
    mask_strides,
    scale_bits,
    p_bits,
    seed,
    offset,
    state_ptr,
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Scores are held with keys as rows, so that products with them need no transposition.
    tiles = tl.cdiv(S, BLOCK_N)
    place = tl.program_id(0) % tiles
    batch = (tl.program_id(0) // tiles).to(INDEX)
    n = place.to(INDEX) * BLOCK_N + tl.arange(0, BLOCK_N).to(INDEX)
    lane = tl.arange(0, BLOCK_M).to(INDEX)
    e = tl.arange(0, BLOCK_E).to(INDEX)
    f = tl.arange(0, BLOCK_V).to(INDEX)
    if state_ptr is not None:
        seed = tl.load(state_ptr)
        offset = tl.load(state_ptr + 1) + offset
    scale = float_from_bits(scale_bits).to(ACC)
    k_head = k_ptr + offsets(batch, batch_sizes, k_strides, DIMS)
    v_head = v_ptr + offsets(batch, batch_sizes, v_strides, DIMS)
    k = load_tile(k_head, n, e, S, E, k_strides[DIMS], k_strides[DIMS + 1])
    v = load_tile(v_head, n, f, S, V, v_strides[DIMS], v_strides[DIMS + 1])
    grad_k = tl.zeros([BLOCK_N, BLOCK_E], ACC)
    grad_v = tl.zeros([BLOCK_N, BLOCK_V], ACC)
    first = 0
    if CAUSAL:
        first = place * BLOCK_N // BLOCK_M * BLOCK_M  # earlier queries do not look here
    for group in range(groups):
        q_head = q_ptr + offsets(batch, batch_sizes, q_strides, DIMS) + tl.cast(group, INDEX) * q_strides[DIMS]
        g_head = g_ptr + offsets(batch, batch_sizes, g_strides, DIMS) + tl.cast(group, INDEX) * g_strides[DIMS]
        mask_head = mask_ptr
        if mask_ptr is not None:
            mask_head = mask_ptr + offsets(batch, batch_sizes, mask_strides, DIMS)
            mask_head += tl.cast(group, INDEX) * mask_strides[DIMS]
        for start in range(first, L, BLOCK_M):
            m = start + lane
            row = (batch * groups + group) * L + m
            q = load_tile(q_head, m, e, L, E, q_strides[DIMS + 1], q_strides[DIMS + 2])
            g = load_tile(g_head, m, f, L, V, g_strides[DIMS + 1], g_strides[DIMS + 2])
            products = tl.dot(k, tl.trans(q), input_precision=PRECISION, out_dtype=ACC)
            scores = binary_scores(
                products, m[None, :], n[:, None], L, S, mask_head, mask_strides[DIMS + 1], mask_strides[DIMS + 2],
                scale, CAUSAL,
            )  # fmt: skip
            shift = _binary_shift(tl.load(lse_ptr + row, mask=m < L, other=0))
            p = tl.exp2(scores - shift[None, :])
            grad_p = tl.dot(v, tl.trans(g), input_precision=PRECISION, out_dtype=ACC)
            dropped = p
            if DROPOUT:
                keep = kept(seed, offset, row, place * BLOCK_N, S, p_bits, BLOCK_N)
                factor = tl.trans(tl.where(keep, rescale(p_bits, ACC), 0.0))
                dropped = p * factor
                grad_p = grad_p * factor
            grad_v = tl.dot(dropped.to(g.dtype), g, grad_v, input_precision=PRECISION, out_dtype=ACC)
            delta = tl.load(delta_ptr + row, mask=m < L, other=0)
            grad_s = p * (grad_p - delta[None, :])
            grad_k = tl.dot(grad_s.to(q.dtype), q, grad_k, input_precision=PRECISION, out_dtype=ACC)

    k_out = grad_k_ptr + offsets(batch, batch_sizes, grad_k_strides, DIMS)
    k_at = (n * grad_k_strides[DIMS])[:, None] + (e * grad_k_strides[DIMS + 1])[None, :]
    k_exists = (n < S)[:, None] & (e < E)[None, :]
    tl.store(k_out + k_at, (grad_k * scale).to(grad_k_ptr.dtype.element_ty), mask=k_exists)
    v_out = grad_v_ptr + offsets(batch, batch_sizes, grad_v_strides, DIMS)
    v_at = (n * grad_v_strides[DIMS])[:, None] + (f * grad_v_strides[DIMS + 1])[None, :]
    tl.store(v_out + v_at, grad_v.to(grad_v_ptr.dtype.element_ty), mask=(n < S)[:, None] & (f < V)[None, :])


_TILES = (
    tile(64, 64),
    tile(64, 32),
    tile(32, 64),
    tile(32, 32),
    tile(32, 32, warps=8),
    tile(16, 16, stages=1),
)


def _choose(queries: int, keys: int, features: int, itemsize: int) -> Config:
    """The longer a head's rows, the fewer of them in a tile. Without tensor cores larger ones would not fit registers."""
    if itemsize > 2:
        return _TILES[4] if features <= 64 or (features <= 128 and itemsize == 4) else _TILES[5]
    return _TILES[0] if features <= 128 else _TILES[3]


_WIDE = tile(128, 64, warps=8)


def _choose_for_queries(queries: int, keys: int, features: int, itemsize: int) -> Config:
    return _WIDE if itemsize == 2 and features <= 64 < queries else _choose(queries, keys, features, itemsize)


attention_query_grad_configs = Configs(
    "_attention_query_grad_kernel", (_WIDE, *_TILES), _choose_for_queries, whole_tile
)
attention_key_grad_configs = Configs("_attention_key_grad_kernel", _TILES, _choose, whole_tile)


def attention_grad(
    grad: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    mask: Buffer | None,
    out: Buffer,
    lse: Buffer,
    is_causal: bool = False,
    scale: float = 1.0,
    dropout_p: float = 0.0,
    seed: Seed = 0,
    offset: int = 0,
    mask_grad: bool = False,
) -> tuple[Buffer, Buffer, Buffer, Buffer | None]:
    """The gradients of query, key, value and mask in :func:`attention`.

    Args:
        grad: gradient of ``out``, of its shape and dtype, any strides.
        query, key, value, mask, is_causal, scale, dropout_p, seed, offset: as they were given there.
        out, lse: as they were returned there.
        mask_grad: whether the mask's gradient is wanted.

    Returns:
        Each gradient in its operand's shape and order of dimensions; the mask's (or None) as (\\*batch, G, L, S), to be
        summed where the mask was broadcast.

    Raises:
        TypeError, RuntimeError, ValueError: as there.

    FLOPs: (8E + 6V + 15) a pair of query and key: scores and probabilities are made twice. Least bytes: each operand,
    and each result, once or twice.
    """
    problem = resolve(query, key, value, mask, is_causal, dropout_p)
    check_same_device("attention_grad", grad=grad, query=query, out=out, lse=lse)
    if grad.shape != out.shape:
        raise RuntimeError(f"attention_grad: expected grad of shape {tuple(out.shape)}, got {tuple(grad.shape)}")
    grads = [memory.empty(x.shape, x.dtype, x.device, strides.like(x)) for x in (query, key, value)]
    grad_mask = None
    if mask_grad:
        assert mask is not None
        grad_mask = memory.empty(problem.score_shape, mask.dtype, mask.device)
    if lse.numel() == 0 or problem.S == 0:
        for x in grads:
            fill(x, 0)
        return (*grads, grad_mask)  # type: ignore[return-value]
    delta = memory.empty(lse.shape, lse.dtype, lse.device)
    how = (float_bits(scale), *dropout_arguments(dropout_p, seed, offset))
    constants = {"CAUSAL": is_causal, "DROPOUT": dropout_p > 0, **arithmetic(query), **problem.blocks()}
    _query_grad(problem, grads[0], grad_mask, delta, grad, out, lse, query, key, value, mask, how, constants)
    _key_grad(problem, grads[1], grads[2], delta, grad, lse, query, key, value, mask, how, constants)
    return (*grads, grad_mask)  # type: ignore[return-value]


def _query_grad(
    problem: Problem,
    grad_q: Buffer,
    grad_mask: Buffer | None,
    delta: Buffer,
    grad: Buffer,
    out: Buffer,
    lse: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    mask: Buffer | None,
    how: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    """Fills ``grad_q``, ``grad_mask`` and ``delta``."""
    if grad_mask is not None and problem.is_causal:
        fill(grad_mask, 0)  # tiles beyond the diagonal are not visited
    views = [x.stride() for x in (grad_q, grad, out, query, key, value)]
    sizes, walked = walk_batch(problem.batch, *views, view_of(mask, problem.score_shape))
    config = configured(attention_query_grad_configs, query, problem)
    operands = (grad_q, grad_mask, delta, grad, out, lse, query, key, value, mask)
    launch(
        _attention_query_grad_kernel,
        (cdiv(problem.L, config.blocks["BLOCK_M"]) * problem.heads * problem.groups,),
        *operands,
        problem.L,
        problem.S,
        problem.E,
        problem.V,
        problem.groups,
        sizes,
        *walked,
        *how,
        config=config,
        cost=Cost((4 * problem.E + 2 * problem.V + 7) * problem.pairs, nbytes(*operands)),
        device=query.device,
        INDEX=offset_dtype(*operands),
        DIMS=len(sizes),
        **constants,
    )


def _key_grad(
    problem: Problem,
    grad_k: Buffer,
    grad_v: Buffer,
    delta: Buffer,
    grad: Buffer,
    lse: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    mask: Buffer | None,
    how: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    """Fills ``grad_k`` and ``grad_v`` from ``delta``."""
    views = [x.stride() for x in (grad_k, grad_v, grad, query, key, value)]
    sizes, walked = walk_batch(problem.batch, *views, view_of(mask, problem.score_shape))
    config = configured(attention_key_grad_configs, query, problem)
    operands = (grad_k, grad_v, delta, grad, lse, query, key, value, mask)
    launch(
        _attention_key_grad_kernel,
        (cdiv(problem.S, config.blocks["BLOCK_N"]) * problem.heads,),
        *operands,
        problem.L,
        problem.S,
        problem.E,
        problem.V,
        problem.groups,
        sizes,
        *walked,
        *how,
        config=config,
        cost=Cost((4 * problem.E + 4 * problem.V + 8) * problem.pairs, nbytes(*operands)),
        device=query.device,
        INDEX=offset_dtype(*operands),
        DIMS=len(sizes),
        **constants,
    )
