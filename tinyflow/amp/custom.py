"""Decorators for the ``forward`` and ``backward`` of a :class:`tinyflow.autograd.Function` that runs under autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tinyflow.autocast_mode import autocast, get_autocast_dtype, is_autocast_enabled
from tinyflow.kernels import memory
from tinyflow.tensor import Tensor


def _cast(value: Any, device_type: str, dtype: memory.dtype) -> Any:
    if isinstance(value, Tensor):
        fits = value.device.type == device_type and value.dtype.is_floating_point and value.dtype != memory.float64
        return value.to(dtype) if fits else value
    if isinstance(value, dict):
        return {_cast(k, device_type, dtype): _cast(v, device_type, dtype) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cast(v, device_type, dtype) for v in value)
    return value


def custom_fwd(
    forward: Callable[..., Any] | None = None, *, device_type: str, cast_inputs: memory.dtype | None = None
) -> Any:
    """Decorates ``forward(ctx, *args)``.

    Args:
        device_type: whose autocast region is meant.
        cast_inputs: inside such a region, floating-point tensors are cast to it and ``forward`` runs without autocast;
            default: ``forward`` runs under the autocast around it.
    """
    if forward is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(forward)
    def wrapped(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        ctx._dtype = get_autocast_dtype(device_type)
        enabled = is_autocast_enabled(device_type)
        ctx._fwd_used_autocast = enabled and cast_inputs is None
        if not enabled or cast_inputs is None:
            return forward(ctx, *args, **kwargs)
        with autocast(device_type, enabled=False):
            return forward(ctx, *_cast(args, device_type, cast_inputs), **_cast(kwargs, device_type, cast_inputs))

    return wrapped


def custom_bwd(backward: Callable[..., Any] | None = None, *, device_type: str) -> Any:
    """Decorates ``backward(ctx, *grads)`` to run under the autocast that ``forward`` ran under."""
    if backward is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Any) -> Any:
        with autocast(device_type, enabled=ctx._fwd_used_autocast, dtype=ctx._dtype):
            return backward(ctx, *grads)

    return wrapped
