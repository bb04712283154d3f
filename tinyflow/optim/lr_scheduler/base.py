"""LRScheduler: what every schedule has in common."""

from __future__ import annotations

import warnings
from typing import Any

from tinyflow.optim.optimizer import Optimizer
from tinyflow.tensor import Tensor


def set_value(group: dict[str, Any], key: str, value: float) -> None:
    if isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


class LRScheduler:
    """Base of the schedules. A subclass defines ``get_lr``, from ``last_epoch`` and the groups' present ``lr``.

    Args:
        optimizer: whose groups to set; each keeps its first rate as ``initial_lr``.
        last_epoch: −1 to start; the number of steps taken, to go on with groups that have ``initial_lr``.

    Raises:
        TypeError: if ``optimizer`` is none.
        KeyError: if ``last_epoch`` is not −1 and a group has no ``initial_lr``.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for position, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", float(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{position}] when resuming a scheduler; load "
                    "the optimizer's state_dict first, or leave last_epoch at -1"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._start()

    def _start(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    @property
    def _present(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float]:
        """The next rate of each group."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr")

    def _closed_form(self) -> list[float]:
        """The rates at ``last_epoch``, whatever the present ones; without a closed form, those of ``get_lr``."""
        return self.get_lr()

    def get_last_lr(self) -> list[float]:
        """The rates that this schedule set last."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Goes one step on, or to ``epoch``."""
        if self._step_count == 1 and not self.optimizer.has_stepped:
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: call `optimizer.step()` first, "
                "or the first value of the schedule is never used",
                stacklevel=2,
            )
        self._step_count += 1
        self._update(epoch)

    def _update(self, epoch: int | None = None) -> None:
        if epoch is None:
            self.last_epoch += 1
            values = self.get_lr()
        else:
            self.last_epoch = epoch
            values = self._closed_form()
        for group, value in zip(self.optimizer.param_groups, values):
            set_value(group, "lr", value)
        self._last_lr = self._present

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {name: value for name, value in self.__dict__.items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict()`` gave."""
        self.__dict__.update(state_dict)


def each_group(name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """One value for each group, from a number or a list of numbers."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups: expected {groups}, got {len(value)}"
        )
    return list(value)


def cycles_beta1(optimizer: Optimizer) -> bool:
    """Whether an optimizer's momentum is the first of its betas.

    Raises:
        ValueError: if it has neither.
    """
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
    return "betas" in optimizer.defaults


def set_momentum(group: dict[str, Any], is_beta1: bool, value: float) -> None:
    """Sets a group's momentum, or the first of its betas."""
    if is_beta1:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value
