"""Ready parametrisations of weights: by norm and direction, and by spectral norm."""

from __future__ import annotations

import math

import tinyflow
from tinyflow.autograd.grad_mode import no_grad
from tinyflow.nn.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from tinyflow.nn.module import Module
from tinyflow.nn.utils.parametrize import register_parametrization
from tinyflow.tensor import Tensor


def _norm_except(v: Tensor, dim: int | None) -> Tensor:
    """The norm over all dimensions but one, kept as sizes of 1; over all without one, as torch has it: ()."""
    if dim is None or dim == -1:
        return v.norm()
    if not -v.dim() <= dim < v.dim():
        raise IndexError(f"weight_norm: expected dim in [{-v.dim()}, {v.dim() - 1}], got {dim}")
    kept = dim % v.dim()
    others = [d for d in range(v.dim()) if d != kept]
    return v.norm(dim=others, keepdim=True) if others else v.abs()


class _WeightNorm(Module):
    """W = g · v / ‖v‖, with a norm g for each index of dimension ``dim``."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / _norm_except(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Learns a weight as norm (``parametrizations.weight.original0``) and direction (``original1``), ``W = g v / ‖v‖``.

    Salimans and Kingma 2016.

    Args:
        dim: the dimension with a norm for each of its indices; None for one norm in all.

    Raises:
        ValueError: if the module has no such tensor.
        IndexError: for a dimension that the weight does not have.
    """
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


class _SpectralNorm(Module):
    """W = V / σ, with σ the largest singular value of V as a matrix, by power iteration."""

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        if not -weight.dim() <= dim < weight.dim():
            raise IndexError(
                f"spectral_norm: expected dim in [{-weight.dim()}, {weight.dim() - 1}], got {dim} for a weight of shape "
                f"{tuple(weight.shape)}"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.dim = dim if dim >= 0 else dim + weight.dim()
        self.eps = eps
        self.n_power_iterations = n_power_iterations
        if weight.dim() > 1:
            with no_grad():
                matrix = self._matrix(weight)
                self.register_buffer("_u", self._unit(tinyflow.randn_like(matrix[:, 0])))
                self.register_buffer("_v", self._unit(tinyflow.randn_like(matrix[0])))
                self._iterate(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        if self.dim:
            weight = weight.movedim(self.dim, 0)
        return weight.reshape(weight.shape[0], math.prod(weight.shape[1:]))

    def _unit(self, x: Tensor) -> Tensor:
        return x / x.norm().clamp(min=self.eps)

    def _iterate(self, matrix: Tensor, iterations: int) -> None:
        with no_grad():
            for _ in range(iterations):
                self._u.copy_(self._unit(matrix.mv(self._v)))
                self._v.copy_(self._unit(matrix.t().mv(self._u)))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return self._unit(weight)
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()  # the next iteration writes into them, and the gradient needs these
        return weight / u.dot(matrix.mv(v))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divides a weight by its largest singular value, which each forward pass in training improves (Miyato et al. 2018).

    Args:
        n_power_iterations: how many in each forward pass.
        eps: least norm of a vector that is divided by its norm.
        dim: the dimension of the outputs; by default 1 for transposed convolutions and 0 else.

    Raises:
        ValueError: if the module has no such tensor, or for no iterations.
        IndexError: for a dimension that the weight does not have.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if dim is None:
        dim = 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))
