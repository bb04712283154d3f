"""Normalisation by the statistics of each sample: layer, group, instance, root-mean-square and local response norm.

The first four are one operation on views of the input. Its gradient is a fused pass; the derivative of that is written in
simple operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyflow.autocast_mode import FULL_ON_GPU
from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import dtypes, memory
from tinyflow.kernels import layer_norm as kernels
from tinyflow.kernels.memory import Buffer
from tinyflow.ops import pooling, reduction
from tinyflow.ops.arithmetic import div, rsqrt
from tinyflow.ops.arithmetic import pow as power
from tinyflow.ops.batch_norm import batch_norm
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["layer_norm", "group_norm", "rms_norm"]
FUNCTIONAL = ["instance_norm", "local_response_norm"]

Shape = tuple[int, ...]


def _input_gradient(
    grad: Buffer, x: Buffer, weight: Buffer | None, mean: Buffer | None, invstd: Buffer, eps: float
) -> Buffer:
    """The kernel's gradient; its own derivative also needs ``eps``, on which ``invstd`` rests."""
    return kernels.layer_norm_input_grad(grad, x, weight, mean, invstd)


def _gradients(
    grad: Buffer,
    x: Buffer,
    weight: Buffer | None,
    mean: Buffer | None,
    invstd: Buffer,
    eps: float,
    parameter_shape: Shape,
) -> tuple[Buffer, Buffer, Buffer]:
    grad_x = kernels.layer_norm_input_grad(grad, x, weight, mean, invstd)
    dtype = invstd.dtype if weight is None else weight.dtype
    return grad_x, *kernels.layer_norm_parameter_grad(grad, x, mean, invstd, parameter_shape, dtype)


def _widened(*tensors: Any) -> list[Any]:
    """Half precision as float32, so that sums keep their digits."""
    return [t if t is None else t.to(dtypes.accumulate_dtype(t.dtype)) for t in tensors]


def _second(
    g: Tensor,
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor | None,
    invstd: Tensor,
    eps: float,
    g_grad_weight: Tensor | None = None,
    g_grad_bias: Tensor | None = None,
) -> tuple[Any, Any, Any]:
    """The derivative of the gradients, with mean and invstd functions of ``x``.

    With h = ``g``, u = grad · weight, P v = v − ⟨v⟩ − x̂⟨v x̂⟩ (self-adjoint), and q = ⟨h · P u⟩:

        grad_x = invstd · P u        ∂invstd/∂x = −invstd² x̂ / n        ∂x̂/∂x = invstd · P
    """
    dims = tuple(range(invstd.dim(), x.dim()))
    h, grad, x, scale = _widened(g, grad, x, weight)
    if scale is None:
        scale = Tensor._full((), 1.0, x.dtype, x.device)

    def average(v: Tensor) -> Tensor:
        return reduction.mean(v, dims, True)

    def project(v: Tensor) -> Tensor:
        level = average(v) if mean is not None else 0.0
        return v - level - normal * average(v * normal)

    centred = x - average(x) if mean is not None else x
    spread = rsqrt(average(centred * centred) + eps)
    normal = centred * spread
    u = grad * scale
    along, across = project(h), project(u)
    turned = normal * average(h * across) + along * average(u * normal) + across * average(h * normal)
    to_grad, to_x = scale * spread * along, -(spread * spread) * turned
    if g_grad_weight is not None and g_grad_bias is not None:
        by_weight, by_bias = _widened(g_grad_weight, g_grad_bias)
        to_grad = to_grad + by_weight * normal + by_bias
        to_x = to_x + spread * project(by_weight * grad)
    return to_grad, to_x, None if weight is None else grad * spread * along


_layer_norm_input_grad: Op = define(
    _input_gradient,
    name="layer_norm_input_grad",
    joint={
        ("grad", "x", "weight"): lambda g, grad, x, weight, mean, invstd, eps: _second(
            g, grad, x, weight, mean, invstd, eps
        )
    },
    mean=None,
    invstd=None,
)

