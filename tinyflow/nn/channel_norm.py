"""What layers with a weight and a bias, and those with running statistics of channels, have alike."""

from __future__ import annotations

import tinyflow
from tinyflow.nn import init
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.tensor import Tensor


class AffineNorm(Module):
    """A normalisation that may end in · weight + bias, both of one shape."""

    weight: Parameter | None
    bias: Parameter | None

    def _register_affine(
        self,
        shape: tuple[int, ...],
        weight: bool,
        bias: bool,
        device: str | tinyflow.device | None,
        dtype: tinyflow.dtype | None,
    ) -> None:
        for name, there in (("weight", weight), ("bias", bias)):
            parameter = Parameter(tinyflow.empty(shape, device=device, dtype=dtype)) if there else None
            self.register_parameter(name, parameter)

    def reset_parameters(self) -> None:
        """The identity: weight 1, bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class ChannelNorm(AffineNorm):
    """A normalisation of channels that may keep running statistics.

    Args:
        num_features: number of channels, C.
        eps: keeps the root away from zero.
        momentum: weight of a new batch in the running statistics.
        affine: whether there is a weight.
        track_running_stats: whether there are running statistics.
        bias: whether there is a bias beside the weight.
    """

    _version = 2

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._register_affine((num_features,), affine, affine and bias, device, dtype)

        def channels() -> Tensor | None:
            return tinyflow.empty((num_features,), device=device, dtype=dtype) if track_running_stats else None

        self.register_buffer("running_mean", channels())
        self.register_buffer("running_var", channels())
        count = tinyflow.empty((), dtype=tinyflow.int64, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """The identity: weight 1, bias 0, running statistics as new."""
        self.reset_running_stats()
        super().reset_parameters()

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )
