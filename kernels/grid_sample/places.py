"""Where a sample is taken and what it weighs: device functions, for one axis and for all."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.rounding import nearest


@triton.jit
def _reflect(u, low, span):
    """``u`` reflected into [low, low + span] as often as it takes, and the slope of that."""
    v = u - low
    sign = tl.where(v < 0, -1.0, 1.0).to(u.dtype)
    v = tl.abs(v)
    flips = tl.floor(v / tl.where(span > 0, span, 1.0))
    rest = v - flips * span
    odd = flips - 2.0 * tl.floor(flips * 0.5) != 0
    reflected = tl.where(odd, span - rest, rest) + low
    slope = tl.where(odd, -sign, sign)
    return tl.where(span > 0, reflected, 0.0), tl.where(span > 0, slope, 0.0)


@triton.jit
def _pad(u, size, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """A place as padding moves it into the image, and the slope of that."""
    slope = tl.zeros_like(u) + 1.0
    if PADDING == 2:
        if ALIGN:
            u, slope = _reflect(u, 0.0, size - 1.0)
        else:
            u, slope = _reflect(u, -0.5, size)
    if PADDING != 0:
        slope = tl.where((u > 0) & (u < size - 1.0), slope, 0.0)
        u = tl.where(u > 0, u, 0.0)  # NaN too, as in torch
        u = tl.where(u < size - 1.0, u, size - 1.0)
    return u, slope


@triton.jit
def _place(coordinate, size, MODE: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """A coordinate in [−1, 1] as a place among ``size`` elements, and the derivative of that."""
    if ALIGN:
        u = (coordinate + 1.0) * 0.5 * (size - 1.0)
        slope = tl.zeros_like(coordinate) + (size - 1.0) * 0.5
    else:
        u = ((coordinate + 1.0) * size - 1.0) * 0.5
        slope = tl.zeros_like(coordinate) + size * 0.5
    if MODE != 2:
        u, padded = _pad(u, size, PADDING, ALIGN)
        slope *= padded
    if MODE == 1:
        u = nearest(u)
    # NaN and what no integer holds: outside, on its own side
    u = tl.where(u < 1073741824.0, u, tl.where(u >= 1073741824.0, size + 100.0, -100.0))
    return tl.where(u > -1073741824.0, u, -100.0), slope


@triton.jit
def _cubic_weight(t, K: tl.constexpr, ORDER: tl.constexpr):
    """The ``ORDER``-th derivative by t of Keys' weight of element K − 1 for a place t ∈ [0, 1)."""
    if K == 0:
        d = t + 1.0
    elif K == 1:
        d = t
    elif K == 2:
        d = 1.0 - t
    else:
        d = 2.0 - t
    if K == 1 or K == 2:
        if ORDER == 0:
            weight = (1.25 * d - 2.25) * d * d + 1.0
        elif ORDER == 1:
            weight = (3.75 * d - 4.5) * d
        elif ORDER == 2:
            weight = 7.5 * d - 4.5
        else:
            weight = tl.zeros_like(d) + 7.5
    else:
        if ORDER == 0:
            weight = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
        elif ORDER == 1:
            weight = (-2.25 * d + 7.5) * d - 6.0
        elif ORDER == 2:
            weight = -4.5 * d + 7.5
        else:
            weight = tl.zeros_like(d) - 4.5
    if K >= 2 and ORDER % 2 == 1:
        weight = -weight
    return weight


@triton.jit
def axis_weight(u, slope, K: tl.constexpr, MODE: tl.constexpr, ORDER: tl.constexpr):
    """The ``ORDER``-th derivative by the coordinate of the weight of the ``K``-th element around ``u``."""
    t = u - tl.floor(u)
    if MODE == 0:
        if ORDER == 0:
            if K == 0:
                weight = 1.0 - t
            else:
                weight = t
        elif ORDER == 1:
            weight = tl.zeros_like(t) + (2.0 * K - 1.0)
        else:
            weight = tl.zeros_like(t)
    elif MODE == 1:
        if ORDER == 0:
            weight = tl.zeros_like(t) + 1.0
        else:
            weight = tl.zeros_like(t)
    else:
        if ORDER < 4:
            weight = _cubic_weight(t, K, ORDER)
        else:
            weight = tl.zeros_like(t)
    for _ in tl.static_range(ORDER):
        weight *= slope
    return weight


