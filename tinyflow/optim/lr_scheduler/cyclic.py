"""Cyclical learning rates (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tinyflow.optim.lr_scheduler.base import LRScheduler, cycles_beta1, each_group, set_momentum, set_value
from tinyflow.optim.optimizer import Optimizer


def _halving(cycle: float) -> float:
    return 0.5 ** (cycle - 1)


def _constant(cycle: float) -> float:
    return 1.0


class CyclicLR(LRScheduler):
    """From ``base_lr`` up to ``max_lr`` and back, again and again.

    Args:
        base_lr, max_lr: the lowest and the highest rate, or one for each group.
        step_size_up, step_size_down: steps that the rate rises and falls; as many down as up by default.
        mode: ``"triangular"``: every cycle as high; ``"triangular2"``: each half as high as the one before;
            ``"exp_range"``: the height falls by ``gamma`` each step.
        gamma: as above.
        scale_fn: the height as a share, a function of the cycle's number from 1 on, or of the step's; ``mode`` then counts
            for nothing.
        scale_mode: ``"cycle"`` or ``"iterations"``: which of the two.
        cycle_momentum: whether momentum (the first beta of Adam) moves the other way, from ``max_momentum`` to
            ``base_momentum`` and back.

    Raises:
        ValueError: for settings out of range, or an optimizer without momentum where it should cycle.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.8,
        max_momentum: float | Sequence[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(f"mode is invalid and scale_fn is None: expected a mode of CyclicLR, got {mode!r}")
        if scale_mode not in ("cycle", "iterations"):
            raise ValueError(f"scale_mode must be one of 'cycle' or 'iterations', instead got {scale_mode!r}")
        down = step_size_up if step_size_down is None else step_size_down
        if step_size_up <= 0 or down < 0:
            raise ValueError(f"CyclicLR: expected positive step sizes, got {step_size_up} up and {down} down")
        for group, low in zip(optimizer.param_groups, each_group("base_lr", base_lr, optimizer)):
            if last_epoch == -1:
                set_value(group, "lr", low)
                group["initial_lr"] = low
        self.max_lrs = each_group("max_lr", max_lr, optimizer)
        self.total_size = float(step_size_up + down)
        self.step_ratio = step_size_up / self.total_size
        self.mode = mode
        self.gamma = gamma
        self.scale_fn = scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._prepare_momentum(optimizer, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)

    def _prepare_momentum(self, optimizer: Optimizer, base: Any, highest: Any) -> None:
        self.use_beta1 = cycles_beta1(optimizer)
        self.base_momentums = each_group("base_momentum", base, optimizer)
        self.max_momentums = each_group("max_momentum", highest, optimizer)
        for group, high in zip(optimizer.param_groups, self.max_momentums):
            set_momentum(group, self.use_beta1, high)

    def _height(self, cycle: float) -> float:
        """What a rise comes to, as a share of the whole range."""
        at = cycle if self.scale_mode == "cycle" else self.last_epoch
        if self.scale_fn is not None:
            return self.scale_fn(at)
        if self.mode == "exp_range":
            return self.gamma**at
        return (_halving if self.mode == "triangular2" else _constant)(at)

    def get_lr(self) -> list[float]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        place = 1 + self.last_epoch / self.total_size - cycle
        rise = place / self.step_ratio if place <= self.step_ratio else (place - 1) / (self.step_ratio - 1)
        share = rise * self._height(cycle)
        if self.cycle_momentum:
            for group, low, high in zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums):
                set_momentum(group, self.use_beta1, high - (high - low) * share)
        return [low + (high - low) * share for low, high in zip(self.base_lrs, self.max_lrs)]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, and a ``scale_fn`` that is a plain function, which cannot be saved."""
        state = super().state_dict()
        if getattr(self.scale_fn, "__name__", None) is not None:
            state.pop("scale_fn")
        return state
