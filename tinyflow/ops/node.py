"""The graph's node of an operation that ``define`` made, and what a call of it keeps for the backward pass.

What depends only on the operation and on which of its inputs require gradients is worked out once, in a :class:`Recipe`;
a call then fills in a node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import (
    Edge,
    Grads,
    Node,
    OutputInfo,
    SavedTensor,
    announce,
    edge_to,
    info_of,
    output_info,
    released_error,
    sequence,
)
from tinyflow.autograd.walks import gradient_dtype
from tinyflow.tensor import Tensor

#: How a name that a rule asks for is found: among what was saved, the gradient of an output, the list of needs, or the
#: dtype in which the gradient of an input may be given ...
SAVED, GRADIENT, NEEDS, GRAD_DTYPE = range(4)
#: ... and what is saved under a name: a parameter's value, an output, an input's shape or dtype.
VALUE, OUTPUT, SHAPE, DTYPE = range(4)

_NO_OUTPUT = OutputInfo((), None, None)

_new_node: Callable[[type[Any]], Any] = object.__new__  # record() fills in all that __init__ would


class Rule:
    """A gradient rule, the inputs that it serves, and where the names that it needs come from."""

    __slots__ = ("function", "inputs", "names", "joint", "sources")

    def __init__(self, function: Callable[..., Any], inputs: tuple[str, ...], joint: bool) -> None:
        self.function = function
        self.inputs = inputs
        self.names = tuple(inspect.signature(function).parameters)
        self.joint = joint
        self.sources: tuple[tuple[int, Any], ...] = ()


class Keeper(NamedTuple):
    """What a name that rules ask for stands for."""

    name: str
    what: int
    position: int  # of the parameter, or of the output


class Step(NamedTuple):
    """One rule of a recipe."""

    function: Callable[..., Any]
    # SAVED with a name, GRADIENT with an output's number, NEEDS with the needs, GRAD_DTYPE with an input's number
    sources: tuple[tuple[int, Any], ...]
    targets: tuple[int, ...]  # which of the operation's inputs it serves
    joint: bool


class Recipe(NamedTuple):
    """Which rules a node applies, and what it saves for them."""

    steps: tuple[Step, ...]
    kept: tuple[Keeper, ...]
    holds: bool  # tensors, to be freed after the backward pass; with shapes and parameters alone it may run again

    @staticmethod
    def of(
        rules: Sequence[Rule], inputs: tuple[str, ...], keepers: Mapping[str, Keeper], wanted: Sequence[bool]
    ) -> Recipe:
        """The recipe for calls in which the inputs that are ``wanted`` require gradients."""
        wants = dict(zip(inputs, wanted))
        steps: list[Step] = []
        kept: dict[str, Keeper] = {}
        for rule in rules:
            needs = tuple(wants[i] for i in rule.inputs)
            if any(needs):
                sources = tuple((how, needs if how == NEEDS else key) for how, key in rule.sources)
                steps.append(Step(rule.function, sources, tuple(map(inputs.index, rule.inputs)), rule.joint))
                kept.update((name, keepers[name]) for how, name in rule.sources if how == SAVED)
        holds = any(k.what == OUTPUT or (k.what == VALUE and k.name in inputs) for k in kept.values())
        return Recipe(tuple(steps), tuple(kept.values()), holds)


class OpNode(Node):
    """One recorded call of an operation; every operation has a class of its own, named as torch names it."""

    __slots__ = ("recipe", "saved", "places")
    results_are_new = True

    op: Any

    recipe: Recipe
    saved: dict[str, Any] | None
    #: For each input the first edge, and the number of edges where the input is a list; None: no input is a list.
    places: list[tuple[int, int | None]] | None

    def release(self) -> None:
        if self.recipe.holds or (self.saved and any(True for _ in self.saved_tensors_kept())):
            self.saved = None

    def saved_tensors_kept(self) -> Iterator[tuple[str, SavedTensor]]:
        for name, kept in (self.saved or {}).items():
            if isinstance(kept, SavedTensor):
                yield name, kept
            elif isinstance(kept, SavedList):
                yield from ((f"{name}[{k}]", x) for k, x in enumerate(kept) if isinstance(x, SavedTensor))

    def __getattr__(self, name: str) -> Any:
        """``_saved_x`` is what was saved of ``x``, as in torch, and ``_raw_saved_x`` takes its saved-tensor hooks."""
        for prefix in ("_saved_", "_raw_saved_"):
            if name.startswith(prefix):
                key = name[len(prefix) :]
                if self.saved is None:
                    raise released_error(self)
                if key in self.saved:
                    return self.saved[key] if prefix == "_raw_saved_" else _unpacked(self, self.saved[key])
        raise AttributeError(f"{self.name()} has no attribute '{name}'")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(f"_saved_{k.name}" for k in self.recipe.kept)]

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        saved = self.saved
        if saved is None:
            raise released_error(self)
        results: list[Tensor | None] = [None] * len(self.next_edges)
        for function, sources, targets, joint in self.recipe.steps:
            arguments: list[Any] = []
            for how, key in sources:
                if how == SAVED:
                    kept = saved[key]
                    if type(kept) is SavedTensor or type(kept) is SavedList:
                        kept = _unpacked(self, kept)
                    arguments.append(kept)
                elif how == GRADIENT:
                    grad = grads[key]
                    arguments.append(self._zeros(key) if grad is None else grad)
                elif how == GRAD_DTYPE:
                    arguments.append(gradient_dtype(self, key if self.places is None else self.places[key][0]))
                else:
                    arguments.append(key)
            found = function(*arguments)
            if joint:
                for target, grad in zip(targets, found):
                    self._place(target, grad, results)
            else:
                self._place(targets[0], found, results)
        return results

    def _zeros(self, output: int) -> Tensor:
        """The gradient of an output at which none arrived."""
        info = self.outputs[output]
        return Tensor._zeros(info.shape, info.dtype, info.device)

    def _place(self, target: int, grad: Any, results: list[Tensor | None]) -> None:
        if self.places is None:
            results[target] = self.fit(target, grad)
            return
        first, count = self.places[target]
        if count is None:
            results[first] = self.fit(first, grad)
            return
        if len(grad) != count:
            name = self.op.inputs[target]
            raise RuntimeError(f"{self.name()}: expected {count} gradients for '{name}', got {len(grad)}")
        for k, part in enumerate(grad):
            results[first + k] = self.fit(first + k, part)


class SavedList(list):
    """A list input as it was saved."""


def _unpacked(node: OpNode, kept: Any) -> Any:
    if isinstance(kept, SavedTensor):
        return kept.unpack(node)
    if isinstance(kept, SavedList):
        return [k.unpack(node) if isinstance(k, SavedTensor) else k for k in kept]
    return kept


def requires_grad(value: Any) -> bool:
    """True if an input, or one of a list, requires grad."""
    if isinstance(value, Tensor):
        return value.requires_grad
    return type(value) in (list, tuple) and any(isinstance(v, Tensor) and v.requires_grad for v in value)


def record(op: Any, values: Sequence[Any], outputs: Sequence[Any], wanted: int, attach: bool = True) -> OpNode:
    """Makes the node of a call, with what its rules need, and gives it to the outputs as their history.

    Args:
        values: the value of every parameter.
        wanted: a bit for each input that requires a gradient.
        attach: whether the outputs get it as their history.
    """
    edges: list[Edge | None] = []
    lists = False
    for index in op.input_indices:
        value = values[index]
        if isinstance(value, Tensor):
            before = value._grad_fn
            if before is None or value._seen is not None:
                edges.append(value._edge())
            else:
                edges.append(edge_to((before, value._output_index)))
        elif type(value) is list or type(value) is tuple:
            lists = True
            edges.extend([v._edge() if isinstance(v, Tensor) else None for v in value])
        else:
            edges.append(None)
    recipe: Recipe = op.recipes.get(wanted) or op.recipe(wanted)
    node: OpNode = _new_node(op.node_type)
    node.next_edges = tuple(edges)
    node.sequence = next(sequence)
    node.attached = None
    node.recipe = recipe
    node.places = _places(op, values) if lists else None
    if len(outputs) == 1:
        data = outputs[0]._data
        node.outputs = (info_of((data.shape, data.dtype, data.device)),)
    else:
        node.outputs = tuple([output_info(y) if isinstance(y, Tensor) else _NO_OUTPUT for y in outputs])
    saved: dict[str, Any] = {}
    for name, what, index in recipe[1]:
        if what == VALUE:
            value = values[index]
            if isinstance(value, Tensor):
                value = SavedTensor(value)
            elif (type(value) is list or type(value) is tuple) and any(isinstance(v, Tensor) for v in value):
                value = SavedList(SavedTensor(v) if isinstance(v, Tensor) else v for v in value)
            saved[name] = value
        elif what == OUTPUT:
            y = outputs[index]
            saved[name] = SavedTensor(y, index) if isinstance(y, Tensor) else y
        else:
            saved[name] = _describe(values[index], what)
    node.saved = saved
    if mode.watched:
        announce(node)
    if attach:
        for k in op.differentiable:
            y = outputs[k]
            if isinstance(y, Tensor) and y._data.dtype.is_floating_point:
                y._grad_fn, y._output_index, y._requires_grad = node, k, True  # new: nothing else is to be updated
    return node


def _places(op: Any, values: Sequence[Any]) -> list[tuple[int, int | None]]:
    places: list[tuple[int, int | None]] = []
    first = 0
    for index in op.input_indices:
        count = len(values[index]) if type(values[index]) in (list, tuple) else None
        places.append((first, count))
        first += 1 if count is None else count
    return places


def _describe(value: Any, what: int) -> Any:
    if type(value) in (list, tuple):
        return [_describe(v, what) for v in value]
    if not isinstance(value, Tensor):
        return () if what == SHAPE else None
    return tuple(value.shape) if what == SHAPE else value.dtype
