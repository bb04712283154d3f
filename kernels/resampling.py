"""Resampling along axes: every output is a weighted sum of a few neighbours, whose place and weights depend on its index.

Along an axis this is a matrix with a narrow band, ``y[o] = Σ_k weights[o, k] · x[starts[o] + k]``. The band is a small
table, made on the host for each of the forms (nearest, linear, cubic after Keys 1981, each with a filter as wide as the
step where it is to smooth), and one kernel applies up to three of them at once. The transpose of a band is a band, so
gradients gather as the forward pass does: nothing is scattered, and results are deterministic.

Where the taps of all axes together are more than 16, axes are taken in turn, those that shrink first, and what is between
them is kept in the arithmetic's precision. Tiles are (pixels, channels); any strides are honoured, and the result lies as x.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer

NEAREST, NEAREST_EXACT, LINEAR, CUBIC = "nearest", "nearest-exact", "linear", "cubic"

#: The most taps that one launch takes, which are unrolled.
_FUSED_TAPS = 16


@dataclass(frozen=True)
class Axis:
    """How one axis is resampled.

    ``scale`` is the factor that was asked for, from which positions are then reckoned, else they are from the sizes.
    ``align_corners``: the first and last elements' centres, not their outer edges, lie on each other.
    """

    size: int
    out: int
    form: str
    align_corners: bool = False
    scale: float | None = None
    antialias: bool = False


@dataclass(frozen=True)
class _Band:
    """The nonzero diagonals of a matrix: ``starts`` (rows,) int32, ``weights`` (rows, taps) float64."""

    starts: np.ndarray
    weights: np.ndarray

    @property
    def taps(self) -> int:
        return int(self.weights.shape[1])

    @classmethod
    def of(cls, columns: np.ndarray, values: np.ndarray) -> _Band:
        """From the columns (rows, k) of values (rows, k), those of one column added."""
        starts = columns.min(axis=1)
        weights = np.zeros((len(columns), int((columns - starts[:, None]).max()) + 1))
        np.add.at(weights, (np.arange(len(columns))[:, None], columns - starts[:, None]), values)
        return cls(starts.astype(np.int32), weights)

    def transposed(self, rows: int) -> _Band:
        """The band of the transposed matrix, which has ``rows`` rows."""
        row, tap = np.nonzero(self.weights)
        column = self.starts[row] + tap
        first, last = np.full(rows, len(self.starts)), np.full(rows, -1)
        np.minimum.at(first, column, row)
        np.maximum.at(last, column, row)
        weights = np.zeros((rows, max(int((last - first).max(initial=0)) + 1, 1)))
        weights[column, row - first[column]] = self.weights[row, tap]
        return _Band(np.where(last < 0, 0, first).astype(np.int32), weights)


def _step(axis: Axis) -> float:
    """The distance between neighbouring outputs, in elements of the input."""
    if axis.align_corners:
        return (axis.size - 1) / (axis.out - 1) if axis.out > 1 else 0.0
    return 1 / axis.scale if axis.scale is not None and axis.scale > 0 else axis.size / axis.out


def _nearest(axis: Axis) -> np.ndarray:
    # single precision for every dtype, as in torch: the choice would differ else where a quotient is nearly whole
    o = np.arange(axis.out, dtype=np.float32)
    if axis.form == NEAREST_EXACT:
        o = o + np.float32(0.5)
    elif axis.out == axis.size:
        return np.arange(axis.out)
    elif axis.out == 2 * axis.size:
        return np.arange(axis.out) // 2
    return np.minimum(np.floor(o * np.float32(_step(axis))).astype(np.int64), axis.size - 1)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    t = np.abs(distance)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = (((t - 5) * t + 8) * t - 4) * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _smoothing(axis: Axis) -> _Band:
    """A linear or cubic filter as wide as the step, so that an output weighs all that it stands for."""
    step = _step(axis)
    widen = max(step, 1.0)
    support = (1.0 if axis.form == LINEAR else 2.0) * widen
    centre = step * (np.arange(axis.out) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), axis.size)
    columns = first[:, None] + np.arange(max(int((end - first).max()), 1))
    distance = (columns - centre[:, None] + 0.5) / widen
    values = np.maximum(1 - np.abs(distance), 0) if axis.form == LINEAR else _cubic(distance, -0.5)
    values = np.where(columns < end[:, None], values, 0.0)
    total = values.sum(axis=1, keepdims=True)
    return _Band.of(np.minimum(columns, axis.size - 1), values / np.where(total == 0, 1.0, total))


@functools.lru_cache(maxsize=256)
def _band(axis: Axis, transposed: bool) -> _Band:
    if transposed:
        return _band(axis, False).transposed(axis.size)
    if axis.form in (NEAREST, NEAREST_EXACT):
        return _Band(_nearest(axis).astype(np.int32), np.ones((axis.out, 1)))
    if axis.antialias:
        return _smoothing(axis)
    o, step = np.arange(axis.out), _step(axis)
    place = o * step if axis.align_corners else (o + 0.5) * step - 0.5
    if axis.form == LINEAR:
        place = np.clip(place, 0, axis.size - 1)
        below = np.minimum(np.floor(place), axis.size - 1)
        part = (place - below)[:, None]
        columns, values = below[:, None] + np.arange(2), np.concatenate([1 - part, part], axis=1)
    else:
        below = np.floor(place)
        columns = below[:, None] + np.arange(-1, 3)
        values = _cubic(place[:, None] - columns, -0.75)
    return _Band.of(np.clip(columns, 0, axis.size - 1).astype(np.int64), values)


@triton.jit
def _axis_tap(starts_ptr, weights_ptr, o, k, size, taps, mask, INDEX: tl.constexpr):
    """Where tap ``k`` of outputs ``o`` reads, its weight, and whether there is one."""
    i = tl.load(starts_ptr + o, mask=mask, other=0).to(INDEX) + k
    weight = tl.load(weights_ptr + o * taps + k, mask=mask, other=0)
    return i, weight, (i < size) & (weight != 0)


@triton.jit
def _weighted_tap(
    x_ptr,
    starts_ptr,
    weights_ptr,
    k,
    n,
    o0,
    o1,
    o2,
    c,
    channels,
    in_image,
    sizes,
    out_sizes,
    taps,
    x_strides,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """What the ``k``-th of all taps adds to every output of the tile."""
    starts_1 = starts_ptr + out_sizes[0]
    starts_2 = starts_1 + out_sizes[1]
    weights_1 = weights_ptr + out_sizes[0] * taps[0]
    weights_2 = weights_1 + out_sizes[1] * taps[1]
    k0, k1, k2 = k // (taps[1] * taps[2]), k // taps[2] % taps[1], k % taps[2]
    i0, w0, has0 = _axis_tap(starts_ptr, weights_ptr, o0, k0, sizes[0], taps[0], in_image, INDEX)
    i1, w1, has1 = _axis_tap(starts_1, weights_1, o1, k1, sizes[1], taps[1], in_image, INDEX)
    i2, w2, has2 = _axis_tap(starts_2, weights_2, o2, k2, sizes[2], taps[2], in_image, INDEX)
    at = n * x_strides[0] + i0 * x_strides[2] + i1 * x_strides[3] + i2 * x_strides[4]
    mask = (in_image & has0 & has1 & has2)[:, None] & (c < channels)[None, :]
    x = tl.load(x_ptr + at[:, None] + (c * x_strides[1])[None, :], mask=mask, other=0).to(COMPUTE)
    return (w0 * w1 * w2)[:, None] * x


@triton.jit
def _resample_kernel(
    y_ptr,
    x_ptr,
    starts_ptr,  # of the three axes, one after the other
    weights_ptr,
    pixels,
    channels,
    sizes,
    out_sizes,
    taps,
    y_strides,
    x_strides,
    TOGETHER: tl.constexpr,  # taps in one turn of the loop, a divisor of how many there are
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    o2 = p % out_sizes[2]
    o1 = (p // out_sizes[2]) % out_sizes[1]
    o0 = (p // (out_sizes[2] * out_sizes[1])) % out_sizes[0]
    n = p // (out_sizes[2] * out_sizes[1] * out_sizes[0])
    total = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for first in range(0, taps[0] * taps[1] * taps[2], TOGETHER):
        for k in tl.static_range(TOGETHER):
            total += _weighted_tap(
                x_ptr, starts_ptr, weights_ptr, first + k, n, o0, o1, o2, c, channels, p < pixels, sizes, out_sizes,
                taps, x_strides, COMPUTE, INDEX,
            )  # fmt: skip
    at = n * y_strides[0] + o0 * y_strides[2] + o1 * y_strides[3] + o2 * y_strides[4]
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    tl.store(y_ptr + at[:, None] + (c * y_strides[1])[None, :], total.to(y_ptr.dtype.element_ty), mask=mask)


_DEEP = Config({"BLOCK_P": 16, "BLOCK_C": 64})
_SHALLOW = Config({"BLOCK_P": 128, "BLOCK_C": 16})
_FEW_CHANNELS = Config({"BLOCK_P": 256, "BLOCK_C": 4})


def _choose(pixels: int, channels: int) -> Config:
    return _DEEP if channels > 16 else _SHALLOW if channels > 4 else _FEW_CHANNELS


def _interpreter(pixels: int, channels: int) -> Config:
    block_c = block(channels)
    return Config({"BLOCK_P": block(pixels, MAX_BLOCK // block_c), "BLOCK_C": block_c})


resample_configs = Configs("_resample_kernel", (_DEEP, _SHALLOW, _FEW_CHANNELS), _choose, _interpreter)


def _as_volume(x: Buffer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of (N, C, …) as (N, C, D, H, W)."""
    lead = 5 - x.dim()
    return (*x.shape[:2], *(1,) * lead, *x.shape[2:]), (*x.stride()[:2], *(0,) * lead, *x.stride()[2:])


