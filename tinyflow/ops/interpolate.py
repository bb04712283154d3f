"""Images of another size. Resampling is linear, and its gradient is resampling by the transposed matrices."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from tinyflow.kernels import resampling as kernels
from tinyflow.ops.define import Op, define
from tinyflow.ops.pooling import adaptive_avg_pool2d
from tinyflow.ops.pooling_nd import adaptive_avg_pool1d, adaptive_avg_pool3d
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__: list[str] = []
FUNCTIONAL = ["interpolate"]

_interpolate: Op = define(
    kernels.resample, name="interpolate", x=lambda g, axes, transposed: _interpolate(g, axes, not transposed)
)

_ANY_DIM = ("nearest", "nearest-exact", "area")
#: The form of each axis, and the number of spatial dimensions that the mode is for.
_FORMS = {
    "linear": (kernels.LINEAR, 1),
    "bilinear": (kernels.LINEAR, 2),
    "trilinear": (kernels.LINEAR, 3),
    "bicubic": (kernels.CUBIC, 2),
}
_AREA: dict[int, Callable[[Tensor, Any], Tensor]] = {
    1: adaptive_avg_pool1d,
    2: adaptive_avg_pool2d,
    3: adaptive_avg_pool3d,
}


def _each(what: str, value: Any, ndim: int) -> list[Any]:
    if not isinstance(value, Sequence):
        return [value] * ndim
    if len(value) != ndim:
        raise ValueError(
            f"interpolate: expected {what} to be a number or one for each of {ndim} spatial dimensions, got {value}"
        )
    return list(value)


def _check(input: Tensor, mode: str, align_corners: bool | None, antialias: bool) -> None:
    if mode not in _ANY_DIM and mode not in _FORMS:
        raise NotImplementedError(
            f"interpolate: expected mode 'nearest', 'nearest-exact', 'linear', 'bilinear', 'bicubic', 'trilinear' or "
            f"'area', got {mode!r}"
        )
    if input.dim() not in (3, 4, 5):
        raise NotImplementedError(f"interpolate: expected input of 3, 4 or 5 dimensions, got {tuple(input.shape)}")
    if mode in _FORMS and _FORMS[mode][1] != input.dim() - 2:
        raise NotImplementedError(
            f"interpolate: Got {input.dim()}D input, but {mode} mode needs {_FORMS[mode][1] + 2}D input"
        )
    if mode in _ANY_DIM and align_corners is not None:
        raise ValueError(
            "interpolate: align_corners option can only be set with the interpolating modes: "
            f"linear | bilinear | bicubic | trilinear, got mode {mode!r}"
        )
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(
            f"interpolate: Anti-alias option is restricted to bilinear and bicubic modes and a 4-D input, got {mode!r}"
        )


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """``input`` at another size.

    Args:
        input: (N, C, L), (N, C, H, W) or (N, C, D, H, W), floating point; uint8 too for the nearest modes.
        size: of the result, a number or one for each spatial dimension; or
        scale_factor: the result's size divided by the input's, which is rounded down.
        mode: ``"nearest"``, ``"nearest-exact"`` (as by rounding positions; the first rounds them down), ``"area"`` (means of
            even windows), ``"linear"``, ``"bilinear"``, ``"trilinear"`` or ``"bicubic"``.
        align_corners: the centres of corner elements, not the outer edges, lie on each other.
        recompute_scale_factor: reckon positions from the sizes, not from ``scale_factor``.
        antialias: for bilinear and bicubic: where the result is smaller, weigh all that each of its elements stands for.

    Raises:
        ValueError: for arguments that contradict each other.
        NotImplementedError: for an unknown mode, or one for another number of dimensions.
        RuntimeError: for an empty size.
    """
    _check(input, mode, align_corners, antialias)
    ndim = input.dim() - 2
    if (size is None) == (scale_factor is None):
        raise ValueError(f"interpolate: expected either size or scale_factor, got {size} and {scale_factor}")
    scales: list[Any] = [None] * ndim
    if size is not None:
        if recompute_scale_factor:
            raise ValueError("interpolate: recompute_scale_factor is not meaningful with an explicit size.")
        sizes = [operator.index(n) for n in _each("size", size, ndim)]
    else:
        scales = _each("scale_factor", scale_factor, ndim)
        sizes = [math.floor(float(n) * s) for n, s in zip(input.shape[2:], scales)]
        if recompute_scale_factor:
            scales = [None] * ndim
    if mode == "area":
        return _AREA[ndim](input, tuple(sizes))
    form = mode if mode in _ANY_DIM else _FORMS[mode][0]
    axes = [
        kernels.axis_of(n, o, form, bool(align_corners), s, antialias)
        for n, o, s in zip(input.shape[2:], sizes, scales)
    ]
    return _interpolate(input, axes)
