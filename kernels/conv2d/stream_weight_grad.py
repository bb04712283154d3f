"""The weight gradient of a convolution of many channels, in equal shares for every multiprocessor of sm_90 and later.

``weight_grad[k, r, s, c] = Σ_{n, p, q} grad[n, p, q, k] · x[n, h, w, c]`` with ``h = p·stride − padding + r``, likewise w.
With x and grad seen as (N, H·W·C), a step is one output position in TN images: a plain two-dimensional box whatever
stride and padding, which feeds the tensor core from shared memory on both sides, and positions whose tap lies outside
the image are never visited.

The steps of all tiles and taps form one row that is cut into as many equal parts as there are programs (Osama et al.
2023, "Stream-K"). A *segment* is the part of a program that belongs to one tile and tap; the program leaves a partial
sum for each, and a second kernel adds those of a tile and tap in the order of programs.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tinyflow.kernels import hardware, memory, strides
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def _positions(tap, padding, size, out_size, STRIDE: tl.constexpr):
    """Along one axis: the first output position whose tap lies inside the image, and how many do."""
    first = (tl.maximum(padding - tap, 0) + STRIDE - 1) // STRIDE
    end = tl.minimum((tl.maximum(size + padding - tap, 0) + STRIDE - 1) // STRIDE, out_size)
    return first, tl.maximum(end - first, 0)


@triton.jit
def _steps_of_tap(tap, batches, H, W, P, Q, top, left, R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr):
    _, rows = _positions(tap // S, top, H, P, STRIDE)
    _, columns = _positions(tap % S, left, W, Q, STRIDE)
    return rows * columns * batches


@triton.jit
def _segment_at(step, per_tile, batches, H, W, P, Q, top, left, R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr):
    """The tile and tap that a step belongs to, their first step, and how many they have."""
    tile = step // per_tile
    within = step % per_tile
    tap = tl.cast(0, tl.int32)
    first = tl.cast(0, tl.int32)
    count = tl.cast(0, tl.int32)
    at = tl.cast(0, tl.int32)
    for t in tl.range(R * S):
        steps = _steps_of_tap(t, batches, H, W, P, Q, top, left, R, S, STRIDE)
        here = (within >= at) & (within < at + steps)
        tap = tl.where(here, t, tap)
        first = tl.where(here, at, first)
        count = tl.where(here, steps, count)
        at += steps
    return tile, tap, tile * per_tile + first, count


@triton.jit
def _first_step(program, steps, programs):
    return (tl.cast(program, tl.int64) * steps // programs).to(tl.int32)


@triton.jit
def _stream_conv2d_weight_grad_kernel(
    partial_ptr,  # partial[program, segment, tile row of K, tile column of C]
    x,  # boxes of x[n, (h, w, c)]
    grad,  # boxes of grad[n, (p, q, k)]
    steps,
    per_tile,
    segments,
    batches,
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
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    step = _first_step(program, steps, tl.num_programs(0))
    end = _first_step(program + 1, steps, tl.num_programs(0))
    at = tl.arange(0, BLOCK_K)[:, None] * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    for segment in tl.range(segments):
        tile, tap, first, count = _segment_at(
            tl.minimum(step, steps - 1), per_tile, batches, H, W, P, Q, top, left, R, S, STRIDE
        )
        tiles_k = tl.cdiv(K, BLOCK_K)
        k = tile % tiles_k * BLOCK_K
        c = tile // tiles_k * BLOCK_C
        row, _ = _positions(tap // S, top, H, P, STRIDE)
        column, columns = _positions(tap % S, left, W, Q, STRIDE)
        down = tap // S - top
        right = tap % S - left
        last = tl.minimum(first + count, end)
        acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
        for i in tl.range(step, last):
            position = (i - first) // batches
            n = (i - first) % batches * TN
            p = row + position // columns
            q = column + position % columns
            pixels = x.load([n, ((p * STRIDE + down) * W + q * STRIDE + right) * C + c])
            acc = tl.dot(grad.load([n, (p * Q + q) * K + k]).T, pixels, acc, input_precision="ieee")
        slot = tl.cast(program * segments + segment, tl.int64) * (BLOCK_K * BLOCK_C)
        tl.store(partial_ptr + slot + at, acc, mask=step < end)  # Triton 3.6 fails on a branch around it for sm_100
        step = tl.maximum(step, last)


@triton.jit
def _stream_sum_kernel(
    out_ptr,  # out[k, (r, s), c]
    partial_ptr,  # partial[program, segment, tile row of K, tile column of C]
    steps,
    per_tile,
    segments,
    programs,
    batches,
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
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    tile = tl.program_id(0) // (R * S)
    tap = tl.program_id(0) % (R * S)
    begin = tile * per_tile
    for t in tl.range(tap):
        begin += _steps_of_tap(t, batches, H, W, P, Q, top, left, R, S, STRIDE)
    count = _steps_of_tap(tap, batches, H, W, P, Q, top, left, R, S, STRIDE)
    first = (tl.cast(begin + 1, tl.int64) * programs - 1) // steps
    last = (tl.cast(begin + count, tl.int64) * programs - 1) // steps
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_C)
    at = row[:, None] * BLOCK_C + column[None, :]
    acc = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for program in tl.range(tl.cast(first, tl.int32), tl.cast(last, tl.int32) + 1):
        start = _first_step(program, steps, programs)
        its_tile, its_tap, _, _ = _segment_at(start, per_tile, batches, H, W, P, Q, top, left, R, S, STRIDE)
        segment = tl.program_id(0) - (its_tile * R * S + its_tap)
        slot = tl.cast(program * segments + segment, tl.int64) * (BLOCK_K * BLOCK_C)
        acc += tl.load(partial_ptr + slot + at)
    tiles_k = tl.cdiv(K, BLOCK_K)
    k = tile % tiles_k * BLOCK_K + row
    c = tile // tiles_k * BLOCK_C + column
    out = out_ptr + ((k * (R * S) + tap) * C)[:, None] + c[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=(k < K)[:, None] & (c < C)[None, :])


def _stream(images: int, k: int, c: int, warps: int = 8, stages: int = 4) -> Config:
    return Config({"TN": images, "BLOCK_K": k, "BLOCK_C": c}, num_warps=warps, num_stages=stages)


_SHIPPED = (
    _stream(64, 256, 128),
    _stream(64, 128, 128),
    _stream(64, 128, 64),
    _stream(64, 64, 64, warps=4),
    _stream(32, 128, 128),
    _stream(32, 64, 64, warps=4),
)


#: Where sums are in tensor memory: the largest tile spills when it is written, and so do tiles that leave so many
#: registers that the assembler aims at more programs than it can serve.
_BLACKWELL = (
    _stream(64, 128, 128),
    _stream(64, 128, 64, warps=4),
    _stream(32, 128, 128),
    _stream(32, 128, 64, warps=4),
)


def _choose(images: int, k: int, c: int, tensor_memory: bool) -> Config:
    """The largest tile that wastes nothing, since each element of it is loaded once a step; then the longest steps."""
    ships = _BLACKWELL if tensor_memory else _SHIPPED
    fits = [t for t in ships if t.blocks["TN"] <= max(images, 32)]

    def loads(t: Config) -> tuple[int, int]:
        bk, bc = t.blocks["BLOCK_K"], t.blocks["BLOCK_C"]
        return cdiv(k, bk) * cdiv(c, bc) * (bk + bc), -t.blocks["TN"]

    return min(fits, key=loads)


def _interpreter(images: int, k: int, c: int, tensor_memory: bool) -> Config:
    return _stream(max(block(images, 1024), 16), max(block(k, 1024), 16), max(block(c, 1024), 16))


stream_conv2d_weight_grad_configs = Configs(
    "_stream_conv2d_weight_grad_kernel",
    _SHIPPED,
    _choose,
    _interpreter,
    {hardware.TENSOR_MEMORY: _BLACKWELL},
)


def taps_steps(found: Geometry) -> list[int]:
    """For each tap, how many output positions find it inside the image."""
    along = []
    for axis in range(2):
        padding, stride, size = found.padding[axis][0], found.stride[axis], found.x_shape[2 + axis]
        firsts = [cdiv(max(padding - tap, 0), stride) for tap in range(found.kernel[axis])]
        ends = [cdiv(max(size + padding - tap, 0), stride) for tap in range(found.kernel[axis])]
        along.append([max(min(end, found.out_shape[2 + axis]) - first, 0) for first, end in zip(firsts, ends)])
    return [rows * columns for rows in along[0] for columns in along[1]]


def stream_conv2d_weight_grad(found: Geometry, grad: Buffer, x: Buffer) -> Buffer:
    """The weight gradient of a convolution whose every tap meets the image somewhere.

    Args:
        found: the checked sizes; equal strides, dilation and groups 1.
        grad: (N, K, P, Q) in channels-last memory, float16 or bfloat16.
        x: (N, C, H, W) in channels-last memory, of the same dtype.

    Returns (K, C, R, S) in K·R·S·C order, accumulated in float32 and rounded once. Bits do not depend on the run, but on
    the number of multiprocessors.

    FLOPs: 2·N·K·P·Q·C·R·S less what falls on the padding; counted with it. Bytes: both operands read and the result
    written once, partial sums written and read besides.
    """
    images, k, p, q = found.out_shape
    _, c, h, w = found.x_shape
    tensor_memory = hardware.tensor_memory(x.device)
    config = stream_conv2d_weight_grad_configs(x.dtype, images=images, k=k, c=c, tensor_memory=tensor_memory)
    tn, bk, bc = (config.blocks[name] for name in ("TN", "BLOCK_K", "BLOCK_C"))
    batches, tiles, taps = cdiv(images, tn), cdiv(k, bk) * cdiv(c, bc), taps_steps(found)
    per_tile = sum(taps) * batches
    steps = tiles * per_tile
    programs = min(hardware.multiprocessors(x.device), steps)
    segments = cdiv(cdiv(steps, programs), min(taps) * batches) + 1
    partial = memory.empty((programs, segments, bk, bc), memory.float32, x.device)
    out = memory.empty(found.weight_shape, x.dtype, x.device, strides.channels_last_strides(found.weight_shape))
    sizes = batches, c, h, w, k, p, q, found.padding[0][0], found.padding[1][0]
    window = {"R": found.kernel[0], "S": found.kernel[1], "STRIDE": found.stride[0]}
    partial_bytes = tiles * len(taps) * bk * bc * 4
    launch(
        _stream_conv2d_weight_grad_kernel,
        (programs,),
        partial,
        TensorDescriptor(x, [images, h * w * c], [h * w * c, 1], [tn, bc]),
        TensorDescriptor(grad, [images, p * q * k], [p * q * k, 1], [tn, bk]),
        steps,
        per_tile,
        segments,
        *sizes,
        config=config,
        cost=Cost(found.flops, nbytes(grad) + found.bytes_read(x) + partial_bytes),
        device=x.device,
        **window,
    )
    rows = min(bk, 32)
    launch(
        _stream_sum_kernel,
        (tiles * len(taps), bk // rows),
        out,
        partial,
        steps,
        per_tile,
        segments,
        programs,
        *sizes,
        config=Config({"BLOCK_K": bk, "BLOCK_C": bc, "ROWS": rows}, num_warps=4, num_stages=1),
        cost=Cost(steps // per_tile * out.numel(), nbytes(out) + partial_bytes),
        device=x.device,
        **window,
    )
    return out