def _apply(x: Buffer, bands: Sequence[_Band | None], out: Buffer) -> None:
    """``out`` from ``x`` with a band for each spatial axis; None leaves an axis as it is."""
    shape, x_steps = _as_volume(x)
    out_shape, y_steps = _as_volume(out)
    wide = out.dtype == memory.float64
    filled: list[_Band] = []
    for band, size in zip([None] * (5 - x.dim()) + list(bands), shape[2:]):
        filled.append(_Band(np.arange(size, dtype=np.int32), np.ones((size, 1))) if band is None else band)
    taps = tuple([band.taps for band in filled])
    total = math.prod(taps)
    starts = memory.upload(np.concatenate([band.starts for band in filled]), x.device)
    flat = np.concatenate([band.weights.reshape(-1) for band in filled])
    weights = memory.upload(flat if wide else flat.astype(np.float32), x.device)
    channels = shape[1]
    pixels = out.numel() // channels
    config = resample_configs(out.dtype, pixels=pixels, channels=channels)
    launch(
        _resample_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        out,
        x,
        starts,
        weights,
        pixels,
        channels,
        shape[2:],
        out_shape[2:],
        taps,
        y_steps,
        x_steps,
        config=config,
        cost=Cost(2 * total * out.numel(), nbytes(x, out)),
        device=x.device,
        TOGETHER=math.gcd(total, 2 if wide else 4),  # whose addresses and elements are all in registers
        COMPUTE=tl.float64 if wide else tl.float32,
        INDEX=offset_dtype(x, out),
    )