_layer_norm_grad: Op = define(
    _gradients,
    name="layer_norm_grad",
    outputs=("grad_x", "grad_weight", "grad_bias"),
    joint={
        ("grad", "x", "weight"): lambda g, g_grad_weight, g_grad_bias, grad, x, weight, mean, invstd, eps: _second(
            g, grad, x, weight, mean, invstd, eps, g_grad_weight, g_grad_bias
        )
    },
    mean=None,
    invstd=None,
)


def _gradient(
    g: Any, x: Any, weight: Any, mean: Any, invstd: Any, eps: float, weight_shape: Shape, bias_shape: Shape, needs: Any
) -> Any:
    if needs[1] or needs[2]:
        return _layer_norm_grad(g, x, weight, mean, invstd, eps, weight_shape or bias_shape)
    return _layer_norm_input_grad(g, x, weight, mean, invstd, eps), None, None


#: Statistics over the dimensions from ``lead`` on; weight and bias broadcast to the input.
_normalise: Op = define(
    kernels.layer_norm,
    outputs=("y", "mean", "invstd"),
    autocast=FULL_ON_GPU,
    joint={("x", "weight", "bias"): _gradient},
)


def _over_columns(
    op: str, input: Tensor, normalized_shape: int | Sequence[int], **parameters: Tensor | None
) -> tuple[int, list[Tensor | None]]:
    """How many dimensions number the rows, and the parameters with as many dimensions as the input."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape:
        raise RuntimeError(
            f"{op}: Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, got ()"
        )
    for name, value in parameters.items():
        if value is not None and tuple(value.shape) != shape:
            raise RuntimeError(
                f"{op}: Expected {name} to be of same shape as normalized_shape {list(shape)}, got {tuple(value.shape)}"
            )
    lead = input.dim() - len(shape)
    if lead < 0 or tuple(input.shape[lead:]) != shape:
        raise RuntimeError(
            f"{op}: Given normalized_shape={list(shape)}, expected input with shape "
            f"[*, {', '.join(map(str, shape))}], but got input of size {list(input.shape)}"
        )
    return lead, [None if p is None else p.reshape((1,) * lead + shape) for p in parameters.values()]


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``(input − mean) / √(var + eps) · weight + bias`` over the last dimensions (Ba, Kiros & Hinton 2016).

    Args:
        input: (\\*, \\*normalized_shape).
        normalized_shape: the sizes of the dimensions that mean and (biased) variance are taken over.
        weight, bias: of ``normalized_shape``, or None.
        eps: added to the variance.

    Raises:
        RuntimeError, TypeError: if shapes, dtypes or devices do not fit.
    """
    lead, (weight, bias) = _over_columns("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    return _normalise(input, weight, bias, lead, eps, True)[0]


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """``input / √(⟨input²⟩ + eps) · weight`` over the last dimensions (Zhang & Sennrich 2019).

    Arguments and errors as in :func:`layer_norm`; ``eps=None`` is the rounding unit of the arithmetic's dtype.
    """
    lead, (weight,) = _over_columns("rms_norm", input, normalized_shape, weight=weight)
    dtypes.check_floating("rms_norm", input=input._data)
    if eps is None:
        eps = memory.finfo(dtypes.accumulate_dtype(input.dtype)).eps
    return _normalise(input, weight, None, lead, eps, False)[0]


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``(input − mean) / √(var + eps) · weight + bias`` over each group of channels (Wu & He 2018).

    Args:
        input: (N, C, \\*).
        num_groups: how many groups of C / num_groups neighbouring channels there are.
        weight, bias: (C,), or None.
        eps: added to the (biased) variance.

    Raises:
        RuntimeError, TypeError: if shapes, dtypes or devices do not fit.
        ValueError: if a group has one element only.
    """
    op = "group_norm"
    if input.dim() < 2:
        raise RuntimeError(f"{op}: Expected at least 2 dimensions for input tensor but received {input.dim()}")
    channels = input.shape[1]
    if num_groups <= 0:
        raise RuntimeError(f"{op}: Expected num groups to be greater than 0, got {num_groups}")
    if channels % num_groups:
        raise RuntimeError(
            f"{op}: Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(input.shape)} and num_groups={num_groups}"
        )
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and tuple(value.shape) != (channels,):
            raise RuntimeError(
                f"{op}: Expected {name} to be a vector of size equal to the number of channels in input, {channels}, "
                f"got {tuple(value.shape)}"
            )
    if input.numel() == num_groups:
        raise ValueError(
            f"{op}: Expected more than 1 value per channel when training, got input size {list(input.shape)}"
        )
    return _by_group(input, num_groups, weight, bias, eps)


def _by_group(input: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    if groups == 0:  # there are no channels
        return input.clone()
    channels, rest = input.shape[1], (1,) * (input.dim() - 2)
    split = input.unflatten(1, (groups, channels // groups))
    inner = (1, groups, channels // groups, *rest)
    by_channel = [None if p is None else p.reshape(inner) for p in (weight, bias)]
    return _normalise(split, *by_channel, 2, eps, True)[0].reshape(tuple(input.shape))


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``(input − mean) / √(var + eps) · weight + bias`` for each channel of each sample (Ulyanov et al. 2016).

    Args:
        input: (N, C, \\*).
        running_mean, running_var: (C,). With ``use_input_stats`` they move towards the samples' mean statistics (the
            variance unbiased) if given; otherwise they are used.
        weight, bias: (C,), or None.
        use_input_stats: whether mean and variance are those of each sample.
        momentum: weight of this batch in the running statistics.
        eps: added to the variance.

    Raises:
        ValueError: if statistics of one value would be taken, or running ones are missing.
        RuntimeError, TypeError: if shapes, dtypes or devices do not fit.
    """
    op = "instance_norm"
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError(
                f"{op}: Expected running_mean and running_var to be defined when use_input_stats is false"
            )
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if input.dim() < 2:
        raise ValueError(f"{op}: expected input of shape (N, C, *), got {tuple(input.shape)}")
    if input.numel() and input.numel() == input.shape[0] * input.shape[1]:
        raise ValueError(
            f"{op}: Expected more than 1 spatial element when training, got input size {list(input.shape)}"
        )
    for name, value in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if value is not None and tuple(value.shape) != (input.shape[1],):
            raise RuntimeError(f"{op}: expected {name} of shape ({input.shape[1]},), got {tuple(value.shape)}")
    if input.numel():
        _follow(input, running_mean, running_var, momentum)
    return _by_group(input, input.shape[1], weight, bias, eps)


def _follow(input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float) -> None:
    """Moves running statistics towards the mean of the samples' own."""
    dims = tuple(range(2, input.dim()))
    with no_grad():
        wide = _widened(input.detach())[0]
        for running, of in ((running_mean, reduction.mean), (running_var, reduction.var)):
            if running is not None:
                running.lerp_(of(wide, dims).mean(0).to(running.dtype), momentum)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """``input / (k + alpha · ⟨input²⟩)^beta``, ⟨·⟩ the mean over ``size`` neighbouring channels, zeros beyond the ends.

    Args:
        input: (N, C, \\*) (Krizhevsky, Sutskever & Hinton 2012, section 3.3).

    Raises:
        ValueError: for an input of less than three dimensions.
    """
    if input.dim() < 3:
        raise ValueError(
            f"local_response_norm: Expected 3D or higher dimensionality input (got {input.dim()} dimensions)"
        )
    if input.numel() == 0:
        return input
    n, channels = input.shape[:2]
    column = (input * input).reshape(n, 1, channels, -1)
    means = pooling.avg_pool2d(column, (size, 1), 1, (size // 2, 0)).narrow(2, 0, channels)
    return div(input, power(means.reshape(tuple(input.shape)) * alpha + k, beta))
