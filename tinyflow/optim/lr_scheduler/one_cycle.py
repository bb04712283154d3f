"""The one-cycle policy (Smith & Topin 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyflow.optim.lr_scheduler.base import LRScheduler, cycles_beta1, each_group, set_momentum, set_value
from tinyflow.optim.optimizer import Optimizer


class OneCycleLR(LRScheduler):
    """From a low rate up to ``max_lr`` and down to a far lower one, once (Smith & Topin 2018).

    Args:
        max_lr: the highest rate, or one for each group.
        total_steps: length of the cycle; or ``epochs`` times ``steps_per_epoch``.
        pct_start: share of the cycle in which the rate rises.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: whether momentum (the first beta of Adam) moves the other way, from ``max_momentum`` to
            ``base_momentum`` and back.
        div_factor: first rate = max_lr / div_factor.
        final_div_factor: last rate = first rate / final_div_factor.
        three_phase: fall back to the first rate as slowly as it rose, then to the last one.

    Raises:
        ValueError: for settings out of range, for an optimizer without momentum where it should cycle, and for a step
            past the end of the cycle.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.total_steps = _cycle_length(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        self.cycle_momentum = cycle_momentum
        if last_epoch == -1:
            for group, highest in zip(optimizer.param_groups, each_group("max_lr", max_lr, optimizer)):
                first = highest / div_factor
                set_value(group, "lr", first)
                group.update(initial_lr=first, max_lr=highest, min_lr=first / final_div_factor)
        if cycle_momentum:
            self._prepare_momentum(optimizer, base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)

    def _prepare_momentum(self, optimizer: Optimizer, base: Any, highest: Any, last_epoch: int) -> None:
        self.use_beta1 = cycles_beta1(optimizer)
        if last_epoch != -1:
            return
        lows, highs = each_group("base_momentum", base, optimizer), each_group("max_momentum", highest, optimizer)
        for group, low, high in zip(optimizer.param_groups, lows, highs):
            group.update(base_momentum=low, max_momentum=high)
            set_momentum(group, self.use_beta1, high)

    def _anneal(self, start: float, end: float, share: float) -> float:
        if self._anneal_func_type == "cos":
            return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
        return (end - start) * share + start

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"Tried to step {t} times. The specified number of total steps is {self.total_steps}")
        start = 0.0
        for phase in self._schedule_phases:
            if t <= phase["end_step"] or phase is self._schedule_phases[-1]:
                break
            start = phase["end_step"]
        share = (t - start) / (phase["end_step"] - start)
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(self._anneal(group[phase["start_lr"]], group[phase["end_lr"]], share))
            if self.cycle_momentum:
                momentum = self._anneal(group[phase["start_momentum"]], group[phase["end_momentum"]], share)
                set_momentum(group, self.use_beta1, momentum)
        return rates


def _cycle_length(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    if total_steps is not None:
        settings = {"total_steps": total_steps}
    else:
        settings = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}  # type: ignore[dict-item]
    for name, value in settings.items():
        if value <= 0 or not isinstance(value, int):
            raise ValueError(f"Expected positive integer {name}, but got {value}")
    return math.prod(settings.values())


def _phases(total: int, rise: float, three: bool) -> list[dict[str, Any]]:
    def phase(end: float, start_lr: str, end_lr: str, start_momentum: str, end_momentum: str) -> dict[str, Any]:
        return {
            "end_step": end,
            "start_lr": start_lr,
            "end_lr": end_lr,
            "start_momentum": start_momentum,
            "end_momentum": end_momentum,
        }

    up = phase(float(rise * total) - 1, "initial_lr", "max_lr", "max_momentum", "base_momentum")
    if not three:
        return [up, phase(total - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]
    down = phase(float(2 * rise * total) - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum")
    return [up, down, phase(total - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum")]
