"""Layers as functions, under the names and with the arguments that torch gives them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import tinyflow
from tinyflow.ops import softmax as _softmax
from tinyflow.ops.activation import celu as celu
from tinyflow.ops.activation import elu as elu
from tinyflow.ops.activation import gelu as gelu
from tinyflow.ops.activation import glu as glu
from tinyflow.ops.activation import hardshrink as hardshrink
from tinyflow.ops.activation import hardsigmoid as hardsigmoid
from tinyflow.ops.activation import hardswish as hardswish
from tinyflow.ops.activation import hardtanh as hardtanh
from tinyflow.ops.activation import leaky_relu as leaky_relu
from tinyflow.ops.activation import logsigmoid as logsigmoid
from tinyflow.ops.activation import mish as mish
from tinyflow.ops.activation import prelu as prelu
from tinyflow.ops.activation import relu6 as relu6
from tinyflow.ops.activation import selu as selu
from tinyflow.ops.activation import silu as silu
from tinyflow.ops.activation import softplus as softplus
from tinyflow.ops.activation import softshrink as softshrink
from tinyflow.ops.activation import softsign as softsign
from tinyflow.ops.activation import tanhshrink as tanhshrink
from tinyflow.ops.activation import threshold as threshold
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

if TYPE_CHECKING:
    from tinyflow.nn.module import Module


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); with ``inplace`` the result overwrites the input."""
    return input.relu_() if inplace else input.relu()


def conv_bn_act(
    input: Tensor, conv: Module, bn: Module, residual: Tensor | None = None, act: str = "relu"
) -> Tensor:
    """``act(bn(conv(input)) + residual)`` with two modules, as one operation where they may be fused.

    See :func:`tinyflow.nn.fusion.conv_bn_act`.
    """
    from tinyflow.nn import fusion  # modules stand above this file

    return fusion.conv_bn_act(input, conv, bn, residual, act)


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
