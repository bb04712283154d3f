"""Maxima over windows at random places (Graham 2014, Fractional max-pooling), made of gathering and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyflow.kernels import memory
from tinyflow.ops import creation, random
from tinyflow.ops.pooling import max_pool2d
from tinyflow.ops.pooling_nd import each, max_pool3d
from tinyflow.ops.scatter import gather
from tinyflow.ops.shape import cat
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__: list[str] = []
FUNCTIONAL = ["fractional_max_pool2d", "fractional_max_pool3d"]

Ints = int | Sequence[int]


def _starts(sample: Tensor, size: int, kernel: int, out: int) -> Tensor:
    """The first element of each window, (N, C, out): ⌊(i + u)·α⌋ − ⌊u·α⌋, the last window at the end."""
    u = sample.reshape(*sample.shape, 1)
    last = Tensor._full((*sample.shape, 1), size - kernel, memory.int64, sample.device)
    if out == 1:
        return last
    alpha = (size - kernel) / (out - 1)
    i = creation.arange(out - 1, dtype=sample.dtype, device=sample.device)
    return cat([((i + u) * alpha).trunc().to(memory.int64) - (u * alpha).trunc().to(memory.int64), last], 2)


def _out_sizes(op: str, spatial: Sequence[int], output_size: Any, output_ratio: Any) -> tuple[int, ...]:
    if (output_size is None) == (output_ratio is None):
        raise ValueError(f"{op}: expected either output_size or output_ratio, got {output_size} and {output_ratio}")
    if output_size is not None:
        return each(op, "output_size", output_size, len(spatial))
    ratios = (output_ratio,) * len(spatial) if isinstance(output_ratio, (int, float)) else tuple(output_ratio)
    if len(ratios) != len(spatial) or not all(0 < r < 1 for r in ratios):
        raise ValueError(f"{op}: expected output_ratio between 0 and 1 for each dimension, got {output_ratio}")
    return tuple(int(n * r) for n, r in zip(spatial, ratios))


def _fractional(
    op: str,
    ndim: int,
    input: Tensor,
    kernel_size: Ints,
    output_size: Any,
    output_ratio: Any,
    return_indices: bool,
    samples: Tensor | None,
) -> Any:
    if input.dim() not in (ndim + 1, ndim + 2):
        raise RuntimeError(f"{op}: expected input of {ndim + 1} or {ndim + 2} dimensions, got {tuple(input.shape)}")
    x = input if input.dim() == ndim + 2 else input.reshape(1, *input.shape)
    n, c, *spatial = x.shape
    kernel = each(op, "kernel_size", kernel_size, ndim)
    out = _out_sizes(op, spatial, output_size, output_ratio)
    if any(o < 1 or o + k - 1 > size for o, k, size in zip(out, kernel, spatial)):
        raise RuntimeError(
            f"{op}: kernel_size {kernel} and output_size {out} do not fit the input {tuple(input.shape)}"
        )
    if samples is None:
        samples = random.rand(n, c, ndim, dtype=x.dtype, device=x.device)
    elif tuple(samples.shape) != (n, c, ndim):
        raise RuntimeError(f"{op}: expected _random_samples of shape {(n, c, ndim)}, got {tuple(samples.shape)}")
    places = []
    for axis, (size, k, o) in enumerate(zip(spatial, kernel, out)):
        column = 1 - axis if ndim == 2 else axis  # torch's order of an image's samples is width, height
        first = _starts(samples[:, :, column], size, k, o)
        steps = creation.arange(k, dtype=memory.int64, device=x.device)
        place = (first.reshape(n, c, o, 1) + steps).reshape(n, c, o * k)
        places.append(place)
        shape = [n, c, *x.shape[2:]]
        shape[2 + axis] = o * k
        along = [o * k if a == axis else 1 for a in range(ndim)]
        x = gather(x, 2 + axis, place.reshape(n, c, *along).expand(shape))
    pool: Any = max_pool2d if ndim == 2 else max_pool3d
    lead = tuple(input.shape[:-ndim])
    if not return_indices:
        return pool(x, kernel, kernel).reshape(*lead, *out)
    y, inside = pool(x, kernel, kernel, return_indices=True)
    inside = inside.reshape(n, c, math.prod(out))
    position: Any = 0
    step = 1
    for axis in reversed(range(ndim)):
        length = out[axis] * kernel[axis]
        position = gather(places[axis], 2, inside % length) * step + position
        inside, step = inside // length, step * spatial[axis]
    return y.reshape(*lead, *out), position.reshape(*lead, *out)


def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """The maximum of each of ``output_size`` windows of (N, C, H, W) or (C, H, W) at random, nearly even places.

    Args:
        input: floating point.
        kernel_size: of a window.
        output_size, output_ratio: how many windows, or what part of the input's size; one of the two.
        return_indices: return the positions of the maxima too.
        _random_samples: (N, C, 2), values in [0, 1), to draw none.

    Raises:
        ValueError: unless one of ``output_size`` and ``output_ratio`` is given, the latter between 0 and 1.
        RuntimeError: for shapes that do not fit.
    """
    args = input, kernel_size, output_size, output_ratio, return_indices, _random_samples
    return _fractional("fractional_max_pool2d", 2, *args)


def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """:func:`fractional_max_pool2d` over (N, C, D, H, W) or (C, D, H, W)."""
    args = input, kernel_size, output_size, output_ratio, return_indices, _random_samples
    return _fractional("fractional_max_pool3d", 3, *args)
