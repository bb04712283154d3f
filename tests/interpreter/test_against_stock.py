"""Every kernel here leaves the same bytes under this interpreter as under Triton's own, whatever Triton's version."""

from __future__ import annotations

import contextlib
import math
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder
from triton.tools.tensor_descriptor import TensorDescriptor

from tinyflow.kernels import interpreter
from tinyflow.kernels.interpreter import products

SENTINEL = 7  # what outputs hold before the launch: an element that is not written must stay so


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = i < n
    tl.store(out + i, tl.load(x + i, mask=m, other=0.0) + tl.load(y + i, mask=m, other=0.0), mask=m)


@triton.jit
def softmax_kernel(x, out, rows, cols, stride, BM: tl.constexpr, BN: tl.constexpr):
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BN)
    m = (r[:, None] < rows) & (c[None, :] < cols)
    v = tl.load(x + r[:, None] * stride + c[None, :], mask=m, other=-float("inf"))
    e = tl.exp(v - tl.max(v, axis=1)[:, None])
    tl.store(out + r[:, None] * cols + c[None, :], e / tl.sum(e, axis=1)[:, None], mask=m)


@triton.jit
def matmul_kernel(a, b, c, M, N, K, am, ak, bk, bn, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    a_ptrs = a + rm[:, None] * am + rk[None, :] * ak
    b_ptrs = b + rk[:, None] * bk + rn[None, :] * bn
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        x = tl.load(a_ptrs, mask=(rm[:, None] < M) & (rk[None, :] < K - k), other=0.0)
        y = tl.load(b_ptrs, mask=(rk[:, None] < K - k) & (rn[None, :] < N), other=0.0)
        acc = tl.dot(x, y, acc, input_precision=PRECISION)
        a_ptrs += BK * ak
        b_ptrs += BK * bk
    tl.store(c + rm[:, None] * N + rn[None, :], acc.to(c.dtype.element_ty), mask=(rm[:, None] < M) & (rn[None, :] < N))


@triton.jit
def dot_kernel(a, b, c, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, OUT: tl.constexpr):
    m, n, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    x = tl.load(a + m[:, None] * BK + k[None, :])
    y = tl.load(b + k[:, None] * BN + n[None, :])
    product = tl.dot(x, y, out_dtype=OUT)
    twice = tl.dot(tl.trans(tl.trans(x)), y, product, out_dtype=OUT)
    tl.store(c + m[:, None] * BN + n[None, :], twice + product)


@triton.jit
def conv_kernel(x, w, y, N, H, W, C, K, R: tl.constexpr, PAD: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
                BC: tl.constexpr):  # fmt: skip
    p = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    c = tl.arange(0, BC)
    n = p // (H * W)
    h = (p // W) % H
    v = p % W
    inside = p < N * H * W
    acc = tl.zeros((BM, BK), tl.float32)
    for r in range(R):
        for s in tl.static_range(R):
            hh, vv = h + r - PAD, v + s - PAD
            ok = inside & (hh >= 0) & (hh < H) & (vv >= 0) & (vv < W)
            row = ((n * H + hh) * W + vv) * C
            for c0 in range(0, C, BC):
                a = tl.load(x + row[:, None] + (c0 + c)[None, :], mask=ok[:, None] & (c0 + c < C)[None, :], other=0.0)
                taps = ((r * R + s) * C + c0 + c)[:, None] * K + k[None, :]
                b = tl.load(w + taps, mask=(c0 + c < C)[:, None] & (k < K)[None, :], other=0.0)
                acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(y + p[:, None] * K + k[None, :], acc, mask=inside[:, None] & (k < K)[None, :])


@triton.jit
def windows_kernel(x, g, w, out, y, N, H, W, C, K, P, Q, R: tl.constexpr, BP: tl.constexpr, BL: tl.constexpr,
                   BK: tl.constexpr):  # fmt: skip
    lane, k = tl.arange(0, BL), tl.arange(0, BK)
    tap, c = lane // C, lane % C
    columns = (tap // R * W + tap % R) * C + c
    exists, filters = lane < R * R * C, k < K
    acc = tl.zeros((BL, BK), tl.float32)
    weights = tl.load(w + lane[:, None] * K + k[None, :], mask=exists[:, None] & filters[None, :], other=0.0)
    for first in range(0, N * P * Q, BP):
        p = first + tl.arange(0, BP)
        inside = p < N * P * Q
        row = (p // (P * Q) * H + p // Q % P) * W + p % Q
        a = tl.load(x + (row * C)[:, None] + columns[None, :], mask=inside[:, None] & exists[None, :], other=0.0)
        at, mask = p[:, None] * K + k[None, :], inside[:, None] & filters[None, :]
        acc = tl.dot(tl.trans(a), tl.load(g + at, mask=mask, other=0.0), acc, input_precision="ieee")
        tl.store(y + at, tl.dot(a, weights, input_precision="ieee"), mask=mask)
    tl.store(out + lane[:, None] * K + k[None, :], acc, mask=exists[:, None] & filters[None, :])


@triton.jit
def descriptor_kernel(x, y, N, H, C, DH: tl.constexpr, BLOCK: tl.constexpr, BC: tl.constexpr):
    source = tl.make_tensor_descriptor(x, shape=[N, H, C], strides=[H * C, C, 1], block_shape=[2, BLOCK, BC])
    target = tl.make_tensor_descriptor(y, shape=[N, H, C], strides=[H * C, C, 1], block_shape=[2, BLOCK, BC])
    h = tl.program_id(0) * BLOCK
    for n in range(0, N, 2):
        target.store([n, h, 0], source.load([n, h + DH, 0]) * 2 + source.load([n, h - DH, 0]))


@triton.jit
def host_descriptor_kernel(source, target, k, B: tl.constexpr):
    target.store([0, k], source.load([0, k]) + tl.full([8, B], k, tl.float32))


@triton.jit
def strided_copy_kernel(x, out, M, N, xm, xn, om, on, BM: tl.constexpr, BN: tl.constexpr):
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.program_id(1) * BN + tl.arange(0, BN)
    m = (r < M)[:, None] & (c < N)[None, :]
    tl.store(out + r[:, None] * om + c[None, :] * on, tl.load(x + r[:, None] * xm + c[None, :] * xn, mask=m), mask=m)


@triton.jit
def transpose_kernel(x, out, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    a, b, c = tl.arange(0, A)[:, None, None], tl.arange(0, B)[None, :, None], tl.arange(0, C)[None, None, :]
    v = tl.load(x + (a * B + b) * C + c)
    tl.store(out + (c * A + tl.trans(a, 0, 1, 2)) * B + b, v + 1)
    w = tl.permute(v, (2, 0, 1))
    flat = tl.arange(0, A * B * C)
    tl.store(out + A * B * C + flat, tl.reshape(w, (A * B * C,)))
    tl.store(out + 2 * A * B * C + flat, tl.reshape(v, (A, B * C // 2, 2, 1)).reshape(A * B * C))


@triton.jit
def window_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for d in tl.static_range(-3, 4):
        acc += tl.load(x + i + d, mask=(i + d >= 0) & (i + d < n), other=-1.5)
    tl.store(out + i * 2, acc, mask=i < n)


@triton.jit
def reductions_kernel(x, out, M, N, BM: tl.constexpr, BN: tl.constexpr):
    r, c = tl.arange(0, BM), tl.arange(0, BN)
    m = (r < M)[:, None] & (c < N)[None, :]
    v = tl.load(x + r[:, None] * N + c[None, :], mask=m, other=0.0)
    tl.store(out + r, tl.sum(v, axis=1))
    tl.store(out + 100 + c, tl.max(v, axis=0))
    tl.store(out + 200 + r, tl.argmax(v, axis=1))
    tl.store(out + 300 + c, tl.argmin(v, axis=0))
    best, at = tl.min(v, axis=1, return_indices=True)
    tl.store(out + 400 + r, best + at)
    tl.store(out + 500 + c, tl.min(v, axis=0) + tl.sum(v))
    tl.store(out + 600 + r[:, None] + c[None, :] * 0, tl.sum(v, axis=1, keep_dims=True))
    tl.store(out + 700 + r, tl.xor_sum((v * 100).to(tl.int32), axis=1))


@triton.jit
def _welford(mean_a, m2_a, n_a, mean_b, m2_b, n_b):
    delta = mean_b - mean_a
    n = n_a + n_b
    share = tl.where(n == 0, 0.0, n_b / n)
    return mean_a + delta * share, m2_a + m2_b + delta * delta * n_a * share, n


@triton.jit
def _geometric(a, b):
    return a * 0.5 + b


@triton.jit
def _branching(a, b):
    if a > b:
        return a - b
    return b + a


@triton.jit
def combine_kernel(x, out, M: tl.constexpr, N: tl.constexpr):
    r, c = tl.arange(0, M), tl.arange(0, N)
    v = tl.load(x + r[:, None] * N + c[None, :])
    mean, m2, n = tl.reduce((v, v * 0, v * 0 + 1), 1, _welford)
    tl.store(out + r, mean)
    tl.store(out + 100 + r, m2 / n)
    tl.store(out + 200 + c, tl.reduce(v, 0, _geometric))
    tl.store(out + 300, tl.reduce(tl.load(x + c), 0, _geometric))
    tl.store(out + 400 + r, tl.reduce(v, 1, _branching))
    tl.store(out + 500 + r[:, None] * N + c[None, :], tl.associative_scan(v, 1, _geometric))
    tl.store(out + 1500 + r[:, None] * N + c[None, :], tl.associative_scan(v, 0, _geometric, reverse=True))
    tl.store(out + 2500 + r[:, None] * N + c[None, :], tl.cumsum(v, axis=1) + tl.cumprod(v, axis=0))
    tl.store(out + 3500 + c, tl.cumsum(tl.load(x + c), axis=0, reverse=True))


@triton.jit
def sort_kernel(x, out, ids, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    tl.store(out + i, tl.sort(v))
    tl.store(out + BLOCK + i, tl.gather(v, (i * 3) % BLOCK, 0))
    tl.store(out + 2 * BLOCK + i, tl.sort(v, descending=True))
    tl.store(ids + i, tl.histogram((i * i) % 7, BLOCK))


@triton.jit
def atomics_kernel(x, counts, totals, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = i < n
    bin = tl.load(x + i, mask=m, other=0)
    before = tl.atomic_add(counts + bin, 1, mask=m)
    tl.atomic_max(counts + 40 + bin, before, mask=m)
    tl.atomic_add(totals, tl.sum(bin.to(tl.float32), axis=0))
    tl.atomic_add(totals + bin % 3, bin * 0.25, mask=m)
    tl.atomic_xchg(counts + 79, 5)
    tl.atomic_cas(counts + 80, 7, 3)


@triton.jit
def integer_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = i < n
    a = tl.load(x + i, mask=m, other=3)
    b = tl.load(y + i, mask=m, other=1)
    z = (a // b) * 7 + (a % b) - (a >> 1) + (b << 2) + (a & b) + (a | 5) + (a ^ b) + tl.minimum(a, b)
    z += tl.where(a > b, i, -i).to(a.dtype) + (i % 13).to(a.dtype) + ((i * 3 - 50) // 5).to(a.dtype)
    z += ((i * 3 - 50) % -7).to(a.dtype)
    tl.store(out + i, z, mask=m)


@triton.jit
def wrap_kernel(out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, i * 1000003 * 1009 + 2147480000, mask=i < n)
    tl.store(out + BLOCK + i, (tl.program_id(0) + 2147483647) * 2 + i)


@triton.jit
def masks_kernel(x, out, M, N, BM: tl.constexpr, BN: tl.constexpr):
    r, c = tl.arange(0, BM), tl.arange(0, BN)
    off = r[:, None] * N + c[None, :]
    v = tl.load(x + off, mask=(off < M * N) & (c < N)[None, :], other=0.0)
    v = tl.where(c[None, :] <= r[:, None], v, -1.0)
    v = tl.where((r[:, None] >= 2) | (c[None, :] == 3), v, v * 0.5)
    v = tl.where(~((r < 5)[:, None] & (c > 2)[None, :]), v, v + 1)
    tl.store(out + off, v, mask=(r[:, None] < M) & (c[None, :] < N) & (c[None, :] != 5))


@triton.jit
def gather_kernel(x, index, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = i < n
    j = tl.load(index + i, mask=m, other=0)
    tl.store(out + i, tl.load(x + j, mask=m & (j != 2), other=9.0), mask=m)


@triton.jit
def rows_kernel(x, index, out, n, D, BLOCK: tl.constexpr, BD: tl.constexpr, SCATTER: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, BD)
    m = i < n
    j = tl.load(index + i, mask=m, other=0)
    source, target = (i, j) if SCATTER else (j, i)
    v = tl.load(x + source[:, None] * D + d[None, :], mask=m[:, None] & (d < D)[None, :], other=0.5)
    tl.store(out + target[:, None] * D + d[None, :], v, mask=m[:, None] & (d < D)[None, :])


@triton.jit
def table_kernel(addresses, sizes, n, ROWS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr):
    """Rows of tensors of different sizes, at addresses from a table."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    listed = row < n
    start = tl.load(addresses + row, mask=listed, other=0)
    left = tl.load(sizes + row, mask=listed, other=0)
    lane = tl.arange(0, BLOCK)
    mask = listed[:, None] & (lane[None, :] * STEP < left[:, None]) & (lane != 3)[None, :]
    p = start.to(tl.pointer_type(tl.float32))[:, None] + (lane * STEP)[None, :]
    tl.store(p, tl.load(p, mask=mask, other=5.0) * 2 + lane[None, :], mask=mask)


@triton.jit
def block_pointer_kernel(x, out, M, N, BM: tl.constexpr, BN: tl.constexpr):
    source = tl.make_block_ptr(x, (M, N), (N, 1), (tl.program_id(0) * BM, 0), (BM, BN), (1, 0))
    target = tl.make_block_ptr(out, (M, N), (N, 1), (tl.program_id(0) * BM, 0), (BM, BN), (1, 0))
    for _ in range(tl.cdiv(N, BN)):
        v = tl.load(source, boundary_check=(0, 1), padding_option="zero")
        tl.store(target, v * 2 + tl.sum(v, axis=1)[:, None], boundary_check=(0, 1))
        source = tl.advance(source, (0, BN))
        target = tl.advance(target, (0, BN))


@triton.jit
def duplicates_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + (i % 7), tl.load(x + i, mask=i < n, other=0.0), mask=i < n)
    tl.store(out + 8 + i * 0, i.to(tl.float32))
    tl.store(out + 9 + i // 3, i.to(tl.float32) * 2)


@triton.jit
def alias_kernel(x, n, BLOCK: tl.constexpr):
    i = tl.max_contiguous(tl.multiple_of(tl.arange(0, BLOCK), BLOCK), BLOCK)
    a, b = tl.load(x + i), tl.load(x + n + i)
    columns = tl.reshape(a, (BLOCK // 8, 8)).T
    later = a * 2 + b
    tl.store(x + n + i, a)
    tl.store(x + i, b)
    tl.store(x + 2 * n + tl.arange(0, BLOCK // 8), tl.sum(columns, axis=0))
    tl.store(x + 1 + i, a + b)
    tl.store(x + 3 * n + i, later)
    tl.store(x + n + i, a)


@triton.jit
def _double_plus(a, b):
    return a * 2 + b


@triton.jit
def control_kernel(x, out, n, limit, FN: tl.constexpr, BLOCK: tl.constexpr):
    if tl.program_id(0) >= 2:
        return
    p, q = x + tl.arange(0, BLOCK), out + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    i = 0
    while i < limit:
        acc = FN(acc, tl.load(p, mask=tl.arange(0, BLOCK) + i * BLOCK < n, other=0.0))
        if i % 2 == 0:
            tl.store(q, acc)
        else:
            tl.store(q, -acc)
        p += BLOCK
        q += BLOCK
        i += 1
    scale = 1.5 if limit > 3 else 0.5
    for k in tl.range(0, limit, 2):
        tl.store(q + k, tl.load(x + k) * scale + tl.cdiv(n, 3))


@triton.jit
def arguments_kernel(pointers, numbers, nothing, flag: tl.constexpr, BLOCK: tl.constexpr = 16, scale=1.5):
    i = tl.arange(0, BLOCK)
    m = i < numbers[0]
    if nothing is None:
        v = tl.load(pointers[0] + i, mask=m, other=0.0) * scale + numbers[1]
    else:
        v = tl.load(nothing + i)
    if flag:
        tl.store(pointers[1] + i, v, mask=m)


@triton.jit
def bits_kernel(x, out, flags, BLOCK: tl.constexpr, CAN_REORDER: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    positive = v > 0
    tl.store(flags + i, positive)
    tl.store(out + i, tl.where(tl.load(flags + i), v, 0.0))
    tl.store(out + BLOCK + i, v.to(tl.int32, bitcast=True).to(tl.float32))
    tl.store(out + 2 * BLOCK + i, (i.to(tl.uint8) * 200).to(tl.float32) + (i.to(tl.int16) << 12).to(tl.float32))
    tl.store(out + 3 * BLOCK + i, (~i).to(tl.float32) + (-i >> 1).to(tl.float32))
    tl.store(out + 4 * BLOCK + i, tl.umulhi(i * 99999, i * 88888).to(tl.float32))
    seconds = (i.to(tl.int64) * 4607182418800017408 // 7).to(tl.float64, bitcast=True)
    tl.store(out + 5 * BLOCK + i, seconds.to(tl.float32))
    address = (out + 6 * BLOCK + i).to(tl.int64)
    tl.store(address.to(tl.pointer_type(tl.float32)), v)
    left, right = tl.split(tl.reshape(v, (BLOCK // 2, 2)))
    tl.store(out + 7 * BLOCK + i, tl.join(left, right).reshape(BLOCK))
    tl.store(out + 8 * BLOCK + i, tl.cat(left, right, can_reorder=CAN_REORDER))
    tl.store(out + 9 * BLOCK + tl.arange(0, BLOCK // 2), left - right)


@triton.jit
def math_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    m = i < n
    v = tl.load(x + i, mask=m, other=1.0)
    w = tl.abs(v) + 0.5
    s = tl.exp(v) + tl.exp2(v) + tl.log(w) + tl.log2(w) + tl.sqrt(w) + tl.rsqrt(w) + tl.sin(v) + tl.cos(v)
    s += tl.sigmoid(v) + tl.fma(v, w, v) + tl.erf(v) + tl.clamp(v, -0.5, 0.5) + tl.floor(v) + tl.ceil(v)
    s += tl.maximum(v, 0.0) + tl.minimum(v, w) + v / w + (v % 0.75)
    if x.dtype.element_ty == tl.float32:
        s += tl.div_rn(v, w) + tl.sqrt_rn(w)
    tl.store(out + i, s, mask=m)


@triton.jit
def nan_kernel(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, tl.maximum(a, b))
    tl.store(out + BLOCK + i, tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL))
    tl.store(out + 2 * BLOCK + i, tl.minimum(a, 0.0, propagate_nan=tl.PropagateNan.ALL))
    tl.store(out + 3 * BLOCK + i, tl.where(a < b, a, b))
    tl.store(out + 4 * BLOCK + i, (a == a).to(tl.float32) + (a != b).to(tl.float32))
    tl.store(out + 5 * BLOCK + i, tl.abs(a) + tl.clamp(b, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def random_kernel(out, ints, seed, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.rand(seed, i), mask=i < n)
    tl.store(out + BLOCK + i, tl.randn(seed, i), mask=i < n)
    a, b, c, d = tl.randint4x(seed, i)
    tl.store(ints + i, a ^ b)
    tl.store(ints + BLOCK + i, c ^ d)


@triton.jit
def scalar_pointer_kernel(x, out, n):
    total = 0.0
    for k in range(n):
        total += tl.load(x + k)
    tl.store(out, total)
    tl.store(out + 1, tl.load(x).to(tl.float32) * tl.num_programs(0) + tl.program_id(0))


@triton.jit
def deferred_kernel(x, y, out, n, C: tl.constexpr, BLOCK: tl.constexpr):
    """Tiles large enough to be deferred, values used twice, stores over what was loaded."""
    i, c = tl.arange(0, BLOCK), tl.arange(0, C)
    off = i[:, None] * C + c[None, :]
    m = (i < n)[:, None] & (c < C - 3)[None, :]
    a = tl.load(x + off, mask=m, other=1.0)
    s = tl.load(y + c)[None, :]
    b = a * s + 0.25
    e = tl.exp(-tl.abs(b))
    total = tl.sum(e, axis=1)[:, None]
    p = e / total
    tl.store(out + off, p, mask=m)
    tl.store(x + off, tl.where(b > 0, b, a * 0.1), mask=m)
    q = p * p + a
    tl.store(out + BLOCK * C + off, q)
    tl.store(x + C + off, q, mask=(i < n - 1)[:, None])
    tl.store(out + 2 * BLOCK * C + c, tl.sum(q, axis=0) + tl.max(b, axis=0))
    tl.store(out + 2 * BLOCK * C + C + off, (q.to(tl.float16) + b.to(tl.float16)).to(tl.float32))


@triton.jit
def column_sums_kernel(x, out, n, C: tl.constexpr, BLOCK: tl.constexpr):
    i, c = tl.arange(0, BLOCK), tl.arange(0, C)
    at, mask = i[:, None] * C + c[None, :], (i < n)[:, None]
    v = tl.load(x + at, mask=mask, other=0.0)
    d = tl.where(mask, v - tl.load(x + c)[None, :], 0.0)
    total = tl.sum(d, axis=0)
    squares = tl.sum(d * d, axis=0)
    tl.store(x + at, v * 2, mask=mask)  # before the sums of what was there are needed
    tl.store(out + c, total)
    tl.store(out + C + c, squares + total)
    again = tl.load(x + at, mask=mask, other=0.0)
    tl.store(out + 2 * C + c, tl.sum(again - d, axis=0) + tl.sum(tl.exp(d), axis=0))


@triton.jit
def noted_stores_kernel(p, b, out, n, lr, ORDER: tl.constexpr, BLOCK: tl.constexpr):
    """Stores of values that are yet to be computed: over what they were made from, before and after it is asked for."""
    i = tl.arange(0, BLOCK)
    if ORDER % 2 == 0:
        m = i < n
    else:
        m = (i >= 5) & (i < n)
    x = tl.load(p + i, mask=m, other=2.0)
    if ORDER < 10:
        old = tl.load(b + i, mask=m, other=-1.0)
        new = old * 0.5 + x
    if ORDER >= 12:  # a value on the way is asked for, when what it was made from is no longer there
        half = tl.load(b + i, mask=m, other=-1.0) * 0.5
        tl.store(b + i, half + x, mask=m)
        tl.store(out + i, half)
    elif ORDER >= 10:  # so is the value itself, where the store left lanes out
        new = tl.load(b + i, mask=m, other=-1.0) * 0.5 + x
        tl.store(b + i, new, mask=m)
        tl.store(out + i, new)
    elif ORDER < 2:  # one after the other, what came before asked for last
        tl.store(b + i, new, mask=m)
        tl.store(p + i, x - lr * new, mask=m)
        tl.store(out + i, new + old, mask=m)
    elif ORDER < 4:  # lanes that no store wrote are asked for
        tl.store(b + i, new, mask=m)
        tl.store(out + i, new * new)
    elif ORDER < 6:  # what was stored is loaded
        tl.store(b + i, new, mask=m)
        again = tl.load(b + i + 1, mask=i < n - 1, other=0.0)
        tl.store(p + i, again * x, mask=m)
        tl.store(out + i, again + new, mask=m)
    elif ORDER < 8:  # later stores over earlier ones, whole and in part
        tl.store(out + i, new, mask=m)
        tl.store(out + i, x * 3.0, mask=m)
        tl.store(out + i + 1, old * x, mask=i < n // 2)
        tl.store(p + i, tl.sum(new, 0) + x)
    else:  # the sum first: the values are there when the stores are due
        tl.store(b + i, new, mask=m)
        tl.store(out + i, x - new, mask=m)
        tl.store(p + i, tl.sum(new, 0) + (x - new), mask=m)


@triton.jit
def running_maximum_kernel(x, out, at, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """Two values that go along together, through more steps than are noted."""
    i = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    where = tl.zeros([BLOCK], tl.uint8)
    least = tl.load(x + i)
    for k in range(STEPS):
        v = tl.load(x + i + k, mask=i < BLOCK - k, other=float("-inf"))
        better = (v > best) | (v != v)
        best = tl.maximum(v, best, propagate_nan=tl.PropagateNan.ALL)
        where = tl.where(better, tl.cast(k, tl.uint8), where)
        least = tl.minimum(least, v, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + i, best)
    tl.store(at + i, where)
    tl.store(out + BLOCK + i, least)
    tl.store(at + BLOCK + i, (where == tl.cast(2, tl.uint8)).to(tl.uint8))


@triton.jit
def scalar_arithmetic_kernel(out, addresses, bits, BLOCK: tl.constexpr):
    """Numbers that are remembered: zeros of either sign, 64-bit integers, their bits; addresses out of memory."""
    value = tl.cast(tl.cast(bits, tl.int64), tl.float64, bitcast=True)
    zero = (value - value).to(tl.float32)
    i = tl.arange(0, BLOCK)
    there = tl.load(addresses + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    tl.store(there + i, 1.0 / (zero * 0.0) + i)
    tl.store(there + BLOCK + i, 1.0 / (zero * -0.0) + i)
    tl.store(out + i, (value * 0.5).to(tl.float32) + i * (1.0 - value).to(tl.float32))


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def output(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, SENTINEL, dtype=dtype)


def with_nans(x: torch.Tensor) -> torch.Tensor:
    x[::97] = float("nan")
    x[::89] = 0.0
    x[1::89] = -0.0
    return x


def integers(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.randint(low, high, shape, dtype=dtype)


def windows(n: int, h: int, w: int, c: int, k: int, dtype: torch.dtype = torch.float32, r: int = 3) -> tuple[Any, ...]:
    """Arguments of ``windows_kernel``: tiles of 256 pixels and 256 products."""
    p, q = h - r + 1, w - r + 1
    factors = normal(n, h, w, c, dtype=dtype), normal(n, p, q, k, dtype=dtype), normal(r * r * c, k, dtype=dtype)
    return *factors, output(r * r * c, k), output(n, p, q, k), n, h, w, c, k, p, q, r, 256, 256, 32


OLD_TRITON = triton.__version__.startswith(("3.6", "3.7", "3.8"))  # tl.cat could not keep the order
F16, F64, I8, I64 = torch.float16, torch.float64, torch.int8, torch.int64
CASES: dict[str, tuple[Any, tuple[int, ...], Callable[[], tuple[Any, ...]]]] = {
    "add in one large program": (
        add_kernel,
        (1,),
        lambda: (normal(70_000), normal(70_000), output(70_000), 70_000, 1 << 17),
    ),
    "add in ragged programs": (add_kernel, (7,), lambda: (normal(99), normal(99), output(120), 99, 16)),
    "add of float64": (
        add_kernel,
        (1,),
        lambda: (normal(99, dtype=F64), normal(99, dtype=F64), output(99, dtype=F64), 99, 128),
    ),
    "softmax of strided rows": (softmax_kernel, (4,), lambda: (normal(50, 70), output(50, 61), 50, 61, 70, 16, 64)),
    "matmul, ragged": (
        matmul_kernel,
        (3, 2),
        lambda: (normal(70, 37), normal(37, 45), output(70, 45), 70, 45, 37, 37, 1, 45, 1, 32, 32, 16, "ieee"),
    ),
    "matmul, b transposed": (
        matmul_kernel,
        (2, 2),
        lambda: (normal(50, 32), normal(45, 32), output(50, 45), 50, 45, 32, 32, 1, 1, 32, 32, 32, 16, "tf32"),
    ),
    "matmul, large tiles": (
        matmul_kernel,
        (1, 1),
        lambda: (
            normal(500, 200),
            normal(200, 90),
            output(500, 90),
            500,
            90,
            200,
            200,
            1,
            90,
            1,
            512,
            128,
            64,
            "tf32x3",
        ),
    ),
    "matmul of float16": (
        matmul_kernel,
        (2, 2),
        lambda: (
            normal(50, 32, dtype=F16),
            normal(32, 45, dtype=F16),
            output(50, 45, dtype=F16),
            50,
            45,
            32,
            32,
            1,
            45,
            1,
            32,
            32,
            16,
            "ieee",
        ),
    ),
    "dot of int8": (
        dot_kernel,
        (1,),
        lambda: (
            integers(-128, 128, 32, 64, dtype=I8),
            integers(-128, 128, 64, 16, dtype=I8),
            output(32, 16, dtype=torch.int32),
            32,
            16,
            64,
            tl.int32,
        ),
    ),
    "dot of float64": (
        dot_kernel,
        (1,),
        lambda: (
            normal(32, 16, dtype=F64),
            normal(16, 16, dtype=F64),
            output(32, 16, dtype=F64),
            32,
            16,
            16,
            tl.float64,
        ),
    ),
    "dot of float16 to float16": (
        dot_kernel,
        (1,),
        lambda: (
            normal(32, 16, dtype=F16),
            normal(16, 16, dtype=F16),
            output(32, 16, dtype=F16),
            32,
            16,
            16,
            tl.float16,
        ),
    ),
    "convolution by pointers": (
        conv_kernel,
        (2, 1),
        lambda: (normal(2, 7, 9, 20), normal(3, 3, 20, 24), output(2, 7, 9, 24), 2, 7, 9, 20, 24, 3, 1, 64, 32, 16),
    ),
    "convolution, large tiles": (
        conv_kernel,
        (1, 1),
        lambda: (
            normal(4, 16, 13, 32),
            normal(3, 3, 32, 40),
            output(4, 16, 13, 40),
            4,
            16,
            13,
            32,
            40,
            3,
            1,
            1024,
            64,
            32,
        ),
    ),
    "matmul, few rows": (
        matmul_kernel,
        (1, 1),
        lambda: (normal(60, 128), normal(128, 512), output(60, 512), 60, 512, 128, 128, 1, 512, 1, 64, 512, 64, "ieee"),
    ),
    "matmul, one row": (
        matmul_kernel,
        (1, 1),
        lambda: (normal(1, 128), normal(128, 512), output(1, 512), 1, 512, 128, 128, 1, 512, 1, 64, 512, 64, "ieee"),
    ),
    "windows, whole rows of results": (windows_kernel, (1,), lambda: windows(9, 10, 10, 20, 32)),
    "windows, three channels": (windows_kernel, (1,), lambda: windows(5, 12, 12, 3, 32, r=5)),
    "windows, some results": (windows_kernel, (1,), lambda: windows(7, 10, 10, 20, 24)),
    "windows, images cut apart": (windows_kernel, (1,), lambda: windows(7, 9, 12, 20, 32)),
    "windows, float16": (windows_kernel, (1,), lambda: windows(4, 10, 10, 20, 32, F16)),
    "columns, summed in passing": (
        column_sums_kernel,
        (1,),
        lambda: (normal(2000, 64), output(192), 2000, 64, 2048),
    ),
    "descriptors over the edge": (
        descriptor_kernel,
        (3,),
        lambda: (normal(3, 21, 8), output(3, 21, 8), 3, 21, 8, 5, 8, 8),
    ),
    "strided copy": (
        strided_copy_kernel,
        (3, 3),
        lambda: (normal(200, 300), output(90, 80), 90, 70, 600, 3, 80, 1, 32, 32),
    ),
    "transposed copy": (
        strided_copy_kernel,
        (2, 2),
        lambda: (normal(100, 70), output(70, 100), 100, 70, 70, 1, 1, 100, 64, 64),
    ),
    "transposed copy, large": (
        strided_copy_kernel,
        (1, 1),
        lambda: (normal(200, 300), output(300, 200), 200, 300, 300, 1, 1, 200, 256, 512),
    ),
    "negative strides": (
        strided_copy_kernel,
        (2, 2),
        lambda: (normal(64, 64), output(64, 64), 64, 1, 64, -1, 64, -1, 32, 32),
    ),
    "three dimensions": (transpose_kernel, (1,), lambda: (normal(8, 16, 4), output(3, 512), 8, 16, 4)),
    "windows over both ends": (window_kernel, (3,), lambda: (normal(40), output(90), 40, 16)),
    "reductions": (reductions_kernel, (1,), lambda: (normal(25, 30), output(800), 25, 30, 32, 32)),
    "custom combines": (combine_kernel, (1,), lambda: (normal(16, 32), output(4000), 16, 32)),
    "sort, gather, histogram": (sort_kernel, (1,), lambda: (normal(32), output(96), output(32, dtype=torch.int32), 32)),
    "sort of int32": (
        sort_kernel,
        (1,),
        lambda: (integers(-9, 9, 32), output(96, dtype=torch.int32), output(32, dtype=torch.int32), 32),
    ),
    "atomics on shared addresses": (
        atomics_kernel,
        (4,),
        lambda: (integers(0, 40, 100), output(81, dtype=torch.int32), torch.zeros(9), 100, 32),
    ),
    **{
        f"integers, {str(t)[6:]}": (
            integer_kernel,
            (4,),
            lambda t=t: (
                integers(0 if t == torch.uint8 else -100, 100, 100, dtype=t),
                integers(1, 5, 100, dtype=t),
                output(128, dtype=t),
                100,
                32,
            ),
        )
        for t in (torch.int8, torch.int16, torch.int32, I64, torch.uint8)
    },
    "negative divisors": (
        integer_kernel,
        (4,),
        lambda: (integers(-100, 100, 100), integers(-5, 0, 100), output(128, dtype=torch.int32), 100, 32),
    ),
    "int32 wraps around": (wrap_kernel, (1,), lambda: (output(2048, dtype=torch.int32), 1000, 1024)),
    "masks that are no boxes": (masks_kernel, (1,), lambda: (normal(30, 20), output(30, 20), 30, 20, 32, 32)),
    "gather": (gather_kernel, (4,), lambda: (normal(50), integers(0, 50, 100), output(128), 100, 32)),
    "gather by int64": (
        gather_kernel,
        (1,),
        lambda: (normal(500), integers(0, 500, 1000, dtype=I64), output(1024), 1000, 1024),
    ),
    "gather of rows": (
        rows_kernel,
        (4,),
        lambda: (normal(50, 20), integers(0, 50, 100), output(100, 20), 100, 20, 32, 32, False),
    ),
    "gather of many rows": (
        rows_kernel,
        (1,),
        lambda: (normal(50, 128), integers(0, 50, 500), output(500, 128), 500, 128, 512, 128, False),
    ),
    "scatter of rows": (
        rows_kernel,
        (1,),
        lambda: (normal(50, 20), torch.randperm(100)[:50].int(), output(100, 20), 50, 20, 64, 32, True),
    ),
    "scatter of rows on each other": (
        rows_kernel,
        (1,),
        lambda: (normal(50, 20), integers(0, 20, 50), output(100, 20), 50, 20, 64, 32, True),
    ),
    "stores on one address": (duplicates_kernel, (1,), lambda: (normal(128), output(64), 100, 128)),
    "stores over loads": (alias_kernel, (1,), lambda: (normal(1000), 200, 64)),
    "stores over loads, large": (alias_kernel, (1,), lambda: (normal(4 << 17), 1 << 17, 1 << 16)),
    "loops, branches, returns": (control_kernel, (3,), lambda: (normal(200), output(300), 150, 7, _double_plus, 16)),
    "bits and bytes": (
        bits_kernel,
        (1,),
        lambda: (normal(64), output(640), torch.zeros(64, dtype=torch.bool), 64, OLD_TRITON),
    ),
    "functions of float32": (math_kernel, (1,), lambda: (normal(100), output(128), 100, 128)),
    "functions of float32, large": (math_kernel, (1,), lambda: (normal(40_000), output(40_000), 40_000, 1 << 16)),
    "functions of float64": (math_kernel, (1,), lambda: (normal(100, dtype=F64), output(128, dtype=F64), 100, 128)),
    "random numbers": (random_kernel, (1,), lambda: (output(256), output(256, dtype=torch.int32), 1234567, 100, 128)),
    "scalars": (scalar_pointer_kernel, (3,), lambda: (normal(9), output(4), 9)),
    **{
        f"noted stores {order}": (
            noted_stores_kernel,
            (1,),
            lambda order=order: (normal(1 << 16), normal(1 << 16), output((1 << 16) + 1), 50_001, 0.25, order, 1 << 16),
        )
        for order in range(14)
    },
    **{
        f"running maximum of {steps}": (
            running_maximum_kernel,
            (1,),
            lambda steps=steps: (
                with_nans(normal(1 << 15)),
                output(1 << 16),
                output(1 << 16, dtype=torch.uint8),
                steps,
                1 << 15,
            ),
        )
        for steps in (1, 9, 40)
    },
    "deferred tiles": (deferred_kernel, (1,), lambda: (normal(1100, 64), normal(64), output(4 << 16), 1000, 64, 1024)),
}


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, tuple):
        return [t for v in value for t in tensors_of(v)]
    if isinstance(value, TensorDescriptor):
        return [value.base]
    return [value] if isinstance(value, torch.Tensor) else []


def after(launch: Callable[[tuple[Any, ...]], None], arguments: tuple[Any, ...]) -> list[bytes]:
    copies = tuple(
        tuple(t.clone() if isinstance(t, torch.Tensor) else t for t in a) if isinstance(a, tuple)
        else a.clone() if isinstance(a, torch.Tensor) else a
        for a in arguments
    )  # fmt: skip
    launch(copies)
    return [t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors_of(copies)]


def assert_same(launch: Callable[[tuple[Any, ...]], None], arguments: tuple[Any, ...]) -> None:
    with interpreter.use():
        found = after(launch, arguments)
    if not stock_works():
        pytest.skip("this Triton's own interpreter fails with this numpy: it ran here, with nothing to compare")
    with quiet_stock():
        expected = after(launch, arguments)
    for n, (a, b) in enumerate(zip(expected, found, strict=True)):
        assert a == b, f"tensor {n} differs in {sum(x != y for x, y in zip(a, b))} of {len(a)} bytes"
    assert math.prod(map(len, expected)) > 0


@contextlib.contextmanager
def quiet_stock() -> Iterator[None]:
    """Triton's own interpreter, without the warnings of numpy that it lets through."""
    with interpreter.stock(), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def stock_works() -> bool:
    """Triton 3.6's own interpreter fails with numpy 2.4 and later wherever a scalar becomes a Python number."""
    out = torch.zeros(2)
    try:
        with quiet_stock():
            scalar_pointer_kernel[(1,)](torch.ones(3), out, 3)
    except Exception as error:
        assert "0-dimensional" in str(error)
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_same_bytes(name: str) -> None:
    torch.manual_seed(0)
    kernel, grid, arguments = CASES[name]
    assert_same(lambda args: kernel[grid](*args), arguments())


@pytest.mark.parametrize("flag", [True, False])
def test_tuples_none_and_defaults(flag: bool) -> None:
    x, y = normal(16), normal(16)

    def launch(args: tuple[Any, ...]) -> None:
        arguments_kernel[(1,)](*args, flag=flag, scale=2.5)

    assert_same(launch, ((x, output(16)), (11, 3), None))
    assert_same(launch, ((x, output(16)), (11, 3), y))


@pytest.mark.parametrize("special", [0.0, float("inf"), float("nan")])
def test_rows_that_masks_leave_out_of_products(special: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are passed over, except where zeros times a weight are no zeros."""
    weights = normal(3, 3, 128, 512)
    weights[0, 0, 5, :] = weights[1, 1, 100, 200] = special
    passed: list[bool] = []
    add_few = products._RowWorker._add_few

    def watched(self: Any, *args: Any) -> bool:
        passed.append(add_few(self, *args))
        return passed[-1]

    monkeypatch.setattr(products._RowWorker, "_add_few", watched)
    sizes = 32, 2, 2, 128, 512, 3, 1, 128, 512, 128
    assert_same(
        lambda args: conv_kernel[(1, 1)](*args, *sizes), (normal(32, 2, 2, 128), weights, output(32, 2, 2, 512))
    )
    parts = len(passed) // 8  # all taps but the one in the middle leave rows out
    assert parts and sum(passed) == (7 if special else 8) * parts


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("overlap", [False, True], ids=["apart", "overlapping"])
def test_tables_of_addresses(step: int, overlap: bool) -> None:
    sizes = torch.tensor([100, 7, 64, 0, 1, 128, 90])
    offsets = torch.tensor([0, 110, 150, 300, 301, 400, 440 if overlap else 600])

    def launch(args: tuple[Any, ...]) -> None:
        table_kernel[(2,)](offsets * 4 + args[0].data_ptr(), sizes, 7, 4, 128, step)

    assert_same(launch, (normal(800),))


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf"), -0.0, 1e-40])
def test_special_values(special: float) -> None:
    x, y = normal(64), normal(64)
    x[::3], y[::4] = special, special
    assert_same(lambda args: nan_kernel[(1,)](*args, 64), (x, y, output(384)))


@pytest.mark.skipif(
    not hasattr(InterpreterBuilder, "create_make_block_ptr"), reason="this Triton has no block pointers"
)
@pytest.mark.filterwarnings("ignore:tl.make_block_ptr is deprecated")
def test_block_pointers() -> None:
    assert_same(lambda args: block_pointer_kernel[(3,)](*args, 40, 50, 16, 16), (normal(40, 50), output(40, 50)))


@pytest.mark.parametrize("value", [1.0, 0.1])
def test_scalars_that_are_remembered(value: float) -> None:
    """The address is a number of the test's own, so the copies that ``after`` makes would not do."""
    results = []
    bits = struct.unpack("q", struct.pack("d", value))[0]
    for context in (interpreter.use, interpreter.use, quiet_stock):
        if context is quiet_stock and not stock_works():
            continue
        there, out = output(32), output(16)
        with context():
            scalar_arithmetic_kernel[(1,)](out, torch.tensor([there.data_ptr()]), bits, 16)
        results.append((there, out))
    infinite = torch.full((16,), float("inf"))
    for _, out in results:
        assert torch.equal(out, results[0][1])
    for there, _ in results[:2]:  # before 3.9 Triton's own interpreter takes -0.0 for 0.0
        assert torch.equal(there, torch.cat([infinite, -infinite]))


def test_host_descriptors() -> None:
    def launch(args: tuple[Any, ...]) -> None:
        source, target = (TensorDescriptor.from_tensor(t, [8, 16]) for t in args)
        host_descriptor_kernel[(1,)](source, target, 48, 16)
        host_descriptor_kernel[(1,)](source, target, k=56, B=16)

    assert_same(launch, (normal(8, 64), output(8, 64)))


def test_autotune_and_heuristics() -> None:
    tuned = triton.autotune(configs=[triton.Config({"BLOCK": 128}, num_warps=8)], key=["n"])(add_kernel)
    heuristic = triton.heuristics({"BLOCK": lambda args: 64})(add_kernel)

    def launch(args: tuple[Any, ...]) -> None:
        tuned[lambda meta: (triton.cdiv(300, meta["BLOCK"]),)](*args, 300)
        heuristic[(2, 1, 1)](*args, n=77)

    assert_same(launch, (normal(300), normal(300), output(300)))
