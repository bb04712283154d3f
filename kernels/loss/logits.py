"""Cross entropy of logits, in one pass over each row, and its gradient.

With ``L = log_softmax(x)`` along the classes, a row's loss is ``−Σ_j q_j L_j`` where ``q`` is what the target asks for:

    class index t:          q_j = w_t · (1 − ε) · [j = t] + w_j · ε / C
    class probabilities p:  q_j = w_j · (p_j · (1 − ε) + ε / C)

(``w`` weights the classes, ``ε`` is the label smoothing; Szegedy et al. 2016, section 7). Its gradient is
``factor · softmax(x)_j − q_j`` with ``factor = Σ_j q_j``. The mean divides by ``Σ w_t`` over rows that are not ignored,
or by the number of rows for probabilities.

Rows are all positions but the classes. The first kernel leaves one number a row, a second sums them in fixed order.
:func:`cross_entropy_with_grad` makes the gradient while it has the logits; it knows beforehand what the mean divides by.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_bits, float_from_bits, offsets, walk
from tinyflow.kernels.elementwise import contiguous
from tinyflow.kernels.launch import Config, Configs, Cost, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.loss.rows import (
    MEAN,
    NONE,
    check_indices,
    check_loss,
    check_probabilities,
    class_dim,
    class_weight,
    row_part,
    row_total,
    target_class,
    target_total,
)
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.softmax import ROW_TILES, choose_row_tile, running_softmax, whole_row_tile


@triton.jit
def _wanted(
    at,
    n,
    mask,
    classes,
    target_ptr,
    weight_ptr,
    smoothing,
    PROBABILITIES: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The part of ``q`` that a tile of classes reads: all of it for probabilities, the smoothing alone for an index."""
    uniform = smoothing / tl.cast(classes, COMPUTE)
    if PROBABILITIES:
        q = tl.load(target_ptr + at, mask=mask, other=0).to(COMPUTE) * (1.0 - smoothing) + uniform
    else:
        q = tl.zeros(mask.shape, COMPUTE) + uniform
    if weight_ptr is not None:
        q = q * tl.load(weight_ptr + n, mask=n < classes, other=0).to(COMPUTE)[None, :]
    return tl.where(mask, q, 0.0)


