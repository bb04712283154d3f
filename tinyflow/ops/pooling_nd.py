"""Pooling over one and three dimensions by that over two, power means, and the way back from maxima.

One dimension is two with a height of 1. Three are taken in two steps, first every plane and then along depth: maxima, sums
and even windows are separable, and the second step reads what the first has shrunk. The maximum found so is the first of
equal ones in the order of memory, as it is in one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from tinyflow.kernels import memory
from tinyflow.ops.conv_nd import Single, single
from tinyflow.ops.pooling import OutputSize, adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from tinyflow.ops.scatter import gather, scatter
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["adaptive_avg_pool1d", "adaptive_max_pool1d", "avg_pool1d", "max_pool1d", "max_pool3d"]
FUNCTIONAL = [
    "adaptive_avg_pool3d", "adaptive_max_pool3d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d",
    "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip

Ints = int | Sequence[int]
Pooled = Tensor | tuple[Tensor, Tensor]

Setting = TypeVar("Setting")


def each(op: str, name: str, value: Any, ndim: int, optional: bool = False) -> tuple[Any, ...]:
    """A setting for every one of ``ndim`` dimensions; with ``optional`` None may stand for one.

    Raises:
        TypeError: unless it is an integer, or one or ``ndim`` of them.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(values) == 1:
        values *= ndim
    fits = all((v is None and optional) or (isinstance(v, int) and not isinstance(v, bool)) for v in values)
    if len(values) != ndim or not fits:
        raise TypeError(f"{op}: expected {name} to be an integer or {ndim} integers, got {value!r}")
    return values


def _check(op: str, x: Tensor, ndim: int) -> None:
    if x.dim() not in (ndim + 1, ndim + 2) or 0 in x.shape[-ndim:]:
        raise RuntimeError(
            f"{op}: Expected {ndim + 1}D or {ndim + 2}D (batch mode) tensor with optional 0 dim batch size for input, "
            f"got {tuple(x.shape)}"
        )


def _windows(
    read: Callable[[str, str, Any], Setting], op: str, kernel_size: Any, stride: Any, padding: Any
) -> tuple[Setting, Setting, Setting]:
    """Size, step (by default the size) and padding, each as ``read`` takes a setting, given its operation and its name."""
    size = read(op, "kernel_size", kernel_size)
    step = size if stride is None or stride == () else read(op, "stride", stride)
    return size, step, read(op, "padding", padding)


# ---- one dimension -------------------------------------------------------------------------------------------------


def _flat(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-1], 1, x.shape[-1])


def _unflat(y: Tensor) -> Tensor:
    return y.reshape(*y.shape[:-2], y.shape[-1])


def _unflat_both(found: Pooled) -> Any:
    return tuple(_unflat(y) for y in found) if isinstance(found, tuple) else _unflat(found)


