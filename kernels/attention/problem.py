"""What an attention is asked to do: checked shapes, the walk through memory, and tiles; and how its kernels are launched."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinyflow.kernels import dtypes, hardware, memory, strides
from tinyflow.kernels.addressing import float_bits
from tinyflow.kernels.launch import (
    MAX_BLOCK,
    Config,
    Configs,
    Cost,
    block,
    cdiv,
    check_same_device,
    launch,
    nbytes,
    offset_dtype,
)
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.precision import input_precision, tf32
from tinyflow.kernels.random import Seed

#: Larger heads do not fit a tile.
MAX_HEAD_DIM = 256


@dataclass(frozen=True)
class Problem:
    """Sizes of an attention: query (\\*batch, G, L, E), key (\\*batch, S, E), value (\\*batch, S, V)."""

    batch: tuple[int, ...]
    groups: int
    L: int
    S: int
    E: int
    V: int
    is_causal: bool

    @property
    def heads(self) -> int:
        """Key heads."""
        return strides.numel(self.batch)

    @property
    def score_shape(self) -> tuple[int, ...]:
        return (*self.batch, self.groups, self.L, self.S)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that it may look at, masks aside."""
        pairs = self.L * self.S
        if self.is_causal:
            n = min(self.L, self.S)
            pairs = n * (n + 1) // 2 + (self.L - n) * self.S
        return self.heads * self.groups * pairs

    def blocks(self) -> dict[str, int]:
        """The tiles' sizes along the heads' dimensions."""
        return {"BLOCK_E": max(block(self.E), 16), "BLOCK_V": max(block(self.V), 16)}


def resolve(
    query: Buffer, key: Buffer, value: Buffer, mask: Buffer | None, is_causal: bool, dropout_p: float
) -> Problem:
    """The checked problem.

    Raises:
        TypeError, RuntimeError: if shapes, dtypes or devices do not fit.
        ValueError: if ``dropout_p`` is not a probability.
    """
    op = "attention"
    dtypes.check_floating(op, query=query, key=key, value=value)
    check_same_device(op, query=query, key=key, value=value, mask=mask)
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if query.dim() < 3 or not query.dim() - 1 == key.dim() == value.dim():
        raise RuntimeError(f"{op}: expected (*batch, G, L, E), (*batch, S, E) and (*batch, S, V), got {shapes}")
    batch = tuple(query.shape[:-3])
    if tuple(key.shape[:-2]) != batch or tuple(value.shape[:-2]) != batch:
        raise RuntimeError(f"{op}: expected one batch, got {shapes}")
    if key.shape[-1] != query.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError(f"{op}: expected as many features in key as in query, and as many keys as values: {shapes}")
    if max(query.shape[-1], value.shape[-1]) > MAX_HEAD_DIM:
        raise RuntimeError(f"{op}: expected heads of at most {MAX_HEAD_DIM} features, got {shapes}")
    groups, queries, features = query.shape[-3:]
    problem = Problem(batch, groups, queries, key.shape[-2], features, value.shape[-1], is_causal)
    if mask is not None:
        _check_mask(op, mask, query, problem)
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"{op}: dropout probability has to be between 0 and 1, got {dropout_p}")
    return problem


def _check_mask(op: str, mask: Buffer, query: Buffer, problem: Problem) -> None:
    allowed = (memory.bool_, query.dtype, dtypes.accumulate_dtype(query.dtype))
    if mask.dtype not in allowed:
        raise RuntimeError(
            f"{op}: expected a mask of {' or '.join(map(str, dict.fromkeys(allowed)))}, got {mask.dtype}"
        )
    shape = problem.score_shape
    if strides.broadcast_shapes(op, shape, mask.shape) != shape:
        raise RuntimeError(f"{op}: expected a mask that broadcasts to {shape}, got {tuple(mask.shape)}")


