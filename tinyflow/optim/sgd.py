"""Stochastic gradient descent with momentum (Polyak 1964; Nesterov 1983, as in Sutskever et al. 2013)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tinyflow.kernels import update_rules
from tinyflow.kernels.optimizer import Update
from tinyflow.ops.creation import empty_like, zeros_like
from tinyflow.optim.optimizer import Group
from tinyflow.optim.rule import RuleOptimizer, settled
from tinyflow.tensor import Tensor


class SGD(RuleOptimizer):
    """For each parameter p with gradient g::

        g ← g + weight_decay · p
        b ← momentum · b + (1 − dampening) · g      (at the first step b ← g)
        g ← g + momentum · b if nesterov else b     (without momentum g stays)
        p ← p − lr · g                              (p + lr · g with maximize, whose g is −g throughout)

    Args:
        params: tensors, named tensors, or groups.
        lr: learning rate.
        momentum, dampening, weight_decay, nesterov, maximize: as above.
        foreach, fused: accepted; every step updates all parameters in few launches.
        differentiable: must be False.

    A GradScaler's verdict on a step stays on the device, save for the first ones with dampening, until one is taken: what
    momentum begins from depends on it.

    Raises:
        ValueError: for settings out of range, or Nesterov without momentum or with dampening.
        NotImplementedError: for ``differentiable=True``.
    """

    fixed = ("maximize", "nesterov")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, got shape {tuple(lr.shape)}")
        if float(lr) < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        if differentiable:
            raise NotImplementedError(
                "SGD: differentiable=True is not implemented; the step is not recorded in the graph"
            )
        if foreach and fused:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _fixed(self, group: Group) -> dict[str, Any]:
        return {**super()._fixed(group), "whether momentum is 0": group["momentum"] == 0}

    def _states(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _counts(self, group: Group, param: Tensor) -> tuple[Any, ...]:
        """Steps are not counted: parameters differ in whether there is momentum already."""
        return (group["momentum"] == 0 or self.state[param].get("momentum_buffer") is not None,)

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        return float(group["lr"]), float(group["momentum"]), float(group["dampening"])

    def _update(self, group: Group, params: list[Tensor], counts: tuple[Any, ...]) -> None:
        begins, found_inf = not counts[0], self._found_inf_for(params)
        if begins:
            self._check_may_begin()
            if found_inf is not None and group["dampening"] != 0 and found_inf.item():
                return
            # if it may be left out yet, the next step begins as well: from zeros, which dampening would not allow
            begins = found_inf is None or group["dampening"] != 0
            for p in params:
                self.state[p]["momentum_buffer"] = empty_like(p) if begins else zeros_like(p)
        told = settled(lambda: (*self._decays(group, ()), self._numbers(group, ())), found_inf)
        self._apply(group, params, told, rule=_rule(group["momentum"] != 0, group["nesterov"], begins))


def _rule(momentum: bool, nesterov: bool, begins: bool) -> Update:
    if not momentum:
        return update_rules.descend
    if nesterov:
        return update_rules.nesterov_begins if begins else update_rules.nesterov
    return update_rules.momentum_begins if begins else update_rules.momentum
