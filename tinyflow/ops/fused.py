"""A convolution, its batch normalisation, a residual and ReLU as one operation; with a max-pooling in a network's stem.

Forward is the convolution with statistics and one pass; back are the passes of ``kernels.fused`` and the convolution's two
gradients. The derivative of these gradients goes through the unfused operations.

Where such operations follow one another, a gradient may arrive at the lower one with its work done: the upper one's
input gradient has passed the lower one's ReLU, and brings the sums of its batch normalisation. Such a gradient is a
*delivery*. It counts only while it is the very tensor, unchanged, that arrives; passing the mask once more changes nothing,
so a sum of several gradients is right too. Nobody may look on: with a hook there, gradients stay as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyflow.autocast_mode import HALF
from tinyflow.autograd.engine import is_watched
from tinyflow.autograd.grad_mode import is_grad_enabled
from tinyflow.kernels import arithmetic, conv2d, dtypes, elementwise, fused, memory
from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.fused import convolution
from tinyflow.kernels.fused.convolution import Below, Biased, Statistics
from tinyflow.kernels.fused.convolution import Window as Window
from tinyflow.kernels.fused.normalise import NO_ACT, RELU
from tinyflow.kernels.memory import Buffer, dtype
from tinyflow.ops.arithmetic import where
from tinyflow.ops.batch_norm import batch_norm_grad
from tinyflow.ops.conv2d import conv2d_input_grad, conv2d_weight_grad, convolve2d
from tinyflow.ops.define import OpNode, define, unwrap, wrap
from tinyflow.ops.pooling import max_pool2d_input_grad
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__: list[str] = []


class Batch(NamedTuple):
    """How a convolution and the batch normalisation behind it are set."""

    window: Window
    training: bool
    momentum: float
    eps: float


def saves_time() -> bool:
    """True where fused operations are the faster ones: on a GPU, be it a planned one."""
    return not interpreting()


class Delivery:
    """What an upper operation's backward pass leaves for a lower one's."""

    def __init__(self) -> None:
        self._grad: Tensor | None = None
        self._version = 0
        self._sums: tuple[Buffer, Buffer] | None = None

    def put(self, grad: Tensor, sums: tuple[Buffer, Buffer]) -> None:
        self._grad, self._version, self._sums = grad, grad._version, sums

    def take(self, grad: Tensor) -> tuple[Buffer, Buffer] | None:
        """grad_weight and grad_bias, if ``grad`` is what was delivered."""
        delivered, sums = self._grad, self._sums
        unchanged = delivered is grad and grad._version == self._version
        self._grad = self._sums = None
        return sums if unchanged else None


def _statistics(
    x: Buffer,
    conv_weight: Buffer,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    batch: Batch,
) -> Statistics:
    """The convolution's result, and the mean and invstd to normalise it by."""
    window, training, momentum, eps = batch
    if training:
        return convolution.conv2d_statistics(x, conv_weight, window, running_mean, running_var, momentum, eps)
    z = conv2d.conv2d(x, conv_weight, None, *window)
    wide = dtypes.accumulate_dtype(z.dtype)
    assert running_mean is not None and running_var is not None
    mean, var = (v if v.dtype == wide else elementwise.copy(v, wide) for v in (running_mean, running_var))
    return Statistics(z, mean, arithmetic.rsqrt(arithmetic.add(var, eps)), None)


def _forward(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    residual: Buffer | None,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    batch: Batch,
    act: str,
    delivery: Delivery,
) -> tuple[Buffer, ...]:
    z, mean, invstd, _ = _statistics(x, conv_weight, running_mean, running_var, batch)
    return fused.normalise_act(z, (mean, invstd, weight, bias), residual, act), z, mean, invstd


def _forward_fork(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    residual: Buffer | None,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    batch: Batch,
    act: str,
    delivery: Delivery,
) -> tuple[Buffer, ...]:
    made = _forward(x, conv_weight, weight, bias, residual, running_mean, running_var, batch, act, delivery)
    return *made, memory.detach(x)


