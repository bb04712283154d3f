"""Products with Jacobians and Hessians, and these themselves, of functions of Tensors: ``torch.autograd.functional``.

For ``y = f(x)`` with Jacobian J: :func:`vjp` is vᵀJ, one backward pass; :func:`jvp` is Jv, the derivative of vᵀJ by v, so a
backward pass through a backward pass. For a scalar f with Hessian H: :func:`vhp` is vᵀH and :func:`hvp` is Hv.

Each function takes a Tensor or a tuple of Tensors and gives as much. ``create_graph=True`` makes the results differentiable
with respect to the inputs; ``strict=True`` makes it an error where an output does not depend on an input, whose derivative
is zero otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyflow import autograd
from tinyflow.autograd.grad_mode import enable_grad
from tinyflow.tensor import Tensor

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Tensors = tuple[Tensor, ...]
Function = Callable[..., Any]


def _checked(values: Any, what: str, op: str) -> Tensors:
    given = values if isinstance(values, tuple) else (values,)
    for k, x in enumerate(given):
        if not isinstance(x, Tensor):
            where = f" at position {k}" if isinstance(values, tuple) else ""
            raise TypeError(
                f"The {what} given to {op} must be either a Tensor or a tuple of Tensors but the value{where} has type "
                f"{type(x).__name__}."
            )
    return given


def _watched(inputs: Tensors, connected: bool) -> Tensors:
    """The inputs to differentiate by: apart from the caller's, or connected with them."""
    if connected:
        return tuple(x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in inputs)
    return tuple(x.detach().requires_grad_() for x in inputs)


def _vector(v: Any, like: Tensors, op: str, what: str) -> Tensors:
    """The vector of a product, which fits ``like``; one where a single number is needed and none is given."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(
                f"{op}: the vector v can only be None if the {what} is a single Tensor with one element, got shapes "
                f"{[tuple(x.shape) for x in like]}"
            )
        return (Tensor._full(like[0].shape, 1, like[0].dtype, like[0].device),)
    vectors = _checked(v, "v", op)
    if len(vectors) != len(like):
        raise RuntimeError(f"{op}: v is a tuple of invalid length: should be {len(like)} but got {len(vectors)}.")
    for k, (x, expected) in enumerate(zip(vectors, like)):
        if x.shape != expected.shape:
            raise RuntimeError(
                f"{op}: entry {k} of v has invalid size: should be {tuple(expected.shape)} but got {tuple(x.shape)}."
            )
    return vectors


def _outputs(func: Function, inputs: Tensors, op: str, strict: bool) -> tuple[Any, Tensors]:
    """What the function returns, and that as a tuple."""
    returned = func(*inputs)
    outputs = _checked(returned, "outputs of the user-provided function", op)
    if strict:
        for k, y in enumerate(outputs):
            if not y.requires_grad:
                raise RuntimeError(f"{op}: output {k} of the user-provided function does not require gradients.")
    return returned, outputs


def _derivatives(
    outputs: Tensors, inputs: Tensors, vectors: Sequence[Tensor | None] | None, create_graph: bool
) -> tuple[Tensor | None, ...]:
    """The vector-Jacobian product with every input; None where nothing depends on it."""
    pairs = [(y, None if vectors is None else vectors[k]) for k, y in enumerate(outputs) if y.requires_grad]
    if not pairs:
        return (None,) * len(inputs)
    given = None if vectors is None else [v for _, v in pairs]
    return autograd.grad(
        [y for y, _ in pairs], inputs, given, allow_unused=True, create_graph=create_graph, retain_graph=True
    )


def _filled(found: Sequence[Tensor | None], like: Tensors, op: str, strict: bool, create_graph: bool) -> Tensors:
    """Zeros where there is no derivative, an error under ``strict``."""
    filled: list[Tensor] = []
    for k, (g, x) in enumerate(zip(found, like)):
        if g is None:
            if strict:
                raise RuntimeError(
                    f"{op}: the output of the user-provided function is independent of input {k}. This is not allowed "
                    "in strict mode."
                )
            g = Tensor._zeros(x.shape, x.dtype, x.device)
        elif strict and create_graph and not g.requires_grad:
            raise RuntimeError(
                f"{op}: the jacobian of the user-provided function with respect to input {k} is independent of the "
                "input. This is not allowed in strict mode when create_graph=True."
            )
        filled.append(g)
    return tuple(filled)


def _given(values: Tensors, like: Any, create_graph: bool) -> Any:
    """Results as the caller gave what they belong to: a tuple, or a Tensor; without history unless it is asked for."""
    results = values if create_graph else tuple(x.detach() for x in values)
    return results if isinstance(like, tuple) else results[0]


def vjp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``func(inputs)`` and vᵀJ, where ``v`` has the shapes of the outputs."""
    with enable_grad():
        watched = _watched(_checked(inputs, "inputs", "vjp"), create_graph)
        returned, outputs = _outputs(func, watched, "vjp", strict)
        vectors = _vector(v, outputs, "vjp", "output")
        found = _derivatives(outputs, watched, vectors, create_graph)
        product = _filled(found, watched, "vjp", strict, create_graph)
    return _given(outputs, returned, create_graph), _given(product, inputs, create_graph)


def _pushed(
    pulled: Sequence[Tensor | None], dummies: Tensors, vectors: Tensors, create_graph: bool
) -> tuple[Tensor | None, ...]:
    """Jv from uᵀJ, which is linear in the dummies u: its derivative with respect to u, with v for the vector."""
    pairs = [(g, v) for g, v in zip(pulled, vectors) if g is not None]
    return _derivatives(tuple(g for g, _ in pairs), dummies, [v for _, v in pairs], create_graph)


def jvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``func(inputs)`` and Jv, where ``v`` has the shapes of the inputs."""
    with enable_grad():
        watched = _watched(_checked(inputs, "inputs", "jvp"), create_graph)
        vectors = _vector(v, watched, "jvp", "input")
        returned, outputs = _outputs(func, watched, "jvp", strict)
        dummies = tuple(Tensor._zeros(y.shape, y.dtype, y.device).requires_grad_() for y in outputs)
        pulled = _derivatives(outputs, watched, dummies, True)
        _filled(pulled, watched, "jvp", strict, False)
        product = _filled(_pushed(pulled, dummies, vectors, create_graph), outputs, "jvp", False, create_graph)
    return _given(outputs, returned, create_graph), _given(product, returned, create_graph)


def _refuse_vectorize(op: str, vectorize: bool, strategy: str) -> None:
    if strategy not in ("reverse-mode", "forward-mode"):
        raise ValueError(f'{op}: expected a strategy of "reverse-mode" or "forward-mode", got "{strategy}"')
    if vectorize or strategy == "forward-mode":
        raise NotImplementedError(
            f"{op}: only vectorize=False with reverse mode is implemented, which takes one backward pass for each "
            "element of the output; tinyflow.func.jacfwd takes one for each element of the input"
        )


def jacobian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """The Jacobian: for each output and each input a Tensor of the output's shape followed by the input's.

    Single where output and input are single Tensors, a tuple where one of them is a tuple, of the outputs a tuple of tuples
    by the inputs where both are. One backward pass for each element of the outputs.
    """
    _refuse_vectorize("jacobian", vectorize, strategy)
    with enable_grad():
        watched = _watched(_checked(inputs, "inputs", "jacobian"), create_graph)
        returned, outputs = _outputs(func, watched, "jacobian", strict)
        rows = [_rows_of(y, watched, strict, create_graph) for y in outputs]
    by_output = tuple(_given(row, inputs, create_graph) for row in rows)
    return by_output if isinstance(returned, tuple) else by_output[0]


def _rows_of(y: Tensor, inputs: Tensors, strict: bool, create_graph: bool) -> Tensors:
    """The derivatives of every element of ``y``, stacked in its shape."""
    from tinyflow.ops.shape import stack

    flat = y.reshape(-1)
    columns: list[list[Tensor]] = [[] for _ in inputs]
    for k in range(flat.shape[0]):
        found = _derivatives((flat[k],), inputs, None, create_graph)
        for column, g in zip(columns, _filled(found, inputs, "jacobian", strict, create_graph)):
            column.append(g)
    return tuple(
        stack(column).reshape(*y.shape, *x.shape) if column else Tensor._zeros((*y.shape, *x.shape), x.dtype, x.device)
        for column, x in zip(columns, inputs)
    )


def _scalar(func: Function, op: str) -> Function:
    """The function, whose result must be one Tensor with one element."""

    def checked(*inputs: Tensor) -> Tensor:
        y = func(*inputs)
        if not isinstance(y, Tensor):
            raise RuntimeError(f"{op}: the function given should return a single Tensor, got {type(y).__name__}")
        if y.numel() != 1:
            raise RuntimeError(
                f"{op}: the Tensor returned by the function given should contain a single element, got shape "
                f"{tuple(y.shape)}"
            )
        return y.squeeze()

    return checked


def hessian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """The Hessian of a function with one element: the Jacobian of its gradient, for each pair of inputs."""
    _refuse_vectorize("hessian", vectorize, outer_jacobian_strategy)
    single = not isinstance(inputs, tuple)

    def gradient(*args: Tensor) -> Any:
        found = jacobian(_scalar(func, "hessian"), args, create_graph=True, strict=strict)
        return found[0] if single else found

    return jacobian(gradient, inputs, create_graph=create_graph, strict=strict)


def _gradient(func: Function, watched: Tensors, op: str, strict: bool) -> tuple[Tensor, Tensors]:
    """The function's value and its gradient, which is differentiable."""
    _, outputs = _outputs(_scalar(func, op), watched, op, strict)
    found = _derivatives(outputs, watched, None, True)
    return outputs[0], _filled(found, watched, op, strict, strict)


def vhp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``func(inputs)`` and vᵀH, for a function with one element and ``v`` of the inputs' shapes."""
    with enable_grad():
        watched = _watched(_checked(inputs, "inputs", "vhp"), create_graph)
        vectors = _vector(v, watched, "vhp", "input")
        y, gradient = _gradient(func, watched, "vhp", strict)
        found = _derivatives(gradient, watched, vectors, create_graph)
        product = _filled(found, watched, "vhp", strict, create_graph)
    return _given((y,), None, create_graph), _given(product, inputs, create_graph)


def hvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``func(inputs)`` and Hv, for a function with one element and ``v`` of the inputs' shapes.

    Through a derivative of :func:`vhp` with respect to v, as in torch; H is symmetric wherever second derivatives are
    continuous, and there :func:`vhp` gives the same for less.
    """
    with enable_grad():
        watched = _watched(_checked(inputs, "inputs", "hvp"), create_graph)
        vectors = _vector(v, watched, "hvp", "input")
        y, gradient = _gradient(func, watched, "hvp", strict)
        dummies = tuple(Tensor._zeros(x.shape, x.dtype, x.device).requires_grad_() for x in watched)
        pulled = _derivatives(gradient, watched, dummies, True)
        _filled(pulled, watched, "hvp", strict, False)
        product = _filled(_pushed(pulled, dummies, vectors, create_graph), watched, "hvp", False, create_graph)
    return _given((y,), None, create_graph), _given(product, inputs, create_graph)
