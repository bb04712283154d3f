"""The input gradient of a convolution by boxes (see ``boxes``), with the backward pass of what lies below on the tile.

``x_grad[c, pixel] = Σ_{r, s, k} weight[k, (r, s, c)] · grad[pixel moved back by (r, s), k]``: the forward weights, read
transposed. A stride of 2 splits rows and columns into phases, each reached by its own taps; all phases share a launch,
those with the most taps first, and one that no tap reaches is zero.

The epilogue is the backward pass of ``x = ReLU(batch_norm(y) + …)``: another gradient of x added, the ReLU's mask read
from x, and each channel's sums of the *rounded* result g and of ``g · (y − mean)``, from which batch normalisation's
gradient follows. Programs are persistent and leave one row of sums each.
"""

from __future__ import annotations

import functools

import triton
import triton.language as tl

from tinyflow.kernels import hardware, memory, strides
from tinyflow.kernels.conv2d.box_forward import in_a_row
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
from tinyflow.kernels.conv2d.row_input_grad import ROW_INPUT_GRAD_CONFIGS, row_conv2d_input_grad
from tinyflow.kernels.conv2d.rows import rows_suit, walks_rows
from tinyflow.kernels.launch import Config, Configs, Cost, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def taps_of_phase(i, phase, padding, size, TAPS: tl.constexpr, STRIDE: tl.constexpr, TILE: tl.constexpr):
    """Along one axis, of input positions ``STRIDE · (i, …, i + TILE − 1) + phase``: the taps that meet an output there.

    Returns the first such tap, how many follow in steps of STRIDE, and the output position of the first at ``i``; it
    falls by one with each tap.
    """
    least = (phase + padding) % STRIDE
    at = i + (phase + padding - least) // STRIDE
    skipped = tl.maximum(at - size + 1, 0)
    taps = tl.minimum((TAPS - least + STRIDE - 1) // STRIDE, at + TILE)
    return least + skipped * STRIDE, tl.maximum(taps - skipped, 0), at - skipped


@triton.jit
def _box_conv2d_input_grad_kernel(
    x_grad,  # boxes of x_grad[n, h, w, c]
    grad,  # boxes of grad[n, p, q, k]
    weight,  # tiles of weight[k, (r, s, c)]
    residual,  # boxes of residual[n, h, w, c]
    x,  # boxes of x[n, h, w, c]
    y,  # boxes of y[n, h, w, c]
    mean_ptr,  # mean[c]
    sums_ptr,  # sums[stream, (g, g · (y − mean)), c]
    N,
    C,
    H,
    W,
    K,
    P,
    Q,
    top,
    left,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    PIXELS: tl.constexpr = TN * TH * TW
    tiles_c = tl.cdiv(C, BLOCK_C)
    tiles_k = tl.cdiv(K, BLOCK_K)
    stream = tl.program_id(0) // tiles_c
    c0 = tl.program_id(0) % tiles_c * BLOCK_C
    c = c0 + tl.arange(0, BLOCK_C)
    tiles = box_tiles(N, H // STRIDE, W // STRIDE, TN, TH, TW)
    if sums_ptr is not None:
        total = tl.zeros((BLOCK_C,), tl.float32)
        product = tl.zeros((BLOCK_C,), tl.float32)
    for tile in tl.range(stream, tiles * STRIDE * STRIDE, tl.num_programs(0) // tiles_c):
        phase = STRIDE * STRIDE - 1 - tile // tiles
        n, i, j = box_place(tile % tiles, H // STRIDE, W // STRIDE, TN, TH, TW)
        h = i * STRIDE + phase // STRIDE
        w = j * STRIDE + phase % STRIDE
        first_r, rows, p = taps_of_phase(i, phase // STRIDE, top, P, R, STRIDE, TH)
        first_s, columns, q = taps_of_phase(j, phase % STRIDE, left, Q, S, STRIDE, TW)
        acc = tl.zeros((BLOCK_C, PIXELS), tl.float32)
        for step in tl.range(rows * columns * tiles_k):
            down, right, k = step_place(step, columns, tiles_k, BLOCK_K)
            r = first_r + down * STRIDE
            s = first_s + right * STRIDE
            pixels = grad.load([n, p - down, q - right, k]).reshape(PIXELS, BLOCK_K)
            acc = tl.dot(weight.load([k, (r * S + s) * C + c0]).T, pixels.T, acc, input_precision="ieee")
        if residual is not None:
            acc += load_box(residual, n, h, w, c0, C, PIXELS, BLOCK_C, STRIDE).T.to(tl.float32)
        if x is not None:
            acc = tl.where(load_box(x, n, h, w, c0, C, PIXELS, BLOCK_C, STRIDE).T.to(tl.float32) > 0, acc, 0.0)
        g = acc.to(x_grad.dtype)
        if STRIDE == 1:
            x_grad.store([n, h, w, c0], g.T.reshape(TN, TH, TW, BLOCK_C))
        else:
            at = [n, h >> 1, h & 1, w >> 1, (w & 1) * C + c0]
            x_grad.store(at, g.T.reshape(TN, TH, 1, TW, BLOCK_C))
        if sums_ptr is not None:
            g = g.to(tl.float32)  # zero outside the images, as x is there
            mean = tl.load(mean_ptr + c, mask=c < C, other=0)
            deviation = load_box(y, n, h, w, c0, C, PIXELS, BLOCK_C, STRIDE).T.to(tl.float32) - mean[:, None]
            total += tl.sum(g, axis=1)
            product += tl.sum(g * deviation, axis=1)
    if sums_ptr is not None:
        row = sums_ptr + stream * 2 * C + c
        tl.store(row, total, mask=c < C)
        tl.store(row + C, product, mask=c < C)


_SHIPPED = (
    boxed((16, 4, 4), 64, 128, warps=8, stages=3),
    boxed((8, 4, 4), 64, 128, warps=8, stages=3),
    boxed((64, 2, 2), 64, 128, warps=8, stages=3),
    boxed((32, 2, 2), 64, 128, warps=8, stages=3),
    boxed((8, 8, 8), 64, 64, warps=8, stages=2),
    boxed((4, 8, 8), 64, 64, warps=8, stages=3),
    boxed((2, 8, 8), 64, 64, warps=4, stages=4),
    boxed((256, 1, 1), 64, 128, warps=8, stages=3),
    boxed((128, 1, 1), 64, 256, warps=8, stages=3),
    boxed((128, 1, 1), 64, 128, warps=8, stages=3),
    boxed((1, 1, 256), 64, 128, warps=8, stages=3),
    boxed((1, 1, 128), 64, 128, warps=8, stages=3),
    boxed((1, 1, 128), 64, 64, warps=4, stages=4),
)


#: Of 128 pixels where sums are in tensor memory: an epilogue has a whole tile in registers at once, and 256 pixels spill.
_BLACKWELL = (
    boxed((2, 8, 8), 64, 64, warps=4, stages=4),
    *(boxed(box, 64, 128, warps=8, stages=3) for box in ((8, 4, 4), (32, 2, 2), (128, 1, 1), (1, 1, 128))),
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
    phases = stride * stride
    return quickest(fits, "BLOCK_C", images, height, width, c, k, taps, stride, multiprocessors, phases)


def _interpreter(images: int, height: int, width: int, k: int, c: int, stride: int, whole: int, **_: int) -> Config:
    return whole_boxes(images, height, width, k, c if stride == 1 else whole)


_INSTEAD = {hardware.TENSOR_MEMORY: _BLACKWELL}
box_conv2d_input_grad_configs = Configs("_box_conv2d_input_grad_kernel", _SHIPPED, _choose, _interpreter, _INSTEAD)

#: Where rows would do as well, ``rows_suit``. Boxes are chosen; a measured table may say rows.
narrow_conv2d_input_grad_configs = Configs(
    "_row_conv2d_input_grad_kernel", (*ROW_INPUT_GRAD_CONFIGS, *_SHIPPED), _choose, _interpreter, _INSTEAD
)


def box_conv2d_input_grad(
    found: Geometry,
    grad: Buffer,
    weight: Buffer,
    residual: Buffer | None = None,
    x: Buffer | None = None,
    y: Buffer | None = None,
    mean: Buffer | None = None,
) -> tuple[Buffer, Buffer | None]:
    """The input gradient of a convolution by boxes, or by rows as in ``box_forward``, for sizes that ``dispatch`` admits.

    ``g = conv2d_input_grad(grad, weight) + residual``, zero where x ≤ 0. With ``y`` and ``mean`` also the sums of g and
    of ``g · (y − mean)`` over the pixels, for each persistent program and channel; ``matmul.sum_partials`` adds the rows
    in a fixed order.

    Args:
        found: the checked sizes; stride (1, 1) or (2, 2), dilation and groups 1.
        grad: (N, K, P, Q) in channels-last memory, float16 or bfloat16.
        weight: (K, C, R, S) in K·R·S·C order, of grad's dtype.
        residual: (N, C, H, W), another gradient of the convolution's input.
        x: (N, C, H, W), the convolution's input where a ReLU made it.
        y: (N, C, H, W), what went into the batch normalisation below that ReLU; needs ``x`` and ``mean``.
        mean: (C,), float32, the batch's mean of y.

    All in channels-last memory and of grad's dtype, ``mean`` apart. Returns g (N, C, H, W), channels-last, accumulated in
    float32 and rounded once, and the rows of sums (streams, 2, C) in float32, or None.

    FLOPs: 2·N·K·P·Q·C·R·S. Bytes: every operand read and every result written once.
    """
    g = strides.empty_channels_last(found.x_shape, grad.dtype, grad.device)
    cost = Cost(found.flops, nbytes(grad, weight, residual, x, y, g))
    target, stride = g, found.stride[0]
    if found.kernel == found.stride == (1, 1) and found.padding == ((0, 0), (0, 0)):
        found, grad, target = found.flattened(), in_a_row(grad), in_a_row(g)
        residual, x, y = (None if other is None else in_a_row(other) for other in (residual, x, y))
    images, c, h, w = found.x_shape
    k, p, q = grad.shape[1:]
    phase = h // stride, w // stride
    configs = narrow_conv2d_input_grad_configs if rows_suit(found) else box_conv2d_input_grad_configs
    config = configs(
        grad.dtype,
        images=images,
        height=phase[0],
        width=phase[1],
        k=k,
        c=c,
        taps=found.kernel,
        stride=stride,
        whole=whole_channels(c),
        multiprocessors=hardware.multiprocessors(grad.device),
        tensor_memory=hardware.tensor_memory(grad.device),
    )
    if walks_rows(config):
        return g, row_conv2d_input_grad(config, g, grad, weight, residual, x, y, mean, cost)
    tile = tile_of(config, "BLOCK_C")
    programs = streams(config, "BLOCK_C", c, tile.count(images, *phase) * stride * stride, grad.device)
    sums = None if y is None else memory.empty((programs, 2, c), memory.float32, grad.device)
    below = [None if other is None else image_boxes(other, config, "BLOCK_C", stride) for other in (residual, x, y)]
    launch(
        _box_conv2d_input_grad_kernel,
        (programs * cdiv(c, tile.channels),),
        image_boxes(target, config, "BLOCK_C", stride),
        image_boxes(grad, config, "BLOCK_K"),
        weight_tiles(weight, config),
        *below,
        mean,
        sums,
        images,
        c,
        h,
        w,
        k,
        p,
        q,
        found.padding[0][0],
        found.padding[1][0],
        config=config,
        cost=cost + Cost(0, nbytes(mean, sums)),
        device=grad.device,
        R=found.kernel[0],
        S=found.kernel[1],
        STRIDE=stride,
    )
    return g, sums
