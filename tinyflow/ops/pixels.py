"""Channels and pixels exchanged: each is one permutation, written once, in the memory order of its input."""

from __future__ import annotations

import math

from tinyflow.kernels import memory
from tinyflow.ops import shape
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["channel_shuffle", "pixel_shuffle", "pixel_unshuffle"]


def _image(op: str, input: Tensor, name: str, factor: int) -> tuple[tuple[int, ...], int, int, int]:
    """The leading dimensions as they are, and (C, H, W).

    Raises:
        RuntimeError: for less than three dimensions, or a factor below 1.
    """
    if input.dim() < 3:
        raise RuntimeError(
            f"{op} expects input to have at least 3 dimensions, but got input with {input.dim()} dimension(s)"
        )
    if factor <= 0:
        raise RuntimeError(f"{op} expects a positive {name}, but got {factor}")
    *lead, c, h, w = input.shape
    return tuple(lead), c, h, w


def _merged(
    apart: Tensor, order: tuple[int, ...], last: bool, lead: tuple[int, ...], chw: tuple[int, int, int]
) -> Tensor:
    """Six dimensions (N, …) in an order that reads as (N, C, H, W), or as (N, H, W, C) where ``last``, shaped so."""
    c, h, w = chw
    n = math.prod(lead)
    y = shape.permute(apart, order)
    if last:
        return shape.permute(shape.reshape(y, n, h, w, c), 0, 3, 1, 2)
    return shape.reshape(y, *lead, c, h, w)


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(…, C · r², H, W) to (…, C, H · r, W · r): ``out[c, h·r + i, w·r + j] = x[(c·r + i)·r + j, h, w]``.

    Raises:
        RuntimeError: if the channels are not divisible by r².
    """
    r = upscale_factor
    lead, c, h, w = _image("pixel_shuffle", input, "upscale_factor", r)
    if c % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, but "
            f"input.size(-3)={c} is not divisible by {r * r}"
        )
    last = _lies_channels_last(input)
    apart = shape.reshape(input, math.prod(lead), c // (r * r), r, r, h, w)
    return _merged(apart, (0, 4, 2, 5, 3, 1) if last else (0, 1, 4, 2, 5, 3), last, lead, (c // (r * r), h * r, w * r))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """The inverse of :func:`pixel_shuffle`: (…, C, H · r, W · r) to (…, C · r², H, W).

    Raises:
        RuntimeError: if height or width is not divisible by r.
    """
    r = downscale_factor
    lead, c, h, w = _image("pixel_unshuffle", input, "downscale_factor", r)
    for name, dim, n in (("height", -2, h), ("width", -1, w)):
        if n % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but input.size({dim})={n} is not "
                f"divisible by {r}"
            )
    last = _lies_channels_last(input)
    apart = shape.reshape(input, math.prod(lead), c, h // r, r, w // r, r)
    return _merged(apart, (0, 2, 4, 1, 3, 5) if last else (0, 1, 3, 5, 2, 4), last, lead, (c * r * r, h // r, w // r))


def _lies_channels_last(input: Tensor) -> bool:
    return input.dim() == 4 and input.is_contiguous(memory.channels_last) and not input.is_contiguous()


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels (dimension 1) of ``groups`` groups interleaved: ``out[:, k·groups + g] = x[:, g·(C / groups) + k]``.

    Raises:
        RuntimeError: for less than three dimensions, or channels that ``groups`` does not divide.
    """
    if input.dim() < 3:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(input.shape)}")
    n, c, *rest = input.shape
    if groups <= 0:
        raise RuntimeError(
            f"channel_shuffle: Number of groups to divide channels in must be positive. Value of groups:{groups}"
        )
    if c % groups:
        raise RuntimeError(
            f"channel_shuffle: Number of channels must be divisible by groups. Got {c} channels and {groups} groups."
        )
    if _lies_channels_last(input):
        apart = shape.reshape(shape.permute(input, 0, 2, 3, 1), n, *rest, groups, c // groups)
        return shape.permute(shape.reshape(shape.transpose(apart, 3, 4), n, *rest, c), 0, 3, 1, 2)
    apart = shape.reshape(input, n, groups, c // groups, *rest)
    return shape.reshape(shape.transpose(apart, 1, 2), n, c, *rest)
