"""Bounds on gradients: on the norm of all of them together, or on each element."""

from __future__ import annotations

import math
from collections.abc import Iterable

import tinyflow
from tinyflow.autograd.grad_mode import no_grad
from tinyflow.operands import as_tuple, check_tensors
from tinyflow.ops.optimizer import clamp_, scale_, tensor_norms
from tinyflow.tensor import Tensor

Tensors = Tensor | Iterable[Tensor]

#: The orders that two launches reduce whatever the number of tensors.
_FUSED = (1.0, 2.0, math.inf)


def _list(caller: str, parameter: str, tensors: Tensors) -> list[Tensor]:
    found = as_tuple(tensors)
    check_tensors(caller, parameter, found)
    return list(found)


def _grads(caller: str, parameters: Tensors) -> list[Tensor]:
    return [p.grad for p in _list(caller, "parameters", parameters) if p.grad is not None]


def _by_device(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[tinyflow.device, list[Tensor]] = {}
    for x in tensors:
        groups.setdefault(x.device, []).append(x)
    return list(groups.values())


def _norms(tensors: list[Tensor], norm_type: float) -> Tensor:
    if norm_type in _FUSED:
        return tensor_norms(tensors, norm_type)
    return tinyflow.stack([x.float().norm(norm_type) if x.element_size() < 4 else x.norm(norm_type) for x in tensors])


def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """The ``norm_type``-norm of all elements of all tensors, as if they were one vector.

    Args:
        tensors: floating point, any shapes and devices; the norm is on the first one's.
        norm_type: any order, infinity for the largest magnitude.
        error_if_nonfinite: whether a norm that is infinite or NaN is an error; looking waits for the device.
        foreach: accepted; tensors always go together.

    Returns:
        () in the promoted dtype of the tensors; 0 for none.

    Raises:
        RuntimeError: for such a norm.
    """
    found = _list("get_total_norm()", "tensors", tensors)
    norm_type = float(norm_type)
    if not found:
        return tinyflow.tensor(0.0)
    with no_grad():
        parts = [_norms(group, norm_type).to(found[0].device) for group in _by_device(found)]
        wide = parts[0].dtype
        for part in parts[1:]:
            wide = tinyflow.promote_types(wide, part.dtype)
        total = tinyflow.cat([part.to(wide) for part in parts]).norm(norm_type)
        if error_if_nonfinite and not math.isfinite(total.item()):
            raise RuntimeError(
                f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
                "clipped. To disable this error and scale the gradients by the non-finite norm anyway, "
                "set `error_if_nonfinite=False`"
            )
        dtype = found[0].dtype
        for x in found[1:]:
            dtype = tinyflow.promote_types(dtype, x.dtype)
        return total.to(dtype)


def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scales gradients by ``max_norm / (total_norm + 1e-6)`` where that is below 1, in one launch, without the host."""
    with no_grad():
        coefficient = (float(max_norm) / (total_norm.double() + 1e-6)).clamp(max=1.0)
        for grads in _by_device(_grads("clip_grads_with_norm_()", parameters)):
            scale_(grads, coefficient.to(grads[0].device))


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales the gradients of all parameters so that their norm together is at most ``max_norm``.

    Args:
        parameters: a tensor or several; those without a gradient are passed over.
        max_norm: the bound.
        norm_type, error_if_nonfinite, foreach: as in :func:`get_total_norm`.

    Returns:
        The norm before.

    Raises:
        RuntimeError: for a norm that is infinite or NaN, with ``error_if_nonfinite``.
    """
    found = _list("clip_grad_norm_()", "parameters", parameters)
    total = get_total_norm(_grads("clip_grad_norm_()", found), norm_type, error_if_nonfinite, foreach)
    clip_grads_with_norm_(found, max_norm, total, foreach)
    return total


def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Clamps every element of every gradient to [-clip_value, clip_value]."""
    bound = float(clip_value)
    with no_grad():
        clamp_(_grads("clip_grad_value_()", parameters), bound)
