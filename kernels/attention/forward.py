"""The forward pass: output and log-sum-exp."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_from_bits
from tinyflow.kernels.attention.problem import configured, launch_walk, of_wavefronts, resolve, tile, whole_tile
from tinyflow.kernels.attention.tiles import (
    LN_2,
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
from tinyflow.kernels.launch import Config, Configs, cdiv
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.random import Seed


@triton.jit(do_not_specialize=["scale_bits", "p_bits", "seed", "offset"])
def _attention_kernel(
    out_ptr,
    lse_ptr,  # [heads, groups, L]
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
    out_strides,  # batch…, group, l, v
    q_strides,  # batch…, group, l, e
    k_strides,  # batch…, s, e
    v_strides,  # batch…, s, v
    mask_strides,  # batch…, group, l, s
    scale_bits,
    p_bits,
    seed,
    offset,
    state_ptr,  # (2,): the seed, and what is added to offset; or None
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,  # of the batch
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
    k_head = key_head(k_ptr, batch, batch_sizes, k_strides, DIMS)
    v_head = key_head(v_ptr, batch, batch_sizes, v_strides, DIMS)
    mask_head = query_head(mask_ptr, batch, group, batch_sizes, mask_strides, DIMS)
    scale = float_from_bits(scale_bits).to(ACC)

    q = load_tile(q_head, m, e, L, E, q_strides[DIMS + 1], q_strides[DIMS + 2])
    largest = tl.full([BLOCK_M], float("-inf"), ACC)
    shift = tl.zeros([BLOCK_M], ACC)
    total = tl.zeros([BLOCK_M], ACC)
    acc = tl.zeros([BLOCK_M, BLOCK_V], ACC)
    for start in range(0, keys_seen(place, S, CAUSAL, BLOCK_M), BLOCK_N):
        n = start + lane
        k = load_tile(k_head, e, n, E, S, k_strides[DIMS + 1], k_strides[DIMS])
        scores = binary_scores(
            q, k, m[:, None], n[None, :], L, S, mask_head, mask_strides, scale, CAUSAL, PRECISION, ACC, DIMS
        )
        grown = tl.maximum(largest, tl.max(scores, axis=1))
        shift = tl.where(grown == float("-inf"), 0.0, grown)  # −inf is never subtracted from itself
        shrink = tl.exp2(largest - shift)
        p = tl.exp2(scores - shift[:, None])
        total = total * shrink + tl.sum(p, axis=1)
        if DROPOUT:
            keep = kept(seed, offset, head * L + m, start, S, p_bits, BLOCK_N)
            p = tl.where(keep, p * rescale(p_bits, ACC), 0.0)
        v = load_tile(v_head, n, f, S, V, v_strides[DIMS], v_strides[DIMS + 1])
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION, out_dtype=ACC)
        largest = grown

    empty = total == 0  # a query that may look at no key gets zeros
    acc = acc / tl.where(empty, 1.0, total)[:, None]
    lse = tl.where(empty, float("-inf"), (shift + tl.log2(tl.where(empty, 1.0, total))) * LN_2)
    out_head = query_head(out_ptr, batch, group, batch_sizes, out_strides, DIMS)
    store_tile(out_head, m, f, L, V, out_strides[DIMS + 1], out_strides[DIMS + 2], acc)
    tl.store(lse_ptr + head * L + m, lse, mask=m < L)


_TILES = (
    tile(128, 64, warps=8, stages=3),
    tile(128, 64, stages=3),
    tile(128, 64, warps=8),
    tile(64, 64),
    tile(32, 32),
    tile(32, 32, warps=8),
    tile(16, 16, stages=1),
)


_OF_WAVEFRONTS = of_wavefronts(_TILES, 3)


def _choose(queries: int, keys: int, features: int, itemsize: int, lanes: int) -> Config:
    """The longer a head's rows, the fewer of them in a tile. Without tensor cores larger ones would not fit registers."""
    tiles = _TILES if lanes == 32 else _OF_WAVEFRONTS
    if itemsize > 2:
        if itemsize * features > 512:
            return tiles[6]
        return tiles[4] if itemsize * features <= 256 else tiles[5]
    if queries <= 32 or features > 128:
        return tiles[4]
    return tiles[0] if features <= 64 else tiles[2]


attention_configs = Configs("_attention_kernel", _TILES, _choose, whole_tile, {0: _OF_WAVEFRONTS})


def attention(
    query: Buffer,
    key: Buffer,
    value: Buffer,
    mask: Buffer | None = None,
    is_causal: bool = False,
    scale: float = 1.0,
    dropout_p: float = 0.0,
    seed: Seed = 0,
    offset: int = 0,
) -> tuple[Buffer, Buffer]:
    """``softmax(scale · query keyᵀ + mask) value`` with dropout on the probabilities.

    Args:
        query: (\\*batch, G, L, E): G query heads share each key head. Any strides, as for all operands.
        key: (\\*batch, S, E).
        value: (\\*batch, S, V).
        mask: broadcasts to (\\*batch, G, L, S): bool, True where a query may look at a key; or floating point, added.
        is_causal: query m may look at keys up to m.
        scale: a factor of the scores.
        dropout_p: the probability of being dropped.
        seed, offset: name the random numbers.

    Dtypes: one of float64, float32, float16, bfloat16; sums in float32 (float64 for float64). A float mask has that dtype
    or the sums'. ``precision.tf32.matmul`` lets a GPU round float32 factors to TF32.

    Returns:
        ``out`` (\\*batch, G, L, V), its dimensions in memory ordered as the query's; ``lse`` (\\*batch, G, L), the
        logarithm of each query's sum of exponentials, −inf (and zeros in ``out``) where it may look at nothing.

    Raises:
        TypeError, RuntimeError, ValueError: as :func:`tinyflow.kernels.attention.problem.resolve`.

    FLOPs: (2E + 2V + 5) a pair of query and key; half the pairs where causal. Least bytes: all operands once.
    """
    problem = resolve(query, key, value, mask, is_causal, dropout_p)
    shape = (*query.shape[:-1], problem.V)
    out = memory.empty(shape, query.dtype, query.device, strides.like(query, shape))
    lse = memory.empty(tuple(query.shape[:-1]), dtypes.accumulate_dtype(query.dtype), query.device)
    if problem.S == 0:
        fill(out, 0), fill(lse, float("-inf"))
    if lse.numel() == 0 or problem.S == 0:
        return out, lse
    config = configured(attention_configs, query, problem)
    launch_walk(
        _attention_kernel,
        cdiv(problem.L, config.blocks["BLOCK_M"]) * problem.heads * problem.groups,
        config,
        problem,
        (out, lse, query, key, value, mask),
        (out, query, key, value),
        scale,
        (dropout_p, seed, offset),
        2 * problem.E + 2 * problem.V + 5,
    )
    return out, lse
