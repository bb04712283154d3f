"""The backward pass: one kernel a tile of queries, which also sums δ, then one a tile of keys."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import memory, strides
from tinyflow.kernels.addressing import float_from_bits
from tinyflow.kernels.attention.problem import configured, launch_walk, of_wavefronts, resolve, tile, whole_tile
from tinyflow.kernels.attention.tiles import (
    LOG2_E,
    binary_scores,
    dropout_stream,
    kept,
    key_head,
    keys_seen,
    load_tile,
    query_head,
    query_tile,
    rescale,
    store_tile,
)
from tinyflow.kernels.elementwise import fill
from tinyflow.kernels.launch import Config, Configs, cdiv, check_same_device
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
    place, head, batch, group, m = query_tile(L, groups, CAUSAL, INDEX, BLOCK_M)
    lane = tl.arange(0, BLOCK_N).to(INDEX)
    e = tl.arange(0, BLOCK_E).to(INDEX)
    f = tl.arange(0, BLOCK_V).to(INDEX)
    seed, offset = dropout_stream(seed, offset, state_ptr)
    q_head = query_head(q_ptr, batch, group, batch_sizes, q_strides, DIMS)
    g_head = query_head(g_ptr, batch, group, batch_sizes, g_strides, DIMS)
    out_head = query_head(out_ptr, batch, group, batch_sizes, out_strides, DIMS)
    k_head = key_head(k_ptr, batch, batch_sizes, k_strides, DIMS)
    v_head = key_head(v_ptr, batch, batch_sizes, v_strides, DIMS)
    mask_head = query_head(mask_ptr, batch, group, batch_sizes, mask_strides, DIMS)
    scale = float_from_bits(scale_bits).to(ACC)

    q = load_tile(q_head, m, e, L, E, q_strides[DIMS + 1], q_strides[DIMS + 2])
    g = load_tile(g_head, m, f, L, V, g_strides[DIMS + 1], g_strides[DIMS + 2])
    out = load_tile(out_head, m, f, L, V, out_strides[DIMS + 1], out_strides[DIMS + 2])
    row = head * L + m
    delta = tl.sum(g.to(ACC) * out.to(ACC), axis=1)
    tl.store(delta_ptr + row, delta, mask=m < L)
    shift = _binary_shift(tl.load(lse_ptr + row, mask=m < L, other=0))
    acc = tl.zeros([BLOCK_M, BLOCK_E], ACC)
    for start in range(0, keys_seen(place, S, CAUSAL, BLOCK_M), BLOCK_N):
        n = start + lane
        k = load_tile(k_head, n, e, S, E, k_strides[DIMS], k_strides[DIMS + 1])
        v = load_tile(v_head, n, f, S, V, v_strides[DIMS], v_strides[DIMS + 1])
        scores = binary_scores(
            q, tl.trans(k), m[:, None], n[None, :], L, S, mask_head, mask_strides, scale, CAUSAL, PRECISION, ACC, DIMS
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

    grad_head = query_head(grad_q_ptr, batch, group, batch_sizes, grad_q_strides, DIMS)
    store_tile(grad_head, m, e, L, E, grad_q_strides[DIMS + 1], grad_q_strides[DIMS + 2], acc * scale)


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
    seed, offset = dropout_stream(seed, offset, state_ptr)
    scale = float_from_bits(scale_bits).to(ACC)
    k_head = key_head(k_ptr, batch, batch_sizes, k_strides, DIMS)
    v_head = key_head(v_ptr, batch, batch_sizes, v_strides, DIMS)
    k = load_tile(k_head, n, e, S, E, k_strides[DIMS], k_strides[DIMS + 1])
    v = load_tile(v_head, n, f, S, V, v_strides[DIMS], v_strides[DIMS + 1])
    grad_k = tl.zeros([BLOCK_N, BLOCK_E], ACC)
    grad_v = tl.zeros([BLOCK_N, BLOCK_V], ACC)
    first = 0
    if CAUSAL:
        first = place * BLOCK_N // BLOCK_M * BLOCK_M  # earlier queries do not look here
    for group in range(groups):
        wide_group = tl.cast(group, INDEX)
        q_head = query_head(q_ptr, batch, wide_group, batch_sizes, q_strides, DIMS)
        g_head = query_head(g_ptr, batch, wide_group, batch_sizes, g_strides, DIMS)
        mask_head = query_head(mask_ptr, batch, wide_group, batch_sizes, mask_strides, DIMS)
        for start in range(first, L, BLOCK_M):
            m = start + lane
            row = (batch * groups + group) * L + m
            q = load_tile(q_head, m, e, L, E, q_strides[DIMS + 1], q_strides[DIMS + 2])
            g = load_tile(g_head, m, f, L, V, g_strides[DIMS + 1], g_strides[DIMS + 2])
            scores = binary_scores(
                k, tl.trans(q), m[None, :], n[:, None], L, S, mask_head, mask_strides, scale, CAUSAL,
                PRECISION, ACC, DIMS,
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

    k_out = key_head(grad_k_ptr, batch, batch_sizes, grad_k_strides, DIMS)
    store_tile(k_out, n, e, S, E, grad_k_strides[DIMS], grad_k_strides[DIMS + 1], grad_k * scale)
    v_out = key_head(grad_v_ptr, batch, batch_sizes, grad_v_strides, DIMS)
    store_tile(v_out, n, f, S, V, grad_v_strides[DIMS], grad_v_strides[DIMS + 1], grad_v)


_TILES = (
    tile(128, 64, warps=8),  # for queries alone
    tile(64, 64),
    tile(64, 32),
    tile(32, 32, warps=8),
    tile(32, 16, warps=8),
    tile(16, 16, warps=8),
)


_OF_WAVEFRONTS = of_wavefronts(_TILES, 1)


def _choose(queries: int, keys: int, features: int, itemsize: int, lanes: int) -> Config:
    """The longer a head's rows, the fewer of them in a tile. Without tensor cores larger ones would not fit registers."""
    tiles = _TILES if lanes == 32 else _OF_WAVEFRONTS
    if itemsize == 2:
        return tiles[1] if features <= 64 else tiles[2] if features <= 128 else tiles[3]
    if itemsize * features > 512:
        return tiles[5]
    return tiles[3] if itemsize * features <= 256 else tiles[4]


