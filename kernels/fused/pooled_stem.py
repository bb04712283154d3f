"""A network's stem in one kernel, for inference: a convolution of few channels with a stride of 2, bias, ReLU, and a 3×3
max-pooling of stride 2 behind it. It reads the image and writes the pooled map; the map between is never written.

A program walks down a strip of pooled rows of some images and columns. Of each row of the convolution it finds for every
pooled pixel j columns 2j and 2j + 1; the third column of its window, 2j − 1, is its neighbour's odd one, so a tile finds one
pooled column less than it has. A pooled row is the largest of the row above, which the step before left behind, and of its
own two. So each row is convolved once, and each column.

The windows of columns 2j and 2j + 1 lie in ten or so columns of the image, from a multiple of four on. They are read in
three pieces of four columns, four, and the rest, which both products share: neighbouring pixels start four columns apart,
so that a thread reads 8 bytes at once. Operand A of a product is one piece of one channel: ROWS × four columns, of which
the kernel's own are R × S.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, hardware, memory, strides
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.mode import INTERPRETING
from tinyflow.kernels.precision import input_precision, tf32

#: The largest kernel, and the most channels: each has its weights in registers or shared memory all along.
MOST_TAPS, MOST_CHANNELS = 8, 4


@triton.jit
def _filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, FIRST, ROWS, COLUMNS):
    """Weights of a channel, taps × K: ROWS rows of COLUMNS columns, the first of which is column FIRST of the kernel.

    Rows and columns that the kernel does not have are zero.
    """
    lane = tl.arange(0, ROWS * COLUMNS)
    r = lane // COLUMNS
    s = lane % COLUMNS + FIRST
    exists = (r < R) & (s >= 0) & (s < S)
    at = c * weight_strides[1] + r.to(INDEX) * weight_strides[2] + s.to(INDEX) * weight_strides[3]
    columns = k.to(INDEX) * weight_strides[0]
    return tl.load(weight_ptr + at[:, None] + columns[None, :], mask=exists[:, None] & (k < K)[None, :], other=0)


@triton.jit
def _window_filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, FIRST, ROWS, REST):
    """A channel's weights for the three pieces, the first of which begins with column FIRST of the kernel."""
    return (
        _filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, FIRST, ROWS, 4),
        _filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, FIRST + 4, ROWS, 4),
        _filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, FIRST + 8, ROWS, REST),
    )


@triton.jit
def _channel_filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, SKIP, ROWS, REST):
    """A channel's weights for the even column, and for the odd one."""
    return (
        _window_filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, -SKIP, ROWS, REST),
        _window_filters(weight_ptr, k, K, c, weight_strides, INDEX, R, S, -2 - SKIP, ROWS, REST),
    )


