"""Softmax and its logarithm along one dimension, with their gradients.

    softmax(x)[j] = exp(x[j] − m) / Σ exp(x − m)        log_softmax(x)[j] = x[j] − m − log Σ exp(x − m)        m = max x

    softmax:      grad_x = y · (g − Σ g·y)
    log_softmax:  grad_x = g − exp(y) · Σ g

A row that fits one tile is read once. A longer one is read twice: the first pass keeps a running maximum and rescales
its sum when that grows (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax"). As in torch, a row
with a NaN or +inf in it, or of nothing but −inf, is NaN throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets, stored_bool_as_int, walk
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
def running_softmax(largest, total, x):
    """The maximum of rows and the sum of ``exp(x − shift)`` once the tile ``x`` is counted in; also that ``shift``.

    ``shift`` is the maximum, or 0 while that is −inf, so that −inf is never subtracted from itself.
    """
    grown = tl.maximum(largest, tl.max(x, axis=1))
    shift = tl.where(grown == float("-inf"), 0.0, grown)
    total = total * tl.exp(largest - shift) + tl.sum(tl.exp(x - shift[:, None]), axis=1)
    return grown, total, shift


@triton.jit
def _softmax_tile(x, shift, total, LOG: tl.constexpr):
    if LOG:
        y = x - shift[:, None] - tl.log(total)[:, None]
    else:
        y = tl.exp(x - shift[:, None]) / total[:, None]
    return y


@triton.jit
def _load_row_tile(x_ptr, at, mask, AS: tl.constexpr, COMPUTE: tl.constexpr):
    x = stored_bool_as_int(tl.load(x_ptr + at, mask=mask, other=0)).to(AS).to(COMPUTE)
    return tl.where(mask, x, float("-inf"))


@triton.jit
def _softmax_kernel(
    y_ptr,
    x_ptr,
    rows,
    columns,
    sizes,
    y_strides,
    x_strides,
    y_step,
    x_step,
    LOG: tl.constexpr,
    ONE_TILE: tl.constexpr,
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    r = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    x_row = offsets(r, sizes, x_strides, DIMS)[:, None]
    y_row = offsets(r, sizes, y_strides, DIMS)[:, None]
    AS: tl.constexpr = y_ptr.dtype.element_ty
    largest = tl.full([BLOCK_R], float("-inf"), COMPUTE)
    total = tl.zeros([BLOCK_R], COMPUTE)
    if ONE_TILE:
        n = tl.arange(0, BLOCK_N).to(INDEX)
        mask = (r < rows)[:, None] & (n < columns)[None, :]
        x = _load_row_tile(x_ptr, x_row + (n * x_step)[None, :], mask, AS, COMPUTE)
        largest, total, shift = running_softmax(largest, total, x)
        total = tl.where(r < rows, total, 1.0)
        y = _softmax_tile(x, shift, total, LOG)
        tl.store(y_ptr + y_row + (n * y_step)[None, :], y.to(AS), mask=mask)
    else:
        shift = tl.zeros([BLOCK_R], COMPUTE)
        for start in range(0, columns, BLOCK_N):
            n = start + tl.arange(0, BLOCK_N).to(INDEX)
            mask = (r < rows)[:, None] & (n < columns)[None, :]
            x = _load_row_tile(x_ptr, x_row + (n * x_step)[None, :], mask, AS, COMPUTE)
            largest, total, shift = running_softmax(largest, total, x)
        total = tl.where(r < rows, total, 1.0)
        for start in range(0, columns, BLOCK_N):
            n = start + tl.arange(0, BLOCK_N).to(INDEX)
            mask = (r < rows)[:, None] & (n < columns)[None, :]
            x = _load_row_tile(x_ptr, x_row + (n * x_step)[None, :], mask, AS, COMPUTE)
            y = _softmax_tile(x, shift, total, LOG)
            tl.store(y_ptr + y_row + (n * y_step)[None, :], y.to(AS), mask=mask)


@triton.jit
def _row_dot(g, y, LOG: tl.constexpr):
    """What a row's gradient sums: ``Σ g`` of a logarithm, else ``Σ g·y``."""
    if LOG:
        total = tl.sum(g, axis=1)
    else:
        total = tl.sum(g * y, axis=1)
    return total


@triton.jit
def _softmax_input_grad_tile(g, y, total, LOG: tl.constexpr):
    if LOG:
        grad = g - tl.exp(y) * total[:, None]
    else:
        grad = y * (g - total[:, None])
    return grad


