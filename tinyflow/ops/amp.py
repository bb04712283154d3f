"""Gradient scaling: in-place changes of gradients and of the scale that the graph does not record."""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.kernels import amp as kernels
from tinyflow.ops.arithmetic import maximum
from tinyflow.ops.define import unwrap
from tinyflow.tensor import Tensor


def unscale_(grads: Sequence[Tensor], scale: Tensor) -> Tensor:
    """Divides gradients by the scale; returns float32 (), 1 if one held an infinity or a NaN, else 0."""
    found = Tensor(kernels.unscale(unwrap(list(grads)), scale._data))
    for g in grads:
        g._bump_version()
    return found


def update_scale_(
    scale: Tensor,
    growth_tracker: Tensor,
    found_infs: Sequence[Tensor],
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
) -> None:
    """Moves the scale after a step, see :func:`tinyflow.kernels.amp.update_scale`."""
    found = found_infs[0]
    for other in found_infs[1:]:
        found = maximum(found, other)
    kernels.update_scale(scale._data, growth_tracker._data, found._data, growth_factor, backoff_factor, growth_interval)
    for changed in (scale, growth_tracker):
        changed._bump_version()
