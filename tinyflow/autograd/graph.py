"""The graph: nodes that know how to pass gradients back, the edges between them, and what they saved.

The graph is recorded as operations run. A node stands for one operation; ``next_functions`` are the nodes of its inputs,
each with the position of that input among its producer's outputs. Leaves end in an :class:`AccumulateGrad`.
"""

from __future__ import annotations

import itertools
import threading
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyflow.autograd.grad_mode import is_grad_enabled, mode
from tinyflow.autograd.mutation import allow_mutation_on_saved_tensors as allow_mutation_on_saved_tensors
from tinyflow.autograd.saved import SavedTensor as SavedTensor
from tinyflow.autograd.saved import disable_saved_tensors_hooks as disable_saved_tensors_hooks
from tinyflow.autograd.saved import save_on_cpu as save_on_cpu
from tinyflow.autograd.saved import saved_tensors_hooks as saved_tensors_hooks
from tinyflow.autograd.walks import gradient_dtype, walks_under_way
from tinyflow.recording import active

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor

Grads = Sequence["Tensor | None"]

#: Numbers nodes in the order in which they are recorded.
sequence = itertools.count()

#: Added where gradients are accumulated: it runs before all else that is ready, so that they are handed over early.
_FIRST = 1 << 62


class Edge(NamedTuple):
    """A node, and which of its outputs is meant; made by :func:`edge_to`, which costs less."""

    node: Node
    position: int


edge_to: Callable[[tuple[Node, int]], Edge] = partial(tuple.__new__, Edge)


class OutputInfo(NamedTuple):
    """What a node remembers of one of its outputs."""

    shape: tuple[int, ...]
    dtype: Any
    device: Any


info_of: Callable[[tuple[Any, Any, Any]], OutputInfo] = partial(tuple.__new__, OutputInfo)


class RemovableHandle:
    """Takes a hook away again with :meth:`remove`; a context manager too."""

    _ids = itertools.count()

    def __init__(self, hooks: OrderedDict[int, Any], hook: Any, entry: Any = None) -> None:
        """Adds ``hook`` to ``hooks``, or in its place an ``entry`` that holds it."""
        if not callable(hook):
            raise TypeError(f"expected the hook to be a function, got {type(hook).__name__}")
        self.id = next(RemovableHandle._ids)
        self._hooks = hooks
        hooks[self.id] = hook if entry is None else entry

    def remove(self) -> None:
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Attached:
    """What few nodes have: hooks, tensors that keep their gradients, and notes."""

    __slots__ = ("prehooks", "posthooks", "tensor_hooks", "retained", "metadata")

    def __init__(self) -> None:
        self.prehooks: OrderedDict[int, Any] = OrderedDict()
        self.posthooks: OrderedDict[int, Any] = OrderedDict()
        self.tensor_hooks: dict[int, OrderedDict[int, Any]] = {}  # by the number of the output
        self.retained: dict[int, weakref.ref[Tensor]] = {}
        self.metadata: dict[str, Any] = {}

    @property
    def sees_gradients(self) -> bool:
        """True if something is told of the gradients that arrive; a hook that is ``blind`` does not look at them."""
        prehooks = any(not getattr(hook, "blind", False) for hook in self.prehooks.values())
        return bool(prehooks or self.posthooks or self.retained or any(self.tensor_hooks.values()))


