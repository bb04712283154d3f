"""Device functions that the forward and the backward pass share."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.addressing import float_from_bits, offsets, stored_bool_as_int

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def query_tile(L, groups, CAUSAL: tl.constexpr, INDEX: tl.constexpr, BLOCK_M: tl.constexpr):
    """The queries of a program: which tile of a head they are, which head of all, its batch and group, their indices."""
    tiles = tl.cdiv(L, BLOCK_M)
    place = tl.program_id(0) % tiles
    if CAUSAL:
        place = tiles - 1 - place  # the longest walks first
    head = (tl.program_id(0) // tiles).to(INDEX)
    m = place.to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    return place, head, head // groups, head % groups, m


@triton.jit
def keys_seen(place, S, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr):
    """How many keys the queries of a tile may look at, one or another."""
    end = S
    if CAUSAL:
        end = tl.minimum(S, (place + 1) * BLOCK_M)
    return end


@triton.jit
def key_head(ptr, batch, batch_sizes, strides, DIMS: tl.constexpr):
    """Where a key head's matrix begins."""
    return ptr + offsets(batch, batch_sizes, strides, DIMS)


@triton.jit
def query_head(ptr, batch, group, batch_sizes, strides, DIMS: tl.constexpr):
    """Where a query head's matrix begins; nowhere if ``ptr`` is None."""
    head = ptr
    if ptr is not None:
        head = ptr + offsets(batch, batch_sizes, strides, DIMS) + group * strides[DIMS]
    return head


@triton.jit
def dropout_stream(seed, offset, state_ptr):
    """Seed and offset, where ``state_ptr`` holds them (a recorded launch) with that memory's."""
    if state_ptr is not None:
        seed = tl.load(state_ptr)
        offset = tl.load(state_ptr + 1) + offset
    return seed, offset


@triton.jit
def load_tile(ptr, row, column, rows, columns, row_stride, column_stride):
    """A tile of a matrix, 0 beyond its ends; ``row`` and ``column`` are index vectors."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(ptr + (row * row_stride)[:, None] + (column * column_stride)[None, :], mask=mask, other=0)


@triton.jit
def store_tile(ptr, row, column, rows, columns, row_stride, column_stride, value):
    """The opposite of :func:`load_tile`, rounded to the matrix's dtype."""
    at = (row * row_stride)[:, None] + (column * column_stride)[None, :]
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(ptr + at, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def binary_scores(
    rows,
    columns,
    m,
    n,
    L,
    S,
    mask_ptr,
    mask_strides,
    scale,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    DIMS: tl.constexpr,
):
    """``log2(e) · (scale · rows columns + mask)``, −inf where query ``m`` may not look at key ``n``; indices broadcast."""
    products = tl.dot(rows, columns, input_precision=PRECISION, out_dtype=ACC)
    scores = products * (scale * LOG2_E)
    allowed = n < S
    if CAUSAL:
        allowed = allowed & (n <= m)
    if mask_ptr is not None:
        at = mask_ptr + m * mask_strides[DIMS + 1] + n * mask_strides[DIMS + 2]
        value = tl.load(at, mask=(m < L) & (n < S), other=0)
        if mask_ptr.dtype.element_ty == tl.int1:
            allowed = allowed & (stored_bool_as_int(value) != 0)
        else:
            scores += value.to(scores.dtype) * LOG2_E
    return tl.where(allowed, scores, float("-inf"))


@triton.jit
def kept(seed, offset, row, start, S, p_bits, BLOCK_N: tl.constexpr):
    """Which probabilities of rows ``row`` and columns ``start …`` dropout keeps: (rows, BLOCK_N)."""
    four = start // 4 + tl.arange(0, BLOCK_N // 4)
    counter = tl.cast(offset, tl.int64) + row.to(tl.int64)[:, None] * ((S + 3) // 4) + four.to(tl.int64)[None, :]
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = ((counter >> 32) & 0xFFFFFFFF).to(tl.uint32)
    none = tl.zeros_like(low)
    w0, w1, w2, w3 = tl.philox(tl.cast(seed, tl.int64), low, high, none, none)
    words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    return (words >> 8).to(tl.float32) * (1.0 / (1 << 24)) >= float_from_bits(p_bits).to(tl.float32)


@triton.jit
def rescale(p_bits, ACC: tl.constexpr):
    """``1 / (1 − p)``; with p = 1 nothing is kept."""
    return (1.0 / tl.maximum(1.0 - float_from_bits(p_bits), 1e-30)).to(ACC)
