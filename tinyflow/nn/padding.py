"""Padding of the last one, two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.nn import functional as F
from tinyflow.nn.module import Module
from tinyflow.operands import guarded
from tinyflow.tensor import Tensor


def _widths(padding: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One width for every side, or (left, right) of the last dimension, then of the one before, and so on."""
    return (padding,) * (2 * dims) if isinstance(padding, int) else tuple(padding)


class _ConstantPad(Module):
    dims: int

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__()
        self.padding = _widths(padding, self.dims)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """``value`` before and after the last dimension."""

    dims = 1


class ConstantPad2d(_ConstantPad):
    """``value`` around the last two dimensions."""

    dims = 2


class ConstantPad3d(_ConstantPad):
    """``value`` around the last three dimensions."""

    dims = 3


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad1d(_ZeroPad):
    """Zeros before and after the last dimension."""

    dims = 1


class ZeroPad2d(_ZeroPad):
    """Zeros around the last two dimensions."""

    dims = 2


class ZeroPad3d(_ZeroPad):
    """Zeros around the last three dimensions."""

    dims = 3


class _BorderPad(Module):
    dims: int
    mode: str

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = _widths(padding, self.dims)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ReflectionPad(_BorderPad):
    mode = "reflect"


class ReflectionPad1d(_ReflectionPad):
    """Mirror images before and after the last dimension of (N, C, W) or (C, W); the edge is not repeated."""

    dims = 1


class ReflectionPad2d(_ReflectionPad):
    """Mirror images around the last two dimensions of (N, C, H, W) or (C, H, W); the edge is not repeated."""

    dims = 2


class ReflectionPad3d(_ReflectionPad):
    """Mirror images around the last three dimensions of (N, C, D, H, W) or (C, D, H, W); the edge is not repeated."""

    dims = 3


class _ReplicationPad(_BorderPad):
    mode = "replicate"


class ReplicationPad1d(_ReplicationPad):
    """The nearest element before and after the last dimension of (N, C, W) or (C, W)."""

    dims = 1


class ReplicationPad2d(_ReplicationPad):
    """The nearest element around the last two dimensions of (N, C, H, W) or (C, H, W)."""

    dims = 2


class ReplicationPad3d(_ReplicationPad):
    """The nearest element around the last three dimensions of (N, C, D, H, W) or (C, D, H, W)."""

    dims = 3


class _CircularPad(_BorderPad):
    mode = "circular"

    @guarded
    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (self.dims + 1, self.dims + 2):
            raise ValueError(f"expected {self.dims + 1}D or {self.dims + 2}D input (got {input.dim()}D input)")
        return super().forward(input)


class CircularPad1d(_CircularPad):
    """The tensor again before and after the last dimension of (N, C, W) or (C, W)."""

    dims = 1


class CircularPad2d(_CircularPad):
    """The tensor again around the last two dimensions of (N, C, H, W) or (C, H, W)."""

    dims = 2


class CircularPad3d(_CircularPad):
    """The tensor again around the last three dimensions of (N, C, D, H, W) or (C, D, H, W)."""

    dims = 3
