"""What the launchers of sampling share: checks, sizes, strides, the constants of their kernels, and their tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.launch import MAX_BLOCK, Config, block
from tinyflow.kernels.memory import Buffer

MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
PADDING_MODES = {"zeros": 0, "border": 1, "reflection": 2}

#: Elements along one axis around a place, and from which order on the derivatives of their weights vanish.
_AXIS_TAPS = {"bilinear": 2, "nearest": 1, "bicubic": 4}
_VANISHING_ORDER = {"bilinear": 2, "nearest": 1, "bicubic": 4}


def _tile(places: int, channels: int) -> Config:
    return Config({"BLOCK_P": places, "BLOCK_C": channels})


#: Tiles for many channels, few, and fewer. A place has addresses and weights for each of its elements, which is why there
#: are fewer places where there are more than four, or where they are in float64.
_TILES = _tile(32, 64), _tile(128, 16), _tile(256, 4)
_COSTLY_TILES = _tile(8, 64), _tile(32, 16), _tile(64, 4)
SHIPPED = _TILES + _COSTLY_TILES


def choose(places: int, channels: int, costly: bool) -> Config:
    """The tile for so many places, or elements, and channels."""
    deep, shallow, few_channels = _COSTLY_TILES if costly else _TILES
    return deep if channels > 16 else shallow if channels > 4 else few_channels


def is_costly(settings: Mapping[str, Any]) -> bool:
    """Whether a place has so much to keep, by the kernels' constants, that a program has fewer of them."""
    return settings["TAPS"] > 4 or settings["COMPUTE"] is tl.float64


def interpreter(places: int, channels: int, costly: bool) -> Config:
    """One tile as large as the problem, where that may be."""
    block_c = block(channels)
    return Config({"BLOCK_P": block(places, MAX_BLOCK // block_c), "BLOCK_C": block_c})


def vanishes(mode: str, orders: Sequence[int]) -> bool:
    """True if weights derived so often, by x, y and z, are zero everywhere."""
    return max(orders) >= _VANISHING_ORDER[mode]


def image_strides(x: Buffer) -> tuple[int, ...]:
    st = tuple(x.stride())
    return st if x.dim() == 5 else (*st[:2], 0, *st[2:])


def grid_strides(grid: Buffer) -> tuple[int, ...]:
    st = tuple(grid.stride())
    return st if grid.dim() == 5 else (st[0], 0, *st[1:])


def volume(shape: Sequence[int]) -> tuple[int, ...]:
    """Depth, height and width of three or two sizes."""
    return (1,) * (3 - len(shape)) + tuple(shape)


def check(op: str, x_shape: Sequence[int], grid: Buffer, mode: str, padding_mode: str) -> None:
    axes = len(x_shape) - 2
    if mode not in MODES or padding_mode not in PADDING_MODES:
        raise ValueError(
            f"{op}: expected mode 'bilinear', 'nearest' or 'bicubic' and padding_mode 'zeros', 'border' or 'reflection', "
            f"got {mode!r} and {padding_mode!r}"
        )
    if axes not in (2, 3) or grid.dim() != axes + 2 or grid.shape[0] != x_shape[0] or grid.shape[-1] != axes:
        raise RuntimeError(
            f"{op}: expected x (N, C, H, W) with grid (N, P, Q, 2), or x (N, C, D, H, W) with grid (N, O, P, Q, 3), "
            f"got x {tuple(x_shape)} and grid {tuple(grid.shape)}"
        )
    if 0 in x_shape[2:]:
        raise RuntimeError(f"{op}: expected x to have non-empty spatial dimensions, got {tuple(x_shape)}")
    if mode == "bicubic" and axes == 3:
        raise RuntimeError(f"{op}: bicubic interpolation only supports 4D input, got x {tuple(x_shape)}")


def check_grad(op: str, g: Buffer, x_shape: Sequence[int], grid: Buffer) -> None:
    expected = (*x_shape[:2], *grid.shape[1:-1])
    if tuple(g.shape) != expected:
        raise RuntimeError(f"{op}: expected grad of shape {expected}, got {tuple(g.shape)}")


def constants(
    x_shape: Sequence[int],
    dtype: memory.dtype,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    orders: Sequence[int],
) -> dict[str, Any]:
    axes, taps = len(x_shape) - 2, _AXIS_TAPS[mode]
    return {
        "AXES": axes,
        "T": taps,
        "TAPS": taps**axes,
        "MODE": MODES[mode],
        "PADDING": PADDING_MODES[padding_mode],
        "ALIGN": align_corners,
        "ORDER_X": orders[0],
        "ORDER_Y": orders[1],
        "ORDER_Z": orders[2],
        "COMPUTE": tl.float64 if dtype == memory.float64 else tl.float32,
    }
