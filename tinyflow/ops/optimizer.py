"""Optimiser updates: in-place changes of parameters that the graph does not record."""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.kernels import optimizer
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.optimizer import settings_bits as settings_bits
from tinyflow.ops.define import unwrap
from tinyflow.tensor import Tensor


def sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor] | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    first: bool,
    settings: Buffer | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step of stochastic gradient descent on every parameter, see :func:`tinyflow.kernels.optimizer.sgd`.

    Raises:
        RuntimeError: if a gradient's shape, dtype or device is not that of its parameter.
    """
    if not params:
        return
    for position, (p, g) in enumerate(zip(params, grads)):
        if (g.shape, g.dtype, g.device) != (p.shape, p.dtype, p.device):
            raise RuntimeError(
                f"sgd: expected the gradient of parameter {position} to be {tuple(p.shape)} {p.dtype} on {p.device}, "
                f"got {tuple(g.shape)} {g.dtype} on {g.device}"
            )
    optimizer.sgd(
        unwrap(list(params)),
        unwrap(list(grads)),
        None if momentum_buffers is None else unwrap(list(momentum_buffers)),
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay,
        nesterov=nesterov,
        maximize=maximize,
        first=first,
        settings=settings,
        found_inf=unwrap(found_inf),
    )
    for changed in (*params, *(momentum_buffers or ())):
        changed._bump_version()
