"""Convolutions."""

from __future__ import annotations

from typing import Any

import tinyflow
from tinyflow.nn import functional as F
from tinyflow.nn import init
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.tensor import Tensor


def pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """A setting for both spatial dimensions; an integer stands for twice itself."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def channels_last_strides(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The strides of (K, C, R, S) that lies in memory as K, R, S, C."""
    _, c, r, s = shape
    return r * s * c, 1, s * c, c


class Conv2d(Module):
    """y[n, k] = b[k] + Σ_c W[k, c] ⋆ x[n, c], the cross-correlation over two spatial dimensions.

    x has shape (N, C, H, W) or (C, H, W). The weight has shape (K, C / groups, R, S) and lies in memory as K, R, S, C.

    Args:
        in_channels: C.
        out_channels: K.
        kernel_size: R and S.
        stride, dilation: step between outputs, and between a filter's taps.
        padding: zeros around x, or ``"valid"`` (none) or ``"same"`` (an output as large as x; stride 1 only).
        groups: output channels of group g see input channels of group g only.
        bias: whether there is b.
        padding_mode: ``"zeros"``.

    Raises:
        ValueError: for settings that contradict each other.
        NotImplementedError: for another padding mode.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(in_channels, out_channels, groups, padding, stride, padding_mode)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size)
        self.stride = pair(stride)
        self.padding = padding if isinstance(padding, str) else pair(padding)
        self.dilation = pair(dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        memory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = Parameter(tinyflow.empty_strided(shape, channels_last_strides(shape), **memory))
        self.register_parameter("bias", Parameter(tinyflow.empty((out_channels,), **memory)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws W and b anew from U(−1/√fan_in, 1/√fan_in)."""
        init.reset_weight_and_bias(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if isinstance(self.padding, str) or any(self.padding):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text + (", bias=False" if self.bias is None else "")


def _check(in_channels: int, out_channels: int, groups: int, padding: Any, stride: Any, padding_mode: str) -> None:
    if groups <= 0:
        raise ValueError(f"Conv2d: groups must be a positive integer, got {groups}")
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"Conv2d: in_channels and out_channels must be divisible by groups={groups}, "
            f"got {in_channels} and {out_channels}"
        )
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise ValueError(f"Conv2d: expected padding 'same', 'valid' or numbers, got {padding!r}")
    if padding == "same" and any(s != 1 for s in pair(stride)):
        raise ValueError(f"Conv2d: padding='same' is not supported for strided convolutions, got stride={stride}")
    if padding_mode in ("reflect", "replicate", "circular"):
        raise NotImplementedError(
            f"Conv2d: padding_mode={padding_mode!r} is not implemented; pad the input before the layer"
        )
    if padding_mode != "zeros":
        raise ValueError(
            f"Conv2d: padding_mode must be 'zeros', 'reflect', 'replicate' or 'circular', got {padding_mode!r}"
        )
