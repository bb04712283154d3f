"""Rows of a table by their numbers, and bags of them."""

from __future__ import annotations

from typing import Any

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import dtypes, memory
from tinyflow.kernels import embedding as kernels
from tinyflow.kernels.memory import Buffer
from tinyflow.ops import arithmetic, reduction, scan
from tinyflow.ops.creation import arange
from tinyflow.ops.define import Op, define
from tinyflow.ops.indexing import index, index_put, index_put_
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__: list[str] = []
FUNCTIONAL = ["embedding", "embedding_bag"]

Shape = tuple[int, ...]


def _embedding_launcher(weight: Buffer, input: Buffer, padding_idx: int, scale_grad_by_freq: bool) -> Buffer:
    """``weight[input]``; what else is given matters to the gradient."""
    return kernels.embedding(weight, input)


def _added(rows: Tensor, at: list[Tensor | None], shape: Shape) -> Tensor:
    """Zeros of ``shape`` to which ``rows`` are added at an index."""
    return index_put(Tensor._zeros(shape, rows.dtype, rows.device), at, rows, True)


def _table_grad(rows: Tensor, input: Tensor, shape: Shape, padding_idx: int, scale_grad_by_freq: bool) -> Tensor:
    """The gradient of a table of ``shape`` from those of the rows that ``input`` names."""
    if padding_idx >= 0:
        rows = arithmetic.where((input == padding_idx).unsqueeze(-1), 0.0, rows)
    if scale_grad_by_freq:
        wide = dtypes.accumulate_dtype(rows.dtype)
        counts = _added(Tensor._full(tuple(input.shape), 1, wide, rows.device), [input], shape[:1])
        rows = (rows / index(counts, [input]).unsqueeze(-1)).to(rows.dtype)
    return _added(rows, [input], shape)


_embedding: Op = define(
    _embedding_launcher,
    name="embedding",
    weight=lambda g, input, weight_shape, padding_idx, scale_grad_by_freq: _table_grad(
        g, input, weight_shape, padding_idx, scale_grad_by_freq
    ),
    input=None,
)


def _refuse_sparse(op: str, sparse: bool) -> None:
    if sparse:
        raise NotImplementedError(
            f"{op}: sparse=True is not implemented, since gradients are dense here; leave it out for a dense gradient"
        )


def _check_integers(op: str, input: Tensor) -> None:
    if input.dtype not in (memory.int64, memory.int32):
        raise RuntimeError(f"{op}: Expected indices of dtype int64 or int32, got {input.dtype}")


