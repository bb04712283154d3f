"""Automatic differentiation: ``backward``, ``grad``, ``Function``, the gradient switch, and numerical checks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import prod
from typing import Any

from tinyflow import operands
from tinyflow.autograd import forward_ad as forward_ad
from tinyflow.autograd import functional as functional
from tinyflow.autograd import graph as graph
from tinyflow.autograd.anomaly import detect_anomaly as detect_anomaly
from tinyflow.autograd.anomaly import is_anomaly_check_nan_enabled as is_anomaly_check_nan_enabled
from tinyflow.autograd.anomaly import is_anomaly_enabled as is_anomaly_enabled
from tinyflow.autograd.anomaly import set_detect_anomaly as set_detect_anomaly
from tinyflow.autograd.draw import Drawing as Drawing
from tinyflow.autograd.draw import draw as draw
from tinyflow.autograd.engine import one_for, run_backward
from tinyflow.autograd.function import Function as Function
from tinyflow.autograd.grad_mode import enable_grad as enable_grad
from tinyflow.autograd.grad_mode import inference_mode as inference_mode
from tinyflow.autograd.grad_mode import no_grad as no_grad
from tinyflow.autograd.grad_mode import set_grad_enabled as set_grad_enabled
from tinyflow.autograd.gradcheck import GradcheckError as GradcheckError
from tinyflow.autograd.gradcheck import gradcheck as gradcheck
from tinyflow.autograd.gradcheck import gradgradcheck as gradgradcheck
from tinyflow.autograd.graph import Edge, GradientEdge, Node, OutputInfo
from tinyflow.autograd.module_calls import ModuleCalls as ModuleCalls
from tinyflow.tensor import Tensor

__all__ = [
    "Drawing",
    "Function",
    "GradcheckError",
    "ModuleCalls",
    "Node",
    "backward",
    "detect_anomaly",
    "draw",
    "enable_grad",
    "forward_ad",
    "functional",
    "grad",
    "graph",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_anomaly_check_nan_enabled",
    "is_anomaly_enabled",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
]


Rooted = Tensor | GradientEdge  # a tensor, or the place of one in the graph


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return (x,) if isinstance(x, GradientEdge) else operands.as_tuple(x)


def _edge_of(x: Any, caller: str, parameter: str, position: int) -> Edge | None:
    """Where a tensor, or a place in the graph, has its gradient; None where it needs none."""
    if isinstance(x, GradientEdge):
        return Edge(*x)
    operands.check_tensor(f"{caller}()", f"{parameter}[{position}]", x)
    return x._edge()


def _roots(
    tensors: Sequence[Rooted], gradients: Sequence[Tensor | None] | None, op: str, parameter: str
) -> tuple[list[Edge], list[Tensor]]:
    gradients = [None] * len(tensors) if gradients is None else gradients
    if len(gradients) != len(tensors):
        raise RuntimeError(f"{op}: got {len(tensors)} tensors and {len(gradients)} gradients")
    edges: list[Edge] = []
    grads: list[Tensor] = []
    for k, (x, g) in enumerate(zip(tensors, gradients)):
        edge = _edge_of(x, op, parameter, k)
        if edge is None:
            raise RuntimeError(f"element {k} of tensors does not require grad and does not have a grad_fn")
        edges.append(edge)
        grads.append(_root_gradient(k, edge.node.outputs[edge.position], g))
    return edges, grads


def _root_gradient(position: int, output: OutputInfo, g: Any) -> Tensor:
    """The gradient from which a root starts: what was given, if it fits, or one."""
    if g is None:
        if prod(output.shape) != 1:
            raise RuntimeError(
                f"grad can be implicitly created only for scalar outputs, got an output of shape {tuple(output.shape)}: "
                "give a gradient of that shape"
            )
        return one_for(output)
    if not isinstance(g, Tensor):
        raise TypeError(f"gradients can be either Tensors or None, but got {type(g).__name__}")
    if g.shape != output.shape:
        raise RuntimeError(
            f"Mismatch in shape: grad_output[{position}] has a shape of {tuple(g.shape)} and output[{position}] has a "
            f"shape of {tuple(output.shape)}."
        )
    return g if g.dtype == output.dtype else g.to(output.dtype)


def backward(
    tensors: Rooted | Sequence[Rooted],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Rooted | Sequence[Rooted] | None = None,
) -> None:
    """Adds the gradient of ``tensors`` to the ``grad`` of the leaves (or of ``inputs`` only), as torch.autograd.backward.

    ``grad_tensors`` is the vector of the vector-Jacobian product, one for each tensor; a scalar may leave it out.

    Raises:
        RuntimeError: if a tensor has no history, a gradient has another shape, or the graph was freed.

    Warns:
        UserWarning: under ``create_graph``, since a leaf and its gradient then hold each other.
    """
    if create_graph:
        warnings.warn(
            "Using backward() with create_graph=True will create a reference cycle between the parameter and its gradient "
            "which can cause a memory leak. Use autograd.grad(), or set the .grad of the parameters to None after use.",
            stacklevel=2,
        )
    roots = _as_tuple(tensors)
    edges, grads = _roots(roots, None if grad_tensors is None else _as_tuple(grad_tensors), "backward", "tensors")
    keep = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        run_backward(edges, grads, keep_graph=keep, create_graph=create_graph)
        return
    wanted = _as_tuple(inputs)
    if not wanted:
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    targets = [_input_edge(x, k, "backward") for k, x in enumerate(wanted)]
    for x in wanted:
        if isinstance(x, Tensor):
            x.retain_grad()
    run_backward(edges, grads, keep_graph=keep, create_graph=create_graph, inputs=targets)


def _input_edge(x: Rooted, position: int, caller: str) -> Edge:
    edge = _edge_of(x, caller, "inputs", position)
    if edge is None:
        raise RuntimeError(f"One of the differentiated Tensors does not require grad (input {position} of {caller}())")
    return edge


def grad(
    outputs: Rooted | Sequence[Rooted],
    inputs: Rooted | Sequence[Rooted],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of ``outputs`` with respect to ``inputs``, returned and not accumulated, as torch.autograd.grad.

    Raises:
        RuntimeError: if an input was not used in the graph and ``allow_unused`` is False.
        NotImplementedError: for ``is_grads_batched``, since operations are not vectorised over gradients here.
    """
    if is_grads_batched:
        raise NotImplementedError(
            "grad: is_grads_batched=True is not implemented; call grad() once for each gradient with retain_graph=True"
        )
    if materialize_grads and allow_unused is False:
        raise ValueError("Expected allow_unused to be True or not passed when materialize_grads=True, but got: False")
    roots, wanted = _as_tuple(outputs), _as_tuple(inputs)
    if not wanted:
        raise RuntimeError("`inputs` argument to `grad()` cannot be empty.")
    edges, grads = _roots(roots, None if grad_outputs is None else _as_tuple(grad_outputs), "grad", "outputs")
    keep = create_graph if retain_graph is None else retain_graph
    targets = [_input_edge(x, k, "grad") for k, x in enumerate(wanted)]
    found = run_backward(edges, grads, keep_graph=keep, create_graph=create_graph, inputs=targets, accumulate=False)
    if materialize_grads:
        return tuple(_zeros_at(edge) if g is None else g for g, edge in zip(found, targets))
    if not allow_unused and any(g is None for g in found):
        unused = next(k for k, g in enumerate(found) if g is None)
        raise RuntimeError(
            f"One of the differentiated Tensors appears to not have been used in the graph (input {unused}). "
            "Set allow_unused=True if this is the desired behavior."
        )
    return tuple(found)


def _zeros_at(edge: Edge) -> Tensor:
    info = edge.node.outputs[edge.position]
    return Tensor._zeros(info.shape, info.dtype, info.device)
