"""The weight gradient of a stem by boxes (see ``conv2d.box_stem``), from the gradient behind its max-pooling.

A program makes the gradient of the convolution's result for a box of pixels on the spot: gathered from the pooled
gradients and the taps that won, as in ``stem``, masked by the ReLU, and taken back through the batch normalisation as
``a · h + b · z + c``, rounded once. Neither of the two full maps of gradients is ever written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import hardware, memory
from tinyflow.kernels.batch_norm.tiles import norm_values, normalised
from tinyflow.kernels.conv2d.box_stem import WINDOW, tap_rows, unfold_sum, window_boxes
from tinyflow.kernels.conv2d.boxes import box_place, box_tiles, image_boxes
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.fused.normalise import Norm
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _gathered(g_ptr, taps_ptr, n, p, q, inside, k, K, out_h, out_w):
    """The gradients of pixels (n, p, q) from the at most four windows that hold each."""
    total = tl.zeros((p.shape[0], k.shape[0]), tl.float32)
    for window in tl.static_range(4):
        i = (p + 1) // 2 - window // 2
        j = (q + 1) // 2 - window % 2
        row = p + 1 - 2 * i
        column = q + 1 - 2 * j
        holds = inside & (i >= 0) & (i < out_h) & (row < 3) & (j >= 0) & (j < out_w) & (column < 3)
        mask = holds[:, None] & (k < K)[None, :]
        at = (((n * out_h + i) * out_w + j) * K)[:, None] + k[None, :]
        won = tl.load(taps_ptr + at, mask=mask, other=255).to(tl.int32)
        g = tl.load(g_ptr + at, mask=mask, other=0).to(tl.float32)
        total += tl.where(won == (row * 3 + column).to(tl.int32)[:, None], g, 0.0)
    return total


@triton.jit
def _pooled_stem_weight_grad_kernel(
    partial_ptr,  # partial[program, k, tap row, window]
    x,  # boxes of windows[n, i, j, window]
    z,  # boxes of z[n, p, q, k]
    g_ptr,  # g[n, i, j, k], of the pooled map
    taps_ptr,
    affine_ptr,  # affine[(a, b, c), k]
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    N,
    K,
    P,
    Q,
    out_h,
    out_w,
    ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    INDEX: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    PIXELS: tl.constexpr = TN * TH * TW
    program = tl.program_id(0)
    k0 = tl.program_id(1) * BLOCK_K
    k = k0 + tl.arange(0, BLOCK_K)
    pixel = tl.arange(0, PIXELS)
    zero = tl.zeros((BLOCK_K, WINDOW), tl.float32)
    a0, a1, a2, a3 = zero, zero, zero, zero
    for tile in tl.range(program, box_tiles(N, P, Q, TN, TH, TW), tl.num_programs(0)):
        n, p, q = box_place(tile, P, Q, TN, TH, TW)
        images = (n + pixel // (TH * TW)).to(INDEX)
        rows = (p + pixel // TW % TH).to(INDEX)
        columns = (q + pixel % TW).to(INDEX)
        inside = (images < N) & (rows < P) & (columns < Q)
        h = _gathered(g_ptr, taps_ptr, images, rows, columns, inside, k, K, out_h, out_w)
        values = z.load([n, p, q, k0]).reshape(PIXELS, BLOCK_K)
        wide = values.to(tl.float32)
        mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, k, K, tl.float32)
        y = normalised(wide, mean, scale, bias)
        h = tl.where(y.to(values.dtype).to(tl.float32) <= 0, 0.0, h)
        by_h = tl.load(affine_ptr + k, mask=k < K, other=0)
        by_z = tl.load(affine_ptr + K + k, mask=k < K, other=0)
        constant = tl.load(affine_ptr + 2 * K + k, mask=k < K, other=0)
        # past the edge the image's windows are real
        grad = tl.where(inside[:, None], by_h[None, :] * h + by_z[None, :] * wide + constant[None, :], 0.0)
        g = grad.to(values.dtype).T
        a0 = tl.dot(g, x.load([n, p, q, 0]).reshape(PIXELS, WINDOW), a0, input_precision="ieee")
        a1 = tl.dot(g, x.load([n, p + 1, q, 0]).reshape(PIXELS, WINDOW), a1, input_precision="ieee")
        if ROWS > 2:
            a2 = tl.dot(g, x.load([n, p + 2, q, 0]).reshape(PIXELS, WINDOW), a2, input_precision="ieee")
        if ROWS > 3:
            a3 = tl.dot(g, x.load([n, p + 3, q, 0]).reshape(PIXELS, WINDOW), a3, input_precision="ieee")
    out = partial_ptr + ((program * K + k) * (ROWS * WINDOW))[:, None] + tl.arange(0, WINDOW)[None, :]
    tl.store(out, a0, mask=(k < K)[:, None])
    tl.store(out + WINDOW, a1, mask=(k < K)[:, None])
    if ROWS > 2:
        tl.store(out + 2 * WINDOW, a2, mask=(k < K)[:, None])
    if ROWS > 3:
        tl.store(out + 3 * WINDOW, a3, mask=(k < K)[:, None])


def _tile(images: int, rows: int, columns: int, warps: int) -> Config:
    blocks = {"TN": images, "TH": rows, "TW": columns, "BLOCK_K": 64}
    return Config(blocks, num_warps=warps, num_stages=2)


_SHIPPED = (_tile(1, 8, 8, 8), _tile(1, 4, 8, 8))


def _interpreter(images: int, height: int, width: int) -> Config:
    rows, columns = block(height, 64), block(width, 64)
    fill = max(block(images, max(4096 // (rows * columns), 1)), cdiv(16, rows * columns))
    return _tile(fill, rows, columns, 4)


pooled_stem_weight_grad_configs = Configs(
    "_pooled_stem_weight_grad_kernel", _SHIPPED, lambda images, height, width: _SHIPPED[0], _interpreter
)


def pooled_stem_weight_grad(
    found: Geometry, grad: Buffer, taps: Buffer, z: Buffer, norm: Norm, affine: Buffer, folded: Buffer
) -> Buffer:
    """The weight gradient of ``max_pool2d(relu(normalise(conv2d(x))), 3, stride=2, padding=1)``.

    Args:
        found: sizes of the convolution, of which :func:`box_stem.is_stem` holds.
        grad, taps: (N, K, ⌈P/2⌉, ⌈Q/2⌉), channels-last: the gradient behind the pooling, and the taps that won.
        z: (N, K, P, Q), channels-last, the convolution's result.
        norm: mean, invstd, weight, bias, each (K,) and dense.
        affine: (3, K), from :func:`normalise.gradient_as_affine`.
        folded: the image from :func:`box_stem.fold_image`.

    Returns (K, C, R, S) in K·R·S·C order, accumulated in float32 and rounded once. FLOPs: those of the convolution and 15
    a pixel and channel. Bytes: every operand and the result once, partial sums written and read besides.
    """
    n, k, p, q = found.out_shape
    config = pooled_stem_weight_grad_configs(z.dtype, images=n, height=p, width=q)
    tn, th, tw, bk = (config.blocks[name] for name in ("TN", "TH", "TW", "BLOCK_K"))
    programs = min(cdiv(n, tn) * cdiv(p, th) * cdiv(q, tw), hardware.multiprocessors(z.device))
    rows = tap_rows(found)
    partial = memory.empty((programs, k, rows, WINDOW), memory.float32, z.device)
    launch(
        _pooled_stem_weight_grad_kernel,
        (programs, cdiv(k, bk)),
        partial,
        window_boxes(folded, config),
        image_boxes(z, config, "BLOCK_K"),
        grad,
        taps,
        affine,
        *norm,
        n,
        k,
        p,
        q,
        *grad.shape[2:],
        config=config,
        cost=Cost(found.flops + 15 * z.numel(), nbytes(folded, z, grad, taps, affine, partial)),
        device=z.device,
        ROWS=rows,
        WINDOW=WINDOW,
        INDEX=offset_dtype(grad, folded),
    )
    return unfold_sum(found, partial, z.dtype)
