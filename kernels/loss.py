"""Cross entropy of logits, in one pass over each row, its gradient, and the negative log-likelihood.

With ``L = log_softmax(x)`` along the classes, a row's loss is ``−Σ_j q_j L_j`` where ``q`` is what the target asks for:

    class index t:          q_j = w_t · (1 − ε) · [j = t] + w_j · ε / C
    class probabilities p:  q_j = w_j · (p_j · (1 − ε) + ε / C)

(``w`` weights the classes, ``ε`` is the label smoothing; Szegedy et al. 2016, section 7). Its gradient is
``factor · softmax(x)_j − q_j`` with ``factor = Σ_j q_j``. The mean divides by ``Σ w_t`` over rows that are not ignored,
or by the number of rows for probabilities.

Rows are all positions but the classes. The first kernel leaves one number a row, a second sums them in fixed order. A
target out of range is an ``IndexError`` where the host can read it; on a GPU, where looking would wait for the device,
that row's loss and gradient are NaN, and ``TRITON_DEBUG=1`` makes it a device-side assertion.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_bits, float_from_bits, offsets, walk
from tinyflow.kernels.elementwise import contiguous, fill
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
from tinyflow.kernels.softmax import ROW_TILES, choose_row_tile, running_softmax, whole_row_tile

MEAN, SUM, NONE = "mean", "sum", "none"


@triton.jit
def _target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS: tl.constexpr):
    """The class of each row, whether the row counts, and whether its class exists."""
    at = offsets(r, sizes, target_strides, DIMS)
    target = tl.load(target_ptr + at, mask=r < rows, other=0).to(tl.int64)
    counts = (r < rows) & (target != ignore_index)
    exists = (target >= 0) & (target < classes)
    tl.device_assert(exists | (counts == 0), "cross_entropy: target is out of bounds")
    return target, counts, exists


@triton.jit
def _class_weight(weight_ptr, target, counts, exists, COMPUTE: tl.constexpr):
    """The weight of each row's class: 0 where the row is ignored, NaN where there is no such class."""
    if weight_ptr is None:
        weight = tl.where(counts, 1.0, 0.0).to(COMPUTE)
    else:
        weight = tl.load(weight_ptr + target, mask=counts & exists, other=0).to(COMPUTE)
    return tl.where(counts & (exists == 0), float("nan"), weight)


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