def max_pool1d(
    input: Tensor,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Single = 0,
    dilation: Single = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of every window of (N, C, L) or (C, L); otherwise as :func:`max_pool2d`."""
    op = "max_pool1d"
    _check(op, input, 1)
    size, step, around = _windows(single, op, kernel_size, stride, padding)
    spread = single(op, "dilation", dilation)
    return _unflat_both(
        max_pool2d(_flat(input), (1, size), (1, step), (0, around), (1, spread), ceil_mode, return_indices)
    )


def avg_pool1d(
    input: Tensor,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Single = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of every window of (N, C, L) or (C, L); otherwise as :func:`avg_pool2d`."""
    op = "avg_pool1d"
    _check(op, input, 1)
    size, step, around = _windows(single, op, kernel_size, stride, padding)
    return _unflat(avg_pool2d(_flat(input), (1, size), (1, step), (0, around), ceil_mode, count_include_pad))


def _length(op: str, output_size: Any) -> int | None:
    return None if output_size in (None, (None,), [None]) else single(op, "output_size", output_size)


def adaptive_avg_pool1d(input: Tensor, output_size: OutputSize) -> Tensor:
    """The mean of each of ``output_size`` even windows of (N, C, L) or (C, L); None keeps the length."""
    _check("adaptive_avg_pool1d", input, 1)
    return _unflat(adaptive_avg_pool2d(_flat(input), (1, _length("adaptive_avg_pool1d", output_size))))


def adaptive_max_pool1d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """The maximum of each of ``output_size`` even windows of (N, C, L) or (C, L); None keeps the length."""
    _check("adaptive_max_pool1d", input, 1)
    length = _length("adaptive_max_pool1d", output_size)
    return _unflat_both(adaptive_max_pool2d(_flat(input), (1, length), return_indices))


# ---- three dimensions ----------------------------------------------------------------------------------------------


def _planes(x: Tensor) -> Tensor:
    """Every plane of (N, C, D, H, W) as one of an image, (N, C·D, H, W) or (N·D, C, H, W): whichever is a view."""
    n, c, d, h, w = x.shape
    if x.is_contiguous():
        return x.reshape(n, c * d, h, w)
    return x.permute(0, 2, 1, 3, 4).reshape(n * d, c, h, w)


def _columns(planes: Tensor, x: Tensor) -> Tensor:
    """What became of the planes of ``x`` as (N, C, D, P·Q)."""
    n, c, d = x.shape[:3]
    p, q = planes.shape[2:]
    if x.is_contiguous():
        return planes.reshape(n, c, d, p * q)
    return planes.reshape(n, d, c, p, q).permute(0, 2, 1, 3, 4).reshape(n, c, d, p * q)


def _by_planes(input: Tensor, plane: Callable[[Tensor], Any], depth: Callable[[Tensor], Any], indexed: bool) -> Any:
    """Pools every plane, then along depth; with ``indexed`` both give positions too, which become d·H·W + h·W + w."""
    x = input if input.dim() == 5 else input.reshape(1, *input.shape)
    n, c, _, h, w = x.shape
    pooled = plane(_planes(x))
    shrunk = pooled[0] if indexed else pooled
    p, q = shrunk.shape[2:]
    found = depth(_columns(shrunk, x))
    y = found[0] if indexed else found
    shape = (*input.shape[:-3], y.shape[2], p, q)
    if not indexed:
        return y.reshape(shape)
    along = found[1].reshape(n, c, y.shape[2] * p * q)
    inside = gather(_columns(pooled[1], x).reshape(n, c, x.shape[2] * p * q), 2, along)
    return y.reshape(shape), (inside + along // (p * q) * (h * w)).reshape(shape)


def max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of every window of (N, C, D, H, W) or (C, D, H, W); otherwise as :func:`max_pool2d`."""
    op = "max_pool3d"
    _check(op, input, 3)
    (kd, *k), (sd, *s), (pd, *p) = _windows(partial(each, ndim=3), op, kernel_size, stride, padding)
    dd, *d = each(op, "dilation", dilation, 3)
    return _by_planes(
        input,
        lambda x: max_pool2d(x, k, s, p, d, ceil_mode, return_indices),
        lambda x: max_pool2d(x, (kd, 1), (sd, 1), (pd, 0), (dd, 1), ceil_mode, return_indices),
        return_indices,
    )


def avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of every window of (N, C, D, H, W) or (C, D, H, W); otherwise as :func:`avg_pool2d`.

    In half precision the means of planes are rounded, and then those along depth.
    """
    op = "avg_pool3d"
    _check(op, input, 3)
    (kd, *k), (sd, *s), (pd, *p) = _windows(partial(each, ndim=3), op, kernel_size, stride, padding)
    if any(n < m for n, m in zip(input.shape[-3:], (kd, *k))):
        raise RuntimeError(f"{op}: input of sizes {tuple(input.shape[-3:])} is smaller than kernel_size {(kd, *k)}")
    whole = None if divisor_override is None else 1
    return _by_planes(
        input,
        lambda x: avg_pool2d(x, k, s, p, ceil_mode, count_include_pad, divisor_override),
        lambda x: avg_pool2d(x, (kd, 1), (sd, 1), (pd, 0), ceil_mode, count_include_pad, whole),
        False,
    )


def adaptive_avg_pool3d(input: Tensor, output_size: OutputSize) -> Tensor:
    """The mean of each of ``output_size`` even windows of (N, C, D, H, W) or (C, D, H, W); None keeps a dimension."""
    _check("adaptive_avg_pool3d", input, 3)
    depth, *plane = each("adaptive_avg_pool3d", "output_size", output_size, 3, optional=True)
    return _by_planes(
        input, lambda x: adaptive_avg_pool2d(x, plane), lambda x: adaptive_avg_pool2d(x, (depth, None)), False
    )


def adaptive_max_pool3d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """The maximum of each of ``output_size`` even windows of (N, C, D, H, W) or (C, D, H, W); None keeps a dimension."""
    _check("adaptive_max_pool3d", input, 3)
    depth, *plane = each("adaptive_max_pool3d", "output_size", output_size, 3, optional=True)
    return _by_planes(
        input,
        lambda x: adaptive_max_pool2d(x, plane, return_indices),
        lambda x: adaptive_max_pool2d(x, (depth, None), return_indices),
        return_indices,
    )


# ---- power means ---------------------------------------------------------------------------------------------------


def _lp_pool(
    average: Callable[..., Tensor],
    largest: Callable[..., Any],
    input: Tensor,
    norm_type: float,
    size: Single | tuple[int, ...],
    stride: Ints | None,
    ceil_mode: bool,
) -> Tensor:
    """(Σ x^p)^(1/p) over every window from its mean; for an infinite p what that tends to, the greatest or least |x|."""
    if norm_type == math.inf:
        return largest(input.abs(), size, stride, 0, 1, ceil_mode)
    if norm_type == -math.inf:
        return -largest(-input.abs(), size, stride, 0, 1, ceil_mode)
    count = size if isinstance(size, int) else math.prod(size)
    return (average(input.pow(norm_type), size, stride, 0, ceil_mode) * count).pow(1.0 / norm_type)


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Single, stride: Single | None = None, ceil_mode: bool = False
) -> Tensor:
    """(Σ x^p)^(1/p) over every window of (N, C, L) or (C, L), p being ``norm_type``."""
    size = single("lp_pool1d", "kernel_size", kernel_size)
    return _lp_pool(avg_pool1d, max_pool1d, input, norm_type, size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """(Σ x^p)^(1/p) over every window of (N, C, H, W) or (C, H, W), p being ``norm_type``."""
    size = each("lp_pool2d", "kernel_size", kernel_size, 2)
    return _lp_pool(avg_pool2d, max_pool2d, input, norm_type, size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """(Σ x^p)^(1/p) over every window of (N, C, D, H, W) or (C, D, H, W), p being ``norm_type``."""
    size = each("lp_pool3d", "kernel_size", kernel_size, 3)
    return _lp_pool(avg_pool3d, max_pool3d, input, norm_type, size, stride, ceil_mode)


# ---- the way back --------------------------------------------------------------------------------------------------


def _max_unpool(
    op: str,
    ndim: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    output_size: Sequence[int] | None,
) -> Tensor:
    _check(op, input, ndim)
    if tuple(indices.shape) != tuple(input.shape) or indices.dtype != memory.int64:
        raise RuntimeError(
            f"{op}: expected int64 indices of shape {tuple(input.shape)}, that of input, got {indices.dtype} of shape "
            f"{tuple(indices.shape)}"
        )
    size, step, around = _windows(partial(each, ndim=ndim), op, kernel_size, stride, padding)
    usual = [(n - 1) * s + k - 2 * p for n, s, k, p in zip(input.shape[-ndim:], step, size, around)]
    wanted = usual if output_size is None else list(output_size)
    if len(wanted) == ndim + 2:
        wanted = wanted[2:]
    if len(wanted) != ndim or any(not u - s < n < u + s for n, u, s in zip(wanted, usual, step)):
        raise ValueError(
            f"{op}: expected output_size of {ndim} (or {ndim + 2}) elements, each less than a stride from {usual}, "
            f"got {output_size if output_size is not None else usual}"
        )
    lead = tuple(input.shape[:-ndim])
    empty = Tensor._zeros((*lead, math.prod(wanted)), input.dtype, input.device)
    flat = (*lead, math.prod(input.shape[-ndim:]))
    filled = scatter(empty, len(lead), indices.reshape(flat), input.reshape(flat))
    return filled.reshape(*lead, *wanted)


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Single = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Every maximum of a :func:`max_pool1d` back at its index, zeros elsewhere; otherwise as :func:`max_unpool2d`."""
    return _max_unpool("max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Every maximum of a :func:`max_pool2d` back at its index, zeros elsewhere.

    Args:
        input: (N, C, H, W) or (C, H, W).
        indices: what the pooling returned with ``return_indices``; of equal ones the last value stays.
        kernel_size, stride, padding: those of the pooling.
        output_size: the size of what was pooled, where it is not (H − 1)·stride + kernel_size − 2·padding.

    Raises:
        ValueError: for an ``output_size`` that the pooling cannot have had.
        IndexError: for an index outside it.
        RuntimeError: unless indices are int64 of the input's shape.
    """
    return _max_unpool("max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Every maximum of a :func:`max_pool3d` back at its index, zeros elsewhere; otherwise as :func:`max_unpool2d`."""
    return _max_unpool("max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size)
