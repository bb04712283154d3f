"""Layers as functions, under the names and with the arguments that torch gives them."""

from __future__ import annotations

import warnings

import tinyflow
from tinyflow.ops import softmax as _softmax
from tinyflow.ops.batch_norm import batch_norm as batch_norm
from tinyflow.ops.conv2d import conv2d as conv2d
from tinyflow.ops.loss import cross_entropy as cross_entropy
from tinyflow.ops.loss import l1_loss as l1_loss
from tinyflow.ops.loss import mse_loss as mse_loss
from tinyflow.ops.loss import nll_loss as nll_loss
from tinyflow.ops.matmul import linear as linear
from tinyflow.ops.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from tinyflow.ops.pooling import adaptive_max_pool2d as adaptive_max_pool2d
from tinyflow.ops.pooling import avg_pool2d as avg_pool2d
from tinyflow.ops.pooling import max_pool2d as max_pool2d
from tinyflow.ops.random import dropout as dropout
from tinyflow.tensor import Tensor


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); with ``inplace`` the result overwrites the input."""
    return input.relu_() if inplace else input.relu()


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(−x))."""
    return input.sigmoid()


def tanh(input: Tensor) -> Tensor:
    """tanh(x)."""
    return input.tanh()


def softmax(input: Tensor, dim: int | None = None, dtype: tinyflow.dtype | None = None) -> Tensor:
    """exp(x) / Σ exp(x) along ``dim``, which should be given."""
    return _softmax.softmax(input, _dim("softmax", input, dim), dtype)


def log_softmax(input: Tensor, dim: int | None = None, dtype: tinyflow.dtype | None = None) -> Tensor:
    """x − log Σ exp(x) along ``dim``, which should be given."""
    return _softmax.log_softmax(input, _dim("log_softmax", input, dim), dtype)


def _dim(op: str, input: Tensor, dim: int | None) -> int:
    if dim is not None:
        return dim
    dim = 0 if input.dim() in (0, 1, 3) else 1
    warnings.warn(f"{op}: dim={dim} was chosen, since none was given; say which dimension is meant", stacklevel=3)
    return dim
