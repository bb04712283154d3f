"""Distinct elements, places in a sorted sequence, counts. Results are positions and counts, which have no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import counting as kernels
from tinyflow.kernels import memory
from tinyflow.kernels.dtypes import Scalar, scalar_dtype
from tinyflow.ops import arithmetic
from tinyflow.ops.creation import arange, linspace, ones, zeros
from tinyflow.ops.define import define
from tinyflow.ops.indexing import index_add, index_select, mask_indices
from tinyflow.ops.scan import cumsum
from tinyflow.ops.shape import cat, dimension
from tinyflow.ops.sorting import argsort, spread
from tinyflow.tensor import Tensor

METHODS = ["unique", "unique_consecutive", "bincount", "histc", "histogram"]
__all__ = [
    "unique", "unique_consecutive", "searchsorted", "bucketize", "bincount", "histc", "histogram", "isin",
]  # fmt: skip
FUNCTIONAL = ["one_hot"]

_searchsorted = define(kernels.searchsorted, sequence=None, values=None, sorter=None)
_count_integers = define(kernels.count_integers, name="bincount", x=None)
_count_in_bins = define(kernels.count_in_bins, name="histc", x=None)


class Histogram(NamedTuple):
    """What each bin holds, and where bins end."""

    hist: Tensor
    bin_edges: Tensor


# ---- distinct elements ---------------------------------------------------------------------------------------------


def _slice_order(slices: Tensor) -> Tensor:
    """The positions that sort the rows of a matrix as words: by the last column first, stably."""
    order = arange(slices.shape[0], device=slices.device)
    for k in reversed(range(slices.shape[1])):
        column = index_select(slices.select(1, k), 0, order)
        order = index_select(order, 0, argsort(column, 0))
    return order


def _differences(slices: Tensor) -> Tensor:
    """True for each row that is another one than the row before it, and for the first."""
    n = slices.shape[0]
    changes = slices.narrow(0, 1, n - 1) != slices.narrow(0, 0, n - 1)
    changes = changes if slices.dim() == 1 else changes.any(1)
    return cat([ones(1, dtype=memory.bool_, device=slices.device), changes], 0)


def _distinct(
    input: Tensor, dim: int | None, in_order: bool, return_inverse: bool, return_counts: bool, op: str
) -> Any:
    """The first of each run of equal slices, once they are sorted or as they are."""
    d = 0 if dim is None else dimension(op, dim, input.dim())
    if dim is None:
        slices = compared = input.reshape(-1)
    else:
        slices = input.movedim(d, 0) if input.dim() else input.reshape(1)
        if slices.shape[0] and not slices.numel():
            raise RuntimeError("There are 0 sized dimensions, and they aren't selected, so unique cannot be applied")
        compared = slices.reshape(slices.shape[0], -1) if slices.numel() else slices
    n = slices.shape[0]
    with no_grad():
        compared = compared.detach()
        order = arange(n, device=input.device)
        if in_order and n:
            order = argsort(compared, 0) if compared.dim() == 1 else _slice_order(compared)
            compared = index_select(compared, 0, order)
        new = _differences(compared) if n else zeros(0, dtype=memory.bool_, device=input.device)
        (starts,) = mask_indices(new)
        inverse = cumsum(new, 0) - 1
        if in_order and n:
            inverse = spread(inverse, 0, order, (n,))
        ends = cat([starts.narrow(0, min(1, n), max(starts.shape[0] - 1, 0)), starts.new_full((min(n, 1),), n)], 0)
    values = index_select(slices, 0, index_select(order, 0, starts))
    values = values.movedim(0, d) if dim is not None and input.dim() else values
    extra = [inverse.reshape(input.shape) if dim is None else inverse] if return_inverse else []
    extra += [ends - starts] if return_counts else []
    return (values, *extra) if extra else values


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements, or slices along ``dim``, in ascending order (with ``sorted=False`` too).

    Returns the values; with ``return_inverse`` also for each element (slice) its number among them, with ``return_counts``
    how often each occurs. Every NaN is distinct. The result's size is read back from the device.
    """
    return _distinct(input, dim, True, return_inverse, return_counts, "unique")


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The elements, or slices along ``dim``, without those that equal the one before; else as :func:`unique`."""
    return _distinct(input, dim, False, return_inverse, return_counts, "unique_consecutive")


def isin(
    elements: Tensor | Scalar, test_elements: Tensor | Scalar, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """True for each element that ``test_elements`` contains (``invert``: that it does not); a NaN is in nothing."""
    given = [x for x in (elements, test_elements) if isinstance(x, Tensor)]
    if not given:
        raise TypeError(f"isin(): expected at least one Tensor, got {elements!r} and {test_elements!r}")
    dtype = arithmetic.result_type(elements, test_elements)
    device = given[0].device
    x, tests = (
        v.detach().to(dtype) if isinstance(v, Tensor) else Tensor._full((), v, dtype, device)
        for v in (elements, test_elements)
    )
    tests = tests.reshape(-1)
    if not tests.numel():
        return Tensor._full(tuple(x.shape), invert, memory.bool_, device)
    tests = index_select(tests, 0, argsort(tests, 0))
    if dtype.is_floating_point:  # a NaN equals nothing, and would mislead the search
        tests = arithmetic.where(tests != tests, tests.select(0, 0), tests)
        tests = index_select(tests, 0, argsort(tests, 0))
    place = arithmetic.clamp(_searchsorted(tests, x), max=tests.shape[0] - 1)
    equal = index_select(tests, 0, place.reshape(-1)).reshape(x.shape) == x
    return arithmetic.logical_not(equal) if invert else equal


# ---- places --------------------------------------------------------------------------------------------------------


def searchsorted(
    sorted_sequence: Tensor,
    input: Tensor | Scalar,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """For each value the place in its ascending row of ``sorted_sequence`` where it keeps the order: before equal elements,
    or with ``right`` (``side="right"``) after them.

    ``sorted_sequence``: (*, length), or a vector for all values; ``input``: (*, count), or a number. ``sorter``: the places
    that sort an unordered sequence.

    Two dtypes are promoted to one.

    Raises:
        RuntimeError: if shapes do not fit, or ``side`` and ``right`` disagree.
    """
    if side not in (None, "left", "right"):
        raise RuntimeError(f"searchsorted(): side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise RuntimeError(
            "searchsorted(): side and right can't be set to opposites, got side of left while right was True"
        )
    if sorted_sequence.dim() == 0:
        raise RuntimeError("searchsorted(): boundaries tensor should have positive dimension, got a 0-dimensional one")
    if not isinstance(input, Tensor):
        if sorted_sequence.dim() != 1:
            raise RuntimeError(
                "searchsorted(): input value can be a scalar only when boundaries tensor dimension is 1, but got "
                f"boundaries tensor of shape {tuple(sorted_sequence.shape)}"
            )
        input = Tensor._full((), input, scalar_dtype(input), sorted_sequence.device)
    if input.dtype != sorted_sequence.dtype:
        dtype = arithmetic.result_type(sorted_sequence, input)
        sorted_sequence, input = sorted_sequence.to(dtype), input.to(dtype)
    return _searchsorted(sorted_sequence, input, out_int32, right or side == "right", sorter)


def bucketize(input: Tensor | Scalar, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """For each value the number of the bucket it falls in: i with ``boundaries[i−1] < value <= boundaries[i]``, or with
    ``right`` ``boundaries[i−1] <= value < boundaries[i]``."""
    if boundaries.dim() != 1:
        raise RuntimeError(f"bucketize(): boundaries tensor must be 1 dimension, but got dim({boundaries.dim()})")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


# ---- counts --------------------------------------------------------------------------------------------------------


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often 0, 1, 2, … occur in a vector of integers, or the sum of their ``weights``; at least ``minlength`` results.

    int64; with weights float32 if they are, else float64. The result's size is read back from the device.

    Raises:
        RuntimeError: for another shape or dtype, a negative element, or weights of another shape.
        ValueError: if ``minlength`` is negative.
    """
    if minlength < 0:
        raise RuntimeError(f"minlength should be >= 0, got {minlength}")
    if input.dim() != 1 or input.dtype.is_floating_point or input.dtype == memory.bool_:
        raise RuntimeError(
            f"bincount only supports 1-d non-negative integral inputs, got {input.dtype} of shape {tuple(input.shape)}"
        )
    if weights is not None and tuple(weights.shape) != tuple(input.shape):
        raise RuntimeError(
            f"weights should be 1-d and have the same length as input, got {tuple(weights.shape)} and {tuple(input.shape)}"
        )
    bins = minlength
    if input.numel():
        if int(input.min()) < 0:
            raise RuntimeError(f"bincount only supports 1-d non-negative integral inputs, got {int(input.min())}")
        bins = max(bins, int(input.max()) + 1)
    if weights is None:
        return _count_integers(input, bins)
    dtype = memory.float32 if weights.dtype == memory.float32 else memory.float64
    start = zeros(bins, dtype=dtype, device=input.device)
    return index_add(start, 0, input.to(memory.int64), weights.detach().to(dtype))