def _forward_joined(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    x_short: Buffer,
    conv_weight_short: Buffer,
    weight_short: Buffer | None,
    bias_short: Buffer | None,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    running_mean_short: Buffer | None,
    running_var_short: Buffer | None,
    batch: Batch,
    batch_short: Batch,
    delivery: Delivery,
    act: str = RELU,
) -> tuple[Buffer, ...]:
    z, mean, invstd, _ = _statistics(x, conv_weight, running_mean, running_var, batch)
    short = _statistics(x_short, conv_weight_short, running_mean_short, running_var_short, batch_short)
    norm_short = (short.mean, short.invstd, weight_short, bias_short)
    y = fused.normalise_act(z, (mean, invstd, weight, bias), short.z, act, norm_short)
    return y, z, mean, invstd, *short[:3]


def _forward_pool(
    x: Buffer,
    conv_weight: Buffer,
    weight: Buffer | None,
    bias: Buffer | None,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    batch: Batch,
) -> tuple[Buffer | None, ...]:
    z, mean, invstd, folded = _statistics(x, conv_weight, running_mean, running_var, batch)
    y, taps = fused.normalise_pool(z, (mean, invstd, weight, bias))
    assert taps is not None
    return y, taps, z, mean, invstd, folded


def _composed(
    h: Any, x: Any, conv_weight: Any, weight: Any, mean: Any, invstd: Any, batch: Batch
) -> tuple[Any, Any, Any, Any]:
    """Gradients of x, conv_weight, weight and bias in operations that differentiate, for ``h`` behind the mask."""
    window, training, _, eps = batch
    z = convolve2d(x, conv_weight, None, *window)
    grad_z, grad_weight, grad_bias = batch_norm_grad(h, z, weight, mean, invstd, training, eps)
    grad_x = conv2d_input_grad(grad_z, conv_weight, tuple(x.shape), *window)
    return grad_x, conv2d_weight_grad(grad_z, x, tuple(conv_weight.shape), *window), grad_weight, grad_bias


def _producer(x: Tensor) -> OpNode | None:
    """The recorded operation whose ReLU made ``x``, where a delivery to it goes unseen."""
    edge = x._edge()
    if edge is None or edge.position != 0 or not isinstance(edge.node, OpNode):
        return None
    node = edge.node
    if (
        node.op not in (_conv_bn_act, _conv_bn_act_fork, _conv_bn_joined)
        or node.saved is None
        or node.saved["act"] != RELU
    ):
        return None
    return None if is_watched(node) else node


def _below(x: Tensor, producer: OpNode) -> Below:
    assert producer.saved is not None
    z, mean, invstd = (producer.saved[name].unpack(producer)._data for name in ("z", "mean", "invstd"))
    return Below(x._data, z, mean, invstd)


