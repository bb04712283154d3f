"""A convolution of few channels with a stride of 2, such as a 7×7 stem on an image of three, by boxes.

Folding each 2×2 cell of the padded image into channels, ``folded[n, i, j, (a, b, c)] = x[n, c, 2i + a − top,
2j + b − left]``, leaves a convolution with stride 1 and half the taps on 4·C ≤ 16 channels, padded to 16. Its four
column taps are 64 neighbouring values in memory: with windows that overlap, (n, i, j, 64) in steps of 16, they are one
tap of 64 channels, and the boxes of ``box_forward`` do the rest. Weights fold in the same way, as an image without
padding.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tinyflow.kernels import hardware, memory, strides
from tinyflow.kernels.conv2d.box_forward import box_conv2d_configs, chosen_config, convolve_boxes
from tinyflow.kernels.conv2d.boxes import add_product, box_place, box_tiles, boxed, image_boxes
from tinyflow.kernels.conv2d.geometry import Geometry, Pair
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer

#: Channels of a folded cell, and column taps of a window.
CELL, COLUMNS = 16, 4
WINDOW = CELL * COLUMNS

#: Dtypes of a folded image, and of the image that is folded.
HALF = (memory.float16, memory.bfloat16)
IMAGES = (memory.float32, *HALF)


@triton.jit
def _lane(x_ptr, at, rows, columns, x_strides, C: tl.constexpr, LANE: tl.constexpr, INDEX: tl.constexpr):
    """Lane (row, column, channel) of cells whose first pixels lie at ``at``; 0 beyond the last channel."""
    row: tl.constexpr = LANE // (2 * C)
    column: tl.constexpr = LANE // C % 2
    if LANE < 4 * C:
        step = tl.cast(x_strides[1], INDEX) * (LANE % C) + row * x_strides[2] + column * x_strides[3]
        values = tl.load(x_ptr + at + step, mask=rows[row] & columns[column], other=0)
    else:
        values = tl.zeros(at.shape, x_ptr.dtype.element_ty)
    return values


@triton.jit
def _four_lanes(x_ptr, at, rows, columns, x_strides, C: tl.constexpr, LANE: tl.constexpr, INDEX: tl.constexpr):
    """Lanes LANE, LANE + 4, LANE + 8 and LANE + 12, (cells, 2, 2)."""
    first = _lane(x_ptr, at, rows, columns, x_strides, C, LANE, INDEX)
    second = _lane(x_ptr, at, rows, columns, x_strides, C, LANE + 4, INDEX)
    third = _lane(x_ptr, at, rows, columns, x_strides, C, LANE + 8, INDEX)
    fourth = _lane(x_ptr, at, rows, columns, x_strides, C, LANE + 12, INDEX)
    return tl.join(tl.join(first, third), tl.join(second, fourth))


@triton.jit
def _fold_cells_kernel(
    out_ptr,  # out[n, i, j, CELL]
    x_ptr,  # x[n, c, h, w]
    cells,
    H,
    W,
    rows,
    columns,
    x_strides,
    top,
    left,
    C: tl.constexpr,
    CELL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    cell = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    n = cell // (rows * columns)
    h = cell // columns % rows * 2 - top
    w = cell % columns * 2 - left
    exists = cell < cells
    inside_rows = exists & (h >= 0) & (h < H), exists & (h >= -1) & (h < H - 1)
    inside_columns = (w >= 0) & (w < W), (w >= -1) & (w < W - 1)
    at = n * x_strides[0] + h * x_strides[2] + w * x_strides[3]
    # a lane's lowest bit is the last that is joined
    even = tl.join(
        _four_lanes(x_ptr, at, inside_rows, inside_columns, x_strides, C, 0, INDEX),
        _four_lanes(x_ptr, at, inside_rows, inside_columns, x_strides, C, 2, INDEX),
    )
    odd = tl.join(
        _four_lanes(x_ptr, at, inside_rows, inside_columns, x_strides, C, 1, INDEX),
        _four_lanes(x_ptr, at, inside_rows, inside_columns, x_strides, C, 3, INDEX),
    )
    values = tl.join(even, odd).reshape(BLOCK, CELL).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + (cell * CELL)[:, None] + tl.arange(0, CELL)[None, :], values, mask=exists[:, None])


@triton.jit
def add_windows(x, grad, acc, n, p, q, N, TENSOR_MEMORY: tl.constexpr, PIXELS: tl.constexpr, WINDOW: tl.constexpr):
    """``acc`` and the product of ``grad``, (k, pixels), with a box of windows."""
    windows = x.load([n, p, q, 0]).reshape(PIXELS, WINDOW)
    return add_product(grad, windows, acc, n < N, TENSOR_MEMORY)


@triton.jit
def _stem_weight_grad_kernel(
    partial_ptr,  # partial[program, k, tap row, window]
    x,  # boxes of windows[n, i, j, window]
    grad,  # boxes of grad[n, p, q, k]
    N,
    K,
    P,
    Q,
    ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    TENSOR_MEMORY: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    PIXELS: tl.constexpr = TN * TH * TW
    program = tl.program_id(0)
    k0 = tl.program_id(1) * BLOCK_K
    zero = tl.zeros((BLOCK_K, WINDOW), tl.float32)
    a0, a1, a2, a3 = zero, zero, zero, zero
    for tile in tl.range(program, box_tiles(N, P, Q, TN, TH, TW), tl.num_programs(0)):
        n, p, q = box_place(tile, P, Q, TN, TH, TW)
        g = grad.load([n, p, q, k0]).reshape(PIXELS, BLOCK_K).T
        a0 = add_windows(x, g, a0, n, p, q, N, TENSOR_MEMORY, PIXELS, WINDOW)
        a1 = add_windows(x, g, a1, n, p + 1, q, N, TENSOR_MEMORY, PIXELS, WINDOW)
        if ROWS > 2:
            a2 = add_windows(x, g, a2, n, p + 2, q, N, TENSOR_MEMORY, PIXELS, WINDOW)
        if ROWS > 3:
            a3 = add_windows(x, g, a3, n, p + 3, q, N, TENSOR_MEMORY, PIXELS, WINDOW)
    k = k0 + tl.arange(0, BLOCK_K)
    out = partial_ptr + ((program * K + k) * (ROWS * WINDOW))[:, None] + tl.arange(0, WINDOW)[None, :]
    tl.store(out, a0, mask=(k < K)[:, None])
    tl.store(out + WINDOW, a1, mask=(k < K)[:, None])
    if ROWS > 2:
        tl.store(out + 2 * WINDOW, a2, mask=(k < K)[:, None])
    if ROWS > 3:
        tl.store(out + 3 * WINDOW, a3, mask=(k < K)[:, None])


@triton.jit
def _unfold_sum_kernel(
    out_ptr,  # out[k, (r, s), c]
    partial_ptr,  # partial[program, k, tap row, tap column, (a, b, c)]
    programs,
    size,
    C,
    R,
    S,
    partial_step,
    ROWS: tl.constexpr,
    CELL: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = i % C
    s = i // C % S
    r = i // (C * S) % R
    k = i // (C * S * R)
    lane = (r % 2 * 2 + s % 2) * C + c
    at = ((k * ROWS + r // 2) * COLUMNS + s // 2) * CELL + lane
    part = tl.arange(0, PARTS)
    acc = tl.zeros((PARTS, BLOCK), tl.float32)
    for first in tl.range(0, programs, PARTS):
        mask = (first + part < programs)[:, None] & (i < size)[None, :]
        parts = partial_ptr + ((first + part).to(tl.int64) * partial_step)[:, None]
        acc += tl.load(parts + at[None, :], mask=mask, other=0)
    tl.store(out_ptr + i, tl.sum(acc, axis=0).to(out_ptr.dtype.element_ty), mask=i < size)


#: A tile has no more than four steps, so that only other programs of the multiprocessor fill the time between two tiles.
_FORWARD = boxed((4, 8, 8), 64, 64, warps=8, stages=2)


def _choose_forward(**problem: Any) -> Config:
    return box_conv2d_configs.choose(**problem) if problem["tensor_memory"] else _FORWARD


stem_conv2d_configs = Configs(
    "_box_conv2d_kernel on windows", (_FORWARD,), _choose_forward, box_conv2d_configs.interpreter
)

_FOLD = Config({"BLOCK": 256}, num_warps=4)
fold_cells_configs = Configs(
    "_fold_cells_kernel",
    (_FOLD,),
    lambda cells: _FOLD,
    lambda cells: Config({"BLOCK": block(cells, MAX_BLOCK // CELL)}),
)

_UNFOLD = Config({"PARTS": 32, "BLOCK": 64}, num_warps=4)
unfold_sum_configs = Configs(
    "_unfold_sum_kernel", (_UNFOLD,), lambda size: _UNFOLD, lambda size: Config({"PARTS": 4, "BLOCK": block(size)})
)


def _stem_tile(box: tuple[int, int, int], k: int, warps: int, stages: int) -> Config:
    return Config({"TN": box[0], "TH": box[1], "TW": box[2], "BLOCK_K": k}, num_warps=warps, num_stages=stages)


_STEM = _stem_tile((2, 8, 8), 64, warps=8, stages=2)


def _interpreter_stem(images: int, height: int, width: int) -> Config:
    rows, columns = block(height, 64), block(width, 64)
    return _stem_tile(
        (max(block(images, max(4096 // (rows * columns), 1)), cdiv(16, rows * columns)), rows, columns), 64, 4, 2
    )


stem_weight_grad_configs = Configs(
    "_stem_weight_grad_kernel", (_STEM,), lambda images, height, width: _STEM, _interpreter_stem
)


def is_stem(found: Geometry) -> bool:
    """Whether cells hold the channels and windows the columns of a convolution with a stride of 2."""
    (r, s), channels = found.kernel, found.weight_shape[1]
    return found.stride == (2, 2) and 4 * channels <= CELL and 3 <= r <= 8 and s <= 2 * COLUMNS


def tap_rows(found: Geometry) -> int:
    """Rows of cells that a window covers."""
    return cdiv(found.kernel[0], 2)


def _fold(x: Buffer, start: Pair, rows: int, columns: int, dtype: memory.dtype) -> Buffer:
    n, c, h, w = x.shape
    out = memory.empty((n, rows, columns, CELL), dtype, x.device)
    cells = n * rows * columns
    config = fold_cells_configs(x.dtype, cells=cells)
    launch(
        _fold_cells_kernel,
        (cdiv(cells, config.blocks["BLOCK"]),),
        out,
        x,
        cells,
        h,
        w,
        rows,
        columns,
        x.stride(),
        -start[0],
        -start[1],
        config=config,
        cost=Cost(0, nbytes(out, x)),
        device=x.device,
        C=c,
        CELL=CELL,
        INDEX=offset_dtype(out, x),
    )
    return out


def fold_image(found: Geometry, x: Buffer, dtype: memory.dtype | None = None) -> Buffer:
    """The cells that windows of a stem read, padding included: what its forward pass and its weight gradient take.

    Args:
        found: sizes of which :func:`is_stem` holds.
        x: (N, C, H, W), any strides, float32, float16 or bfloat16.
        dtype: the result's, float16 or bfloat16, to which values are rounded as a cast does; default: x's.

    Returns (N, P + ⌈R / 2⌉ − 1, Q + 3, 16), contiguous, with zeros for the padding. FLOPs: 0. Bytes: both once.

    Raises:
        TypeError: on other dtypes.
    """
    dtype = x.dtype if dtype is None else dtype
    if dtype not in HALF or x.dtype not in IMAGES:
        taken = "an image of float32, float16 or bfloat16, and float16 or bfloat16 to fold it to"
        raise TypeError(f"fold_image: expected {taken}, got {x.dtype} and {dtype}")
    rows, columns = found.out_shape[2] + tap_rows(found) - 1, found.out_shape[3] + COLUMNS - 1
    return _fold(x, found.start, rows, columns, dtype)


def window_boxes(folded: Buffer, config: Config) -> TensorDescriptor:
    """Boxes of overlapping windows: four neighbouring cells are the channels of the first."""
    n, rows, columns, _ = folded.shape
    shape = [n, rows, columns - COLUMNS + 1, WINDOW]
    tile = [config.blocks["TN"], config.blocks["TH"], config.blocks["TW"], WINDOW]
    return TensorDescriptor(folded, shape, [rows * columns * CELL, columns * CELL, CELL, 1], tile)


def stem_conv2d(
    found: Geometry,
    folded: Buffer,
    weight: Buffer,
    bias: Buffer | None = None,
    relu: bool = False,
    statistics: bool = False,
) -> tuple[Buffer, Buffer | None]:
    """A stem's convolution, with the epilogues of :func:`box_forward.box_conv2d`.

    Args:
        found: sizes of which :func:`is_stem` holds.
        folded: the image from :func:`fold_image`.
        weight: (K, C, R, S), any strides, of folded's dtype.
        bias: (K,), contiguous.

    Returns y (N, K, P, Q), channels-last, and the rows of statistics or None. FLOPs: 2·N·K·P·Q·C·R·S counted, 16·16 /
    (C·R·S) times as many done. Bytes: folded, weight, bias and y once.
    """
    y = strides.empty_channels_last(found.out_shape, folded.dtype, folded.device)
    n, q = found.out_shape[0], found.out_shape[3]
    rows = convolve_boxes(
        chosen_config(stem_conv2d_configs, y, WINDOW, 1),
        y,
        (n, WINDOW, folded.shape[1], q),
        lambda config: window_boxes(folded, config),
        _fold(weight, (0, 0), tap_rows(found), COLUMNS, weight.dtype),
        (tap_rows(found), 1),
        bias,
        None,
        stride=1,
        start=(0, 0),
        relu=relu,
        statistics=statistics,
        cost=Cost(found.flops, nbytes(folded, weight, bias, y)),
    )
    return y, rows


def stem_conv2d_weight_grad(found: Geometry, grad: Buffer, folded: Buffer, dtype: memory.dtype | None = None) -> Buffer:
    """The weight gradient of a stem: all taps in one program, partial sums added in a fixed order.

    Args:
        found: sizes of which :func:`is_stem` holds.
        grad: (N, K, P, Q) in channels-last memory, of folded's dtype.
        folded: the image from :func:`fold_image`.
        dtype: of the result; default: that of ``grad``.

    Returns (K, C, R, S) in K·R·S·C order, accumulated in float32 and rounded once. FLOPs: 2·N·K·P·Q·C·R·S counted.
    Bytes: both operands and the result once, partial sums written and read besides.
    """
    n, k, p, q = found.out_shape
    config = stem_weight_grad_configs(grad.dtype, images=n, height=p, width=q)
    tn, th, tw, bk = (config.blocks[name] for name in ("TN", "TH", "TW", "BLOCK_K"))
    programs = min(cdiv(n, tn) * cdiv(p, th) * cdiv(q, tw), hardware.multiprocessors(grad.device))
    taps = tap_rows(found)
    partial = memory.empty((programs, k, taps, WINDOW), memory.float32, grad.device)
    launch(
        _stem_weight_grad_kernel,
        (programs, cdiv(k, bk)),
        partial,
        window_boxes(folded, config),
        image_boxes(grad, config, "BLOCK_K"),
        n,
        k,
        p,
        q,
        config=config,
        cost=Cost(found.flops, nbytes(folded, grad, partial)),
        device=grad.device,
        ROWS=taps,
        WINDOW=WINDOW,
        TENSOR_MEMORY=hardware.tensor_memory(grad.device),
    )
    return unfold_sum(found, partial, dtype or grad.dtype)


def unfold_sum(found: Geometry, partial: Buffer, dtype: memory.dtype) -> Buffer:
    """The weight gradient (K, C, R, S) from partial sums (programs, K, rows of cells, window), added in order."""
    programs, k, taps, _ = partial.shape
    out = strides.empty_channels_last(found.weight_shape, dtype, partial.device)
    config = unfold_sum_configs(dtype, size=out.numel())
    launch(
        _unfold_sum_kernel,
        (cdiv(out.numel(), config.blocks["BLOCK"]),),
        out,
        partial,
        programs,
        out.numel(),
        out.shape[1],
        *found.kernel,
        k * taps * WINDOW,
        config=config,
        cost=Cost(programs * out.numel(), nbytes(out, partial)),
        device=partial.device,
        ROWS=taps,
        CELL=CELL,
        COLUMNS=COLUMNS,
    )
    return out
