"""Weighted sums over windows of an image: what a convolution's forward pass and its input gradient both are.

``out[n, k, p, q] = bias[k] + Σ_{c, r, s} x[n, c, h, w] · weight[k, c, r, s]`` at ``h = p·stride + start + r·spacing``,
likewise ``w``, and zeros outside the image. A negative spacing walks the window backwards, so the input gradient of a
convolution needs no flipped weights; a strided ``out`` takes one phase of it.

Three forms of one implicit matrix product (pixels × output channels, no unfolded copy in memory):

- by taps: each step of the loop takes one tap and BLOCK_C of its channels, so a pixel's place in the image is tested
  once a step and rows are contiguous in channels-last memory;
- folded, for few channels and many taps (a 7×7 stem on 3 channels): a step takes BLOCK_C of all R·S·C products at once.
  ``x`` is copied into a zero border first, which leaves no test in the loop;
- direct, for groups of few channels (depthwise): products are added channel by channel, with no matrix product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, elementwise, memory, strides
from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.conv2d.geometry import Pair
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, offset_dtype
from tinyflow.kernels.memory import Buffer

#: tl.dot takes no fewer channels than this at a time.
LEAST_CHANNELS = 16


@triton.jit
def pixel_place(pixel, P, Q, stride, start):
    """The image of an output pixel, and the input row and column of its window's first tap."""
    rest = pixel // Q
    return rest // P, (rest % P) * stride[0] + start[0], (pixel % Q) * stride[1] + start[1]


