"""Automatic differentiation: ``backward``, ``grad``, ``Function``, the gradient switch, and numerical checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyflow.autograd.engine import run_backward
from tinyflow.autograd.function import Function as Function
from tinyflow.autograd.grad_mode import enable_grad as enable_grad
from tinyflow.autograd.grad_mode import inference_mode as inference_mode
from tinyflow.autograd.grad_mode import no_grad as no_grad
from tinyflow.autograd.grad_mode import set_grad_enabled as set_grad_enabled
from tinyflow.autograd.gradcheck import GradcheckError as GradcheckError
from tinyflow.autograd.gradcheck import gradcheck as gradcheck
from tinyflow.autograd.gradcheck import gradgradcheck as gradgradcheck
from tinyflow.autograd.graph import Edge, Node
from tinyflow.tensor import Tensor

__all__ = [
    "Function",
    "GradcheckError",
    "Node",
    "backward",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "no_grad",
    "set_grad_enabled",
]


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return (x,) if isinstance(x, Tensor) or x is None else tuple(x)


def _roots(
    tensors: Sequence[Tensor], gradients: Sequence[Tensor | None] | None, op: str
) -> tuple[list[Edge], list[Tensor]]:
    gradients = [None] * len(tensors) if gradients is None else gradients
    if len(gradients) != len(tensors):
        raise RuntimeError(f"{op}: got {len(tensors)} tensors and {len(gradients)} gradients")
    edges: list[Edge] = []
    grads: list[Tensor] = []
    for k, (x, g) in enumerate(zip(tensors, gradients)):
        edge = x._edge()
        if edge is None:
            raise RuntimeError(f"element {k} of tensors does not require grad and does not have a grad_fn")
        if g is None:
            if x.numel() != 1:
                raise RuntimeError(
                    f"grad can be implicitly created only for scalar outputs, got an output of shape {tuple(x.shape)}: "
                    "give a gradient of that shape"
                )
            g = Tensor._full(tuple(x.shape), 1, x.dtype, x.device)
        elif not isinstance(g, Tensor):
            raise TypeError(f"gradients can be either Tensors or None, but got {type(g).__name__}")
        elif g.shape != x.shape:
            raise RuntimeError(
                f"Mismatch in shape: grad_output[{k}] has a shape of {tuple(g.shape)} and output[{k}] has a shape of "
                f"{tuple(x.shape)}."
            )
        elif g.dtype != x.dtype:
            g = g.to(x.dtype)
        edges.append(edge)
        grads.append(g)
    return edges, grads


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Adds the gradient of ``tensors`` to the ``grad`` of the leaves (or of ``inputs`` only), as torch.autograd.backward.

    ``grad_tensors`` is the vector of the vector-Jacobian product, one for each tensor; a scalar may leave it out.

    Raises:
        RuntimeError: if a tensor has no history, a gradient has another shape, or the graph was freed.
    """
    roots = _as_tuple(tensors)
    edges, grads = _roots(roots, None if grad_tensors is None else _as_tuple(grad_tensors), "backward")
    keep = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        run_backward(edges, grads, keep_graph=keep, create_graph=create_graph)
        return
    wanted = _as_tuple(inputs)
    if not wanted:
        raise RuntimeError("`inputs` argument to `backward` cannot be empty.")
    targets = [_input_edge(x, k) for k, x in enumerate(wanted)]
    found = run_backward(edges, grads, keep_graph=keep, create_graph=create_graph, inputs=targets)
    for x, g in zip(wanted, found):
        if g is not None and not x.is_leaf:
            kept = g if create_graph else g.detach().clone()
            x.grad = kept if x.grad is None else x.grad + kept


def _input_edge(x: Tensor, position: int) -> Edge:
    edge = x._edge()
    if edge is None:
        raise RuntimeError(
            f"One of the differentiated Tensors does not require grad (input {position}, shape {tuple(x.shape)})"
        )
    return edge


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of ``outputs`` with respect to ``inputs``, returned and not accumulated, as torch.autograd.grad.

    Raises:
        RuntimeError: if an input was not used in the graph and ``allow_unused`` is False.
    """
    if materialize_grads and allow_unused is False:
        raise ValueError("Expected allow_unused to be True or not passed when materialize_grads=True, but got: False")
    roots, wanted = _as_tuple(outputs), _as_tuple(inputs)
    edges, grads = _roots(roots, None if grad_outputs is None else _as_tuple(grad_outputs), "grad")
    keep = create_graph if retain_graph is None else retain_graph
    targets = [_input_edge(x, k) for k, x in enumerate(wanted)]
    found = run_backward(edges, grads, keep_graph=keep, create_graph=create_graph, inputs=targets, accumulate=False)
    if materialize_grads:
        return tuple(
            Tensor._zeros(tuple(x.shape), x.dtype, x.device) if g is None else g for g, x in zip(found, wanted)
        )
    if not allow_unused and any(g is None for g in found):
        unused = next(k for k, g in enumerate(found) if g is None)
        raise RuntimeError(
            f"One of the differentiated Tensors appears to not have been used in the graph (input {unused}). "
            "Set allow_unused=True if this is the desired behavior."
        )
    return tuple(found)
