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

======================  ================================================================================
``g``, ``g_<output>``   the gradient of the first output, or of another one (zeros where none arrived)
an output's name        that output (``y`` unless ``outputs=`` names them)
an input's name         that input
``<input>_shape``       its shape, and ``<input>_dtype`` its dtype
``<input>_grad_dtype``  the dtype in which its gradient may be given (``autograd.walks.gradient_dtype``)
a parameter's name      its value
``needs``               in a joint rule: which of its inputs want a gradient
======================  ================================================================================

A rule returns one gradient (for a list input: one for each element); ``joint={("x", "weight"): rule}`` returns a tuple for
several inputs at once. Rules are made of operations, so they differentiate again. A gradient that has a broadcast shape
or another dtype than it may have is summed and cast to fit. ``autocast=`` says in which dtype the operation runs inside an
autocast region (see ``tinyflow.autocast_mode``); without it, in the dtype that it is given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyflow import autocast_mode
from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import backward_name, check_inplace
from tinyflow.kernels import dtypes, elementwise
from tinyflow.kernels.memory import Buffer
from tinyflow.operands import Takes, described, takes_of, wrong_operand
from tinyflow.ops.node import (
    DTYPE,
    GRAD_DTYPE,
    GRADIENT,
    NEEDS,
    OUTPUT,
    SAVED,
    SHAPE,
    VALUE,
    Keeper,
    Recipe,
    Rule,
    record,
)
from tinyflow.ops.node import OpNode as OpNode
from tinyflow.ops.node import requires_grad as requires_grad
from tinyflow.tensor import Tensor