def _range(op: str, input: Tensor, low: Scalar, high: Scalar, margin: float = 1.0) -> tuple[float, float]:
    """The range that is divided; that of the elements where it was given as a point, with a margin if that is one too."""
    if low == high and input.numel():
        low, high = float(input.min()), float(input.max())
    if low == high:
        low, high = low - margin, high + margin
    if not (-float("inf") < low < float("inf") and -float("inf") < high < float("inf")):
        raise RuntimeError(f"{op}: range of [{low}, {high}] is not finite")
    if low > high:
        raise RuntimeError(f"{op}: max must be larger than min, got min={low} and max={high}")
    return float(low), float(high)


def histc(input: Tensor, bins: int = 100, min: Scalar = 0, max: Scalar = 0) -> Tensor:
    """How many elements lie in each of ``bins`` equal parts of [min, max], in the dtype of ``input``.

    With min = max the range of the elements. What lies outside counts nowhere.
    """
    if bins <= 0:
        raise RuntimeError(f"histc: bins must be > 0, got {bins}")
    if not input.dtype.is_floating_point:
        raise NotImplementedError(f"histc: expected a floating-point input, got {input.dtype}")
    low, high = _range("histc", input, min, max)
    return _count_in_bins(input, bins, low, high).to(input.dtype)


