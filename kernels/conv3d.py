"""3-d convolution and its two gradients by the 2-d ones: the taps along depth become channels.

A window of T slices of x, laid side by side in the channels of one image, turns a (T, R, S) filter into an (R, S) filter on
T·C channels, and the depth of the result into more images. So each output is one sum, rounded once, in one product that
is T times as deep. The windows are a copy, made anew for each use: T / stride times the bytes of x, and never kept.
The input gradient takes windows of ``grad`` in the same way, one for each remainder of depth on division by the stride.
The three are closed under differentiation as those of :mod:`tinyflow.kernels.conv2d` are.

Shapes are (N, C, D, H, W) and (K, C / groups, T, R, S) in any strides. Results lie as N·D·H·W·C; a weight's gradient lies as
K·R·S·T·C, and a weight that does is read in place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tinyflow.kernels import conv2d as planes
from tinyflow.kernels import memory, strides
from tinyflow.kernels.conv2d.geometry import Pair
from tinyflow.kernels.elementwise import copy, copy_into, fill, full
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.strides import Shape

Triple = int | Sequence[int]
Padding3d = int | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class _Depth:
    """The depth axis of a convolution, and what is left for two dimensions."""

    size: int
    taps: int
    stride: int
    padding: Pair
    dilation: int
    stride_2d: Pair
    padding_2d: tuple[Pair, Pair]
    dilation_2d: Pair

    @functools.cached_property
    def out(self) -> int:
        return (self.size + sum(self.padding) - self.dilation * (self.taps - 1) - 1) // self.stride + 1

    @property
    def rest(self) -> tuple[Pair, tuple[Pair, Pair], Pair]:
        return self.stride_2d, self.padding_2d, self.dilation_2d


@dataclass(frozen=True)
class _Walk:
    """Slices ``start + j·step + t·spacing`` for window j of ``count`` and tap t of ``taps``."""

    taps: int
    count: int
    start: int
    step: int
    spacing: int


def _triple(op: str, name: str, value: Triple, least: int) -> tuple[int, int, int]:
    values = (value,) * 3 if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(values) != 3 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise TypeError(f"{op}: expected {name} to be an integer or three integers, got {value!r}")
    if min(values) < least:
        raise RuntimeError(f"{op}: expected {name} of at least {least}, got {value!r}")
    return values


def _sides(op: str, value: Padding3d) -> tuple[Pair, Pair, Pair]:
    if isinstance(value, Sequence) and len(value) == 3 and all(isinstance(v, Sequence) for v in value):
        before = _triple(op, "padding", [v[0] for v in value], 0)  # type: ignore[index]
        after = _triple(op, "padding", [v[1] for v in value], 0)  # type: ignore[index]
        return (before[0], after[0]), (before[1], after[1]), (before[2], after[2])
    d, h, w = _triple(op, "padding", value, 0)  # type: ignore[arg-type]
    return (d, d), (h, h), (w, w)


def _resolve(
    op: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Triple,
    padding: Padding3d,
    dilation: Triple,
    groups: int,
) -> _Depth:
    """The checked depth axis; the other two are checked by the 2-d launchers."""
    x, weight = tuple(x_shape), tuple(weight_shape)
    if len(x) != 5 or len(weight) != 5:
        raise RuntimeError(
            f"{op}: expected x (N, C, D, H, W) and weight (K, C / groups, T, R, S), got {x} and {weight}"
        )
    if groups < 1 or x[1] != weight[1] * groups or weight[0] % groups:
        raise RuntimeError(
            f"{op}: weight {weight} with groups={groups} expects {weight[1] * max(groups, 1)} input channels and output "
            f"channels divisible by groups, got {x[1]} from x {x}"
        )
    steps, spread = _triple(op, "stride", stride, 1), _triple(op, "dilation", dilation, 1)
    around = _sides(op, padding)
    spans = [d * (n - 1) + 1 for d, n in zip(spread, weight[2:])]
    padded = [n + sum(p) for n, p in zip(x[2:], around)]
    if min(weight[2:]) < 1 or any(s > n for s, n in zip(spans, padded)):
        raise RuntimeError(
            f"{op}: expected a kernel that fits the padded input {tuple(padded)}, got {weight[2:]} "
            f"with dilation {spread} from weight {weight}"
        )
    return _Depth(x[2], weight[2], steps[0], around[0], spread[0], steps[1:], around[1:], spread[1:])


def _images(x: Buffer) -> Buffer:
    """(N, C, D, H, W) as (N·D, C, H, W): a view where the memory allows it, else a channels-last copy."""
    n, c, d, h, w = x.shape
    st = x.stride()
    if n == 1 or d == 1 or st[0] == d * st[2]:
        return memory.as_strided(x, (n * d, c, h, w), (st[0] if d == 1 else st[2], st[1], st[3], st[4]))
    return _windows(x, 1, _Walk(1, d, 0, 1, 0), copied=True)


def _volume(images: Buffer, n: int, d: int) -> Buffer:
    """(N·D, C, H, W) as (N, C, D, H, W)."""
    _, c, h, w = images.shape
    st = images.stride()
    return memory.as_strided(images, (n, c, d, h, w), (d * st[0], st[1], st[0], st[2], st[3]))


def _windows(x: Buffer, groups: int, walk: _Walk, copied: bool = False) -> Buffer:
    """(N·count, C·taps, H, W) from (N, C, D, H, W), channels in the order (group, tap, channel); zeros outside."""
    n, c, depth, h, w = x.shape
    whole = walk.taps == 1 and (walk.start, walk.step, walk.count) == (0, 1, depth)
    if whole and not copied:
        return _images(x)
    per_group = c // groups
    shape = (n * walk.count, groups * walk.taps * per_group, h, w)
    out = strides.empty_channels_last(shape, x.dtype, x.device)
    to = strides.contiguous_strides((n, walk.count, h, w, groups, walk.taps, per_group))
    st = x.stride()
    source = (st[0], walk.step * st[2], st[3], st[4], per_group * st[1], st[1])
    for t in range(walk.taps):
        first = walk.start + t * walk.spacing
        low = min(max(-(first // walk.step), 0), walk.count)
        high = max(min((depth - 1 - first) // walk.step + 1, walk.count), low)

        def part(j: int, count: int, t: int = t) -> Buffer:
            steps = (*to[:5], to[6])
            return memory.as_strided(out, (n, count, h, w, groups, per_group), steps, t * to[5] + j * to[1])

        if low:
            fill(part(0, low), 0)
        if high < walk.count:
            fill(part(high, walk.count - high), 0)
        if high > low:
            origin = int(x.storage_offset()) + (first + low * walk.step) * st[2]
            copy_into(
                part(low, high - low),
                memory.as_strided(x, (n, high - low, h, w, groups, per_group), source, origin),
            )
    return out


def _filters(weight: Buffer) -> Buffer:
    """(K, C, T, R, S) as (K, T·C, R, S): a view of K·R·S·T·C memory, else a copy into it."""
    k, c, t, r, s = weight.shape
    st = weight.stride()
    if t > 1 and c > 1 and st[2] != c * st[1]:
        weight = copy(weight, layout=filter_strides(weight.shape))
        st = weight.stride()
    return memory.as_strided(weight, (k, t * c, r, s), (st[0], st[1] if c > 1 else st[2], st[3], st[4]))


def filter_strides(shape: Sequence[int]) -> Shape:
    """Strides of a logical (K, C, T, R, S) whose memory is (K, R, S, T, C)."""
    _, c, t, r, s = shape
    return (r * s * t * c, 1, c, s * t * c, t * c)


def _filters_of_phase(weight: Buffer, groups: int, first: int, every: int, taps: int) -> Buffer:
    """Taps ``first + j·every`` of (K, C, T, R, S) as (groups·taps·K/groups, C, R, S)."""
    k, c, _, r, s = weight.shape
    per_group = k // groups
    st = weight.stride()
    chosen = memory.as_strided(
        weight,
        (groups, taps, per_group, c, r, s),
        (per_group * st[0], every * st[2], st[0], st[1], st[3], st[4]),
        int(weight.storage_offset()) + first * st[2],
    )
    shape = (groups * taps * per_group, c, r, s)
    layout = strides.channels_last_strides(shape)
    copied = copy(chosen, layout=(taps * per_group * layout[0], per_group * layout[0], *layout))
    return memory.as_strided(copied, shape, layout)


def conv3d(
    x: Buffer,
    weight: Buffer,
    bias: Buffer | None = None,
    stride: Triple = 1,
    padding: Padding3d = 0,
    dilation: Triple = 1,
    groups: int = 1,
    allow_tf32: bool | None = None,
) -> Buffer:
    """``y[n, k, o, p, q] = bias[k] + Σ_{c, t, r, s} x[n, c, d, h, w]·weight[k, c, t, r, s]``, x being 0 outside,
    at ``d = o·stride − padding + t·dilation``, likewise ``h`` and ``w``.

    Args:
        x: (N, C, D, H, W), any strides.
        weight: (K, C / groups, T, R, S), any strides.
        bias: (K,).
        stride, dilation: an integer, or (depth, height, width).
        padding: zeros around x: an integer, three, or a pair (before, after) for each dimension.
        groups, allow_tf32: as in :func:`tinyflow.kernels.conv2d.conv2d`, whose dtypes these are.

    Returns (N, K, O, P, Q) in N·O·P·Q·K memory.

    Raises:
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
        RuntimeError: on shapes, dtypes or devices that do not fit.

    FLOPs: 2·N·K·O·P·Q·(C / groups)·T·R·S. Bytes: ``x``, ``weight``, ``bias`` read and ``y`` written once, and where T or the
    stride is not 1, the windows (T·O / D times ``x``) written and read.
    """
    depth = _resolve("conv3d", x.shape, weight.shape, stride, padding, dilation, groups)
    windows = _windows(x, groups, _Walk(depth.taps, depth.out, -depth.padding[0], depth.stride, depth.dilation))
    y = planes.conv2d(windows, _filters(weight), bias, *depth.rest, groups, allow_tf32)
    return _volume(y, x.shape[0], depth.out)


def conv3d_input_grad(
    grad: Buffer,
    weight: Buffer,
    x_shape: Sequence[int],
    stride: Triple = 1,
    padding: Padding3d = 0,
    dilation: Triple = 1,
    groups: int = 1,
    allow_tf32: bool | None = None,
) -> Buffer:
    """The gradient of :func:`conv3d` for ``x``; (N, C, D, H, W) in N·D·H·W·C memory.

    ``grad`` (N, K, O, P, Q) and ``weight`` in any strides. FLOPs: those of :func:`conv3d`. Bytes: ``grad`` and ``weight``
    read and the result written once, and windows of ``grad`` written and read.

    Raises:
        TypeError, RuntimeError: as :func:`conv3d`.
    """
    op = "conv3d_input_grad"
    depth = _resolve(op, x_shape, weight.shape, stride, padding, dilation, groups)
    _check_grad(op, grad, x_shape, weight.shape, depth)
    n, c, d, h, w = x_shape
    if depth.stride == 1:
        return _volume(_input_grad_phase(grad, weight, x_shape, depth, groups, 0, allow_tf32), n, d)
    shape = (n * d, c, h, w)
    out = _volume(strides.empty_channels_last(shape, grad.dtype, grad.device), n, d)
    for phase in range(min(depth.stride, d)):
        count = len(range(phase, d, depth.stride))
        st = out.stride()
        part = memory.as_strided(
            out,
            (n, c, count, h, w),
            (*st[:2], depth.stride * st[2], *st[3:]),
            int(out.storage_offset()) + phase * st[2],
        )
        copy_into(part, _volume(_input_grad_phase(grad, weight, x_shape, depth, groups, phase, allow_tf32), n, count))
    return out


def _input_grad_phase(
    grad: Buffer,
    weight: Buffer,
    x_shape: Sequence[int],
    depth: _Depth,
    groups: int,
    phase: int,
    allow_tf32: bool | None,
) -> Buffer:
    """The slices d = j·stride + phase of the input gradient, (N·count, C, H, W).

    Slice d meets output slice o at tap t where d + padding = o·stride + t·dilation. The taps that do form a progression;
    along it o falls from j + start in even steps.
    """
    n, c, d, h, w = x_shape
    count = len(range(phase, d, depth.stride))
    shape = (n * count, c, h, w)
    common = math.gcd(depth.stride, depth.dilation)
    period = depth.stride // common
    shifted = phase + depth.padding[0]
    reached = (t for t in range(min(period, depth.taps)) if (shifted - t * depth.dilation) % depth.stride == 0)
    first = next(reached, depth.taps)
    taps = len(range(first, depth.taps, period))
    if taps == 0:
        return full(shape, 0, grad.dtype, grad.device)
    start = (shifted - first * depth.dilation) // depth.stride
    windows = _windows(grad, groups, _Walk(taps, count, start, 1, -(depth.dilation // common)))
    filters = _filters_of_phase(weight, groups, first, period, taps)
    return planes.conv2d_input_grad(windows, filters, shape, *depth.rest, groups, allow_tf32)


def conv3d_weight_grad(
    grad: Buffer,
    x: Buffer,
    weight_shape: Sequence[int],
    stride: Triple = 1,
    padding: Padding3d = 0,
    dilation: Triple = 1,
    groups: int = 1,
    allow_tf32: bool | None = None,
    dtype: memory.dtype | None = None,
) -> Buffer:
    """The gradient of :func:`conv3d` for ``weight``; (K, C / groups, T, R, S) in K·R·S·T·C memory.

    ``grad`` (N, K, O, P, Q) and ``x`` in any strides; ``dtype`` is the result's, by default that of ``x``. FLOPs: those of
    :func:`conv3d`. Bytes: ``grad`` and ``x`` read and the result written once, and the windows of ``x`` written and read.

    Raises:
        TypeError, RuntimeError: as :func:`conv3d`.
    """
    op = "conv3d_weight_grad"
    depth = _resolve(op, x.shape, weight_shape, stride, padding, dilation, groups)
    _check_grad(op, grad, x.shape, weight_shape, depth)
    windows = _windows(x, groups, _Walk(depth.taps, depth.out, -depth.padding[0], depth.stride, depth.dilation))
    k, c, t, r, s = weight_shape
    found = planes.conv2d_weight_grad(_images(grad), windows, (k, t * c, r, s), *depth.rest, groups, allow_tf32, dtype)
    st = found.stride()
    return memory.as_strided(found, (k, c, t, r, s), (st[0], st[1], c * st[1], st[2], st[3]))


def _check_grad(op: str, grad: Buffer, x_shape: Sequence[int], weight_shape: Sequence[int], depth: _Depth) -> None:
    if grad.dim() != 5 or (grad.shape[0], *grad.shape[1:3]) != (x_shape[0], weight_shape[0], depth.out):
        raise RuntimeError(
            f"{op}: expected grad of shape ({x_shape[0]}, {weight_shape[0]}, {depth.out}, P, Q) for x {tuple(x_shape)} "
            f"and weight {tuple(weight_shape)}, got {tuple(grad.shape)}"
        )
