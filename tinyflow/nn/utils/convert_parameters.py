"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

import tinyflow
from tinyflow.autograd.grad_mode import no_grad
from tinyflow.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The elements of all parameters, one after another: differentiable.

    Raises:
        TypeError: if they are on several devices.
    """
    found = list(parameters)
    _check_device(found)
    return tinyflow.cat([p.reshape(-1) for p in found])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Writes the elements of a vector into the parameters, one after another.

    Raises:
        TypeError: if ``vec`` is no Tensor, or the parameters are on several devices.
        RuntimeError: if the vector has another number of elements.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected tinyflow.Tensor, but got: {type(vec).__name__}")
    found = list(parameters)
    _check_device(found)
    total = sum(p.numel() for p in found)
    if vec.dim() != 1 or vec.numel() != total:
        raise RuntimeError(
            f"vector_to_parameters: expected a vector of {total} elements, got a tensor of shape {tuple(vec.shape)}"
        )
    at = 0
    with no_grad():
        for p in found:
            p.copy_(vec[at : at + p.numel()].reshape(p.shape))
            at += p.numel()


def _check_device(parameters: list[Tensor]) -> None:
    devices = {p.device for p in parameters}
    if len(devices) > 1:
        raise TypeError(
            f"Found parameters on different devices {sorted(map(str, devices))}, expected all of them on one"
        )
