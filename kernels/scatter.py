"""Writing at indices: index_put, index_add, scatter and its reductions, with a result that does not depend on any race.

``indexing`` finds the place of each row to write. The places are sorted (stably), so that rows of one place are neighbours:

- without a reduction the last row of each place is written, as torch on the CPU does;
- with one a segmented reduction in steps of 8 (Hillis & Steele 1986, radix 8): after pass p, row s holds what the rows of
  its place among the 8^(p+1) up to s combine to. It takes ⌈log₈ B⌉ passes, no atomics, and one fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, reduction, strides
from tinyflow.kernels.addressing import offsets, stored_bool_as_int
from tinyflow.kernels.elementwise import check_apart, copy, fill
from tinyflow.kernels.indexing import (
    ROWS,
    Index,
    Rows,
    address,
    along,
    choose_rows,
    elements_of,
    elementwise_rows,
    grid,
    interpreter_rows,
    tile,
    wide,
)
from tinyflow.kernels.launch import Configs, Cost, check_same_device, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.sorting import sort_order
from tinyflow.kernels.strides import Shape


@triton.jit
def _segment_kernel(
    keys_ptr,  # places in ascending order
    order_ptr,  # the row of each in values; None after the first pass
    values_ptr,
    out_ptr,  # (rows, elements), contiguous
    rows,
    elements,
    step,
    row_sizes,
    value_row_strides,
    element_sizes,
    value_element_strides,
    COMBINE: tl.constexpr,
    IDENTITY: tl.constexpr,
    ROW_DIMS: tl.constexpr,
    ELEMENT_DIMS: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    s, e = tile(elements, INDEX, BLOCK_B, BLOCK_E)
    e_mask = (e < elements)[None, :]
    e_at = offsets(e, element_sizes, value_element_strides, ELEMENT_DIMS)[None, :]
    key = tl.load(keys_ptr + s, mask=s < rows, other=-1)
    total = tl.full((BLOCK_B, BLOCK_E), IDENTITY, out_ptr.dtype.element_ty)
    for back in tl.static_range(8):
        t = s - (7 - back) * step  # from the earliest row on
        within = (t >= 0) & (t < rows)
        within = within & (tl.load(keys_ptr + t, mask=within, other=-2) == key)
        if order_ptr is not None:
            row = tl.load(order_ptr + t, mask=within, other=0).to(INDEX)
        else:
            row = t
        at = offsets(row, row_sizes, value_row_strides, ROW_DIMS)
        mask = within[:, None] & e_mask
        value = stored_bool_as_int(tl.load(values_ptr + at[:, None] + e_at, mask=mask, other=0)).to(total.dtype)
        total = COMBINE(total, tl.where(mask, value, IDENTITY))
    tl.store(out_ptr + s[:, None] * elements + e[None, :], total, mask=(s < rows)[:, None] & e_mask)


@triton.jit
def _put_kernel(
    x_ptr,
    keys_ptr,  # places in ascending order
    order_ptr,  # the row of each in values; None where values lie in that order
    values_ptr,
    rows,
    elements,
    row_sizes,
    value_row_strides,
    element_sizes,
    x_element_strides,
    value_element_strides,
    COMBINE: tl.constexpr,  # what stands there with the value; None: the value alone
    ROW_DIMS: tl.constexpr,
    ELEMENT_DIMS: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    s, e = tile(elements, INDEX, BLOCK_B, BLOCK_E)
    key = tl.load(keys_ptr + s, mask=s < rows, other=-1)
    following = tl.load(keys_ptr + s + 1, mask=s + 1 < rows, other=-1)
    mask = ((s < rows) & (key != following))[:, None] & (e < elements)[None, :]  # one row for each place: its last
    if order_ptr is not None:
        row = tl.load(order_ptr + s, mask=s < rows, other=0).to(INDEX)
    else:
        row = s
    value = tl.load(
        values_ptr
        + offsets(row, row_sizes, value_row_strides, ROW_DIMS)[:, None]
        + offsets(e, element_sizes, value_element_strides, ELEMENT_DIMS)[None, :],
        mask=mask,
        other=0,
    )
    at = key.to(INDEX)[:, None] + offsets(e, element_sizes, x_element_strides, ELEMENT_DIMS)[None, :]
    if COMBINE is not None:
        value = COMBINE(stored_bool_as_int(tl.load(x_ptr + at, mask=mask, other=0)).to(value.dtype), value)
    if x_ptr.dtype.element_ty == tl.int1:
        value = value != 0
    tl.store(x_ptr + at, value.to(x_ptr.dtype.element_ty), mask=mask)


segment_configs = Configs("_segment_kernel", ROWS, choose_rows, interpreter_rows)
put_configs = Configs("_put_kernel", ROWS, choose_rows, interpreter_rows)

#: How values for one place are combined.
COMBINES: dict[str, Any] = {
    "sum": reduction.add,
    "prod": reduction.multiply,
    "amax": reduction.greater,
    "amin": reduction.lesser,
}


def _identity(reduce: str, dtype: memory.dtype) -> float | int:
    if reduce in ("sum", "prod"):
        return 0 if reduce == "sum" else 1
    return reduction.furthest(dtype, reduce == "amax")


def _put(rows: Rows, values: Buffer, reduce: str | None = None, include_self: bool = True) -> None:
    """Writes ``values``, which broadcast to the result's shape, to the rows of ``x``: the last of several for one row, or
    with ``reduce`` all of them combined, and combined with what stands there if ``include_self``."""
    x = rows.x
    if rows.rows == 0 or rows.elements == 0:
        return
    check_apart(x)
    if memory.may_overlap(x, values):  # values are read while x is written
        values = copy(values)
    value_rows, value_elements = rows.parts(strides.broadcast_strides(values, rows.shape))
    row_sizes, (value_row_strides,) = strides.row_major(rows.index_shape, value_rows)
    element_sizes, (x_element_strides, value_element_strides) = strides.row_major(
        rows.row_shape, rows.row_strides, value_elements
    )
    order: Buffer | None = sort_order(rows.place, memory.extent(x).bit_length())
    assert order is not None
    keys = elements_of(rows.place, order)
    if reduce is not None:
        values = _combined(
            reduce, keys, order, values, rows, row_sizes, value_row_strides, element_sizes, value_element_strides
        )
        order = None
        row_sizes, value_row_strides = (rows.rows,), (rows.elements,)
        element_sizes, (x_element_strides, value_element_strides) = strides.row_major(
            rows.row_shape, rows.row_strides, strides.contiguous_strides(rows.row_shape)
        )
    combine = COMBINES[reduce] if reduce is not None and include_self else None
    config = put_configs(x.dtype, rows=rows.rows, elements=rows.elements)
    count = rows.rows * rows.elements
    moved = count * x.element_size() * (2 if combine else 1)  # read as well, to be combined with
    launch(
        _put_kernel,
        grid(config, rows.rows, rows.elements),
        x,
        keys,
        order,
        values,
        rows.rows,
        rows.elements,
        row_sizes,
        value_row_strides,
        element_sizes,
        x_element_strides,
        value_element_strides,
        config=config,
        cost=Cost(count if combine else 0, nbytes(values, keys, order) + moved),
        device=x.device,
        COMBINE=combine,
        ROW_DIMS=len(row_sizes),
        ELEMENT_DIMS=len(element_sizes),
        INDEX=wide(x, values, rows=rows.rows, elements=rows.elements),
    )


def _combined(
    reduce: str,
    keys: Buffer,
    order: Buffer | None,
    values: Buffer,
    rows: Rows,
    row_sizes: Shape,
    value_row_strides: Shape,
    element_sizes: Shape,
    value_element_strides: Shape,
) -> Buffer:
    """(rows, elements): for the last row of each place in ``keys`` its rows, combined."""
    accumulate = dtypes.accumulate_dtype(rows.x.dtype)
    config = segment_configs(values.dtype, rows=rows.rows, elements=rows.elements)
    for power in range(max(1, math.ceil(math.log(rows.rows, 8) - 1e-9))):
        out = memory.empty((rows.rows, rows.elements), accumulate, keys.device)
        launch(
            _segment_kernel,
            grid(config, rows.rows, rows.elements),
            keys,
            order,
            values,
            out,
            rows.rows,
            rows.elements,
            8**power,
            row_sizes,
            value_row_strides,
            element_sizes,
            value_element_strides,
            config=config,
            cost=Cost(7 * out.numel(), nbytes(keys, order, values, out)),
            device=keys.device,
            COMBINE=COMBINES[reduce],
            IDENTITY=_identity(reduce, accumulate),
            ROW_DIMS=len(row_sizes),
            ELEMENT_DIMS=len(element_sizes),
            INDEX=wide(values, out, rows=rows.rows + 8**power * 8, elements=rows.elements),
        )
        values, order = out, None
        row_sizes, value_row_strides = (rows.rows,), (rows.elements,)
        element_sizes, value_element_strides = (rows.elements,), (1,)
    return values


def index_put(x: Buffer, indices: Sequence[Index], values: Buffer, accumulate: bool = False) -> Buffer:
    """``x[indices] = values``, or ``x[indices] += values`` with ``accumulate``, in place; returns ``x``.

    ``values``: the dtype of ``x``, broadcast to the shape of ``x[indices]``. Where an index appears twice, the last
    value wins, or all are added in a fixed order, in float32 or better. ``x`` must not overlap itself. Indices and
    errors as :func:`index`.

    Raises:
        RuntimeError: if ``values`` have another dtype or do not broadcast.
    """
    op = "index_put"
    check_same_device(op, x=x, values=values)
    if values.dtype != x.dtype:
        raise RuntimeError(f"{op}: expected values of dtype {x.dtype}, got {values.dtype}")
    rows = address(op, x, indices)
    if strides.broadcast_shapes(op, values.shape, rows.shape) != rows.shape:
        raise RuntimeError(f"{op}: values of shape {tuple(values.shape)} do not broadcast to {rows.shape}")
    _put(rows, values, "sum" if accumulate else None)
    return x


def index_grad(grad: Buffer, indices: Sequence[Index], x_shape: Sequence[int]) -> Buffer:
    """The transpose of :func:`index`: zeros of ``x_shape`` to which ``grad`` is added at ``indices``."""
    return index_put(_zeros(grad, x_shape), indices, grad, accumulate=True)


def _zeros(grad: Buffer, shape: Sequence[int]) -> Buffer:
    return fill(memory.empty(tuple(shape), grad.dtype, grad.device), 0)


def index_add(x: Buffer, dim: int, index: Buffer, source: Buffer) -> Buffer:
    """Adds ``source`` to ``x`` along ``dim`` at the positions of the 1-d ``index``, in place, in a fixed order."""
    rows = along("index_add", x, dim, index)
    if source.dtype != x.dtype:
        raise RuntimeError(f"index_add: expected a source of dtype {x.dtype}, got {source.dtype}")
    if tuple(source.shape) != rows.shape:
        raise RuntimeError(f"index_add: expected a source of shape {rows.shape}, got {tuple(source.shape)}")
    _put(rows, source, "sum")
    return x


def index_select_grad(grad: Buffer, dim: int, index: Buffer, x_shape: Sequence[int]) -> Buffer:
    """The transpose of :func:`index_select`: zeros of ``x_shape`` to which ``grad`` is added."""
    shape = tuple(x_shape) or (1,)
    grad = grad if grad.dim() else memory.as_strided(grad, (1,), (1,))
    out = index_add(_zeros(grad, shape), dim, index, grad)
    return out if x_shape else memory.as_strided(out, (), ())


def scatter_add(x: Buffer, dim: int, index: Buffer, source: Buffer) -> Buffer:
    """``x[index[i, j, k], j, k] += source[i, j, k]`` for ``dim`` 0, and so for every ``dim``; in place, in a fixed
    order.

    ``source`` has the dtype of ``x`` and at least the size of ``index``; else as :func:`gather`. Returns ``x``.
    """
    _scatter("scatter_add", x, dim, index, source, "sum")
    return x


def scatter(x: Buffer, dim: int, index: Buffer, source: Buffer) -> Buffer:
    """``x[index[i, j, k], j, k] = source[i, j, k]`` for ``dim`` 0, and so on; in place; the last of several wins."""
    _scatter("scatter", x, dim, index, source, None)
    return x


def scatter_reduce(
    x: Buffer, dim: int, index: Buffer, source: Buffer, reduce: str = "sum", include_self: bool = True
) -> Buffer:
    """For ``dim`` 0 combines all ``source[i, j, k]`` with the place ``x[index[i, j, k], j, k]``, and so on; in place.

    ``reduce``: "sum", "prod", "amax" or "amin". Without ``include_self`` what stood in a place that ``index`` names does not
    count. In a fixed order; else as :func:`scatter_add`.

    Raises:
        ValueError: for another ``reduce``.
    """
    if reduce not in COMBINES:
        raise ValueError(f"scatter_reduce: expected reduce to be one of {', '.join(COMBINES)}, got {reduce!r}")
    _scatter("scatter_reduce", x, dim, index, source, reduce, include_self)
    return x


def _scatter(
    op: str, x: Buffer, dim: int, index: Buffer, source: Buffer, reduce: str | None, include_self: bool = True
) -> None:
    if source.dtype != x.dtype:
        raise RuntimeError(f"{op}: expected a source of dtype {x.dtype}, got {source.dtype}")
    if source.dim() != index.dim() or any(n > m for n, m in zip(index.shape, source.shape)):
        raise RuntimeError(
            f"{op}: expected a source at least as large as index {tuple(index.shape)}, got {tuple(source.shape)}"
        )
    rows = elementwise_rows(op, x, dim, index)
    source = memory.as_strided(source, rows.index_shape, source.stride() or (1,))
    _put(rows, source, reduce, include_self)


def gather_grad(grad: Buffer, dim: int, index: Buffer, x_shape: Sequence[int]) -> Buffer:
    """The transpose of :func:`gather`: zeros of ``x_shape`` to which ``grad`` is added at ``index``."""
    return scatter_add(_zeros(grad, x_shape), dim, index, grad)
