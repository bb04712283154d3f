"""Where the nonzero elements are: every tile counts its own, a prefix sum gives it its first place, and it writes there."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import memory, strides
from tinyflow.kernels.addressing import offsets, stored_bool_as_int
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.sorting import exclusive_sum


@triton.jit
def _nonzero_count_kernel(x_ptr, counts_ptr, numel, sizes, x_strides, DIMS: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets(i, sizes, x_strides, DIMS), mask=i < numel, other=0)
    tl.store(counts_ptr + program, tl.sum((stored_bool_as_int(x) != 0).to(tl.int32), axis=0))


@triton.jit
def _nonzero_write_kernel(
    x_ptr,
    first_ptr,
    out_ptr,
    numel,
    sizes,
    x_strides,
    dim_sizes,
    DIMS: tl.constexpr,
    NDIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # out: (nonzero elements, NDIM)
    program = tl.program_id(0).to(tl.int64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets(i, sizes, x_strides, DIMS), mask=i < numel, other=0)
    found = stored_bool_as_int(x) != 0
    place = tl.load(first_ptr + program) + tl.cumsum(found.to(tl.int64), axis=0) - 1
    for k in tl.static_range(NDIM):
        tl.store(out_ptr + place * NDIM + (NDIM - 1 - k), i % dim_sizes[NDIM - 1 - k], mask=found)
        i = i // dim_sizes[NDIM - 1 - k]


_LINE = Config({"BLOCK": 1024})
nonzero_configs = Configs(
    "_nonzero_write_kernel", (_LINE,), lambda count: _LINE, lambda count: Config({"BLOCK": block(count)})
)


def nonzero(x: Buffer) -> Buffer:
    """The coordinates of the nonzero elements: int64 of shape (count, dimensions), in row-major order.

    The count is read back, so on a GPU this waits for the device. FLOPs 0. Bytes: ``x`` read twice, the result written.

    Raises:
        RuntimeError: on the ``meta`` device, where there is nothing to count.
    """
    if x.device.type == "meta":
        raise RuntimeError("nonzero: the result's shape depends on values, which the meta device does not have")
    if x.numel() == 0:
        return memory.empty((0, x.dim()), memory.int64, x.device)
    first = _nonzero_first(x)
    found = memory.item(memory.as_strided(first, (), (), first.numel() - 1))
    return _nonzero_coordinates(x, first, memory.empty((found, x.dim()), memory.int64, x.device))


def _nonzero_first(x: Buffer) -> Buffer:
    """The number of nonzero elements before each tile of ``x``, and in all of it."""
    config = nonzero_configs(count=x.numel())
    programs = cdiv(x.numel(), config.blocks["BLOCK"])
    sizes, (x_strides,) = strides.row_major(tuple(x.shape), tuple(x.stride()))
    counts = memory.empty((programs,), memory.int32, x.device)
    cost = Cost(0, nbytes(x, counts))
    arguments = x, counts, x.numel(), sizes, x_strides
    launch(_nonzero_count_kernel, (programs,), *arguments, config=config, cost=cost, device=x.device, DIMS=len(sizes))
    return exclusive_sum(counts)


def _nonzero_coordinates(x: Buffer, first: Buffer, out: Buffer) -> Buffer:
    if out.numel() == 0:
        return out
    sizes, (x_strides,) = strides.row_major(tuple(x.shape), tuple(x.stride()))
    launch(
        _nonzero_write_kernel,
        (first.numel() - 1,),
        x,
        first,
        out,
        x.numel(),
        sizes,
        x_strides,
        tuple(x.shape),
        config=nonzero_configs(count=x.numel()),
        cost=Cost(0, nbytes(x, first, out)),
        device=x.device,
        DIMS=len(sizes),
        NDIM=x.dim(),
    )
    return out
