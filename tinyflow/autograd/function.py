"""Operations that users define: a ``forward`` and a ``backward``, as in ``torch.autograd.Function``.

>>> class Square(Function):
...     @staticmethod
...     def forward(ctx, x):
...         ctx.save_for_backward(x)
...         return x * x
...
...     @staticmethod
...     def backward(ctx, grad_output):
...         (x,) = ctx.saved_tensors
...         return 2 * x * grad_output
>>> y = Square.apply(x)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tinyflow.autograd.grad_mode import is_grad_enabled, mode, no_grad, set_grad_enabled
from tinyflow.autograd.graph import (
    Grads,
    Node,
    OutputInfo,
    SavedTensor,
    announce,
    check_inplace,
    output_info,
    released_error,
)
from tinyflow.autograd.view_history import stand_apart
from tinyflow.tensor import Tensor


class FunctionNode(Node):
    """The node of a user's function; it is the ``ctx`` of ``forward`` and ``backward``."""

    __slots__ = (
        "_function",
        "needs_input_grad",
        "_to_save",
        "_saved",
        "_released",
        "_not_differentiable",
        "_dirty",
        "_materialize",
        "_for_forward",
        "__dict__",
    )

    def __init__(self, function: type[Function], inputs: Sequence[Any], needs_grad: bool) -> None:
        tensors = [x if isinstance(x, Tensor) else None for x in inputs]
        super().__init__([None if x is None or not needs_grad else x._edge() for x in tensors])
        self._function = function
        self.needs_input_grad = tuple(x is not None and x.requires_grad for x in tensors)
        self._to_save: tuple[Tensor | None, ...] = ()
        self._saved: list[SavedTensor | None] = []
        self._released = False
        self._not_differentiable: tuple[Tensor, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True
        self._for_forward: tuple[Tensor | None, ...] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("next_edges", "outputs", "sequence") and hasattr(self, name):
            raise AttributeError(f"{self.name()}: ctx.{name} is the graph's own; keep it under another name")
        super().__setattr__(name, value)

    def name(self) -> str:
        return f"{self._function.__name__}Backward"

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps tensors for ``backward``, where ``ctx.saved_tensors`` gives them back; inputs and outputs are safe here."""
        for k, x in enumerate(tensors):
            if x is not None and not isinstance(x, Tensor):
                raise TypeError(
                    f"save_for_backward can only save tensors, but argument {k} is of type {type(x).__name__}"
                )
        self._to_save = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Keeps tensors for ``jvp``, where ``ctx.saved_tensors`` gives them."""
        self._for_forward = tensors

    def forward_tangents(self, function: type[Function], tangents: Sequence[Tensor | None]) -> Any:
        """What the function's ``jvp`` makes of the tangents of its inputs."""
        kept, self._to_save = self._to_save, self._for_forward or self._to_save
        try:
            return function.jvp(self, *tangents)
        finally:
            self._to_save, self._for_forward = kept, None

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        if self._released:
            raise released_error(self)
        if self._to_save:
            return self._to_save
        return tuple(None if s is None else s.unpack(self) for s in self._saved)

    @property
    def _raw_saved_tensors(self) -> tuple[SavedTensor | None, ...]:
        """What is kept, to give saved-tensor hooks to."""
        if self._released:
            raise released_error(self)
        return tuple(self._saved)

    def saved_tensors_kept(self) -> Iterator[tuple[str, SavedTensor]]:
        return ((f"saved_tensors[{k}]", s) for k, s in enumerate(self._saved) if s is not None)

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Says that these outputs have no gradient."""
        self._not_differentiable = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Says that these inputs were changed in place; each must be among the outputs."""
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """With False, ``backward`` gets None for an output that had no gradient, and not zeros."""
        self._materialize = value

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        if self._released:
            raise released_error(self)
        if self._materialize:
            grads = tuple(
                Tensor._zeros(o.shape, o.dtype, o.device) if g is None and o.dtype is not None else g
                for g, o in zip(grads, self.outputs)
            )
        results = self._function.backward(self, *grads)
        results = results if isinstance(results, (tuple, list)) else (results,)
        expected = len(self.next_edges)
        if len(results) > expected and all(r is None for r in results[expected:]):
            results = results[:expected]
        if len(results) != expected:
            raise RuntimeError(
                f"function {self.name()} returned an incorrect number of gradients (expected {expected}, got {len(results)})"
            )
        for k, r in enumerate(results):
            if r is not None and not isinstance(r, Tensor):
                raise TypeError(
                    f"function {self.name()} returned a {type(r).__name__} as gradient {k}; expected a Tensor or None"
                )
        return [self.fit(k, r) for k, r in enumerate(results)]

    def release(self) -> None:
        if self._saved:
            self._saved, self._released = [], True

    def _finish(self, outputs: Sequence[Any]) -> None:
        """Turns what ``forward`` asked to save into guarded references, once the outputs have their history."""
        kept: list[SavedTensor | None] = []
        for x in self._to_save:
            index = next((k for k, y in enumerate(outputs) if y is x), None)
            kept.append(None if x is None else SavedTensor(x, index if x is not None and x.grad_fn is self else None))
        self._to_save, self._saved = (), kept


class Function:
    """Base of user-defined operations: static ``forward`` and ``backward``, called through ``apply``.

    ``forward(ctx, *args)``, or ``forward(*args)`` with ``setup_context(ctx, inputs, output)``. ``backward(ctx, *grads)``
    returns one gradient, or None, for each argument of ``forward``. It is differentiated itself under ``create_graph``.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a Function needs a static forward method")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise NotImplementedError("a Function needs a static backward method to be differentiated")

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """The tangents of the outputs from those of the inputs, for forward mode."""
        raise NotImplementedError("a Function needs a static jvp method to be differentiated in forward mode")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        raise NotImplementedError

    def __init__(self) -> None:
        raise RuntimeError(f"{type(self).__name__} is not to be instantiated: call {type(self).__name__}.apply(...)")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Runs ``forward`` and records the node; ``backward`` gives gradients of keyword arguments after the others.

        With ``setup_context``, arguments are in the order of ``forward``'s parameters, and defaults are among them.
        """
        separate = cls.setup_context is not Function.setup_context
        if separate:
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        given, args = args, (*args, *kwargs.values())
        needs_grad = mode.records and any(isinstance(x, Tensor) and x.requires_grad for x in args)
        node = FunctionNode(cls, args, needs_grad)
        with no_grad():
            if not separate:
                raw = cls.forward(node, *given, **kwargs)
            else:
                raw = cls.forward(*given, **kwargs)
                cls.setup_context(node, args, raw)
        outputs = list(raw) if isinstance(raw, (tuple, list)) else [raw]
        for x in node._dirty:
            if not any(x is y for y in outputs):
                raise RuntimeError(f"{cls.__name__}: an input that was marked dirty must be among the outputs")
            x._bump_version()
        if not needs_grad:
            cls._push_tangents(node, args, outputs)
            return raw
        infos = [output_info(y) if isinstance(y, Tensor) else OutputInfo((), None, None) for y in outputs]
        object.__setattr__(node, "outputs", tuple(infos))
        for k, y in enumerate(outputs):
            outputs[k] = cls._record(node, k, y, args)
        node._finish(outputs)
        if mode.watched:
            announce(node)
        cls._push_tangents(node, args, outputs)
        return tuple(outputs) if isinstance(raw, (tuple, list)) else outputs[0]

    @classmethod
    def _push_tangents(cls, node: FunctionNode, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        if mode.dual_levels:
            mode.dual_levels[-1].through_function(cls, node, inputs, outputs)

    @staticmethod
    def _record(node: FunctionNode, index: int, y: Any, inputs: Sequence[Any]) -> Any:
        if not isinstance(y, Tensor) or any(y is x for x in node._not_differentiable) or not y.dtype.is_floating_point:
            return y
        if any(y is x for x in node._dirty):
            check_inplace(node._function.__name__, y, recording=True)
            if y._base is not None:
                raise RuntimeError(
                    f"{node._function.__name__}: a view cannot be marked dirty; work on a clone(), or on the whole tensor"
                )
            y._set_history(node, index)
            return y
        if any(y is x for x in inputs):
            y = y.view_as(y)
        result = y.detach()
        stand_apart(result, y)
        result._set_history(node, index)
        node._to_save = tuple(result if x is y else x for x in node._to_save)
        return result


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a ``backward`` whose arithmetic the graph cannot follow: differentiating its result is an error."""

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Any) -> Any:
        with set_grad_enabled(False):
            results = backward(ctx, *grads)
        if not is_grad_enabled():
            return results
        needs = any(isinstance(g, Tensor) and g.requires_grad for g in grads)
        single = not isinstance(results, (tuple, list))
        outputs = [results] if single else list(results)
        if needs:
            outputs = [_refuse(y) if isinstance(y, Tensor) else y for y in outputs]
        return outputs[0] if single else tuple(outputs)

    return wrapped


class _Refuse(Node):
    __slots__ = ()

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")


def _refuse(y: Tensor) -> Tensor:
    result = y.detach()
    node = _Refuse(())
    node.outputs = (output_info(y),)
    result._set_history(node, 0)
    return result
