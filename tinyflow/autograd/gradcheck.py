"""Checks analytical gradients against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyflow.autograd.function import Function
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


class _Undefined(Function):
    """Passes a tensor on, and no gradient back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> None:
        return None


def _refuse(op: str, **options: Any) -> None:
    """Refuses options of torch's that nothing here answers to."""
    for name, value in options.items():
        if value:
            why = "there are no sparse tensors" if name == "masked" else "operations are not vectorised over gradients"
            raise NotImplementedError(f"{op}: {name}=True is not implemented, since {why} here")


def gradcheck(
    func: Callable[..., Any],
    inputs: Inputs,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Compares the gradients of ``func`` with central differences, as torch.autograd.gradcheck.

    Every floating-point input that requires grad is checked against every floating-point output. Two backward passes must
    give the same bits, unless ``nondet_tol`` is above 0. ``fast_mode`` compares each Jacobian J in one random direction
    only, v^T J u, which takes two calls and one backward pass for each pair however large the tensors are.

    Args:
        check_undefined_grad: where there are several outputs, no gradient for one must mean a gradient of zeros for it.
        check_grad_dtypes: gradients must have the dtypes of the inputs.
        check_forward_ad: checks what forward mode gives too, ``check_backward_ad`` what the backward pass gives.

    Raises:
        GradcheckError: naming the input, the output and both Jacobians, unless ``raise_exception`` is False.
        ValueError: if no input requires grad, one is not float64, or no output is floating point.
        NotImplementedError: for the options about batched gradients and sparse tensors.
    """
    _refuse(
        "gradcheck",
        check_batched_grad=check_batched_grad,
        check_batched_forward_grad=check_batched_forward_grad,
        masked=masked,
    )
    if not (check_backward_ad or check_forward_ad):
        raise ValueError("Expected at least one of check_forward_ad or check_backward_ad to be True")
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
                _check_direction(func, values, x, position, eps, atol, rtol, check_backward_ad, check_forward_ad)
                continue
            numerical = _numerical(func, values, x, eps)
            if check_forward_ad:
                _check_forward(func, values, x, position, numerical, atol, rtol)
            if check_backward_ad:
                for j, y in enumerate(_floating(func(*values))):
                    _compare(y, x, j, position, numerical, atol, rtol, nondet_tol)
        if check_backward_ad and check_undefined_grad:
            _check_undefined(func, values, checked)
        if check_backward_ad and check_grad_dtypes:
            _check_dtypes(func, values, checked)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _check_undefined(func: Callable[..., Any], values: Sequence[Any], checked: list[Tensor]) -> None:
    """Each of several outputs, where no gradient arrives at it, counts as with a gradient of zeros."""
    from tinyflow import autograd

    outputs = [y for y in _floating(func(*values)) if y.requires_grad]
    if len(outputs) < 2:
        return
    for j in range(len(outputs)):
        ones = [_like(y, np.full(tuple(y.shape), float(k != j))) for k, y in enumerate(outputs)]
        undefined = [_Undefined.apply(y) if k == j else y for k, y in enumerate(outputs)]
        found = [
            autograd.grad(ys, checked, ones, allow_unused=True, retain_graph=True, materialize_grads=True)
            for ys in (undefined, outputs)
        ]
        for position, (a, b) in enumerate(zip(*found)):
            if a is None or b is None or not np.allclose(_copy_of(a), _copy_of(b), equal_nan=True):
                raise GradcheckError(
                    f"Expected no gradient for output {j} to mean a gradient of zeros, but the gradients of input "
                    f"{position} differ. Look out for None among a Function's gradients after set_materialize_grads(False)"
                )


def _check_dtypes(func: Callable[..., Any], values: Sequence[Any], checked: list[Tensor]) -> None:
    from tinyflow import autograd

    outputs = [y for y in _floating(func(*values)) if y.requires_grad]
    grads = autograd.grad(outputs, checked, [_like(y, np.ones(tuple(y.shape))) for y in outputs], allow_unused=True)
    for position, (x, g) in enumerate(zip(checked, grads)):
        if g is not None and (g.dtype != x.dtype or g.device != x.device):
            raise GradcheckError(
                f"Expected the gradient of input {position} to be {x.dtype} on {x.device}, got {g.dtype} on {g.device}"
            )


def _tangents(func: Callable[..., Any], values: Sequence[Any], x: Tensor, direction: np.ndarray) -> list[np.ndarray]:
    """What forward mode gives for each output, with ``direction`` the tangent of ``x``."""
    from tinyflow.autograd import forward_ad

    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(v, _like(v, direction)) if v is x else v for v in values]
        unpacked = [forward_ad.unpack_dual(y) for y in _floating(func(*dual))]
        return [np.zeros(tuple(y.shape)) if t is None else _copy_of(t) for y, t in unpacked]


def _check_forward(
    func: Callable[..., Any],
    values: Sequence[Any],
    x: Tensor,
    position: int,
    numerical: list[np.ndarray],
    atol: float,
    rtol: float,
) -> None:
    units = np.eye(x.numel()).reshape(x.numel(), *x.shape)
    rows = [_tangents(func, values, x, unit) for unit in units]
    for j, expected in enumerate(numerical):
        found = np.stack([row[j].reshape(-1) for row in rows])
        if not np.allclose(found, expected, rtol, atol):
            raise GradcheckError(
                f"Jacobian computed with forward mode mismatch for output {j} with respect to input {position},\n"
                f"numerical:\n{expected}\nanalytical:\n{found}"
            )


def _check_direction(
    func: Callable[..., Any],
    values: Sequence[Any],
    x: Tensor,
    position: int,
    eps: float,
    atol: float,
    rtol: float,
    backward: bool,
    forward: bool,
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
    tangents = _tangents(func, values, x, u) if forward else []
    for j, y in enumerate(_floating(func(*values))):
        v = random.standard_normal(tuple(y.shape))
        expected = float(np.sum(v * (ends[0][j] - ends[1][j])) / (2 * eps))
        found: dict[str, float] = {}
        if backward:
            g = autograd.grad(y, x, _like(y, v), allow_unused=True, retain_graph=True)[0] if y.requires_grad else None
            found["analytical"] = 0.0 if g is None else float(np.sum(u * _copy_of(g)))
        if forward:
            found["forward mode"] = float(np.sum(v * tangents[j]))
        scale = float(np.linalg.norm(v)) if v.size else 0.0
        for how, value in found.items():
            if not abs(value - expected) <= atol * max(scale, 1.0) + rtol * abs(expected):
                raise GradcheckError(
                    f"Jacobian mismatch for output {j} with respect to input {position} in a random direction: "
                    f"numerical {expected:.9g}, {how} {value:.9g}"
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
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """Checks second derivatives: gradcheck of the gradient of ``func``, with respect to inputs and output gradients.

    Args:
        grad_outputs: the gradients of the outputs; default: random ones.
        gen_non_contig_grad_outputs: makes those lie in memory with gaps.
        check_fwd_over_rev: checks forward mode through the backward pass, ``check_rev_over_rev`` a second backward pass.
        others: as in :func:`gradcheck`.
    """
    from tinyflow import autograd

    values = _tuple(inputs)
    checked = _differentiable(values)
    outputs = [y for y in _tuple(func(*values)) if isinstance(y, Tensor) and y.requires_grad]
    if grad_outputs is None:
        random = np.random.default_rng(0)
        drawn = [random.standard_normal(tuple(y.shape)) for y in outputs]
        made = [_with_gaps(y, g) if gen_non_contig_grad_outputs else _like(y, g) for y, g in zip(outputs, drawn)]
        grads = [g.requires_grad_() for g in made]
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
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev,
        fast_mode=fast_mode,
        masked=masked,
    )


def _with_gaps(like: Tensor, values: np.ndarray) -> Tensor:
    """Values of the dtype and on the device of ``like``, every second element of memory."""
    return _like(like, np.repeat(values.reshape(-1), 2))[::2].reshape(like.shape).detach()
