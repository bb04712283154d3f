"""Normalisation by the statistics of each sample."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import tinyflow
from tinyflow.nn import functional as F
from tinyflow.nn import init
from tinyflow.nn.channel_norm import AffineNorm, ChannelNorm
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.operands import guarded
from tinyflow.tensor import Tensor


class LayerNorm(AffineNorm):
    """y = (x − mean) / √(var + eps) · weight + bias, mean and variance over the last dimensions (Ba et al. 2016).

    Args:
        normalized_shape: the sizes of those dimensions.
        eps: keeps the root away from zero.
        elementwise_affine: whether there is a weight.
        bias: whether there is a bias beside it.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape = shape
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._register_affine(shape, elementwise_affine, elementwise_affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """y = x / √(⟨x²⟩ + eps) · weight, the mean over the last dimensions (Zhang & Sennrich 2019).

    Args:
        normalized_shape: the sizes of those dimensions.
        eps: keeps the root away from zero; None is the rounding unit of the dtype that is computed in.
        elementwise_affine: whether there is a weight.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape = shape
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        weight = Parameter(tinyflow.empty(shape, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(AffineNorm):
    """y = (x − mean) / √(var + eps) · weight + bias, mean and variance over each group of channels (Wu & He 2018).

    Args:
        num_groups: how many groups the channels form.
        num_channels: number of channels, C, of an input (N, C, ...).
        eps: keeps the root away from zero.
        affine: whether there is a weight.
        bias: whether there is a bias beside it.

    Raises:
        ValueError: if the groups do not divide the channels.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups <= 0 or num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._register_affine((num_channels,), affine, affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class _InstanceNorm(ChannelNorm):
    """y = (x − mean) / √(var + eps) · weight + bias for each channel of each sample (Ulyanov et al. 2016).

    Args:
        num_features: number of channels, C.
        eps: keeps the root away from zero.
        momentum: weight of a new batch in the running statistics.
        affine: whether there is a weight.
        track_running_stats: whether there are running statistics, which are then used in evaluation.
        bias: whether there is a bias beside the weight.
    """

    _spatial: int = 0

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def _check(self, x: Tensor) -> None:
        if x.dim() not in (self._spatial + 1, self._spatial + 2):
            raise ValueError(
                f"{type(self).__name__}: expected {self._spatial + 1}D or {self._spatial + 2}D input, "
                f"got {x.dim()}D input of shape {tuple(x.shape)}"
            )
        dim = x.dim() - self._spatial - 1
        if x.shape[dim] != self.num_features:
            text = f"{x.shape[dim]} channels at dimension {dim}, where num_features is {self.num_features}"
            if self.affine:
                raise ValueError(f"{type(self).__name__}: got {text}")
            warnings.warn(f"{type(self).__name__}: {text}, which affine=False does not need", stacklevel=3)

    @guarded
    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        batch = input if input.dim() == self._spatial + 2 else input.unsqueeze(0)
        y = F.instance_norm(
            batch,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return y if batch is input else y.squeeze(0)


class InstanceNorm1d(_InstanceNorm):
    __doc__ = "Over inputs of shape (N, C, L) or (C, L).\n\n" + (_InstanceNorm.__doc__ or "")
    _spatial = 1


class InstanceNorm2d(_InstanceNorm):
    __doc__ = "Over inputs of shape (N, C, H, W) or (C, H, W).\n\n" + (_InstanceNorm.__doc__ or "")
    _spatial = 2


class InstanceNorm3d(_InstanceNorm):
    __doc__ = "Over inputs of shape (N, C, D, H, W) or (C, D, H, W).\n\n" + (_InstanceNorm.__doc__ or "")
    _spatial = 3


class LocalResponseNorm(Module):
    """y = x / (k + alpha · ⟨x²⟩)^beta, the mean over ``size`` neighbouring channels of (N, C, ...)."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
