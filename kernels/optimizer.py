"""Optimiser updates of all parameters at once: one launch for each dtype and device, through a table of addresses.

The host cuts every tensor into chunks and writes two tables: for each tensor the addresses of parameter, gradient and
momentum buffer and its number of elements; for each chunk its tensor and first element. A program updates a tile of a
few chunks, whose addresses it turns into pointers. Chunks depend on sizes alone and stay on the device from step to
step. A parameter, its gradient and its buffer are walked as one flat block of memory, so all three need one dense
layout: what has another is copied first.

Learning rate, momentum and the like arrive as the bits of float64 numbers: a schedule compiles nothing.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

import numpy as np
import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_from_bits
from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.elementwise import copy, copy_into
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.mode import INTERPRETING

#: Bytes that one memory instruction of a thread moves.
_ALIGNMENT = tl.constexpr(16)


@triton.jit
def _pointers(addresses_ptr, column, tensors, tensor, mask, start, lane, DTYPE: tl.constexpr, ALIGN: tl.constexpr):
    """Pointers to elements ``start + lane`` of the tensors whose addresses stand in a column of the table."""
    address = tl.load(addresses_ptr + column * tensors + tensor, mask=mask, other=0)
    first = address + start * (DTYPE.primitive_bitwidth // 8)
    if ALIGN:
        first = tl.multiple_of(first, _ALIGNMENT)
    return first.to(tl.pointer_type(DTYPE))[:, None] + lane[None, :]


@triton.jit(do_not_specialize=["lr", "momentum", "dampening", "weight_decay"])
def _sgd_kernel(
    addresses_ptr,  # (4, tensors): parameter, gradient, momentum buffer, number of elements
    chunks_ptr,  # (2, chunks): tensor, first element
    tensors,
    chunks,
    lr,
    momentum,
    dampening,
    weight_decay,
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    DECAY: tl.constexpr,
    MOMENTUM: tl.constexpr,
    FIRST: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ALIGN: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chunk = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    listed = chunk < chunks
    tensor = tl.load(chunks_ptr + chunk, mask=listed, other=0)
    start = tl.load(chunks_ptr + chunks + chunk, mask=listed, other=0)
    left = tl.load(addresses_ptr + 3 * tensors + tensor, mask=listed, other=0) - start
    lane = tl.arange(0, BLOCK)
    mask = listed[:, None] & (lane[None, :] < left[:, None])

    p_ptr = _pointers(addresses_ptr, 0, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
    g_ptr = _pointers(addresses_ptr, 1, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
    p = tl.load(p_ptr, mask=mask, other=0).to(COMPUTE)
    g = tl.load(g_ptr, mask=mask, other=0).to(COMPUTE)
    if MAXIMIZE:
        g = -g
    if DECAY:
        g += float_from_bits(weight_decay).to(COMPUTE) * p
    if MOMENTUM:
        b_ptr = _pointers(addresses_ptr, 2, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
        mu = float_from_bits(momentum).to(COMPUTE)
        if FIRST:
            b = g
        else:
            b = tl.load(b_ptr, mask=mask, other=0).to(COMPUTE)
            b = mu * b + (1.0 - float_from_bits(dampening)).to(COMPUTE) * g
        tl.store(b_ptr, b.to(DTYPE), mask=mask)
        if NESTEROV:
            g += mu * b
        else:
            g = b
    p -= float_from_bits(lr).to(COMPUTE) * g
    tl.store(p_ptr, p.to(DTYPE), mask=mask)


_GPU = Config({"CHUNKS": 1, "BLOCK": 2048}, num_warps=8)
_GPU_SMALL = Config({"CHUNKS": 4, "BLOCK": 256})

#: The interpreter's largest chunk: a program's values stay in cache. It takes one chunk at a time, so that addresses are
#: plain ranges, and tensors of one size class at a launch, so that small ones do not pay for a large one's tile.
_INTERPRETER_CHUNK = 2**18


def _size_class(n: int) -> int:
    """What must be equal for two tensors to share a launch."""
    return block(n, _INTERPRETER_CHUNK).bit_length() // 4 if interpreting() else 0


def _choose(sizes: Sequence[int]) -> Config:
    return _GPU if max(sizes) > 1024 else _GPU_SMALL


def _interpreter(sizes: Sequence[int]) -> Config:
    return Config({"CHUNKS": 1, "BLOCK": block(max(sizes), _INTERPRETER_CHUNK)})


sgd_configs = Configs("_sgd_kernel", (_GPU, _GPU_SMALL), _choose, _interpreter)


@functools.lru_cache(maxsize=64)
def _chunks(sizes: tuple[int, ...], chunk: int, device: memory.device) -> Buffer:
    """(2, chunks) int64 on the device: the tensor of each chunk, and its first element there."""
    counts = [cdiv(n, chunk) for n in sizes]
    table = np.empty((2, sum(counts)), np.int64)
    table[0] = np.repeat(np.arange(len(sizes)), counts)
    table[1] = np.concatenate([np.arange(c) * chunk for c in counts])
    return _on_device(table, device)


def _on_device(table: np.ndarray, device: memory.device) -> Buffer:
    return memory.to_device(memory.from_numpy(table), device)


def _bits(value: float) -> int:
    return struct.unpack("q", struct.pack("d", value))[0]


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

    Floating-point dtypes; half precision computes in float32. FLOPs: two an element, and two for weight decay, three for
    momentum, two for Nesterov's. Bytes: p and b read and written, g read once; tables of addresses and chunks.

    Raises:
        ValueError: if there are not as many gradients, or buffers, as parameters, or momentum without buffers.
        RuntimeError: if shapes, dtypes or devices differ.
        TypeError: for parameters that are not floating point.
    """
    if momentum != 0 and momentum_buffers is None:
        raise ValueError("sgd: expected momentum_buffers with momentum")
    buffers = momentum_buffers if momentum != 0 else None
    _check(params, grads, buffers)
    groups: dict[tuple[memory.dtype, memory.device, int], list[tuple[Buffer, ...]]] = {}
    flat = _Flat()
    for k, p in enumerate(params):
        if p.numel():
            dense = flat.write(p, p.stride() if memory.is_dense(p) else strides.like(p))
            layout = dense.stride()
            member: tuple[Buffer, ...] = (dense, flat.read(grads[k], layout))
            if buffers is not None:
                member += (flat.write(buffers[k], layout),)
            groups.setdefault((p.dtype, p.device, _size_class(p.numel())), []).append(member)
    for (dtype, device, _), members in groups.items():
        _launch_sgd(members, dtype, device, (lr, momentum, dampening, weight_decay), nesterov, maximize, first)
    flat.finish()


