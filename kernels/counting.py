"""Binary search in sorted rows, and counting in bins.

Counts are integers, so that the atomic additions of many programs give one result in every order.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.addressing import float_bits, float_from_bits, offsets, stored_bool_as_int, walk
from tinyflow.kernels.elementwise import contiguous, fill
from tinyflow.kernels.launch import (
    MAX_BLOCK,
    Config,
    Configs,
    Cost,
    block,
    cdiv,
    check_same_device,
    launch,
    nbytes,
    offset_dtype,
)
from tinyflow.kernels.memory import Buffer


@triton.jit
def _search_kernel(
    sequence_ptr,  # (rows, length), contiguous; one row for all values if SHARED
    sorter_ptr,  # places that sort each row, laid out as sequence; or None
    values_ptr,  # (rows, count), contiguous
    out_ptr,
    numel,
    count,
    length,
    steps,
    RIGHT: tl.constexpr,
    SHARED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < numel
    value = stored_bool_as_int(tl.load(values_ptr + i, mask=mask, other=0)).to(COMPUTE)
    if SHARED:
        row = i * 0
    else:
        row = (i // count) * length
    low = tl.zeros((BLOCK,), tl.int64)
    high = low + length
    for _ in range(steps):
        open = mask & (low < high)
        middle = (low + high) // 2
        at = middle
        if sorter_ptr is not None:
            at = tl.load(sorter_ptr + row + middle, mask=open, other=0)
            tl.device_assert((at >= 0) & (at < length), "sorter index out of range")
            at = tl.minimum(tl.maximum(at, 0), length - 1)
        found = stored_bool_as_int(tl.load(sequence_ptr + row + at, mask=open, other=0)).to(COMPUTE)
        if RIGHT:
            before = (found > value) == 0
        else:
            before = (found >= value) == 0
        low = tl.where(open & before, middle + 1, low)
        high = tl.where(open & (before == 0), middle, high)
    tl.store(out_ptr + i, low.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _count_kernel(
    x_ptr,
    counts_ptr,
    numel,
    bins,
    low_bits,
    high_bits,
    sizes,
    x_strides,
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    mask = i < numel
    x = stored_bool_as_int(tl.load(x_ptr + offsets(i, sizes, x_strides, DIMS), mask=mask, other=0)).to(COMPUTE)
    if COMPUTE.is_floating():
        low = float_from_bits(low_bits).to(COMPUTE)
        high = float_from_bits(high_bits).to(COMPUTE)
        mask = mask & (x >= low) & (x <= high)
        x = tl.where(mask, x, low)
        bin = tl.minimum(((x - low) * bins / (high - low)).to(tl.int64), bins - 1)
    else:
        mask = mask & (x >= 0) & (x < bins)
        bin = tl.where(mask, x, 0)
    tl.atomic_add(counts_ptr + bin, tl.full((BLOCK,), 1, tl.int64), mask=mask)


_LINE = Config({"BLOCK": 512})


def _interpreter(count: int) -> Config:
    return Config({"BLOCK": block(count, MAX_BLOCK)})


search_configs = Configs("_search_kernel", (_LINE,), lambda count: _LINE, _interpreter)
count_configs = Configs("_count_kernel", (_LINE,), lambda count: _LINE, _interpreter)


def _check_sorter(sorter: Buffer | None, length: int) -> None:
    """Refuses a sorter that leaves its rows, where the host can see it; on a GPU its places are clamped."""
    if sorter is None or sorter.device.type != "cpu" or sorter.numel() == 0:
        return
    array = memory.to_numpy(sorter)
    outside = (array < 0) | (array >= length)
    if outside.any():
        raise RuntimeError(
            f"searchsorted(): sorter index out of range: expected places in [0, {length}), got {array[outside].flat[0]}"
        )


def searchsorted(
    sequence: Buffer, values: Buffer, out_int32: bool = False, right: bool = False, sorter: Buffer | None = None
) -> Buffer:
    """For each value the first place in its ascending row of ``sequence`` before which it may be put and keep it in order.

    Args:
        sequence: ``(*, length)``, or a vector for all values.
        values: ``(*, count)`` with the same leading sizes, any shape for a vector; the dtype of ``sequence``.
        right: after equal elements, not before them.
        sorter: int64 places that sort each row, of the shape of ``sequence``.

    Returns int64 (``out_int32``: int32) in the shape of ``values``. A NaN stands after every number. FLOPs 0. Bytes: the
    values and the result, and about log₂ ``length`` elements for each.

    Raises:
        RuntimeError: if dtypes or leading sizes differ, or a place of the sorter is out of range (on a GPU in debug mode
        only).
    """
    device = check_same_device("searchsorted", sorted_sequence=sequence, input=values, sorter=sorter)
    if sequence.dtype != values.dtype:
        raise RuntimeError(
            "searchsorted(): boundary tensor and input value tensor should have same dtype, but got boundary tensor "
            f"{sequence.dtype} and input value tensor {values.dtype}"
        )
    shared = sequence.dim() == 1
    if not shared and tuple(sequence.shape[:-1]) != tuple(values.shape[:-1]):
        raise RuntimeError(
            "searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries tensor and "
            f"input value tensor must match, but we got boundaries tensor {list(sequence.shape)} and input value tensor "
            f"{list(values.shape)}"
        )
    if sorter is not None and (sorter.shape != sequence.shape or sorter.dtype != memory.int64):
        raise RuntimeError(
            "searchsorted(): boundary and sorter must have the same size and sorter int64, but got boundary tensor "
            f"{list(sequence.shape)} and sorter {sorter.dtype} {list(sorter.shape)}"
        )
    length = sequence.shape[-1]
    _check_sorter(sorter, length)
    out = memory.empty(values.shape, memory.int32 if out_int32 else memory.int64, device)
    if length == 0:
        return fill(out, 0)
    sequence, values = contiguous(sequence), contiguous(values)
    sorter = None if sorter is None else contiguous(sorter)
    config = search_configs(count=values.numel())
    launch(
        _search_kernel,
        (cdiv(values.numel(), config.blocks["BLOCK"]),),
        sequence,
        sorter,
        values,
        out,
        values.numel(),
        values.shape[-1] if values.dim() else 1,
        length,
        length.bit_length(),
        config=config,
        cost=Cost(0, nbytes(values, out) * 2),
        device=device,
        RIGHT=right,
        SHARED=shared,
        COMPUTE=dtypes.compute_dtype(sequence.dtype) if sequence.dtype != memory.bool_ else tl.int64,
    )
    return out


def _count(x: Buffer, bins: int, low: float, high: float, compute: Any) -> Buffer:
    counts = fill(memory.empty((bins,), memory.int64, x.device), 0)
    if x.numel() and bins:
        sizes, (x_strides,) = walk(x.shape, x.stride())
        config = count_configs(count=x.numel())
        launch(
            _count_kernel,
            (cdiv(x.numel(), config.blocks["BLOCK"]),),
            x,
            counts,
            x.numel(),
            bins,
            float_bits(low),
            float_bits(high),
            sizes,
            x_strides,
            config=config,
            cost=Cost(0, nbytes(x, counts)),
            device=x.device,
            DIMS=len(sizes),
            COMPUTE=compute,
            INDEX=offset_dtype(x),
        )
    return counts


def count_integers(x: Buffer, bins: int) -> Buffer:
    """How many elements of an integer ``x`` are 0, 1, … ``bins`` − 1: int64. FLOPs 0. Bytes: ``x`` read once."""
    return _count(x, bins, 0.0, 0.0, tl.int64)


def count_in_bins(x: Buffer, bins: int, low: float, high: float) -> Buffer:
    """How many elements of ``x`` lie in each of ``bins`` equal parts of [low, high]: int64.

    Part k holds low + k·w <= x < low + (k+1)·w, the last one its end as well; what is outside, or NaN, counts nowhere.
    FLOPs: three an element. Bytes: ``x`` read once.
    """
    compute = dtypes.compute_dtype(x.dtype) if x.dtype.is_floating_point else tl.float64
    return _count(x, bins, low, high, compute)
