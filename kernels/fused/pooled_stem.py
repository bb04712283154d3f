"""A network's stem in one kernel, for inference: a convolution of few channels with a stride of 2, bias, ReLU, and a 3×3
max-pooling of stride 2 behind it. It reads the image and writes the pooled map; the map between is never written.

A program walks down a strip of pooled rows of some images and columns. Of each row of the convolution it keeps, for every
pooled pixel, the largest of the three columns that its window sees; a pooled row is the largest of the row above, which the
step before left behind, and of its own two. So a row is convolved once, and a column one and a half times.

A matrix product takes one channel of a window: ROWS × COLUMNS values, of which R × S are the kernel's. Windows of
neighbouring pooled pixels start four columns apart; an odd padding is made even by one value more in front, so that they
are read in pieces of 8 bytes (of 4 where a window starts in between).
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.fused.normalise import relu
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.precision import input_precision, tf32

#: The largest kernel, and the most channels: each has its weights in registers or shared memory all along.
MOST_TAPS, MOST_CHANNELS = 8, 4


@triton.jit
def _filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, SKIP, ROWS, COLUMNS):
    """ROWS · COLUMNS × K weights of a channel, zero where a window holds more than the kernel."""
    lane = tl.arange(0, ROWS * COLUMNS)
    r = lane // COLUMNS
    s = lane % COLUMNS - SKIP
    exists = (r < R) & (s >= 0) & (s < S)
    at = c * weight_strides[1] + r.to(INDEX) * weight_strides[2] + s.to(INDEX) * weight_strides[3]
    columns = k.to(INDEX) * weight_strides[0]
    return tl.load(weight_ptr + at[:, None] + columns[None, :], mask=exists[:, None] & (k < K)[None, :], other=0)


@triton.jit
def _windows(x_ptr, at, inside, S, SKIP, ROWS, COLUMNS):
    """Pixels × ROWS · COLUMNS values of a channel."""
    x = tl.load(x_ptr + at, mask=inside, other=0)
    if SKIP > 0 or SKIP + S < COLUMNS:
        # a weight of zero does not take away what is infinite beside the window
        s = tl.arange(0, ROWS * COLUMNS) % COLUMNS
        x = tl.where(((s >= SKIP) & (s < SKIP + S))[None, :], x, tl.zeros_like(x))
    return x


@triton.jit
def _widest(
    x_ptr,
    w0,
    w1,
    w2,
    w3,
    image,
    j,
    p,
    N,
    H,
    W,
    P,
    Q,
    x_strides,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    SKIP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The largest of row p of the convolution at columns 2j − 1, 2j and 2j + 1, those outside the map left out."""
    lane = tl.arange(0, ROWS * COLUMNS)
    h = 2 * p - TOP + lane // COLUMNS
    row_exists = (h >= 0) & (h < H) & (lane // COLUMNS < R) & (p >= 0) & (p < P)
    rows = image[:, None].to(INDEX) * x_strides[0] + h[None, :].to(INDEX) * x_strides[2]
    best = tl.full((w0.shape[1], j.shape[0]), float("-inf"), COMPUTE).T
    for side in tl.range(3):
        q = 2 * j + side - 1
        w = (4 * j + 2 * side - 2 - LEFT)[:, None] + (lane % COLUMNS)[None, :]
        exists = (image < N) & (q >= 0) & (q < Q)
        inside = exists[:, None] & row_exists[None, :] & (w >= 0) & (w < W)
        at = rows + w.to(INDEX) * x_strides[3]
        step = tl.cast(x_strides[1], INDEX)
        x = _windows(x_ptr, at, inside, S, SKIP, ROWS, COLUMNS)
        z = tl.dot(x, w0, input_precision=PRECISION, out_dtype=COMPUTE)
        if C > 1:
            x = _windows(x_ptr, at + step, inside, S, SKIP, ROWS, COLUMNS)
            z = tl.dot(x, w1, z, input_precision=PRECISION, out_dtype=COMPUTE)
        if C > 2:
            x = _windows(x_ptr, at + 2 * step, inside, S, SKIP, ROWS, COLUMNS)
            z = tl.dot(x, w2, z, input_precision=PRECISION, out_dtype=COMPUTE)
        if C > 3:
            x = _windows(x_ptr, at + 3 * step, inside, S, SKIP, ROWS, COLUMNS)
            z = tl.dot(x, w3, z, input_precision=PRECISION, out_dtype=COMPUTE)
        z = tl.where((exists & (p >= 0) & (p < P))[:, None], z, float("-inf"))
        best = tl.maximum(best, z, propagate_nan=tl.PropagateNan.ALL)
    return best


@triton.jit
def _pooled_stem_kernel(
    y_ptr,  # y[n, i, j, k]
    x_ptr,  # x[n, c, h, w]
    weight_ptr,  # weight[k, c, r, s]
    bias_ptr,  # bias[k]
    N,
    K,
    H,
    W,
    P,
    Q,
    out_h,
    out_w,
    x_strides,
    weight_strides,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,  # with SKIP
    C: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    SKIP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    STRIP: tl.constexpr,
    TN: tl.constexpr,
    TW: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    across = tl.cdiv(out_w, TW)
    down = tl.cdiv(out_h, STRIP)
    program = tl.program_id(0)
    pixel = tl.arange(0, TN * TW)
    image = program // (across * down) * TN + pixel // TW
    j = program % across * TW + pixel % TW
    first = program // across % down * STRIP
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    w0 = _filters(weight_ptr, k, K, 0, weight_strides, INDEX, R, S, SKIP, ROWS, COLUMNS)
    w1, w2, w3 = w0, w0, w0
    if C > 1:
        w1 = _filters(weight_ptr, k, K, 1, weight_strides, INDEX, R, S, SKIP, ROWS, COLUMNS)
    if C > 2:
        w2 = _filters(weight_ptr, k, K, 2, weight_strides, INDEX, R, S, SKIP, ROWS, COLUMNS)
    if C > 3:
        w3 = _filters(weight_ptr, k, K, 3, weight_strides, INDEX, R, S, SKIP, ROWS, COLUMNS)
    above = _widest(
        x_ptr, w0, w1, w2, w3, image, j, 2 * first - 1, N, H, W, P, Q, x_strides,
        TOP, LEFT, C, R, S, SKIP, ROWS, COLUMNS, PRECISION, COMPUTE, INDEX,
    )  # fmt: skip
    for i in tl.range(first, tl.minimum(first + STRIP, out_h)):
        middle = _widest(
            x_ptr, w0, w1, w2, w3, image, j, 2 * i, N, H, W, P, Q, x_strides,
            TOP, LEFT, C, R, S, SKIP, ROWS, COLUMNS, PRECISION, COMPUTE, INDEX,
        )  # fmt: skip
        below = _widest(
            x_ptr, w0, w1, w2, w3, image, j, 2 * i + 1, N, H, W, P, Q, x_strides,
            TOP, LEFT, C, R, S, SKIP, ROWS, COLUMNS, PRECISION, COMPUTE, INDEX,
        )  # fmt: skip
        y = tl.maximum(above, middle, propagate_nan=tl.PropagateNan.ALL)
        y = tl.maximum(y, below, propagate_nan=tl.PropagateNan.ALL)
        above = below
        # adding and rounding keep the order, so that bias and ReLU may follow the maximum
        bias = tl.load(bias_ptr + k, mask=k < K, other=0).to(COMPUTE)
        y = relu(y + bias[None, :])
        at = ((image.to(INDEX) * out_h + i) * out_w + j) * K
        mask = ((image < N) & (j < out_w))[:, None] & (k < K)[None, :]
        tl.store(y_ptr + at[:, None] + k[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


def _tile(images: int, columns: int, k: int, warps: int, strip: int = 14, stages: int = 2) -> Config:
    blocks = {"STRIP": strip, "TN": images, "TW": columns, "BLOCK_K": k}
    return Config(blocks, num_warps=warps, num_stages=stages)


_HALF_TYPE = (_tile(1, 64, 64, 4), _tile(2, 64, 64, 8), _tile(8, 8, 64, 4), _tile(16, 8, 64, 8))
_WIDE_TYPE = _tile(1, 64, 16, 4, stages=1)
_SHIPPED = (*_HALF_TYPE, _WIDE_TYPE)


def _choose(images: int, height: int, width: int, k: int, itemsize: int) -> Config:
    if itemsize > 2:
        return _WIDE_TYPE

    def lanes(config: Config) -> int:
        tn, tw = config.blocks["TN"], config.blocks["TW"]
        return cdiv(images, tn) * tn * cdiv(width, tw) * tw

    # wide tiles read whole rows; those of few columns waste fewer lanes on narrow maps
    return min(_HALF_TYPE, key=lambda config: lanes(config) * (1 if config.blocks["TW"] == 64 else 1.25))


def _interpreter(images: int, height: int, width: int, k: int, itemsize: int) -> Config:
    bk = max(block(k, 256), 16)
    columns = block(width, 1024)
    tn = block(images, max(MAX_BLOCK // (columns * max(bk, MOST_TAPS**2)), 1))
    return _tile(max(tn, cdiv(16, columns)), columns, bk, 4, strip=block(height))


pooled_stem_configs = Configs("_pooled_stem_kernel", _SHIPPED, _choose, _interpreter)


def fits(found: Geometry) -> bool:
    """Whether :func:`pooled_stem` takes a convolution of these sizes."""
    (k, c, r, s), ones = found.weight_shape, (1, 1)
    few = 1 <= c <= MOST_CHANNELS and max(r, s) <= MOST_TAPS
    return few and k > 0 and found.stride == (2, 2) and found.dilation == ones and found.groups == 1


def pooled_stem(found: Geometry, x: Buffer, weight: Buffer, bias: Buffer) -> Buffer:
    """``max_pool2d(relu(conv2d(x, weight) + bias), 3, stride=2, padding=1)``.

    Args:
        found: sizes of which :func:`fits` holds.
        x: (N, C, H, W), any strides, floating point; rows of neighbouring pixels are read fastest.
        weight: (K, C, R, S), any strides, of x's dtype.
        bias: (K,).

    Returns (N, K, ⌈P/2⌉, ⌈Q/2⌉), channels-last, accumulated in float32 (float64 for float64) and rounded once.

    FLOPs: 2·N·K·P·Q·C·R·S counted; done are 3/2 of them, for windows of 8×8. Bytes: x, weight and bias read and the result
    written once.
    """
    n, k, p, q = found.out_shape
    shape = (n, k, cdiv(p, 2), cdiv(q, 2))
    y = memory.empty(shape, x.dtype, x.device, strides.channels_last_strides(shape))
    if y.numel() == 0:
        return y
    (r, s), (top, left) = found.kernel, (-found.start[0], -found.start[1])
    skip = left % 2
    columns = max(block(s + skip), 4)
    size = x.dtype.itemsize
    config = pooled_stem_configs(x.dtype, images=n, height=shape[2], width=shape[3], k=k, itemsize=size)
    strip, tn, tw, bk = (config.blocks[name] for name in ("STRIP", "TN", "TW", "BLOCK_K"))
    launch(
        _pooled_stem_kernel,
        (cdiv(n, tn) * cdiv(shape[2], strip) * cdiv(shape[3], tw), cdiv(k, bk)),
        y,
        x,
        weight,
        dense(bias),
        n,
        k,
        *found.x_shape[2:],
        p,
        q,
        *shape[2:],
        x.stride(),
        weight.stride(),
        config=config,
        cost=Cost(found.flops, nbytes(x, weight, bias, y)),
        device=x.device,
        TOP=top,
        LEFT=left + skip,
        C=found.x_shape[1],
        R=r,
        S=s,
        SKIP=skip,
        ROWS=max(block(r), 4),
        COLUMNS=columns,
        PRECISION=input_precision(x.dtype, tf32.convolution),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, y),
    )
    return y
