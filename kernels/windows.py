"""Windows that slide over one or two dimensions, laid out apart (unfold), and their transpose, overlapping sums (fold).

Tap ``(a, b)`` of window ``(i, j)`` stands at ``h = i · stride_h + a · dilation_h − padding_h``, and so across. Unfolding
is a strided view and one copy. Folding gathers: each position adds up the windows that cover it, in a fixed order, without
atomics.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets, stored_bool_as_int, walk
from tinyflow.kernels.elementwise import copy_into
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.padding import pad

Pair = tuple[int, int]


@triton.jit
def _fold_kernel(
    x_ptr,
    out_ptr,
    batch,
    height,
    width,
    kernel_h,
    kernel_w,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    windows_h,
    windows_w,
    batch_sizes,
    x_batch_strides,
    out_batch_strides,
    x_stride_a,  # from tap to tap, down and across
    x_stride_b,
    x_stride_i,  # from window to window, down and across
    x_stride_j,
    out_stride_h,
    out_stride_w,
    BATCH_DIMS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    program = tl.program_id(0).to(INDEX)
    tiles = tl.cdiv(height * width, BLOCK_P)
    b = (program // tiles) * BLOCK_B + tl.arange(0, BLOCK_B).to(INDEX)
    p = (program % tiles) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    h = p // width
    w = p % width
    x_batch = offsets(b, batch_sizes, x_batch_strides, BATCH_DIMS)
    total = tl.zeros((BLOCK_B, BLOCK_P), ACCUMULATOR)
    for tap in range(kernel_h * kernel_w):
        down = tl.cast(tap, INDEX) // kernel_w
        across = tl.cast(tap, INDEX) % kernel_w
        i = h + padding_h - down * dilation_h
        j = w + padding_w - across * dilation_w
        covered = (p < height * width) & (i >= 0) & (j >= 0) & (i % stride_h == 0) & (j % stride_w == 0)
        i = i // stride_h
        j = j // stride_w
        covered = covered & (i < windows_h) & (j < windows_w)
        at = down * x_stride_a + across * x_stride_b + i * x_stride_i + j * x_stride_j
        x = tl.load(x_ptr + x_batch[:, None] + at[None, :], mask=(b < batch)[:, None] & covered[None, :], other=0)
        total += stored_bool_as_int(x).to(ACCUMULATOR)
    out_at = offsets(b, batch_sizes, out_batch_strides, BATCH_DIMS)[:, None]
    out_at += (h * out_stride_h + w * out_stride_w)[None, :]
    mask = (b < batch)[:, None] & (p < height * width)[None, :]
    if out_ptr.dtype.element_ty == tl.int1:
        tl.store(out_ptr + out_at, total != 0, mask=mask)
    else:
        tl.store(out_ptr + out_at, total.to(out_ptr.dtype.element_ty), mask=mask)


_PLANES = Config({"BLOCK_B": 1, "BLOCK_P": 512})
_SMALL_PLANES = Config({"BLOCK_B": 16, "BLOCK_P": 32})
_CHANNELS = Config({"BLOCK_B": 64, "BLOCK_P": 8})


def _choose(batch: int, positions: int, batch_innermost: bool) -> Config:
    if batch_innermost and batch >= 16:
        return _CHANNELS
    return _PLANES if positions >= 128 else _SMALL_PLANES


def _interpreter(batch: int, positions: int, batch_innermost: bool) -> Config:
    p = block(positions)
    return Config({"BLOCK_B": block(batch, MAX_BLOCK // p), "BLOCK_P": p})


fold_configs = Configs("_fold_kernel", (_PLANES, _SMALL_PLANES, _CHANNELS), _choose, _interpreter)


def count(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many windows fit into ``size`` positions."""
    return (size - dilation * (kernel - 1) - 1) // stride + 1


