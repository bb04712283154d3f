"""Gradient scaling for float16: unscaling all gradients in one launch, and moving the scale, without the host.

Gradients are found through a table of addresses (see ``tables``). Each program unscales a tile and writes whether it saw
an infinity or a NaN; the greatest of these words says so for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides, tables
from tinyflow.kernels.addressing import float_bits, float_from_bits
from tinyflow.kernels.elementwise import copy, copy_into, full
from tinyflow.kernels.launch import Config, Cost, cdiv, check_same_device, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.reduction import amax
from tinyflow.kernels.tables import pointers, tile


@triton.jit
def _is_finite(x):
    return tl.abs(x) < float("inf")  # false for a NaN too


@triton.jit
def _unscale_kernel(
    addresses_ptr,  # (2, tensors): gradient, number of elements
    chunks_ptr,  # (2, chunks): tensor, first element
    tensors,
    chunks,
    scale_ptr,  # one float32
    found_ptr,  # (programs,) float32
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chunk = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    tensor, start, listed, lane, mask = tile(chunk, chunks_ptr, chunks, addresses_ptr, 1, tensors, BLOCK)
    g_ptr = pointers(addresses_ptr, 0, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
    g = tl.load(g_ptr, mask=mask, other=0).to(COMPUTE)
    inverse = (1.0 / tl.load(scale_ptr).to(tl.float64)).to(COMPUTE)
    tl.store(g_ptr, (g * inverse).to(DTYPE), mask=mask)
    lost = tl.where(_is_finite(g), 0.0, 1.0)
    tl.store(found_ptr + tl.program_id(0), tl.max(tl.max(lost, 1), 0).to(tl.float32))


@triton.jit(do_not_specialize=["growth_factor", "backoff_factor", "growth_interval"])
def _update_scale_kernel(scale_ptr, tracker_ptr, found_inf_ptr, growth_factor, backoff_factor, growth_interval):
    scale = tl.load(scale_ptr)
    good_steps = tl.load(tracker_ptr) + 1
    lost = tl.load(found_inf_ptr) != 0
    smaller = scale * float_from_bits(backoff_factor).to(tl.float32)
    larger = scale * float_from_bits(growth_factor).to(tl.float32)
    larger = tl.where(_is_finite(larger), larger, scale)
    grows = good_steps == growth_interval
    tl.store(scale_ptr, tl.where(lost, smaller, tl.where(grows, larger, scale)))
    tl.store(tracker_ptr, tl.where(lost | grows, 0, good_steps))


_ONE = Config({}, num_warps=1)
unscale_configs = tables.configs("_unscale_kernel", 2048)


def unscale(grads: Sequence[Buffer], scale: Buffer) -> Buffer:
    """``g ← g / scale`` for every gradient, in place; returns float32 (): 1 if any element was infinite or NaN, else 0.

    Args:
        grads: floating point, any shapes, strides and dtypes, on the device of ``scale``.
        scale: float32 ().

    Half precision computes in float32. FLOPs: one an element. Bytes: gradients read and written once, and the tables.

    Raises:
        RuntimeError: if the devices differ, or two gradients' elements share memory within one.
        TypeError: for gradients that are not floating point.
    """
    for k, g in enumerate(grads):
        dtypes.check_floating("unscale", **{f"gradient {k}": g})
        check_same_device("unscale", scale=scale, **{f"gradient {k}": g})
    written_back: list[tuple[Buffer, Buffer]] = []
    groups: dict[tuple[memory.dtype, int], list[tuple[Buffer]]] = {}
    for g in grads:
        if g.numel():
            dense = g if memory.is_dense(g) else copy(g, layout=strides.like(g))
            if dense is not g:
                written_back.append((g, dense))
            groups.setdefault((g.dtype, tables.size_class(g.numel())), []).append((dense,))
    if not groups:
        return full((), 0.0, memory.float32, scale.device)
    plans = [_plan(dtype, members, scale.device) for (dtype, _), members in groups.items()]
    found = memory.empty((sum(programs for *_, programs in plans),), memory.float32, scale.device)
    at = 0
    for dtype, members, config, chunks, programs in plans:
        _launch_unscale(dtype, members, config, chunks, scale, memory.as_strided(found, (programs,), (1,), at))
        at += programs
    for g, dense in written_back:
        copy_into(g, dense)
    return amax(found)


Plan = tuple[memory.dtype, list[tuple[Buffer]], Config, Buffer, int]


def _plan(dtype: memory.dtype, members: list[tuple[Buffer]], device: memory.device) -> Plan:
    sizes = tuple(m[0].numel() for m in members)
    config = unscale_configs(sizes=sizes)
    chunks = tables.chunks(sizes, config.blocks["BLOCK"], device)
    return dtype, members, config, chunks, cdiv(chunks.shape[1], config.blocks["CHUNKS"])


def _launch_unscale(
    dtype: memory.dtype, members: list[tuple[Buffer]], config: Config, chunks: Buffer, scale: Buffer, found: Buffer
) -> None:
    addresses, aligned = tables.addresses(members, 2, scale.device)
    elements = sum(m[0].numel() for m in members)
    launch(
        _unscale_kernel,
        (found.numel(),),
        addresses,
        chunks,
        len(members),
        chunks.shape[1],
        scale,
        found,
        config=config,
        cost=Cost(elements, 2 * elements * dtype.itemsize + nbytes(addresses, chunks, scale, found)),
        device=scale.device,
        DTYPE=dtypes.triton_dtype(dtype),
        COMPUTE=dtypes.compute_dtype(dtype),
        ALIGN=aligned,
    )


def update_scale(
    scale: Buffer,
    growth_tracker: Buffer,
    found_inf: Buffer,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
) -> None:
    """Moves the scale after a step, in place::

        scale ← scale · backoff_factor, tracker ← 0       if found_inf is not 0
        tracker ← tracker + 1                             else, and where it reaches growth_interval:
        scale ← scale · growth_factor (if finite), tracker ← 0

    Args:
        scale, found_inf: float32 ().
        growth_tracker: int32 (), good steps since the scale last moved.

    Raises:
        RuntimeError: if the devices differ.
    """
    device = check_same_device("update_scale", scale=scale, growth_tracker=growth_tracker, found_inf=found_inf)
    launch(
        _update_scale_kernel,
        (1,),
        scale,
        growth_tracker,
        found_inf,
        float_bits(growth_factor),
        float_bits(backoff_factor),
        growth_interval,
        config=_ONE,
        cost=Cost(2, 2 * nbytes(scale, growth_tracker) + nbytes(found_inf)),
        device=device,
    )