class Node:
    """One operation of the graph."""

    __slots__ = ("next_edges", "outputs", "sequence", "attached", "__weakref__")

    #: True if apply() returns only tensors that it made or was given, never one that somebody else keeps.
    results_are_new = False

    #: True if all that it does is to cast its first input, or to show it otherwise, for gradients of any dtype.
    only_casts = only_views = False

    def __init__(self, next_edges: Sequence[Edge | None]) -> None:
        self.next_edges = tuple(next_edges)
        self.outputs: tuple[OutputInfo, ...] = ()
        self.sequence = next(sequence)
        self.attached: Attached | None = None

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """The nodes of the inputs, with the output position of each; ``(None, 0)`` where no gradient is wanted."""
        return tuple((None, 0) if edge is None else (edge.node, edge.position) for edge in self.next_edges)

    @property
    def metadata(self) -> dict[str, Any]:
        """A dictionary for notes of any kind."""
        return self.attach().metadata

    def attach(self) -> Attached:
        """What is attached to this node, which may then be added to."""
        if self.attached is None:
            self.attached = Attached()
        return self.attached

    def name(self) -> str:
        """The node's name as users see it, such as ``MulBackward0``."""
        return type(self).__name__

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        """Gradients of the inputs from the gradients of the outputs."""
        raise NotImplementedError

    def release(self) -> None:
        """Frees what was saved; a later :meth:`apply` raises."""

    def saved_tensors_kept(self) -> Iterator[tuple[str, SavedTensor]]:
        """The tensors that are saved here, with their names."""
        return iter(())

    def fit(self, position: int, grad: Tensor | None) -> Tensor | None:
        """A gradient of input ``position``, summed over broadcast dimensions and cast to the dtype that it may have.

        Raises:
            RuntimeError: if its shape is not one that the input broadcasts to.
        """
        edge = self.next_edges[position]
        if grad is None or edge is None:
            return None
        shape, dtype, _ = edge[0].outputs[edge[1]]
        data = grad._data
        if data.shape != shape:
            try:
                grad = grad.sum_to_size(shape)
            except RuntimeError as error:
                raise RuntimeError(
                    f"{self.name()} returned an invalid gradient at index {position} - got {list(grad.shape)} "
                    f"but expected shape compatible with {list(shape)}"
                ) from error
        if data.dtype is dtype or data.dtype is gradient_dtype(self, position):
            return grad
        return grad.to(dtype)

    def register_hook(self, hook: Callable[[tuple[Any, ...], tuple[Any, ...]], Any]) -> RemovableHandle:
        """Calls ``hook(grad_inputs, grad_outputs)`` after the node ran; it may return other ``grad_inputs``."""
        return RemovableHandle(self.attach().posthooks, hook)

    def register_prehook(self, hook: Callable[[tuple[Any, ...]], Any]) -> RemovableHandle:
        """Calls ``hook(grad_outputs)`` before the node runs; it may return other ``grad_outputs``."""
        return RemovableHandle(self.attach().prehooks, hook)

    def hooks_of_output(self, index: int) -> OrderedDict[int, Any]:
        """The hooks of the tensor that is output ``index``."""
        return self.attach().tensor_hooks.setdefault(index, OrderedDict())

    def retain(self, index: int, tensor: Tensor) -> None:
        """Keeps the gradient of output ``index`` in ``tensor.grad``."""
        self.attach().retained[index] = weakref.ref(tensor)

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


def output_info(tensor: Tensor) -> OutputInfo:
    """What a node remembers of a tensor that it made."""
    data = tensor._data
    return OutputInfo(data.shape, data.dtype, data.device)


def backward_name(label: str) -> str:
    """The name of an operation's node: ``MulBackward0`` of ``mul``."""
    return "".join(part.capitalize() for part in label.split("_")) + "Backward0"


#: The names under which anomaly mode notes where an operation was called, and which node's backward pass called it.
WHERE, PARENT = "traceback_", "parent_"


def announce(node: Node) -> None:
    """Tells whoever watches of a new node, once it is complete."""
    if mode.anomaly:
        node.metadata[WHERE] = "".join(traceback.format_stack()[:-2])
        if mode.running is not None:
            node.metadata[PARENT] = mode.running
    if mode.saved_tensor_hooks:
        hooks = mode.saved_tensor_hooks[-1]
        for _, saved in node.saved_tensors_kept():
            saved.register_hooks(*hooks)
    if mode.mutation is not None:
        for _, saved in node.saved_tensors_kept():
            mode.mutation.keep(saved)


#: Held while a gradient is added to that of a leaf, so that backward passes in several threads lose none.
_accumulating = threading.RLock()


class AccumulateGrad(Node):
    """The end of the graph at a leaf: adds what arrives to ``variable.grad``."""

    __slots__ = ("variable",)
    results_are_new = True  # it gives none

    def __init__(self, variable: Tensor) -> None:
        super().__init__(())
        self.sequence += _FIRST
        self.variable = variable
        self.outputs = (output_info(variable),)

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        """Adds the gradient to that of the leaf, in place where nobody can tell; a new one is taken over as it is."""
        variable, grad = self.variable, grads[0]
        if grad is None:
            return ()
        if active.recording is not None:
            active.recording.leaf(variable)
        with _accumulating:
            present = variable._grad
            if is_grad_enabled():
                grad._fresh = False
                variable.grad = grad if present is None else present + grad
            elif present is None:
                owned, grad = grad._fresh, grad.detach()
                variable.grad = grad if owned and _same_layout(grad, variable) else grad.clone(layout_of=variable)
            else:
                present += grad
        if variable._rare is not None:
            for hook in tuple((variable._rare.post_accumulate_hooks or {}).values()):
                hook(variable)
        return ()