@triton.jit
def _logits_gradient(
    x_row,
    r,
    n,
    mask,
    rows,
    classes,
    x_ptr,
    x_step,
    target_ptr,
    weight_ptr,
    sizes,
    target_strides,
    target_step,
    shift,
    log_total,
    factor,
    g,
    ignore_index,
    smoothing,
    PROBABILITIES: tl.constexpr,
    SPREAD: tl.constexpr,
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """``g · (factor · softmax(x) − q)`` of a tile of classes."""
    x = tl.load(x_ptr + x_row[:, None] + (n * x_step)[None, :], mask=mask, other=0).to(COMPUTE)
    grad = factor[:, None] * tl.exp(x - shift[:, None] - log_total[:, None])
    if SPREAD:
        at = offsets(r, sizes, target_strides, DIMS)[:, None] + (n * target_step)[None, :]
        grad -= _wanted(at, n, mask, classes, target_ptr, weight_ptr, smoothing, PROBABILITIES, COMPUTE)
    if not PROBABILITIES:
        target, counts, exists = target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
        share = (1.0 - smoothing) * class_weight(weight_ptr, target, counts, exists, COMPUTE)
        grad = grad - tl.where(n.to(tl.int64)[None, :] == target[:, None], share[:, None], 0.0)
        grad = tl.where(counts[:, None], grad, 0.0)
        g = tl.where(counts, g, 0.0)  # the mean of nothing divides by 0, and an ignored row still has no gradient
    return grad * g[:, None]


@triton.jit(do_not_specialize=["ignore_index", "smoothing_bits"])
def _cross_entropy_kernel(
    loss_ptr,  # [rows]
    grad_x_ptr,  # of the sum or the mean, or None
    total_ptr,  # what the mean divides by, or None for a sum
    row_weight_ptr,  # [rows], or None where nothing divides by the weights
    normalizer_ptr,  # [2, rows]: the maximum, and the logarithm of the sum shifted by it
    factor_ptr,  # [rows]: Σ q
    x_ptr,
    target_ptr,
    weight_ptr,
    rows,
    classes,
    sizes,
    grad_x_strides,
    x_strides,
    target_strides,
    grad_x_step,
    x_step,
    target_step,
    ignore_index,
    smoothing_bits,
    PROBABILITIES: tl.constexpr,
    SPREAD: tl.constexpr,  # whether q is more than one class
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    r = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    x_row = offsets(r, sizes, x_strides, DIMS)
    smoothing = float_from_bits(smoothing_bits).to(COMPUTE)
    largest = tl.full([BLOCK_R], float("-inf"), COMPUTE)
    total = tl.zeros([BLOCK_R], COMPUTE)
    shift = tl.zeros([BLOCK_R], COMPUTE)
    factor = tl.zeros([BLOCK_R], COMPUTE)
    expected = tl.zeros([BLOCK_R], COMPUTE)  # Σ q·(x − shift)
    for start in range(0, classes, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N).to(INDEX)
        mask = (r < rows)[:, None] & (n < classes)[None, :]
        x = tl.load(x_ptr + x_row[:, None] + (n * x_step)[None, :], mask=mask, other=float("-inf")).to(COMPUTE)
        before = shift
        largest, total, shift = running_softmax(largest, total, x)
        if SPREAD:
            at = offsets(r, sizes, target_strides, DIMS)[:, None] + (n * target_step)[None, :]
            q = _wanted(at, n, mask, classes, target_ptr, weight_ptr, smoothing, PROBABILITIES, COMPUTE)
            expected -= factor * (shift - before)
            expected += tl.sum(tl.where(mask, q * (x - shift[:, None]), 0.0), axis=1)
            factor += tl.sum(q, axis=1)
    log_total = tl.log(tl.where(r < rows, total, 1.0))
    loss = factor * log_total - expected
    if not PROBABILITIES:
        target, counts, exists = target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
        weight = class_weight(weight_ptr, target, counts, exists, COMPUTE)
        x_target = tl.load(x_ptr + x_row + target * x_step, mask=counts & exists, other=0).to(COMPUTE)
        share = (1.0 - smoothing) * weight
        loss = tl.where(counts, loss + share * (log_total - (x_target - shift)), 0.0)
        factor = tl.where(counts, factor + share, 0.0)
        if row_weight_ptr is not None:
            tl.store(row_weight_ptr + r, weight, mask=r < rows)
    tl.store(loss_ptr + r, loss.to(loss_ptr.dtype.element_ty), mask=r < rows)
    tl.store(normalizer_ptr + r, shift, mask=r < rows)
    tl.store(normalizer_ptr + rows + r, log_total, mask=r < rows)
    tl.store(factor_ptr + r, factor, mask=r < rows)
    if grad_x_ptr is not None:
        g = tl.full([BLOCK_R], 1.0, COMPUTE)
        if total_ptr is not None:
            g = g / tl.load(total_ptr)
        grad_x_row = offsets(r, sizes, grad_x_strides, DIMS)
        for start in range(0, classes, BLOCK_N):
            n = start + tl.arange(0, BLOCK_N).to(INDEX)
            mask = (r < rows)[:, None] & (n < classes)[None, :]
            grad = _logits_gradient(
                x_row, r, n, mask, rows, classes, x_ptr, x_step, target_ptr, weight_ptr, sizes, target_strides,
                target_step, shift, log_total, factor, g, ignore_index, smoothing, PROBABILITIES, SPREAD, DIMS, COMPUTE,
            )  # fmt: skip
            out_at = grad_x_row[:, None] + (n * grad_x_step)[None, :]
            tl.store(grad_x_ptr + out_at, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["ignore_index", "smoothing_bits"])
def _cross_entropy_input_grad_kernel(
    grad_x_ptr,
    g_ptr,  # [rows] by g_strides, all 0 for a mean or a sum
    x_ptr,
    target_ptr,
    weight_ptr,
    normalizer_ptr,
    factor_ptr,
    total_ptr,  # what the mean divided by, or None
    rows,
    classes,
    sizes,
    grad_x_strides,
    g_strides,
    x_strides,
    target_strides,
    grad_x_step,
    x_step,
    target_step,
    ignore_index,
    smoothing_bits,
    PROBABILITIES: tl.constexpr,
    SPREAD: tl.constexpr,
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    r = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    n = tl.program_id(1).to(INDEX) * BLOCK_N + tl.arange(0, BLOCK_N).to(INDEX)
    valid = r < rows
    mask = valid[:, None] & (n < classes)[None, :]
    smoothing = float_from_bits(smoothing_bits).to(COMPUTE)
    g = tl.load(g_ptr + offsets(r, sizes, g_strides, DIMS), mask=valid, other=0).to(COMPUTE)
    if total_ptr is not None:
        g = g / tl.load(total_ptr)
    shift = tl.load(normalizer_ptr + r, mask=valid, other=0)
    log_total = tl.load(normalizer_ptr + rows + r, mask=valid, other=0)
    factor = tl.load(factor_ptr + r, mask=valid, other=0)
    x_row = offsets(r, sizes, x_strides, DIMS)
    grad = _logits_gradient(
        x_row, r, n, mask, rows, classes, x_ptr, x_step, target_ptr, weight_ptr, sizes, target_strides,
        target_step, shift, log_total, factor, g, ignore_index, smoothing, PROBABILITIES, SPREAD, DIMS, COMPUTE,
    )  # fmt: skip
    out_at = offsets(r, sizes, grad_x_strides, DIMS)[:, None] + (n * grad_x_step)[None, :]
    tl.store(grad_x_ptr + out_at, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)


#: The same for float64, of which a program holds fewer.
_ROW_TILES_OF_FLOAT64 = (
    Config({"BLOCK_R": 32, "BLOCK_N": 32}),
    Config({"BLOCK_R": 8, "BLOCK_N": 128}),
    Config({"BLOCK_R": 2, "BLOCK_N": 1024}),
    Config({"BLOCK_R": 1, "BLOCK_N": 2048}, num_warps=8),
)

cross_entropy_configs = Configs(
    "_cross_entropy_kernel", ROW_TILES, choose_row_tile, whole_row_tile, float64=_ROW_TILES_OF_FLOAT64
)
cross_entropy_input_grad_configs = Configs(
    "_cross_entropy_input_grad_kernel", ROW_TILES, choose_row_tile, whole_row_tile
)


def check_cross_entropy(
    x: Buffer, target: Buffer, weight: Buffer | None, ignore_index: int, reduction: str, label_smoothing: float
) -> bool:
    """Raises what :func:`cross_entropy` raises for its arguments; True if the target holds probabilities."""
    op = "cross_entropy"
    probabilities = check_loss(op, x, target, weight, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"{op}: label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    (check_probabilities if probabilities else check_indices)(op, x, target, ignore_index)
    return probabilities


def cross_entropy(
    x: Buffer,
    target: Buffer,
    weight: Buffer | None = None,
    ignore_index: int = -100,
    reduction: str = MEAN,
    label_smoothing: float = 0.0,
) -> tuple[Buffer, Buffer, Buffer, Buffer | None]:
    """The cross entropy between logits and targets (the module's description has the formula).

    Args:
        x: logits (C,), (N, C) or (N, C, d1, ...), any strides. Computed in float32 (float64 for float64).
        target: class indices, int64 or uint8, the shape of ``x`` without C; or probabilities, the shape of ``x``.
        weight: (C,), of the dtype of ``x`` or of the arithmetic.
        ignore_index: rows with this target have no loss.
        reduction: 'mean', 'sum' or 'none'.
        label_smoothing: ε in [0, 1].

    Returns:
        the loss in the dtype of ``x``: 0-dimensional, or (N, d1, ...) for 'none'; and for the gradient, in the dtype
        of the arithmetic: ``normalizer`` (2, rows), ``factor`` (N, d1, ...), and what the mean divided by, else None.

    Raises:
        IndexError: for a target out of range on the CPU.
        ValueError, RuntimeError, TypeError: if shapes, dtypes, devices or parameters do not fit.

    FLOPs: 5 a logit, 9 with smoothing or probabilities. Least bytes: ``x`` once, and the probabilities.
    """
    return _cross_entropy(x, target, weight, ignore_index, reduction, label_smoothing, with_grad=False)[:4]


def cross_entropy_with_grad(
    x: Buffer,
    target: Buffer,
    weight: Buffer | None = None,
    ignore_index: int = -100,
    reduction: str = MEAN,
    label_smoothing: float = 0.0,
) -> tuple[Buffer, Buffer, Buffer, Buffer | None, Buffer]:
    """:func:`cross_entropy`, and the gradient of its sum or mean: what :func:`cross_entropy_input_grad` makes of a 1.

    FLOPs: 11 a logit, 15 with smoothing or probabilities. Least bytes: ``x`` read and the gradient written once, where both
    launches read ``x``.

    Raises:
        ValueError: for ``reduction='none'``; else as :func:`cross_entropy`.
    """
    if reduction == NONE:
        raise ValueError("cross_entropy_with_grad: expected reduction 'mean' or 'sum', got 'none'")
    return _cross_entropy(x, target, weight, ignore_index, reduction, label_smoothing, with_grad=True)


def _cross_entropy(
    x: Buffer,
    target: Buffer,
    weight: Buffer | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    with_grad: bool,
) -> tuple[Buffer, Buffer, Buffer, Buffer | None, Any]:
    probabilities = check_cross_entropy(x, target, weight, ignore_index, reduction, label_smoothing)
    dim = class_dim(x)
    classes = x.shape[dim]
    row_shape = row_part(x.shape, dim)
    rows = strides.numel(row_shape)
    statistic = dtypes.accumulate_dtype(x.dtype)
    losses = memory.empty(row_shape, x.dtype if reduction == NONE else statistic, x.device)
    grad_x = memory.empty(x.shape, x.dtype, x.device, strides.like(x)) if with_grad else None
    total = target_total(x, target, weight, ignore_index) if with_grad and reduction == MEAN else None
    weighted = reduction == MEAN and not probabilities and total is None
    row_weights = memory.empty(row_shape, statistic, x.device) if weighted else None
    normalizer = memory.empty((2, rows), statistic, x.device)
    factor = memory.empty(row_shape, statistic, x.device)
    target_strides = row_part(target.stride(), dim) if probabilities else tuple(target.stride())
    sizes, (_, *walked) = walk(
        row_shape,
        strides.contiguous_strides(row_shape),
        row_part((x if grad_x is None else grad_x).stride(), dim),
        row_part(x.stride(), dim),
        target_strides,
    )
    config = cross_entropy_configs(x.dtype, rows=rows, columns=classes, across=x.stride(dim) > 1)
    spread = probabilities or label_smoothing > 0
    launch(
        _cross_entropy_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]),),
        losses,
        grad_x,
        total,
        row_weights,
        normalizer,
        factor,
        x,
        target,
        None if weight is None else contiguous(weight),
        rows,
        classes,
        sizes,
        *walked,
        0 if grad_x is None else grad_x.stride(dim),
        x.stride(dim),
        target.stride(dim) if probabilities else 0,
        ignore_index,
        float_bits(label_smoothing),
        config=config,
        cost=Cost(
            ((9 if spread else 5) + 6 * with_grad) * x.numel(),
            nbytes(x, grad_x, target, weight, losses, row_weights, normalizer, factor, total),
        ),
        device=x.device,
        PROBABILITIES=probabilities,
        SPREAD=spread,
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, target),
    )
    if reduction == NONE:
        return losses, normalizer, factor, None, None
    loss, total = row_total(losses, row_weights, x.dtype, reduction, total)
    return loss, normalizer, factor, total, grad_x


