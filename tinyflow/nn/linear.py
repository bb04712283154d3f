"""Affine maps."""

from __future__ import annotations

from typing import Any

import tinyflow
from tinyflow.nn import functional as F
from tinyflow.nn import init
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.tensor import Tensor


class Identity(Module):
    """Returns its argument; takes and ignores any settings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """y = x Wᵀ + b, with W of shape (out_features, in_features).

    Args:
        in_features: size of the last dimension of x.
        out_features: size of the last dimension of y.
        bias: whether there is b.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(tinyflow.empty((out_features, in_features), device=device, dtype=dtype))
        self.register_parameter(
            "bias", Parameter(tinyflow.empty((out_features,), device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws W and b anew from U(−1/√in_features, 1/√in_features)."""
        init.reset_weight_and_bias(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """y_o = x1ᵀ W_o x2 + b_o, with W of shape (out_features, in1_features, in2_features).

    Args:
        in1_features: size of the last dimension of x1.
        in2_features: size of the last dimension of x2.
        out_features: size of the last dimension of y.
        bias: whether there is b.
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: str | tinyflow.device | None = None,
        dtype: tinyflow.dtype | None = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got {in1_features}")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        shape = (out_features, in1_features, in2_features)
        self.weight = Parameter(tinyflow.empty(shape, device=device, dtype=dtype))
        self.register_parameter(
            "bias", Parameter(tinyflow.empty((out_features,), device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws W and b anew from U(−1/√in1_features, 1/√in1_features)."""
        bound = self.in1_features**-0.5
        for parameter in self.parameters(recurse=False):
            init.uniform_(parameter, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
