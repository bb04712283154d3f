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

from tinyflow.kernels import dtypes, memory, strides, tables
from tinyflow.kernels.addressing import float_from_bits
from tinyflow.kernels.elementwise import copy, copy_into
from tinyflow.kernels.launch import Config, Configs, Cost, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.tables import pointers


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
    chunk = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    listed = chunk < chunks
    if settings_ptr is not None:
        lr = tl.load(settings_ptr)
        momentum = tl.load(settings_ptr + 1)
        dampening = tl.load(settings_ptr + 2)
        weight_decay = tl.load(settings_ptr + 3)
    tensor = tl.load(chunks_ptr + chunk, mask=listed, other=0)
    start = tl.load(chunks_ptr + chunks + chunk, mask=listed, other=0)
    left = tl.load(addresses_ptr + 4 * tensors + tensor, mask=listed, other=0) - start
    lane = tl.arange(0, BLOCK).to(tl.int64)
    mask = listed[:, None] & (lane[None, :] < left[:, None])
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


_GPU = Config({"CHUNKS": 1, "BLOCK": 2048}, num_warps=8)
_GPU_SMALL = Config({"CHUNKS": 4, "BLOCK": 256})


def _choose(sizes: Sequence[int]) -> Config:
    return _GPU if max(sizes) > 1024 else _GPU_SMALL


sgd_configs = Configs("_sgd_kernel", (_GPU, _GPU_SMALL), _choose, tables.interpreter_tile)


def settings_bits(lr: float, momentum: float, dampening: float, weight_decay: float) -> tuple[int, ...]:
    """What ``sgd(settings=)`` reads from device memory."""
    return struct.unpack("4q", struct.pack("4d", lr, momentum, dampening, weight_decay))


def _check(params: Sequence[Buffer], grads: Sequence[Buffer], momentum_buffers: Sequence[Buffer] | None) -> None:
    for name, others in (("gradient", grads), ("momentum buffer", momentum_buffers)):
        if others is None:
            continue
        if len(others) != len(params):
            raise ValueError(f"sgd: expected one {name} for each of {len(params)} parameters, got {len(others)}")
        for k, (p, x) in enumerate(zip(params, others)):
            if (x.shape, x.dtype, x.device) != (p.shape, p.dtype, p.device):
                raise RuntimeError(
                    f"sgd: expected the {name} of parameter {k} to be {tuple(p.shape)} {p.dtype} on {p.device}, "
                    f"got {tuple(x.shape)} {x.dtype} on {x.device}"
                )
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


class _Flat:
    """Buffers that are updated as flat memory: themselves, or dense copies that are written back."""

    def __init__(self) -> None:
        self._copied: list[tuple[Buffer, Buffer]] = []

    def read(self, x: Buffer, layout: Sequence[int]) -> Buffer:
        """``x`` with the strides ``layout``."""
        return x if _strides(x) == _strides(x, layout) else copy(x, layout=layout)

    def write(self, x: Buffer, layout: Sequence[int]) -> Buffer:
        """``x`` with the strides ``layout``; :meth:`finish` brings changes back."""
        dense = self.read(x, layout)
        if dense is not x:
            self._copied.append((x, dense))
        return dense

    def finish(self) -> None:
        for x, dense in self._copied:
            copy_into(x, dense)


def _strides(x: Buffer, layout: Sequence[int] | None = None) -> list[int]:
    """The strides that matter: those of dimensions with more than one element."""
    return [st for n, st in zip(x.shape, x.stride() if layout is None else layout) if n != 1]


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
    groups: dict[tuple[memory.dtype, memory.device, int], list[tuple[Buffer | None, ...]]] = {}
    flat = _Flat()
    for k, p in enumerate(params):
        if p.numel():
            dense = flat.write(p, p.stride() if memory.is_dense(p) else strides.like(p))
            layout = dense.stride()
            member: tuple[Buffer | None, ...] = (dense, flat.read(grads[k], layout))
            if buffers is not None:
                member += (flat.write(buffers[k], layout),)
            if half is not None and half_copies is not None:
                copied = half_copies[k]
                member += (None if copied is None else flat.write(copied, layout),)
            groups.setdefault((p.dtype, p.device, tables.size_class(p.numel())), []).append(member)
    for (dtype, device, _), members in groups.items():
        _launch_sgd(
            members, dtype, device, half, values, buffers is not None, nesterov, maximize, first, settings, found_inf
        )
    flat.finish()


def _launch_sgd(
    members: Sequence[tuple[Buffer | None, ...]],
    dtype: memory.dtype,
    device: memory.device,
    half: memory.dtype | None,
    values: tuple[float, float, float, float],
    with_momentum: bool,
    nesterov: bool,
    maximize: bool,
    first: bool,
    settings: Buffer | None,
    found_inf: Buffer | None,
) -> None:
    sizes = tuple(m[0].numel() for m in members if m[0] is not None)
    config = sgd_configs(dtype, sizes=sizes)
    chunks = tables.chunks(sizes, config.blocks["BLOCK"], device)
    addresses, aligned = tables.addresses(members, 5, device)
    elements = sum(sizes)
    decay, mixes = values[3] != 0, with_momentum and not first
    flops = 2 + 2 * decay + 3 * mixes + 2 * (with_momentum and nesterov)
    moved = 3 + with_momentum + mixes
    copies = [] if half is None else [m[-1] for m in members]
    launch(
        _sgd_kernel,
        (cdiv(chunks.shape[1], config.blocks["CHUNKS"]),),
        addresses,
        chunks,
        len(members),
        chunks.shape[1],
        *(settings_bits(*values) if settings is None else (0, 0, 0, 0)),
        settings,
        found_inf,
        config=config,
        cost=Cost(flops * elements, moved * elements * dtype.itemsize + nbytes(addresses, chunks, *copies)),
        device=device,
        DTYPE=dtypes.triton_dtype(dtype),
        COMPUTE=dtypes.compute_dtype(dtype),
        DECAY=decay,
        MOMENTUM=with_momentum,
        FIRST=first,
        NESTEROV=nesterov,
        MAXIMIZE=maximize,
        HALF=None if half is None else dtypes.triton_dtype(half),
        ALIGN=aligned,  # chunks are whole vectors
    )
