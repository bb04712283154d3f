"""Optimisers with a rate for each element: Adagrad, Adadelta, RMSprop, Rprop; and averaged gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from tinyflow.kernels import step_numbers, update_rules
from tinyflow.kernels.optimizer import Update
from tinyflow.kernels.step_numbers import StepNumbers
from tinyflow.ops.creation import full_like, zeros_like
from tinyflow.optim.optimizer import Group
from tinyflow.optim.rule import RuleOptimizer, check_from_zero, settings
from tinyflow.tensor import Tensor


class Adagrad(RuleOptimizer):
    """``s ← s + g²; p ← p − lr / (1 + (t − 1) lr_decay) · g / (√s + eps)`` at step t (Duchi et al. 2011).

    Args:
        params: tensors, named tensors, or groups.
        lr, lr_decay, weight_decay, eps: as above; weight decay is added to g.
        initial_accumulator_value: what s starts from.
        foreach, fused: accepted; every step updates all parameters in few launches.
        maximize: steps up.
        differentiable: must be False.

    Raises:
        ValueError: for settings out of range.
        NotImplementedError: for ``differentiable=True``.
    """

    states = ("sum",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_from_zero(lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value)
        defaults = settings(
            "Adagrad",
            lr,
            weight_decay,
            eps=eps,
            lr_decay=lr_decay,
            initial_accumulator_value=initial_accumulator_value,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )
        super().__init__(params, {**defaults, "fused": fused})

    def _begin(self, group: Group, name: str, param: Tensor) -> Tensor:
        return full_like(param, group["initial_accumulator_value"])

    def _on_device(self, group: Group) -> tuple[StepNumbers, Sequence[float]]:
        return step_numbers.adagrad, (float(group["lr"]), group["lr_decay"], group["eps"])

    def _rule(self, group: Group) -> Update:
        return update_rules.adagrad

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        return float(group["lr"]) / (1 + (counts[0] - 1) * group["lr_decay"]), group["eps"]


class Adadelta(RuleOptimizer):
    """``v ← ρ v + (1 − ρ) g²; d = √(u + eps) / √(v + eps) · g; u ← ρ u + (1 − ρ) d²; p ← p − lr · d`` (Zeiler 2012).

    Args and errors are those of :class:`Adagrad`; ``capturable`` is accepted.
    """

    states = ("square_avg", "acc_delta")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        defaults = settings(
            "Adadelta",
            lr,
            weight_decay,
            eps=eps,
            rho=rho,
            maximize=maximize,
            capturable=capturable,
            foreach=foreach,
            differentiable=differentiable,
        )
        super().__init__(params, defaults)

    def _rule(self, group: Group) -> Update:
        return update_rules.adadelta

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        return group["rho"], group["eps"], float(group["lr"])


class RMSprop(RuleOptimizer):
    """``v ← α v + (1 − α) g²; b ← momentum · b + g / (√v + eps); p ← p − lr · b`` (Hinton 2012, Graves 2013).

    ``centered`` takes the variance ``v − m²`` in place of v, with m the mean of g.

    Args and errors are those of :class:`Adagrad`; ``capturable`` is accepted.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_from_zero(momentum=momentum, alpha=alpha)
        defaults = settings(
            "RMSprop",
            lr,
            weight_decay,
            eps=eps,
            momentum=momentum,
            alpha=alpha,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )
        super().__init__(params, defaults)

    def _fixed(self, group: Group) -> dict[str, Any]:
        return {
            **super()._fixed(group),
            "centered": group["centered"],
            "whether momentum is above 0": group["momentum"] > 0,
        }

    def _states(self, group: Group) -> tuple[str, ...]:
        centred = ("grad_avg",) if group["centered"] else ()
        return ("square_avg", *centred, *(("momentum_buffer",) if group["momentum"] > 0 else ()))

    def _rule(self, group: Group) -> Update:
        if group["momentum"] > 0:
            return update_rules.rmsprop_centred_momentum if group["centered"] else update_rules.rmsprop_momentum
        return update_rules.rmsprop_centred if group["centered"] else update_rules.rmsprop

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        return group["alpha"], group["eps"], float(group["lr"]), group["momentum"]


class Rprop(RuleOptimizer):
    """A step of its own for each element, which grows while the gradient keeps its sign (Riedmiller and Braun 1993).

    Args:
        params, lr: as in :class:`Adagrad`; every step starts as ``lr``.
        etas: what a step is multiplied by where the sign changed (the gradient then counts for nothing), or did not.
        step_sizes: the least and the greatest step.
        capturable, foreach: accepted.
        maximize: steps up.
        differentiable: must be False.

    Raises:
        ValueError: for settings out of range.
        NotImplementedError: for ``differentiable=True``.
    """

    states = ("prev", "step_size")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        defaults = settings(
            "Rprop",
            lr,
            etas=etas,
            step_sizes=step_sizes,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )
        del defaults["weight_decay"]
        super().__init__(params, defaults)

    def _begin(self, group: Group, name: str, param: Tensor) -> Tensor:
        return zeros_like(param) if name == "prev" else full_like(param, float(group["lr"]))

    def _decays(self, group: Group, counts: tuple[float, ...]) -> tuple[float, float]:
        return 0.0, 1.0

    def _rule(self, group: Group) -> Update:
        return update_rules.rprop

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        return *group["etas"], *group["step_sizes"]


class ASGD(RuleOptimizer):
    """Gradient descent, and the average of its parameters in ``state[p]["ax"]`` (Polyak and Juditsky 1992), at step t::

        p ← p (1 − lambd · η) − η g,  a ← a + μ (p − a)
        then η ← lr / (1 + lambd · lr · t)^alpha,  μ ← 1 / max(1, t − t0)

    Args and errors are those of :class:`Adagrad`; ``capturable`` is accepted.
    """

    states = ("ax",)
    counted: ClassVar[Mapping[str, float]] = {"eta": 0.0, "mu": 1.0}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = settings(
            "ASGD",
            lr,
            weight_decay,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )
        super().__init__(params, defaults)

    def _advance(self, group: Group, counts: tuple[float, ...]) -> tuple[float, ...]:
        step, eta, mu = counts
        return step + 1, eta if step else float(group["lr"]), mu

    def _left(self, group: Group, counts: tuple[float, ...]) -> tuple[float, ...]:
        step, lr = counts[0], float(group["lr"])
        return step, lr / (1 + group["lambd"] * lr * step) ** group["alpha"], 1 / max(1.0, step - group["t0"])

    def _decays(self, group: Group, counts: tuple[float, ...]) -> tuple[float, float]:
        return group["weight_decay"], 1 - group["lambd"] * counts[1]

    def _on_device(self, group: Group) -> tuple[StepNumbers, Sequence[float]]:
        return step_numbers.asgd, (float(group["lr"]), group["lambd"], group["alpha"], group["t0"])

    def _rule(self, group: Group) -> Update:
        return update_rules.asgd

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        return counts[1:]
