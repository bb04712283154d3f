"""Many tensors in one launch: a table of their addresses, cut into chunks that programs take.

For each tensor the address of its memory in each role (parameter, gradient, …) and its number of elements; for each chunk
its tensor and first element. A program turns addresses into pointers. Chunks depend on sizes alone and stay on the device
from launch to launch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.configs import Config, Configs, interpreting
from tinyflow.kernels.launch import block, cdiv
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.mode import INTERPRETING

#: Bytes that one memory instruction of a thread moves.
_ALIGNMENT = tl.constexpr(16)

#: In the interpreter a program costs more than its elements. Tensors up to _SMALL elements share a tile; a larger one has
#: programs of its own, whose addresses are plain ranges, at a launch with others of its size, not to pay for their tile.
_SMALL, _LARGEST, _SHARED_TILE = 2**11, 2**20, 2**17


@triton.jit
def tile(chunk, chunks_ptr, chunks, addresses_ptr, row, tensors, BLOCK: tl.constexpr):
    """The tile of some chunks: their tensors, their first elements there, which of them exist, the lanes, and the mask.

    ``row`` of the table of addresses has the tensors' sizes.
    """
    listed = chunk < chunks
    tensor = tl.load(chunks_ptr + chunk, mask=listed, other=0)
    start = tl.load(chunks_ptr + chunks + chunk, mask=listed, other=0)
    left = tl.load(addresses_ptr + row * tensors + tensor, mask=listed, other=0) - start
    lane = tl.arange(0, BLOCK)
    return tensor, start, listed, lane, listed[:, None] & (lane[None, :] < left[:, None])


@triton.jit
def pointers(addresses_ptr, column, tensors, tensor, mask, start, lane, DTYPE: tl.constexpr, ALIGN: tl.constexpr):
    """Pointers to elements ``start + lane`` of the tensors whose addresses stand in a column of the table."""
    address = tl.load(addresses_ptr + column * tensors + tensor, mask=mask, other=0)
    first = address + start * (DTYPE.primitive_bitwidth // 8)
    if ALIGN:
        first = tl.multiple_of(first, _ALIGNMENT)
    return first.to(tl.pointer_type(DTYPE))[:, None] + lane[None, :]


def size_class(n: int) -> int:
    """What must be equal for two tensors to share a launch."""
    if not interpreting() or n <= _SMALL:
        return 0
    return block(n, _LARGEST).bit_length()


def configs(kernel: str, length: int) -> Configs:
    """The configurations of a kernel whose programs take CHUNKS chunks of BLOCK elements: ``length`` of a large tensor."""
    large, small = Config({"CHUNKS": 1, "BLOCK": length}, num_warps=8), Config({"CHUNKS": 4, "BLOCK": 256})
    return Configs(kernel, (large, small), lambda sizes: large if max(sizes) > 1024 else small, _interpreter_tile)


def _interpreter_tile(sizes: Sequence[int]) -> Config:
    """The interpreter's tile for tensors of one size class."""
    chunk = block(max(sizes), _LARGEST)
    return Config({"CHUNKS": block(len(sizes), _SHARED_TILE // chunk) if chunk <= _SMALL else 1, "BLOCK": chunk})


@functools.lru_cache(maxsize=64)
def chunks(sizes: tuple[int, ...], chunk: int, device: memory.device) -> Buffer:
    """(2, chunks) int64 on the device: the tensor of each chunk, and its first element there."""
    counts = [cdiv(n, chunk) for n in sizes]
    table = np.empty((2, sum(counts)), np.int64)
    table[0] = np.repeat(np.arange(len(sizes)), counts)
    table[1] = np.concatenate([np.arange(c) * chunk for c in counts])
    return memory.upload(table, device)


def addresses(members: Sequence[Sequence[Buffer | None]], rows: int, device: memory.device) -> tuple[Buffer, bool]:
    """(rows, tensors) int64 on the device: a tensor's address in each role, and in the last row its number of elements.

    A role that a tensor does not have is 0.

    Returns the table, and whether all addresses may be taken for multiples of 16 bytes: a hint to the compiler.
    """
    table = np.zeros((rows, len(members)), np.int64)
    for role in range(len(members[0])):
        table[role] = [0 if m[role] is None else m[role].data_ptr() for m in members]  # type: ignore[union-attr]
    table[-1] = [m[0].numel() for m in members]  # type: ignore[union-attr]
    return memory.upload(table, device), not INTERPRETING and not (table[:-1] % 16).any()
