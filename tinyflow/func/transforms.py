"""Gradients, products with the Jacobian, and Jacobians, of functions and of what these return."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tinyflow import autograd
from tinyflow.autograd.grad_mode import enable_grad
from tinyflow.autograd.graph import AccumulateGrad, Node
from tinyflow.func.containers import leaves, mapped, replaced
from tinyflow.ops.creation import eye
from tinyflow.ops.shape import stack
from tinyflow.tensor import Tensor

Argnums = int | tuple[int, ...]


# ---- one level of differentiation ----------------------------------------------------------------------------------


def _watched(tree: Any) -> Any:
    """The Tensors to differentiate by: connected with those of an outer level, or apart from the caller's."""
    return mapped(lambda x: x.view_as(x) if x.requires_grad else x.detach().requires_grad_(), tree)


#: Ends of the graph that were made for a level which is over; they are no longer anybody's inputs.
_finished: weakref.WeakSet[Node] = weakref.WeakSet()


def _reaches_outside(outputs: Sequence[Tensor], inside: Sequence[Tensor]) -> bool:
    """True if something that requires a gradient, other than ``inside``, leads to the outputs; ends the level."""
    own: list[Node] = [x._edge().node for x in inside]  # type: ignore[union-attr]  # all require gradients
    seen = {*own, *_finished}
    _finished.update(own)
    if any(not isinstance(node, AccumulateGrad) for node in own):
        return True
    stack = [y.grad_fn for y in outputs if y.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        if isinstance(node, AccumulateGrad):
            return True
        seen.add(node)
        stack.extend(edge.node for edge in node.next_edges if edge is not None)
    return False


def _pulled(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor | None], create_graph: bool
) -> list[Tensor]:
    """The vector-Jacobian product; zeros for an input on which nothing depends."""
    pairs = [(y, v) for y, v in zip(outputs, vectors) if y.requires_grad]
    found: Sequence[Tensor | None] = (None,) * len(inputs)
    if pairs and inputs:
        found = autograd.grad(
            [y for y, _ in pairs],
            inputs,
            [v for _, v in pairs],
            allow_unused=True,
            create_graph=create_graph,
            retain_graph=True,
        )
    return [Tensor._zeros(x.shape, x.dtype, x.device) if g is None else g for g, x in zip(found, inputs)]


def _settled(tree: Any, keep: bool) -> Any:
    """Results with their history, or without."""
    return tree if keep else mapped(lambda x: x.detach(), tree)


def _split(returned: Any, has_aux: bool, op: str) -> tuple[Any, Any]:
    if not has_aux:
        return returned, None
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise RuntimeError(
            f"{op}: output of function f should be a tuple: (output, aux) if has_aux is True, got "
            f"{type(returned).__name__}"
        )
    return returned


def _chosen(op: str, args: Sequence[Any], argnums: Argnums) -> tuple[int, ...]:
    """The positions of the arguments to differentiate by.

    Raises:
        RuntimeError: for a position that is not there, twice the same, or none.
    """
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    if not numbers or any(not isinstance(n, int) for n in numbers):
        raise RuntimeError(f"{op}: argnums must be an int or a tuple of at least one int, got {argnums!r}")
    if any(not -len(args) <= n < len(args) for n in numbers):
        raise RuntimeError(f"{op}: got argnums={argnums}, but only {len(args)} positional inputs")
    positions = tuple(n % len(args) for n in numbers)
    if len(set(positions)) != len(positions):
        raise RuntimeError(f"{op}: argnums elements must be unique, got {argnums}")
    return positions


def _with(args: Sequence[Any], positions: Sequence[int], values: Sequence[Any]) -> list[Any]:
    changed = list(args)
    for position, value in zip(positions, values):
        changed[position] = value
    return changed


# ---- gradients -----------------------------------------------------------------------------------------------------


