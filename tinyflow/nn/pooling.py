"""Pooling over windows of one to three dimensions, and the way back from maxima.

``input`` has shape (N, C, L), (N, C, H, W) or (N, C, D, H, W), or lacks N. A setting is an integer, or one for each
dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tinyflow.nn import functional as F
from tinyflow.nn.module import Module
from tinyflow.tensor import Tensor

Size = int | tuple[int, ...]
OutputSize = int | tuple[int | None, ...] | None


def _tuple(value: Any, ndim: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * ndim


class _Pool(Module):
    """A layer that gives its input and its settings to ``_pool``."""

    _pool: ClassVar[Callable[..., Any]]

    def _arguments(self) -> tuple[Any, ...]:
        """The settings, in the order in which ``_pool`` takes them."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Any:
        return self._pool(input, *self._arguments())


class _Windowed(Module):
    """A layer with windows; where it says its ``ndim`` their settings become tuples, as in torch's layer of the name."""

    ndim: int | None = None

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.kernel_size = self._setting(kernel_size)
        self.stride = self._setting(kernel_size if stride is None else stride)
        self.padding = self._setting(padding)

    def _setting(self, value: Size) -> Any:
        return value if self.ndim is None else _tuple(value, self.ndim)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _MaxPool(_Windowed, _Pool):
    """The largest value of each window.

    Args:
        kernel_size, stride, dilation: size of a window, step between windows (its size by default), step inside one.
        padding: −∞ around x, at most half a window.
        return_indices: return the positions of the largest values too.
        ceil_mode: also a window that starts inside x and ends outside.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def _arguments(self) -> tuple[Any, ...]:
        windows = self.kernel_size, self.stride, self.padding, self.dilation
        return (*windows, self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dilation={self.dilation}, ceil_mode={self.ceil_mode}"


class MaxPool1d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    _pool = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    _pool = staticmethod(F.max_pool2d)


class MaxPool3d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    _pool = staticmethod(F.max_pool3d)


class _MaxUnpool(_Windowed):
    """Largest values back at their indices, zeros elsewhere.

    A call takes them, the indices that the pooling returned, and maybe ``output_size``, the size of what was pooled.

    Args:
        kernel_size, stride, padding: those of the pooling.
    """

    _unpool: ClassVar[Callable[..., Tensor]]

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return self._unpool(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool1d(_MaxUnpool):
    __doc__ = _MaxUnpool.__doc__
    ndim = 1
    _unpool = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    __doc__ = _MaxUnpool.__doc__
    ndim = 2
    _unpool = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    __doc__ = _MaxUnpool.__doc__
    ndim = 3
    _unpool = staticmethod(F.max_unpool3d)


class AvgPool1d(_Windowed, _Pool):
    """The mean of each window; settings are those of :class:`AvgPool2d`, without ``divisor_override``."""

    ndim = 1
    _pool = staticmethod(F.avg_pool1d)

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def _arguments(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad


class _AvgPool(_Windowed, _Pool):
    """The mean of each window.

    Args:
        kernel_size, stride: size of a window, step between windows (its size by default).
        padding: zeros around x, at most half a window.
        ceil_mode: also a window that starts inside x and ends outside.
        count_include_pad: whether the padding counts in the mean.
        divisor_override: divide by this and not by the number of values.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def _arguments(self) -> tuple[Any, ...]:
        windows = self.kernel_size, self.stride, self.padding
        return (*windows, self.ceil_mode, self.count_include_pad, self.divisor_override)


class AvgPool2d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    _pool = staticmethod(F.avg_pool2d)


class AvgPool3d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    _pool = staticmethod(F.avg_pool3d)


class _Adaptive(_Pool):
    """A layer whose result has ``output_size``, however large its input."""

    def __init__(self, output_size: OutputSize) -> None:
        super().__init__()
        self.output_size = output_size

    def _arguments(self) -> tuple[Any, ...]:
        return (self.output_size,)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _AdaptiveAvgPool(_Adaptive):
    """Means of windows so laid out that the result has ``output_size``: an integer, or one for each dimension.

    None keeps a dimension's size.
    """


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    _pool = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    _pool = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    _pool = staticmethod(F.adaptive_avg_pool3d)


class _AdaptiveMaxPool(_Adaptive):
    """Maxima of windows so laid out that the result has ``output_size``: an integer, or one for each dimension.

    None keeps a dimension's size. With ``return_indices`` the positions of the maxima come too.
    """

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def _arguments(self) -> tuple[Any, ...]:
        return self.output_size, self.return_indices


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    _pool = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    _pool = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    _pool = staticmethod(F.adaptive_max_pool3d)


class _LPPool(_Pool):
    """(Σ x^p)^(1/p) over each window.

    Args:
        norm_type: p.
        kernel_size, stride: size of a window, step between windows (its size by default).
        ceil_mode: also a window that starts inside x and ends outside.
    """

    def __init__(
        self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def _arguments(self) -> tuple[Any, ...]:
        return float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    __doc__ = _LPPool.__doc__
    _pool = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPool):
    __doc__ = _LPPool.__doc__
    _pool = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPool):
    __doc__ = _LPPool.__doc__
    _pool = staticmethod(F.lp_pool3d)


class _FractionalMaxPool(_Pool):
    """Maxima over windows at random, nearly even places; drawn anew at each call, in evaluation too.

    Args:
        kernel_size: size of a window.
        output_size, output_ratio: how many windows, or what part of the input's size; one of the two.
        return_indices: return the positions of the maxima too.

    Raises:
        ValueError: unless one of ``output_size`` and ``output_ratio`` is given, the latter between 0 and 1.
    """

    ndim: int

    def __init__(
        self,
        kernel_size: Size,
        output_size: Size | None = None,
        output_ratio: float | tuple[float, ...] | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        super().__init__()
        if (output_size is None) == (output_ratio is None):
            raise ValueError(
                f"{type(self).__name__}: expected either output_size or output_ratio, got {output_size} and {output_ratio}"
            )
        self.kernel_size = _tuple(kernel_size, self.ndim)
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else _tuple(output_size, self.ndim)
        self.output_ratio = None if output_ratio is None else _tuple(output_ratio, self.ndim)
        if self.output_ratio is not None and not all(0 < r < 1 for r in self.output_ratio):
            raise ValueError(f"{type(self).__name__}: output_ratio must be between 0 and 1, got {output_ratio}")

    def _arguments(self) -> tuple[Any, ...]:
        windows = self.kernel_size, self.output_size, self.output_ratio
        return (*windows, self.return_indices, self._random_samples)


class FractionalMaxPool2d(_FractionalMaxPool):
    __doc__ = _FractionalMaxPool.__doc__
    ndim = 2
    _pool = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPool):
    __doc__ = _FractionalMaxPool.__doc__
    ndim = 3
    _pool = staticmethod(F.fractional_max_pool3d)
