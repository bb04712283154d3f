"""The weight gradient of a convolution of many channels, in equal shares for every multiprocessor of sm_90 and later.

``weight_grad[k, r, s, c] = Σ_{n, p, q} grad[n, p, q, k] · x[n, h, w, c]`` with ``h = p·stride − padding + r``, likewise w.
A step is one output position in TN images: a box of grad seen as (N, P·Q·K), and boxes of x seen as (N, H, W·C), which
feed the tensor core from shared memory on both sides whatever stride and padding. A program has a tile of K and C of one
tap, or of all three of a tap row: then a box of grad is fetched once for three products. Positions that no such tap finds
inside the image are never visited.

The steps of all tiles and taps form one row that is cut into as many equal parts as there are programs (Osama et al.
2023, "Stream-K"). A *segment* is the part of a program that belongs to one tile and its taps; the program leaves a
partial sum for each, and a second kernel adds those of a tile and tap in a fixed order.
"""

from __future__ import annotations

import functools
from typing import Any

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tinyflow.kernels import hardware, memory, strides
from tinyflow.kernels.conv2d import times
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def _positions(tap, padding, size, out_size, STRIDE: tl.constexpr, TAPS: tl.constexpr):
    """Along one axis: the first output position that finds one of TAPS taps from ``tap`` on in the image; how many do."""
    first = (tl.maximum(padding - tap - (TAPS - 1), 0) + STRIDE - 1) // STRIDE
    end = tl.minimum((tl.maximum(size + padding - tap, 0) + STRIDE - 1) // STRIDE, out_size)
    return first, tl.maximum(end - first, 0)


@triton.jit
def _steps_of_taps(group, sizes, S: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr):
    batches, _, H, W, _, P, Q, top, left = sizes
    _, rows = _positions(group * TAPS // S, top, H, P, STRIDE, 1)
    _, columns = _positions(group * TAPS % S, left, W, Q, STRIDE, TAPS)
    return rows * columns * batches


@triton.jit
def _segment_at(step, per_tile, sizes, R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr):
    """The tile and the group of TAPS taps that a step belongs to, their first step, and how many they have."""
    tile = step // per_tile
    within = step % per_tile
    group = tl.cast(0, tl.int32)
    first = tl.cast(0, tl.int32)
    count = tl.cast(0, tl.int32)
    at = tl.cast(0, tl.int32)
    for t in tl.range(R * S // TAPS):
        steps = _steps_of_taps(t, sizes, S, STRIDE, TAPS)
        here = (within >= at) & (within < at + steps)
        group = tl.where(here, t, group)
        first = tl.where(here, at, first)
        count = tl.where(here, steps, count)
        at += steps
    return tile, group, tile * per_tile + first, count


@triton.jit
def _first_step(program, steps, programs):
    return (tl.cast(program, tl.int64) * steps // programs).to(tl.int32)


@triton.jit
def _add(x, grad, acc, n, h, w, TN: tl.constexpr, BLOCK_C: tl.constexpr):
    return tl.dot(grad, x.load([n, h, w]).reshape(TN, BLOCK_C), acc, input_precision="ieee")


@triton.jit
def _stream_conv2d_weight_grad_kernel(
    partial_ptr,  # partial[program, segment, tap, tile row of K, tile column of C]
    x,  # boxes of x[n, h, (w, c)]
    grad,  # boxes of grad[n, (p, q, k)]
    steps,
    per_tile,
    segments,
    sizes,  # batches, C, H, W, K, P, Q, top, left
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE: tl.constexpr,
    TN: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TAPS: tl.constexpr,
):
    batches, C, H, W, K, P, Q, top, left = sizes
    program = tl.program_id(0)
    step = _first_step(program, steps, tl.num_programs(0))
    end = _first_step(program + 1, steps, tl.num_programs(0))
    at = tl.arange(0, BLOCK_K)[:, None] * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    for segment in tl.range(segments):
        tile, group, first, count = _segment_at(tl.minimum(step, steps - 1), per_tile, sizes, R, S, STRIDE, TAPS)
        r = group * TAPS // S
        s = group * TAPS % S
        tiles_k = tl.cdiv(K, BLOCK_K)
        k = tile % tiles_k * BLOCK_K
        c = tile // tiles_k * BLOCK_C
        row, _ = _positions(r, top, H, P, STRIDE, 1)
        column, columns = _positions(s, left, W, Q, STRIDE, TAPS)
        last = tl.minimum(first + count, end)
        acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
        if TAPS == 3:
            second = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
            third = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
        for i in tl.range(step, last):
            position = (i - first) // batches
            n = (i - first) % batches * TN
            p = row + position // columns
            q = column + position % columns
            h = p * STRIDE - top + r
            w = (q * STRIDE - left + s) * C + c
            g = grad.load([n, (p * Q + q) * K + k]).T
            acc = _add(x, g, acc, n, h, w, TN, BLOCK_C)
            if TAPS == 3:
                second = _add(x, g, second, n, h, w + C, TN, BLOCK_C)
                third = _add(x, g, third, n, h, w + 2 * C, TN, BLOCK_C)
        slot = tl.cast(program * segments + segment, tl.int64) * (TAPS * BLOCK_K * BLOCK_C)
        out_ptr = partial_ptr + slot + at
        tl.store(out_ptr, acc, mask=step < end)  # Triton 3.6 fails on a branch around it for sm_100
        if TAPS == 3:
            tl.store(out_ptr + BLOCK_K * BLOCK_C, second, mask=step < end)
            tl.store(out_ptr + 2 * BLOCK_K * BLOCK_C, third, mask=step < end)
        step = tl.maximum(step, last)


@triton.jit
def _stream_sum_kernel(
    out_ptr,  # out[k, (r, s), c]
    partial_ptr,  # partial[program, segment, tap, tile row of K, tile column of C]
    steps,
    per_tile,
    segments,
    programs,
    sizes,  # batches, C, H, W, K, P, Q, top, left
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    GROUPS: tl.constexpr = R * S // TAPS
    _, C, _, _, K, _, _, _, _ = sizes
    tile = tl.program_id(0) // (R * S)
    tap = tl.program_id(0) % (R * S)
    group = tap // TAPS
    begin = tile * per_tile
    for t in tl.range(group):
        begin += _steps_of_taps(t, sizes, S, STRIDE, TAPS)
    count = _steps_of_taps(group, sizes, S, STRIDE, TAPS)
    first = ((tl.cast(begin + 1, tl.int64) * programs - 1) // steps).to(tl.int32)
    last = ((tl.cast(begin + count, tl.int64) * programs - 1) // steps).to(tl.int32)
    # the first program may come from tiles and taps before; all that follow begin here
    start = _first_step(first, steps, programs)
    its_tile, its_group, _, _ = _segment_at(start, per_tile, sizes, R, S, STRIDE, TAPS)
    before = (tile - its_tile) * GROUPS + group - its_group
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_C)
    at = tap % TAPS * (BLOCK_K * BLOCK_C) + row[:, None] * BLOCK_C + column[None, :]
    acc = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for program in tl.range(first, last + 1, PARTS):
        part = program + tl.arange(0, PARTS)
        slot = (part * segments + tl.where(part == first, before, 0)).to(tl.int64) * (TAPS * BLOCK_K * BLOCK_C)
        sums = tl.load(partial_ptr + slot[:, None, None] + at[None, :, :], mask=(part <= last)[:, None, None], other=0)
        acc += tl.sum(sums, axis=0)
    tiles_k = tl.cdiv(K, BLOCK_K)
    k = tile % tiles_k * BLOCK_K + row
    c = tile // tiles_k * BLOCK_C + column
    out = out_ptr + ((k * (R * S) + tap) * C)[:, None] + c[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=(k < K)[:, None] & (c < C)[None, :])


#: Of the second kernel: the most partial sums that a program loads at a time, and elements of each. One by one, those of a
#: small convolution would be a chain of as many loads as there are multiprocessors.
_PARTS, _SUMMED = 16, 1024


def _stream(images: int, k: int, c: int, taps: int = 1, warps: int = 8, stages: int = 4) -> Config:
    return Config({"TN": images, "BLOCK_K": k, "BLOCK_C": c, "TAPS": taps}, num_warps=warps, num_stages=stages)


_SHIPPED = (
    _stream(64, 256, 128),
    _stream(64, 128, 128),
    _stream(64, 128, 64),
    _stream(64, 64, 64, warps=4),
    _stream(64, 128, 128, taps=3, stages=3),
    _stream(64, 256, 64, taps=3, stages=3),
    _stream(64, 128, 64, taps=3),
    _stream(32, 128, 128),
    _stream(32, 64, 64, warps=4),
    _stream(32, 128, 128, taps=3),
)


#: Where sums are in tensor memory: the largest tile spills when it is written, and so do tiles that leave so many
#: registers that the assembler aims at more programs than it can serve.
_BLACKWELL = (
    _stream(64, 128, 128),
    _stream(64, 128, 64, warps=4),
    _stream(32, 128, 128),
    _stream(32, 128, 64, warps=4),
)


@functools.lru_cache(maxsize=4096)
def _choose(
    images: int, positions: int, taps: tuple[int, int], k: int, c: int, multiprocessors: int, tensor_memory: bool
) -> Config:
    """The quickest by estimate: even shares of products or of boxes, then a tile is left for each segment."""
    ships = _BLACKWELL if tensor_memory else _SHIPPED
    fits = [t for t in ships if t.blocks["TN"] <= max(images, 32) and taps[1] % t.blocks["TAPS"] == 0]

    def estimate(t: Config) -> float:
        tn, bk, bc, together = (t.blocks[name] for name in ("TN", "BLOCK_K", "BLOCK_C", "TAPS"))
        groups = cdiv(k, bk) * cdiv(c, bc) * (taps[0] * taps[1] // together)
        steps, written = groups * positions * cdiv(images, tn) / multiprocessors, bk * bc * together
        partial = (multiprocessors + groups) * written * 4
        return times.of(
            flops=steps * 2 * tn * written,
            fetched=steps * tn * (bk + bc * together) * 2,
            moved=(images * positions * (k + c) * 2 + partial) / multiprocessors,
            turns=steps,
            tiles=groups / multiprocessors + 1,
            written=written,
        ) + partial / (times.MEMORY * multiprocessors)

    return times.first_of_the_quickest(fits, estimate)


def _interpreter(images: int, k: int, c: int, **_: Any) -> Config:
    return _stream(max(block(images, 1024), 16), max(block(k, 1024), 16), max(block(c, 1024), 16))


stream_conv2d_weight_grad_configs = Configs(
    "_stream_conv2d_weight_grad_kernel",
    _SHIPPED,
    _choose,
    _interpreter,
    {hardware.TENSOR_MEMORY: _BLACKWELL},
)


def taps_steps(found: Geometry, together: int = 1) -> list[int]:
    """For each tap, or ``together`` neighbours in a row, how many output positions find one inside the image."""
    along = []
    for axis, taps in enumerate((1, together)):
        padding, stride, size = found.padding[axis][0], found.stride[axis], found.x_shape[2 + axis]
        begins = range(0, found.kernel[axis], taps)
        firsts = [cdiv(max(padding - tap - (taps - 1), 0), stride) for tap in begins]
        ends = [cdiv(max(size + padding - tap, 0), stride) for tap in begins]
        along.append([max(min(end, found.out_shape[2 + axis]) - first, 0) for first, end in zip(firsts, ends)])
    return [rows * columns for rows in along[0] for columns in along[1]]


def stream_conv2d_weight_grad(found: Geometry, grad: Buffer, x: Buffer, dtype: memory.dtype | None = None) -> Buffer:
    """The weight gradient of a convolution whose every tap meets the image somewhere.

    Args:
        found: the checked sizes; equal strides, dilation and groups 1.
        grad: (N, K, P, Q) in channels-last memory, float16 or bfloat16.
        x: (N, C, H, W) in channels-last memory, of the same dtype.
        dtype: of the result; default: that of ``x``.

    Returns (K, C, R, S) in K·R·S·C order, accumulated in float32 and rounded once. Bits do not depend on the run, but on
    the number of multiprocessors.

    FLOPs: 2·N·K·P·Q·C·R·S less what falls on the padding; counted with it. Bytes: both operands read and the result
    written once, partial sums written and read besides.
    """
    images, k, p, q = found.out_shape
    _, c, h, w = found.x_shape
    config = stream_conv2d_weight_grad_configs(
        x.dtype,
        images=images,
        positions=p * q,
        taps=found.kernel,
        k=k,
        c=c,
        multiprocessors=hardware.multiprocessors(x.device),
        tensor_memory=hardware.tensor_memory(x.device),
    )
    tn, bk, bc, together = (config.blocks[name] for name in ("TN", "BLOCK_K", "BLOCK_C", "TAPS"))
    batches, tiles, groups = cdiv(images, tn), cdiv(k, bk) * cdiv(c, bc), taps_steps(found, together)
    per_tile = sum(groups) * batches
    steps = tiles * per_tile
    programs = min(hardware.multiprocessors(x.device), steps)
    segments = cdiv(cdiv(steps, programs), min(groups) * batches) + 1
    partial = memory.empty((programs, segments, together, bk, bc), memory.float32, x.device)
    out = strides.empty_channels_last(found.weight_shape, dtype or x.dtype, x.device)
    sizes = batches, c, h, w, k, p, q, found.padding[0][0], found.padding[1][0]
    window = {"R": found.kernel[0], "S": found.kernel[1], "STRIDE": found.stride[0]}
    # the least: one sum for each tile and tap. Where a program's share ends a sum more is left, for the second-level cache
    partial_bytes = tiles * len(groups) * together * bk * bc * 4
    launch(
        _stream_conv2d_weight_grad_kernel,
        (programs,),
        partial,
        TensorDescriptor(x, [images, h, w * c], [h * w * c, w * c, 1], [tn, 1, bc]),
        TensorDescriptor(grad, [images, p * q * k], [p * q * k, 1], [tn, bk]),
        steps,
        per_tile,
        segments,
        sizes,
        config=config,
        cost=Cost(found.flops, nbytes(grad) + found.bytes_read(x) + partial_bytes),
        device=x.device,
        **window,
    )
    parts = block(cdiv(programs, tiles * len(groups)) + 1, _PARTS)
    rows = min(max(_SUMMED // bc, 1), bk)
    taps = found.kernel[0] * found.kernel[1]
    launch(
        _stream_sum_kernel,
        (tiles * taps, bk // rows),
        out,
        partial,
        steps,
        per_tile,
        segments,
        programs,
        sizes,
        config=Config(
            {"BLOCK_K": bk, "BLOCK_C": bc, "TAPS": together, "ROWS": rows, "PARTS": parts}, num_warps=4, num_stages=1
        ),
        cost=Cost(partial_bytes // 4, nbytes(out) + partial_bytes),
        device=x.device,
        **window,
    )
    return out
