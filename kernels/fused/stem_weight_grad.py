"""The weight gradient of a stem by boxes (see ``conv2d.box_stem``), from the gradient behind its max-pooling.

A program makes the gradient of the convolution's result for a box of pixels on the spot: gathered cell by cell from the
pooled gradients and the taps that won, as in ``stem``, and taken back through the batch normalisation as
``a · h + b · z + c``, rounded once. Neither of the two full maps of gradients is ever written.

The four pixels of a cell are made side by side and then put where they lie, so that a pooled value is loaded once for each
of the windows that meet in a cell, and not once for each pixel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import hardware, memory
from tinyflow.kernels.conv2d.box_stem import WINDOW, add_windows, tap_rows, unfold_sum, window_boxes
from tinyflow.kernels.conv2d.boxes import box_place, box_tiles, image_boxes
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _pooled(g_ptr, taps_ptr, at, exists, k, K):
    """Gradients of pooled values and the taps that they go to; 0 where there are none."""
    mask = exists[:, None] & (k < K)[None, :]
    g = tl.load(g_ptr + at, mask=mask, other=0).to(tl.float32)
    return g, tl.load(taps_ptr + at, mask=mask, other=0)


@triton.jit
def _won(taps, tap: tl.constexpr, g):
    return tl.where(taps == tap, g, 0.0)


@triton.jit
def _pixel_gradients(
    g_ptr,
    taps_ptr,
    n,
    i,
    j,
    k,
    N,
    K,
    out_h,
    out_w,
    INDEX: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Of a box of TN × TH × TW cells from (n, i, j) on: the gradients of all their pixels, (pixels, k)."""
    cell = tl.arange(0, TN * TH * TW)
    images = (n + cell // (TH * TW)).to(INDEX)
    rows = i + cell // TW % TH
    columns = j + cell % TW
    at = (((images * out_h + rows) * out_w + columns) * K)[:, None] + k[None, :]
    exists = (images < N) & (rows < out_h) & (columns < out_w)
    right = exists & (columns + 1 < out_w)
    below = exists & (rows + 1 < out_h)
    g, tap = _pooled(g_ptr, taps_ptr, at, exists, k, K)
    g_right, tap_right = _pooled(g_ptr, taps_ptr, at + K, right, k, K)
    g_below, tap_below = _pooled(g_ptr, taps_ptr, at + out_w * K, below, k, K)
    g_across, tap_across = _pooled(g_ptr, taps_ptr, at + (out_w + 1) * K, right & below, k, K)
    top_left = _won(tap, 4, g)
    top_right = _won(tap, 5, g) + _won(tap_right, 3, g_right)
    low_left = _won(tap, 7, g) + _won(tap_below, 1, g_below)
    low_right = _won(tap, 8, g) + _won(tap_right, 6, g_right)
    low_right += _won(tap_below, 2, g_below) + _won(tap_across, 0, g_across)
    pixels = tl.join(tl.join(top_left, low_left), tl.join(top_right, low_right))  # [cell, k, row, column]
    pixels = pixels.reshape(TN * TH, TW, BLOCK_K, 2, 2).permute(0, 3, 1, 4, 2)
    return pixels.reshape(TN * TH * TW * 4, BLOCK_K)


@triton.jit
def _pooled_stem_weight_grad_kernel(
    partial_ptr,  # partial[program, k, tap row, window]
    x,  # boxes of windows[n, i, j, window]
    z,  # boxes of z[n, p, q, k]
    g_ptr,  # g[n, i, j, k], of the pooled map
    taps_ptr,
    affine_ptr,  # affine[(a, b, c), k]
    N,
    K,
    P,
    Q,
    out_h,
    out_w,
    ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    WHOLE: tl.constexpr,  # whether boxes end with the map
    TENSOR_MEMORY: tl.constexpr,
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
    by_h = tl.load(affine_ptr + k, mask=k < K, other=0)
    by_z = tl.load(affine_ptr + K + k, mask=k < K, other=0)
    constant = tl.load(affine_ptr + 2 * K + k, mask=k < K, other=0)
    zero = tl.zeros((BLOCK_K, WINDOW), tl.float32)
    a0, a1, a2, a3 = zero, zero, zero, zero
    for tile in tl.range(program, box_tiles(N, P, Q, TN, TH, TW), tl.num_programs(0)):
        n, p, q = box_place(tile, P, Q, TN, TH, TW)
        h = _pixel_gradients(
            g_ptr, taps_ptr, n, p // 2, q // 2, k, N, K, out_h, out_w, INDEX, TN, TH // 2, TW // 2, BLOCK_K
        )
        values = z.load([n, p, q, k0]).reshape(PIXELS, BLOCK_K)
        grad = by_h[None, :] * h + (by_z[None, :] * values.to(tl.float32) + constant[None, :])
        if not WHOLE:
            # past the edge the image's windows are real
            pixel = tl.arange(0, PIXELS)
            inside = (p + pixel // TW % TH < P) & (q + pixel % TW < Q)
            grad = tl.where(inside[:, None], grad, 0.0)
        g = grad.to(values.dtype).T
        a0 = add_windows(x, g, a0, n, p, q, N, TENSOR_MEMORY, PIXELS, WINDOW)
        a1 = add_windows(x, g, a1, n, p + 1, q, N, TENSOR_MEMORY, PIXELS, WINDOW)
        if ROWS > 2:
            a2 = add_windows(x, g, a2, n, p + 2, q, N, TENSOR_MEMORY, PIXELS, WINDOW)
        if ROWS > 3:
            a3 = add_windows(x, g, a3, n, p + 3, q, N, TENSOR_MEMORY, PIXELS, WINDOW)
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


#: Of four warps, so that none makes what another has made; two programs then share a multiprocessor.
_SHIPPED = (_tile(1, 8, 8, 4), _tile(1, 4, 8, 4))

_RESIDENT = 2


def _interpreter(images: int, height: int, width: int) -> Config:
    rows, columns = block(height, 64), block(width, 64)
    fill = max(block(images, max(4096 // (rows * columns), 1)), cdiv(16, rows * columns))
    return _tile(fill, max(rows, 2), max(columns, 2), 4)


pooled_stem_weight_grad_configs = Configs(
    "_pooled_stem_weight_grad_kernel", _SHIPPED, lambda images, height, width: _SHIPPED[0], _interpreter
)


def pooled_stem_weight_grad(
    found: Geometry,
    grad: Buffer,
    taps: Buffer,
    z: Buffer,
    affine: Buffer,
    folded: Buffer,
    dtype: memory.dtype | None = None,
) -> Buffer:
    """The weight gradient of ``max_pool2d(relu(normalise(conv2d(x))), 3, stride=2, padding=1)``.

    Args:
        found: sizes of the convolution, of which :func:`box_stem.is_stem` holds.
        grad, taps: (N, K, ⌈P/2⌉, ⌈Q/2⌉), channels-last: the gradient behind the pooling, 0 where the ReLU let nothing
            pass, and the taps that won.
        z: (N, K, P, Q), channels-last, the convolution's result.
        affine: (3, K), from :func:`normalise.finished_sums`.
        folded: the image from :func:`box_stem.fold_image`.
        dtype: of the result; default: that of ``z``.

    Returns (K, C, R, S) in K·R·S·C order, accumulated in float32 and rounded once. FLOPs: those of the convolution and 9
    a pixel and channel. Bytes: every operand and the result once, partial sums written and read besides.
    """
    n, k, p, q = found.out_shape
    config = pooled_stem_weight_grad_configs(z.dtype, images=n, height=p, width=q)
    tn, th, tw, bk = (config.blocks[name] for name in ("TN", "TH", "TW", "BLOCK_K"))
    resident = _RESIDENT * hardware.multiprocessors(z.device)
    programs = min(cdiv(n, tn) * cdiv(p, th) * cdiv(q, tw), resident)
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
        n,
        k,
        p,
        q,
        *grad.shape[2:],
        config=config,
        cost=Cost(found.flops + 9 * z.numel(), nbytes(folded, z, grad, taps, affine, partial)),
        device=z.device,
        ROWS=rows,
        WINDOW=WINDOW,
        WHOLE=p % th == q % tw == 0,
        TENSOR_MEMORY=hardware.tensor_memory(z.device),
        INDEX=offset_dtype(grad, folded),
    )
    return unfold_sum(found, partial, dtype or z.dtype)