def cross_entropy_input_grad(
    grad: Buffer,
    x: Buffer,
    target: Buffer,
    weight: Buffer | None,
    normalizer: Buffer,
    factor: Buffer,
    total: Buffer | None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Buffer:
    """The gradient of :func:`cross_entropy` with respect to the logits: ``grad / total · (factor · softmax(x) − q)``.

    ``grad`` has the loss's shape; ``normalizer``, ``factor`` and ``total`` come from :func:`cross_entropy`. Returns the
    shape and dtype of ``x``. FLOPs: 6 a logit. Least bytes: ``x`` and the result once, and the probabilities.
    """
    dim = class_dim(x)
    classes = x.shape[dim]
    row_shape = row_part(x.shape, dim)
    probabilities = target.dtype.is_floating_point
    grad_x = memory.empty(x.shape, x.dtype, x.device, strides.like(x))
    if x.numel() == 0:
        return grad_x
    rows = x.numel() // classes
    target_strides = row_part(target.stride(), dim) if probabilities else tuple(target.stride())
    g_strides = tuple(grad.stride()) if grad.dim() == len(row_shape) else (0,) * len(row_shape)
    # normalizer and factor are indexed by the row's number, so the walk keeps row-major order
    sizes, (_, *walked) = walk(
        row_shape,
        strides.contiguous_strides(row_shape),
        row_part(grad_x.stride(), dim),
        g_strides,
        row_part(x.stride(), dim),
        target_strides,
    )
    config = cross_entropy_input_grad_configs(x.dtype, rows=rows, columns=classes, across=x.stride(dim) > 1)
    launch(
        _cross_entropy_input_grad_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]), cdiv(classes, config.blocks["BLOCK_N"])),
        grad_x,
        grad,
        x,
        target,
        None if weight is None else contiguous(weight),
        normalizer,
        factor,
        total,
        rows,
        classes,
        sizes,
        *walked,
        grad_x.stride(dim),
        x.stride(dim),
        target.stride(dim) if probabilities else 0,
        ignore_index,
        float_bits(label_smoothing),
        config=config,
        cost=Cost(6 * x.numel(), nbytes(grad_x, grad, x, target, weight, normalizer, factor, total)),
        device=x.device,
        PROBABILITIES=probabilities,
        SPREAD=probabilities or label_smoothing > 0,
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(grad_x, x, target),
    )
    return grad_x
