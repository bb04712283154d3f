"""The graph: nodes that know how to pass gradients back, the edges between them, and what they saved.

The graph is recorded as operations run. A node stands for one operation; ``next_functions`` are the nodes of its inputs,
each with the position of that input among its producer's outputs. Leaves end in an :class:`AccumulateGrad`.
"""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyflow.autograd.grad_mode import is_grad_enabled
from tinyflow.recording import active

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor

Grads = Sequence["Tensor | None"]

_sequence = itertools.count()

#: AccumulateGrad runs before anything else that is ready, so that gradients are handed over as early as possible.
_FIRST = 1 << 62


class Edge(NamedTuple):
    """A node, and which of its outputs is meant."""

    node: Node
    position: int


class OutputInfo(NamedTuple):
    """What a node remembers of one of its outputs."""

    shape: tuple[int, ...]
    dtype: Any
    device: Any


class RemovableHandle:
    """Takes a hook away again with :meth:`remove`; a context manager too."""

    _ids = itertools.count()

    def __init__(self, hooks: OrderedDict[int, Any], hook: Any) -> None:
        self.id = next(RemovableHandle._ids)
        self._hooks = hooks
        hooks[self.id] = hook

    def remove(self) -> None:
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Node:
    """One operation of the graph."""

    __slots__ = (
        "next_edges",
        "outputs",
        "sequence",
        "prehooks",
        "posthooks",
        "tensor_hooks",
        "retained",
        "metadata",
        "__weakref__",
    )

    #: True if apply() returns only tensors that it made or was given, never one that somebody else keeps.
    results_are_new = False

    def __init__(self, next_edges: Sequence[Edge | None]) -> None:
        self.next_edges = tuple(next_edges)
        self.outputs: tuple[OutputInfo, ...] = ()
        self.sequence = next(_sequence)
        self.prehooks: OrderedDict[int, Any] | None = None
        self.posthooks: OrderedDict[int, Any] | None = None
        self.tensor_hooks: dict[int, OrderedDict[int, Any]] | None = None
        self.retained: dict[int, weakref.ref[Tensor]] | None = None
        self.metadata: dict[str, Any] | None = None

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """The nodes of the inputs, with the output position of each; ``(None, 0)`` where no gradient is wanted."""
        return tuple((None, 0) if edge is None else (edge.node, edge.position) for edge in self.next_edges)

    def name(self) -> str:
        """The node's name as users see it, such as ``MulBackward0``."""
        return type(self).__name__

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        """Gradients of the inputs from the gradients of the outputs."""
        raise NotImplementedError

    def release(self) -> None:
        """Frees what was saved; a later :meth:`apply` raises."""

    def fit(self, position: int, grad: Tensor | None) -> Tensor | None:
        """A gradient of input ``position``, summed over broadcast dimensions and cast to that input's dtype.

        Raises:
            RuntimeError: if its shape is not one that the input broadcasts to.
        """
        edge = self.next_edges[position]
        if grad is None or edge is None:
            return None
        info = edge.node.outputs[edge.position]
        if grad.shape != info.shape:
            try:
                grad = grad.sum_to_size(info.shape)
            except RuntimeError as error:
                raise RuntimeError(
                    f"{self.name()} returned an invalid gradient at index {position} - got {list(grad.shape)} "
                    f"but expected shape compatible with {list(info.shape)}"
                ) from error
        return grad if grad.dtype == info.dtype else grad.to(info.dtype)

    def register_hook(self, hook: Callable[[tuple[Any, ...], tuple[Any, ...]], Any]) -> RemovableHandle:
        """Calls ``hook(grad_inputs, grad_outputs)`` after the node ran; it may return other ``grad_inputs``."""
        if self.posthooks is None:
            self.posthooks = OrderedDict()
        return RemovableHandle(self.posthooks, hook)

    def register_prehook(self, hook: Callable[[tuple[Any, ...]], Any]) -> RemovableHandle:
        """Calls ``hook(grad_outputs)`` before the node runs; it may return other ``grad_outputs``."""
        if self.prehooks is None:
            self.prehooks = OrderedDict()
        return RemovableHandle(self.prehooks, hook)

    def hooks_of_output(self, index: int) -> OrderedDict[int, Any]:
        """The hooks of the tensor that is output ``index``."""
        if self.tensor_hooks is None:
            self.tensor_hooks = {}
        return self.tensor_hooks.setdefault(index, OrderedDict())

    def retain(self, index: int, tensor: Tensor) -> None:
        """Keeps the gradient of output ``index`` in ``tensor.grad``."""
        if self.retained is None:
            self.retained = {}
        self.retained[index] = weakref.ref(tensor)

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


