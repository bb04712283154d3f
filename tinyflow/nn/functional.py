"""Layers as functions, under the names and with the arguments that torch gives them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import tinyflow
from tinyflow import operands as _operands
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
from tinyflow.ops.activation import threshold as _threshold
from tinyflow.ops.activation import threshold as threshold
from tinyflow.ops.attention import scaled_dot_product_attention as scaled_dot_product_attention
from tinyflow.ops.batch_norm import batch_norm as batch_norm
from tinyflow.ops.contraction import bilinear as bilinear
from tinyflow.ops.conv2d import conv2d as conv2d
from tinyflow.ops.conv_nd import conv1d as conv1d
from tinyflow.ops.conv_nd import conv3d as conv3d
from tinyflow.ops.conv_transpose import conv_transpose1d as conv_transpose1d
from tinyflow.ops.conv_transpose import conv_transpose2d as conv_transpose2d
from tinyflow.ops.conv_transpose import conv_transpose3d as conv_transpose3d
from tinyflow.ops.counting import one_hot as one_hot
from tinyflow.ops.distance import pdist as pdist
from tinyflow.ops.dropout import alpha_dropout as alpha_dropout
from tinyflow.ops.dropout import dropout1d as dropout1d
from tinyflow.ops.dropout import dropout2d as dropout2d
from tinyflow.ops.dropout import dropout3d as dropout3d
from tinyflow.ops.dropout import feature_alpha_dropout as feature_alpha_dropout
from tinyflow.ops.dropout import gumbel_softmax as gumbel_softmax
from tinyflow.ops.dropout import rrelu as rrelu
from tinyflow.ops.elementwise_loss import binary_cross_entropy as binary_cross_entropy
from tinyflow.ops.elementwise_loss import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from tinyflow.ops.elementwise_loss import gaussian_nll_loss as gaussian_nll_loss
from tinyflow.ops.elementwise_loss import hinge_embedding_loss as hinge_embedding_loss
from tinyflow.ops.elementwise_loss import huber_loss as huber_loss
from tinyflow.ops.elementwise_loss import kl_div as kl_div
from tinyflow.ops.elementwise_loss import poisson_nll_loss as poisson_nll_loss
from tinyflow.ops.elementwise_loss import smooth_l1_loss as smooth_l1_loss
from tinyflow.ops.elementwise_loss import soft_margin_loss as soft_margin_loss
from tinyflow.ops.embedding import embedding as embedding
from tinyflow.ops.embedding import embedding_bag as embedding_bag
from tinyflow.ops.fractional_pool import fractional_max_pool2d as fractional_max_pool2d
from tinyflow.ops.fractional_pool import fractional_max_pool3d as fractional_max_pool3d
from tinyflow.ops.grid_sample import affine_grid as affine_grid
from tinyflow.ops.grid_sample import grid_sample as grid_sample
from tinyflow.ops.interpolate import interpolate as interpolate
from tinyflow.ops.loss import cross_entropy as cross_entropy
from tinyflow.ops.loss import l1_loss as l1_loss
from tinyflow.ops.loss import mse_loss as mse_loss
from tinyflow.ops.loss import nll_loss as nll_loss
from tinyflow.ops.margin_loss import cosine_embedding_loss as cosine_embedding_loss
from tinyflow.ops.margin_loss import margin_ranking_loss as margin_ranking_loss
from tinyflow.ops.margin_loss import multi_margin_loss as multi_margin_loss
from tinyflow.ops.margin_loss import multilabel_margin_loss as multilabel_margin_loss
from tinyflow.ops.margin_loss import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from tinyflow.ops.margin_loss import triplet_margin_loss as triplet_margin_loss
from tinyflow.ops.margin_loss import triplet_margin_with_distance_loss as triplet_margin_with_distance_loss
from tinyflow.ops.matmul import linear as linear
from tinyflow.ops.multi_head import multi_head_attention_forward as multi_head_attention_forward
from tinyflow.ops.normalization import group_norm as group_norm
from tinyflow.ops.normalization import instance_norm as instance_norm
from tinyflow.ops.normalization import layer_norm as layer_norm
from tinyflow.ops.normalization import local_response_norm as local_response_norm
from tinyflow.ops.normalization import rms_norm as rms_norm
from tinyflow.ops.padding import pad as pad
from tinyflow.ops.pixels import channel_shuffle as channel_shuffle
from tinyflow.ops.pixels import pixel_shuffle as pixel_shuffle
from tinyflow.ops.pixels import pixel_unshuffle as pixel_unshuffle
from tinyflow.ops.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from tinyflow.ops.pooling import adaptive_max_pool2d as adaptive_max_pool2d
from tinyflow.ops.pooling import avg_pool2d as avg_pool2d
from tinyflow.ops.pooling import max_pool2d as max_pool2d
from tinyflow.ops.pooling_nd import adaptive_avg_pool1d as adaptive_avg_pool1d
from tinyflow.ops.pooling_nd import adaptive_avg_pool3d as adaptive_avg_pool3d
from tinyflow.ops.pooling_nd import adaptive_max_pool1d as adaptive_max_pool1d
from tinyflow.ops.pooling_nd import adaptive_max_pool3d as adaptive_max_pool3d
from tinyflow.ops.pooling_nd import avg_pool1d as avg_pool1d
from tinyflow.ops.pooling_nd import avg_pool3d as avg_pool3d
from tinyflow.ops.pooling_nd import lp_pool1d as lp_pool1d
from tinyflow.ops.pooling_nd import lp_pool2d as lp_pool2d
from tinyflow.ops.pooling_nd import lp_pool3d as lp_pool3d
from tinyflow.ops.pooling_nd import max_pool1d as max_pool1d
from tinyflow.ops.pooling_nd import max_pool3d as max_pool3d
from tinyflow.ops.pooling_nd import max_unpool1d as max_unpool1d
from tinyflow.ops.pooling_nd import max_unpool2d as max_unpool2d
from tinyflow.ops.pooling_nd import max_unpool3d as max_unpool3d
from tinyflow.ops.random import dropout as dropout
from tinyflow.ops.similarity import cosine_similarity as cosine_similarity
from tinyflow.ops.similarity import normalize as normalize
from tinyflow.ops.similarity import pairwise_distance as pairwise_distance
from tinyflow.ops.windows import fold as fold
from tinyflow.ops.windows import unfold as unfold
from tinyflow.tensor import Tensor

if TYPE_CHECKING:
    from tinyflow.nn.module import Module


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); with ``inplace`` the result overwrites the input."""
    return input.relu_() if inplace else input.relu()


