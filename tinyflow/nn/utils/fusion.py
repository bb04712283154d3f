"""Batch normalisation folded into the layer before it, for inference."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.operands import check_tensor
from tinyflow.tensor import Tensor

M = TypeVar("M", bound=Module)


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """The weight and bias of a convolution that includes the batch normalisation behind it.

    ``W' = W · bn_w / √(bn_rv + eps)`` along the output channels, ``b' = (b − bn_rm) · bn_w / √(bn_rv + eps) + bn_b``.

    Args:
        conv_w: (K, C, …), or (C, K, …) with ``transpose``.
        conv_b, bn_w, bn_b: (K,); None counts as 0, 1 and 0.
        bn_rm, bn_rv: running mean and variance, (K,).
    """
    given = {"conv_w": conv_w, "conv_b": conv_b, "bn_rm": bn_rm, "bn_rv": bn_rv, "bn_w": bn_w, "bn_b": bn_b}
    for name, value in given.items():
        if value is not None or name in ("conv_w", "bn_rm", "bn_rv"):
            check_tensor("fuse_conv_bn_weights()", name, value)
    with no_grad():
        scale = (bn_rv + bn_eps).rsqrt()
        scale = scale if bn_w is None else scale * bn_w
        shift = -bn_rm if conv_b is None else conv_b - bn_rm
        bias = shift * scale if bn_b is None else shift * scale + bn_b
        shape = [1] * conv_w.dim()
        shape[1 if transpose else 0] = -1
        weight = conv_w * scale.reshape(shape)
        dtype = conv_w.dtype
        return (
            Parameter(weight.to(dtype), requires_grad=conv_w.requires_grad),
            Parameter(bias.to(dtype), requires_grad=conv_b.requires_grad if conv_b is not None else False),
        )


def fuse_linear_bn_weights(
    linear_w: Tensor,
    linear_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor,
    bn_b: Tensor,
) -> tuple[Parameter, Parameter]:
    """:func:`fuse_conv_bn_weights` of a linear layer."""
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def _check(kind: str, layer: Module, bn: Module) -> None:
    if layer.training or bn.training:
        raise RuntimeError(f"{kind}: expected both modules in evaluation mode, call .eval() on them first")
    if getattr(bn, "running_mean", None) is None or getattr(bn, "running_var", None) is None:
        raise RuntimeError(f"{kind}: expected running statistics, but {type(bn).__name__} has none")


def _fused(layer: M, bn: Any, transpose: bool) -> M:
    fused = copy.deepcopy(layer)
    weight, bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose
    )
    fused.weight, fused.bias = weight, bias
    return fused


def fuse_conv_bn_eval(conv: M, bn: Module, transpose: bool = False) -> M:
    """A copy of a convolution in evaluation mode that includes the batch normalisation behind it.

    Raises:
        RuntimeError: for a module in training mode, or without running statistics.
    """
    _check("fuse_conv_bn_eval", conv, bn)
    return _fused(conv, bn, transpose)


def fuse_linear_bn_eval(linear: M, bn: Module) -> M:
    """A copy of a linear layer in evaluation mode that includes the batch normalisation behind it.

    Raises:
        RuntimeError: for a module in training mode, without running statistics, or for features that differ in number.
    """
    _check("fuse_linear_bn_eval", linear, bn)
    features = bn.num_features
    if features not in (1, linear.out_features):
        raise RuntimeError(
            f"fuse_linear_bn_eval: expected a normalisation of {linear.out_features} features or 1, got {features}"
        )
    return _fused(linear, bn, False)