@triton.jit
def _element(
    u, size, K: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr, INDEX: tl.constexpr
):
    """The index of the ``K``-th element around ``u``, and whether it lies inside."""
    i = tl.floor(u) + K
    if MODE == 2:
        i, _ = _pad(i - 1.0, size, PADDING, ALIGN)
    inside = (i >= 0) & (i < size)
    return tl.where(inside, i, 0.0).to(INDEX), inside


@triton.jit
def position(q, sizes):
    """Image, depth, height and width of flat places q in images of these sizes."""
    i2 = q % sizes[2]
    i1 = (q // sizes[2]) % sizes[1]
    i0 = (q // (sizes[2] * sizes[1])) % sizes[0]
    n = q // (sizes[2] * sizes[1] * sizes[0])
    return n, i0, i1, i2


@triton.jit
def pixel(n, i0, i1, i2, strides):
    """The offset of a position's first channel in an image's memory."""
    return n * strides[0] + i0 * strides[2] + i1 * strides[3] + i2 * strides[4]


@triton.jit
def spot(q, out_sizes, grid_strides):
    """Image, position and grid offset of flat places q."""
    n, o0, o1, o2 = position(q, out_sizes)
    at = n * grid_strides[0] + o0 * grid_strides[1] + o1 * grid_strides[2] + o2 * grid_strides[3]
    return n, o0, o1, o2, at


@triton.jit
def places_of(
    grid_ptr,
    at,
    step,
    mask,
    sizes,
    AXES: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Places and slopes by depth (0 for an image), height and width: the grid's last axis counts from width."""
    gx = tl.load(grid_ptr + at, mask=mask, other=0).to(COMPUTE)
    gy = tl.load(grid_ptr + at + step, mask=mask, other=0).to(COMPUTE)
    u2, s2 = _place(gx, tl.cast(sizes[2], COMPUTE), MODE, PADDING, ALIGN)
    u1, s1 = _place(gy, tl.cast(sizes[1], COMPUTE), MODE, PADDING, ALIGN)
    if AXES == 3:
        gz = tl.load(grid_ptr + at + 2 * step, mask=mask, other=0).to(COMPUTE)
        u0, s0 = _place(gz, tl.cast(sizes[0], COMPUTE), MODE, PADDING, ALIGN)
    else:
        u0, s0 = tl.zeros_like(gx), tl.zeros_like(gx)
    return u0, u1, u2, s0, s1, s2


@triton.jit
def depth_weight(u0, s0, K: tl.constexpr, AXES: tl.constexpr, MODE: tl.constexpr, ORDER: tl.constexpr):
    if AXES == 3:
        weight = axis_weight(u0, s0, K, MODE, ORDER)
    else:
        weight = tl.zeros_like(u0) + 1.0
    return weight


@triton.jit
def tap_element(
    u0,
    u1,
    u2,
    sizes,
    K: tl.constexpr,
    T: tl.constexpr,
    AXES: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The indices of the ``K``-th of all elements around a place, and whether it lies inside."""
    i1, inside_1 = _element(u1, tl.cast(sizes[1], COMPUTE), K // T % T, MODE, PADDING, ALIGN, INDEX)
    i2, inside_2 = _element(u2, tl.cast(sizes[2], COMPUTE), K % T, MODE, PADDING, ALIGN, INDEX)
    inside = inside_1 & inside_2
    if AXES == 3:
        i0, inside_0 = _element(u0, tl.cast(sizes[0], COMPUTE), K // (T * T), MODE, PADDING, ALIGN, INDEX)
        inside = inside & inside_0
    else:
        i0 = i1 * 0
    return i0, i1, i2, inside
