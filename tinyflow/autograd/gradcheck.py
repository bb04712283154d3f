"""Checks analytical gradients against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyflow.tensor import Tensor

Inputs = Tensor | Sequence[Any]


class GradcheckError(RuntimeError):
    """The analytical and the numerical gradient differ."""


def _tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _differentiable(values: Sequence[Any]) -> list[Tensor]:
    return [v for v in values if isinstance(v, Tensor) and v.requires_grad]


def _copy_of(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy(force=True).copy()


def _numerical(function: Callable[..., Any], inputs: Sequence[Any], x: Tensor, eps: float) -> list[np.ndarray]:
    """For each output the Jacobian [input elements, output elements] by central differences."""
    from tinyflow.autograd.grad_mode import no_grad

    base = _copy_of(x)
    columns: list[list[np.ndarray]] = []

    def outputs_at(k: int, step: float) -> list[np.ndarray]:
        moved = base.copy()
        moved.reshape(-1)[k] += step
        with no_grad():
            x.copy_(_like(x, moved))
        return [_copy_of(y).reshape(-1) for y in _floating(function(*inputs))]

    try:
        for k in range(base.size):
            columns.append([(a - b) / (2 * eps) for a, b in zip(outputs_at(k, eps), outputs_at(k, -eps))])
    finally:
        with no_grad():
            x.copy_(_like(x, base))
    return [np.stack([c[j] for c in columns]) for j in range(len(columns[0]))] if columns else []


def _like(x: Tensor, values: np.ndarray) -> Tensor:
    from tinyflow.ops.creation import tensor

    return tensor(values, dtype=x.dtype, device=x.device)


def _analytical(y: Tensor, x: Tensor) -> tuple[np.ndarray, bool]:
    """The Jacobian [input elements, output elements] by one backward pass for each output element; True if repeatable."""
    from tinyflow import autograd

    jacobian = np.zeros((x.numel(), y.numel()))
    repeatable = True
    for k in range(y.numel()):
        unit = np.zeros(tuple(y.shape))
        unit.reshape(-1)[k] = 1
        rows = [autograd.grad(y, x, _like(y, unit), retain_graph=True, allow_unused=True)[0] for _ in range(2)]
        found = [np.zeros(x.numel()) if g is None else _copy_of(g).reshape(-1) for g in rows]
        repeatable &= bool(np.array_equal(found[0], found[1], equal_nan=True))
        jacobian[:, k] = found[0]
    return jacobian, repeatable


def gradcheck(
    func: Callable[..., Any],
    inputs: Inputs,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool = False,
) -> bool:
    """Compares the gradients of ``func`` with central differences, as torch.autograd.gradcheck.

    Every floating-point input that requires grad is checked against every floating-point output. Two backward passes must
    give the same bits, unless ``nondet_tol`` is above 0. ``fast_mode`` compares each Jacobian J in one random direction
    only, v^T J u, which takes two calls and one backward pass for each pair however large the tensors are.

    Raises:
        GradcheckError: naming the input, the output and both Jacobians, unless ``raise_exception`` is False.
        ValueError: if no input requires grad, one is not float64, or no output is floating point.
    """
    values = _tuple(inputs)
    checked = _differentiable(values)
    if not checked:
        raise ValueError("gradcheck expects at least one input tensor to require gradient")
    for x in checked:
        if str(x.dtype) != "torch.float64":
            raise ValueError(f"gradcheck: finite differences need float64 inputs, got {x.dtype}")
    if not _floating(func(*values)):
        raise ValueError("gradcheck expects at least one floating-point output")
    try:
        for position, x in enumerate(checked):
            if fast_mode:
                _check_direction(func, values, x, position, eps, atol, rtol)
                continue
            numerical = _numerical(func, values, x, eps)
            outputs = _floating(func(*values))
            for j, y in enumerate(outputs):
                _compare(y, x, j, position, numerical, atol, rtol, nondet_tol)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _check_direction(
    func: Callable[..., Any], values: Sequence[Any], x: Tensor, position: int, eps: float, atol: float, rtol: float
) -> None:
    from tinyflow import autograd

    random = np.random.default_rng(position)
    base, u = _copy_of(x), random.standard_normal(tuple(x.shape))
    ends = []
    try:
        for sign in (1, -1):
            with autograd.no_grad():
                x.copy_(_like(x, base + sign * eps * u))
            ends.append([_copy_of(y) for y in _floating(func(*values))])
    finally:
        with autograd.no_grad():
            x.copy_(_like(x, base))
    for j, y in enumerate(_floating(func(*values))):
        v = random.standard_normal(tuple(y.shape))
        expected = float(np.sum(v * (ends[0][j] - ends[1][j])) / (2 * eps))
        g = autograd.grad(y, x, _like(y, v), allow_unused=True, retain_graph=True)[0] if y.requires_grad else None
        found = 0.0 if g is None else float(np.sum(u * _copy_of(g)))
        scale = float(np.linalg.norm(v)) if v.size else 0.0
        if not abs(found - expected) <= atol * max(scale, 1.0) + rtol * abs(expected):
            raise GradcheckError(
                f"Jacobian mismatch for output {j} with respect to input {position} in a random direction: "
                f"numerical {expected:.9g}, analytical {found:.9g}"
            )


def _floating(results: Any) -> list[Tensor]:
    return [y for y in _tuple(results) if isinstance(y, Tensor) and y.dtype.is_floating_point]


def _compare(
    y: Tensor,
    x: Tensor,
    j: int,
    position: int,
    numerical: list[np.ndarray],
    atol: float,
    rtol: float,
    nondet_tol: float,
) -> None:
    expected = numerical[j] if numerical else np.zeros((x.numel(), y.numel()))
    if not y.requires_grad:
        found, repeatable = np.zeros((x.numel(), y.numel())), True
    else:
        found, repeatable = _analytical(y, x)
    if not repeatable and nondet_tol == 0:
        raise GradcheckError(f"Backward is not reentrant: two passes for output {j} and input {position} differ")
    if not np.allclose(found, expected, rtol, atol):
        worst = np.abs(found - expected).max()
        raise GradcheckError(
            f"Jacobian mismatch for output {j} with respect to input {position} (largest difference {worst:.3g}),\n"
            f"numerical:\n{expected}\nanalytical:\n{found}"
        )


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Inputs,
    grad_outputs: Inputs | None = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool = False,
) -> bool:
    """Checks second derivatives: gradcheck of the gradient of ``func``, with respect to inputs and output gradients."""
    from tinyflow import autograd

    values = _tuple(inputs)
    checked = _differentiable(values)
    outputs = [y for y in _tuple(func(*values)) if isinstance(y, Tensor) and y.requires_grad]
    if grad_outputs is None:
        random = np.random.default_rng(0)
        grads = [_like(y, random.standard_normal(tuple(y.shape))).requires_grad_() for y in outputs]
    else:
        grads = list(_tuple(grad_outputs))

    def gradient(*args: Any) -> tuple[Any, ...]:
        again, gs = args[: len(values)], args[len(values) :]
        results = [y for y in _tuple(func(*again)) if isinstance(y, Tensor) and y.requires_grad]
        found = autograd.grad(results, _differentiable(again), gs, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    if not checked:
        raise ValueError("gradgradcheck expects at least one input tensor to require gradient")
    return gradcheck(
        gradient,
        (*values, *grads),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        fast_mode=fast_mode,
    )
