"""Stochastic gradient descent with momentum (Polyak 1964; Nesterov 1983, as in Sutskever et al. 2013)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tinyflow.autograd.grad_mode import enable_grad, no_grad
from tinyflow.ops.creation import empty_like
from tinyflow.ops.optimizer import sgd_
from tinyflow.optim.optimizer import Optimizer
from tinyflow.tensor import Tensor


class SGD(Optimizer):
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

    Raises:
        ValueError: for settings out of range, or Nesterov without momentum or with dampening.
        NotImplementedError: for ``differentiable=True``.
    """

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

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; ``closure`` may compute loss and gradients first."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                params = [p for p in group["params"] if p.grad is not None]
                if group["momentum"] == 0:
                    self._update(group, params, None, first=True)
                else:
                    known = {id(p) for p in params if self.state[p].get("momentum_buffer") is not None}
                    self._update_with_momentum(group, [p for p in params if id(p) not in known], first=True)
                    self._update_with_momentum(group, [p for p in params if id(p) in known], first=False)
        return loss

    def _update_with_momentum(self, group: dict[str, Any], params: list[Tensor], first: bool) -> None:
        if first:
            for p in params:
                self.state[p]["momentum_buffer"] = empty_like(p)
        self._update(group, params, [self.state[p]["momentum_buffer"] for p in params], first)

    def _update(self, group: dict[str, Any], params: list[Tensor], buffers: list[Tensor] | None, first: bool) -> None:
        settings = {name: group[name] for name in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")}
        grads = [p.grad for p in params if p.grad is not None]
        sgd_(params, grads, buffers, lr=float(group["lr"]), first=first, **settings)