def _choose_for_queries(queries: int, keys: int, features: int, itemsize: int, lanes: int) -> Config:
    tiles = _TILES if lanes == 32 else _OF_WAVEFRONTS
    if itemsize == 2 and features <= 64 < queries:
        return tiles[0]
    if itemsize > 2 and itemsize * features <= 512:
        return tiles[3]
    return _choose(queries, keys, features, itemsize, lanes)


attention_query_grad_configs = Configs(
    "_attention_query_grad_kernel", _TILES, _choose_for_queries, whole_tile, {0: _OF_WAVEFRONTS}
)
attention_key_grad_configs = Configs(
    "_attention_key_grad_kernel", _TILES[1:], _choose, whole_tile, {0: _OF_WAVEFRONTS[1:]}
)


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
    inputs = (query, key, value, mask)
    dropout = (dropout_p, seed, offset)
    if grad_mask is not None and is_causal:
        fill(grad_mask, 0)  # tiles beyond the diagonal are not visited
    config = configured(attention_query_grad_configs, query, problem)
    launch_walk(
        _attention_query_grad_kernel,  # also fills grad_mask and delta
        cdiv(problem.L, config.blocks["BLOCK_M"]) * problem.heads * problem.groups,
        config,
        problem,
        (grads[0], grad_mask, delta, grad, out, lse, *inputs),
        (grads[0], grad, out, query, key, value),
        scale,
        dropout,
        4 * problem.E + 2 * problem.V + 7,
    )
    config = configured(attention_key_grad_configs, query, problem)
    launch_walk(
        _attention_key_grad_kernel,
        cdiv(problem.S, config.blocks["BLOCK_N"]) * problem.heads,
        config,
        problem,
        (grads[1], grads[2], delta, grad, lse, *inputs),
        (grads[1], grads[2], grad, query, key, value),
        scale,
        dropout,
        4 * problem.E + 4 * problem.V + 8,
    )
    return (*grads, grad_mask)  # type: ignore[return-value]