def _input_gradient(
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


def _weight_gradient(grad_z: Buffer | None, x: Tensor, conv_weight: Tensor, window: Window) -> Tensor:
    assert grad_z is not None
    return wrap(conv2d.conv2d_weight_grad(grad_z, x._data, tuple(conv_weight.shape), *window))


def _gradients(
    g: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    residual_shape: tuple[int, ...],
    y: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    batch: Batch,
    act: str,
    delivery: Delivery,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    return _backward(
        g, None, x, conv_weight, weight, bias, residual_shape, y, z, mean, invstd, batch, act, delivery, needs
    )


def _backward(
    g: Any,
    g_shortcut: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    residual_shape: tuple[int, ...],
    y: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    batch: Batch,
    act: str,
    delivery: Delivery,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    if is_grad_enabled():
        h = g if act == NO_ACT else where(y.detach() <= 0, 0.0, g)
        grad_x, *others = _composed(h, x, conv_weight, weight, mean, invstd, batch)
        return grad_x if g_shortcut is None else grad_x + g_shortcut, *others, h if residual_shape else None
    window, training, _, _ = batch
    norm = (mean._data, invstd._data, unwrap(weight), unwrap(bias))
    sums = delivery.take(g)
    if sums is not None and training and needs[1]:
        made = convolution.conv2d_weight_grad_through(
            g._data, z._data, norm, sums, x._data, tuple(conv_weight.shape), window
        )
        if made is not None:
            grad_conv_weight, grad_z = made
            grad_x = _input_gradient(grad_z, x, conv_weight, window, g_shortcut) if needs[0] else None
            return grad_x, wrap(grad_conv_weight), wrap(sums[0]), wrap(sums[1]), g if residual_shape else None
    found, grad_weight, grad_bias, h = fused.normalise_act_grad(
        g._data, z._data, y._data, norm, act, training, residual_shape != (), sums, need_x=needs[0] or needs[1]
    )
    residual_grad = g if h is g._data else wrap(h)
    grad_x = _input_gradient(found, x, conv_weight, window, g_shortcut) if needs[0] else None
    grad_conv = _weight_gradient(found, x, conv_weight, window) if needs[1] else None
    return grad_x, grad_conv, wrap(grad_weight), wrap(grad_bias), residual_grad


def _joined_gradients(
    g: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    x_short: Any,
    conv_weight_short: Any,
    weight_short: Any,
    y: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    z_short: Any,
    mean_short: Any,
    invstd_short: Any,
    batch: Batch,
    batch_short: Batch,
    delivery: Delivery,
    act: str,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    # the shortcut's branch is a normalisation without ReLU of the gradient that a residual would get
    residual_shape = tuple(z.shape)
    *main, h = _backward(
        g, None, x, conv_weight, weight, bias, residual_shape, y, z, mean, invstd, batch, act, delivery, needs[:4]
    )
    *short, _ = _backward(
        h, None, x_short, conv_weight_short, weight_short, None, (), z_short, z_short, mean_short, invstd_short,
        batch_short, NO_ACT, Delivery(), needs[4:],
    )  # fmt: skip
    return *main, *short


def _pool_gradients(
    g: Any,
    x: Any,
    conv_weight: Any,
    weight: Any,
    bias: Any,
    taps: Any,
    z: Any,
    mean: Any,
    invstd: Any,
    folded: Any,
    batch: Batch,
    needs: tuple[bool, ...],
) -> tuple[Any, ...]:
    window, training, _, _ = batch
    norm = (mean._data, invstd._data, unwrap(weight), unwrap(bias))
    if is_grad_enabled():
        h = max_pool2d_input_grad(g, taps, tuple(z.shape), *_POOL)
        h = where(wrap(fused.normalise_act(z._data, norm)) <= 0, 0.0, h)
        return _composed(h, x, conv_weight, weight, mean, invstd, batch)
    if folded is not None and training and not needs[0] and needs[1]:
        made = convolution.stem_grad(
            g._data, taps._data, z._data, norm, tuple(x.shape), folded._data, tuple(conv_weight.shape), window
        )
        return None, *map(wrap, made)
    need_x = needs[0] or needs[1]
    grad_z, grad_weight, grad_bias = fused.normalise_pool_grad(g._data, taps._data, z._data, norm, training, need_x)
    grad_x = _input_gradient(grad_z, x, conv_weight, window) if needs[0] else None
    grad_conv = _weight_gradient(grad_z, x, conv_weight, window) if needs[1] else None
    return grad_x, grad_conv, wrap(grad_weight), wrap(grad_bias)


#: Kernel, stride, padding, dilation and rounding of the pooling in a stem.
_POOL = (3, 2, 1, 1, False)

_INPUTS = ("x", "conv_weight", "weight", "bias", "residual")
_conv_bn_act = define(
    _forward,
    name="conv_bn_act",
    outputs=("y", "z", "mean", "invstd"),
    autocast=HALF.only("x", "conv_weight", "residual"),
    joint={_INPUTS: _gradients},
    running_mean=None,
    running_var=None,
)
_conv_bn_act_fork = define(
    _forward_fork,
    name="conv_bn_act",
    outputs=("y", "z", "mean", "invstd", "shortcut"),
    autocast=HALF.only("x", "conv_weight", "residual"),
    joint={_INPUTS: _backward},
    running_mean=None,
    running_var=None,
)
_JOINED = (*_INPUTS[:4], "x_short", "conv_weight_short", "weight_short", "bias_short")
_conv_bn_joined = define(
    _forward_joined,
    name="conv_bn_joined",
    autocast=HALF.only("x", "conv_weight", "x_short", "conv_weight_short"),
    outputs=("y", "z", "mean", "invstd", "z_short", "mean_short", "invstd_short"),
    joint={_JOINED: _joined_gradients},
    running_mean=None,
    running_var=None,
    running_mean_short=None,
    running_var_short=None,
)
_conv_bn_relu_pool = define(
    _forward_pool,
    name="conv_bn_relu_pool",
    outputs=("y", "taps", "z", "mean", "invstd", "folded"),
    autocast=HALF.only("x", "conv_weight"),
    joint={_INPUTS[:4]: _pool_gradients},
    running_mean=None,
    running_var=None,
)


def _record_batch(training: bool, *running: Tensor | None) -> None:
    for statistic in running:
        if training and statistic is not None:
            statistic._bump_version()


def conv_bn_act(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    residual: Tensor | None = None,
    act: str = RELU,
    window: Window = Window(),
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``act(batch_norm(conv2d(x, conv_weight)) + residual)``.

    Args:
        x: (N, C, H, W).
        conv_weight: (K, C / groups, R, S), of the dtype of ``x``.
        weight, bias, running_mean, running_var: (K,), as in :func:`tinyflow.batch_norm`.
        residual: (N, K, P, Q), or None.
        act: 'relu' or 'none'.
        window: stride, padding, dilation and groups of the convolution.
        training, momentum, eps: as in :func:`tinyflow.batch_norm`.

    Returns (N, K, P, Q) in channels-last memory.

    Raises:
        ValueError, RuntimeError, TypeError: as the operations that it stands for.
    """
    _check_running(training, running_mean, running_var)
    batch = Batch(window, training, momentum, eps)
    y = _conv_bn_act(x, conv_weight, weight, bias, residual, running_mean, running_var, batch, act, Delivery())[0]
    _record_batch(training, running_mean, running_var)
    return y


def conv_bn_act_fork(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    act: str = RELU,
    window: Window = Window(),
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """:func:`conv_bn_act`, and ``x`` itself to take a shortcut: its gradient comes back through this operation.

    What flows back by the shortcut is then added where the convolution's input gradient is made.
    """
    _check_running(training, running_mean, running_var)
    batch = Batch(window, training, momentum, eps)
    settings = (running_mean, running_var, batch, act, Delivery())
    y, _, _, _, shortcut = _conv_bn_act_fork(x, conv_weight, weight, bias, None, *settings)
    shortcut._counter = x._counter  # one memory, one version
    _record_batch(training, running_mean, running_var)
    return y, shortcut


class Branch(NamedTuple):
    """What a convolution and the batch normalisation behind it take."""

    x: Tensor
    conv_weight: Tensor
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    batch: Batch


def conv_bn_joined(main: Branch, short: Branch) -> Tensor:
    """``relu(batch_norm(conv2d(main)) + batch_norm(conv2d(short)))``: both are normalised as they are added.

    Raises:
        ValueError, RuntimeError, TypeError: as the operations that it stands for.
    """
    for branch in (main, short):
        _check_running(branch.batch.training, branch.running_mean, branch.running_var)
    y = _conv_bn_joined(*main[:4], *short[:4], *main[4:6], *short[4:6], main.batch, short.batch, Delivery())[0]
    for branch in (main, short):
        _record_batch(branch.batch.training, branch.running_mean, branch.running_var)
    return y


def conv_bn_relu_pool(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    window: Window = Window(),
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``max_pool2d(relu(batch_norm(conv2d(x, conv_weight))), 3, stride=2, padding=1)``, otherwise as :func:`conv_bn_act`."""
    _check_running(training, running_mean, running_var)
    batch = Batch(window, training, momentum, eps)
    y = _conv_bn_relu_pool(x, conv_weight, weight, bias, running_mean, running_var, batch)[0]
    _record_batch(training, running_mean, running_var)
    return y


def _check_running(training: bool, running_mean: Tensor | None, running_var: Tensor | None) -> None:
    if not training and (running_mean is None or running_var is None):
        raise RuntimeError("conv_bn_act: expected running_mean and running_var when training=False")


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
