"""Tiles of (pixels, channels), channels innermost: where they lie in memory, how large they are, and launches over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton

from tinyflow.kernels import memory, strides
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def pixel(p, height, width):
    """Image, row and column of flat pixels."""
    return p // (height * width), (p // width) % height, p % width


@triton.jit
def tile_at(n, h, w, c, steps):
    """Offsets of (pixels, channels)."""
    return (n * steps[0] + h * steps[2] + w * steps[3])[:, None] + (c * steps[1])[None, :]


_DEEP = Config({"BLOCK_P": 32, "BLOCK_C": 64})
_FEW_CHANNELS = Config({"BLOCK_P": 128, "BLOCK_C": 16})
_SHIPPED = (_DEEP, _FEW_CHANNELS)


def _choose(pixels: int, channels: int) -> Config:
    return _DEEP if channels > 16 else _FEW_CHANNELS


def _interpreter(pixels: int, channels: int) -> Config:
    block_c = block(channels)
    return Config({"BLOCK_P": block(pixels, MAX_BLOCK // block_c), "BLOCK_C": block_c})


def tiles_of(kernel: str) -> Configs:
    """The tiles of a kernel of that name, over (pixels, channels) of what it writes."""
    return Configs(kernel, _SHIPPED, _choose, _interpreter)


def _batched(x: Buffer) -> Buffer:
    if x.dim() == 4:
        return x
    return memory.as_strided(x, (1, *x.shape), (0, *x.stride()))


def empty_image(shape: Sequence[int], dtype: memory.dtype, device: memory.device) -> Buffer:
    """A new image, channels-last where it has four dimensions."""
    layout = strides.channels_last_strides(shape) if len(shape) == 4 else None
    return memory.empty(shape, dtype, device, layout)


def launch_over_pixels(
    kernel: Any,
    configs: Configs,
    out: Buffer,
    others: Sequence[Buffer | None],
    sizes: Sequence[int],
    cost: Cost,
    extra: Sequence[Any] = (),
    phases: tuple[int, int] | None = None,
    **constexprs: Any,
) -> None:
    """Launches over pixels and channels of ``out``; the kernel takes pointers, sizes, then the pointers' strides.

    With ``phases``, over the pixels of every so many rows and columns at a time.
    """
    if out.numel() == 0:
        return
    channels, height, width = out.shape[-3:]
    pixels = out.numel() // channels
    if phases is not None:
        pixels = pixels // (height * width) * cdiv(height, phases[0]) * cdiv(width, phases[1])
        constexprs |= {"PHASES_H": phases[0], "PHASES_W": phases[1]}
    views = [None if v is None else _batched(v) for v in (out, *others)]
    config = configs(out.dtype, pixels=pixels, channels=channels)
    launch(
        kernel,
        (
            cdiv(pixels, config.blocks["BLOCK_P"]),
            cdiv(channels, config.blocks["BLOCK_C"]),
            1 if phases is None else phases[0] * phases[1],
        ),
        *views,
        pixels,
        channels,
        *sizes,
        *extra,
        *[None if v is None else tuple(v.stride()) for v in views],
        config=config,
        cost=cost,
        device=out.device,
        INDEX=offset_dtype(*views),
        **constexprs,
    )
