"""Adam (Kingma and Ba 2015), with decoupled weight decay AdamW (Loshchilov and Hutter 2019), and AMSGrad (Reddi 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from tinyflow.kernels import step_numbers, update_rules
from tinyflow.kernels.optimizer import Update
from tinyflow.kernels.step_numbers import StepNumbers
from tinyflow.optim.optimizer import Group
from tinyflow.optim.rule import RuleOptimizer, check_from_zero, settings
from tinyflow.tensor import Tensor


class Adam(RuleOptimizer):
    """For each parameter p with gradient g, at step t::

        g ← g + weight_decay · p                    (with decoupled decay instead p ← p (1 − lr · weight_decay))
        m ← β₁ m + (1 − β₁) g
        v ← β₂ v + (1 − β₂) g²                      (with amsgrad its largest value so far stands below)
        p ← p − lr / (1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + eps)

    Args:
        params: tensors, named tensors, or groups.
        lr: learning rate.
        betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: as above; ``maximize`` steps up.
        foreach, fused, capturable: accepted; every step updates all parameters in few launches, and can be captured.
        differentiable: must be False.

    Raises:
        ValueError: for settings out of range.
        NotImplementedError: for ``differentiable=True``.
    """

    fixed = ("maximize", "amsgrad")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = settings(
            type(self).__name__,
            lr,
            weight_decay,
            eps=eps,
            betas=betas,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        super().__init__(params, {**defaults, "fused": fused})

    def _states(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _on_device(self, group: Group) -> tuple[StepNumbers, Sequence[float]]:
        return step_numbers.adam, (float(group["lr"]), *group["betas"], group["eps"])

    def _rule(self, group: Group) -> Update:
        return update_rules.amsgrad if group["amsgrad"] else update_rules.adam

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        beta1, beta2 = group["betas"]
        step = counts[0]
        return beta1, beta2, group["eps"], float(group["lr"]) / (1 - beta1**step), math.sqrt(1 - beta2**step)


class AdamW(Adam):
    """:class:`Adam` with decoupled weight decay, of 0.01 by default."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )


class NAdam(RuleOptimizer):
    """Adam with Nesterov's momentum (Dozat 2016): the step is made of g and m, each with a momentum of its own, at step t::

        μₜ = β₁ (1 − ½ · 0.96^(t · momentum_decay))
        p ← p − lr / (√(v / (1 − β₂ᵗ)) + eps) · ((1 − μₜ) / (1 − Πμ) · g + μₜ₊₁ / (1 − Πμ · μₜ₊₁) · m)

    Args and errors are those of :class:`Adam`.
    """

    states = ("exp_avg", "exp_avg_sq")
    counted: ClassVar[Mapping[str, float]] = {"mu_product": 1.0}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_from_zero(momentum_decay=momentum_decay)
        defaults = settings(
            "NAdam",
            lr,
            weight_decay,
            eps=eps,
            betas=betas,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
        )
        super().__init__(params, defaults)

    def _on_device(self, group: Group) -> tuple[StepNumbers, Sequence[float]]:
        return step_numbers.nadam, (float(group["lr"]), *group["betas"], group["eps"], group["momentum_decay"])

    def _rule(self, group: Group) -> Update:
        return update_rules.nadam

    def _momentum(self, group: Group, step: float) -> float:
        return group["betas"][0] * (1.0 - 0.5 * 0.96 ** (step * group["momentum_decay"]))

    def _advance(self, group: Group, counts: tuple[float, ...]) -> tuple[float, ...]:
        step, product = counts
        return step + 1, product * self._momentum(group, step + 1)

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        step, product = counts
        (beta1, beta2), lr = group["betas"], float(group["lr"])
        now, following = self._momentum(group, step), self._momentum(group, step + 1)
        gradient_size = lr * (1.0 - now) / (1.0 - product)
        mean_size = lr * following / (1.0 - product * following)
        return beta1, beta2, group["eps"], gradient_size, mean_size, 1 - beta2**step


class RAdam(RuleOptimizer):
    """Adam whose adaptive rate is rectified by its variance, and left out while that has no bound (Liu et al. 2020).

    Args and errors are those of :class:`Adam`.
    """

    states = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = settings(
            "RAdam",
            lr,
            weight_decay,
            eps=eps,
            betas=betas,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
            differentiable=differentiable,
        )
        super().__init__(params, defaults)

    def _on_device(self, group: Group) -> tuple[StepNumbers, Sequence[float]]:
        return step_numbers.radam, (float(group["lr"]), *group["betas"], group["eps"])

    def _rule(self, group: Group) -> Update:
        return update_rules.radam

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        (step,), (beta1, beta2) = counts, group["betas"]
        correction = 1 - beta2**step
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * beta2**step / correction
        rectification = 0.0
        if length > 5.0:
            ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            rectification = math.sqrt(ratio * correction)
        return beta1, beta2, group["eps"], float(group["lr"]) / (1 - beta1**step), rectification


class Adamax(RuleOptimizer):
    """Adam with the fading largest gradient in place of the root of v (Kingma and Ba 2015): u ← max(β₂ u, |g| + eps).

    Args and errors are those of :class:`Adam`.
    """

    states = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = settings(
            "Adamax",
            lr,
            weight_decay,
            eps=eps,
            betas=betas,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )
        super().__init__(params, defaults)

    def _on_device(self, group: Group) -> tuple[StepNumbers, Sequence[float]]:
        return step_numbers.adamax, (float(group["lr"]), *group["betas"], group["eps"])

    def _rule(self, group: Group) -> Update:
        return update_rules.adamax

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        beta1, beta2 = group["betas"]
        return beta1, beta2, group["eps"], float(group["lr"]) / (1 - beta1 ** counts[0])
