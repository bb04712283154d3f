"""Sampling at given places. Three operations, with an order of derivation for each axis, whose gradients are each other.

With S(x) the samples, T(g) their transpose and G(g, x) = Σ_c g · ∂S(x): S's gradients are T and G, T's are S and G, and
those of G are S, T and G of one order more along each axis in turn, until the weights' derivatives vanish.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tinyflow.autocast_mode import WIDEST_ON_GPU
from tinyflow.kernels import grid_sample as kernels
from tinyflow.ops.creation import linspace
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__: list[str] = []
FUNCTIONAL = ["affine_grid", "grid_sample"]

Orders = Sequence[int]

#: Images in half precision meet grids in float32.
_WIDEST = WIDEST_ON_GPU._replace(gpu_only=False)


def _raised(orders: Orders, axes: int, mode: str) -> Iterator[tuple[int, Orders]]:
    """Every coordinate, with the orders of one derivation more by it, where that does not vanish."""
    for j in range(axes):
        raised = tuple(order + (k == j) for k, order in enumerate(orders))
        if not kernels.vanishes(mode, raised):
            yield j, raised


def _for_grid(
    g: Tensor, x: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool, orders: Orders
) -> Any:
    if not any(_raised(orders, grid.shape[-1], mode)):
        return Tensor._zeros(tuple(grid.shape), grid.dtype, grid.device)
    return _grid_grad(g, x, grid, mode, padding_mode, align_corners, orders)


def _total(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    if not terms:
        return Tensor._zeros(tuple(like.shape), like.dtype, like.device)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _part(v: Tensor, j: int) -> Tensor:
    """Coordinate j of a cotangent of the grid, with a dimension for channels."""
    return v[..., j].unsqueeze(1)


_grid_sample: Op = define(
    kernels.grid_sample,
    autocast=_WIDEST,
    x=lambda g, grid, x_shape, mode, padding_mode, align_corners, orders: _input_grad(
        g, grid, x_shape, mode, padding_mode, align_corners, orders
    ),
    grid=lambda g, x, grid, mode, padding_mode, align_corners, orders: _for_grid(
        g, x, grid, mode, padding_mode, align_corners, orders
    ),
)

_input_grad: Op = define(
    kernels.grid_sample_input_grad,
    grad=lambda g, grid, mode, padding_mode, align_corners, orders: _grid_sample(
        g, grid, mode, padding_mode, align_corners, orders
    ),
    grid=lambda g, grad, grid, mode, padding_mode, align_corners, orders: _for_grid(
        grad, g, grid, mode, padding_mode, align_corners, orders
    ),
)

_grid_grad: Op = define(
    kernels.grid_sample_grid_grad,
    grad=lambda g, grad, x, grid, mode, padding_mode, align_corners, orders: _total(
        [
            _part(g, j) * _grid_sample(x, grid, mode, padding_mode, align_corners, raised)
            for j, raised in _raised(orders, grid.shape[-1], mode)
        ],
        grad,
    ),
    x=lambda g, grad, x, grid, mode, padding_mode, align_corners, orders: _total(
        [
            _input_grad(_part(g, j) * grad, grid, tuple(x.shape), mode, padding_mode, align_corners, raised)
            for j, raised in _raised(orders, grid.shape[-1], mode)
        ],
        x,
    ),
    grid=lambda g, grad, x, grid, mode, padding_mode, align_corners, orders: _total(
        [
            g[..., j : j + 1] * _for_grid(grad, x, grid, mode, padding_mode, align_corners, raised)
            for j, raised in _raised(orders, grid.shape[-1], mode)
        ],
        grid,
    ),
)


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """``input`` at the places that ``grid`` says: differentiable in both, any number of times.

    Args:
        input: (N, C, H, W) or (N, C, D, H, W).
        grid: (N, P, Q, 2) or (N, O, P, Q, 3), of the same dtype; coordinates by width, height and depth, −1 and 1 the edges.
        mode: ``"bilinear"`` (trilinear for volumes), ``"nearest"``, or for images ``"bicubic"``.
        padding_mode: what is outside: ``"zeros"``, the nearest of the ``"border"``, or a ``"reflection"``.
        align_corners: −1 and 1 are the centres of the corner elements; by default they are the outer edges.

    Returns (N, C, P, Q) or (N, C, O, P, Q).

    Raises:
        ValueError: for an unknown mode.
        RuntimeError: for shapes, dtypes or devices that do not fit.
    """
    return _grid_sample(input, grid, mode, padding_mode, bool(align_corners))


def _coordinates(n: int, align_corners: bool | None, like: Tensor) -> Tensor:
    """The centres of n even parts of [−1, 1], or n places from −1 to 1; one place alone is in the middle."""
    edge = 0.0 if n == 1 else 1.0 if align_corners else (n - 1) / n
    return linspace(-edge, edge, n, dtype=like.dtype, device=like.device)


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The grid for :func:`grid_sample` that maps an output of ``size`` by affine maps.

    Args:
        theta: (N, 2, 3) for images, (N, 3, 4) for volumes, floating point.
        size: (N, C, H, W) or (N, C, D, H, W).
        align_corners: as in :func:`grid_sample`.

    Returns (N, H, W, 2) or (N, D, H, W, 3): ``theta`` times each place of the output and 1.

    Raises:
        ValueError: for a dtype that is not floating point, or shapes that do not fit.
    """
    if not theta.dtype.is_floating_point:
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    axes = len(size) - 2
    if axes not in (2, 3) or tuple(theta.shape) != (size[0], axes, axes + 1):
        raise ValueError(
            "affine_grid: expected theta (N, 2, 3) with size (N, C, H, W), or theta (N, 3, 4) with size (N, C, D, H, W), "
            f"got theta {tuple(theta.shape)} and size {tuple(size)}"
        )
    if min(size[1:]) < 1:
        raise ValueError(f"affine_grid: expected non-zero, positive output size, got {tuple(size)}")
    ones = (1,) * axes
    grid = theta[:, :, axes].reshape(size[0], *ones, axes)
    for j in range(axes):  # the grid's last coordinate is by the first axis
        along = [1] * (axes + 2)
        along[axes - j] = size[-1 - j]
        column = theta[:, :, j].reshape(size[0], *ones, axes)
        grid = _coordinates(size[-1 - j], align_corners, theta).reshape(along) * column + grid
    return grid
