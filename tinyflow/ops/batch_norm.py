"""Batch normalisation: a fused forward pass and gradient, whose own derivative is written in simple operations."""

from __future__ import annotations

from typing import Any

from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import check_inplace
from tinyflow.kernels import batch_norm as kernels
from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.memory import Buffer
from tinyflow.ops.arithmetic import rsqrt
from tinyflow.ops.define import define
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["batch_norm"]


def _gradients(
    grad: Buffer, x: Buffer, weight: Buffer | None, mean: Buffer, invstd: Buffer, training: bool, eps: float
) -> tuple[Buffer, Buffer, Buffer]:
    """The kernel's gradients; their own derivative also needs ``eps``, on which ``invstd`` rests."""
    return kernels.batch_norm_grad(grad, x, weight, mean, invstd, training)


def _per_channel(values: Any, x: Tensor) -> Any:
    return values.reshape((1, -1) + (1,) * (x.dim() - 2))


def _widened(*tensors: Any) -> list[Any]:
    """Half precision as float32, so that sums over pixels keep their digits."""
    wide = dtypes.accumulate_dtype(tensors[0].dtype)
    return [t if t.dtype == wide else t.to(wide) for t in tensors]


def _second_training(
    g: Any, g_grad_weight: Any, g_grad_bias: Any, grad: Any, x: Any, weight: Any, eps: float
) -> tuple[Any, Any, Any]:
    """The derivative of the gradients, with every statistic a function of ``x``.

    With h = ``g``, ⟨·⟩ the mean over pixels, x̂ the normalised input, and P u = u − ⟨u⟩ − x̂⟨u x̂⟩:

        grad_x = weight · invstd · P grad        ⟨h · P grad⟩ = ⟨h · grad⟩ − ⟨h⟩⟨grad⟩ − ⟨h x̂⟩⟨grad x̂⟩ =: Q
        ∂Q/∂x = −invstd / n · (P h ⟨grad x̂⟩ + P grad ⟨h x̂⟩)        ∂invstd/∂x = −invstd² x̂ / n
    """
    dims = (0, *range(2, x.dim()))
    h, grad, x = _widened(g, grad, x)

    def average(t: Any) -> Any:
        return t.mean(dims, True)

    def project(t: Any) -> Any:
        return t - average(t) - normal * average(t * normal)

    centred = x - average(x)
    invstd = rsqrt(average(centred * centred) + eps)
    normal = centred * invstd
    scale = invstd if weight is None else invstd * _per_channel(weight, x)
    by_weight, by_bias = _per_channel(g_grad_weight, x), _per_channel(g_grad_bias, x)
    along = average(h * grad) - average(h) * average(grad) - average(h * normal) * average(grad * normal)
    to_grad = scale * project(h) + by_weight * normal + by_bias
    turned = along * normal + project(h) * average(grad * normal) + project(grad) * average(h * normal)
    to_x = by_weight * invstd * project(grad) - scale * invstd * turned
    pixels = x.numel() // max(x.shape[1], 1)
    return to_grad, to_x, (pixels * invstd * along).reshape((-1,))


def _second_inference(
    g: Any, g_grad_weight: Any, g_grad_bias: Any, grad: Any, x: Any, weight: Any, mean: Any, invstd: Any
) -> tuple[Any, Any, Any]:
    """The derivative of the gradients where the statistics are constants: ``grad_x = weight · invstd · grad``."""
    dims = (0, *range(2, x.dim()))
    h, grad, x = _widened(g, grad, x)
    mean, invstd = _per_channel(mean, x), _per_channel(invstd, x)
    scale = invstd if weight is None else invstd * _per_channel(weight, x)
    by_weight, by_bias = _per_channel(g_grad_weight, x), _per_channel(g_grad_bias, x)
    to_grad = scale * h + by_weight * (x - mean) * invstd + by_bias
    return to_grad, by_weight * invstd * grad, (h * grad * invstd).sum(dims)


def _second(
    g: Any,
    g_grad_weight: Any,
    g_grad_bias: Any,
    grad: Any,
    x: Any,
    weight: Any,
    mean: Any,
    invstd: Any,
    training: bool,
    eps: float,
) -> tuple[Any, Any, Any]:
    if training:
        return _second_training(g, g_grad_weight, g_grad_bias, grad, x, weight, eps)
    return _second_inference(g, g_grad_weight, g_grad_bias, grad, x, weight, mean, invstd)


batch_norm_grad = define(
    _gradients,
    name="batch_norm_grad",
    outputs=("grad_x", "grad_weight", "grad_bias"),
    joint={("grad", "x", "weight"): _second},
    mean=None,
    invstd=None,
)

_by_batch = define(
    kernels.batch_norm,
    outputs=("y", "mean", "invstd"),
    joint={
        ("x", "weight", "bias"): lambda g, x, weight, mean, invstd, eps: batch_norm_grad(
            g, x, weight, mean, invstd, True, eps
        )
    },
    running_mean=None,
    running_var=None,
    num_batches=None,
)


def _inference_grad(g: Any, x: Any, weight: Any, running_mean: Any, running_var: Any, eps: float) -> Any:
    (mean, var) = (s.to(dtypes.accumulate_dtype(x.dtype)) for s in (running_mean, running_var))
    return batch_norm_grad(g, x, weight, mean, rsqrt(var + eps), False, eps)


_by_running = define(
    kernels.batch_norm_inference,
    name="batch_norm",
    joint={("x", "weight", "bias"): _inference_grad},
    running_mean=None,
    running_var=None,
)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``(input − mean) / √(var + eps) · weight + bias`` for each channel.

    Args:
        input: (N, C, ...).
        running_mean, running_var: (C,). In training they are updated in place, or may be None; otherwise they are used.
        weight, bias: (C,), or None.
        training: whether mean and variance are those of the batch.
        momentum: weight of this batch in the running statistics.
        eps: added to the variance.

    Returns the shape of ``input``, 4-d in channels-last memory.

    Raises:
        ValueError: in training with one value for each channel, or for an input of less than two dimensions.
        RuntimeError, TypeError: if running statistics are missing, or shapes, dtypes or devices do not fit.
    """
    return batch_norm_counted(input, running_mean, running_var, None, weight, bias, training, momentum, eps)


def counts(num_batches: Tensor, running_mean: Tensor | None) -> bool:
    """True if the launch that updates ``running_mean`` may also count: one int64 on its device, which nobody guards.

    Raises:
        RuntimeError: as an addition in place would.
    """
    check_inplace("add", num_batches, False)
    fits = num_batches.dtype == memory.int64 and num_batches.numel() == 1
    return fits and running_mean is not None and num_batches.device == running_mean.device and mode.mutation is None


def batch_norm_counted(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """:func:`batch_norm`, which in training adds 1 to ``num_batches`` too: one int64, or None."""
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("batch_norm: Expected running_mean and running_var to be defined when training=False")
        return _by_running(input, running_mean, running_var, weight, bias, eps)
    y, _, _ = _by_batch(input, weight, bias, running_mean, running_var, momentum, eps, num_batches)
    for updated in (running_mean, running_var, num_batches):
        if updated is not None:
            updated._bump_version()
    return y