@triton.jit
def pixel_offsets(pixel, P, Q, strides):
    """Where output pixels lie in memory."""
    rest = pixel // Q
    return (rest // P) * strides[0] + (rest % P) * strides[2] + (pixel % Q) * strides[3]


@triton.jit
def product_steps(C, R, S, FOLDED: tl.constexpr, BLOCK_C: tl.constexpr):
    """Steps of the loop over taps and channels, and how many of them share a tap."""
    tiles = tl.cdiv(C, BLOCK_C)
    if FOLDED:
        steps = tl.cdiv(R * S * C, BLOCK_C)
    else:
        steps = R * S * tiles
    return steps, tiles


@triton.jit
def product_place(step, lane, tiles, C, R, S, FOLDED: tl.constexpr, BLOCK_C: tl.constexpr):
    """Tap row, tap column and channel of each product of a step, and which of them exist."""
    if FOLDED:
        product = step * BLOCK_C + lane
        channel = product % C
        tap = product // C
        exists = tap < R * S
    else:
        channel = (step % tiles) * BLOCK_C + lane
        tap = (step // tiles).to(lane.dtype)
        exists = channel < C
    return tap // S, tap % S, channel, exists


@triton.jit
def reads_image(exists, row, column, r, s, H, W, spacing, FOLDED: tl.constexpr):
    """Which of the existing pixels read the image at a tap; within a zero border all do."""
    if FOLDED:
        inside = exists
    else:
        h = row + r * spacing[0]
        w = column + s * spacing[1]
        inside = exists & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    return inside


@triton.jit
def _program_lanes(program, PIXELS, K, INDEX: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr):
    """The filters, pixels and group of a program, and which of the filters and pixels exist."""
    tiles_k = tl.cdiv(K, BLOCK_K)
    tiles_p = tl.cdiv(PIXELS, BLOCK_P)
    k = (program % tiles_k).to(INDEX) * BLOCK_K + tl.arange(0, BLOCK_K).to(INDEX)
    program = program // tiles_k
    pixel = (program % tiles_p).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    group = (program // tiles_p).to(INDEX)
    return k, pixel, group, pixel < PIXELS, (k < K)[None, :]


@triton.jit
def _program_places(k, pixel, group, C, P, Q, x_strides, weight_strides, weight_stride_group, stride, start):
    """Row and column of each pixel's first tap, where that and a filter's weights lie."""
    n, row, column = pixel_place(pixel, P, Q, stride, start)
    x_at = n * x_strides[0] + row * x_strides[2] + column * x_strides[3] + group * C * x_strides[1]
    return row, column, x_at[:, None], (group * weight_stride_group + k * weight_strides[0])[None, :]


@triton.jit
def _out_places(pixel, channel, P, Q, strides, pixel_exists, k_exists):
    """Where results lie, by pixels and by channels, and which of them exist."""
    mask = pixel_exists[:, None] & k_exists
    return pixel_offsets(pixel, P, Q, strides)[:, None], (channel * strides[1])[None, :], mask


@triton.jit
def _step_places(
    step,
    lane,
    tiles,
    pixel_exists,
    row,
    column,
    k_exists,
    C,
    H,
    W,
    R,
    S,
    x_strides,
    weight_strides,
    tap_down,
    tap_right,
    spacing,
    FOLDED: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Where a step's tile of x lies from the pixels' own places on, and its weights from the filters' on; and masks."""
    r, s, c, c_exists = product_place(step, lane, tiles, C, R, S, FOLDED, BLOCK_C)
    inside = reads_image(pixel_exists, row, column, r, s, H, W, spacing, FOLDED)
    x_columns = c * x_strides[1] + r * tap_down + s * tap_right
    weight_rows = c * weight_strides[1] + r * weight_strides[2] + s * weight_strides[3]
    x_mask = inside[:, None] & c_exists[None, :]
    return x_columns[None, :], x_mask, weight_rows[:, None], c_exists[:, None] & k_exists


@triton.jit
def _correlate_kernel(
    out_ptr,  # out[n, k, p, q]
    x_ptr,  # x[n, c, h, w]
    weight_ptr,  # weight[k, c, r, s]
    bias_ptr,  # bias[k]
    PIXELS,
    C,
    H,
    W,
    K,
    P,
    Q,
    R,
    S,
    out_strides,
    x_strides,
    weight_strides,
    weight_stride_group,
    bias_stride,
    stride,
    start,
    spacing,
    HAS_BIAS: tl.constexpr,
    FOLDED: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # C and K count the channels of one group; a step of the loop is a tap and a tile of its channels
    k, pixel, group, pixel_exists, k_exists = _program_lanes(tl.program_id(0), PIXELS, K, INDEX, BLOCK_P, BLOCK_K)
    row, column, x_at, weight_at = _program_places(
        k, pixel, group, C, P, Q, x_strides, weight_strides, weight_stride_group, stride, start
    )
    x_rows = x_ptr + x_at
    weight_columns = weight_ptr + weight_at
    tap_down = tl.cast(spacing[0], INDEX) * x_strides[2]
    tap_right = tl.cast(spacing[1], INDEX) * x_strides[3]
    acc = tl.zeros((BLOCK_P, BLOCK_K), dtype=ACC)
    lane = tl.arange(0, BLOCK_C).to(INDEX)
    steps, tiles = product_steps(C, R, S, FOLDED, BLOCK_C)
    for step in range(steps):
        x_columns, x_mask, weight_rows, weight_mask = _step_places(
            step,
            lane,
            tiles,
            pixel_exists,
            row,
            column,
            k_exists,
            C,
            H,
            W,
            R,
            S,
            x_strides,
            weight_strides,
            tap_down,
            tap_right,
            spacing,
            FOLDED,
            BLOCK_C,
        )
        x = tl.load(x_rows + x_columns, mask=x_mask, other=0)
        weight = tl.load(weight_columns + weight_rows, mask=weight_mask, other=0)
        acc = tl.dot(x, weight, acc, input_precision=PRECISION, out_dtype=ACC)

    channel = group * K + k
    if HAS_BIAS:
        acc += tl.load(bias_ptr + channel * bias_stride, mask=k < K, other=0).to(ACC)[None, :]
    out_down, out_across, out_mask = _out_places(pixel, channel, P, Q, out_strides, pixel_exists, k_exists)
    tl.store(out_ptr + out_down + out_across, acc.to(out_ptr.dtype.element_ty), mask=out_mask)


@triton.jit
def _correlate_direct_kernel(
    out_ptr,  # out[n, k, p, q]
    x_ptr,  # x[n, c, h, w]
    weight_ptr,  # weight[k, c, r, s]
    bias_ptr,  # bias[k]
    PIXELS,
    C,
    H,
    W,
    K,
    P,
    Q,
    R,
    S,
    out_strides,
    x_strides,
    weight_strides,
    weight_stride_group,
    bias_stride,
    stride,
    start,
    spacing,
    GROUPS,
    HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # a tile covers output channels of several groups; each takes the channels of its own group one after the other
    tiles_k = tl.cdiv(GROUPS * K, BLOCK_K)
    program = tl.program_id(0)
    k = (program % tiles_k).to(INDEX) * BLOCK_K + tl.arange(0, BLOCK_K).to(INDEX)
    pixel = (program // tiles_k).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    pixel_exists = pixel < PIXELS
    k_exists = k < GROUPS * K
    group = k // K

    n, row, column = pixel_place(pixel, P, Q, stride, start)
    x_at = n * x_strides[0] + row * x_strides[2] + column * x_strides[3]
    x_rows = x_ptr + x_at[:, None]
    x_first_channel = group * C * x_strides[1]
    weight_columns = weight_ptr + (group * weight_stride_group + (k % K) * weight_strides[0])
    tap_down = tl.cast(spacing[0], INDEX) * x_strides[2]
    tap_right = tl.cast(spacing[1], INDEX) * x_strides[3]
    acc = tl.zeros((BLOCK_P, BLOCK_K), dtype=ACC)
    for step in range(R * S * C):
        tap = (step // C).to(INDEX)
        c = step % C
        r = tap // S
        s = tap % S
        inside = reads_image(pixel_exists, row, column, r, s, H, W, spacing, False)
        x_columns = x_first_channel + (c * x_strides[1] + r * tap_down + s * tap_right)
        x = tl.load(x_rows + x_columns[None, :], mask=inside[:, None] & k_exists[None, :], other=0).to(ACC)
        weight_row = c * weight_strides[1] + r * weight_strides[2] + s * weight_strides[3]
        weight = tl.load(weight_columns + weight_row, mask=k_exists, other=0).to(ACC)
        acc += x * weight[None, :]

    if HAS_BIAS:
        acc += tl.load(bias_ptr + k * bias_stride, mask=k_exists, other=0).to(ACC)[None, :]
    out_ptrs = out_ptr + pixel_offsets(pixel, P, Q, out_strides)[:, None] + (k * out_strides[1])[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=pixel_exists[:, None] & k_exists[None, :])


def _tile(p: int, k: int, c: int, warps: int = 4, stages: int = 3) -> Config:
    return Config({"BLOCK_P": p, "BLOCK_K": k, "BLOCK_C": c}, num_warps=warps, num_stages=stages)


_LARGE, _MEDIUM, _NARROW = _tile(128, 128, 64, warps=8), _tile(128, 64, 32), _tile(64, 32, 32)
_FEW_PIXELS, _WIDE_TYPE = _tile(32, 64, 64), _tile(32, 32, 16, stages=2)


def _choose(pixels: int, k: int, c: int, folded: bool, itemsize: int) -> Config:
    if itemsize == 8:
        return _WIDE_TYPE
    if k <= 32:
        return _NARROW
    if itemsize == 2 and k > 64 and c >= 64 and cdiv(pixels, 128) * cdiv(k, 128) >= 128:
        return _LARGE
    return _MEDIUM if pixels >= 4096 else _FEW_PIXELS


def _interpreter(pixels: int, k: int, c: int, folded: bool, itemsize: int) -> Config:
    bk = max(block(k, 1024), 16)
    bc = max(block(c, 1024), 16)
    return _tile(max(block(pixels, MAX_BLOCK // max(bk, bc)), 16), bk, bc)


correlate_configs = Configs(
    "_correlate_kernel", (_LARGE, _MEDIUM, _NARROW, _FEW_PIXELS, _WIDE_TYPE), _choose, _interpreter
)

_DIRECT = Config({"BLOCK_P": 32, "BLOCK_K": 64})


def _interpreter_direct(pixels: int, k: int) -> Config:
    bk = block(k, 1024)
    return Config({"BLOCK_P": block(pixels, MAX_BLOCK // bk), "BLOCK_K": bk})


correlate_direct_configs = Configs(
    "_correlate_direct_kernel", (_DIRECT,), lambda pixels, k: _DIRECT, _interpreter_direct
)


def is_direct(channels: int, groups: int) -> bool:
    """True where groups of channels are too narrow for a matrix product."""
    return groups > 1 and channels < LEAST_CHANNELS


def is_folded(channels: int, groups: int, taps: int) -> bool:
    """True where taps and channels share one axis of the matrix product, over a copy of ``x`` with a zero border."""
    return groups == 1 and 0 < channels < LEAST_CHANNELS and taps > 1


def with_border(x: Buffer, sizes: Pair, kernel: Pair, stride: Pair, start: Pair, spacing: Pair) -> tuple[Buffer, Pair]:
    """``x`` with the zeros around it that windows reach, and their start in it; ``x`` itself if they stay inside.

    Args:
        sizes: rows and columns of the output, whose windows are meant.
    """
    before, after = [], []
    for axis in range(2):
        reach = (kernel[axis] - 1) * spacing[axis]
        last = (sizes[axis] - 1) * stride[axis] + start[axis]
        before.append(max(0, -start[axis], -(start[axis] + reach)))
        after.append(max(0, last - x.shape[2 + axis] + 1, last + reach - x.shape[2 + axis] + 1))
    if not any(before + after):
        return x, start
    if interpreting():  # where a copy over four dimensions takes a program for each image, two over three are faster
        x = elementwise.channels_last(x)
    n, c, h, w = x.shape
    shape = n, c, before[0] + h + after[0], before[1] + w + after[1]
    bordered = strides.empty_channels_last(shape, x.dtype, x.device)
    elementwise.fill(bordered, 0)
    steps = bordered.stride()
    interior = int(bordered.storage_offset()) + before[0] * steps[2] + before[1] * steps[3]
    elementwise.copy_into(memory.as_strided(bordered, x.shape, steps, interior), x)
    return bordered, (start[0] + before[0], start[1] + before[1])


def rows_of_channels(x: Buffer, taps: int) -> Buffer:
    """``x`` as it is, or channels-last where many taps would each gather its channels one by one."""
    return x if taps == 1 or x.shape[1] <= 1 or x.stride(1) <= 1 else elementwise.channels_last(x)


def correlate(
    out: Buffer,
    x: Buffer,
    weight: Buffer,
    bias: Buffer | None,
    *,
    stride: Pair,
    start: Pair,
    spacing: Pair,
    groups: int,
    transposed: bool,
    precision: str,
    cost: Cost,
) -> Buffer:
    """Fills ``out`` with the sum at the head of this file.

    Args:
        out: (N, K, P, Q), any strides without overlap.
        x: (N, C, H, W), any strides.
        weight: (K, C / groups, R, S), any strides; if ``transposed`` (C, K / groups, R, S). It may have no taps.
        bias: (K,) or None.
    """
    images, filters, p, q = out.shape
    k, c = filters // groups, x.shape[1] // groups
    r, s = weight.shape[2:]
    along_k, along_c = (weight.stride(1), weight.stride(0)) if transposed else (weight.stride(0), weight.stride(1))
    along_group = weight.stride(0) * (weight.shape[0] // groups)
    pixels = images * p * q
    if pixels == 0 or filters == 0:
        return out
    direct, folded = is_direct(c, groups), is_folded(c, groups, r * s)
    if folded:
        x, start = with_border(x, (p, q), (r, s), stride, start, spacing)
    else:
        x = rows_of_channels(x, r * s)
    operands = [out, x, weight, bias, pixels, c, x.shape[2], x.shape[3], k, p, q, r, s]
    weight_strides = along_k, along_c, weight.stride(2), weight.stride(3)
    layout = [out.stride(), x.stride(), weight_strides, along_group, 0 if bias is None else bias.stride(0)]
    arguments = [*operands, *layout, stride, start, spacing]
    constants = {
        "HAS_BIAS": bias is not None,
        "ACC": dtypes.compute_dtype(x.dtype),
        "INDEX": offset_dtype(out, x, weight),
    }
    if direct:
        config = correlate_direct_configs(x.dtype, pixels=pixels, k=filters)
        kernel, arguments = _correlate_direct_kernel, [*arguments, groups]
        programs = cdiv(pixels, config.blocks["BLOCK_P"]) * cdiv(filters, config.blocks["BLOCK_K"])
    else:
        lanes = r * s * c if folded and interpreting() else c
        config = correlate_configs(x.dtype, pixels=pixels, k=k, c=lanes, folded=folded, itemsize=x.element_size())
        kernel, constants = _correlate_kernel, {**constants, "FOLDED": folded, "PRECISION": precision}
        programs = cdiv(pixels, config.blocks["BLOCK_P"]) * cdiv(k, config.blocks["BLOCK_K"]) * groups
    launch(kernel, (programs,), *arguments, config=config, cost=cost, device=x.device, **constants)
    return out
