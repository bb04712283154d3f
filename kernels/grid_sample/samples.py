"""The kernels that read the elements around each place: samples, and their derivatives by the place."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.grid_sample.geometry import SHIPPED, choose, interpreter
from tinyflow.kernels.grid_sample.places import axis_weight, depth_weight, pixel, places_of, spot, tap_element
from tinyflow.kernels.launch import Configs


@triton.jit
def _grid_sample_kernel(
    y_ptr,
    x_ptr,
    grid_ptr,
    places,
    channels,
    sizes,
    out_sizes,
    y_strides,
    x_strides,
    grid_strides,
    AXES: tl.constexpr,
    T: tl.constexpr,
    TAPS: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    ORDER_X: tl.constexpr,
    ORDER_Y: tl.constexpr,
    ORDER_Z: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    q = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    n, o0, o1, o2, at = spot(q, out_sizes, grid_strides)
    u0, u1, u2, s0, s1, s2 = places_of(
        grid_ptr, at, grid_strides[4], q < places, sizes, AXES, MODE, PADDING, ALIGN, COMPUTE
    )
    total = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for k in tl.static_range(TAPS):
        i0, i1, i2, inside = tap_element(u0, u1, u2, sizes, k, T, AXES, MODE, PADDING, ALIGN, COMPUTE, INDEX)
        weight = axis_weight(u1, s1, k // T % T, MODE, ORDER_Y) * axis_weight(u2, s2, k % T, MODE, ORDER_X)
        weight *= depth_weight(u0, s0, k // (T * T), AXES, MODE, ORDER_Z)
        x_at = pixel(n, i0, i1, i2, x_strides)
        mask = (inside & (q < places))[:, None] & (c < channels)[None, :]
        x = tl.load(x_ptr + x_at[:, None] + (c * x_strides[1])[None, :], mask=mask, other=0).to(COMPUTE)
        total += weight[:, None] * x
    y_at = pixel(n, o0, o1, o2, y_strides)
    mask = (q < places)[:, None] & (c < channels)[None, :]
    tl.store(y_ptr + y_at[:, None] + (c * y_strides[1])[None, :], total.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _grid_sample_grid_grad_kernel(
    out_ptr,  # (places, AXES), contiguous
    g_ptr,
    x_ptr,
    grid_ptr,
    places,
    channels,
    sizes,
    out_sizes,
    g_strides,
    x_strides,
    grid_strides,
    AXES: tl.constexpr,
    T: tl.constexpr,
    TAPS: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    ORDER_X: tl.constexpr,
    ORDER_Y: tl.constexpr,
    ORDER_Z: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    q = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    n, o0, o1, o2, at = spot(q, out_sizes, grid_strides)
    u0, u1, u2, s0, s1, s2 = places_of(
        grid_ptr, at, grid_strides[4], q < places, sizes, AXES, MODE, PADDING, ALIGN, COMPUTE
    )
    g_at = pixel(n, o0, o1, o2, g_strides)
    by_x = tl.zeros([BLOCK_P], COMPUTE)
    by_y = tl.zeros([BLOCK_P], COMPUTE)
    by_z = tl.zeros([BLOCK_P], COMPUTE)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C).to(INDEX)
        mask = (q < places)[:, None] & (c < channels)[None, :]
        g = tl.load(g_ptr + g_at[:, None] + (c * g_strides[1])[None, :], mask=mask, other=0).to(COMPUTE)
        for k in tl.static_range(TAPS):
            i0, i1, i2, inside = tap_element(u0, u1, u2, sizes, k, T, AXES, MODE, PADDING, ALIGN, COMPUTE, INDEX)
            x_at = pixel(n, i0, i1, i2, x_strides)
            x = tl.load(x_ptr + x_at[:, None] + (c * x_strides[1])[None, :], mask=mask & inside[:, None], other=0).to(
                COMPUTE
            )
            product = tl.sum(g * x, axis=1)
            wx = axis_weight(u2, s2, k % T, MODE, ORDER_X)
            wy = axis_weight(u1, s1, k // T % T, MODE, ORDER_Y)
            wz = depth_weight(u0, s0, k // (T * T), AXES, MODE, ORDER_Z)
            by_x += product * axis_weight(u2, s2, k % T, MODE, ORDER_X + 1) * wy * wz
            by_y += product * wx * axis_weight(u1, s1, k // T % T, MODE, ORDER_Y + 1) * wz
            if AXES == 3:
                by_z += product * wx * wy * axis_weight(u0, s0, k // (T * T), MODE, ORDER_Z + 1)
    out_at = out_ptr + q * AXES
    tl.store(out_at, by_x.to(out_ptr.dtype.element_ty), mask=q < places)
    tl.store(out_at + 1, by_y.to(out_ptr.dtype.element_ty), mask=q < places)
    if AXES == 3:
        tl.store(out_at + 2, by_z.to(out_ptr.dtype.element_ty), mask=q < places)


grid_sample_configs = Configs("_grid_sample_kernel", SHIPPED, choose, interpreter)
grid_grad_configs = Configs("_grid_sample_grid_grad_kernel", SHIPPED, choose, interpreter)
