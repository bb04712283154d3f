"""What the passes over rows share: checks, the walk through memory, tiles, weight and bias of a tile."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, strides
from tinyflow.kernels.addressing import walk
from tinyflow.kernels.launch import Config
from tinyflow.kernels.memory import Buffer


@triton.jit
def affine_tile(ptr, row_at, column_at, mask, default, PER_ROW: tl.constexpr, COMPUTE: tl.constexpr):
    """Weight or bias of a tile; one line of it where all rows share it."""
    if ptr is None:
        values = tl.full([1, 1], default, COMPUTE)
    else:
        if PER_ROW:
            values = tl.load(ptr + row_at[:, None] + column_at[None, :], mask=mask, other=0).to(COMPUTE)
        else:
            exists = tl.max(mask.to(tl.int32), axis=0) != 0
            values = tl.load(ptr + column_at, mask=exists, other=0).to(COMPUTE)[None, :]
    return values


#: Tiles of rows by growing width; rows beyond the last loop over tiles of it.
TILES = (
    Config({"BLOCK_R": 64, "BLOCK_N": 32}),
    Config({"BLOCK_R": 16, "BLOCK_N": 128}),
    Config({"BLOCK_R": 4, "BLOCK_N": 1024}),
    Config({"BLOCK_R": 1, "BLOCK_N": 4096}, num_warps=8),
    Config({"BLOCK_R": 1, "BLOCK_N": 8192}, num_warps=16),
)

#: The same for float64, of whose widest rows a program holds less.
TILES_OF_FLOAT64 = (*TILES[:4], Config({"BLOCK_R": 1, "BLOCK_N": 4096}, num_warps=16))


def choose_rows(rows: int, columns: int, across: bool) -> Config:
    """The narrowest tile that holds a row; where memory runs ``across`` rows, the one with the most rows."""
    if across:
        return TILES[0]
    return next((config for config in TILES if config.blocks["BLOCK_N"] >= columns), TILES[-1])


def check(op: str, x: Buffer, weight: Buffer | None, bias: Buffer | None, lead: int) -> None:
    dtypes.check_floating(op, x=x)
    if not 0 <= lead <= x.dim():
        raise ValueError(f"{op}: expected lead between 0 and {x.dim()} for x of shape {tuple(x.shape)}, got {lead}")
    allowed = (x.dtype, dtypes.accumulate_dtype(x.dtype))
    for name, value in (("weight", weight), ("bias", bias)):
        if value is None:
            continue
        if value.dim() != x.dim() or any(n not in (1, m) for n, m in zip(value.shape, x.shape)):
            raise RuntimeError(
                f"{op}: expected {name} that broadcasts to x of shape {tuple(x.shape)}, got {tuple(value.shape)}"
            )
        if value.dtype not in allowed:
            expected = " or ".join(dict.fromkeys(str(d) for d in allowed))
            raise RuntimeError(f"{op}: expected {name} of dtype {expected} for x of {x.dtype}, got {value.dtype}")
    if weight is not None and bias is not None and weight.shape != bias.shape:
        raise RuntimeError(
            f"{op}: expected weight and bias of one shape, got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )


def affine_strides(x: Buffer, parameter: Buffer | None) -> tuple[int, ...]:
    return (0,) * x.dim() if parameter is None else strides.broadcast_strides(parameter, x.shape)


def walks(
    x: Buffer, lead: int, statistic_shape: Sequence[int], *views: Sequence[int]
) -> tuple[tuple[int, ...], list[tuple[int, ...]], tuple[int, ...], list[tuple[int, ...]]]:
    """Row sizes and strides of every view and of the statistics, then column sizes and strides of every view."""
    statistic_strides = strides.contiguous_strides(statistic_shape)
    row_sizes, rows = walk(x.shape[:lead], *(v[:lead] for v in views), statistic_strides)
    column_sizes, columns = walk(x.shape[lead:], *(v[lead:] for v in views))
    return row_sizes, list(rows), column_sizes, list(columns)


def is_across(x: Buffer, lead: int) -> bool:
    """True if neighbours in memory belong to different rows."""
    steps = [st for n, st in zip(x.shape[lead:], x.stride()[lead:]) if n > 1]
    return min(steps, default=1) > 1
