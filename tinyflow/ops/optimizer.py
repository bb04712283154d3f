"""Optimiser updates: in-place changes of parameters that the graph does not record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyflow.autograd import half_copies
from tinyflow.kernels import memory, strides, update_rules
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.optimizer import Update
from tinyflow.kernels.step_numbers import StepNumbers
from tinyflow.kernels.tensor_norms import tensor_norms as _tensor_norms
from tinyflow.ops.define import unwrap
from tinyflow.recording import active
from tinyflow.tensor import Tensor


def update_(
    rule: Update,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Sequence[Tensor]],
    numbers: Sequence[float],
    *,
    factors: Tensor | None = None,
    found_inf: Tensor | None = None,
    **shared: Any,
) -> None:
    """One step of an optimiser's rule on every parameter, see :class:`tinyflow.kernels.optimizer.Update`.

    The half-precision copies that the next autocast region takes are written too.

    Raises:
        RuntimeError: if a gradient's shape, dtype or device is not that of its parameter.
    """
    if not params:
        return
    copies = _copies_wanted(params) if rule.moves else None
    rule(
        unwrap(list(params)),
        unwrap(list(grads)),
        [unwrap(list(state)) for state in states],
        numbers,
        factors=unwrap(factors),
        found_inf=unwrap(found_inf),
        half_copies=copies,
        **shared,
    )
    for changed in (*(params if rule.moves else ()), *(x for state in states for x in state)):
        changed._bump_version()
    if not rule.moves:
        return
    if active.recording is not None:
        half_copies.note_written(active.recording, params)
    elif copies is not None:
        for p, copy in zip(params, copies):
            if copy is not None:
                half_copies.offer(p, copy)


def _copies_wanted(params: Sequence[Tensor]) -> list[Buffer | None] | None:
    """Memory for copies of the parameters that autocast regions cast, all of one half precision; None without any."""
    if active.recording is not None:
        recorded = half_copies.recorded_copies(active.recording, params)
        return None if all(copy is None for copy in recorded) else recorded
    wanted = [half_copies.wanted(p) for p in params]
    chosen = next((dtype for dtype in wanted if dtype is not None), None)
    if chosen is None:
        return None
    return [
        memory.empty(p.shape, chosen, p.device, strides.like(p._data)) if dtype == chosen else None
        for p, dtype in zip(params, wanted)
    ]


def step_numbers_(
    rule: StepNumbers, counts: Sequence[Tensor], given: Sequence[int] | Buffer, found_inf: Tensor | None
) -> Buffer:
    """Moves counts on, and what an update reads during that step; see :class:`tinyflow.kernels.step_numbers.StepNumbers`."""
    found = rule(unwrap(list(counts)), given, unwrap(found_inf))
    for count in counts:
        count._bump_version()
    return found


def scale_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiplies every tensor by ``factor`` (), in one launch."""
    update_(update_rules.replace, tensors, tensors, [], [], factors=factor)


def clamp_(tensors: Sequence[Tensor], bound: float) -> None:
    """Clamps every element of every tensor to [-bound, bound], in one launch."""
    update_(update_rules.clamp, tensors, tensors, [], [bound])


def tensor_norms(tensors: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """The norm of each tensor, (tensors,), in two launches; see :func:`tinyflow.kernels.tensor_norms.tensor_norms`."""
    return Tensor(_tensor_norms(unwrap(list(tensors)), order))
