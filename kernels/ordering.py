"""Sorting values of any dtype along a dimension, and moving elements to and from the positions found.

Each element becomes an integer key in the order of the values: of a float the bits, those of negative numbers inverted, the
sign bit flipped; -0.0 counts as 0.0 and every NaN as the greatest. ``sorting`` then finds each row's order. Keys and order
are dense whatever the strides of ``x`` are; the results lie in memory as ``x`` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import elementwise, memory, sorting, strides
from tinyflow.kernels.addressing import offsets, walk
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.reduction import normalize_dims
from tinyflow.kernels.strides import Shape


@triton.jit
def _integer_key(bits, highest, start):
    return (bits ^ start) & ((highest << 1) | 1)


@triton.jit
def _float_key(bits, infinity, highest, start):
    bits = tl.where(bits == ~highest, 0, bits)
    ordered = tl.where((bits & highest) > infinity, highest, tl.where(bits < 0, bits ^ highest, bits))
    return (ordered ^ start) & ((highest << 1) | 1)


@triton.jit
def _move_kernel(
    x_ptr,
    listed_ptr,  # one element for each position
    order_ptr,  # positions along the dimension of x
    indices_ptr,  # to hold the positions again, laid out as listed; or None
    rows,
    count,
    sizes,
    x_strides,
    listed_strides,
    order_strides,
    x_step,
    listed_step,
    order_step,
    TO_X: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles = tl.cdiv(count, BLOCK_N)
    program = tl.program_id(0).to(INDEX)
    m = (program // tiles) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    n = ((program % tiles) * BLOCK_N + tl.arange(0, BLOCK_N).to(INDEX))[None, :]
    mask = (m < rows)[:, None] & (n < count)
    order_at = offsets(m, sizes, order_strides, DIMS)[:, None] + n * order_step
    element = tl.load(order_ptr + order_at, mask=mask, other=0)
    x_at = offsets(m, sizes, x_strides, DIMS)[:, None] + element.to(INDEX) * x_step
    listed_at = offsets(m, sizes, listed_strides, DIMS)[:, None] + n * listed_step
    if TO_X:
        tl.store(x_ptr + x_at, tl.load(listed_ptr + listed_at, mask=mask, other=0), mask=mask)
    else:
        tl.store(listed_ptr + listed_at, tl.load(x_ptr + x_at, mask=mask, other=0), mask=mask)
        if indices_ptr is not None:
            tl.store(indices_ptr + listed_at, element, mask=mask)


_FEW = Config({"BLOCK_M": 64, "BLOCK_N": 8})
_MANY = Config({"BLOCK_M": 1, "BLOCK_N": 512})


def _choose(rows: int, count: int) -> Config:
    return _FEW if count <= 64 else _MANY


def _interpreter(rows: int, count: int) -> Config:
    block_n = block(count)
    return Config({"BLOCK_M": block(rows, MAX_BLOCK // block_n), "BLOCK_N": block_n})


move_configs = Configs("_move_kernel", (_FEW, _MANY), _choose, _interpreter)


def _view_along(x: Buffer, dim: int) -> Buffer:
    """``x`` with the dimension moved to the end; a 0-dimensional one as a vector of one."""
    if x.dim() == 0:
        return memory.as_strided(x, (1,), (1,))
    order = [k for k in range(x.dim()) if k != dim] + [dim]
    return memory.as_strided(x, [x.shape[k] for k in order], [x.stride(k) for k in order])


def _dimension(op: str, x: Buffer, dim: int) -> int:
    dims = normalize_dims(op, (dim,), x.dim())
    return dims[0] if dims else 0


_INTEGER_OF = {1: memory.int8, 2: memory.int16, 4: memory.int32, 8: memory.int64}


def sort_keys(x: Buffer, descending: bool = False) -> tuple[Buffer, int]:
    """Keys in the order of the elements of ``x`` (its reverse if ``descending``), and how many bits they have.

    A contiguous buffer of the shape of ``x``, int32 or int64, for :func:`sorting.sort_order`. FLOPs 0. Bytes: ``x`` read and
    the keys written once.
    """
    signed = x.dtype not in (memory.uint8, memory.bool_)
    bits = 8 * x.element_size()
    highest = 2 ** (bits - 1) - 1
    start = (~highest if signed else 0) ^ (-1 if descending else 0)
    out = memory.empty(x.shape, memory.int32 if bits <= 32 else memory.int64, x.device)
    if x.dtype.is_floating_point:
        infinity = _infinity_bits(x.dtype)
        view = memory.reinterpret(x, _INTEGER_OF[x.element_size()])
        return elementwise.apply(_float_key, out, [view, infinity, highest, start], tl.int64, flops=0, fresh=True), bits
    view = memory.reinterpret(x, memory.uint8) if x.dtype == memory.bool_ else x
    return elementwise.apply(_integer_key, out, [view, highest, start], tl.int64, flops=0, fresh=True), bits


def _infinity_bits(dtype: memory.dtype) -> int:
    return {
        memory.float16: 0x7C00,
        memory.bfloat16: 0x7F80,
        memory.float32: 0x7F800000,
        memory.float64: 0x7FF0000000000000,
    }[dtype]


def _launch_move(x: Buffer, listed: Buffer, order: Buffer, indices: Buffer | None, to_x: bool) -> None:
    """All with the dimension at the end, and of equal sizes before it."""
    sizes, (x_strides, listed_strides, order_strides) = walk(
        x.shape[:-1], x.stride()[:-1], listed.stride()[:-1], order.stride()[:-1]
    )
    rows, count = strides.numel(sizes), order.shape[-1]
    config = move_configs(x.dtype, rows=rows, count=count)
    launch(
        _move_kernel,
        (cdiv(rows, config.blocks["BLOCK_M"]) * cdiv(count, config.blocks["BLOCK_N"]),),
        x,
        listed,
        order,
        indices,
        rows,
        count,
        sizes,
        x_strides,
        listed_strides,
        order_strides,
        x.stride(-1),
        listed.stride(-1),
        order.stride(-1),
        config=config,
        cost=Cost(0, 2 * nbytes(listed) + nbytes(order, indices)),
        device=x.device,
        TO_X=to_x,
        INDEX=offset_dtype(x, listed, order),
        DIMS=len(sizes),
    )


def _first_sorted(op: str, x: Buffer, k: int, dim: int, descending: bool) -> tuple[Buffer, Buffer]:
    """The first ``k`` of the sorted elements along ``dim``, and their positions."""
    dim = _dimension(op, x, dim)
    shape = tuple(k if d == dim else n for d, n in enumerate(x.shape))
    layout = strides.like(x, shape)
    values = memory.empty(shape, x.dtype, x.device, layout)
    indices = memory.empty(shape, memory.int64, x.device, layout)
    if values.numel() == 0:
        return values, indices
    view = _view_along(x, dim)
    keys, bits = sort_keys(view, descending)
    rows = strides.numel(view.shape[:-1])
    order = sorting.first_order(memory.as_strided(keys, (keys.numel(),), (1,)), k, bits, rows)
    listed_shape = (*view.shape[:-1], k)
    order = memory.as_strided(order, listed_shape, strides.contiguous_strides(listed_shape))
    _launch_move(view, _view_along(values, dim), order, _view_along(indices, dim), False)
    return values, indices


def sort(x: Buffer, dim: int = -1, descending: bool = False) -> tuple[Buffer, Buffer]:
    """The elements along ``dim`` in ascending (descending) order, and the int64 positions that they came from.

    Args:
        x: any shape, strides and dtype.

    Stable: equal elements keep their order, also in descending order. NaN counts as greater than every number, -0.0 as 0.0.
    FLOPs 0. Bytes: ``x`` and both results, and keys and positions once a pass of the sort.

    Raises:
        IndexError: if ``dim`` is out of range.
    """
    n = x.shape[_dimension("sort", x, dim)] if x.dim() else 1
    return _first_sorted("sort", x, n, dim, descending)


def topk(x: Buffer, k: int, dim: int = -1, largest: bool = True) -> tuple[Buffer, Buffer]:
    """The first ``k`` of :func:`sort` along ``dim``, in descending order if ``largest``: the greatest, else the least ones.

    Raises:
        RuntimeError: if the dimension has fewer than ``k`` elements.
        IndexError: if ``dim`` is out of range.
    """
    n = x.shape[_dimension("topk", x, dim)] if x.dim() else 1
    if not 0 <= k <= n:
        raise RuntimeError(f"topk: selected index k out of range: got k={k} for a dimension of {n} elements")
    return _first_sorted("topk", x, k if x.dim() else 1, dim, largest)  # a result of no dimensions has its one element


def pick(x: Buffer, dim: int, positions: Buffer) -> Buffer:
    """``out[i, j, k] = x[positions[i, j, k], j, k]`` for ``dim`` 0, and so on, with positions that are known to be in range.

    FLOPs 0. Bytes: the positions, and each element read and written once.
    """
    dim = _dimension("pick", x, dim)
    out = memory.empty(positions.shape, x.dtype, x.device, strides.like(positions))
    if out.numel():
        _launch_move(_view_along(x, dim), _view_along(out, dim), _view_along(positions, dim), None, False)
    return out


def spread(grad: Buffer, dim: int, positions: Buffer, x_shape: Sequence[int]) -> Buffer:
    """The transpose of :func:`pick` where no position appears twice in a row: zeros, with ``grad`` at the positions."""
    shape: Shape = tuple(x_shape)
    out = elementwise.fill(memory.empty(shape, grad.dtype, grad.device, strides.like(grad, shape)), 0)
    if grad.numel():
        dim = _dimension("spread", out, dim)
        _launch_move(_view_along(out, dim), _view_along(grad, dim), _view_along(positions, dim), None, True)
    return out
