"""The gradient of a convolution's weight: a matrix product of channels by output channels over pixels, for each tap.

``weight_grad[k, c, r, s] = Σ_{n, p, q} grad[n, k, p, q] · x[n, c, h, w]`` with ``h = p·stride − padding + r·dilation``,
likewise ``w``.

Pixels are shared out among SPLITS programs; each writes a partial sum to a workspace and a second kernel adds them in a
fixed order, so results are the same bits on every run. A program takes one tap over all pixels of its share; or
(ALL_TAPS, where programs cost more than their work) its share is one tile of pixels, and all taps come one after the
other with the tile of ``grad`` in hand. Channels are folded with the taps, or summed directly, where ``correlation``
does so; in the interpreter, where one large product is faster than one for each tap, they are folded wherever there are
several taps.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.conv2d.correlation import (
    is_direct,
    is_folded,
    pixel_offsets,
    pixel_place,
    product_place,
    product_steps,
    reads_image,
    rows_of_channels,
    with_border,
)
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.matmul import sum_partials
from tinyflow.kernels.memory import Buffer


@triton.jit
def _grad_places(pixel, channel, exists, PIXELS, P, Q, strides):
    """Where a tile of grad lies, by pixels and by channels, and which of it exists."""
    mask = (pixel < PIXELS)[:, None] & exists[None, :]
    return pixel_offsets(pixel, P, Q, strides)[:, None], (channel * strides[1])[None, :], mask


@triton.jit
def _load_grad(grad_ptr, pixel, channel, exists, PIXELS, P, Q, strides):
    down, across, mask = _grad_places(pixel, channel, exists, PIXELS, P, Q, strides)
    return tl.load(grad_ptr + down + across, mask=mask, other=0)


@triton.jit
def _x_places(pixel, columns, exists, r, s, PIXELS, H, W, P, Q, strides, stride, start, spacing, FOLDED: tl.constexpr):
    """Where a tile of x lies, by pixels and by products, and which of it exists."""
    n, row, column = pixel_place(pixel, P, Q, stride, start)
    inside = reads_image(pixel < PIXELS, row, column, r, s, H, W, spacing, FOLDED)
    at = n * strides[0] + row * strides[2] + column * strides[3]
    return at[:, None], columns[None, :], inside[:, None] & exists[None, :]


@triton.jit
def _load_x(
    x_ptr, pixel, columns, exists, r, s, PIXELS, H, W, P, Q, strides, stride, start, spacing, FOLDED: tl.constexpr
):
    down, across, mask = _x_places(
        pixel, columns, exists, r, s, PIXELS, H, W, P, Q, strides, stride, start, spacing, FOLDED
    )
    return tl.load(x_ptr + down + across, mask=mask, other=0)


@triton.jit
def _weight_grad_kernel(
    out_ptr,  # out[split, k, c, r, s]
    x_ptr,  # x[n, c, h, w]
    grad_ptr,  # grad[n, k, p, q]
    PIXELS,
    C,
    H,
    W,
    K,
    P,
    Q,
    R,
    S,
    out_stride_split,
    out_strides,
    x_strides,
    grad_strides,
    stride,
    start,
    spacing,
    FOLDED: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SPLITS: tl.constexpr,
    ALL_TAPS: tl.constexpr,
):
    # C and K count the channels of one group; a step is a tap and a tile of its channels
    steps, tiles_c = product_steps(C, R, S, FOLDED, BLOCK_C)
    tiles_k = tl.cdiv(K, BLOCK_K)
    program = tl.program_id(0)
    first_step = 0
    last_step = steps
    if not ALL_TAPS:
        first_step = program % steps
        last_step = first_step + 1
        program = program // steps
    k = (program % tiles_k).to(INDEX) * BLOCK_K + tl.arange(0, BLOCK_K).to(INDEX)
    program = program // tiles_k
    split = (program % SPLITS).to(INDEX)
    group = (program // SPLITS).to(INDEX)
    channel = group * K + k
    tiles_p = tl.cdiv(tl.cdiv(PIXELS, BLOCK_P), SPLITS)  # of one split
    lane = tl.arange(0, BLOCK_P).to(INDEX)
    channel_lane = tl.arange(0, BLOCK_C).to(INDEX)
    tap_down = tl.cast(spacing[0], INDEX) * x_strides[2]
    tap_right = tl.cast(spacing[1], INDEX) * x_strides[3]
    if ALL_TAPS:
        grad = _load_grad(grad_ptr, split * BLOCK_P + lane, channel, k < K, PIXELS, P, Q, grad_strides)

    for step in range(first_step, last_step):
        r, s, c, exists = product_place(step, channel_lane, tiles_c, C, R, S, FOLDED, BLOCK_C)
        columns = (group * C + c) * x_strides[1] + r * tap_down + s * tap_right
        acc = tl.zeros((BLOCK_C, BLOCK_K), dtype=ACC)
        for tile in range(tiles_p):
            pixel = (split * tiles_p + tile) * BLOCK_P + lane
            x = _load_x(
                x_ptr, pixel, columns, exists, r, s, PIXELS, H, W, P, Q, x_strides, stride, start, spacing, FOLDED
            )
            if not ALL_TAPS:
                grad = _load_grad(grad_ptr, pixel, channel, k < K, PIXELS, P, Q, grad_strides)
            acc = tl.dot(tl.trans(x), grad, acc, input_precision=PRECISION, out_dtype=ACC)
        out_rows = split * out_stride_split + c * out_strides[1] + r * out_strides[2] + s * out_strides[3]
        out_ptrs = out_ptr + out_rows[:, None] + (channel * out_strides[0])[None, :]
        tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=exists[:, None] & (k < K)[None, :])


@triton.jit
def _weight_grad_direct_kernel(
    out_ptr,  # out[split, k, c, r, s]
    x_ptr,  # x[n, c, h, w]
    grad_ptr,  # grad[n, k, p, q]
    PIXELS,
    C,
    H,
    W,
    K,
    P,
    Q,
    R,
    S,
    out_stride_split,
    out_strides,
    x_strides,
    grad_strides,
    stride,
    start,
    spacing,
    GROUPS,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    ALL_TAPS: tl.constexpr,
):
    # a step is one channel of each group at one tap; a tile covers output channels of several groups
    steps = R * S * C
    tiles_k = tl.cdiv(GROUPS * K, BLOCK_K)
    program = tl.program_id(0)
    first_step = 0
    last_step = steps
    if not ALL_TAPS:
        first_step = program % steps
        last_step = first_step + 1
        program = program // steps
    k = (program % tiles_k).to(INDEX) * BLOCK_K + tl.arange(0, BLOCK_K).to(INDEX)
    split = (program // tiles_k).to(INDEX)
    exists = k < GROUPS * K
    first_channel = (k // K) * C * x_strides[1]
    tiles_p = tl.cdiv(tl.cdiv(PIXELS, BLOCK_P), SPLITS)  # of one split
    lane = tl.arange(0, BLOCK_P).to(INDEX)
    tap_down = tl.cast(spacing[0], INDEX) * x_strides[2]
    tap_right = tl.cast(spacing[1], INDEX) * x_strides[3]
    if ALL_TAPS:
        grad = _load_grad(grad_ptr, split * BLOCK_P + lane, k, exists, PIXELS, P, Q, grad_strides).to(ACC)

    for step in range(first_step, last_step):
        tap = (step // C).to(INDEX)
        c = step % C
        r = tap // S
        s = tap % S
        columns = first_channel + (c * x_strides[1] + r * tap_down + s * tap_right)
        acc = tl.zeros((BLOCK_K,), dtype=ACC)
        for tile in range(tiles_p):
            pixel = (split * tiles_p + tile) * BLOCK_P + lane
            x = _load_x(
                x_ptr, pixel, columns, exists, r, s, PIXELS, H, W, P, Q, x_strides, stride, start, spacing, False
            )
            if not ALL_TAPS:
                grad = _load_grad(grad_ptr, pixel, k, exists, PIXELS, P, Q, grad_strides).to(ACC)
            acc += tl.sum(x.to(ACC) * grad, axis=0)
        out_at = split * out_stride_split + c * out_strides[1] + r * out_strides[2] + s * out_strides[3]
        tl.store(out_ptr + (out_at + k * out_strides[0]), acc.to(out_ptr.dtype.element_ty), mask=exists)


def _tile(p: int, k: int, c: int, splits: int, warps: int = 4, stages: int = 3, all_taps: bool = False) -> Config:
    blocks = {"BLOCK_P": p, "BLOCK_K": k, "BLOCK_C": c, "SPLITS": splits, "ALL_TAPS": all_taps}
    return Config(blocks, num_warps=warps, num_stages=stages)


#: Fewer programs than this leave a large GPU idle. One number for all devices: the split decides how results round.
_PROGRAMS = 256

_SPLITS = (1, 8, 32, 128)
_TILES = tuple(_tile(64, 64, 64, n) for n in _SPLITS)
_NARROW_TILES = tuple(_tile(64, 32, 16, n) for n in _SPLITS)
_WIDE_TYPE = tuple(_tile(16, 32, 32, n, stages=2) for n in _SPLITS)


def _choose(pixels: int, k: int, c: int, steps: int, groups: int, folded: bool, itemsize: int) -> Config:
    tiles = _WIDE_TYPE if itemsize == 8 else _NARROW_TILES if min(k, c) <= 32 else _TILES
    blocks = tiles[0].blocks
    programs = steps * cdiv(c, blocks["BLOCK_C"]) * cdiv(k, blocks["BLOCK_K"]) * groups
    most = min(cdiv(_PROGRAMS, programs), cdiv(pixels, 4 * blocks["BLOCK_P"]))
    return max((t for t in tiles if t.blocks["SPLITS"] <= max(most, 1)), key=lambda t: t.blocks["SPLITS"])


def _interpreter(pixels: int, k: int, c: int, steps: int, groups: int, folded: bool, itemsize: int) -> Config:
    bk = max(block(k, 1024), 16)
    bc = max(block(c, min(MAX_BLOCK // bk, 4096) if folded else 1024), 16)
    bp = max(block(pixels, MAX_BLOCK // max(bk, bc)), 16)
    if folded:
        return _tile(bp, bk, bc, splits=1)
    return _tile(bp, bk, bc, splits=max(cdiv(pixels, bp), 1), all_taps=True)


weight_grad_configs = Configs("_weight_grad_kernel", (*_TILES, *_NARROW_TILES, *_WIDE_TYPE), _choose, _interpreter)


def _direct(p: int, k: int, splits: int, all_taps: bool = False) -> Config:
    return Config({"BLOCK_P": p, "BLOCK_K": k, "SPLITS": splits, "ALL_TAPS": all_taps})


_DIRECT = tuple(_direct(64, 32, n) for n in _SPLITS)


def _choose_direct(pixels: int, k: int, steps: int) -> Config:
    most = min(cdiv(_PROGRAMS, steps * cdiv(k, 32)), cdiv(pixels, 256))
    return max((t for t in _DIRECT if t.blocks["SPLITS"] <= max(most, 1)), key=lambda t: t.blocks["SPLITS"])


def _interpreter_direct(pixels: int, k: int, steps: int) -> Config:
    bk = block(k, 1024)
    bp = block(pixels, MAX_BLOCK // bk)
    return _direct(bp, bk, splits=max(cdiv(pixels, bp), 1), all_taps=True)


weight_grad_direct_configs = Configs("_weight_grad_direct_kernel", _DIRECT, _choose_direct, _interpreter_direct)


def _folds_all(x: Buffer) -> bool:
    """True in the interpreter, for dtypes that numpy has: it multiplies them as they are."""
    return interpreting() and x.dtype != memory.bfloat16


def _workspace(out: Buffer, splits: int) -> tuple[Buffer, int]:
    """Where the partial sums go, and the distance between them: ``out`` itself for a single one."""
    if splits == 1:
        return out, 0
    shape, steps = (splits, *out.shape), (out.numel(), *out.stride())
    return memory.empty(shape, dtypes.accumulate_dtype(out.dtype), out.device, steps), out.numel()


def weight_grad(found: Geometry, grad: Buffer, x: Buffer, precision: str, dtype: memory.dtype | None = None) -> Buffer:
    """The sum at the head of this file, in K·R·S·C order.

    Args:
        grad: (N, K, P, Q), any strides.
        x: (N, C, H, W), any strides.
        dtype: of the result; default: that of ``x``.
    """
    out = strides.empty_channels_last(found.weight_shape, dtype or x.dtype, x.device)
    if out.numel() == 0:
        return out
    images, filters, p, q = found.out_shape
    (r, s), groups, start = found.kernel, found.groups, found.start
    k, c, pixels = filters // groups, found.weight_shape[1], images * p * q
    folded = is_folded(c, groups, r * s) or groups == 1 and r * s > 1 and _folds_all(x)
    read = found.bytes_read(x)
    if folded and pixels:
        x, start = with_border(x, (p, q), (r, s), found.stride, start, found.dilation)
    else:
        x = rows_of_channels(x, r * s)
    grad = rows_of_channels(grad, r * s)
    problem = [x, grad, pixels, c, x.shape[2], x.shape[3], k, p, q, r, s]
    window: list[Any] = [found.stride, start, found.dilation]
    constants: dict[str, Any] = {"ACC": dtypes.compute_dtype(x.dtype)}
    if is_direct(c, groups):
        steps = r * s * c
        config = weight_grad_direct_configs(x.dtype, pixels=pixels, k=filters, steps=steps)
        kernel, window = _weight_grad_direct_kernel, [*window, groups]
        programs = cdiv(filters, config.blocks["BLOCK_K"])
    else:
        taps, lanes = (1, r * s * c) if folded else (r * s, c)
        config = weight_grad_configs(
            x.dtype, pixels=pixels, k=k, c=lanes, steps=taps, groups=groups, folded=folded, itemsize=x.element_size()
        )
        steps = taps * cdiv(lanes, config.blocks["BLOCK_C"])
        kernel, constants = _weight_grad_kernel, {**constants, "FOLDED": folded, "PRECISION": precision}
        programs = cdiv(k, config.blocks["BLOCK_K"]) * groups
    splits = config.blocks["SPLITS"]
    target, split_stride = _workspace(out, splits)
    launch(
        kernel,
        (programs * splits * (1 if config.blocks["ALL_TAPS"] else steps),),
        target,
        *problem,
        split_stride,
        out.stride(),
        x.stride(),
        grad.stride(),
        *window,
        config=config,
        cost=Cost(found.flops, nbytes(target, grad) + read),
        device=x.device,
        INDEX=offset_dtype(target, x, grad),
        **constants,
    )
    return out if splits == 1 else sum_partials(target, out)