#: Each is told of every operation that calls its launcher, with the launcher's arguments; what it returns, if anything, is
#: called when the launcher has returned.
launch_observers: list[Callable[[Op, Sequence[Any], Mapping[str, Any]], Callable[[], None] | None]] = []


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
        self.takes_out = "out" in signature.parameters
        arguments = [p for p in signature.parameters.values() if p.name != "out"]
        if any(p.kind is p.KEYWORD_ONLY for p in arguments):
            raise TypeError(f"{name}: expected a launcher whose only keyword-only parameter is out, got {signature}")
        self.parameters = tuple(p.name for p in arguments)
        self._count = len(arguments)
        self._defaults = {p.name: p.default for p in arguments if p.default is not p.empty}
        listed = [*rules, *(i for names in joint for i in names)]
        self.inputs = tuple(p for p in self.parameters if p in listed)
        self._takes = tuple(_takes(p, launcher) if p.name in listed else None for p in arguments)
        self.rules = [Rule(fn, (i,), False) for i, fn in rules.items() if fn is not None]
        self.rules += [Rule(fn, inputs, True) for inputs, fn in joint.items()]
        self._check(listed)
        for rule in self.rules:
            rule.sources = tuple(self._source(n) for n in rule.names)
        self._prepare()

    def _prepare(self) -> None:
        """What calls need and does not change from one to the next."""
        self.input_indices = tuple(map(self.parameters.index, self.inputs))
        self._bits = tuple((index, 1 << k) for k, index in enumerate(self.input_indices))
        self._keepers = {name: self._keeper(name) for rule in self.rules for how, name in rule.sources if how == SAVED}
        followed = {0} | {k for rule in self.rules for how, k in rule.sources if how == GRADIENT}
        self.differentiable = tuple(sorted(followed))
        self.recipes: dict[int, Recipe] = {}
        contents = {"__slots__": (), "op": self, "__module__": __name__}
        self.node_type: type[OpNode] = type(backward_name(self.name), (OpNode,), contents)

    def recipe(self, wanted: int) -> Recipe:
        """What a node does in whose call the inputs with a bit in ``wanted`` require gradients."""
        found = self.recipes.get(wanted)
        if found is None:
            wants = [bool(wanted >> k & 1) for k in range(len(self.inputs))]
            found = self.recipes[wanted] = Recipe.of(self.rules, self.inputs, self._keepers, wants)
        return found

    def _check(self, listed: Sequence[str]) -> None:
        for name in listed:
            if name not in self.parameters:
                raise TypeError(f"{self.name}: a rule for '{name}', but the launcher takes {self.parameters}")
        known = {"g", "needs", *self.parameters, *self.outputs}
        known |= {f"g_{o}" for o in self.outputs}
        known |= {f"{i}_{what}" for i in self.inputs for what in ("shape", "dtype", "grad_dtype")}
        for rule in self.rules:
            unknown = [n for n in rule.names if n not in known]
            if unknown:
                raise TypeError(
                    f"{self.name}: the rule for {rule.inputs} asks for {unknown}; known are {sorted(known)}"
                )

    def _source(self, name: str) -> tuple[int, Any]:
        if name == "g":
            return GRADIENT, 0
        if name == "needs":
            return NEEDS, None
        if name.endswith("_grad_dtype") and name not in self.parameters:
            return GRAD_DTYPE, self.inputs.index(name[: -len("_grad_dtype")])
        if name.startswith("g_") and name not in self.parameters:
            return GRADIENT, self.outputs.index(name[2:])
        return SAVED, name

    def _keeper(self, name: str) -> Keeper:
        if name in self.parameters:
            return Keeper(name, VALUE, self.parameters.index(name))
        if name in self.outputs:
            return Keeper(name, OUTPUT, self.outputs.index(name))
        return Keeper(name, SHAPE if name.endswith("_shape") else DTYPE, self.parameters.index(name[:-6]))

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The value of every parameter but ``out``.

        Raises:
            TypeError: as Python does, for missing, repeated or unknown arguments.
        """
        if len(args) > self._count:
            raise TypeError(f"{self.name}() takes at most {self._count} positional arguments, got {len(args)}")
        values = dict(zip(self.parameters, args))
        for k, v in kwargs.items():
            if k == "input" and self.parameters[0] == "x":
                k = "x"  # torch's name for what formulas call x
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
        return tuple([values[k] for k in self.parameters])

    def _launch(self, values: Sequence[Any], **named: Any) -> Any:
        buffers: list[Any] = []
        for v, takes in zip(values, self._takes):
            if isinstance(v, Tensor):
                v = v._data
            elif takes is not None and type(v) not in takes.types:
                v = self._operand(v, takes, values)
            elif type(v) is list or type(v) is tuple:
                v = unwrap(v)
            buffers.append(v)
        if launch_observers:
            return self._observed(buffers, {k: unwrap(v) for k, v in named.items()})
        if named:
            return self.launcher(*buffers, out=named["out"]._data)
        return self.launcher(*buffers)

    def _operand(self, value: Any, takes: Takes, values: Sequence[Any]) -> Any:
        """What the launcher gets for an input that is no Tensor, and of no type that is taken at first sight.

        Raises:
            TypeError: if the input does not take it.
        """
        if not takes.allows(value):
            index = next(k for k, v in enumerate(values) if v is value and self._takes[k] is takes)
            name = self.parameters[index]
            raise wrong_operand(f"{self.name}()", "input" if name == "x" and index == 0 else name, takes, value)
        return value.item() if isinstance(value, np.generic) else unwrap(value)

    def _observed(self, buffers: Sequence[Any], named: Mapping[str, Any]) -> Any:
        done = [observer(self, buffers, named) for observer in launch_observers]
        try:
            return self.launcher(*buffers, **named)
        finally:
            for finish in reversed(done):
                if finish is not None:
                    finish()

    def _wanted(self, values: Sequence[Any]) -> int:
        """A bit for each input that requires a gradient which is to be recorded."""
        wanted = 0
        if mode.records:
            for index, bit in self._bits:
                value = values[index]
                if isinstance(value, Tensor):
                    if value._requires_grad or (value._seen is not None and value.requires_grad):
                        wanted |= bit
                elif (type(value) is list or type(value) is tuple) and requires_grad(value):
                    wanted |= bit
        return wanted

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = args
        if kwargs or len(args) != self._count:
            out = kwargs.pop("out", None) if self.takes_out else None
            values = self.bind(args, kwargs)
            if out is not None:
                return self._into(out, values)
        if self.autocast is not None and autocast_mode.state.active:
            cast = autocast_mode.cast_inputs(self.autocast, self.inputs, dict(zip(self.parameters, values)))
            values = tuple([cast[k] for k in self.parameters])
        results = self._launch(values)
        wanted = self._wanted(values)
        if type(results) is Buffer:
            y = Tensor(results)
            y._fresh = True
            if wanted:
                record(self, values, (y,), wanted)
            if mode.watched and mode.dual_levels:
                mode.dual_levels[-1].through_op(self, values, (y,))
            return y
        several = isinstance(results, tuple)
        tensors = tuple([wrap(r) for r in results]) if several else (wrap(results),)
        if wanted:
            record(self, values, tensors, wanted)
        if mode.watched and mode.dual_levels:
            mode.dual_levels[-1].through_op(self, values, tensors)
        return tensors if several else tensors[0]

    def _into(self, out: Any, values: Sequence[Any]) -> Tensor:
        if mode.dual_levels:
            mode.dual_levels[-1].refuse_out(self.name, (out, *values))
        _check_out(self.name, out, [values[i] for i in self.input_indices])
        self._launch(values, out=out)
        out._bump_version()
        return out

    def inplace(self, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Writes the result over ``target``, the first input, and gives it this operation as its history.

        Raises:
            RuntimeError: if ``target`` is a leaf that requires grad, or the result has another shape or does not cast.
        """
        values = (target, *args)
        if kwargs or len(values) != self._count:
            values = self.bind(values, kwargs)
        wanted = self._wanted(values)
        if mode.records or target._counter is None:
            check_inplace(self.name, target, bool(wanted))
        level = mode.dual_levels[-1] if mode.dual_levels else None
        if level is not None and not level.concerns(self.name, target, values):
            level = None
        if mode.mutation is not None:
            mode.mutation.before_change(target)
        kept = wanted if level is None else wanted | level.mask(self, values)
        if kept:
            values = self._guard_overwritten(values, target, kept)
        if self.takes_out:
            self._launch(values, out=target)
        else:
            result = self._launch(values)
            overwrite(target, result[0] if isinstance(result, tuple) else result)
        target._bump_version()
        if wanted:
            from tinyflow.ops.views import rebase

            rebase(target, record(self, values, (target,), wanted, attach=False))
        if level is not None:
            level.through_inplace(self, values, target)
        return target

    def _guard_overwritten(self, values: Sequence[Any], target: Tensor, wanted: int) -> tuple[Any, ...]:
        """The values with copies in place of inputs in ``target``'s memory that a rule needs and this call overwrites."""
        guarded = list(values)
        for _, what, index in self.recipe(wanted).kept:
            if what == VALUE and index in self.input_indices:
                value = values[index]
                if type(value) in (list, tuple):
                    guarded[index] = [_apart_from(v, target) for v in value]
                else:
                    guarded[index] = _apart_from(value, target)
        return tuple(guarded)

    def __repr__(self) -> str:
        return f"<operation {self.name}{self.__signature__}>"


