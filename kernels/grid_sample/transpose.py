"""The transpose of sampling: every element of x finds the places that weighed it, and adds up.

Each tap of each place is a key, the element that it reads, and a weight. Sorted stably by key, those of one element are
neighbours, which it finds by bisection; no atomics, and one fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels.grid_sample.geometry import SHIPPED, choose, interpreter
from tinyflow.kernels.grid_sample.places import axis_weight, depth_weight, pixel, places_of, position, spot, tap_element
from tinyflow.kernels.launch import Config, Configs, block


@triton.jit
def _grid_taps_kernel(
    keys_ptr,  # (places, TAPS): the element of x, flat over images and pixels, or one past the last
    weights_ptr,
    grid_ptr,
    places,
    elements,
    sizes,
    out_sizes,
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
    BLOCK: tl.constexpr,
):
    q = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    n, _, _, _, at = spot(q, out_sizes, grid_strides)
    u0, u1, u2, s0, s1, s2 = places_of(
        grid_ptr, at, grid_strides[4], q < places, sizes, AXES, MODE, PADDING, ALIGN, COMPUTE
    )
    for k in tl.static_range(TAPS):
        i0, i1, i2, inside = tap_element(u0, u1, u2, sizes, k, T, AXES, MODE, PADDING, ALIGN, COMPUTE, tl.int64)
        weight = axis_weight(u1, s1, k // T % T, MODE, ORDER_Y) * axis_weight(u2, s2, k % T, MODE, ORDER_X)
        weight *= depth_weight(u0, s0, k // (T * T), AXES, MODE, ORDER_Z)
        key = ((n * sizes[0] + i0) * sizes[1] + i1) * sizes[2] + i2
        key = tl.where(inside & (weight != 0), key, elements)
        tl.store(keys_ptr + q * TAPS + k, key, mask=q < places)
        tl.store(weights_ptr + q * TAPS + k, weight, mask=q < places)


@triton.jit
def _first_not_below(keys_ptr, order_ptr, count, wanted, steps, mask):
    """The first position in the order whose key is at least ``wanted``."""
    low = wanted * 0
    high = low + count
    for _ in range(steps):
        middle = (low + high) // 2
        open_ = mask & (low < high)
        entry = tl.load(order_ptr + middle, mask=open_, other=0)
        below = open_ & (tl.load(keys_ptr + entry, mask=open_, other=0) < wanted)
        low = tl.where(below, middle + 1, low)
        high = tl.where(open_ & (below == 0), middle, high)
    return low


@triton.jit
def _grid_gather_kernel(
    out_ptr,
    g_ptr,
    keys_ptr,
    weights_ptr,
    order_ptr,
    elements,
    channels,
    count,
    steps,
    sizes,
    out_sizes,
    out_strides,
    g_strides,
    TAPS: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    low = _first_not_below(keys_ptr, order_ptr, count, p, steps, p < elements)
    high = _first_not_below(keys_ptr, order_ptr, count, p + 1, steps, p < elements)
    longest = tl.max(high - low, axis=0)
    total = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for j in range(longest):
        has = low + j < high
        entry = tl.load(order_ptr + low + j, mask=has, other=0)
        weight = tl.load(weights_ptr + entry, mask=has, other=0)
        q = entry // TAPS
        n, o0, o1, o2 = position(q, out_sizes)
        at = pixel(n, o0, o1, o2, g_strides)
        mask = has[:, None] & (c < channels)[None, :]
        g = tl.load(g_ptr + at[:, None] + (c * g_strides[1])[None, :], mask=mask, other=0).to(COMPUTE)
        total += weight[:, None] * g
    n, i0, i1, i2 = position(p, sizes)
    at = pixel(n, i0, i1, i2, out_strides)
    mask = (p < elements)[:, None] & (c < channels)[None, :]
    tl.store(out_ptr + at[:, None] + (c * out_strides[1])[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


_LINE = Config({"BLOCK": 256})
grid_gather_configs = Configs("_grid_gather_kernel", SHIPPED, choose, interpreter)
grid_taps_configs = Configs(
    "_grid_taps_kernel", (_LINE,), lambda places: _LINE, lambda places: Config({"BLOCK": block(places)})
)
