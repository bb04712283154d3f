"""What the operations share on the way back: deliveries, and the convolution's two gradients."""

from __future__ import annotations

from typing import Any

from tinyflow.autograd.walks import is_watched
from tinyflow.kernels import conv2d, memory
from tinyflow.kernels.fused import convolution
from tinyflow.kernels.fused.convolution import Below, Window
from tinyflow.kernels.fused.normalise import RELU, Sums
from tinyflow.kernels.memory import Buffer
from tinyflow.ops.batch_norm import batch_norm_grad
from tinyflow.ops.conv2d import conv2d_input_grad, conv2d_weight_grad, convolve2d
from tinyflow.ops.define import OpNode, wrap
from tinyflow.ops.fused.batch import Batch
from tinyflow.tensor import Tensor


class Delivery:
    """What an upper operation's backward pass leaves for a lower one's."""

    def __init__(self) -> None:
        self._grad: Tensor | None = None
        self._version = 0
        self._sums: Sums | None = None

    def put(self, grad: Tensor, sums: Sums) -> None:
        self._grad, self._version, self._sums = grad, grad._version, sums

    def take(self, grad: Tensor) -> Sums | None:
        """The sums, if ``grad`` is what was delivered."""
        delivered, sums = self._grad, self._sums
        unchanged = delivered is grad and grad._version == self._version
        self._grad = self._sums = None
        return sums if unchanged else None


def composed(
    h: Any, x: Any, conv_weight: Any, weight: Any, mean: Any, invstd: Any, batch: Batch, dtype: memory.dtype | None
) -> tuple[Any, Any, Any, Any]:
    """Gradients of x, conv_weight (in ``dtype``), weight and bias in operations that differentiate, for h past the mask."""
    window, training, _, eps = batch
    z = convolve2d(x, conv_weight, None, *window)
    grad_z, grad_weight, grad_bias = batch_norm_grad(h, z, weight, mean, invstd, training, eps)
    grad_x = conv2d_input_grad(grad_z, conv_weight, tuple(x.shape), *window)
    grad_conv = conv2d_weight_grad(grad_z, x, tuple(conv_weight.shape), *window, dtype=dtype)
    return grad_x, grad_conv, grad_weight, grad_bias


def _producer(x: Tensor) -> OpNode | None:
    """The recorded operation whose ReLU made ``x``, where a delivery to it goes unseen."""
    edge = x._edge()
    if edge is None or edge.position != 0 or not isinstance(edge.node, OpNode):
        return None
    node = edge.node
    if node.saved is None or node.saved.get("act") != RELU or not isinstance(node.saved.get("delivery"), Delivery):
        return None
    return None if is_watched(node) else node


def _below(x: Tensor, producer: OpNode) -> Below:
    assert producer.saved is not None
    through_relu = "winners" if "winners" in producer.saved else "z"  # of a map behind a pooling, what it let through
    z, mean, invstd = (producer.saved[name].unpack(producer)._data for name in (through_relu, "mean", "invstd"))
    weight = producer.saved["weight"]
    n, _, height, width = producer.outputs[producer.op.outputs.index("z")].shape
    given = None if weight is None else weight.unpack(producer)._data
    return Below(x._data, z, mean, invstd, given, n * height * width)


def input_gradient(
    grad_z: Buffer | None, x: Tensor, conv_weight: Tensor, window: Window, other: Tensor | None = None
) -> Tensor:
    """The gradient of x, with ``other`` added; what made x gets its delivery."""
    assert grad_z is not None
    producer = _producer(x)
    g, sums = convolution.conv2d_input_grad_below(
        grad_z,
        conv_weight._data,
        tuple(x.shape),
        window,
        None if other is None else other._data,
        None if producer is None else _below(x, producer),
    )
    grad_x = wrap(g)
    if producer is not None and producer.saved is not None and sums is not None:
        producer.saved["delivery"].put(grad_x, sums)
    return grad_x


def weight_gradient(
    grad_z: Buffer | None, x: Tensor, conv_weight: Tensor, window: Window, dtype: memory.dtype | None
) -> Tensor:
    assert grad_z is not None
    return wrap(conv2d.conv2d_weight_grad(grad_z, x._data, tuple(conv_weight.shape), *window, dtype=dtype))
