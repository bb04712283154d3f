"""Convolution by boxes (see ``boxes``), with what follows it done on the tile in hand.

``y[k, pixel] = Σ_{r, s, c} weight[k, (r, s, c)] · x[pixel moved by (r, s), c]``, then one of

- bias, residual and ReLU, for inference; a shortcut's 1×1 convolution of another map may be added, whose products join
  the same sum, so that its result is never written;
- each channel's mean and sum of squared deviations of the *rounded* result, for batch normalisation: a program merges
  its tiles one by one (Chan, Golub & LeVeque 1983), so that a large mean costs no precision, and leaves one row.

Programs are persistent: each keeps one tile of output channels and walks over boxes of pixels. Taps that lie outside the
image for the whole box are left out; for a 7×7 map in boxes of one position that is every wasted product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tinyflow.kernels import hardware, memory, strides
from tinyflow.kernels.conv2d.boxes import (
    box_place,
    box_tiles,
    boxed,
    image_boxes,
    load_box,
    quickest,
    step_place,
    streams,
    tile_of,
    weight_tiles,
    whole_boxes,
    whole_channels,
)
from tinyflow.kernels.conv2d.geometry import Geometry, Pair
from tinyflow.kernels.conv2d.row_forward import ROW_CONFIGS, row_conv2d
from tinyflow.kernels.conv2d.rows import row_steps, rows_suit, walks_rows
from tinyflow.kernels.conv2d.statistics import merge_tile
from tinyflow.kernels.launch import Config, Configs, Cost, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.strides import Shape


@triton.jit
def _box_conv2d_kernel(
    y,  # boxes of y[n, p, q, k]
    x,  # boxes of x[n, h, w, c]
    weight,  # tiles of weight[k, (r, s, c)]
    bias_ptr,  # bias[k]
    residual,  # boxes of residual[n, p, q, k]
    short_x,  # boxes of short_x[n, h, w, c], for the shortcut
    short_weight,  # tiles of short_weight[k, c]
    short_bias_ptr,  # short_bias[k]
    statistics_ptr,  # statistics[stream, (count, mean, squares), k]
    N,
    C,
    H,
    W,
    K,
    P,
    Q,
    top,
    left,
    short_channels,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE: tl.constexpr,
    SHORT_STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    WHOLE: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    PIXELS: tl.constexpr = TN * TH * TW
    tiles_k = tl.cdiv(K, BLOCK_K)
    tiles_c = tl.cdiv(C, BLOCK_C)
    stream = tl.program_id(0) // tiles_k
    k0 = tl.program_id(0) % tiles_k * BLOCK_K
    k = k0 + tl.arange(0, BLOCK_K)
    if statistics_ptr is not None:
        count = tl.cast(0.0, tl.float32)
        mean = tl.zeros((BLOCK_K,), tl.float32)
        squares = tl.zeros((BLOCK_K,), tl.float32)
    for tile in tl.range(stream, box_tiles(N, P, Q, TN, TH, TW), tl.num_programs(0) // tiles_k):
        n, p, q = box_place(tile, P, Q, TN, TH, TW)
        h = p * STRIDE - top
        w = q * STRIDE - left
        first_r = tl.maximum(-h - (TH - 1) * STRIDE, 0)
        first_s = tl.maximum(-w - (TW - 1) * STRIDE, 0)
        rows = tl.maximum(tl.minimum(H - h, R) - first_r, 0)
        columns = tl.maximum(tl.minimum(W - w, S) - first_s, 0)
        acc = tl.zeros((BLOCK_K, PIXELS), tl.float32)
        for step in tl.range(rows * columns * tiles_c):
            down, right, c = step_place(step, columns, tiles_c, BLOCK_C)
            r = first_r + down
            s = first_s + right
            pixels = load_box(x, n, h + r, w + s, c, C, PIXELS, BLOCK_C, STRIDE)
            acc = tl.dot(weight.load([k0, (r * S + s) * C + c]), pixels.T, acc, input_precision="ieee")
        if short_x is not None:
            row = p * SHORT_STRIDE
            column = q * SHORT_STRIDE
            for first in tl.range(0, short_channels, BLOCK_C):
                pixels = load_box(short_x, n, row, column, first, short_channels, PIXELS, BLOCK_C, SHORT_STRIDE)
                acc = tl.dot(short_weight.load([k0, first]), pixels.T, acc, input_precision="ieee")
        if bias_ptr is not None:
            acc += tl.load(bias_ptr + k, mask=k < K, other=0).to(tl.float32)[:, None]
        if short_bias_ptr is not None:
            acc += tl.load(short_bias_ptr + k, mask=k < K, other=0).to(tl.float32)[:, None]
        if residual is not None:
            acc += residual.load([n, p, q, k0]).reshape(PIXELS, BLOCK_K).T.to(tl.float32)
        if RELU:
            acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
        out = acc.to(y.dtype)
        y.store([n, p, q, k0], out.T.reshape(TN, TH, TW, BLOCK_K))
        if statistics_ptr is not None:
            count, mean, squares = merge_tile(count, mean, squares, out, n, p, q, N, P, Q, TN, TH, TW, WHOLE)
    if statistics_ptr is not None:
        out_ptr = statistics_ptr + stream * 3 * K + k
        tl.store(out_ptr, tl.zeros((BLOCK_K,), tl.float32) + count, mask=k < K)
        tl.store(out_ptr + K, mean, mask=k < K)
        tl.store(out_ptr + 2 * K, squares, mask=k < K)


_SHIPPED = (
    boxed((16, 4, 4), 128, 64, warps=8, stages=3),
    boxed((8, 4, 4), 128, 64, warps=8, stages=4),
    boxed((64, 2, 2), 128, 64, warps=8, stages=3),
    boxed((32, 2, 2), 128, 64, warps=8, stages=4),
    boxed((8, 8, 8), 64, 64, warps=8, stages=2),
    boxed((4, 8, 8), 64, 64, warps=8, stages=4),
    boxed((2, 8, 8), 64, 64, warps=4, stages=4),
    boxed((256, 1, 1), 128, 64, warps=8, stages=3),
    boxed((128, 1, 1), 256, 64, warps=8, stages=3),
    boxed((128, 1, 1), 128, 64, warps=8, stages=4),
    boxed((1, 1, 128), 128, 64, warps=8, stages=4),
    boxed((1, 1, 128), 64, 64, warps=4, stages=4),
)


#: Of 128 pixels where sums are in tensor memory: an epilogue has a whole tile in registers at once, and 256 pixels spill.
#: Four warps hold its 128 lanes, one channel each. Of eight, two share a channel, and where its pixels are summed and the
#: tile is stored as well, Triton 3.6 to 3.9 go back and forth between two layouts and give up.
_BLACKWELL = (
    boxed((2, 8, 8), 64, 64, warps=4, stages=4),
    *(boxed(box, 128, 64, warps=4, stages=4) for box in ((8, 4, 4), (32, 2, 2), (128, 1, 1), (1, 1, 128))),
    boxed((1, 1, 128), 64, 64, warps=4, stages=4),
)


@functools.lru_cache(maxsize=4096)
def _choose(
    images: int,
    height: int,
    width: int,
    k: int,
    c: int,
    taps: Pair,
    stride: int,
    whole: int,
    multiprocessors: int,
    tensor_memory: bool,
) -> Config:
    ships = _BLACKWELL if tensor_memory else _SHIPPED
    fits = [config for config in ships if stride == 1 or whole % config.blocks["BLOCK_C"] == 0]
    return quickest(fits, "BLOCK_K", images, height, width, k, c, taps, stride, multiprocessors)


def _interpreter(images: int, height: int, width: int, k: int, c: int, stride: int, whole: int, **_: int) -> Config:
    return whole_boxes(images, height, width, k, c if stride == 1 else whole)


_INSTEAD = {hardware.TENSOR_MEMORY: _BLACKWELL}
box_conv2d_configs = Configs("_box_conv2d_kernel", _SHIPPED, _choose, _interpreter, _INSTEAD)

#: Of rows: how many pixels more than there are a strip may have, and the fewest steps of a program beside the three that it
#: does twice or for nothing.
_MOST_WASTE, _FEWEST_STEPS = 1.25, 16


def _choose_narrow(images: int, height: int, width: int, **problem: Any) -> Config:
    """Rows, whose three fetches of a pixel L2 delivers in a third of the time of nine, on maps that fill them."""
    rows = ROW_CONFIGS[0]
    tn, tw = rows.blocks["TN"], rows.blocks["TW"]
    waste = cdiv(images, tn) * tn * cdiv(width, tw) * tw / (images * width)
    steps = row_steps(rows, images, height, width)
    # two programs a multiprocessor, each with half of its warps waiting for products while the other's are at work
    few = steps < _FEWEST_STEPS * 2 * problem["multiprocessors"]
    if problem["tensor_memory"] or waste > _MOST_WASTE or few:
        return _choose(images=images, height=height, width=width, **problem)
    return rows


#: Where rows do as well, ``rows_suit``.
narrow_conv2d_configs = Configs("_row_conv2d_kernel", (*ROW_CONFIGS, *_SHIPPED), _choose_narrow, _interpreter, _INSTEAD)


class Shortcut(NamedTuple):
    """A 1×1 convolution without padding that is added: its sizes, and what it takes, as :func:`box_conv2d` does."""

    found: Geometry
    x: Buffer
    weight: Buffer
    bias: Buffer | None


def box_conv2d(
    found: Geometry,
    x: Buffer,
    weight: Buffer,
    bias: Buffer | None = None,
    residual: Buffer | None = None,
    relu: bool = False,
    statistics: bool = False,
    shortcut: Shortcut | None = None,
) -> tuple[Buffer, Buffer | None]:
    """A convolution by boxes, or by rows on maps that fill them, for the sizes that ``dispatch`` admits.

    Without statistics ``y = conv2d(x, weight) + bias + residual + shortcut``, then ReLU; with them bias, residual and
    shortcut are None, ``relu`` False.

    Args:
        found: the checked sizes; stride (1, 1) or (2, 2), dilation and groups 1.
        x: (N, C, H, W) in channels-last memory, float16 or bfloat16.
        weight: (K, C, R, S) in K·R·S·C order, of x's dtype.
        bias: (K,), contiguous.
        residual: (N, K, P, Q) in channels-last memory, of x's dtype.
        statistics: whether to return the rows that ``statistics.merge_statistics`` takes.
        shortcut: another map's 1×1 convolution to (N, K, P, Q), its sum rounded with this one's.

    Returns y (N, K, P, Q), channels-last, accumulated in float32 and rounded once, and the rows (streams, 3, K) or None:
    for each persistent program and channel the count, mean and sum of squared deviations of what it wrote, in float32.

    FLOPs: 2·N·K·P·Q·C·R·S. Bytes: every operand read and every result written once.
    """
    y = strides.empty_channels_last(found.out_shape, x.dtype, x.device)
    cost = Cost(found.flops, nbytes(weight, bias, residual, y) + found.bytes_read(x))
    if shortcut is not None:
        read = nbytes(shortcut.weight, shortcut.bias) + shortcut.found.bytes_read(shortcut.x)
        cost += Cost(shortcut.found.flops, read)
    target = y
    if _is_pointwise(found) and (shortcut is None or _is_pointwise(shortcut.found)):
        found, x, target = found.flattened(), in_a_row(x), in_a_row(y)
        residual = None if residual is None else in_a_row(residual)
        if shortcut is not None:
            shortcut = shortcut._replace(x=in_a_row(shortcut.x))
    configs = narrow_conv2d_configs if rows_suit(found) and shortcut is None else box_conv2d_configs
    config = chosen_config(configs, target, found.x_shape[1], found.stride[0], shortcut, found.kernel)
    if walks_rows(config):
        return y, row_conv2d(config, y, x, weight, bias, residual, relu, statistics, cost)
    rows = convolve_boxes(
        config,
        target,
        found.x_shape,
        lambda config: image_boxes(x, config, "BLOCK_C", found.stride[0]),
        weight,
        found.kernel,
        bias,
        residual,
        stride=found.stride[0],
        start=found.start,
        relu=relu,
        statistics=statistics,
        shortcut=shortcut,
        cost=cost,
    )
    return y, rows


def _is_pointwise(found: Geometry) -> bool:
    return found.kernel == found.stride == (1, 1) and found.padding == ((0, 0), (0, 0))


def chosen_config(
    configs: Configs, y: Buffer, c: int, stride: int, shortcut: Shortcut | None = None, taps: Pair = (1, 1)
) -> Config:
    """The configuration for a result ``y`` (N, K, P, Q) of ``c`` channels."""
    images, k, p, q = y.shape
    short_stride = 1 if shortcut is None else shortcut.found.stride[0]
    # tiles of channels end with the last one where rows and columns are strided
    strided = [c] * (stride == 2) + ([shortcut.x.shape[1]] if shortcut is not None and short_stride == 2 else [])
    return configs(
        y.dtype,
        images=images,
        height=p,
        width=q,
        k=k,
        c=c,
        taps=taps,
        stride=max(stride, short_stride),
        whole=min(map(whole_channels, strided or [c])),
        multiprocessors=hardware.multiprocessors(y.device),
        tensor_memory=hardware.tensor_memory(y.device),
    )


def convolve_boxes(
    config: Config,
    y: Buffer,
    x_shape: Shape,
    x_boxes: Callable[[Config], TensorDescriptor],
    weight: Buffer,
    taps: Pair,
    bias: Buffer | None,
    residual: Buffer | None,
    *,
    stride: int,
    start: Pair,
    relu: bool,
    statistics: bool,
    shortcut: Shortcut | None = None,
    cost: Cost,
) -> Buffer | None:
    """Fills ``y``; the rows of statistics, if asked for.

    Args:
        config: from :func:`chosen_config`.
        y: (N, K, P, Q) in channels-last memory.
        x_shape: (N, C, H, W).
        x_boxes: makes the boxes of x for a configuration.
        weight: K rows of ``taps`` times C values in dense memory.
        start: the input row and column of the first tap at the first output pixel.
    """
    images, k, p, q = y.shape
    _, c, h, w = x_shape
    tile = tile_of(config, "BLOCK_K")
    programs = streams(config, "BLOCK_K", k, tile.count(images, p, q), y.device)
    rows = memory.empty((programs, 3, k), memory.float32, y.device) if statistics else None
    launch(
        _box_conv2d_kernel,
        (programs * cdiv(k, tile.channels),),
        image_boxes(y, config, "BLOCK_K"),
        x_boxes(config),
        weight_tiles(weight, config),
        bias,
        None if residual is None else image_boxes(residual, config, "BLOCK_K"),
        *_shortcut_operands(shortcut, config),
        rows,
        images,
        c,
        h,
        w,
        k,
        p,
        q,
        -start[0],
        -start[1],
        0 if shortcut is None else shortcut.x.shape[1],
        config=config,
        cost=cost + Cost(0, nbytes(rows)),
        device=y.device,
        R=taps[0],
        S=taps[1],
        STRIDE=stride,
        SHORT_STRIDE=1 if shortcut is None else shortcut.found.stride[0],
        RELU=relu,
        WHOLE=images % tile.images == p % tile.rows == q % tile.columns == 0,
    )
    return rows


def _shortcut_operands(shortcut: Shortcut | None, config: Config) -> tuple[object, ...]:
    if shortcut is None:
        return None, None, None
    x = image_boxes(shortcut.x, config, "BLOCK_C", shortcut.found.stride[0])
    return x, weight_tiles(shortcut.weight, config), shortcut.bias


def in_a_row(x: Buffer) -> Buffer:
    """The pixels of all images as one row of one image, which boxes of a row cover whatever the sizes."""
    n, c, h, w = x.shape
    return memory.as_strided(x, (1, c, 1, n * h * w), (n * h * w * c, 1, n * h * w * c, c))
