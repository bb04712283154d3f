"""The gradient of the input: one pass along each row for two means, and one for the result."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets
from tinyflow.kernels.elementwise import contiguous
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
def _slope_tile(
    g_row,
    x_row,
    weight_ptr,
    mean,
    invstd,
    affine_row,
    c,
    mask,
    column_sizes,
    g_column_strides,
    x_column_strides,
    affine_column_strides,
    PER_ROW: tl.constexpr,
    COLUMN_DIMS: tl.constexpr,
):
    """A tile of u and x̂, 0 where there is no column."""
    x_at = offsets(c, column_sizes, x_column_strides, COLUMN_DIMS)[None, :]
    g_at = offsets(c, column_sizes, g_column_strides, COLUMN_DIMS)[None, :]
    affine_at = offsets(c, column_sizes, affine_column_strides, COLUMN_DIMS)
    weight = affine_tile(weight_ptr, affine_row, affine_at, mask, 1.0, PER_ROW, invstd.dtype)
    u = tl.load(g_row + g_at, mask=mask, other=0).to(invstd.dtype) * weight
    normal = (tl.load(x_row + x_at, mask=mask, other=0).to(invstd.dtype) - mean[:, None]) * invstd[:, None]
    return u, normal


@triton.jit
def _layer_norm_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    x_ptr,
    weight_ptr,
    mean_ptr,
    invstd_ptr,
    rows,
    columns,
    row_sizes,
    grad_x_row_strides,
    g_row_strides,
    x_row_strides,
    affine_row_strides,
    statistic_strides,
    column_sizes,
    grad_x_column_strides,
    g_column_strides,
    x_column_strides,
    affine_column_strides,
    ONE_TILE: tl.constexpr,
    PER_ROW: tl.constexpr,
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
    g_row = g_ptr + offsets(r, row_sizes, g_row_strides, ROW_DIMS)[:, None]
    out_row = grad_x_ptr + offsets(r, row_sizes, grad_x_row_strides, ROW_DIMS)[:, None]
    affine_row = offsets(r, row_sizes, affine_row_strides, ROW_DIMS)
    statistic_at = offsets(r, row_sizes, statistic_strides, ROW_DIMS)
    total = tl.cast(columns, COMPUTE)
    invstd = tl.load(invstd_ptr + statistic_at, mask=r < rows, other=0)
    mean = tl.zeros([BLOCK_R], COMPUTE)
    level = tl.zeros([BLOCK_R], COMPUTE)  # ⟨u⟩
    if mean_ptr is not None:
        mean = tl.load(mean_ptr + statistic_at, mask=r < rows, other=0)
    if ONE_TILE:
        mask = (r < rows)[:, None] & (lane < columns)[None, :]
        u, normal = _slope_tile(
            g_row, x_row, weight_ptr, mean, invstd, affine_row, lane, mask,
            column_sizes, g_column_strides, x_column_strides, affine_column_strides, PER_ROW, COLUMN_DIMS,
        )  # fmt: skip
        slope = tl.sum(u * normal, axis=1) / total
        if mean_ptr is not None:
            level = tl.sum(u, axis=1) / total
        grad_x = invstd[:, None] * (u - level[:, None] - normal * slope[:, None])
        out_at = offsets(lane, column_sizes, grad_x_column_strides, COLUMN_DIMS)[None, :]
        tl.store(out_row + out_at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    else:
        lane_u = tl.zeros([BLOCK_R, BLOCK_N], COMPUTE)
        lane_ux = tl.zeros([BLOCK_R, BLOCK_N], COMPUTE)
        for start in range(0, columns, BLOCK_N):
            c = start + lane
            mask = (r < rows)[:, None] & (c < columns)[None, :]
            u, normal = _slope_tile(
                g_row, x_row, weight_ptr, mean, invstd, affine_row, c, mask,
                column_sizes, g_column_strides, x_column_strides, affine_column_strides, PER_ROW, COLUMN_DIMS,
            )  # fmt: skip
            lane_u += u
            lane_ux += u * normal
        slope = tl.sum(lane_ux, axis=1) / total
        if mean_ptr is not None:
            level = tl.sum(lane_u, axis=1) / total
        for start in range(0, columns, BLOCK_N):
            c = start + lane
            mask = (r < rows)[:, None] & (c < columns)[None, :]
            u, normal = _slope_tile(
                g_row, x_row, weight_ptr, mean, invstd, affine_row, c, mask,
                column_sizes, g_column_strides, x_column_strides, affine_column_strides, PER_ROW, COLUMN_DIMS,
            )  # fmt: skip
            grad_x = invstd[:, None] * (u - level[:, None] - normal * slope[:, None])
            out_at = offsets(c, column_sizes, grad_x_column_strides, COLUMN_DIMS)[None, :]
            tl.store(out_row + out_at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


layer_norm_input_grad_configs = Configs(
    "_layer_norm_input_grad_kernel", TILES, choose_rows, whole_row_tile, float64=TILES_OF_FLOAT64
)


def layer_norm_input_grad(
    grad: Buffer, x: Buffer, weight: Buffer | None, mean: Buffer | None, invstd: Buffer
) -> Buffer:
    """The gradient of ``x`` in :func:`layer_norm`: ``invstd · (u − ⟨u⟩ − x̂⟨u x̂⟩)`` with ``u = grad · weight``.

    ``grad`` has the shape and dtype of ``x``, any strides; ``weight`` as there; ``mean`` (None if rows were not centred)
    and ``invstd`` contiguous, as they were returned. The result lies as ``x`` does. Raises as :func:`layer_norm`.
    FLOPs: 11 an element. Least bytes: ``grad``, ``x`` and the result once.
    """
    op = "layer_norm_input_grad"
    dtypes.check_floating(op, grad=grad, x=x)
    lead = invstd.dim()
    check(op, x, weight, None, lead)
    device = check_same_device(op, grad=grad, x=x, weight=weight, mean=mean, invstd=invstd)
    grad_x = memory.empty(x.shape, x.dtype, device, strides.like(x))
    if x.numel() == 0:
        return grad_x
    weight = None if weight is None else contiguous(weight)
    rows = invstd.numel()
    columns = x.numel() // rows
    affine = affine_strides(x, weight)
    row_sizes, row_walks, column_sizes, column_walks = walks(
        x, lead, tuple(invstd.shape), grad_x.stride(), grad.stride(), x.stride(), affine
    )
    config = layer_norm_input_grad_configs(x.dtype, rows=rows, columns=columns, across=is_across(x, lead))
    launch(
        _layer_norm_input_grad_kernel,
        (cdiv(rows, config.blocks["BLOCK_R"]),),
        grad_x,
        grad,
        x,
        weight,
        mean,
        invstd,
        rows,
        columns,
        row_sizes,
        *row_walks,
        column_sizes,
        *column_walks,
        config=config,
        cost=Cost(11 * x.numel(), nbytes(grad_x, grad, x, weight, mean, invstd)),
        device=device,
        ONE_TILE=columns <= config.blocks["BLOCK_N"],
        PER_ROW=any(affine[:lead]),
        ROW_DIMS=len(row_sizes),
        COLUMN_DIMS=len(column_sizes),
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(grad_x, grad, x),
    )
    return grad_x
