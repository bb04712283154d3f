"""What the launchers share: checks, the result's memory, and the walk through pixels."""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import walk
from tinyflow.kernels.elementwise import contiguous
from tinyflow.kernels.memory import Buffer


def check_input(op: str, x: Buffer, training: bool) -> tuple[int, int]:
    """Pixels and channels of ``x``."""
    if x.dim() < 2:
        raise ValueError(f"{op}: expected x of shape (N, C, ...), got {tuple(x.shape)}")
    channels = x.shape[1]
    pixels = strides.numel(_without_channels(x.shape))
    if training and pixels == 1:
        raise ValueError(f"{op}: Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    return pixels, channels


def check_parameters(op: str, x: Buffer, **parameters: Buffer | None) -> None:
    allowed = (x.dtype, dtypes.accumulate_dtype(x.dtype))
    for name, value in parameters.items():
        if value is None:
            continue
        if tuple(value.shape) != (x.shape[1],):
            raise RuntimeError(
                f"{op}: expected {name} of shape ({x.shape[1]},) for x of shape {tuple(x.shape)}, "
                f"got {tuple(value.shape)}"
            )
        if value.dtype not in allowed:
            expected = " or ".join(dict.fromkeys(str(d) for d in allowed))
            raise RuntimeError(f"{op}: expected {name} of dtype {expected} for x of {x.dtype}, got {value.dtype}")


def check_count(op: str, num_batches: Buffer | None) -> None:
    if num_batches is not None and (num_batches.dtype != memory.int64 or num_batches.numel() != 1):
        found = f"{num_batches.dtype} of shape {tuple(num_batches.shape)}"
        raise RuntimeError(f"{op}: expected num_batches of one torch.int64, got {found}")


def empty_like(x: Buffer) -> Buffer:
    """New memory for a result like ``x``, channels-last for 4-d."""
    layout = strides.channels_last_strides(x.shape) if x.dim() == 4 else strides.like(x)
    return memory.empty(x.shape, x.dtype, x.device, layout)


def dense(value: Buffer | None) -> Buffer | None:
    """A vector of channels that steps by one."""
    return None if value is None else contiguous(value)


def walk_pixels(*images: Buffer) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Sizes and strides of each of ``images``, which have one shape, through all dimensions but the channels."""
    return walk(_without_channels(images[0].shape), *(_without_channels(image.stride()) for image in images))


def _without_channels(sequence: Sequence[int]) -> tuple[int, ...]:
    return (sequence[0], *sequence[2:])
