"""The forward pass: statistics of each row, and the row normalised by them."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_bits, float_from_bits, offsets
from tinyflow.kernels.elementwise import contiguous, fill
from tinyflow.kernels.launch import Configs, Cost, cdiv, check_same_device, launch, nbytes, offset_dtype
from tinyflow.kernels.layer_norm.rows import (
    TILES,
    TILES_OF_FLOAT64,
    affine_strides,
    affine_tile,
    check,
    choose_rows,
    is_across,
    walks,
)
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.softmax import whole_row_tile


@triton.jit
def _merge_lanes(lane_mean, lane_squares, lane, columns, BLOCK_N: tl.constexpr, COMPUTE: tl.constexpr):
    """Mean and sum of squared deviations of rows, from those of the lanes that share each."""
    total = tl.cast(columns, COMPUTE)
    counts = tl.maximum((columns - lane + BLOCK_N - 1) // BLOCK_N, 0).to(COMPUTE)[None, :]
    mean = tl.sum(counts * lane_mean, axis=1) / total
    apart = lane_mean - mean[:, None]
    rounding = tl.sum(counts * apart, axis=1) / total  # what the sum above lost
    squares = tl.sum(lane_squares + counts * apart * apart, axis=1) - rounding * rounding * total
    return mean + rounding, squares


@triton.jit
def _store_normal(
    y_row,
    x,
    weight_ptr,
    bias_ptr,
    mean,
    invstd,
    affine_row,
    c,
    mask,
    column_sizes,
    y_column_strides,
    affine_column_strides,
    PER_ROW: tl.constexpr,
    COLUMN_DIMS: tl.constexpr,
):
    affine_at = offsets(c, column_sizes, affine_column_strides, COLUMN_DIMS)
    weight = affine_tile(weight_ptr, affine_row, affine_at, mask, 1.0, PER_ROW, x.dtype)
    bias = affine_tile(bias_ptr, affine_row, affine_at, mask, 0.0, PER_ROW, x.dtype)
    y = (x - mean[:, None]) * invstd[:, None] * weight + bias
    y_at = offsets(c, column_sizes, y_column_strides, COLUMN_DIMS)[None, :]
    tl.store(y_row + y_at, y.to(y_row.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["eps_bits"])
def _layer_norm_kernel(
    y_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,  # None where rows are not centred
    invstd_ptr,
    rows,
    columns,
    eps_bits,
    row_sizes,
    y_row_strides,
    x_row_strides,
    affine_row_strides,
    statistic_strides,
    column_sizes,
    y_column_strides,
    x_column_strides,
    affine_column_strides,
    ONE_TILE: tl.constexpr,
    PER_ROW: tl.constexpr,  # whether weight and bias change from row to row
    ROW_DIMS: tl.constexpr,
    COLUMN_DIMS: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    r = tl.program_id(0).to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R).to(INDEX)
    lane = tl.arange(0, BLOCK_N).to(INDEX)
    x_row = x_ptr + offsets(r, row_sizes, x_row_strides, ROW_DIMS)[:, None]
    y_row = y_ptr + offsets(r, row_sizes, y_row_strides, ROW_DIMS)[:, None]
    affine_row = offsets(r, row_sizes, affine_row_strides, ROW_DIMS)
    statistic_at = offsets(r, row_sizes, statistic_strides, ROW_DIMS)
    total = tl.cast(columns, COMPUTE)
    eps = float_from_bits(eps_bits).to(COMPUTE)
    mean = tl.zeros([BLOCK_R], COMPUTE)
    if ONE_TILE:
        mask = (r < rows)[:, None] & (lane < columns)[None, :]
        x_at = offsets(lane, column_sizes, x_column_strides, COLUMN_DIMS)[None, :]
        x = tl.load(x_row + x_at, mask=mask, other=0).to(COMPUTE)
        if mean_ptr is not None:
            mean = tl.sum(x, axis=1) / total
            deviation = tl.where(mask, x - mean[:, None], 0.0)
            rounding = tl.sum(deviation, axis=1) / total  # what the sum above lost
            squares = tl.sum(deviation * deviation, axis=1) - rounding * rounding * total
            mean += rounding
        else:
            squares = tl.sum(x * x, axis=1)
        invstd = 1.0 / tl.sqrt(squares / total + eps)
        _store_normal(
            y_row, x, weight_ptr, bias_ptr, mean, invstd, affine_row, lane, mask,
            column_sizes, y_column_strides, affine_column_strides, PER_ROW, COLUMN_DIMS,
        )  # fmt: skip
    else:
        lane_mean = tl.zeros([BLOCK_R, BLOCK_N], COMPUTE)
        lane_squares = tl.zeros([BLOCK_R, BLOCK_N], COMPUTE)
        for start in range(0, columns, BLOCK_N):
            c = start + lane
            mask = (r < rows)[:, None] & (c < columns)[None, :]
            x_at = offsets(c, column_sizes, x_column_strides, COLUMN_DIMS)[None, :]
            x = tl.load(x_row + x_at, mask=mask, other=0).to(COMPUTE)
            if mean_ptr is not None:
                delta = tl.where(mask, x - lane_mean, 0.0)
                lane_mean += delta / tl.cast(start // BLOCK_N + 1, COMPUTE)
                lane_squares += delta * (x - lane_mean)
            else:
                lane_squares += x * x
        if mean_ptr is not None:
            mean, squares = _merge_lanes(lane_mean, lane_squares, lane, columns, BLOCK_N, COMPUTE)
        else:
            squares = tl.sum(lane_squares, axis=1)
        invstd = 1.0 / tl.sqrt(squares / total + eps)
        for start in range(0, columns, BLOCK_N):
            c = start + lane
            mask = (r < rows)[:, None] & (c < columns)[None, :]
            x_at = offsets(c, column_sizes, x_column_strides, COLUMN_DIMS)[None, :]
            x = tl.load(x_row + x_at, mask=mask, other=0).to(COMPUTE)
            _store_normal(
                y_row, x, weight_ptr, bias_ptr, mean, invstd, affine_row, c, mask,
                column_sizes, y_column_strides, affine_column_strides, PER_ROW, COLUMN_DIMS,
            )  # fmt: skip
    if mean_ptr is not None:
        tl.store(mean_ptr + statistic_at, mean, mask=r < rows)
    tl.store(invstd_ptr + statistic_at, invstd, mask=r < rows)


layer_norm_configs = Configs("_layer_norm_kernel", TILES, choose_rows, whole_row_tile, float64=TILES_OF_FLOAT64)


def layer_norm(
    x: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    lead: int,
    eps: float = 1e-5,
    centred: bool = True,
) -> tuple[Buffer, Buffer | None, Buffer]:
    r"""Normalises ``x`` over its dimensions from ``lead`` on.

    Args:
        x: (\*rows, \*columns), any strides, floating point. Computed in float32 (float64 for float64).
        weight, bias: of the rank of ``x``, and broadcast to it; of its dtype or of the arithmetic's. None is 1 and 0.
        lead: how many dimensions number the rows.
        eps: added to the variance.
        centred: whether the mean is subtracted; if not, ``invstd`` is that of the mean square.

    Returns:
        ``y`` like ``x``; ``mean`` (None if not centred) and ``invstd`` (\*rows,) in the dtype of the arithmetic.

    Raises:
        TypeError, RuntimeError, ValueError: if dtypes, shapes or devices do not fit.

    FLOPs: 9 an element. Least bytes: ``x`` and ``y`` once (``x`` twice where a row exceeds a tile).
    """
    op = "layer_norm"
    check(op, x, weight, bias, lead)
    device = check_same_device(op, x=x, weight=weight, bias=bias)
    statistic_shape = tuple(x.shape[:lead])
    y = memory.empty(x.shape, x.dtype, device, strides.like(x))
    statistic_dtype = dtypes.accumulate_dtype(x.dtype)
    mean = memory.empty(statistic_shape, statistic_dtype, device) if centred else None
    invstd = memory.empty(statistic_shape, statistic_dtype, device)
    if x.numel() == 0:
        for statistic in (mean, invstd):
            if statistic is not None:
                fill(statistic, 0)
        return y, mean, invstd
    weight, bias = (None if p is None else contiguous(p) for p in (weight, bias))
    rows = strides.numel(statistic_shape)
    columns = x.numel() // rows
    affine = affine_strides(x, bias if weight is None else weight)
    row_sizes, row_walks, column_sizes, column_walks = walks(x, lead, statistic_shape, y.stride(), x.stride(), affine)
    config = layer_norm_configs(x.dtype, rows=rows, columns=columns, across=is_across(x, lead))
    launch(
        _layer_norm_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]),),
        y,
        x,
        weight,
        bias,
        mean,
        invstd,
        rows,
        columns,
        float_bits(eps),
        row_sizes,
        *row_walks,
        column_sizes,
        *column_walks,
        config=config,
        cost=Cost(9 * x.numel(), nbytes(y, x, weight, bias, mean, invstd)),
        device=device,
        ONE_TILE=columns <= config.blocks["BLOCK_N"],
        PER_ROW=any(affine[:lead]),
        ROW_DIMS=len(row_sizes),
        COLUMN_DIMS=len(column_sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x, y),
    )
    return y, mean, invstd
