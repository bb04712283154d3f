"""Stochastic gradient descent with momentum (Polyak 1964; Nesterov 1983, as in Sutskever et al. 2013)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.ops.creation import empty_like, zeros_like
from tinyflow.ops.optimizer import settings_bits, sgd_
from tinyflow.optim.optimizer import Optimizer, loss_of
from tinyflow.recording import active
from tinyflow.tensor import Tensor

#: What a schedule may change from step to step, in the order of ``settings_bits``.
_SETTINGS = ("lr", "momentum", "dampening", "weight_decay")


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

    skips_on_device = True

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
        loss = loss_of(closure)
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
        if first and self.found_inf is not None and group["dampening"] != 0:
            # the buffer of a step that is left out would start from zero, where the first step takes the whole gradient
            params = [p for p in params if not self.found_inf[p.device].item()]
        if first:
            make = empty_like if self.found_inf is None else zeros_like
            for p in params:
                self.state[p]["momentum_buffer"] = make(p)
        self._update(group, params, [self.state[p]["momentum_buffer"] for p in params], first)

    def _update(self, group: dict[str, Any], params: list[Tensor], buffers: list[Tensor] | None, first: bool) -> None:
        options: dict[str, Any] = {name: group[name] for name in ("nesterov", "maximize")}
        options |= {name: float(group[name]) for name in _SETTINGS}
        recording = active.recording
        if recording is not None:  # each replay reads the group again
            options["settings"] = recording.words(lambda: settings_bits(*(float(group[name]) for name in _SETTINGS)))
        grads = [p.grad for p in params if p.grad is not None]
        if self.found_inf is None:
            sgd_(params, grads, buffers, first=first, **options)
            return
        for device, found_inf in self.found_inf.items():
            here = [k for k, p in enumerate(params) if p.device == device]
            sgd_(
                [params[k] for k in here],
                [grads[k] for k in here],
                None if buffers is None else [buffers[k] for k in here],
                first=first,
                found_inf=found_inf,
                **options,
            )
