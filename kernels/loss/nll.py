"""The negative log-likelihood of class indices under log-probabilities, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets, walk
from tinyflow.kernels.elementwise import contiguous
from tinyflow.kernels.launch import Config, Configs, Cost, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.loss.rows import (
    MEAN,
    NONE,
    check_indices,
    check_loss,
    class_dim,
    class_weight,
    row_part,
    row_total,
    target_class,
    whole_line,
)
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.softmax import ROW_TILES, choose_row_tile, whole_row_tile


@triton.jit(do_not_specialize=["ignore_index"])
def _nll_loss_kernel(
    loss_ptr,
    row_weight_ptr,
    x_ptr,
    target_ptr,
    weight_ptr,
    rows,
    classes,
    sizes,
    x_strides,
    target_strides,
    x_step,
    ignore_index,
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    r = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    target, counts, exists = target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
    weight = class_weight(weight_ptr, target, counts, exists, COMPUTE)
    x_at = offsets(r, sizes, x_strides, DIMS) + target * x_step
    x = tl.load(x_ptr + x_at, mask=counts & exists, other=0).to(COMPUTE)
    loss = tl.where(counts, -weight * x, 0.0)
    tl.store(loss_ptr + r, loss.to(loss_ptr.dtype.element_ty), mask=r < rows)
    if row_weight_ptr is not None:
        tl.store(row_weight_ptr + r, weight, mask=r < rows)


@triton.jit(do_not_specialize=["ignore_index"])
def _nll_loss_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    target_ptr,
    weight_ptr,
    total_ptr,
    rows,
    classes,
    sizes,
    grad_x_strides,
    g_strides,
    target_strides,
    grad_x_step,
    ignore_index,
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    r = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    n = tl.program_id(1).to(INDEX) * BLOCK_N + tl.arange(0, BLOCK_N).to(INDEX)
    g = tl.load(g_ptr + offsets(r, sizes, g_strides, DIMS), mask=r < rows, other=0).to(COMPUTE)
    if total_ptr is not None:
        g = g / tl.load(total_ptr)
    target, counts, exists = target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
    grad = tl.where(counts, -g * class_weight(weight_ptr, target, counts, exists, COMPUTE), 0.0)
    grad = tl.where(n.to(tl.int64)[None, :] == target[:, None], grad[:, None], 0.0)
    out_at = offsets(r, sizes, grad_x_strides, DIMS)[:, None] + (n * grad_x_step)[None, :]
    mask = (r < rows)[:, None] & (n < classes)[None, :]
    tl.store(grad_x_ptr + out_at, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)


_LINE = Config({"BLOCK_R": 256})


def _line(rows: int) -> Config:
    return _LINE


nll_loss_input_grad_configs = Configs("_nll_loss_input_grad_kernel", ROW_TILES, choose_row_tile, whole_row_tile)
nll_loss_configs = Configs("_nll_loss_kernel", (_LINE,), _line, whole_line)


def nll_loss(
    x: Buffer,
    target: Buffer,
    weight: Buffer | None = None,
    ignore_index: int = -100,
    reduction: str = MEAN,
) -> tuple[Buffer, Buffer | None]:
    """The negative log-likelihood ``−w_t · x_t`` of class indices ``t`` under log-probabilities ``x``.

    Args:
        x: (C,), (N, C) or (N, C, d1, ...), any strides, floating point.
        target, weight, ignore_index, reduction: as in :func:`cross_entropy`.

    Returns:
        the loss, and what the mean divided by (None otherwise).

    Raises:
        As :func:`cross_entropy`.

    FLOPs: 1 a row. Least bytes: the targets and one element a row.
    """
    op = "nll_loss"
    if check_loss(op, x, target, weight, reduction):
        raise RuntimeError(f"{op}: expected target of class indices in torch.int64, got {target.dtype}")
    check_indices(op, x, target, ignore_index)
    dim = class_dim(x)
    row_shape = tuple(target.shape)
    rows = target.numel()
    statistic = dtypes.accumulate_dtype(x.dtype)
    losses = memory.empty(row_shape, x.dtype if reduction == NONE else statistic, x.device)
    row_weights = memory.empty(row_shape, statistic, x.device) if reduction == MEAN else None
    sizes, (_, x_steps, target_steps) = walk(
        row_shape, strides.contiguous_strides(row_shape), row_part(x.stride(), dim), tuple(target.stride())
    )
    config = nll_loss_configs(x.dtype, rows=rows)
    launch(
        _nll_loss_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]),),
        losses,
        row_weights,
        x,
        target,
        None if weight is None else contiguous(weight),
        rows,
        x.shape[dim],
        sizes,
        x_steps,
        target_steps,
        x.stride(dim),
        ignore_index,
        config=config,
        cost=Cost(rows, nbytes(target, weight, losses, row_weights) + rows * x.element_size()),
        device=x.device,
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, target),
    )
    if reduction == NONE:
        return losses, None
    return row_total(losses, row_weights, x.dtype, reduction)


def nll_loss_input_grad(
    grad: Buffer,
    target: Buffer,
    weight: Buffer | None,
    total: Buffer | None,
    x_shape: Sequence[int],
    ignore_index: int = -100,
) -> Buffer:
    """The gradient of :func:`nll_loss`: ``−w_t · grad / total`` at each row's class and 0 elsewhere.

    ``grad`` has the loss's shape; returns ``x_shape`` in the dtype of ``grad``.

    FLOPs: 1 a row. Least bytes: the result once.
    """
    shape = tuple(x_shape)
    dim = 1 if len(shape) > 1 else 0
    row_shape = row_part(shape, dim)
    rows, classes = strides.numel(row_shape), shape[dim]
    grad_x = memory.empty(shape, grad.dtype, grad.device)
    g_strides = tuple(grad.stride()) if grad.dim() == len(row_shape) else (0,) * len(row_shape)
    sizes, walked = walk(row_shape, row_part(grad_x.stride(), dim), g_strides, tuple(target.stride()))
    config = nll_loss_input_grad_configs(grad.dtype, rows=rows, columns=classes, across=grad_x.stride(dim) > 1)
    launch(
        _nll_loss_input_grad_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]), cdiv(classes, config.blocks["BLOCK_N"])),
        grad_x,
        grad,
        target,
        None if weight is None else contiguous(weight),
        total,
        rows,
        classes,
        sizes,
        *walked,
        grad_x.stride(dim),
        ignore_index,
        config=config,
        cost=Cost(rows, nbytes(grad_x, grad, target, weight, total)),
        device=grad.device,
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(grad.dtype),
        INDEX=offset_dtype(grad_x, target),
    )
    return grad_x
