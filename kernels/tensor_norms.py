"""Norms of many tensors at once: one launch for partial results of all chunks, one that gathers each tensor's.

Tensors are found through a table of addresses (see ``tables``). Partial results are added in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides, tables
from tinyflow.kernels.arithmetic import square_root
from tinyflow.kernels.elementwise import copy, full
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, check_same_device, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.tables import pointers, tile

#: The orders: the sum of magnitudes, the root of the sum of squares, the largest and the smallest magnitude.
_ORDERS = {1.0: 1, 2.0: 2, math.inf: 3, -math.inf: 4}


@triton.jit
def _extreme(x, ORDER: tl.constexpr):
    """The largest or the smallest of each row; NaN, which a reduction by comparison drops, stays."""
    spoilt = tl.sum(tl.where(x == x, 0.0, 1.0), 1)
    if ORDER == 3:
        result = tl.max(tl.where(x == x, x, 0.0), 1)
    else:
        result = tl.min(tl.where(x == x, x, float("inf")), 1)
    return tl.where(spoilt > 0, float("nan"), result).to(x.dtype)


@triton.jit
def _partial_norms_kernel(
    addresses_ptr,  # (2, tensors): address, number of elements
    chunks_ptr,  # (2, chunks): tensor, first element
    tensors,
    chunks,
    partial_ptr,  # (chunks,)
    ORDER: tl.constexpr,
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chunk = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    tensor, start, listed, lane, mask = tile(chunk, chunks_ptr, chunks, addresses_ptr, 1, tensors, BLOCK)
    x_ptr = pointers(addresses_ptr, 0, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
    x = tl.abs(tl.load(x_ptr, mask=mask, other=0).to(COMPUTE))
    if ORDER == 1:
        result = tl.sum(x, 1)
    elif ORDER == 2:
        result = tl.sum(x * x, 1)
    elif ORDER == 3:
        result = _extreme(x, ORDER)
    else:
        result = _extreme(tl.where(mask, x, float("inf")), ORDER)
    tl.store(partial_ptr + chunk, result.to(COMPUTE), mask=listed)


@triton.jit
def _gather_norms_kernel(
    out_ptr,
    partial_ptr,
    first_ptr,  # (tensors + 1,): where each tensor's chunks begin
    out_at_ptr,  # (tensors,): where its norm is written
    tensors,
    most,  # chunks of one tensor
    ORDER: tl.constexpr,
    TENSORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tensor = tl.program_id(0) * TENSORS + tl.arange(0, TENSORS)
    exists = tensor < tensors
    first = tl.load(first_ptr + tensor, mask=exists, other=0)[:, None]
    end = tl.load(first_ptr + tensor + 1, mask=exists, other=0)[:, None]
    lane = tl.arange(0, BLOCK)[None, :]
    acc = tl.zeros([TENSORS, BLOCK], partial_ptr.dtype.element_ty)
    if ORDER == 4:
        acc += float("inf")
    for start in range(0, most, BLOCK):
        at = first + start + lane
        inside = at < end
        part = tl.load(partial_ptr + at, mask=inside, other=0)
        if ORDER < 3:
            acc += part
        elif ORDER == 3:
            acc = tl.maximum(acc, part, propagate_nan=tl.PropagateNan.ALL)
        else:
            acc = tl.where(inside, tl.minimum(acc, part, propagate_nan=tl.PropagateNan.ALL), acc)
    if ORDER < 3:
        result = tl.sum(acc, 1)
    else:
        result = _extreme(acc, ORDER)
    if ORDER == 2:
        result = square_root(result)
    tl.store(out_ptr + tl.load(out_at_ptr + tensor, mask=exists, other=0), result, mask=exists)


_GATHER = Config({"TENSORS": 1, "BLOCK": 512})
_GATHER_FEW = Config({"TENSORS": 16, "BLOCK": 8}, num_warps=1)


def _choose_gather(tensors: int, most: int) -> Config:
    return _GATHER if most > 32 else _GATHER_FEW


def _interpreter_gather(tensors: int, most: int) -> Config:
    lanes = block(most, 2**12)
    return Config({"TENSORS": block(tensors, 2**16 // lanes), "BLOCK": lanes})


configs = tables.configs("_partial_norms_kernel", 4096)
gather_configs = Configs("_gather_norms_kernel", (_GATHER, _GATHER_FEW), _choose_gather, _interpreter_gather)


def tensor_norms(tensors: Sequence[Buffer], order: float = 2.0) -> Buffer:
    """The norm of each tensor's elements: (tensors,), in float64 if one of them is, else in float32.

    Args:
        tensors: floating point, any shapes, strides and dtypes, on one device; an empty one's norm is 0.
        order: 1, 2, infinity or -infinity.

    FLOPs: two an element. Bytes: each tensor read once; a number for each chunk; tables of addresses and chunks.

    Raises:
        ValueError: for no tensors, another order, or an empty tensor's least magnitude.
        RuntimeError: if devices differ.
        TypeError: for what is not floating point.
    """
    if order not in _ORDERS:
        raise ValueError(f"tensor_norms: expected the order 1, 2, inf or -inf, got {order}")
    if not tensors:
        raise ValueError("tensor_norms: expected at least one tensor, got none")
    for k, x in enumerate(tensors):
        dtypes.check_floating("tensor_norms", **{f"tensor {k}": x})
        check_same_device("tensor_norms", first=tensors[0], **{f"tensor {k}": x})
    device = tensors[0].device
    wide = memory.float64 if any(x.dtype == memory.float64 for x in tensors) else memory.float32
    out = full((len(tensors),), 0.0, wide, device)
    groups: dict[tuple[memory.dtype, int], list[tuple[int, Buffer]]] = {}
    for k, x in enumerate(tensors):
        if x.numel():
            dense = x if memory.is_dense(x) else copy(x, layout=strides.like(x))
            groups.setdefault((x.dtype, tables.size_class(x.numel())), []).append((k, dense))
        elif order == -math.inf:
            raise ValueError(f"tensor_norms: expected elements to take the least of, got tensor {k} without any")
    for (dtype, _), chosen in groups.items():
        _launch(out, [x for _, x in chosen], [k for k, _ in chosen], dtype, _ORDERS[float(order)])
    return out


def _launch(out: Buffer, members: Sequence[Buffer], places: Sequence[int], dtype: memory.dtype, order: int) -> None:
    device = out.device
    sizes = tuple(x.numel() for x in members)
    config = configs(dtype, sizes=sizes)
    length = config.blocks["BLOCK"]
    chunks = tables.chunks(sizes, length, device)
    addresses, aligned = tables.addresses([(x,) for x in members], 2, device)
    compute = memory.float64 if dtype == memory.float64 else memory.float32
    partial = memory.empty((chunks.shape[1],), compute, device)
    launch(
        _partial_norms_kernel,
        (cdiv(chunks.shape[1], config.blocks["CHUNKS"]),),
        addresses,
        chunks,
        len(members),
        chunks.shape[1],
        partial,
        config=config,
        cost=Cost(2 * sum(sizes), sum(sizes) * dtype.itemsize + nbytes(partial, addresses, chunks)),
        device=device,
        ORDER=order,
        DTYPE=dtypes.triton_dtype(dtype),
        COMPUTE=dtypes.compute_dtype(dtype),
        ALIGN=aligned,
    )
    counts = [cdiv(n, length) for n in sizes]
    first = memory.upload(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), device)
    at = memory.upload(np.array(places, np.int64), device)
    gather = gather_configs(dtype, tensors=len(members), most=max(counts))
    launch(
        _gather_norms_kernel,
        (cdiv(len(members), gather.blocks["TENSORS"]),),
        out,
        partial,
        first,
        at,
        len(members),
        max(counts),
        config=gather,
        cost=Cost(partial.numel(), nbytes(partial, first, at) + len(members) * out.element_size()),
        device=device,
        ORDER=order,
    )