@triton.jit
def _piece(x_ptr, plane, exists, h, w, H, W, x_strides, INDEX, R, ROWS, COLUMNS):
    """Pixels × ROWS · COLUMNS values, from row ``h`` and column ``w`` of each pixel's plane on."""
    lane = tl.arange(0, ROWS * COLUMNS)
    row = h + lane // COLUMNS
    column = w[:, None] + (lane % COLUMNS)[None, :]
    row_exists = (row >= 0) & (row < H) & (lane // COLUMNS < R)
    inside = (exists[:, None] & row_exists[None, :]) & ((column >= 0) & (column < W))
    at = (plane[:, None] + row.to(INDEX)[None, :] * x_strides[2]) + column.to(INDEX) * x_strides[3]
    return tl.load(x_ptr + at, mask=inside, other=0)


@triton.jit
def _with_piece(acc, x, w, S, FIRST, ROWS, COLUMNS, PRECISION):
    """``acc + x · w``, for a piece whose first column is column FIRST of the kernel."""
    if FIRST + COLUMNS > 0 and FIRST < S:
        if FIRST < 0 or FIRST + COLUMNS > S:
            # a weight of zero does not take away what is infinite beside the window
            s = tl.arange(0, ROWS * COLUMNS) % COLUMNS + FIRST
            x = tl.where(((s >= 0) & (s < S))[None, :], x, tl.zeros_like(x))
        acc = tl.dot(x, w, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    return acc


@triton.jit
def _with_channel(
    even, odd, x_ptr, weights, plane, exists, h, w, H, W, x_strides, INDEX, R, S, SKIP, ROWS, REST, PRECISION
):
    """The two columns with one channel more."""
    x = _piece(x_ptr, plane, exists, h, w, H, W, x_strides, INDEX, R, ROWS, 4)
    even = _with_piece(even, x, weights[0][0], S, -SKIP, ROWS, 4, PRECISION)
    odd = _with_piece(odd, x, weights[1][0], S, -2 - SKIP, ROWS, 4, PRECISION)
    x = _piece(x_ptr, plane, exists, h, w + 4, H, W, x_strides, INDEX, R, ROWS, 4)
    even = _with_piece(even, x, weights[0][1], S, 4 - SKIP, ROWS, 4, PRECISION)
    odd = _with_piece(odd, x, weights[1][1], S, 2 - SKIP, ROWS, 4, PRECISION)
    if SKIP + S > 6:
        x = _piece(x_ptr, plane, exists, h, w + 8, H, W, x_strides, INDEX, R, ROWS, REST)
        even = _with_piece(even, x, weights[0][2], S, 8 - SKIP, ROWS, REST, PRECISION)
        odd = _with_piece(odd, x, weights[1][2], S, 6 - SKIP, ROWS, REST, PRECISION)
    return even, odd


@triton.jit
def _columns(
    x_ptr,
    w0,
    w1,
    w2,
    w3,
    image,
    exists,
    j,
    p,
    H,
    W,
    x_strides,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    SKIP: tl.constexpr,
    ROWS: tl.constexpr,
    REST: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Columns 2j and 2j + 1 of row p of the convolution."""
    even = tl.zeros((j.shape[0], K), COMPUTE)
    odd = even
    h = 2 * p - TOP
    w = 4 * j - LEFT
    plane = image.to(INDEX) * x_strides[0]
    step = tl.cast(x_strides[1], INDEX)
    even, odd = _with_channel(
        even, odd, x_ptr, w0, plane, exists, h, w, H, W, x_strides, INDEX, R, S, SKIP, ROWS, REST, PRECISION
    )
    if C > 1:
        even, odd = _with_channel(
            even, odd, x_ptr, w1, plane + step, exists, h, w, H, W, x_strides, INDEX, R, S, SKIP, ROWS, REST, PRECISION
        )
    if C > 2:
        plane += 2 * step
        even, odd = _with_channel(
            even, odd, x_ptr, w2, plane, exists, h, w, H, W, x_strides, INDEX, R, S, SKIP, ROWS, REST, PRECISION
        )
    if C > 3:
        plane += step
        even, odd = _with_channel(
            even, odd, x_ptr, w3, plane, exists, h, w, H, W, x_strides, INDEX, R, S, SKIP, ROWS, REST, PRECISION
        )
    return even, odd


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _widest(even, odd, before, j, Q, LAST_ALONE):
    """The largest of columns 2j − 1, 2j and 2j + 1, those outside the map left out."""
    if LAST_ALONE:
        odd = tl.where((2 * j + 1 < Q)[:, None], odd, even)
    best = _larger(even, odd)
    return _larger(best, tl.where((j > 0)[:, None], tl.gather(odd, before, 0), best))


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
    REST: tl.constexpr,
    LAST_ALONE: tl.constexpr,  # whether the last column is an even one
    PRECISION: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    STRIP: tl.constexpr,
    TN: tl.constexpr,
    TW: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    across = tl.cdiv(out_w, TW - 1)
    down = tl.cdiv(out_h, STRIP)
    program = tl.program_id(0)
    pixel = tl.arange(0, TN * TW)
    image = program // (across * down) * TN + pixel // TW
    j = program % across * (TW - 1) - 1 + pixel % TW
    first = program // across % down * STRIP
    exists = image < N
    written = exists & (pixel % TW > 0) & (j < out_w)
    before = tl.broadcast_to(((pixel + TN * TW - 1) % (TN * TW))[:, None], (TN * TW, BLOCK_K))
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    w0 = _channel_filters(weight_ptr, k, K, 0, weight_strides, INDEX, R, S, SKIP, ROWS, REST)
    w1, w2, w3 = w0, w0, w0
    if C > 1:
        w1 = _channel_filters(weight_ptr, k, K, 1, weight_strides, INDEX, R, S, SKIP, ROWS, REST)
    if C > 2:
        w2 = _channel_filters(weight_ptr, k, K, 2, weight_strides, INDEX, R, S, SKIP, ROWS, REST)
    if C > 3:
        w3 = _channel_filters(weight_ptr, k, K, 3, weight_strides, INDEX, R, S, SKIP, ROWS, REST)
    # a row that is seen twice changes no maximum: row 0 stands for the one above it, and the last for the one below
    even, odd = _columns(
        x_ptr, w0, w1, w2, w3, image, exists, j, tl.maximum(2 * first - 1, 0), H, W, x_strides,
        TOP, LEFT, C, R, S, SKIP, ROWS, REST, BLOCK_K, PRECISION, COMPUTE, INDEX,
    )  # fmt: skip
    best = _widest(even, odd, before, j, Q, LAST_ALONE)
    for p in tl.range(2 * first, 2 * tl.minimum(first + STRIP, out_h)):
        even, odd = _columns(
            x_ptr, w0, w1, w2, w3, image, exists, j, tl.minimum(p, P - 1), H, W, x_strides,
            TOP, LEFT, C, R, S, SKIP, ROWS, REST, BLOCK_K, PRECISION, COMPUTE, INDEX,
        )  # fmt: skip
        row = _widest(even, odd, before, j, Q, LAST_ALONE)
        best = _larger(best, row)
        if p % 2 == 1:
            # adding and rounding keep the order, so that bias and ReLU may follow the maximum
            bias = tl.load(bias_ptr + k, mask=k < K, other=0).to(COMPUTE)
            y = _larger(best + bias[None, :], 0.0)
            at = ((image.to(INDEX) * out_h + p // 2) * out_w + j) * K
            mask = written[:, None] & (k < K)[None, :]
            tl.store(y_ptr + at[:, None] + k[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)
            best = row


def _tile(images: int, columns: int, k: int, warps: int, strip: int = 14, stages: int = 2) -> Config:
    blocks = {"STRIP": strip, "TN": images, "TW": columns, "BLOCK_K": k}
    return Config(blocks, num_warps=warps, num_stages=stages)


#: Of 64 pixels, so that two programs share a multiprocessor of sm_90; 128 have more than the 64 KiB of gfx942.
_SHIPPED = (_tile(1, 64, 64, 4), _tile(4, 16, 64, 4))


def _choose(images: int, height: int, width: int, k: int) -> Config:
    def lanes(config: Config) -> int:
        tn, tw = config.blocks["TN"], config.blocks["TW"]
        return cdiv(images, tn) * tn * cdiv(width, tw - 1) * tw

    # wide tiles read whole rows; those of few columns waste fewer lanes on narrow maps
    return min(_SHIPPED, key=lambda config: lanes(config) * (1 if config.blocks["TW"] == 64 else 1.25))


def _interpreter(images: int, height: int, width: int, k: int) -> Config:
    bk = max(block(k, 256), 16)
    columns = max(block(width + 1, 1024), 2)
    tn = block(images, max(MAX_BLOCK // (columns * max(bk, 4 * MOST_TAPS)), 1))
    return _tile(max(tn, cdiv(16, columns)), columns, bk, 4, strip=block(height))


pooled_stem_configs = Configs("_pooled_stem_kernel", _SHIPPED, _choose, _interpreter)


def fits(found: Geometry) -> bool:
    """Whether :func:`pooled_stem` takes a convolution of these sizes."""
    (k, c, r, s), ones = found.weight_shape, (1, 1)
    few = 1 <= c <= MOST_CHANNELS and max(r, s) <= MOST_TAPS
    return few and k > 0 and found.stride == (2, 2) and found.dilation == ones and found.groups == 1


def suits(found: Geometry, dtype: memory.dtype, device: memory.device) -> bool:
    """Whether :func:`pooled_stem` is the way there.

    Wider products have factors that fit no registers, nor do those of NVIDIA GPUs before Hopper, which take both from
    there. Triton 3.6 makes nothing of its products for tensor memory.
    """
    return fits(found) and dtype.itemsize == 2 and hardware.capability(device)[0] in (0, 9)


def pooled_stem(found: Geometry, x: Buffer, weight: Buffer, bias: Buffer) -> Buffer:
    """``max_pool2d(relu(conv2d(x, weight) + bias), 3, stride=2, padding=1)``.

    Args:
        found: sizes of which :func:`fits` holds.
        x: (N, C, H, W), any strides; float16 or bfloat16, in the interpreter any floating point. Rows of neighbouring
            pixels are read fastest.
        weight: (K, C, R, S), any strides, of x's dtype.
        bias: (K,).

    Returns (N, K, ⌈P/2⌉, ⌈Q/2⌉), channels-last, accumulated in float32 (float64 for float64) and rounded once.

    Raises:
        TypeError: for a wider dtype on a GPU.

    FLOPs: 2·N·K·P·Q·C·R·S counted; of a 7×7 kernel 72/49 of them are done, for pieces of 8 rows. Bytes: x,
    weight and bias read and the result written once.
    """
    if x.dtype.itemsize > 2 and not INTERPRETING:
        raise TypeError(
            f"pooled_stem: expected x of float16 or bfloat16 on a GPU, got {x.dtype}; take conv2d and normalise_pool"
        )
    n, k, p, q = found.out_shape
    shape = (n, k, cdiv(p, 2), cdiv(q, 2))
    y = strides.empty_channels_last(shape, x.dtype, x.device)
    if y.numel() == 0:
        return y
    (r, s), (top, left) = found.kernel, (-found.start[0], -found.start[1])
    skip = -left % 4
    rows = max(block(r), 4)
    config = pooled_stem_configs(x.dtype, images=n, height=shape[2], width=shape[3], k=k)
    strip, tn, tw, bk = (config.blocks[name] for name in ("STRIP", "TN", "TW", "BLOCK_K"))
    launch(
        _pooled_stem_kernel,
        (cdiv(n, tn) * cdiv(shape[2], strip) * cdiv(shape[3], tw - 1), cdiv(k, bk)),
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
        ROWS=rows,
        REST=max(block(max(skip + s - 6, 1)), 16 // rows),
        LAST_ALONE=q % 2 == 1,
        PRECISION=input_precision(x.dtype, tf32.convolution),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, y),
    )
    return y
