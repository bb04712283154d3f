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
from collections.abc import Callable, Sequence
from typing import Any

from tinyflow.autograd.grad_mode import is_grad_enabled, no_grad, set_grad_enabled
from tinyflow.autograd.graph import Grads, Node, OutputInfo, SavedTensor, check_inplace, released_error
from tinyflow.tensor import Tensor


class FunctionNode(Node):
    """The node of a user's function; it is the ``ctx`` of ``forward`` and ``backward``."""

    __slots__ = (
        "function",
        "needs_input_grad",
        "_to_save",
        "_saved",
        "_released",
        "_not_differentiable",
        "_dirty",
        "_materialize",
        "__dict__",
    )

    def __init__(self, function: type[Function], inputs: Sequence[Any], needs_grad: bool) -> None:
        tensors = [x if isinstance(x, Tensor) else None for x in inputs]
        super().__init__([None if x is None or not needs_grad else x._edge() for x in tensors])
        self.function = function
        self.needs_input_grad = tuple(x is not None and x.requires_grad for x in tensors)
        self._to_save: tuple[Tensor | None, ...] = ()
        self._saved: list[SavedTensor | None] = []
        self._released = False
        self._not_differentiable: tuple[Tensor, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True

    def name(self) -> str:
        return f"{self.function.__name__}Backward"

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps tensors for ``backward``, where ``ctx.saved_tensors`` gives them back; inputs and outputs are safe here."""
        for k, x in enumerate(tensors):
            if x is not None and not isinstance(x, Tensor):
                raise TypeError(
                    f"save_for_backward can only save tensors, but argument {k} is of type {type(x).__name__}"
                )
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        if self._released:
            raise released_error(self)
        if self._to_save:
            return self._to_save
        return tuple(None if s is None else s.unpack(self) for s in self._saved)

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
        results = self.function.backward(self, *grads)
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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        raise NotImplementedError

    def __init__(self) -> None:
        raise RuntimeError(f"{type(self).__name__} is not to be instantiated: call {type(self).__name__}.apply(...)")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Runs ``forward`` and records the node."""
        needs_grad = is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)
        node = FunctionNode(cls, args, needs_grad)
        with no_grad():
            if cls.setup_context is Function.setup_context:
                raw = cls.forward(node, *args)
            else:
                raw = cls.forward(*args)
                cls.setup_context(node, args, raw)
        outputs = list(raw) if isinstance(raw, (tuple, list)) else [raw]
        for x in node._dirty:
            if not any(x is y for y in outputs):
                raise RuntimeError(f"{cls.__name__}: an input that was marked dirty must be among the outputs")
            x._bump_version()
        if not needs_grad:
            return raw
        node.outputs = tuple(
            OutputInfo(tuple(y.shape), y.dtype, y.device) if isinstance(y, Tensor) else OutputInfo((), None, None)
            for y in outputs
        )
        for k, y in enumerate(outputs):
            outputs[k] = cls._record(node, k, y, args)
        node._finish(outputs)
        return tuple(outputs) if isinstance(raw, (tuple, list)) else outputs[0]

    @staticmethod
    def _record(node: FunctionNode, index: int, y: Any, inputs: Sequence[Any]) -> Any:
        if not isinstance(y, Tensor) or any(y is x for x in node._not_differentiable) or not y.dtype.is_floating_point:
            return y
        if any(y is x for x in node._dirty):
            check_inplace(node.function.__name__, y, recording=True)
            if y._base is not None:
                raise RuntimeError(
                    f"{node.function.__name__}: a view cannot be marked dirty; work on a clone(), or on the whole tensor"
                )
            y._set_history(node, index)
            return y
        if any(y is x for x in inputs):
            y = y.view_as(y)
        result = y.detach()
        result._base, result._frozen_view = y._base, y._base is not None
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
    node.outputs = (OutputInfo(tuple(y.shape), y.dtype, y.device),)
    result._set_history(node, 0)
    return result