def _launch_sgd(
    members: Sequence[tuple[Buffer, ...]],
    dtype: memory.dtype,
    device: memory.device,
    settings: tuple[float, float, float, float],
    nesterov: bool,
    maximize: bool,
    first: bool,
) -> None:
    sizes = tuple(m[0].numel() for m in members)
    config = sgd_configs(sizes=sizes)
    chunks = _chunks(sizes, config.blocks["BLOCK"], device)
    table = np.zeros((4, len(members)), np.int64)
    for column in range(len(members[0])):
        table[column] = [m[column].data_ptr() for m in members]
    table[3] = sizes
    with_momentum = len(members[0]) == 3
    elements = sum(sizes)
    decay, mixes = settings[3] != 0, with_momentum and not first
    flops = 2 + 2 * decay + 3 * mixes + 2 * (with_momentum and nesterov)
    moved = 3 + with_momentum + mixes
    addresses = _on_device(table, device)
    launch(
        _sgd_kernel,
        (cdiv(chunks.shape[1], config.blocks["CHUNKS"]),),
        addresses,
        chunks,
        len(members),
        chunks.shape[1],
        *(_bits(value) for value in settings),
        config=config,
        cost=Cost(flops * elements, moved * elements * dtype.itemsize + nbytes(addresses, chunks)),
        device=device,
        DTYPE=dtypes.triton_dtype(dtype),
        COMPUTE=dtypes.compute_dtype(dtype),
        DECAY=decay,
        MOMENTUM=with_momentum,
        FIRST=first,
        NESTEROV=nesterov,
        MAXIMIZE=maximize,
        ALIGN=not INTERPRETING and not (table[:3] % 16).any(),  # a hint to the compiler, and chunks are whole vectors
    )
