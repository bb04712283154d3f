"""Device functions that the forward and the backward pass share."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.addressing import float_from_bits, stored_bool_as_int

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_tile(ptr, row, column, rows, columns, row_stride, column_stride):
    """A tile of a matrix, 0 beyond its ends; ``row`` and ``column`` are index vectors."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(ptr + (row * row_stride)[:, None] + (column * column_stride)[None, :], mask=mask, other=0)


@triton.jit
def binary_scores(products, m, n, L, S, mask_ptr, mask_stride_m, mask_stride_n, scale, CAUSAL: tl.constexpr):
    """``log2(e) · (scale · products + mask)``, −inf where query ``m`` may not look at key ``n``; indices broadcast."""
    scores = products * (scale * LOG2_E)
    allowed = n < S
    if CAUSAL:
        allowed = allowed & (n <= m)
    if mask_ptr is not None:
        value = tl.load(mask_ptr + m * mask_stride_m + n * mask_stride_n, mask=(m < L) & (n < S), other=0)
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
