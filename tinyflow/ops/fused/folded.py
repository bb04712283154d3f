"""Inference: batch normalisation in the convolution's weights, residual and ReLU in its epilogue; none has a gradient."""

from __future__ import annotations

from tinyflow.kernels import fused, memory, strides
from tinyflow.kernels.fused import convolution, head
from tinyflow.kernels.fused.convolution import Biased, Window
from tinyflow.kernels.fused.normalise import RELU
from tinyflow.kernels.memory import Buffer, dtype
from tinyflow.ops.define import unwrap, wrap
from tinyflow.tensor import Tensor


class Folded:
    """A convolution's weight and bias with a batch normalisation in them, made anew when what they come from changes."""

    def __init__(self) -> None:
        self._made_from: list[tuple[Buffer, int, tuple[int, int] | None] | None] = []
        self._how: tuple[float, dtype | None] = (0.0, None)
        self._folded: tuple[Buffer, Buffer] | None = None

    def get(self, sources: tuple[Tensor | None, ...], eps: float, dtype: dtype | None = None) -> tuple[Buffer, Buffer]:
        """The folded weight and bias of conv weight and bias, running mean and variance, weight and bias.

        The weight is rounded to ``dtype``; default: its own.
        """
        now = [None if t is None else (t._data, t._version, memory.stamp(t._data)) for t in sources]
        fresh = self._folded is not None and self._how == (eps, dtype) and len(now) == len(self._made_from)
        for a, b in zip(now, self._made_from):
            fresh = fresh and (a is b is None or (a is not None and b is not None and a[0] is b[0] and a[1:] == b[1:]))
            fresh = fresh and (a is None or a[2] is not None)  # else memory that was handed out
        if not fresh or self._folded is None:
            weight, conv_bias, mean, var, gamma, beta = (unwrap(t) for t in sources)
            self._folded = fused.fold_batch_norm(weight, conv_bias, mean, var, gamma, beta, eps, dtype)
            self._made_from, self._how = now, (eps, dtype)
        return self._folded


def conv_act(
    x: Tensor,
    folded: tuple[Buffer, Buffer],
    window: Window = Window(),
    residual: Tensor | None = None,
    act: str = RELU,
) -> Tensor:
    """``act(conv2d(x, weight) + bias + residual)`` with what :class:`Folded` made; it has no gradient."""
    return wrap(convolution.conv2d_bias_act(x._data, *folded, window, unwrap(residual), act))


def conv_joined(
    x: Tensor,
    folded: tuple[Buffer, Buffer],
    window: Window,
    x_short: Tensor,
    folded_short: tuple[Buffer, Buffer],
    window_short: Window,
) -> Tensor:
    """``relu(conv2d(x, weight) + bias + conv2d(x_short, weight_short) + bias_short)`` likewise."""
    main, short = Biased(x._data, *folded, window), Biased(x_short._data, *folded_short, window_short)
    return wrap(convolution.conv2d_joined_bias_relu(main, short))


def conv_relu_pool(x: Tensor, folded: tuple[Buffer, Buffer], window: Window = Window()) -> Tensor:
    """``max_pool2d(relu(conv2d(x, weight) + bias), 3, stride=2, padding=1)`` likewise."""
    return wrap(convolution.conv2d_bias_relu_pool(x._data, *folded, window))


def few_means(x: Tensor) -> bool:
    """True for images (N, C, H, W) so few that :func:`mean_linear` is the faster way: in one launch, with no copy before."""
    images, _, height, width = x.shape
    return head.fits_mean_linear(images, height * width) and strides.is_channels_last(x._data)


def mean_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``linear(adaptive_avg_pool2d(x, 1).flatten(1), weight, bias)`` in one launch; it has no gradient."""
    return wrap(head.mean_linear(x._data, weight._data, unwrap(bias)))