def fold(
    x: Buffer, size: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1), batch_dims: int = 2
) -> Buffer:
    """Sums of overlapping windows: ``out[…, h, w] = Σ x[…, a, b, i, j]`` over the taps (a, b) of the windows (i, j) there.

    Args:
        x: ``batch_dims`` dimensions, then (kernel_h, kernel_w, windows_h, windows_w), any strides and dtype.
        size: (height, width) of the result, without the padding.

    Returns ``batch_dims`` dimensions, then ``size``. Accumulates in float32 (float64, int64). FLOPs: one an element of
    ``x``. Bytes: ``x`` read, the result written, once.
    """
    batch = tuple(x.shape[:batch_dims])
    out = memory.empty((*batch, *size), x.dtype, x.device)
    return _overlap_add(x, out, size, out.stride(), batch, x.stride(), stride, padding, dilation)


def _overlap_add(
    x: Buffer,
    out: Buffer,
    size: Pair,
    out_strides: Sequence[int],
    batch: Sequence[int],
    x_strides: Sequence[int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    kernel: Pair | None = None,
    windows: Pair | None = None,
) -> Buffer:
    """As :func:`fold`; the strides are of (batch, window's taps, windows) and (batch, positions)."""
    if out.numel() == 0:
        return out
    kernel_h, kernel_w = kernel or tuple(x.shape[-4:-2])
    windows_h, windows_w = windows or tuple(x.shape[-2:])
    d = len(batch)
    sizes, (out_batch, x_batch) = walk(batch, out_strides[:d], x_strides[:d])
    rows, positions = strides.numel(batch), size[0] * size[1]
    config = fold_configs(x.dtype, batch=rows, positions=positions, batch_innermost=out_batch[-1] == 1)
    launch(
        _fold_kernel,
        (cdiv(rows, config.blocks["BLOCK_B"]) * cdiv(positions, config.blocks["BLOCK_P"]),),
        x,
        out,
        rows,
        *size,
        kernel_h,
        kernel_w,
        *stride,
        *padding,
        *dilation,
        windows_h,
        windows_w,
        sizes,
        x_batch,
        out_batch,
        *x_strides[d:],
        *out_strides[d:],
        config=config,
        cost=Cost(x.numel(), nbytes(x, out)),
        device=x.device,
        BATCH_DIMS=len(sizes),
        ACCUMULATOR=dtypes.triton_dtype(dtypes.accumulate_dtype(x.dtype)),
        INDEX=offset_dtype(x, out),
    )
    return out


def fold_dim(grad: Buffer, shape: Sequence[int], dim: int, step: int) -> Buffer:
    """The transpose of the windows of one dimension: ``out[…, h, …] = Σ grad[…, i, …, a]`` over ``i · step + a = h``.

    ``grad``: a window's taps last, the windows at ``dim``; ``shape``: that of the result. FLOPs and bytes as :func:`fold`.
    """
    out = memory.empty(tuple(shape), grad.dtype, grad.device)
    rest = [d for d in range(out.dim()) if d != dim]
    return _overlap_add(
        grad,
        out,
        (1, shape[dim]),
        [*(out.stride(d) for d in rest), 0, out.stride(dim)],
        [shape[d] for d in rest],
        [*(grad.stride(d) for d in rest), 0, grad.stride(-1), 0, grad.stride(dim)],
        (1, step),
        (0, 0),
        (1, 1),
        (1, grad.shape[-1]),
        (1, grad.shape[dim]),
    )


def unfold(x: Buffer, kernel: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1)) -> Buffer:
    """Windows laid out apart: (N, C, H, W) to a new, contiguous (N, C, kernel_h, kernel_w, windows_h, windows_w).

    Any strides and dtype; positions in the padding are 0. FLOPs 0. Bytes: ``x`` read, the result written, once; with padding
    a padded ``x`` is written and read besides.
    """
    if padding != (0, 0):
        height, width = (n + 2 * p for n, p in zip(x.shape[2:], padding))
        x = pad(x, (*x.shape[:2], height, width), (0, 0, *padding))
    n, c, *size = x.shape
    windows = [count(*numbers) for numbers in zip(size, kernel, stride, dilation)]
    steps = [st * d for st, d in zip(x.stride()[2:], dilation)] + [st * s for st, s in zip(x.stride()[2:], stride)]
    shown = memory.as_strided(x, (n, c, *kernel, *windows), (*x.stride()[:2], *steps))
    return copy_into(memory.empty(shown.shape, x.dtype, x.device), shown)
