"""What losses over rows of classes share: targets and their weights, their total, and checks.

Rows are all positions but the classes. A target out of range is an ``IndexError`` where the host can read it; on a GPU,
where looking would wait for the device, that row's loss and gradient are NaN, and ``TRITON_DEBUG=1`` makes it a device-side
assertion.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets, walk
from tinyflow.kernels.elementwise import contiguous, fill
from tinyflow.kernels.launch import (
    MAX_BLOCK,
    Config,
    Configs,
    Cost,
    block,
    check_same_device,
    launch,
    nbytes,
    offset_dtype,
)
from tinyflow.kernels.memory import Buffer

MEAN, SUM, NONE = "mean", "sum", "none"


@triton.jit
def target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS: tl.constexpr):
    """The class of each row, whether the row counts, and whether its class exists."""
    at = offsets(r, sizes, target_strides, DIMS)
    target = tl.load(target_ptr + at, mask=r < rows, other=0).to(tl.int64)
    counts = (r < rows) & (target != ignore_index)
    exists = (target >= 0) & (target < classes)
    tl.device_assert(exists | (counts == 0), "cross_entropy: target is out of bounds")
    return target, counts, exists


@triton.jit
def class_weight(weight_ptr, target, counts, exists, COMPUTE: tl.constexpr):
    """The weight of each row's class: 0 where the row is ignored, NaN where there is no such class."""
    if weight_ptr is None:
        weight = tl.where(counts, 1.0, 0.0).to(COMPUTE)
    else:
        weight = tl.load(weight_ptr + target, mask=counts & exists, other=0).to(COMPUTE)
    return tl.where(counts & (exists == 0), float("nan"), weight)