def _takes(parameter: inspect.Parameter, launcher: Callable[..., Any]) -> Takes | None:
    annotation = f"{parameter.annotation}".replace("Buffer", "Tensor").replace("Operand", "Tensor | Scalar")
    if isinstance(launcher, elementwise.Pointwise):
        annotation = "Tensor" if len(launcher.fn.arg_names) == 1 else "Tensor | Scalar"
    return takes_of(annotation, {})


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


def _apart_from(value: Any, target: Tensor) -> Any:
    return value.clone() if isinstance(value, Tensor) and value._counter is target._counter else value


def overwrite(target: Tensor, result: Buffer) -> None:
    """Copies a result into ``target``'s memory.

    Raises:
        RuntimeError: if the shape differs or the dtype would lose its category.
    """
    if tuple(result.shape) != tuple(target.shape):
        raise RuntimeError(
            f"output with shape {tuple(target.shape)} doesn't match the broadcast shape {tuple(result.shape)}"
        )
    if not dtypes.can_cast(result.dtype, target.dtype):
        raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {target.dtype}")
    elementwise.copy_into(target._data, result)


def _check_out(op: str, out: Any, inputs: Sequence[Any]) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"{op}(): expected out to be a tinyflow.Tensor, but it is {described(out)}")
    if mode.records and (out.requires_grad or any(requires_grad(v) for v in inputs)):
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