@triton.jit
def _softmax_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    y_ptr,
    rows,
    columns,
    sizes,
    grad_x_strides,
    g_strides,
    y_strides,
    grad_x_step,
    g_step,
    y_step,
    LOG: tl.constexpr,
    ONE_TILE: tl.constexpr,
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    r = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    g_row = g_ptr + offsets(r, sizes, g_strides, DIMS)[:, None]
    y_row = y_ptr + offsets(r, sizes, y_strides, DIMS)[:, None]
    out_row = grad_x_ptr + offsets(r, sizes, grad_x_strides, DIMS)[:, None]
    if ONE_TILE:
        n = tl.arange(0, BLOCK_N).to(INDEX)
        mask = (r < rows)[:, None] & (n < columns)[None, :]
        g = tl.load(g_row + (n * g_step)[None, :], mask=mask, other=0).to(COMPUTE)
        y = tl.load(y_row + (n * y_step)[None, :], mask=mask, other=0).to(COMPUTE)
        grad = _softmax_input_grad_tile(g, y, _row_dot(g, y, LOG), LOG)
        tl.store(out_row + (n * grad_x_step)[None, :], grad.to(grad_x_ptr.dtype.element_ty), mask=mask)
    else:
        total = tl.zeros([BLOCK_R], COMPUTE)
        for start in range(0, columns, BLOCK_N):
            n = start + tl.arange(0, BLOCK_N).to(INDEX)
            mask = (r < rows)[:, None] & (n < columns)[None, :]
            g = tl.load(g_row + (n * g_step)[None, :], mask=mask, other=0).to(COMPUTE)
            y = tl.load(y_row + (n * y_step)[None, :], mask=mask, other=0).to(COMPUTE)
            total += _row_dot(g, y, LOG)
        for start in range(0, columns, BLOCK_N):
            n = start + tl.arange(0, BLOCK_N).to(INDEX)
            mask = (r < rows)[:, None] & (n < columns)[None, :]
            g = tl.load(g_row + (n * g_step)[None, :], mask=mask, other=0).to(COMPUTE)
            y = tl.load(y_row + (n * y_step)[None, :], mask=mask, other=0).to(COMPUTE)
            grad = _softmax_input_grad_tile(g, y, total, LOG)
            tl.store(out_row + (n * grad_x_step)[None, :], grad.to(grad_x_ptr.dtype.element_ty), mask=mask)


#: Tiles of rows for kernels that reduce along each row, by growing width; rows beyond the last loop over tiles of it.
ROW_TILES = (
    Config({"BLOCK_R": 64, "BLOCK_N": 32}),
    Config({"BLOCK_R": 16, "BLOCK_N": 128}),
    Config({"BLOCK_R": 4, "BLOCK_N": 1024}),
    Config({"BLOCK_R": 1, "BLOCK_N": 4096}, num_warps=8),
)


def choose_row_tile(rows: int, columns: int, across: bool) -> Config:
    """The narrowest tile that holds a row; where memory runs ``across`` rows, the one with the most rows."""
    if across:
        return ROW_TILES[0]
    return next((config for config in ROW_TILES if config.blocks["BLOCK_N"] >= columns), ROW_TILES[-1])


def whole_row_tile(rows: int, columns: int, across: bool) -> Config:
    """For the interpreter: rows whole, and as many as a block holds."""
    block_n = block(columns)
    return Config({"BLOCK_R": block(rows, MAX_BLOCK // block_n), "BLOCK_N": block_n})


softmax_configs = Configs("_softmax_kernel", ROW_TILES, choose_row_tile, whole_row_tile)
softmax_input_grad_configs = Configs("_softmax_input_grad_kernel", ROW_TILES, choose_row_tile, whole_row_tile)


def normalize_dim(op: str, dim: int, ndim: int) -> int:
    """A dimension counted from the front; a 0-dimensional buffer has dimension 0 (or -1).

    Raises:
        IndexError: if it is out of range.
        TypeError: if it is no integer.
    """
    limit = max(ndim, 1)
    if not isinstance(dim, int):
        raise TypeError(f"{op}: expected dim to be an integer, got {dim!r}")
    if not -limit <= dim < limit:
        raise IndexError(
            f"{op}: Dimension out of range (expected to be in range of [{-limit}, {limit - 1}], but got {dim})"
        )
    return dim % limit


def _without(sequence: Sequence[int], dim: int) -> tuple[int, ...]:
    return (*sequence[:dim], *sequence[dim + 1 :])


def _step(x: Buffer, dim: int) -> int:
    return x.stride(dim) if x.dim() else 0


def _softmax(op: str, x: Buffer, dim: int, dtype: memory.dtype | None, log: bool) -> Buffer:
    dim = normalize_dim(op, dim, x.dim())
    dtype = x.dtype if dtype is None else dtype
    if dtype not in dtypes.FLOATING:
        raise RuntimeError(f"{op}: expected a floating-point result, got {dtype}; pass dtype= to convert the input")
    dtypes.triton_dtype(x.dtype)
    y = memory.empty(x.shape, dtype, x.device, strides.like(x))
    if y.numel() == 0:
        return y
    columns = x.shape[dim] if x.dim() else 1
    rows = x.numel() // columns
    sizes, (y_strides, x_strides) = walk(*(_without(v, dim) for v in (x.shape, y.stride(), x.stride())))
    config = softmax_configs(x.dtype, rows=rows, columns=columns, across=_step(x, dim) > 1)
    launch(
        _softmax_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]),),
        y,
        x,
        rows,
        columns,
        sizes,
        y_strides,
        x_strides,
        _step(y, dim),
        _step(x, dim),
        config=config,
        cost=Cost(5 * x.numel(), nbytes(x, y)),
        device=x.device,
        LOG=log,
        ONE_TILE=columns <= config.blocks["BLOCK_N"],
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(dtype),
        INDEX=offset_dtype(x, y),
    )
    return y