def grad_and_value(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns ``(gradient, value)`` of ``func``, whose value is a Tensor with one element and no shape.

    Args:
        func: a function of Tensors.
        argnums: which of its positional arguments to differentiate by; of a tuple, the gradient is a tuple.
        has_aux: ``func`` returns ``(value, aux)``; the result is ``(gradient, (value, aux))``.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        positions = _chosen("grad", args, argnums)
        with enable_grad():
            chosen = [_watched(args[p]) for p in positions]
            value, aux = _split(func(*_with(args, positions, chosen), **kwargs), has_aux, "grad")
            if not isinstance(value, Tensor):
                raise RuntimeError(
                    "grad_and_value(f)(*args): Expected f(*args) to return a tensor, got "
                    f"{type(value).__name__}; use has_aux=True for a second result"
                )
            if value.dim() != 0:
                raise RuntimeError(
                    "grad_and_value(f)(*args): Expected f(*args) to return a scalar tensor, got tensor with "
                    f"{value.dim()} dims. Maybe you wanted to use the vjp or jacrev APIs instead?"
                )
            inputs = leaves(chosen)
            keep = _reaches_outside([value], inputs)
            gradients = replaced(chosen, iter(_pulled([value], inputs, [None], keep)))
        result = _settled(tuple(gradients) if isinstance(argnums, tuple) else gradients[0], keep)
        value, aux = _settled((value, aux), keep)
        return result, ((value, aux) if has_aux else value)

    return wrapped


def grad(func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of ``func``, see :func:`grad_and_value`; with ``has_aux`` ``(gradient, aux)``.

    >>> grad(grad(tinyflow.sin))(x)  # -sin(x)
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        gradient, value = grad_and_value(func, argnums, has_aux)(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


# ---- products with the Jacobian ------------------------------------------------------------------------------------


def _vectors_for(op: str, given: Any, expected: Any) -> list[Tensor]:
    vectors, tensors = leaves(given), leaves(expected)
    if [tuple(v.shape) for v in vectors] != [tuple(x.shape) for x in tensors]:
        raise RuntimeError(
            f"{op}: expected vectors of shapes {[tuple(x.shape) for x in tensors]}, got "
            f"{[tuple(v.shape) for v in vectors]}"
        )
    return vectors


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """``func(*primals)``, and a function that takes vectors of the outputs' shapes to the products vᵀJ.

    The products come as a tuple by the primals. With ``has_aux`` ``func`` returns
    ``(output, aux)`` and this ``(output, vjp_fn, aux)``.
    """
    with enable_grad():
        watched = _watched(primals)
        output, aux = _split(func(*watched), has_aux, "vjp")
    outputs, inputs = leaves(output), leaves(watched)
    keep = _reaches_outside(outputs, inputs)

    def vjp_fn(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        vectors = _vectors_for("vjp", cotangents, output)
        create = (keep or any(v.requires_grad for v in vectors)) if create_graph is None else create_graph
        with enable_grad():
            products = replaced(watched, iter(_pulled(outputs, inputs, vectors, create)))
        return products

    result = _settled(output, keep)
    return (result, vjp_fn, _settled(aux, keep)) if has_aux else (result, vjp_fn)


def _pushes(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], keep: bool
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A function from vectors of the inputs' shapes to Jv: the derivative of uᵀJ, linear in u, with respect to u."""
    dummies = [Tensor._zeros(y.shape, y.dtype, y.device).requires_grad_() for y in outputs]
    pulled = _pulled(outputs, inputs, dummies, True)

    def push(vectors: Sequence[Tensor]) -> list[Tensor]:
        return _pulled(pulled, dummies, vectors, keep or any(v.requires_grad for v in vectors))

    return push


def jvp(
    func: Callable[..., Any],
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    *,
    strict: bool = False,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """``func(*primals)`` and the product Jv with ``tangents``, which have the primals' shapes.

    Args:
        strict: an error where an output does not depend on the primals.
        has_aux: ``func`` returns ``(output, aux)``, and this ``(output, product, aux)``.
    """
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple):
        raise RuntimeError(
            "jvp: expected primals and tangents to be tuples, one entry for each argument of the function"
        )
    vectors = _vectors_for("jvp", tangents, primals)
    with enable_grad():
        watched = _watched(primals)
        output, aux = _split(func(*watched), has_aux, "jvp")
        outputs, inputs = leaves(output), leaves(watched)
        if strict and not all(y.requires_grad for y in outputs):
            raise RuntimeError("jvp(f, primals, tangents, strict=True): an output of f is independent of the primals")
        keep = _reaches_outside(outputs, inputs)
        product = replaced(output, iter(_pushes(outputs, inputs, keep)(vectors)))
    keep_product = keep or any(v.requires_grad for v in vectors)
    result = _settled(output, keep), _settled(product, keep_product)
    return (*result, _settled(aux, keep)) if has_aux else result


# ---- Jacobians -----------------------------------------------------------------------------------------------------


def _basis(x: Tensor) -> Iterator[Tensor]:
    """The unit vectors of a Tensor's shape."""
    n = x.numel()
    rows = eye(n, dtype=x.dtype, device=x.device)
    for k in range(n):
        yield rows[k].reshape(x.shape)


def _stacked(parts: Sequence[Tensor], shape: Sequence[int], like: Tensor) -> Tensor:
    return stack(parts).reshape(shape) if parts else Tensor._zeros(tuple(shape), like.dtype, like.device)


def jacrev(
    func: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """A function that returns the Jacobian of ``func``, by one backward pass for each element of the outputs.

    Each output's place holds, for each argument to differentiate by, a Tensor of the output's shape followed by the
    argument's. ``chunk_size`` changes nothing here, where passes run one by one.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        positions = _chosen("jacrev", args, argnums)
        with enable_grad():
            chosen = [_watched(args[p]) for p in positions]
            output, aux = _split(func(*_with(args, positions, chosen), **kwargs), has_aux, "jacrev")
            inputs = leaves(chosen)
            keep = _reaches_outside(leaves(output), inputs)

            def rows_of(y: Tensor) -> Any:
                rows = [_pulled([y], inputs, [unit], keep) for unit in _basis(y)]
                parts = [_stacked([r[k] for r in rows], (*y.shape, *x.shape), x) for k, x in enumerate(inputs)]
                placed = replaced(chosen, iter(parts))
                return tuple(placed) if isinstance(argnums, tuple) else placed[0]

            result = _settled(mapped(rows_of, output), keep)
        return (result, _settled(aux, keep)) if has_aux else result

    return wrapped


def jacfwd(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
) -> Callable[..., Any]:
    """The same as :func:`jacrev`, by one pass for each element of the arguments: for few inputs and many outputs."""
    if randomness != "error":
        raise NotImplementedError("jacfwd: only randomness='error' is there, since func is called once")

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        positions = _chosen("jacfwd", args, argnums)
        with enable_grad():
            chosen = [_watched(args[p]) for p in positions]
            output, aux = _split(func(*_with(args, positions, chosen), **kwargs), has_aux, "jacfwd")
            outputs, inputs = leaves(output), leaves(chosen)
            keep = _reaches_outside(outputs, inputs)
            push = _pushes(outputs, inputs, keep)
            zeros = [Tensor._zeros(x.shape, x.dtype, x.device) for x in inputs]
            columns = [[push(_with(zeros, [k], [unit])) for unit in _basis(x)] for k, x in enumerate(inputs)]

            def columns_of(place: int, y: Tensor) -> Any:
                parts = [
                    _stacked([c[place] for c in columns[k]], (*x.shape, *y.shape), y).permute(
                        *range(x.dim(), x.dim() + y.dim()), *range(x.dim())
                    )
                    for k, x in enumerate(inputs)
                ]
                placed = replaced(chosen, iter(parts))
                return tuple(placed) if isinstance(argnums, tuple) else placed[0]

            found = [columns_of(k, y) for k, y in enumerate(outputs)]
            result = _settled(replaced(output, iter(found)), keep)
        return (result, _settled(aux, keep)) if has_aux else result

    return wrapped


def hessian(func: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """A function that returns the Hessian of ``func``: ``jacfwd(jacrev(func))``."""
    return jacfwd(jacrev(func, argnums), argnums)
