"""Convolutions and transposed convolutions over one to three dimensions."""

from __future__ import annotations

import math
import operator
from typing import Any

import tinyflow
from tinyflow.nn import functional as F
from tinyflow.nn import init
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.tensor import Tensor

Sizes = int | tuple[int, ...]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _each(layer: str, name: str, value: Any, ndim: int) -> tuple[int, ...]:
    """A setting for every spatial dimension; an integer stands for all of them."""
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,) * ndim
    if len(given) != ndim or not all(hasattr(n, "__index__") for n in given):
        numbers = "one integer" if ndim == 1 else f"an integer or {ndim} integers"
        raise TypeError(f"{layer}: expected {name} to be {numbers}, got {value!r}")
    return tuple(operator.index(n) for n in given)


def _channels_innermost(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of (K, C, *kernel) that lies in memory as K, kernel, C; of three kernel sizes the first lies next to C."""
    channels = shape[1]
    order = shape[2:] if len(shape) < 5 else (shape[3], shape[4], shape[2])
    steps = [channels * math.prod(order[k + 1 :]) for k in range(len(order))]
    if len(shape) == 5:
        steps = [steps[2], steps[0], steps[1]]
    return (channels * math.prod(order), 1, *steps)


class _Convolution(Module):
    """What all convolutions hold: settings, a weight, and maybe a bias."""

    ndim: int
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Sizes | str,
        dilation: Sizes,
        output_padding: Sizes,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        self._check(in_channels, out_channels, groups, padding, stride, padding_mode)
        self.in_channels = in_channels
        self.out_channels = out_channels
        layer = type(self).__name__
        self.kernel_size = _each(layer, "kernel_size", kernel_size, self.ndim)
        self.stride = _each(layer, "stride", stride, self.ndim)
        self.padding: Any = padding if isinstance(padding, str) else _each(layer, "padding", padding, self.ndim)
        self.dilation = _each(layer, "dilation", dilation, self.ndim)
        self.output_padding = _each(layer, "output_padding", output_padding, self.ndim)
        self.groups = groups
        self.padding_mode = padding_mode
        outer, inner = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (outer, inner // groups, *self.kernel_size)
        memory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = Parameter(tinyflow.empty_strided(shape, _channels_innermost(shape), **memory))
        self.register_parameter("bias", Parameter(tinyflow.empty((out_channels,), **memory)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws W and b anew from U(−1/√fan_in, 1/√fan_in)."""
        init.reset_weight_and_bias(self.weight, self.bias)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if isinstance(self.padding, str) or any(self.padding):
            text += f", padding={self.padding}"
        if any(d != 1 for d in self.dilation):
            text += f", dilation={self.dilation}"
        if any(self.output_padding):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        text += ", bias=False" if self.bias is None else ""
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"

    def _check(
        self, in_channels: int, out_channels: int, groups: int, padding: Any, stride: Any, padding_mode: str
    ) -> None:
        name = type(self).__name__
        if groups <= 0:
            raise ValueError(f"{name}: groups must be a positive integer, got {groups}")
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: in_channels and out_channels must be divisible by groups={groups}, "
                f"got {in_channels} and {out_channels}"
            )
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"{name}: expected padding 'same', 'valid' or numbers, got {padding!r}")
        if padding == "same" and any(s != 1 for s in _each(name, "stride", stride, self.ndim)):
            raise ValueError(f"{name}: padding='same' is not supported for strided convolutions, got stride={stride}")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(
                f"{name}: padding_mode must be 'zeros', 'reflect', 'replicate' or 'circular', got {padding_mode!r}"
            )
        if self.transposed and padding_mode != "zeros":
            raise ValueError(f"{name}: only 'zeros' padding mode is supported, got {padding_mode!r}")

    def _padded(self, x: Tensor) -> tuple[Tensor, Any]:
        """The input, padded where the mode is not zeros, and the zeros that are still to come."""
        if self.padding_mode == "zeros":
            return x, self.padding
        sides: list[int] = []
        for axis in reversed(range(self.ndim)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                sides += [total // 2, total - total // 2]
            else:
                sides += [0 if isinstance(self.padding, str) else self.padding[axis]] * 2
        return F.pad(x, sides, mode=self.padding_mode), 0

    def _spread(self, x: Tensor, output_size: Any) -> tuple[int, ...]:
        """The output padding that gives ``output_size``, the sizes of a transposed convolution's result."""
        if output_size is None:
            return self.output_padding
        wanted = tuple(output_size)
        lead = x.dim() - self.ndim
        if len(wanted) == x.dim():
            wanted = wanted[lead:]
        if len(wanted) != self.ndim:
            raise ValueError(
                f"{type(self).__name__}: expected output_size of {self.ndim} or {x.dim()} elements, got {tuple(output_size)}"
            )
        found = []
        for axis, size in enumerate(wanted):
            least = (x.shape[lead + axis] - 1) * self.stride[axis] - 2 * self._side(axis)
            least += self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            if not least <= size <= least + self.stride[axis] - 1:
                raise ValueError(
                    f"{type(self).__name__}: requested an output size of {wanted}, but dimension {axis} of an input of "
                    f"{tuple(x.shape)} can become {least} to {least + self.stride[axis] - 1}"
                )
            found.append(size - least)
        return tuple(found)

    def _side(self, axis: int) -> int:
        return 0 if isinstance(self.padding, str) else self.padding[axis]


class _Forward(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )


class _Transposed(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        if isinstance(padding, str):
            raise TypeError(f"{type(self).__name__}: expected padding as numbers, got {padding!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )


class Conv1d(_Forward):
    """y[n, k] = b[k] + Σ_c W[k, c] ⋆ x[n, c], the cross-correlation over one spatial dimension.

    x has shape (N, C, L) or (C, L), the weight (K, C / groups, S). Settings and errors are those of :class:`Conv2d`.
    """

    ndim = 1

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        return F.conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Forward):
    """y[n, k] = b[k] + Σ_c W[k, c] ⋆ x[n, c], the cross-correlation over two spatial dimensions.

    x has shape (N, C, H, W) or (C, H, W). The weight has shape (K, C / groups, R, S) and lies in memory as K, R, S, C.

    Args:
        in_channels: C.
        out_channels: K.
        kernel_size: R and S.
        stride, dilation: step between outputs, and between a filter's taps.
        padding: elements around x, or ``"valid"`` (none) or ``"same"`` (an output as large as x; stride 1 only).
        groups: output channels of group g see input channels of group g only.
        bias: whether there is b.
        padding_mode: what is around x: ``"zeros"``, or as :func:`~tinyflow.nn.functional.pad` has it ``"reflect"``,
            ``"replicate"`` or ``"circular"``.

    Raises:
        ValueError: for settings that contradict each other.
    """

    ndim = 2

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv3d(_Forward):
    """y[n, k] = b[k] + Σ_c W[k, c] ⋆ x[n, c], the cross-correlation over three spatial dimensions.

    x has shape (N, C, D, H, W) or (C, D, H, W). The weight has shape (K, C / groups, T, R, S) and lies in memory as
    K, R, S, T, C. Settings and errors are those of :class:`Conv2d`.
    """

    ndim = 3

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        return F.conv3d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class ConvTranspose1d(_Transposed):
    """The input gradient of a :class:`Conv1d` as a layer: x (N, C, L) or (C, L), weight (C, K / groups, S).

    Settings and errors are those of :class:`ConvTranspose2d`.
    """

    ndim = 1

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        extra = self._spread(input, output_size)
        return F.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class ConvTranspose2d(_Transposed):
    """The input gradient of a :class:`Conv2d` as a layer.

    x has shape (N, C, H, W) or (C, H, W), the weight (C, K / groups, R, S).

    Args:
        in_channels: C.
        out_channels: K.
        kernel_size: R and S.
        stride, dilation: step between the windows that inputs are spread over, and between a filter's taps.
        padding: rows and columns cut off each side of the result.
        output_padding: rows and columns more at the end of the result. ``output_size=`` of a call says it otherwise.
        groups: output channels of group g see input channels of group g only.
        bias: whether there is b.
        padding_mode: ``"zeros"``.

    Raises:
        ValueError: for settings that contradict each other, or an ``output_size`` that cannot be had.
    """

    ndim = 2

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        extra = self._spread(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class ConvTranspose3d(_Transposed):
    """The input gradient of a :class:`Conv3d` as a layer.

    x has shape (N, C, D, H, W) or (C, D, H, W), the weight (C, K / groups, T, R, S). Settings
    and errors are those of :class:`ConvTranspose2d`.
    """

    ndim = 3

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        extra = self._spread(input, output_size)
        return F.conv_transpose3d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
