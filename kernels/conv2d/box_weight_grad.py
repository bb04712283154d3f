"""The weight gradient of a 3×3 convolution of few channels by boxes (see ``boxes``), nine taps at a time.

``weight_grad[k, r, s, c] = Σ_pixels grad[pixel, k] · x[pixel moved by (r, s), c]``. A program holds the accumulators of
all taps and walks over boxes of pixels, so that it fetches ``grad`` once for nine products; a second kernel adds the
programs' partial sums in a fixed order. Since every pixel is seen exactly once, the program can also make ``grad``
itself, as the backward pass of the batch normalisation above, and leave it for the input gradient.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import hardware, memory, strides
from tinyflow.kernels.conv2d.boxes import add_product, box_place, box_tiles, image_boxes
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.matmul import sum_partials
from tinyflow.kernels.memory import Buffer


@triton.jit
def _tap(x, grad, acc, n, h, w, c, N, TENSOR_MEMORY: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    pixels = x.load([n, h, w, c]).reshape(PIXELS, CHANNELS)
    return add_product(grad, pixels, acc, n < N, TENSOR_MEMORY)


@triton.jit
def _box_conv2d_weight_grad_kernel(
    partial_ptr,  # partial[program, k, (r, s), c]
    x,  # boxes of x[n, h, w, c]
    grad,  # boxes of grad[n, p, q, k]
    upstream,  # boxes of upstream[n, p, q, k], from which grad is made and stored
    y,  # boxes of y[n, p, q, k]
    affine_ptr,  # affine[(upstream, y, 1), k]
    N,
    C,
    K,
    P,
    Q,
    top,
    left,
    TENSOR_MEMORY: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    PIXELS: tl.constexpr = TN * TH * TW
    program = tl.program_id(0)
    c0 = tl.program_id(1) * BLOCK_C
    k0 = tl.program_id(2) * BLOCK_K
    k = k0 + tl.arange(0, BLOCK_K)
    c = c0 + tl.arange(0, BLOCK_C)
    if upstream is not None:
        slope = tl.load(affine_ptr + k, mask=k < K, other=0)
        slope_y = tl.load(affine_ptr + K + k, mask=k < K, other=0)
        offset = tl.load(affine_ptr + 2 * K + k, mask=k < K, other=0)
    zero = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    a00, a01, a02, a10, a11, a12, a20, a21, a22 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    for tile in tl.range(program, box_tiles(N, P, Q, TN, TH, TW), tl.num_programs(0)):
        n, p, q = box_place(tile, P, Q, TN, TH, TW)
        if upstream is not None:
            above = upstream.load([n, p, q, k0]).reshape(PIXELS, BLOCK_K).to(tl.float32)
            normalised = y.load([n, p, q, k0]).reshape(PIXELS, BLOCK_K).to(tl.float32)
            pixel = tl.arange(0, PIXELS)
            inside = (p + pixel // TW % TH < P) & (q + pixel % TW < Q)  # beyond, the offset would meet x moved inwards
            made = slope[None, :] * above + slope_y[None, :] * normalised + offset[None, :]
            g = tl.where(inside[:, None], made, 0.0).to(grad.dtype)
            grad.store([n, p, q, k0], g.reshape(TN, TH, TW, BLOCK_K))
        else:
            g = grad.load([n, p, q, k0]).reshape(PIXELS, BLOCK_K)
        g = g.T
        h = p - top
        w = q - left
        a00 = _tap(x, g, a00, n, h, w, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
        a01 = _tap(x, g, a01, n, h, w + 1, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
        a02 = _tap(x, g, a02, n, h, w + 2, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
        a10 = _tap(x, g, a10, n, h + 1, w, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
        a11 = _tap(x, g, a11, n, h + 1, w + 1, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
        a12 = _tap(x, g, a12, n, h + 1, w + 2, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
        a20 = _tap(x, g, a20, n, h + 2, w, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
        a21 = _tap(x, g, a21, n, h + 2, w + 1, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
        a22 = _tap(x, g, a22, n, h + 2, w + 2, c0, N, TENSOR_MEMORY, PIXELS, BLOCK_C)
    mask = (k < K)[:, None] & (c < C)[None, :]
    out = partial_ptr + ((program * K + k) * 9 * C)[:, None] + c[None, :]
    tl.store(out, a00, mask=mask)
    tl.store(out + C, a01, mask=mask)
    tl.store(out + 2 * C, a02, mask=mask)
    tl.store(out + 3 * C, a10, mask=mask)
    tl.store(out + 4 * C, a11, mask=mask)
    tl.store(out + 5 * C, a12, mask=mask)
    tl.store(out + 6 * C, a20, mask=mask)
    tl.store(out + 7 * C, a21, mask=mask)
    tl.store(out + 8 * C, a22, mask=mask)


def _nine(box: tuple[int, int, int], channels: int, warps: int, stages: int) -> Config:
    blocks = {"TN": box[0], "TH": box[1], "TW": box[2], "BLOCK_K": channels, "BLOCK_C": channels}
    return Config(blocks, num_warps=warps, num_stages=stages)


_NINE_TAPS = (
    _nine((1, 8, 8), 64, warps=8, stages=2),
    _nine((1, 4, 8), 64, warps=8, stages=3),
)


def _choose_nine(images: int, height: int, width: int) -> Config:
    return _NINE_TAPS[0]


def _interpreter_nine(images: int, height: int, width: int) -> Config:
    rows, columns = block(height, 64), block(width, 64)
    return _nine(
        (max(block(images, max(8192 // (rows * columns), 1)), cdiv(16, rows * columns)), rows, columns), 64, 4, 2
    )


box_conv2d_weight_grad_configs = Configs("_box_conv2d_weight_grad_kernel", _NINE_TAPS, _choose_nine, _interpreter_nine)


def box_conv2d_weight_grad(
    found: Geometry,
    grad: Buffer | None,
    x: Buffer,
    upstream: Buffer | None = None,
    y: Buffer | None = None,
    affine: Buffer | None = None,
    dtype: memory.dtype | None = None,
) -> tuple[Buffer, Buffer]:
    """The weight gradient of a 3×3 convolution by boxes, nine taps at a time.

    Given ``upstream``, ``y`` and ``affine``, the gradient of the convolution's output is made here:
    ``grad[n, k, p, q] = affine[0, k] · upstream + affine[1, k] · y + affine[2, k]``, rounded once, which is how batch
    normalisation passes a gradient on.

    Args:
        found: the checked sizes; 3×3 taps, stride, dilation and groups 1.
        grad: (N, K, P, Q) in channels-last memory, float16 or bfloat16; None to make it.
        x: (N, C, H, W) in channels-last memory, of the same dtype.
        upstream, y: (N, K, P, Q) in channels-last memory, of the same dtype; both or none.
        affine: (3, K), float32, contiguous.
        dtype: of the weight gradient; default: that of ``x``.

    Returns the weight gradient (K, C, 3, 3) in K·R·S·C order, accumulated in float32 and rounded once, and grad. Bits do
    not depend on the run.

    FLOPs: 2·N·K·P·Q·C·9. Bytes: every operand read and every result written once, partial sums written and read besides.
    """
    if grad is None:
        grad = strides.empty_channels_last(found.out_shape, x.dtype, x.device)
    images, k, p, q = found.out_shape
    c = x.shape[1]
    config = box_conv2d_weight_grad_configs(x.dtype, images=images, height=p, width=q)
    tn, th, tw, bk, bc = (config.blocks[name] for name in ("TN", "TH", "TW", "BLOCK_K", "BLOCK_C"))
    programs = min(cdiv(images, tn) * cdiv(p, th) * cdiv(q, tw), hardware.multiprocessors(x.device))
    out = strides.empty_channels_last(found.weight_shape, dtype or x.dtype, x.device)
    partial = memory.empty((programs, *found.weight_shape), memory.float32, x.device, (out.numel(), *out.stride()))
    launch(
        _box_conv2d_weight_grad_kernel,
        (programs, cdiv(c, bc), cdiv(k, bk)),
        partial,
        image_boxes(x, config, "BLOCK_C"),
        image_boxes(grad, config, "BLOCK_K"),
        None if upstream is None else image_boxes(upstream, config, "BLOCK_K"),
        None if y is None else image_boxes(y, config, "BLOCK_K"),
        affine,
        images,
        c,
        k,
        p,
        q,
        found.padding[0][0],
        found.padding[1][0],
        config=config,
        cost=Cost(found.flops, nbytes(x, grad, upstream, y, affine, partial)),
        device=x.device,
        TENSOR_MEMORY=hardware.tensor_memory(x.device),
    )
    return sum_partials(partial, out), grad