def softmax(x: Buffer, dim: int, dtype: memory.dtype | None = None) -> Buffer:
    """``exp(x) / Σ exp(x)`` along ``dim``, shifted by the maximum.

    Args:
        x: any shape and strides; floating point unless ``dtype`` is given.
        dim: the dimension that sums to 1.
        dtype: what ``x`` is cast to first, and the result's dtype. Computed in float32 (float64 for float64).

    Returns:
        The shape of ``x``, dense in its order of dimensions.

    Raises:
        IndexError: if ``dim`` is out of range.
        RuntimeError: if the result would not be floating point.

    FLOPs: 5 an element. Least bytes: ``x`` and the result once (``x`` twice where a row exceeds a tile).
    """
    return _softmax("softmax", x, dim, dtype, log=False)


def log_softmax(x: Buffer, dim: int, dtype: memory.dtype | None = None) -> Buffer:
    """``x − log Σ exp(x)`` along ``dim``, shifted by the maximum; otherwise as :func:`softmax`."""
    return _softmax("log_softmax", x, dim, dtype, log=True)


def _input_grad(op: str, grad: Buffer, y: Buffer, dim: int, log: bool) -> Buffer:
    dtypes.check_floating(op, grad=grad, y=y)
    device = check_same_device(op, grad=grad, y=y)
    if grad.shape != y.shape:
        raise RuntimeError(f"{op}: expected grad of shape {tuple(y.shape)}, got {tuple(grad.shape)}")
    dim = normalize_dim(op, dim, y.dim())
    grad_x = memory.empty(y.shape, y.dtype, device, strides.like(y))
    if y.numel() == 0:
        return grad_x
    columns = y.shape[dim] if y.dim() else 1
    rows = y.numel() // columns
    sizes, walked = walk(*(_without(v, dim) for v in (y.shape, grad_x.stride(), grad.stride(), y.stride())))
    config = softmax_input_grad_configs(y.dtype, rows=rows, columns=columns, across=_step(y, dim) > 1)
    launch(
        _softmax_input_grad_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]),),
        grad_x,
        grad,
        y,
        rows,
        columns,
        sizes,
        *walked,
        *(_step(v, dim) for v in (grad_x, grad, y)),
        config=config,
        cost=Cost(4 * y.numel(), nbytes(grad_x, grad, y)),
        device=device,
        LOG=log,
        ONE_TILE=columns <= config.blocks["BLOCK_N"],
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(y.dtype),
        INDEX=offset_dtype(grad_x, grad, y),
    )
    return grad_x


def softmax_input_grad(grad: Buffer, y: Buffer, dim: int) -> Buffer:
    """The gradient of :func:`softmax` from its output: ``y · (grad − Σ grad·y)`` along ``dim``.

    ``grad`` and ``y`` share shape and dtype, any strides; returns their shape and dtype.
    FLOPs: 4 an element. Least bytes: ``grad``, ``y`` and the result once.
    """
    return _input_grad("softmax_input_grad", grad, y, dim, log=False)


def log_softmax_input_grad(grad: Buffer, y: Buffer, dim: int) -> Buffer:
    """The gradient of :func:`log_softmax` from its output: ``grad − exp(y) · Σ grad`` along ``dim``.

    Otherwise as :func:`softmax_input_grad`.
    """
    return _input_grad("log_softmax_input_grad", grad, y, dim, log=True)
