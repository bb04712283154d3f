"""From a launcher and its gradient rules to a differentiable operation.

::

    relu = define(elementwise.relu, x=lambda g, y: relu_backward(g, y))

    conv2d = define(
        kernels.conv2d,
        x=lambda g, weight, x_shape, stride, padding: conv2d_input_grad(g, weight, x_shape, stride, padding),
        weight=lambda g, x, weight_shape, stride, padding: conv2d_weight_grad(g, x, weight_shape, stride, padding),
        bias=lambda g: g.sum((0, 2, 3)),
    )

The keywords are the launcher's tensor inputs; every other parameter is passed on as it is. An input is a Tensor, None, a
Python number where the launcher takes one, or a list of Tensors. ``None`` in place of a rule says that there is no
gradient. A rule names what it needs, and only that is saved, and only if that input requires a gradient:

=====================  ==================================================================================
``g``, ``g_<output>``  the gradient of the first output, or of another one (zeros where none arrived)
an output's name       that output (``y`` unless ``outputs=`` names them)
an input's name        that input
``<input>_shape``      its shape, and ``<input>_dtype`` its dtype
a parameter's name     its value
``needs``              in a joint rule: which of its inputs want a gradient
=====================  ==================================================================================

A rule returns one gradient (for a list input: one for each element); ``joint={("x", "weight"): rule}`` returns a tuple for
several inputs at once. Rules are made of operations, so they differentiate again. A gradient that has a broadcast shape
or another dtype than its input is summed and cast to fit. ``autocast=`` says in which dtype the operation runs inside an
autocast region (see ``tinyflow.autocast_mode``); without it, in the dtype that it is given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinyflow import autocast_mode
from tinyflow.autograd.grad_mode import is_grad_enabled
from tinyflow.autograd.graph import Edge, Grads, Node, OutputInfo, SavedTensor, check_inplace, released_error
from tinyflow.kernels.memory import Buffer
from tinyflow.tensor import Tensor

#: How a name that a rule asks for is found: the gradient of an output, the list of needs, or among what was saved ...
_GRADIENT, _NEEDS, _SAVED = range(3)
#: ... and what is saved under a name: a parameter's value, an output, an input's shape or dtype.
_VALUE, _OUTPUT, _DESCRIPTION = range(3)


#: Each is told of every launcher that an operation calls, with its arguments.
launch_observers: list[Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], None]] = []


class Rule:
    """A gradient rule, the inputs that it serves, and where the names that it needs come from."""

    __slots__ = ("function", "inputs", "names", "joint", "sources")

    def __init__(self, function: Callable[..., Any], inputs: tuple[str, ...], joint: bool) -> None:
        self.function = function
        self.inputs = inputs
        self.names = tuple(inspect.signature(function).parameters)
        self.joint = joint
        self.sources: tuple[tuple[int, Any], ...] = ()


class Op:
    """A differentiable operation; call it with Tensors as its launcher is called with buffers."""

    def __init__(
        self,
        launcher: Callable[..., Any],
        name: str,
        outputs: tuple[str, ...],
        rules: Mapping[str, Callable[..., Any] | None],
        joint: Mapping[tuple[str, ...], Callable[..., Any]],
        autocast: autocast_mode.Policy | None = None,
    ) -> None:
        self.launcher = launcher
        self.autocast = autocast
        self.__name__ = self.name = name
        self.__doc__ = launcher.__doc__
        self.outputs = outputs
        signature = inspect.signature(launcher)
        self.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)
        self.parameters = tuple(signature.parameters)
        self.takes_out = "out" in self.parameters
        named = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        self._positional = tuple(p for p in self.parameters if p not in named)
        self._named = tuple(named)
        self._defaults = {k: p.default for k, p in signature.parameters.items() if p.default is not p.empty}
        listed = [*rules, *(i for names in joint for i in names)]
        self.inputs = tuple(p for p in self.parameters if p in listed)
        self.rules = [Rule(fn, (i,), False) for i, fn in rules.items() if fn is not None]
        self.rules += [Rule(fn, inputs, True) for inputs, fn in joint.items()]
        self._check(listed)
        for rule in self.rules:
            rule.sources = tuple(self._source(n) for n in rule.names)
        self._kept = {
            n: self._keeper(n) for rule in self.rules for n, (how, _) in zip(rule.names, rule.sources) if how == _SAVED
        }
        followed = {0} | {k for rule in self.rules for how, k in rule.sources if how == _GRADIENT}
        self._differentiable = tuple(sorted(followed))

    def _check(self, listed: Sequence[str]) -> None:
        for name in listed:
            if name not in self.parameters:
                raise TypeError(f"{self.name}: a rule for '{name}', but the launcher takes {self.parameters}")
        known = {"g", "needs", *self.parameters, *self.outputs}
        known |= {f"g_{o}" for o in self.outputs}
        known |= {f"{i}_{what}" for i in self.inputs for what in ("shape", "dtype")}
        for rule in self.rules:
            unknown = [n for n in rule.names if n not in known]
            if unknown:
                raise TypeError(
                    f"{self.name}: the rule for {rule.inputs} asks for {unknown}; known are {sorted(known)}"
                )

    def _source(self, name: str) -> tuple[int, Any]:
        if name == "g":
            return _GRADIENT, 0
        if name == "needs":
            return _NEEDS, None
        if name.startswith("g_") and name not in self.parameters:
            return _GRADIENT, self.outputs.index(name[2:])
        return _SAVED, name

    def _keeper(self, name: str) -> tuple[int, Any]:
        if name in self.parameters:
            return _VALUE, name
        if name in self.outputs:
            return _OUTPUT, self.outputs.index(name)
        return _DESCRIPTION, (name[:-6], name[-5:])

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The value of every parameter.

        Raises:
            TypeError: as Python does, for missing, repeated or unknown arguments.
        """
        if len(args) > len(self._positional):
            raise TypeError(
                f"{self.name}() takes at most {len(self._positional)} positional arguments, got {len(args)}"
            )
        values = dict(zip(self._positional, args))
        for k, v in kwargs.items():
            if k not in self.parameters:
                raise TypeError(
                    f"{self.name}() got an unexpected keyword argument '{k}'; it takes {', '.join(self.parameters)}"
                )
            if k in values:
                raise TypeError(f"{self.name}() got multiple values for argument '{k}'")
            values[k] = v
        for k in self.parameters[len(args) :]:
            if k not in values:
                if k not in self._defaults:
                    raise TypeError(f"{self.name}() missing required argument '{k}'")
                values[k] = self._defaults[k]
        return values

    def _launch(self, values: Mapping[str, Any]) -> Any:
        positional = [unwrap(values[k]) for k in self._positional]
        named = {k: unwrap(values[k]) for k in self._named}
        for observer in launch_observers:
            observer(self.launcher, positional, named)
        return self.launcher(*positional, **named)

    def _recording(self, values: Mapping[str, Any]) -> bool:
        if is_grad_enabled():
            for name in self.inputs:
                if requires_grad(values[name]):
                    return True
        return False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = self.bind(args, kwargs)
        out = values.get("out") if self.takes_out else None
        if out is not None:
            _check_out(self.name, out, [values[i] for i in self.inputs])
            self._launch(values)
            out._bump_version()
            return out
        if self.autocast is not None and autocast_mode.state.active:
            values = autocast_mode.cast_inputs(self.autocast, self.inputs, values)
        results = self._launch(values)
        several = isinstance(results, tuple)
        tensors = tuple([wrap(r) for r in results]) if several else (wrap(results),)
        if self._recording(values):
            record(self, values, tensors)
        return tensors if several else tensors[0]

    def inplace(self, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Writes the result over ``target``, the first input, and gives it this operation as its history.

        Raises:
            RuntimeError: if ``target`` is a leaf that requires grad, or the result has another shape or does not cast.
        """
        values = self.bind((target, *args), kwargs)
        recording = self._recording(values)
        if is_grad_enabled():
            check_inplace(self.name, target, recording)
        if recording:
            self._guard_overwritten(values, target)
        if self.takes_out:
            self._launch({**values, "out": target})
        else:
            result = self._launch(values)
            overwrite(target, result[0] if isinstance(result, tuple) else result)
        target._bump_version()
        if recording:
            from tinyflow.ops.views import rebase

            rebase(target, record(self, values, (target,), attach=False))
        return target

    def _guard_overwritten(self, values: dict[str, Any], target: Tensor) -> None:
        """Puts copies in place of inputs in ``target``'s memory that a rule needs and this call overwrites."""
        needed = {n for r in self.rules if any(requires_grad(values[i]) for i in r.inputs) for n in r.names}
        for name in self.inputs:
            if name in needed:
                value = values[name]
                if type(value) in (list, tuple):
                    values[name] = [_apart_from(v, target) for v in value]
                else:
                    values[name] = _apart_from(value, target)

    def __repr__(self) -> str:
        return f"<operation {self.name}{self.__signature__}>"


class OpNode(Node):
    """One recorded call of an :class:`Op`."""

    __slots__ = ("op", "saved", "places", "wanted")
    results_are_new = True

    def __init__(self, op: Op, edges: Sequence[Edge | None], places: Mapping[str, tuple[int, int | None]]) -> None:
        super().__init__(edges)
        self.op = op
        self.places = places  # input -> (first edge, number of edges, None where the input is one tensor and no list)
        self.saved: dict[str, Any] | None = {}
        self.wanted: tuple[Rule, ...] = ()

    def name(self) -> str:
        return "".join(part.capitalize() for part in self.op.name.split("_")) + "Backward0"

    def wants(self, name: str) -> bool:
        """True if the input leads to something that requires grad."""
        first, count = self.places[name]
        if count is None:
            return self.next_edges[first] is not None
        return any(edge is not None for edge in self.next_edges[first : first + count])

    def release(self) -> None:
        self.saved = None

    def value(self, how: int, key: Any, grads: Grads, rule: Rule) -> Any:
        """What a rule asked for."""
        if how == _GRADIENT:
            grad = grads[key]
            if grad is not None:
                return grad
            info = self.outputs[key]
            return Tensor._zeros(info.shape, info.dtype, info.device)
        if how == _NEEDS:
            return tuple(self.wants(i) for i in rule.inputs)
        kept = self.saved[key]  # type: ignore[index]
        if isinstance(kept, SavedTensor):
            return kept.unpack(self)
        if isinstance(kept, _SavedList):
            return [k.unpack(self) if isinstance(k, SavedTensor) else k for k in kept]
        return kept

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        if self.saved is None:
            raise released_error(self)
        results: list[Tensor | None] = [None] * len(self.next_edges)
        for rule in self.wanted:
            found = rule.function(*[self.value(how, key, grads, rule) for how, key in rule.sources])
            for name, grad in zip(rule.inputs, found if rule.joint else (found,)):
                self._place(name, grad, results)
        return results

    def _place(self, name: str, grad: Any, results: list[Tensor | None]) -> None:
        first, count = self.places[name]
        if count is None:
            results[first] = self.fit(first, grad)
            return
        if len(grad) != count:
            raise RuntimeError(f"{self.name()}: expected {count} gradients for '{name}', got {len(grad)}")
        for k, part in enumerate(grad):
            results[first + k] = self.fit(first + k, part)


class _SavedList(list):
    """A list input as it was saved."""


def unwrap(value: Any) -> Any:
    """The buffers in a parameter's value."""
    if isinstance(value, Tensor):
        return value._data
    if type(value) in (list, tuple) and any(isinstance(v, Tensor) for v in value):
        return type(value)(unwrap(v) for v in value)
    return value


def wrap(buffer: Any) -> Any:
    """A launcher's result as a Tensor that nobody else holds."""
    if not isinstance(buffer, Buffer):
        return buffer
    tensor = Tensor(buffer)
    tensor._fresh = True
    return tensor


def requires_grad(value: Any) -> bool:
    """True if an input, or one of a list, requires grad."""
    if isinstance(value, Tensor):
        return value.requires_grad
    return type(value) in (list, tuple) and any(isinstance(v, Tensor) and v.requires_grad for v in value)


def _apart_from(value: Any, target: Tensor) -> Any:
    return value.clone() if isinstance(value, Tensor) and value._counter is target._counter else value


def record(op: Op, values: Mapping[str, Any], outputs: Sequence[Any], attach: bool = True) -> OpNode:
    """Makes the node of a call, with what its rules need, and gives it to the outputs as their history."""
    edges: list[Edge | None] = []
    places: dict[str, tuple[int, int | None]] = {}
    for name in op.inputs:
        value = values[name]
        if type(value) in (list, tuple):
            places[name] = len(edges), len(value)
            edges.extend([v._edge() if isinstance(v, Tensor) else None for v in value])
        else:
            places[name] = len(edges), None
            edges.append(value._edge() if isinstance(value, Tensor) else None)
    node = OpNode(op, edges, places)
    node.outputs = tuple(
        [
            OutputInfo(y._data.shape, y._data.dtype, y._data.device) if isinstance(y, Tensor) else _NO_OUTPUT
            for y in outputs
        ]
    )
    node.wanted = tuple([r for r in op.rules if any(map(node.wants, r.inputs))])
    saved: dict[str, Any] = {}
    for rule in node.wanted:
        for how, name in rule.sources:
            if how == _SAVED and name not in saved:
                saved[name] = _keep(op._kept[name], values, outputs)
    node.saved = saved
    if attach:
        for k in op._differentiable:
            y = outputs[k]
            if isinstance(y, Tensor) and y._data.dtype.is_floating_point:
                y._set_history(node, k)
    return node


_NO_OUTPUT = OutputInfo((), None, None)


def _keep(keeper: tuple[int, Any], values: Mapping[str, Any], outputs: Sequence[Any]) -> Any:
    how, key = keeper
    if how == _VALUE:
        value = values[key]
        if isinstance(value, Tensor):
            return SavedTensor(value)
        if type(value) in (list, tuple) and any(isinstance(v, Tensor) for v in value):
            return _SavedList(SavedTensor(v) if isinstance(v, Tensor) else v for v in value)
        return value
    if how == _OUTPUT:
        y = outputs[key]
        return SavedTensor(y, key) if isinstance(y, Tensor) else y
    name, what = key
    return _describe(values[name], what)


def _describe(value: Any, what: str) -> Any:
    if type(value) in (list, tuple):
        return [_describe(v, what) for v in value]
    if not isinstance(value, Tensor):
        return () if what == "shape" else None
    return tuple(value.shape) if what == "shape" else value.dtype


def overwrite(target: Tensor, result: Buffer) -> None:
    """Copies a result into ``target``'s memory.

    Raises:
        RuntimeError: if the shape differs or the dtype would lose its category.
    """
    from tinyflow.kernels import dtypes, elementwise

    if tuple(result.shape) != tuple(target.shape):
        raise RuntimeError(
            f"output with shape {tuple(target.shape)} doesn't match the broadcast shape {tuple(result.shape)}"
        )
    if not dtypes.can_cast(result.dtype, target.dtype):
        raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {target.dtype}")
    elementwise.copy_into(target._data, result)


def _check_out(op: str, out: Any, inputs: Sequence[Any]) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"{op}(): expected out to be a Tensor, got {type(out).__name__}")
    if is_grad_enabled() and (out.requires_grad or any(requires_grad(v) for v in inputs)):
        raise RuntimeError(f"{op}(): functions with out=... arguments don't support automatic differentiation")


def define(
    launcher: Callable[..., Any],
    *,
    name: str | None = None,
    outputs: Sequence[str] = ("y",),
    joint: Mapping[tuple[str, ...], Callable[..., Any]] | None = None,
    autocast: autocast_mode.Policy | None = None,
    **rules: Callable[..., Any] | None,
) -> Op:
    """An operation from a launcher and the gradient rule of each tensor input (see the module's description).

    Args:
        launcher: takes and returns buffers; a tuple for several outputs.
        name: shown in ``grad_fn`` and errors; default: the launcher's name.
        outputs: names of the outputs, for rules that need them.
        joint: rules that serve several inputs at once.
        autocast: how inputs are cast inside an autocast region; results written in place or to ``out`` are not.
        rules: for each tensor input its rule, or None.
    """
    return Op(launcher, name or launcher.__name__, tuple(outputs), rules, joint or {}, autocast)
