"""Softmax and its logarithm; both gradients need the output alone."""

from __future__ import annotations

from typing import Any

from tinyflow.autocast_mode import FULL_ON_GPU
from tinyflow.kernels import memory
from tinyflow.kernels import softmax as kernels
from tinyflow.ops.arithmetic import exp
from tinyflow.ops.define import Op, define
from tinyflow.tensor import Tensor

METHODS = ["softmax", "log_softmax"]
__all__ = ["softmax", "log_softmax"]


def _along(t: Any, dim: int) -> Any:
    return t.sum(dim, True)


softmax_input_grad: Op = define(
    kernels.softmax_input_grad,
    grad=lambda g, y, dim: softmax_input_grad(g, y, dim),
    y=lambda g, grad, y, dim: g * grad - g * _along(grad * y, dim) - grad * _along(g * y, dim),
)
log_softmax_input_grad: Op = define(
    kernels.log_softmax_input_grad,
    grad=lambda g, y, dim: g - _along(g * exp(y), dim),
    y=lambda g, grad, y, dim: -g * exp(y) * _along(grad, dim),
)
_softmax = define(kernels.softmax, autocast=FULL_ON_GPU, x=lambda g, y, dim: softmax_input_grad(g, y, dim))
_log_softmax = define(kernels.log_softmax, autocast=FULL_ON_GPU, x=lambda g, y, dim: log_softmax_input_grad(g, y, dim))


def softmax(input: Tensor, dim: int, dtype: memory.dtype | None = None) -> Tensor:
    """``exp(x) / Σ exp(x)`` along ``dim``; ``dtype`` is what the input is cast to first.

    Raises:
        IndexError: if ``dim`` is out of range.
        RuntimeError: if the result would not be floating point.
    """
    return _softmax(input, dim, dtype)


def log_softmax(input: Tensor, dim: int, dtype: memory.dtype | None = None) -> Tensor:
    """``x − log Σ exp(x)`` along ``dim``; otherwise as :func:`softmax`."""
    return _log_softmax(input, dim, dtype)
