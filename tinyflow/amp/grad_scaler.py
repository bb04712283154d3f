"""GradScaler: keeps float16 gradients from vanishing by scaling the loss, as ``torch.amp.GradScaler``."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import memory
from tinyflow.ops.amp import unscale_, update_scale_
from tinyflow.ops.creation import full
from tinyflow.optim.optimizer import Optimizer
from tinyflow.tensor import Tensor


class _Stage(enum.Enum):
    READY, UNSCALED, STEPPED = range(3)


@dataclass
class _Progress:
    """What happened to an optimizer's gradients since the last :meth:`GradScaler.update`."""

    stage: _Stage = _Stage.READY
    found_inf: dict[memory.device, Tensor] = field(default_factory=dict)


class GradScaler:
    """Scales the loss, unscales gradients before the step, and leaves out steps whose gradients overflowed.

    >>> scaler = tinyflow.amp.GradScaler()
    >>> scaler.scale(loss).backward()
    >>> scaler.step(optimizer)
    >>> scaler.update()

    The scale, and whether a step is left out, stay on the device, and nothing waits for it: the optimizers of
    ``tinyflow.optim`` leave parameters, state and step counts there as they are. One of your own is asked to step only if
    a value read from the device allows it. bfloat16 has float32's range and needs no scaler.

    Args:
        device: where the scale lives.
        init_scale: the scale to start with.
        growth_factor: the scale is multiplied by it after ``growth_interval`` steps without overflow.
        backoff_factor: and by this after an overflow.
        growth_interval: steps.
        enabled: False makes every method pass through.

    Raises:
        ValueError: for factors that do not grow, or do not back off.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if enabled and device == "cuda" and not memory.gpu_available():
            warnings.warn("GradScaler: device is 'cuda', but no GPU is available. Disabling.", stacklevel=2)
            enabled = False
        if growth_factor <= 1.0:
            raise ValueError(f"GradScaler: expected a growth factor above 1, got {growth_factor}")
        if not 0.0 < backoff_factor < 1.0:
            raise ValueError(f"GradScaler: expected a backoff factor between 0 and 1, got {backoff_factor}")
        self._device = device
        self._enabled = enabled
        self._init_scale = init_scale
        self._growth_factor = growth_factor
        self._backoff_factor = backoff_factor
        self._growth_interval = growth_interval
        self._init_tracker = 0
        self._scale: Tensor | None = None
        self._tracker: Tensor | None = None
        self._progress: dict[int, _Progress] = {}

    # ---- a step ----------------------------------------------------------------------------------------------------

    def scale(self, outputs: Any) -> Any:
        """A tensor, or each of a list or tuple of them, times the scale.

        Raises:
            TypeError: for what is neither.
        """
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale_on(outputs.device)
        if isinstance(outputs, Iterable):
            scaled = [self.scale(y) for y in outputs]
            return tuple(scaled) if isinstance(outputs, tuple) else scaled
        raise TypeError(f"GradScaler.scale: expected a Tensor or an iterable of Tensors, got {type(outputs).__name__}")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divides an optimizer's gradients by the scale, for what looks at them before the step, such as clipping.

        Raises:
            RuntimeError: if that was done since the last update, after the step, or before :meth:`scale`.
            ValueError: for float16 gradients: parameters must be float32.
        """
        if not self._enabled:
            return
        progress = self._progress_of(optimizer)
        if progress.stage is _Stage.UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if progress.stage is _Stage.STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        grads: dict[memory.device, list[Tensor]] = {}
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if p.grad.dtype == memory.float16:
                        raise ValueError("Attempting to unscale FP16 gradients.")
                    grads.setdefault(p.device, []).append(p.grad)
        self._check_scale("unscale_")
        with no_grad():
            progress.found_inf = {device: unscale_(listed, self._scale_on(device)) for device, listed in grads.items()}
        progress.stage = _Stage.UNSCALED

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step(*args, **kwargs)`` with unscaled gradients, which changes nothing if one overflowed.

        Returns what the optimizer returns; None where it was not asked.

        Raises:
            RuntimeError: on a closure, before :meth:`scale`, or a second time since the last update.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if args or "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        self._check_scale("step")
        progress = self._progress_of(optimizer)
        if progress.stage is _Stage.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if progress.stage is _Stage.READY:
            self.unscale_(optimizer)
        if not progress.found_inf:
            raise RuntimeError("No inf checks were recorded for this optimizer: no parameter has a gradient.")
        result = None
        if optimizer.skips_on_device:
            optimizer.found_inf = progress.found_inf
            try:
                result = optimizer.step(**kwargs)
            finally:
                optimizer.found_inf = None
        elif not any(found.item() for found in progress.found_inf.values()):
            result = optimizer.step(**kwargs)
        progress.stage = _Stage.STEPPED
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Moves the scale by what the steps since the last update found, or sets it.

        Raises:
            RuntimeError: before :meth:`scale`, or if there was no step to judge by.
            TypeError: for a new scale that is no number and no float32 tensor of one element.
        """
        if not self._enabled:
            return
        scale, tracker = self._check_scale("update")
        if new_scale is not None:
            self._set_scale(scale, new_scale)
        else:
            found = [f.to(scale.device) for p in self._progress.values() for f in p.found_inf.values()]
            if not found:
                raise RuntimeError("No inf checks were recorded prior to update.")
            update_scale_(scale, tracker, found, self._growth_factor, self._backoff_factor, self._growth_interval)
        self._progress = {}

    @staticmethod
    def _set_scale(scale: Tensor, new_scale: float | Tensor) -> None:
        if isinstance(new_scale, Tensor):
            if new_scale.dtype != memory.float32 or new_scale.numel() != 1 or new_scale.requires_grad:
                raise TypeError(
                    "new_scale should be a float or a 1-element float32 tensor with requires_grad=False, got "
                    f"{tuple(new_scale.shape)} {new_scale.dtype}"
                )
            scale.copy_(new_scale.reshape(()))
        else:
            scale.fill_(float(new_scale))

    # ---- what it knows ---------------------------------------------------------------------------------------------

    def get_scale(self) -> float:
        """The scale, read from the device; 1 where scaling is disabled."""
        if not self._enabled:
            return 1.0
        return self._init_scale if self._scale is None else self._scale.item()

    def is_enabled(self) -> bool:
        """Whether the scaler scales."""
        return self._enabled

    def get_growth_factor(self) -> float:
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        self._growth_interval = new_interval

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors, interval and growth tracker, as numbers; empty where scaling is disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._init_tracker if self._tracker is None else self._tracker.item(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave.

        Raises:
            RuntimeError: for an empty state.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._init_scale, self._init_tracker = state_dict["scale"], state_dict["_growth_tracker"]
        if self._scale is not None and self._tracker is not None:
            self._scale.fill_(self._init_scale)
            self._tracker.fill_(self._init_tracker)

    def _progress_of(self, optimizer: Optimizer) -> _Progress:
        return self._progress.setdefault(id(optimizer), _Progress())

    def _scale_on(self, device: memory.device) -> Tensor:
        """The scale on a device; made on first use, where that is."""
        if self._scale is None:
            self._scale = full((), self._init_scale, dtype=memory.float32, device=device)
            self._tracker = full((), self._init_tracker, dtype=memory.int32, device=device)
        return self._scale if self._scale.device == device else self._scale.to(device)

    def _check_scale(self, method: str) -> tuple[Tensor, Tensor]:
        if self._scale is None or self._tracker is None:
            raise RuntimeError(f"Attempted {method} but the scale is not there yet: call scaler.scale(loss) before.")
        return self._scale, self._tracker
