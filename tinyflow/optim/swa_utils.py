"""Averages of a model's weights over training: stochastic weight averaging, and exponential moving averages.

    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    ...                                    # after each optimizer.step()
    average.update_parameters(model)
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tinyflow
from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import update_rules
from tinyflow.nn.module import Module
from tinyflow.nn.norm import _BatchNorm
from tinyflow.ops.optimizer import update_
from tinyflow.optim.lr_scheduler.base import LRScheduler, each_group
from tinyflow.optim.optimizer import Optimizer
from tinyflow.tensor import Tensor

Average = Callable[[Tensor, Tensor, Any], Tensor]
MultiAverage = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def _move(averaged: Sequence[Tensor], current: Sequence[Tensor], kept: float) -> None:
    """``a ← kept · a + (1 − kept) · c`` for all floating-point tensors in one launch; others are copied."""
    floating = [k for k, a in enumerate(averaged) if a.dtype.is_floating_point]
    with no_grad():
        update_(update_rules.average, [averaged[k] for k in floating], [current[k] for k in floating], [], [kept])
        for k in sorted(set(range(len(averaged))) - set(floating)):
            averaged[k].copy_(current[k])


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """For :class:`AveragedModel`: ``a ← decay · a + (1 − decay) · c`` of all parameters at once.

    Raises:
        ValueError: if ``decay`` is not in [0, 1].
    """
    _check_decay(decay)
    return lambda averaged, current, num_averaged: _move(averaged, current, decay)


def get_swa_multi_avg_fn() -> MultiAverage:
    """For :class:`AveragedModel`: the mean of all models so far, of all parameters at once."""

    def move(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Any) -> None:
        count = float(num_averaged)
        _move(averaged, current, count / (count + 1))

    return move


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """For :class:`AveragedModel`: ``decay · a + (1 − decay) · c``.

    Raises:
        ValueError: if ``decay`` is not in [0, 1].
    """
    _check_decay(decay)

    def average(averaged: Tensor, current: Tensor, num_averaged: Any) -> Tensor:
        with no_grad():
            return decay * averaged + (1 - decay) * current

    return average


def get_swa_avg_fn() -> Average:
    """For :class:`AveragedModel`: the mean of all models so far."""

    def average(averaged: Tensor, current: Tensor, num_averaged: Any) -> Tensor:
        with no_grad():
            return averaged + (current - averaged) / (num_averaged + 1)

    return average


class AveragedModel(Module):
    """A copy of a model whose parameters are averages (Izmailov et al. 2018).

    Args:
        model: what is copied.
        device: where the copy goes.
        avg_fn: gives a parameter's average from the last one, the parameter, and how many were averaged.
        multi_avg_fn: moves all averages at once, from lists of them; by default the mean of all models so far.
        use_buffers: whether buffers are averaged too; else they stay as they were copied, see :func:`update_bn`.

    Raises:
        AssertionError: for two ways to average.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: str | tinyflow.device | None = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        # on the CPU if nothing is said: the host reads it
        self.register_buffer("n_averaged", tinyflow.tensor(0, dtype=tinyflow.int64, device=device or "cpu"))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Takes the present parameters of ``model`` into the averages; the first time they are copied."""
        averaged, current = self._tensors(self.module), self._tensors(model)
        count = int(self.n_averaged.item())
        with no_grad():
            here = [c.detach().to(a.device) for a, c in zip(averaged, current)]
            if count == 0:
                for a, c in zip(averaged, here):
                    a.copy_(c)
            elif self.avg_fn is not None:
                for a, c in zip(averaged, here):
                    a.copy_(self.avg_fn(a, c, self.n_averaged.to(a.device)))
            elif self.multi_avg_fn is not None:
                self.multi_avg_fn(averaged, here, self.n_averaged)
            else:
                _move(averaged, here, count / (count + 1))
            if not self.use_buffers:
                for b, c in zip(self.module.buffers(), model.buffers()):
                    b.copy_(c.detach().to(b.device))
            self.n_averaged += 1

    def _tensors(self, model: Module) -> list[Tensor]:
        buffers = model.buffers() if self.use_buffers else ()
        return [x.detach() for x in itertools.chain(model.parameters(), buffers)]


def update_bn(loader: Iterable[Any], model: Module, device: str | tinyflow.device | None = None) -> None:
    """Computes the running statistics of a model's batch normalisations anew, from one pass over ``loader``.

    Args:
        loader: gives batches, or tuples and lists whose first element is one.
        model: is put into training mode for the pass.
        device: where batches go.
    """
    found = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = {m: m.momentum for m in found}
    if not found:
        return
    was_training = model.training
    model.train()
    for m in found:
        m.reset_running_stats()
        m.momentum = None
    try:
        with no_grad():
            for batch in loader:
                x = batch[0] if isinstance(batch, (list, tuple)) else batch
                model(x if device is None else x.to(device))
    finally:
        for m in found:
            m.momentum = momenta[m]
        model.train(was_training)


class SWALR(LRScheduler):
    """From the present rates to ``swa_lr`` over ``anneal_epochs`` steps, where they stay.

    Args:
        swa_lr: the last rate, or one for each group.
        anneal_epochs: how many steps it takes to get there.
        anneal_strategy: ``"cos"`` or ``"linear"``.

    Raises:
        ValueError: for settings out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | Sequence[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        for group, rate in zip(optimizer.param_groups, each_group("swa_lr", swa_lr, optimizer)):
            group["swa_lr"] = rate
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How far the way is done at a step."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[float]:
        # what the present rate leads back to stands in for the first one, so that other schedules may act too
        step = self.last_epoch if self.anneal_epochs else max(1, self.last_epoch)
        before, now = self._share(step - 1), self._share(step)
        rates = []
        for group, present in zip(self.optimizer.param_groups, self._present):
            first = group["swa_lr"] if before == 1 else (present - before * group["swa_lr"]) / (1 - before)
            rates.append(group["swa_lr"] * now + first * (1 - now))
        return rates
