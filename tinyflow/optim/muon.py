"""Muon: momentum, orthogonalised, for matrices (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tinyflow.kernels import memory, update_rules
from tinyflow.kernels.optimizer import Update
from tinyflow.ops.creation import empty_like
from tinyflow.ops.matmul import baddbmm, bmm
from tinyflow.ops.shape import matrix_transpose, stack, unbind
from tinyflow.optim.optimizer import Group
from tinyflow.optim.rule import RuleOptimizer, Settled, descend, settings
from tinyflow.tensor import Tensor


class Muon(RuleOptimizer):
    """For each matrix p with gradient g::

        b ← momentum · b + (1 − momentum) · g
        u = orthogonalised b                        (with nesterov of g + momentum · (b − g))
        p ← p (1 − lr · weight_decay) − lr · ratio · u

    A matrix is brought near the closest one with orthonormal rows or columns by ``ns_steps`` Newton–Schulz iterations
    ``X ← a X + (b X Xᵀ + c (X Xᵀ)²) X`` in bfloat16; matrices of one shape go through them together.

    Args:
        params: matrices, named matrices, or groups of them.
        lr, weight_decay, momentum, nesterov: as above.
        ns_coefficients: a, b and c.
        eps: least norm that a matrix is divided by before the iterations.
        ns_steps: how many there are.
        adjust_lr_fn: ``"original"`` or None: ratio √max(1, rows / columns); ``"match_rms_adamw"``: 0.2 √max(rows, columns).

    Raises:
        ValueError: for settings out of range, or a parameter that is no matrix.
    """

    states = ("momentum_buffer",)
    fixed = ("nesterov", "ns_coefficients", "ns_steps", "eps", "adjust_lr_fn")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if not momentum >= 0.0:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        if len(ns_coefficients) != 3:
            raise ValueError(f"Muon: expected 3 ns_coefficients, got {ns_coefficients}")
        if not 0 <= ns_steps < 100:
            raise ValueError(f"Muon: expected ns_steps from 0 to 99, got {ns_steps}")
        defaults = settings(
            "Muon",
            lr,
            weight_decay,
            eps=eps,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        for unused in ("foreach", "differentiable"):
            del defaults[unused]
        super().__init__(params, defaults)

    def _check(self, group: Group) -> None:
        super()._check(group)
        for p in group["params"]:
            if p.dim() != 2:
                raise ValueError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {tuple(p.shape)}"
                )

    def _rule(self, group: Group) -> Update:
        return update_rules.muon_nesterov if group["nesterov"] else update_rules.muon

    def _decays(self, group: Group, counts: tuple[float, ...]) -> tuple[float, float]:
        return 0.0, 1.0  # comes with the step itself, after the direction is known

    def _numbers(self, group: Group, counts: tuple[float, ...]) -> Sequence[float]:
        return (group["momentum"],)

    def _launch(self, group: Group, params: list[Tensor], told: Settled) -> None:
        directions = [empty_like(p) for p in params]
        self._apply(group, params, told, [directions])
        ratios = [_ratio(group["adjust_lr_fn"], *p.shape) for p in params]
        factors = Tensor(memory.upload(np.array(ratios, np.float64), params[0].device))
        descend(group, params, _orthogonalised(group, directions), factors, told.found_inf, decoupled=True)


def _ratio(name: str | None, rows: int, columns: int) -> float:
    if name == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def _orthogonalised(group: Group, matrices: list[Tensor]) -> list[Tensor]:
    """The matrices after the iterations, in their own dtypes; those of one shape in one batch of products."""
    found: dict[int, Tensor] = {}
    shapes: dict[tuple[int, ...], list[int]] = {}
    for k, x in enumerate(matrices):
        shapes.setdefault((*x.shape, hash(x.dtype), hash(x.device)), []).append(k)
    for members in shapes.values():
        batch = _iterate(group, stack([matrices[k] for k in members]).to(memory.bfloat16))
        found.update(zip(members, unbind(batch.to(matrices[members[0]].dtype))))
    return [found[k] for k in range(len(matrices))]


def _iterate(group: Group, x: Tensor) -> Tensor:
    a, b, c = group["ns_coefficients"]
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = matrix_transpose(x)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = bmm(x, matrix_transpose(x))
        x = baddbmm(x, baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return matrix_transpose(x) if tall else x