@triton.jit(do_not_specialize=["ignore_index", "smoothing_bits"])
def _cross_entropy_kernel(
    loss_ptr,  # [rows]
    row_weight_ptr,  # [rows], or None where nothing divides by the weights
    normalizer_ptr,  # [2, rows]: the maximum, and the logarithm of the sum shifted by it
    factor_ptr,  # [rows]: Σ q
    x_ptr,
    target_ptr,
    weight_ptr,
    rows,
    classes,
    sizes,
    x_strides,
    target_strides,
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
        target, counts, exists = _target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
        weight = _class_weight(weight_ptr, target, counts, exists, COMPUTE)
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
    x_at = offsets(r, sizes, x_strides, DIMS)[:, None] + (n * x_step)[None, :]
    x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
    grad = factor[:, None] * tl.exp(x - shift[:, None] - log_total[:, None])
    if SPREAD:
        at = offsets(r, sizes, target_strides, DIMS)[:, None] + (n * target_step)[None, :]
        grad -= _wanted(at, n, mask, classes, target_ptr, weight_ptr, smoothing, PROBABILITIES, COMPUTE)
    if not PROBABILITIES:
        target, counts, exists = _target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
        share = (1.0 - smoothing) * _class_weight(weight_ptr, target, counts, exists, COMPUTE)
        grad = grad - tl.where(n.to(tl.int64)[None, :] == target[:, None], share[:, None], 0.0)
        grad = tl.where(counts[:, None], grad, 0.0)
        g = tl.where(counts, g, 0.0)  # the mean of nothing divides by 0, and an ignored row still has no gradient
    grad = grad * g[:, None]
    out_at = offsets(r, sizes, grad_x_strides, DIMS)[:, None] + (n * grad_x_step)[None, :]
    tl.store(grad_x_ptr + out_at, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)


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
    target, counts, exists = _target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
    weight = _class_weight(weight_ptr, target, counts, exists, COMPUTE)
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
    target, counts, exists = _target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
    grad = tl.where(counts, -g * _class_weight(weight_ptr, target, counts, exists, COMPUTE), 0.0)
    grad = tl.where(n.to(tl.int64)[None, :] == target[:, None], grad[:, None], 0.0)
    out_at = offsets(r, sizes, grad_x_strides, DIMS)[:, None] + (n * grad_x_step)[None, :]
    mask = (r < rows)[:, None] & (n < classes)[None, :]
    tl.store(grad_x_ptr + out_at, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _loss_total_kernel(
    out_ptr,
    total_ptr,  # None for a sum
    loss_ptr,
    row_weight_ptr,  # None: every row weighs 1
    rows,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    lane = tl.arange(0, BLOCK_R).to(INDEX)
    losses = tl.zeros([BLOCK_R], COMPUTE)
    weights = tl.zeros([BLOCK_R], COMPUTE)
    for start in range(0, rows, BLOCK_R):
        mask = start + lane < rows
        losses += tl.load(loss_ptr + start + lane, mask=mask, other=0)
        if row_weight_ptr is not None:
            weights += tl.load(row_weight_ptr + start + lane, mask=mask, other=0)
    loss = tl.sum(losses, axis=0)
    if total_ptr is not None:
        if row_weight_ptr is not None:
            total = tl.sum(weights, axis=0)
        else:
            total = tl.cast(rows, COMPUTE)
        tl.store(total_ptr, total)
        loss = loss / total
    tl.store(out_ptr, loss.to(out_ptr.dtype.element_ty))


_LINE = Config({"BLOCK_R": 256})
_TOTAL = Config({"BLOCK_R": 4096}, num_warps=8)


def _line(rows: int) -> Config:
    return _LINE


def _choose_total(rows: int) -> Config:
    return _TOTAL


def _whole_line(rows: int) -> Config:
    return Config({"BLOCK_R": block(rows, MAX_BLOCK)})


cross_entropy_configs = Configs("_cross_entropy_kernel", ROW_TILES, choose_row_tile, whole_row_tile)
cross_entropy_input_grad_configs = Configs(
    "_cross_entropy_input_grad_kernel", ROW_TILES, choose_row_tile, whole_row_tile
)
nll_loss_input_grad_configs = Configs("_nll_loss_input_grad_kernel", ROW_TILES, choose_row_tile, whole_row_tile)
nll_loss_configs = Configs("_nll_loss_kernel", (_LINE,), _line, _whole_line)
loss_total_configs = Configs("_loss_total_kernel", (_TOTAL,), _choose_total, _whole_line)


def _class_dim(x: Buffer) -> int:
    return 1 if x.dim() > 1 else 0


def _row_part(sequence: Sequence[int], dim: int) -> tuple[int, ...]:
    return (*sequence[:dim], *sequence[dim + 1 :])


def _check(op: str, x: Buffer, target: Buffer, weight: Buffer | None, reduction: str) -> bool:
    """Checks what both losses share; True if the target holds probabilities."""
    dtypes.check_floating(op, x=x)
    if reduction not in (MEAN, SUM, NONE):
        raise ValueError(f"{op}: {reduction} is not a valid value for reduction; expected 'mean', 'sum' or 'none'")
    if x.dim() == 0:
        raise ValueError(f"{op}: expected x of shape (C,) or (N, C, ...), got ()")
    check_same_device(op, x=x, target=target, weight=weight)
    classes = x.shape[_class_dim(x)]
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(
            f"{op}: weight tensor should be defined either for all {classes} classes or no classes "
            f"but got weight tensor of shape: {tuple(weight.shape)}"
        )
    if weight is not None and weight.dtype not in (x.dtype, dtypes.accumulate_dtype(x.dtype)):
        raise RuntimeError(f"{op}: expected weight of dtype {x.dtype}, got {weight.dtype}")
    return target.dtype.is_floating_point


def _check_indices(op: str, x: Buffer, target: Buffer, ignore_index: int) -> None:
    if target.dtype not in (memory.int64, memory.uint8):
        raise RuntimeError(f"{op}: expected target of class indices in torch.int64, got {target.dtype}")
    expected = _row_part(x.shape, _class_dim(x))
    found = tuple(target.shape)
    if len(found) == len(expected) and found[:1] != expected[:1]:
        raise ValueError(f"{op}: Expected input batch_size ({expected[0]}) to match target batch_size ({found[0]}).")
    if found != expected:
        raise RuntimeError(f"{op}: Expected target size {expected} for x of shape {tuple(x.shape)}, got {found}")
    if target.device.type == "cpu":
        _check_range(target, x.shape[_class_dim(x)], ignore_index)


def _check_range(target: Buffer, classes: int, ignore_index: int) -> None:
    found = memory.to_numpy(target)
    wrong = found[((found < 0) | (found >= classes)) & (found != ignore_index)]
    if wrong.size:
        raise IndexError(f"Target {wrong.flat[0]} is out of bounds.")


def _check_probabilities(op: str, x: Buffer, target: Buffer, ignore_index: int) -> None:
    if target.shape != x.shape:
        raise RuntimeError(
            f"{op}: expected class probabilities of the shape of x {tuple(x.shape)}, got {tuple(target.shape)}"
        )
    if ignore_index >= 0:
        raise RuntimeError(f"{op}: ignore_index is not supported for floating point target, got {ignore_index}")


def _total(
    rows: Buffer, row_weights: Buffer | None, dtype: memory.dtype, reduction: str
) -> tuple[Buffer, Buffer | None]:
    """The sum or mean of the rows' losses, and what the mean divided by."""
    out = memory.empty((), dtype, rows.device)
    total = memory.empty((), rows.dtype, rows.device) if reduction == MEAN else None
    if rows.numel() == 0:
        if total is not None:
            fill(total, 0.0)
        return fill(out, float("nan") if reduction == MEAN else 0.0), total
    config = loss_total_configs(rows.dtype, rows=rows.numel())
    launch(
        _loss_total_kernel,
        (1,),
        out,
        total,
        rows,
        row_weights,
        rows.numel(),
        config=config,
        cost=Cost(rows.numel(), nbytes(out, total, rows, row_weights)),
        device=rows.device,
        COMPUTE=dtypes.triton_dtype(rows.dtype),
        INDEX=offset_dtype(rows),
    )
    return out, total


def check_cross_entropy(
    x: Buffer, target: Buffer, weight: Buffer | None, ignore_index: int, reduction: str, label_smoothing: float
) -> bool:
    """Raises what :func:`cross_entropy` raises for its arguments; True if the target holds probabilities."""
    op = "cross_entropy"
    probabilities = _check(op, x, target, weight, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"{op}: label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    (_check_probabilities if probabilities else _check_indices)(op, x, target, ignore_index)
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
    probabilities = check_cross_entropy(x, target, weight, ignore_index, reduction, label_smoothing)
    dim = _class_dim(x)
    classes = x.shape[dim]
    row_shape = _row_part(x.shape, dim)
    rows = strides.numel(row_shape)
    statistic = dtypes.accumulate_dtype(x.dtype)
    losses = memory.empty(row_shape, x.dtype if reduction == NONE else statistic, x.device)
    weighted = reduction == MEAN and not probabilities
    row_weights = memory.empty(row_shape, statistic, x.device) if weighted else None
    normalizer = memory.empty((2, rows), statistic, x.device)
    factor = memory.empty(row_shape, statistic, x.device)
    target_strides = _row_part(target.stride(), dim) if probabilities else tuple(target.stride())
    sizes, (_, x_steps, target_steps) = walk(
        row_shape, strides.contiguous_strides(row_shape), _row_part(x.stride(), dim), target_strides
    )
    config = cross_entropy_configs(x.dtype, rows=rows, columns=classes, across=x.stride(dim) > 1)
    spread = probabilities or label_smoothing > 0
    launch(
        _cross_entropy_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]),),
        losses,
        row_weights,
        normalizer,
        factor,
        x,
        target,
        None if weight is None else contiguous(weight),
        rows,
        classes,
        sizes,
        x_steps,
        target_steps,
        x.stride(dim),
        target.stride(dim) if probabilities else 0,
        ignore_index,
        float_bits(label_smoothing),
        config=config,
        cost=Cost((9 if spread else 5) * x.numel(), nbytes(x, target, weight, losses, row_weights, normalizer, factor)),
        device=x.device,
        PROBABILITIES=probabilities,
        SPREAD=spread,
        DIMS=len(sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, target),
    )
    if reduction == NONE:
        return losses, normalizer, factor, None
    loss, total = _total(losses, row_weights, x.dtype, reduction)
    return loss, normalizer, factor, total


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
    dim = _class_dim(x)
    classes = x.shape[dim]
    row_shape = _row_part(x.shape, dim)
    probabilities = target.dtype.is_floating_point
    grad_x = memory.empty(x.shape, x.dtype, x.device, strides.like(x))
    if x.numel() == 0:
        return grad_x
    rows = x.numel() // classes
    target_strides = _row_part(target.stride(), dim) if probabilities else tuple(target.stride())
    g_strides = tuple(grad.stride()) if grad.dim() == len(row_shape) else (0,) * len(row_shape)
    # normalizer and factor are indexed by the row's number, so the walk keeps row-major order
    sizes, (_, *walked) = walk(
        row_shape,
        strides.contiguous_strides(row_shape),
        _row_part(grad_x.stride(), dim),
        g_strides,
        _row_part(x.stride(), dim),
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
    if _check(op, x, target, weight, reduction):
        raise RuntimeError(f"{op}: expected target of class indices in torch.int64, got {target.dtype}")
    _check_indices(op, x, target, ignore_index)
    dim = _class_dim(x)
    row_shape = tuple(target.shape)
    rows = target.numel()
    statistic = dtypes.accumulate_dtype(x.dtype)
    losses = memory.empty(row_shape, x.dtype if reduction == NONE else statistic, x.device)
    row_weights = memory.empty(row_shape, statistic, x.device) if reduction == MEAN else None
    sizes, (_, x_steps, target_steps) = walk(
        row_shape, strides.contiguous_strides(row_shape), _row_part(x.stride(), dim), tuple(target.stride())
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
    return _total(losses, row_weights, x.dtype, reduction)


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
    row_shape = _row_part(shape, dim)
    rows, classes = strides.numel(row_shape), shape[dim]
    grad_x = memory.empty(shape, grad.dtype, grad.device)
    g_strides = tuple(grad.stride()) if grad.dim() == len(row_shape) else (0,) * len(row_shape)
    sizes, walked = walk(row_shape, _row_part(grad_x.stride(), dim), g_strides, tuple(target.stride()))
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
