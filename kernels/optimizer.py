"""Optimiser updates of all parameters at once: one launch for each dtype and device, through a table of addresses.

The table has for each tensor the addresses of parameter, gradient and momentum buffer (see ``tables``), and a program
updates a tile of a few chunks. A parameter, its gradient and its buffer are walked as one flat block of memory, so all
three need one dense layout: what has another is copied first.

Learning rate, momentum and the like arrive as the bits of float64 numbers, by value or in device memory: a schedule
compiles nothing, and reaches a recorded launch too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, tables
from tinyflow.kernels.addressing import float_from_bits
from tinyflow.kernels.flat import Flat, Group, check_like_parameters
from tinyflow.kernels.launch import Cost, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.tables import pointers, tile


@triton.jit(do_not_specialize=["lr", "momentum", "dampening", "weight_decay"])
def _sgd_kernel(
    addresses_ptr,  # (5, tensors): parameter, gradient, then momentum buffer and half copy if any; number of elements
    chunks_ptr,  # (2, chunks): tensor, first element
    tensors,
    chunks,
    lr,
    momentum,
    dampening,
    weight_decay,
    settings_ptr,  # (4,): the same four in device memory, or None
    found_inf_ptr,  # a float32 that is not 0 where this step is to be left out, or None
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    DECAY: tl.constexpr,
    MOMENTUM: tl.constexpr,
    FIRST: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    HALF: tl.constexpr,  # dtype of the half copies, or None
    ALIGN: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    if settings_ptr is not None:
        lr = tl.load(settings_ptr)
        momentum = tl.load(settings_ptr + 1)
        dampening = tl.load(settings_ptr + 2)
        weight_decay = tl.load(settings_ptr + 3)
    chunk = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    tensor, start, listed, lane, mask = tile(chunk, chunks_ptr, chunks, addresses_ptr, 4, tensors, BLOCK)
    changed = mask
    if found_inf_ptr is not None:
        changed = mask & (tl.load(found_inf_ptr) == 0)

    p_ptr = pointers(addresses_ptr, 0, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
    g_ptr = pointers(addresses_ptr, 1, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
    p = tl.load(p_ptr, mask=mask, other=0).to(COMPUTE)
    g = tl.load(g_ptr, mask=mask, other=0).to(COMPUTE)
    if MAXIMIZE:
        g = -g
    if DECAY:
        g += float_from_bits(weight_decay).to(COMPUTE) * p
    if MOMENTUM:
        b_ptr = pointers(addresses_ptr, 2, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
        mu = float_from_bits(momentum).to(COMPUTE)
        if FIRST:
            b = g
        else:
            b = tl.load(b_ptr, mask=mask, other=0).to(COMPUTE)
            b = mu * b + (1.0 - float_from_bits(dampening)).to(COMPUTE) * g
        tl.store(b_ptr, b.to(DTYPE), mask=changed)
        if NESTEROV:
            g += mu * b
        else:
            g = b
    new = p - float_from_bits(lr).to(COMPUTE) * g
    tl.store(p_ptr, new.to(DTYPE), mask=changed)
    if HALF is not None:
        p = tl.where(changed, new, p)  # a step that is left out copies what there is
        copied = tl.load(addresses_ptr + (2 + MOMENTUM) * tensors + tensor, mask=listed, other=0) != 0
        half_ptr = pointers(addresses_ptr, 2 + MOMENTUM, tensors, tensor, listed, start, lane, HALF, ALIGN)
        tl.store(half_ptr, p.to(DTYPE).to(HALF), mask=mask & copied[:, None])


sgd_configs = tables.configs("_sgd_kernel", 2048)


def settings_bits(lr: float, momentum: float, dampening: float, weight_decay: float) -> tuple[int, ...]:
    """What ``sgd(settings=)`` reads from device memory."""
    return struct.unpack("4q", struct.pack("4d", lr, momentum, dampening, weight_decay))


def _check(params: Sequence[Buffer], grads: Sequence[Buffer], momentum_buffers: Sequence[Buffer] | None) -> None:
    for name, others in (("gradient", grads), ("momentum buffer", momentum_buffers)):
        if others is None:
            continue
        if len(others) != len(params):
            raise ValueError(f"sgd: expected one {name} for each of {len(params)} parameters, got {len(others)}")
        check_like_parameters("sgd", name, params, others)
    for k, p in enumerate(params):
        dtypes.check_floating("sgd", **{f"parameter {k}": p})


def _check_half_copies(params: Sequence[Buffer], half_copies: Sequence[Buffer | None] | None) -> memory.dtype | None:
    """The dtype of the half copies, or None without any."""
    if half_copies is None:
        return None
    if len(half_copies) != len(params):
        raise ValueError(
            f"sgd: expected a half copy or None for each of {len(params)} parameters, got {len(half_copies)}"
        )
    found: memory.dtype | None = None
    for k, (p, x) in enumerate(zip(params, half_copies)):
        if x is None:
            continue
        found = found or x.dtype
        if (x.shape, x.device) != (p.shape, p.device) or x.dtype != found or found.itemsize != 2:
            raise RuntimeError(
                f"sgd: expected the half copy of parameter {k} to be {tuple(p.shape)} in one half precision on {p.device}, "
                f"got {tuple(x.shape)} {x.dtype} on {x.device}"
            )
    return found


def sgd(
    params: Sequence[Buffer],
    grads: Sequence[Buffer],
    momentum_buffers: Sequence[Buffer] | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
    settings: Buffer | None = None,
    found_inf: Buffer | None = None,
    half_copies: Sequence[Buffer | None] | None = None,
) -> None:
    """One step of stochastic gradient descent on every parameter p, with gradient g and buffer b, in place::

        g ← −g                                      if maximize
        g ← g + weight_decay · p
        b ← momentum · b + (1 − dampening) · g      (b ← g at the first step, which does not read b)
        g ← g + momentum · b   if nesterov, else b  (g stays where there is no momentum)
        p ← p − lr · g

    Args:
        params, grads, momentum_buffers: of one shape, dtype and device each, any strides; buffers only with momentum.
        first: the buffers hold nothing yet.
        settings: four int64 on the device, the bits of lr, momentum, dampening and weight decay (see
            :func:`settings_bits`), in place of the values; that momentum or weight decay is 0 is still said by value.
        found_inf: a float32 on the device; nothing but half copies is written where it is not 0.
        half_copies: for each parameter a buffer of its shape, all of one half precision, that gets the new value too; or
            None.

    Floating-point dtypes; half precision computes in float32. FLOPs: two an element, and two for weight decay, three for
    momentum, two for Nesterov's. Bytes: p and b read and written, g read once, half copies written once; tables of
    addresses and chunks.

    Raises:
        ValueError: if there are not as many gradients, buffers, or half copies, as parameters, or momentum without buffers.
        RuntimeError: if shapes, dtypes or devices differ.
        TypeError: for parameters that are not floating point.
    """
    if momentum != 0 and momentum_buffers is None:
        raise ValueError("sgd: expected momentum_buffers with momentum")
    buffers = momentum_buffers if momentum != 0 else None
    values = lr, momentum, dampening, weight_decay
    _check(params, grads, buffers)
    half = _check_half_copies(params, half_copies)
    flat = Flat()
    written = [x for x in (buffers, None if half is None else half_copies) if x is not None]
    for group in flat.groups(params, grads, written):
        _launch_sgd(group, half, values, buffers is not None, nesterov, maximize, first, settings, found_inf)
    flat.finish()


def _launch_sgd(
    group: Group,
    half: memory.dtype | None,
    values: tuple[float, float, float, float],
    with_momentum: bool,
    nesterov: bool,
    maximize: bool,
    first: bool,
    settings: Buffer | None,
    found_inf: Buffer | None,
) -> None:
    sizes = tuple(group.sizes)
    config = sgd_configs(group.dtype, sizes=sizes)
    chunks = tables.chunks(sizes, config.blocks["BLOCK"], group.device)
    addresses, aligned = tables.addresses(group.members, 5, group.device)
    elements = sum(sizes)
    decay, mixes = values[3] != 0, with_momentum and not first
    flops = 2 + 2 * decay + 3 * mixes + 2 * (with_momentum and nesterov)
    moved = 3 + with_momentum + mixes
    copies = [] if half is None else [m[-1] for m in group.members]
    launch(
        _sgd_kernel,
        (cdiv(chunks.shape[1], config.blocks["CHUNKS"]),),
        addresses,
        chunks,
        len(sizes),
        chunks.shape[1],
        *(settings_bits(*values) if settings is None else (0, 0, 0, 0)),
        settings,
        found_inf,
        config=config,
        cost=Cost(flops * elements, moved * elements * group.dtype.itemsize + nbytes(addresses, chunks, *copies)),
        device=group.device,
        DTYPE=dtypes.triton_dtype(group.dtype),
        COMPUTE=dtypes.compute_dtype(group.dtype),
        DECAY=decay,
        MOMENTUM=with_momentum,
        FIRST=first,
        NESTEROV=nesterov,
        MAXIMIZE=maximize,
        HALF=None if half is None else dtypes.triton_dtype(half),
        ALIGN=aligned,  # chunks are whole vectors
    )