def relu_(input: Tensor) -> Tensor:
    """In-place :func:`relu`."""
    return input.relu_()


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place :func:`elu`."""
    return elu(input, alpha, inplace=True)


def selu_(input: Tensor) -> Tensor:
    """In-place :func:`selu`."""
    return selu(input, inplace=True)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place :func:`celu`."""
    return celu(input, alpha, inplace=True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """In-place :func:`leaky_relu`."""
    return leaky_relu(input, negative_slope, inplace=True)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """In-place :func:`hardtanh`."""
    return hardtanh(input, min_val, max_val, inplace=True)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """In-place :func:`threshold`."""
    return _threshold(input, threshold, value, inplace=True)


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


def softmin(input: Tensor, dim: int | None = None, dtype: tinyflow.dtype | None = None) -> Tensor:
    """The softmax of −x along ``dim``, which should be given."""
    return _softmax.softmax(-input, _dim("softmin", input, dim), dtype)


def log_softmax(input: Tensor, dim: int | None = None, dtype: tinyflow.dtype | None = None) -> Tensor:
    """x − log Σ exp(x) along ``dim``, which should be given."""
    return _softmax.log_softmax(input, _dim("log_softmax", input, dim), dtype)


def _dim(op: str, input: Tensor, dim: int | None) -> int:
    if dim is not None:
        return dim
    dim = 0 if input.dim() in (0, 1, 3) else 1
    warnings.warn(f"{op}: dim={dim} was chosen, since none was given; say which dimension is meant", stacklevel=4)
    return dim


_operands.guard(globals(), [name for name in globals() if not name.startswith("_")])