def _shorten(weight: Tensor, input: Tensor, max_norm: float, norm_type: float) -> None:
    """Scales the named rows whose norm exceeds ``max_norm`` down to it, in place."""
    with no_grad():
        table, named = weight.detach(), input.detach().reshape(-1)
        rows = index(table, [named])
        norms = reduction.norm(rows, norm_type, 1, True)
        factor = arithmetic.where(norms > max_norm, max_norm / (norms + 1e-7), 1.0)
        index_put_(table, [named], rows * factor)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``weight[input]``: the rows of a table.

    Args:
        input: numbers of rows, int64 or int32, any shape.
        weight: (rows, columns).
        padding_idx: a row that gets no gradient; negative ones count from the end.
        max_norm: named rows that are longer are scaled to this norm first, in place.
        norm_type: the order of that norm.
        scale_grad_by_freq: whether a row's gradient is divided by how often it is named.

    Raises:
        RuntimeError: for another dtype of ``input`` or shape of ``weight``.
        AssertionError: if ``padding_idx`` is no row.
        IndexError: if a number is out of range (on a GPU in debug mode only).
        NotImplementedError: for ``sparse``.
    """
    op = "embedding"
    _refuse_sparse(op, sparse)
    _check_integers(op, input)
    if weight.dim() != 2:
        raise RuntimeError(f"{op}: 'weight' must be 2-D, got shape {tuple(weight.shape)}")
    rows = weight.shape[0]
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise AssertionError(f"{op}: Padding_idx must be within num_embeddings, {rows}, got {padding_idx}")
    if max_norm is not None:
        _shorten(weight, input, max_norm, norm_type)
    return _embedding(weight, input, -1 if padding_idx is None else padding_idx % rows, scale_grad_by_freq)


# ---- bags ----------------------------------------------------------------------------------------------------------


def _bag_launcher(
    weight: Buffer,
    sample_weights: Buffer | None,
    input: Buffer,
    offsets: Buffer,
    bags: int,
    mode: str,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> tuple[Buffer, Buffer | None, Buffer]:
    return kernels.embedding_bag(weight, input, offsets, bags, mode, sample_weights, padding_idx)


def _bag_of_each(offsets: Tensor, bags: int, entries: int) -> Tensor:
    """Which bag each entry of the index is in."""
    starts = offsets.narrow(0, 0, bags).to(memory.int64)
    ones = Tensor._full((bags,), 1, memory.int64, offsets.device)
    return scan.cumsum(_added(ones, [starts], (entries + 1,)), 0).narrow(0, 0, entries) - 1


def _bag_grad(
    g: Tensor,
    weight: Tensor,
    sample_weights: Tensor | None,
    input: Tensor,
    offsets: Tensor,
    chosen: Tensor | None,
    counts: Tensor,
    bags: int,
    mode: str,
    padding_idx: int,
    scale_grad_by_freq: bool,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None]:
    shape = tuple(weight.shape)
    if chosen is not None:
        g = arithmetic.where(chosen < 0, 0.0, g)
        rows = arithmetic.where(chosen < 0, 0, chosen)
        return _added(g, [rows, arange(shape[1], device=g.device).expand(tuple(rows.shape))], shape), None
    if mode == "mean":
        g = g / arithmetic.clamp(counts, min=1).to(g.dtype).unsqueeze(1)
    rows_grad = index(g, [_bag_of_each(offsets, bags, input.shape[0])])
    if offsets.shape[0] > bags:  # what follows the end of the last bag is in none
        outside = arange(input.shape[0], device=g.device) >= offsets.select(0, bags)
        rows_grad = arithmetic.where(outside.unsqueeze(1), 0.0, rows_grad)
    to_samples = None
    if needs[1]:
        to_samples = reduction.sum(rows_grad * _embedding(weight, input, -1, False), 1)
        if padding_idx >= 0:
            to_samples = arithmetic.where(input == padding_idx, 0.0, to_samples)
    if sample_weights is not None:
        rows_grad = rows_grad * sample_weights.unsqueeze(1)
    return _table_grad(rows_grad, input, shape, padding_idx, scale_grad_by_freq) if needs[0] else None, to_samples


_embedding_bag: Op = define(
    _bag_launcher,
    name="embedding_bag",
    outputs=("y", "chosen", "counts"),
    joint={("weight", "sample_weights"): _bag_grad},
    input=None,
    offsets=None,
)


def _bags(input: Tensor, offsets: Tensor | None, include_last_offset: bool) -> tuple[Tensor, Tensor, int]:
    """The index as one vector, where each bag starts, and how many bags there are."""
    op = "embedding_bag"
    if input.dim() == 2:
        if offsets is not None:
            raise ValueError(
                f"{op}: if input is 2D, then offsets has to be None, as input is treated as a batch of bags of one length"
            )
        bags, length = input.shape
        return input.reshape(-1), arange(bags, device=input.device) * length, bags
    if input.dim() != 1:
        raise ValueError(f"{op}: input has to be 1D or 2D Tensor, but got Tensor of dimension {input.dim()}")
    if offsets is None:
        raise ValueError(f"{op}: offsets has to be a 1D Tensor but got None")
    if offsets.dim() != 1:
        raise ValueError(f"{op}: offsets has to be a 1D Tensor, got shape {tuple(offsets.shape)}")
    _check_integers(op, offsets)
    return input, offsets, max(offsets.shape[0] - 1, 0) if include_last_offset else offsets.shape[0]


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, mean or maximum of the rows that each bag names, without the rows in memory.

    Args:
        input: numbers of rows, int64 or int32: (bags, length), or (entries,) with ``offsets``.
        weight: (rows, columns).
        offsets: (bags,), where each bag starts in a 1-d input, ascending from 0.
        max_norm, norm_type: as in :func:`embedding`.
        scale_grad_by_freq: as there; not for "max".
        mode: "sum", "mean" or "max"; an empty bag gives zeros.
        per_sample_weights: the shape of ``input``, a factor of each row, for "sum" only.
        include_last_offset: whether ``offsets`` has one more entry, the end of the last bag.
        padding_idx: a row that does not count and gets no gradient; negative ones count from the end.

    Raises:
        ValueError, RuntimeError, IndexError: if shapes, dtypes, numbers or the mode do not fit.
        NotImplementedError: for ``sparse``, and for ``per_sample_weights`` in other modes.
    """
    op = "embedding_bag"
    _refuse_sparse(op, sparse)
    if mode not in kernels.MODES:
        raise ValueError(f"{op}: mode has to be one of sum, mean or max, got {mode!r}")
    _check_integers(op, input)
    if mode == "max" and scale_grad_by_freq:
        raise ValueError(f"{op}: max mode does not support scaling the gradient by the frequency")
    if per_sample_weights is not None:
        if mode != "sum":
            raise NotImplementedError(f"{op}: per_sample_weights is only supported for mode='sum' (got mode='{mode}')")
        if per_sample_weights.shape != input.shape:
            raise ValueError(
                f"{op}: expected per_sample_weights of the shape of input, {tuple(input.shape)}, "
                f"got {tuple(per_sample_weights.shape)}"
            )
        if per_sample_weights.dtype != weight.dtype:
            raise RuntimeError(
                f"{op}: Expected per_sample_weights of dtype {weight.dtype}, got {per_sample_weights.dtype}"
            )
        per_sample_weights = per_sample_weights.reshape(-1)
    rows = weight.shape[0]
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise RuntimeError(
            f"{op}: padding_idx must be within the number of embeddings, -{rows} through {rows - 1}, got {padding_idx}"
        )
    input, offsets, bags = _bags(input, offsets, include_last_offset)
    if max_norm is not None:
        _shorten(weight, input, max_norm, norm_type)
    padding = -1 if padding_idx is None else padding_idx % rows
    result: Any = _embedding_bag(weight, per_sample_weights, input, offsets, bags, mode, padding, scale_grad_by_freq)
    return result[0]