def histogram(
    input: Tensor,
    bins: int | Tensor,
    *,
    range: Sequence[float] | None = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> Histogram:
    """What each bin holds, or the sum of its elements' ``weight``: (hist, bin_edges), in the dtype of ``input``.

    ``bins``: a number of equal parts of ``range`` (by default that of the elements), or the ascending edges. ``density``
    divides by the total and the widths.
    """
    if not input.dtype.is_floating_point:
        raise NotImplementedError(f"histogram: expected a floating-point input, got {input.dtype}")
    last = bins.shape[0] - 1 if isinstance(bins, Tensor) else bins
    if last < 1:
        raise RuntimeError(f"histogram: bins must be > 0, got {last}")
    if isinstance(bins, Tensor):
        if range is not None:
            raise TypeError("histogram: expected one of edges as bins= and range=, got both")
        edges = bins.to(input.dtype)
    else:
        given = range or ((0.0, 0.0) if input.numel() else (0.0, 1.0))
        low, high = _range("histogram", input, given[0], given[1], 0.5)
        edges = linspace(low, high, bins + 1, dtype=input.dtype, device=input.device)
    x = input.detach().reshape(-1)
    inside = arithmetic.logical_and(x >= edges.select(0, 0), x <= edges.select(0, last))
    place = arithmetic.clamp(_searchsorted(edges, x, False, True) - 1, min=0, max=last - 1)
    weights = ones(x.shape, dtype=x.dtype, device=x.device) if weight is None else weight.detach().reshape(-1)
    amounts = arithmetic.where(inside, weights, 0.0).to(x.dtype)
    hist = index_add(zeros(last, dtype=x.dtype, device=x.device), 0, place, amounts)
    if density:
        hist = hist / hist.sum() / (edges.narrow(0, 1, last) - edges.narrow(0, 0, last))
    return Histogram(hist, edges)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 (*, num_classes) with a 1 at each class number of ``tensor`` and zeros elsewhere.

    Without ``num_classes`` one more than the greatest, which is read back from the device.

    Raises:
        RuntimeError: for another dtype than int64, or classes out of range (on a GPU not checked where the number is given).
    """
    if tensor.dtype != memory.int64:
        raise RuntimeError(f"one_hot is only applicable to index tensor of type LongTensor, got {tensor.dtype}")
    if tensor.numel() == 0 and num_classes <= 0:
        raise RuntimeError("Can not infer total number of classes from empty tensor.")
    if tensor.numel() and (num_classes == -1 or tensor.device.type == "cpu"):
        low, high = int(tensor.min()), int(tensor.max())
        if low < 0:
            raise RuntimeError(f"Class values must be non-negative, got {low}.")
        if num_classes == -1:
            num_classes = high + 1
        if high >= num_classes:
            raise RuntimeError(f"Class values must be smaller than num_classes, got {high} for {num_classes}.")
    if num_classes < 1:
        raise RuntimeError(f"num_classes should be positive, got {num_classes}.")
    return (tensor.unsqueeze(-1) == arange(num_classes, device=tensor.device)).to(memory.int64)