def _groups(bands: Sequence[_Band]) -> list[list[int]]:
    """The axes in the order of their launches: those that shrink most first, together while their taps are few."""
    order = sorted(range(len(bands)), key=lambda k: len(bands[k].starts) / max(int(bands[k].starts.max()) + 1, 1))
    groups: list[list[int]] = []
    for k in order:
        if groups and math.prod(bands[j].taps for j in [*groups[-1], k]) <= _FUSED_TAPS:
            groups[-1].append(k)
        else:
            groups.append([k])
    return groups


def resample(x: Buffer, axes: Sequence[Axis], transposed: bool = False) -> Buffer:
    """``y[n, c, o, …] = Σ_i A[o, i] · … · x[n, c, i, …]`` with a resampling matrix A for each spatial axis.

    Args:
        x: (N, C, L), (N, C, H, W) or (N, C, D, H, W), any strides, floating point; uint8 too where every form is nearest.
        axes: one for each spatial axis, whose sizes are ``size``.
        transposed: with the transposed matrices, from ``out`` to ``size``: the gradient.

    Returns (N, C, …) in the dtype of ``x`` and in its order of dimensions. Sums are in float32 (float64 for float64).

    Raises:
        TypeError: for another dtype.
        RuntimeError: for a shape that does not fit the axes.

    FLOPs: two for every product of taps, the least number of axes at a time that keeps them at 16 or fewer. Least bytes:
    ``x`` and the result once.
    """
    nearest = all(axis.form in (NEAREST, NEAREST_EXACT) for axis in axes)
    if x.dtype not in dtypes.FLOATING and not (x.dtype == memory.uint8 and nearest and not transposed):
        raise TypeError(f"resample: expected floating-point x (uint8 too where the form is nearest), got {x.dtype}")
    given = tuple([axis.out if transposed else axis.size for axis in axes])
    wanted = [axis.size if transposed else axis.out for axis in axes]
    if x.dim() != len(axes) + 2 or tuple(x.shape[2:]) != given:
        raise RuntimeError(f"resample: expected x of shape (N, C, {', '.join(map(str, given))}), got {tuple(x.shape)}")
    if min(*given, *wanted) < 1:
        raise RuntimeError(f"resample: expected sizes greater than 0, got {given} to {tuple(wanted)}")
    shape = (*x.shape[:2], *wanted)
    out = memory.empty(shape, x.dtype, x.device, strides.like(x, shape))
    if out.numel() == 0:
        return out
    bands = [_band(axis, transposed) for axis in axes]
    groups = _groups(bands)
    for position, group in enumerate(groups):
        partial = out
        if position < len(groups) - 1:
            between = list(x.shape)
            for k in group:
                between[2 + k] = wanted[k]
            dtype = dtypes.accumulate_dtype(out.dtype)
            partial = memory.empty(between, dtype, x.device, strides.like(x, tuple(between)))
        _apply(x, [bands[k] if k in group else None for k in range(len(bands))], partial)
        x = partial
    return out


def axis_of(size: int, out: int, form: str, align_corners: bool, scale: Any, antialias: bool) -> Axis:
    """An :class:`Axis`, without what plays no part in its form, so that equal ones are one."""
    smooth = antialias and form in (LINEAR, CUBIC)
    aligned = align_corners and form in (LINEAR, CUBIC)
    return Axis(size, out, form, aligned, None if aligned or scale is None else float(scale), smooth)
