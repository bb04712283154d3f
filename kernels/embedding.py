"""Rows of a table by their numbers, and bags of them: a sum, a mean or a maximum of the rows that each bag names.

    embedding:      out[i, :] = weight[index[i], :]
    embedding_bag:  out[b, :] = reduce over i in bag b of weight[index[i], :] · sample_weight[i]

A bag is a run of the index, from its offset to the next one's. A program reduces a tile of bags, so that the rows themselves
are never written. Numbers out of range raise where the host can see them (the CPU); on a GPU they fail a ``device_assert``
in debug mode and else are clamped.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.elementwise import contiguous, fill
from tinyflow.kernels.indexing import index as gather
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

MODES = ("sum", "mean", "max")


@triton.jit
def _embedding_bag_kernel(
    out_ptr,  # [bags, columns]
    chosen_ptr,  # [bags, columns]: the row of each maximum, −1 in an empty bag; else None
    counts_ptr,  # [bags]: how many rows a bag has
    weight_ptr,
    index_ptr,
    offsets_ptr,
    sample_weight_ptr,
    bags,
    columns,
    rows,
    entries,
    offset_count,
    padding,
    weight_stride_row,
    weight_stride_column,
    MODE: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tiles = tl.cdiv(columns, BLOCK_D)
    b = (tl.program_id(0) // tiles).to(INDEX) * BLOCK_B + tl.arange(0, BLOCK_B).to(INDEX)
    d = (tl.program_id(0) % tiles).to(INDEX) * BLOCK_D + tl.arange(0, BLOCK_D).to(INDEX)
    within = (b < bags)[:, None] & (d < columns)[None, :]
    first = tl.maximum(tl.load(offsets_ptr + b, mask=b < bags, other=0).to(tl.int64), 0)
    last = tl.load(offsets_ptr + b + 1, mask=b + 1 < offset_count, other=0).to(tl.int64)
    last = tl.where(b + 1 < offset_count, last, entries)
    last = tl.where(b < bags, tl.minimum(last, entries), first)
    count = tl.zeros([BLOCK_B], tl.int64)
    acc = tl.zeros([BLOCK_B, BLOCK_D], COMPUTE)
    chosen = tl.full([BLOCK_B, BLOCK_D], -1, tl.int64)
    for step in range(tl.max(last - first, axis=0)):
        at = first + step
        there = at < last
        row = tl.load(index_ptr + at, mask=there, other=0).to(tl.int64)
        tl.device_assert(((row >= 0) & (row < rows)) | (there == 0), "index out of range")
        there = there & (row != padding)
        row = tl.minimum(tl.maximum(row, 0), rows - 1)
        place = (row.to(INDEX) * weight_stride_row)[:, None] + (d * weight_stride_column)[None, :]
        value = tl.load(weight_ptr + place, mask=there[:, None] & within, other=0).to(COMPUTE)
        if sample_weight_ptr is not None:
            value *= tl.load(sample_weight_ptr + at, mask=there, other=0).to(COMPUTE)[:, None]
        if MODE == "max":
            greater = there[:, None] & ((chosen < 0) | (value > acc) | (value != value))
            acc = tl.where(greater, value, acc)
            chosen = tl.where(greater, row[:, None], chosen)
        else:
            acc += value
        count += there.to(tl.int64)
    if MODE == "mean":
        acc = acc / tl.maximum(count, 1).to(COMPUTE)[:, None]
    out_at = (b * columns)[:, None] + d[None, :]
    tl.store(out_ptr + out_at, acc.to(out_ptr.dtype.element_ty), mask=within)
    if chosen_ptr is not None:
        tl.store(chosen_ptr + out_at, chosen, mask=within)
    tl.store(counts_ptr + b, count, mask=(b < bags) & (tl.program_id(0) % tiles == 0))


_TILES = (Config({"BLOCK_B": 16, "BLOCK_D": 64}), Config({"BLOCK_B": 4, "BLOCK_D": 256}))


def _choose(bags: int, columns: int) -> Config:
    return _TILES[0] if columns <= 64 else _TILES[1]


def _whole(bags: int, columns: int) -> Config:
    block_d = block(columns)
    return Config({"BLOCK_B": block(bags, MAX_BLOCK // block_d), "BLOCK_D": block_d})


embedding_bag_configs = Configs("_embedding_bag_kernel", _TILES, _choose, _whole)


def _check(op: str, weight: Buffer, **integers: Buffer) -> None:
    dtypes.triton_dtype(weight.dtype)
    if weight.dim() != 2:
        raise RuntimeError(f"{op}: 'weight' must be 2-D, got shape {tuple(weight.shape)}")
    for name, x in integers.items():
        if x.dtype not in (memory.int64, memory.int32):
            raise RuntimeError(f"{op}: expected {name} of dtype int64 or int32, got {x.dtype}")


def _check_range(op: str, index: Buffer, rows: int) -> None:
    if index.device.type != "cpu" or index.numel() == 0:
        return
    array = memory.to_numpy(index)
    outside = (array < 0) | (array >= rows)
    if outside.any():
        raise IndexError(f"{op}: index out of range: expected numbers in [0, {rows}), got {array[outside].flat[0]}")


def _check_offsets(op: str, offsets: Buffer, entries: int) -> None:
    if offsets.device.type != "cpu" or offsets.numel() == 0:
        return
    array = memory.to_numpy(offsets)
    if array[0] != 0:
        raise RuntimeError(f"{op}: offsets[0] has to be 0, the start of the first bag, but got {array[0]}")
    if array[-1] > entries:
        raise RuntimeError(f"{op}: offsets[-1] can not be greater than input's length {entries}, but got {array[-1]}")


def embedding(weight: Buffer, index: Buffer) -> Buffer:
    """``out[i, :] = weight[index[i], :]``.

    Args:
        weight: (rows, columns), any strides and dtype.
        index: any shape, int64 or int32, in [0, rows).

    Returns (\\*index.shape, columns), contiguous. FLOPs 0. Bytes: the rows read and written once, and the index.

    Raises:
        RuntimeError: for another shape of ``weight`` or dtype of ``index``.
        IndexError: if a number is out of range (on a GPU in debug mode only).
    """
    _check("embedding", weight, index=index)
    check_same_device("embedding", weight=weight, index=index)
    _check_range("embedding", index, weight.shape[0])
    return gather(weight, [index])


def embedding_bag(
    weight: Buffer,
    index: Buffer,
    offsets: Buffer,
    bags: int,
    mode: str = "mean",
    sample_weights: Buffer | None = None,
    padding_idx: int = -1,
) -> tuple[Buffer, Buffer | None, Buffer]:
    """Reduces the rows that each bag names.

    Args:
        weight: (rows, columns), any strides, floating point; sums in float32 (float64 for float64).
        index: (entries,), int64 or int32, in [0, rows).
        offsets: at least (bags,), ascending, where each bag starts; a further one says where the last bag ends.
        bags: how many bags there are.
        mode: "sum", "mean" or "max"; an empty bag gives zeros.
        sample_weights: (entries,), of the dtype of ``weight``: a factor of each row.
        padding_idx: a row that does not count, or −1.

    Returns:
        ``out`` (bags, columns); for "max" the row of each maximum (bags, columns), −1 where a bag is empty, else None;
        and how many rows each bag has (bags,).

    Raises:
        RuntimeError, TypeError, IndexError: as :func:`embedding`, and if dtypes or devices do not fit.

    FLOPs: 2 an element. Least bytes: each named row read once, the result written once.
    """
    op = "embedding_bag"
    _check(op, weight, index=index, offsets=offsets)
    dtypes.check_floating(op, weight=weight, per_sample_weights=sample_weights)
    device = check_same_device(op, weight=weight, index=index, offsets=offsets, per_sample_weights=sample_weights)
    rows, columns = weight.shape
    _check_range(op, index, rows)
    _check_offsets(op, offsets, index.numel())
    index, offsets = contiguous(index), contiguous(offsets)
    out = memory.empty((bags, columns), weight.dtype, device)
    chosen = memory.empty((bags, columns), memory.int64, device) if mode == "max" else None
    counts = memory.empty((bags,), memory.int64, device)
    if out.numel() == 0:
        return out, chosen, fill(counts, 0)
    config = embedding_bag_configs(weight.dtype, bags=bags, columns=columns)
    read = index.numel() * columns
    launch(
        _embedding_bag_kernel,
        (cdiv(bags, config.blocks["BLOCK_B"]) * cdiv(columns, config.blocks["BLOCK_D"]),),
        out,
        chosen,
        counts,
        weight,
        index,
        offsets,
        None if sample_weights is None else contiguous(sample_weights),
        bags,
        columns,
        rows,
        index.numel(),
        offsets.numel(),
        padding_idx,
        *weight.stride(),
        config=config,
        cost=Cost(2 * read, read * weight.element_size() + nbytes(out, chosen, counts, index, offsets, sample_weights)),
        device=device,
        MODE=mode,
        COMPUTE=dtypes.compute_dtype(weight.dtype),
        INDEX=offset_dtype(weight, out),
    )
    return out, chosen, counts
