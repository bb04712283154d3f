"""Sampling images and volumes at given places, its gradients, and the derivatives of its weights.

A sample is a sum over the elements around a place u, ``y = Σ_i w(u_x − i_x) · w(u_y − i_y) · … · x[i]``. It is linear in x,
and its derivative by the place is the same sum with the derivative of one axis's weights. So every kernel here takes an
*order* for each axis, how often that axis's weights are derived, and derivatives of any degree stay within the three
launchers:

- :func:`grid_sample`, the samples;
- :func:`grid_sample_input_grad`, its transpose. What each place adds is sorted by where it goes, and every element of x sums
  its own in a fixed order: no atomics, and the same bits each time;
- :func:`grid_sample_grid_grad`, all derivatives of ``Σ g · y`` by the places, which share what they read.

A place is given in [−1, 1] from edge to edge (or centre to centre of the corners, ``align_corners``). What padding does to a
place (nothing, clamp, reflect) has slope 1, 0 or −1, which goes into the derivatives; on the very edge it counts as 0, as in
torch. Cubic weights are Keys' (1981) with a = −3/4, and there padding acts on the sixteen elements, not on the place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.grid_sample.geometry import (
    check,
    check_grad,
    constants,
    grid_strides,
    image_strides,
    is_costly,
    volume,
)
from tinyflow.kernels.grid_sample.geometry import vanishes as vanishes
from tinyflow.kernels.grid_sample.samples import (
    _grid_sample_grid_grad_kernel,
    _grid_sample_kernel,
    grid_grad_configs,
    grid_sample_configs,
)
from tinyflow.kernels.grid_sample.transpose import (
    _grid_gather_kernel,
    _grid_taps_kernel,
    grid_gather_configs,
    grid_taps_configs,
)
from tinyflow.kernels.launch import Cost, cdiv, check_same_device, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.sorting import sort_order


def grid_sample(
    x: Buffer,
    grid: Buffer,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    orders: Sequence[int] = (0, 0, 0),
) -> Buffer:
    """``y[n, c, p, q] = Σ_i w(u − i) · x[n, c, i]`` at the place u that ``grid[n, p, q]`` says, (width, height, depth).

    Args:
        x: (N, C, H, W) or (N, C, D, H, W), any strides, floating point.
        grid: (N, P, Q, 2) or (N, O, P, Q, 3), any strides, of the same dtype; −1 and 1 are the edges.
        mode: ``"bilinear"`` (of volumes trilinear), ``"nearest"`` or, of images, ``"bicubic"``.
        padding_mode: what is outside: ``"zeros"``, the nearest of the ``"border"``, or a ``"reflection"``.
        align_corners: −1 and 1 are the centres of the corner elements.
        orders: how often the weights are derived by the grid's first, second and third coordinate.

    Returns (N, C, P, Q) or (N, C, O, P, Q), in the order of dimensions of x. Arithmetic in float32 (float64 for float64).

    Raises:
        TypeError: for a dtype that is not floating point.
        RuntimeError: for shapes, dtypes or devices that do not fit.
        ValueError: for an unknown mode.

    FLOPs: two for every tap (4, 1 or 16; 8 or 1) of an output. Least bytes: ``x``, ``grid`` and the result once.
    """
    check_same_device("grid_sample", x=x, grid=grid)
    dtypes.check_floating("grid_sample", x=x, grid=grid)
    check("grid_sample", x.shape, grid, mode, padding_mode)
    shape = (*x.shape[:2], *grid.shape[1:-1])
    out = memory.empty(shape, x.dtype, x.device, strides.like(x, shape))
    if out.numel() == 0:
        return out
    settings = constants(x.shape, x.dtype, mode, padding_mode, align_corners, orders)
    channels = shape[1]
    places = out.numel() // channels
    config = grid_sample_configs(out.dtype, places=places, channels=channels, costly=is_costly(settings))
    launch(
        _grid_sample_kernel,
        (cdiv(places, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        out,
        x,
        grid,
        places,
        channels,
        volume(x.shape[2:]),
        volume(grid.shape[1:-1]),
        image_strides(out),
        image_strides(x),
        grid_strides(grid),
        config=config,
        cost=Cost(2 * settings["TAPS"] * out.numel(), nbytes(x, grid, out)),
        device=x.device,
        INDEX=offset_dtype(x, grid, out),
        **settings,
    )
    return out


def grid_sample_input_grad(
    grad: Buffer,
    grid: Buffer,
    x_shape: Sequence[int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    orders: Sequence[int] = (0, 0, 0),
) -> Buffer:
    """The gradient of :func:`grid_sample` for ``x``, its transpose: each ``grad`` goes back to the elements that it weighed.

    ``grad`` has the output's shape, any strides; returns ``x_shape`` in ``grad``'s order of dimensions. Deterministic: the
    taps are sorted by element, and each element adds its own in the order of places.

    Raises:
        TypeError, RuntimeError, ValueError: as :func:`grid_sample`.

    FLOPs: two for every tap of an output. Bytes: ``grad`` once for every tap, ``grid`` and the result once, and 16 for each
    pass of the sort for every tap.
    """
    op = "grid_sample_input_grad"
    check_same_device(op, grad=grad, grid=grid)
    dtypes.check_floating(op, grad=grad, grid=grid)
    check(op, x_shape, grid, mode, padding_mode)
    check_grad(op, grad, x_shape, grid)
    shape = tuple(x_shape)
    out = memory.empty(shape, grad.dtype, grad.device, strides.like(grad, shape))
    if out.numel() == 0:
        return out
    settings = constants(shape, grad.dtype, mode, padding_mode, align_corners, orders)
    sizes, out_sizes = volume(shape[2:]), volume(grid.shape[1:-1])
    taps, places, elements = settings["TAPS"], grid.numel() // grid.shape[-1], shape[0] * math.prod(sizes)
    count = places * taps
    keys = memory.empty((count,), memory.int64, grad.device)
    weights = memory.empty((count,), dtypes.accumulate_dtype(grad.dtype), grad.device)
    config = grid_taps_configs(places=places)
    launch(
        _grid_taps_kernel,
        (cdiv(places, config.blocks["BLOCK"]),),
        keys,
        weights,
        grid,
        places,
        elements,
        sizes,
        out_sizes,
        grid_strides(grid),
        config=config,
        cost=Cost(0, nbytes(grid, keys, weights)),
        device=grad.device,
        **settings,
    )
    order = sort_order(keys, elements.bit_length()) if count else keys
    channels = shape[1]
    costly = settings["COMPUTE"] is tl.float64
    config = grid_gather_configs(grad.dtype, places=elements, channels=channels, costly=costly)
    launch(
        _grid_gather_kernel,
        (cdiv(elements, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        out,
        grad,
        keys,
        weights,
        order,
        elements,
        channels,
        count,
        count.bit_length(),
        sizes,
        out_sizes,
        image_strides(out),
        image_strides(grad),
        config=config,
        cost=Cost(2 * taps * grad.numel(), taps * nbytes(grad) + nbytes(weights, order, out)),
        device=grad.device,
        TAPS=taps,
        COMPUTE=settings["COMPUTE"],
    )
    return out


def grid_sample_grid_grad(
    grad: Buffer,
    x: Buffer,
    grid: Buffer,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    orders: Sequence[int] = (0, 0, 0),
) -> Buffer:
    """The gradient of :func:`grid_sample` for ``grid``: ``out[n, p, q, j] = Σ_c grad[n, c, p, q] · ∂y[n, c, p, q] / ∂u_j``.

    ``grad`` has the output's shape, any strides; returns the grid's shape, contiguous.

    Raises:
        TypeError, RuntimeError, ValueError: as :func:`grid_sample`.

    FLOPs: two for every tap of an output, and a few for every place. Least bytes: ``grad``, ``x``, ``grid`` and the result
    once.
    """
    op = "grid_sample_grid_grad"
    check_same_device(op, grad=grad, x=x, grid=grid)
    dtypes.check_floating(op, grad=grad, x=x, grid=grid)
    check(op, x.shape, grid, mode, padding_mode)
    check_grad(op, grad, x.shape, grid)
    out = memory.empty(grid.shape, x.dtype, x.device)
    if out.numel() == 0:
        return out
    settings = constants(x.shape, x.dtype, mode, padding_mode, align_corners, orders)
    places, channels = grid.numel() // grid.shape[-1], x.shape[1]
    # the addresses of sixteen elements fit registers only where few threads of a place repeat them
    together = min(channels, 4) if settings["TAPS"] > 8 else channels
    config = grid_grad_configs(out.dtype, places=places, channels=together, costly=is_costly(settings))
    launch(
        _grid_sample_grid_grad_kernel,
        (cdiv(places, config.blocks["BLOCK_P"]),),
        out,
        grad,
        x,
        grid,
        places,
        channels,
        volume(x.shape[2:]),
        volume(grid.shape[1:-1]),
        image_strides(grad),
        image_strides(x),
        grid_strides(grid),
        config=config,
        cost=Cost(2 * settings["TAPS"] * grad.numel(), nbytes(grad, x, grid, out)),
        device=x.device,
        INDEX=offset_dtype(grad, x, grid),
        **settings,
    )
    return out