class AccumulateGrad(Node):
    """The end of the graph at a leaf: adds what arrives to ``variable.grad``."""

    __slots__ = ("variable",)

    def __init__(self, variable: Tensor) -> None:
        super().__init__(())
        self.sequence = _FIRST
        self.variable = variable
        self.outputs = (OutputInfo(tuple(variable.shape), variable.dtype, variable.device),)

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        return self.accumulate(grads[0], owned=False)

    def accumulate(self, grad: Tensor | None, owned: bool) -> Sequence[Tensor | None]:
        """Adds ``grad`` to the leaf's gradient; ``owned`` says that nobody else holds its memory."""
        variable = self.variable
        if grad is None:
            return ()
        if active.recording is not None:
            active.recording.leaf(variable)
        if variable.grad is None:
            if is_grad_enabled():
                variable.grad = grad
            else:
                grad = grad.detach()
                variable.grad = grad if owned and _same_layout(grad, variable) else grad.clone(layout_of=variable)
        elif is_grad_enabled():
            variable.grad = variable.grad + grad
        else:
            variable.grad += grad
        for hook in tuple((variable._post_accumulate_hooks or {}).values()):
            hook(variable)
        return ()


def _same_layout(grad: Tensor, variable: Tensor) -> bool:
    return grad.stride() == variable.stride() or (grad.is_contiguous() and variable.is_contiguous())


class SavedTensor:
    """A tensor kept for the backward pass, which must not change in between.

    The node's own output is kept without its history, which would tie the node to itself; :meth:`unpack` gives it back.
    """

    __slots__ = ("_tensor", "_version", "_output_index")

    def __init__(self, tensor: Tensor, output_index: int | None = None) -> None:
        self._tensor = tensor if output_index is None else tensor.detach()
        self._version = tensor._version
        self._output_index = output_index

    def unpack(self, node: Node) -> Tensor:
        """The tensor with its history.

        Raises:
            RuntimeError: if it was changed in place since it was saved.
        """
        tensor = self._tensor
        if tensor._version != self._version:
            raise RuntimeError(
                f"{node.name()}: one of the variables needed for gradient computation has been modified by an inplace "
                f"operation: a tensor of shape {tuple(tensor.shape)} and dtype {tensor.dtype} is at version "
                f"{tensor._version}; "
                f"expected version {self._version}. Work on a clone(), or change it after backward()."
            )
        tensor._fresh = False
        return tensor if self._output_index is None else tensor._with_history(node, self._output_index)


_RELEASED = (
    "{name}: trying to backward through the graph a second time (or to read saved tensors after they were freed). "
    "Give retain_graph=True to the first backward() or autograd.grad() to go through it again."
)


def released_error(node: Node) -> RuntimeError:
    """What a node raises whose saved tensors were freed."""
    return RuntimeError(_RELEASED.format(name=node.name()))


def check_inplace(op: str, target: Tensor, recording: bool) -> None:
    """Refuses an in-place change that would lose a gradient.

    Raises:
        RuntimeError: for a leaf that requires grad, a view of one, or a view that was made without recording.
    """
    base = target._base
    if target.is_leaf and target.requires_grad:
        raise RuntimeError(f"{op}_: a leaf Variable that requires grad is being used in an in-place operation.")
    if base is None:
        return
    if base.is_leaf and base.requires_grad:
        raise RuntimeError(
            f"{op}_: a view of a leaf Variable that requires grad is being used in an in-place operation."
        )
    if recording and target._frozen_view:
        made = "in no_grad mode" if target.grad_fn is None else f"inside a custom Function ({target.grad_fn.name()})"
        raise RuntimeError(
            f"{op}_: a view was created {made} and is being modified inplace with grad mode enabled. "
            "Make the view where gradients are recorded, or change a clone() of it."
        )
