"""Optimisers whose rate follows the norms of each tensor, for very large batches: LAMB and LARS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tinyflow.kernels import step_numbers, update_rules
from tinyflow.kernels.optimizer import Update
from tinyflow.kernels.step_numbers import StepNumbers
from tinyflow.ops.arithmetic import where
from tinyflow.ops.creation import empty_like
from tinyflow.ops.optimizer import tensor_norms
from tinyflow.optim.optimizer import Group
from tinyflow.optim.rule import RuleOptimizer, Settled, check_from_zero, descend, settings
from tinyflow.tensor import Tensor


class LAMB(RuleOptimizer):
    """Adam's direction, with decay, scaled for each tensor by its norm (You et al. 2020), at step t::

        r ← (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps) + weight_decay · p
        p ← p − lr · ‖p‖ / ‖r‖ · r                  (lr · r where either norm is 0)

    with m and v as in :class:`tinyflow.optim.Adam`.

    Args:
        params: tensors, named tensors, or groups.
        lr, betas, eps, weight_decay: as above.
        maximize: steps up.

    Raises:
        ValueError: for settings out of range.
    """

    states = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, settings("LAMB", lr, weight_decay, eps=eps, betas=betas, maximize=maximize))

    def _decays(self, group: Group, counts: tuple[float, ...]) -> tuple[float, float]:
        return 0.0, 1.0

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        beta1, beta2 = group["betas"]
        step = counts[0]
        return beta1, beta2, group["eps"], 1 - beta1**step, 1 - beta2**step, group["weight_decay"]

    def _on_device(self, group: Group) -> tuple[StepNumbers, Sequence[float]]:
        return step_numbers.lamb, (*group["betas"], group["eps"], group["weight_decay"])

    def _rule(self, group: Group) -> Update:
        return update_rules.lamb_direction

    def _launch(self, group: Group, params: list[Tensor], told: Settled) -> None:
        directions = [empty_like(p) for p in params]
        self._apply(group, params, told, [directions])
        norms, lengths = tensor_norms(params), tensor_norms(directions)
        descend(group, params, directions, where((norms > 0) & (lengths > 0), norms / lengths, 1), told.found_inf)


class LARS(RuleOptimizer):
    """Momentum whose rate is scaled for each tensor by norms (You et al. 2017)::

        λ = trust_coefficient · ‖p‖ / (‖g‖ + weight_decay · ‖p‖ + eps)         (1 where either norm is 0)
        b ← momentum · b + (1 − dampening) · lr · λ · (g + weight_decay · p)
        p ← p − b                                   (with nesterov p − lr · λ · (…) − momentum · b)

    Args:
        params: tensors, named tensors, or groups.
        lr, momentum, dampening, weight_decay, nesterov, trust_coefficient, eps: as above.
        maximize: steps up.

    Raises:
        ValueError: for settings out of range.
    """

    states = ("momentum_buffer",)
    fixed = ("maximize", "nesterov", "trust_coefficient", "weight_decay", "eps")  # the latter are in the factors

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        check_from_zero(momentum=momentum)
        if not trust_coefficient > 0.0:
            raise ValueError(f"Invalid trust_coefficient value: {trust_coefficient}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = settings(
            "LARS",
            lr,
            weight_decay,
            eps=eps,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
            trust_coefficient=trust_coefficient,
            maximize=maximize,
        )
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> Update:
        return update_rules.lars_nesterov if group["nesterov"] else update_rules.lars

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        return float(group["lr"]), group["momentum"], group["dampening"]

    def _launch(self, group: Group, params: list[Tensor], told: Settled) -> None:
        norms, slopes = tensor_norms(params), tensor_norms([p.grad for p in params if p.grad is not None])
        trust = group["trust_coefficient"] * norms / (slopes + group["weight_decay"] * norms + group["eps"])
        self._apply(group, params, told, factors=where((norms > 0) & (slopes > 0), trust, 1))
