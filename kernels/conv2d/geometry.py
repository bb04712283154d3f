"""Sizes of a 2-d convolution, checked: what its forward, input gradient and weight gradient agree on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinyflow.kernels import strides
from tinyflow.kernels.launch import nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.strides import Shape

Pair = tuple[int, int]
IntPair = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[Sequence[int]]


def pair(op: str, name: str, value: IntPair, least: int) -> Pair:
    """``value`` for (height, width).

    Raises:
        TypeError: if it is neither an integer nor two of them.
        RuntimeError: if one is less than ``least``.
    """
    values = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise TypeError(f"{op}: expected {name} to be an integer or a pair of integers, got {value!r}")
    if min(values) < least:
        raise RuntimeError(f"{op}: expected {name} of at least {least}, got {value!r}")
    return values


def sides(op: str, value: Padding) -> tuple[Pair, Pair]:
    """Padding as ((top, bottom), (left, right)) from an integer, a pair, or those four."""
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, Sequence) for v in value):
        return pair(op, "padding", value[0], 0), pair(op, "padding", value[1], 0)
    height, width = pair(op, "padding", value, 0)  # type: ignore[arg-type]
    return (height, height), (width, width)


def same_padding(op: str, kernel: Sequence[int], stride: IntPair, dilation: IntPair) -> tuple[Pair, Pair]:
    """The padding that keeps the size of the input; the odd pixel goes to the bottom and to the right, as in torch.

    Raises:
        RuntimeError: for a stride other than 1.
    """
    if pair(op, "stride", stride, 1) != (1, 1):
        raise RuntimeError(f"{op}: padding='same' needs stride 1, got {stride!r}")
    totals = [d * (n - 1) for d, n in zip(pair(op, "dilation", dilation, 1), kernel)]
    return (totals[0] // 2, totals[0] - totals[0] // 2), (totals[1] // 2, totals[1] - totals[1] // 2)


@dataclass(frozen=True)
class Geometry:
    """A convolution of x (N, C, H, W) with weight (K, C / groups, R, S) to y (N, K, P, Q)."""

    x_shape: Shape
    weight_shape: Shape
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int

    @functools.cached_property
    def kernel(self) -> Pair:
        return self.weight_shape[2], self.weight_shape[3]

    @functools.cached_property
    def start(self) -> Pair:
        """The input row and column of the first tap at the first output pixel."""
        return -self.padding[0][0], -self.padding[1][0]

    @functools.cached_property
    def out_shape(self) -> Shape:
        sizes = []
        for axis in range(2):
            padded = self.x_shape[2 + axis] + sum(self.padding[axis])
            sizes.append((padded - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1)
        return self.x_shape[0], self.weight_shape[0], sizes[0], sizes[1]

    @functools.cached_property
    def flops(self) -> int:
        """A multiplication and an addition for every tap of every output, those on the padding included."""
        return 2 * strides.numel(self.out_shape) * strides.numel(self.weight_shape[1:])

    def flattened(self) -> Geometry:
        """A 1×1 convolution without stride or padding, with the pixels of all images in one row of one image."""
        n, c, h, w = self.x_shape
        return replace(self, x_shape=(1, c, 1, n * h * w))

    def bytes_read(self, x: Buffer) -> int:
        """Bytes of the pixels of x that a window reaches: a stride wider than the kernel passes some by."""
        sides = zip(self.x_shape[2:], self.out_shape[2:], self.kernel, self.stride, self.start, self.dilation)
        rows, columns = (_positions(*side) for side in sides)
        return nbytes(x) * rows * columns // max(self.x_shape[2] * self.x_shape[3], 1)


@functools.lru_cache(maxsize=1024)
def _positions(size: int, out: int, kernel: int, stride: int, start: int, dilation: int) -> int:
    """How many of ``size`` rows (or columns) the windows of ``out`` outputs read."""
    read = {start + p * stride + r * dilation for p in range(out) for r in range(kernel)}
    return sum(0 <= row < size for row in read)


def resolve(
    op: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: IntPair,
    padding: Padding,
    dilation: IntPair,
    groups: int,
) -> Geometry:
    """The checked sizes of a convolution.

    Raises:
        TypeError: if stride, padding or dilation are not integers or pairs.
        RuntimeError: on shapes that do not fit, with the sizes that do.
    """
    return _resolve(
        op, tuple(x_shape), tuple(weight_shape), _frozen(stride), _frozen(padding), _frozen(dilation), groups
    )


def _frozen(value: Any) -> Any:
    return tuple([_frozen(v) for v in value]) if isinstance(value, (list, tuple)) else value


@functools.lru_cache(maxsize=1024, typed=True)
def _resolve(
    op: str, x: Shape, weight: Shape, stride: IntPair, padding: Padding, dilation: IntPair, groups: int
) -> Geometry:
    if len(x) != 4 or len(weight) != 4:
        raise RuntimeError(f"{op}: expected x (N, C, H, W) and weight (K, C / groups, R, S), got {x} and {weight}")
    if groups < 1:
        raise RuntimeError(f"{op}: expected groups of at least 1, got {groups}")
    if x[1] != weight[1] * groups:
        raise RuntimeError(
            f"{op}: weight {weight} expects {weight[1] * groups} input channels with groups={groups}, "
            f"got {x[1]} from x {x}"
        )
    if weight[0] % groups:
        raise RuntimeError(f"{op}: expected output channels divisible by groups={groups}, got weight {weight}")
    found = Geometry(
        x, weight, pair(op, "stride", stride, 1), sides(op, padding), pair(op, "dilation", dilation, 1), groups
    )
    spans = [d * (n - 1) + 1 for d, n in zip(found.dilation, found.kernel)]
    padded = [n + sum(p) for n, p in zip(x[2:], found.padding)]
    if min(found.kernel) < 1 or any(s > n for s, n in zip(spans, padded)):
        raise RuntimeError(
            f"{op}: expected a kernel that fits the padded input {tuple(padded)}, got {found.kernel} "
            f"with dilation {found.dilation} from weight {weight}"
        )
    return found


def check_grad(op: str, grad_shape: Sequence[int], found: Geometry) -> None:
    """Raises RuntimeError unless a gradient of the output has the output's shape."""
    if tuple(grad_shape) != found.out_shape:
        raise RuntimeError(
            f"{op}: expected grad of shape {found.out_shape} for x {found.x_shape} and weight {found.weight_shape}, "
            f"got {tuple(grad_shape)}"
        )