@triton.jit(do_not_specialize=["ignore_index"])
def _target_total_kernel(
    total_ptr,  # Σ w_t over rows that count
    target_ptr,
    weight_ptr,
    rows,
    classes,
    sizes,
    target_strides,
    ignore_index,
    DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    weights = tl.zeros([BLOCK_R], COMPUTE)
    for start in range(0, rows, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R).to(INDEX)
        target, counts, exists = target_class(target_ptr, r, rows, sizes, target_strides, classes, ignore_index, DIMS)
        weights += class_weight(weight_ptr, target, counts, exists, COMPUTE)
    tl.store(total_ptr, tl.sum(weights, axis=0))


@triton.jit
def _loss_total_kernel(
    out_ptr,
    total_ptr,  # None for a sum
    loss_ptr,
    row_weight_ptr,  # None: every row weighs 1
    rows,
    KNOWN: tl.constexpr,  # whether the total is read, not written
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
        if KNOWN:
            total = tl.load(total_ptr)
        else:
            if row_weight_ptr is not None:
                total = tl.sum(weights, axis=0)
            else:
                total = tl.cast(rows, COMPUTE)
            tl.store(total_ptr, total)
        loss = loss / total
    tl.store(out_ptr, loss.to(out_ptr.dtype.element_ty))


_TOTAL = Config({"BLOCK_R": 4096}, num_warps=8)


def _choose_total(rows: int) -> Config:
    return _TOTAL


def whole_line(rows: int) -> Config:
    return Config({"BLOCK_R": block(rows, MAX_BLOCK)})


loss_total_configs = Configs("_loss_total_kernel", (_TOTAL,), _choose_total, whole_line)
target_total_configs = Configs("_target_total_kernel", (_TOTAL,), _choose_total, whole_line)


def class_dim(x: Buffer) -> int:
    return 1 if x.dim() > 1 else 0


def row_part(sequence: Sequence[int], dim: int) -> tuple[int, ...]:
    return (*sequence[:dim], *sequence[dim + 1 :])


def check_loss(op: str, x: Buffer, target: Buffer, weight: Buffer | None, reduction: str) -> bool:
    """Checks what both losses share; True if the target holds probabilities."""
    dtypes.check_floating(op, x=x)
    if reduction not in (MEAN, SUM, NONE):
        raise ValueError(f"{op}: {reduction} is not a valid value for reduction; expected 'mean', 'sum' or 'none'")
    if x.dim() == 0:
        raise ValueError(f"{op}: expected x of shape (C,) or (N, C, ...), got ()")
    check_same_device(op, x=x, target=target, weight=weight)
    classes = x.shape[class_dim(x)]
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(
            f"{op}: weight tensor should be defined either for all {classes} classes or no classes "
            f"but got weight tensor of shape: {tuple(weight.shape)}"
        )
    if weight is not None and weight.dtype not in (x.dtype, dtypes.accumulate_dtype(x.dtype)):
        raise RuntimeError(f"{op}: expected weight of dtype {x.dtype}, got {weight.dtype}")
    return target.dtype.is_floating_point


def check_indices(op: str, x: Buffer, target: Buffer, ignore_index: int) -> None:
    if target.dtype not in (memory.int64, memory.uint8):
        raise RuntimeError(f"{op}: expected target of class indices in torch.int64, got {target.dtype}")
    expected = row_part(x.shape, class_dim(x))
    found = tuple(target.shape)
    if len(found) == len(expected) and found[:1] != expected[:1]:
        raise ValueError(f"{op}: Expected input batch_size ({expected[0]}) to match target batch_size ({found[0]}).")
    if found != expected:
        raise RuntimeError(f"{op}: Expected target size {expected} for x of shape {tuple(x.shape)}, got {found}")
    if target.device.type == "cpu":
        _check_range(target, x.shape[class_dim(x)], ignore_index)


def _check_range(target: Buffer, classes: int, ignore_index: int) -> None:
    found = memory.to_numpy(target)
    wrong = found[((found < 0) | (found >= classes)) & (found != ignore_index)]
    if wrong.size:
        raise IndexError(f"Target {wrong.flat[0]} is out of bounds.")


def check_probabilities(op: str, x: Buffer, target: Buffer, ignore_index: int) -> None:
    if target.shape != x.shape:
        raise RuntimeError(
            f"{op}: expected class probabilities of the shape of x {tuple(x.shape)}, got {tuple(target.shape)}"
        )
    if ignore_index >= 0:
        raise RuntimeError(f"{op}: ignore_index is not supported for floating point target, got {ignore_index}")


def target_total(x: Buffer, target: Buffer, weight: Buffer | None, ignore_index: int) -> Buffer:
    """What a mean over rows divides by, from the targets alone."""
    total = memory.empty((), dtypes.accumulate_dtype(x.dtype), x.device)
    if target.dtype.is_floating_point or target.numel() == 0:
        return fill(total, float(target.numel() // max(x.shape[class_dim(x)], 1)))
    sizes, (_, steps) = walk(target.shape, strides.contiguous_strides(target.shape), target.stride())
    config = target_total_configs(total.dtype, rows=target.numel())
    launch(
        _target_total_kernel,
        (1,),
        total,
        target,
        None if weight is None else contiguous(weight),
        target.numel(),
        x.shape[class_dim(x)],
        sizes,
        steps,
        ignore_index,
        config=config,
        cost=Cost(target.numel(), nbytes(total, target, weight)),
        device=x.device,
        DIMS=len(sizes),
        COMPUTE=dtypes.triton_dtype(total.dtype),
        INDEX=offset_dtype(target),
    )
    return total


def row_total(
    rows: Buffer, row_weights: Buffer | None, dtype: memory.dtype, reduction: str, known: Buffer | None = None
) -> tuple[Buffer, Buffer | None]:
    """The sum or mean of the rows' losses, and what the mean divided by."""
    out = memory.empty((), dtype, rows.device)
    total = known
    if total is None and reduction == MEAN:
        total = memory.empty((), rows.dtype, rows.device)
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
        KNOWN=known is not None,
        COMPUTE=dtypes.triton_dtype(rows.dtype),
        INDEX=offset_dtype(rows),
    )
    return out, total
