"""What the passes over images share: activations, checks, tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.launch import Config, check_same_device
from tinyflow.kernels.memory import Buffer

RELU, NO_ACT = "relu", "none"

#: Mean, invstd, weight and bias of a normalisation, (C,) each; weight and bias may be None.
Norm = tuple[Buffer, Buffer, "Buffer | None", "Buffer | None"]


@triton.jit
def relu(z):
    return tl.where(z < 0, 0.0, z)  # a NaN passes, as in torch


_NARROW = Config({"BLOCK_P": 64, "BLOCK_C": 64})
_WIDE = Config({"BLOCK_P": 32, "BLOCK_C": 128})

TILES = (_NARROW, _WIDE)

#: The same for float64, where a kernel keeps several such tiles.
TILES_OF_FLOAT64 = Config({"BLOCK_P": 16, "BLOCK_C": 64}), Config({"BLOCK_P": 8, "BLOCK_C": 128})


def choose_tile(pixels: int, channels: int) -> Config:
    return _WIDE if channels > 64 else _NARROW


def has_relu(op: str, act: str) -> bool:
    if act not in (RELU, NO_ACT):
        raise ValueError(f"{op}: expected act 'relu' or 'none', got {act!r}")
    return act == RELU


def check_images(op: str, x: Buffer, *like_x: Buffer | None, **channels: Buffer | None) -> tuple[int, int]:
    """Pixels and channels of ``x``, once shapes, dtypes and devices are found to fit.

    Raises:
        ValueError, RuntimeError, TypeError: where they do not.
    """
    if x.dim() != 4:
        raise ValueError(f"{op}: expected x of shape (N, C, H, W), got {tuple(x.shape)}")
    dtypes.check_floating(op, x=x)
    given = {name: v for name, v in channels.items() if v is not None}
    for other in like_x:
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype):
            raise RuntimeError(
                f"{op}: expected {tuple(x.shape)} {x.dtype} as x, got {tuple(other.shape)} {other.dtype}"
            )
    for name, value in given.items():
        if tuple(value.shape) != (x.shape[1],):
            raise RuntimeError(f"{op}: expected {name} of shape ({x.shape[1]},), got {tuple(value.shape)}")
    check_same_device(op, x=x, **given, **{f"operand {k}": v for k, v in enumerate(like_x)})
    return x.shape[0] * x.shape[2] * x.shape[3], x.shape[1]


def image(shape: tuple[int, ...] | memory.Size, like: Buffer) -> Buffer:
    """New channels-last memory of ``like``'s dtype."""
    return strides.empty_channels_last(shape, like.dtype, like.device)