def _same_layout(grad: Tensor, variable: Tensor) -> bool:
    return grad.stride() == variable.stride() or (grad.is_contiguous() and variable.is_contiguous())


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
        RuntimeError: for a leaf that requires grad, a view of one, or a view of something that requires grad which was made
            without recording; for an inference tensor outside of inference mode.
    """
    if target._counter is None:
        if not mode.inference:
            raise RuntimeError(
                f"{op}_: Inplace update to inference tensor outside InferenceMode is not allowed. "
                "You can make a clone to get a normal tensor before doing inplace update."
            )
        return
    base = target._base
    if target.is_leaf and target.requires_grad:
        raise RuntimeError(f"{op}_: a leaf Variable that requires grad is being used in an in-place operation.")
    if base is None:
        return
    if base.is_leaf and base.requires_grad:
        raise RuntimeError(
            f"{op}_: a view of a leaf Variable that requires grad is being used in an in-place operation."
        )
    if target._frozen_view and (recording or base.requires_grad):
        raise RuntimeError(
            f"{op}_: a view was created {made_where(target._grad_fn)} and is being modified inplace with grad mode enabled. "
            "Make the view where gradients are recorded, or change a clone() of it."
        )


def made_where(node: Node | None) -> str:
    """Where a view came from whose history does not follow that of its base."""
    return "in no_grad mode" if node is None else f"inside a custom Function ({node.name()})"


def increment_version(tensor: Tensor | Iterable[Tensor]) -> None:
    """Says that memory was changed by means that nobody counts, such as a kernel of one's own on ``to_torch()``.

    Raises:
        RuntimeError: for an inference tensor, whose changes are not counted.
    """
    tensors: Any = [tensor] if hasattr(tensor, "_data") else tensor
    for x in tensors:
        if x._counter is None:
            raise RuntimeError("increment_version: Inference tensors do not track version counter.")
        x._bump_version()


class GradientEdge(NamedTuple):
    """Where a tensor's gradient arrives; it stands for the tensor in ``backward`` and ``autograd.grad``."""

    node: Node
    output_nr: int


def get_gradient_edge(tensor: Tensor) -> GradientEdge:
    """The place in the graph at which the gradient of ``tensor`` arrives.

    Raises:
        RuntimeError: if it does not require a gradient.
    """
    edge = tensor._edge()
    if edge is None:
        raise RuntimeError("It is not possible to get the gradient edge for a Tensor that does not require gradients")
    return GradientEdge(*edge)


class _Arrived:
    """What one backward pass has brought to a multi-grad hook."""

    def __init__(self, grads: list[Tensor | None], expected: int) -> None:
        self.grads, self.expected, self.count = grads, expected, 0


class _MultiHandle(RemovableHandle):
    """Takes several hooks away at once."""

    def __init__(self, handles: Sequence[RemovableHandle]) -> None:
        self._handles = tuple(handles)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def register_multi_grad_hook(
    tensors: Sequence[Tensor], fn: Callable[[Any], None], *, mode: str = "all"
) -> RemovableHandle:
    """Calls ``fn`` once in each backward pass when the gradients of several tensors have arrived.

    Args:
        tensors: each requires a gradient.
        fn: takes the list of the gradients, with None for a tensor that gets none in this pass; where ``mode`` is "any",
            the first gradient that arrives.
        mode: "all" waits for every tensor that the pass reaches, "any" for the first.

    Raises:
        ValueError: for another mode.
        RuntimeError: if a tensor does not require a gradient.
    """
    if mode not in ("all", "any"):
        raise ValueError(f"Expects mode to be one of ('all', 'any') but got {mode}")
    nodes = [get_gradient_edge(x).node for x in tensors]
    seen: dict[int, _Arrived] = {}

    def arrives(position: int) -> Callable[[Tensor], None]:
        def hook(grad: Tensor) -> None:
            walks = walks_under_way()
            for number in seen.keys() - {walk.number for walk in walks}:
                del seen[number]  # passes that are over
            walk = walks[-1]
            if walk.number not in seen:
                seen[walk.number] = _Arrived([None] * len(nodes), sum(node in walk.nodes for node in nodes))
            arrived = seen[walk.number]
            arrived.count += 1
            arrived.grads[position] = grad
            if mode == "any" and arrived.count == 1:
                fn(grad)
            if mode == "all" and arrived.count == arrived.expected:
                fn(arrived.grads)

        return hook

    return _MultiHandle([x.register_hook(arrives(k)) for k, x in enumerate(tensors)])
