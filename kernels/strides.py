"""Shape and stride arithmetic on the host: broadcasting, and the fewest loops that walk several views at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinyflow.kernels import memory
from tinyflow.kernels.memory import Buffer

Shape = tuple[int, ...]


def broadcast_shapes(op: str, *shapes: Sequence[int]) -> Shape:
    """The common shape of several operands.

    Raises:
        RuntimeError: naming the shapes, if a dimension differs and none of its sizes is 1.
    """
    result: list[int] = []
    for k in range(1, max(map(len, shapes), default=0) + 1):
        sizes = {s[-k] for s in shapes if len(s) >= k} - {1}
        if len(sizes) > 1:
            listed = " and ".join(str(tuple(s)) for s in shapes)
            raise RuntimeError(f"{op}: shapes {listed} do not broadcast: dimension -{k} has sizes {sorted(sizes)}")
        result.insert(0, sizes.pop() if sizes else 1)
    return tuple(result)


def broadcast_strides(x: Buffer, shape: Sequence[int]) -> Shape:
    """The strides by which ``x`` is read as ``shape``: 0 along a dimension that it lacks or has once."""
    return expanded_strides(x.shape, x.stride(), shape)


def expanded_strides(shape: Sequence[int], strides: Sequence[int], target: Sequence[int]) -> Shape:
    """The strides by which memory of ``shape`` and ``strides`` is read as ``target``."""
    return (0,) * (len(target) - len(shape)) + tuple([0 if n == 1 else st for n, st in zip(shape, strides)])


def contiguous_strides(shape: Sequence[int]) -> Shape:
    """Row-major strides."""
    strides: list[int] = []
    step = 1
    for n in reversed(shape):
        strides.insert(0, step)
        step *= max(n, 1)
    return tuple(strides)


def channels_last_strides(shape: Sequence[int]) -> Shape:
    """Strides of a logical (N, C, H, W) whose memory is (N, H, W, C)."""
    _, c, h, w = shape
    return (h * w * c, 1, w * c, c)


def empty_channels_last(shape: Sequence[int], dtype: memory.dtype, device: memory.device) -> Buffer:
    """New memory for a logical (N, C, H, W) that lies as (N, H, W, C)."""
    return memory.empty(shape, dtype, device, channels_last_strides(shape))


def is_channels_last(x: Buffer) -> bool:
    """True if a 4-d buffer lies densely as (N, H, W, C); strides of dimensions of size 1 do not matter."""
    return x.dim() == 4 and all(
        n == 1 or st == expected for n, st, expected in zip(x.shape, x.stride(), channels_last_strides(x.shape))
    )


def is_contiguous(x: Buffer) -> bool:
    """True if a buffer lies densely in row-major order; strides of dimensions of size 1 do not matter."""
    return x.numel() == 0 or all(
        n == 1 or st == e for n, st, e in zip(x.shape, x.stride(), contiguous_strides(x.shape))
    )


def like(x: Buffer, shape: Shape | None = None) -> Shape:
    """Dense strides for ``shape`` (default: that of ``x``) in the order of dimensions in which ``x`` lies."""
    shape = x.shape if shape is None else shape
    if shape == x.shape and memory.is_dense(x):
        return tuple(x.stride())
    order = _memory_order(x)
    strides, step = [0] * len(shape), 1
    for k in reversed(order):
        strides[k] = step
        step *= max(shape[k], 1)
    return tuple(strides)


def _memory_order(x: Buffer) -> list[int]:
    """The dimensions from the largest stride to the smallest; one that has no say (size 1, stride 0) keeps its place."""
    order, steps = list(range(x.dim())), x.stride()
    decides = [k for k in order if x.shape[k] != 1 and steps[k] != 0]
    for place, d in zip(decides, sorted(decides, key=lambda d: (-steps[d], d))):
        order[place] = d
    return order


def coalesce(shape: Sequence[int], *views: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The fewest dimensions that walk all views together.

    Dimensions are ordered by the first view's strides (largest outermost), those of size 1 are dropped, and neighbours
    that every view steps through evenly are merged. Returns the sizes and, for each view, its strides.
    """
    kept = sorted((k for k, n in enumerate(shape) if n != 1), key=lambda k: (-abs(views[0][k]), k))
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in views]
    for k in kept:
        if sizes and all(s[-1] == v[k] * shape[k] for s, v in zip(strides, views)):
            sizes[-1] *= shape[k]
            for s, v in zip(strides, views):
                s[-1] = v[k]
        else:
            sizes.append(shape[k])
            for s, v in zip(strides, views):
                s.append(v[k])
    return sizes, strides


def row_major(shape: Sequence[int], *views: Sequence[int]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The fewest dimensions that walk all views in row-major order: at least one."""
    sizes, (_, *walked) = coalesce(shape, contiguous_strides(shape), *views)
    return tuple(sizes or [1]), [tuple(w or [0]) for w in walked]


def numel(shape: Sequence[int]) -> int:
    return math.prod(shape)