@functools.lru_cache(maxsize=1024)
def walk_batch(shape: tuple[int, ...], *views: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The fewest dimensions, at least one, that walk a batch in row-major order; each view's later strides follow."""
    n = len(shape)
    sizes, (_, *walked) = strides.coalesce(shape, strides.contiguous_strides(shape), *(v[:n] for v in views))
    return tuple(sizes or [1]), tuple([(*(w or [0]), *v[n:]) for w, v in zip(walked, views)])


def view_of(x: Buffer | None, shape: Sequence[int]) -> tuple[int, ...]:
    """The strides by which an operand is read as ``shape``; zeros for one that is not there."""
    return (0,) * len(shape) if x is None else strides.broadcast_strides(x, shape)


def dropout_arguments(dropout_p: float, seed: Seed, offset: int) -> tuple[Any, ...]:
    """The probability's bits, seed, offset, and the memory that holds seed and added offset (or None)."""
    number = 0 if isinstance(seed, Buffer) else _signed(seed)
    return float_bits(dropout_p), number, _signed(offset), seed if isinstance(seed, Buffer) else None


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed integer that a kernel takes."""
    return (value + 2**63) % 2**64 - 2**63


def counters(rows: int, keys: int) -> int:
    """How far dropout on so many rows of probabilities moves a generator's offset."""
    return rows * cdiv(keys, 4)


def arithmetic(query: Buffer) -> dict[str, Any]:
    """The constants that say how products are computed."""
    accumulator = dtypes.accumulate_dtype(query.dtype)
    return {"PRECISION": input_precision(query.dtype, tf32.matmul), "ACC": dtypes.triton_dtype(accumulator)}


def tile(m: int, n: int, warps: int = 4, stages: int = 2) -> Config:
    return Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)


def configured(configs: Configs, query: Buffer, problem: Problem) -> Config:
    """The configuration of a kernel for a problem."""
    features = max(problem.blocks().values())
    return configs(
        query.dtype,
        queries=problem.L,
        keys=problem.S,
        features=features,
        itemsize=query.element_size(),
        lanes=hardware.lanes(query.device),
    )


def of_wavefronts(tiles: Sequence[Config], stages: int) -> tuple[Config, ...]:
    """The same tiles for warps of 64 lanes: more than four of them, or more stages, leave a lane too few registers."""
    return tuple(
        [dataclasses.replace(c, num_warps=min(c.num_warps, 4), num_stages=min(c.num_stages, stages)) for c in tiles]
    )


def whole_tile(queries: int, keys: int, features: int, itemsize: int, lanes: int) -> Config:
    """For the interpreter: all queries and keys of a head, or as many as a block holds."""
    bm, bn = max(block(queries), 16), max(block(keys), 16)
    while bm * bn > MAX_BLOCK or max(bm, bn) * features > MAX_BLOCK:
        bm, bn = (bm // 2, bn) if bm >= bn else (bm, bn // 2)
    return tile(bm, bn)


def launch_walk(
    kernel: Any,
    programs: int,
    config: Config,
    problem: Problem,
    operands: tuple[Buffer | None, ...],
    walked: Sequence[Buffer],
    scale: float,
    dropout: tuple[float, Seed, int],
    flops: int,
) -> None:
    """Launches a kernel that walks over the pairs of queries and keys.

    Args:
        kernel, programs, config: what runs, how often, in which tiles.
        problem: the sizes.
        operands: what the kernel takes first; the last four are query, key, value and mask.
        walked: those of them whose strides it takes, in this order; the mask's are the last.
        scale: of the scores.
        dropout: probability, seed and offset.
        flops: for a pair of query and key.
    """
    query, mask = operands[-4], operands[-1]
    assert query is not None
    views = [x.stride() for x in walked]
    sizes, steps = walk_batch(problem.batch, *views, view_of(mask, problem.score_shape))
    launch(
        kernel,
        (programs,),
        *operands,
        problem.L,
        problem.S,
        problem.E,
        problem.V,
        problem.groups,
        sizes,
        *steps,
        float_bits(scale),
        *dropout_arguments(*dropout),
        config=config,
        cost=Cost(flops * problem.pairs, nbytes(*operands)),
        device=query.device,
        CAUSAL=problem.is_causal,
        DROPOUT=dropout[0] > 0,
        **arithmetic(query),
        INDEX=offset_dtype(*operands),
        DIMS=len(sizes),
        **problem.blocks(),
    )
