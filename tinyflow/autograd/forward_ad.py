"""Forward mode: dual numbers, a tensor with its tangent, that operations carry on: ``torch.autograd.forward_ad``.

>>> with dual_level():
...     y = f(make_dual(x, v))
...     jacobian_times_v = unpack_dual(y).tangent

There are no forward rules: an operation's tangent comes from its gradient rules. With these vᵀJ is a linear function of v,
whose derivative with respect to v is Jᵀ's transpose; so the rules run once on a vector of zeros, recorded, and are
differentiated at once. That costs about two backward passes of the operation, and needs no memory for what lies behind it.
Tangents are differentiable themselves where operations are recorded. A backward pass inside a level is recorded, whether
``create_graph`` asks for it or not, so that gradients have tangents.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from tinyflow import autocast_mode, autograd
from tinyflow.autograd.grad_mode import enable_grad, mode
from tinyflow.autograd.graph import AccumulateGrad, Edge, Node, SavedTensor
from tinyflow.autograd.view_history import root_of
from tinyflow.tensor import Tensor

__all__ = ["UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual", "unpack_dual"]


class UnpackedDualTensor(NamedTuple):
    """What :func:`unpack_dual` gives; the tangent is None where there is none."""

    primal: Tensor
    tangent: Tensor | None


class Level:
    """The tangents of one region, by the identity of tensors that are alive."""

    def __init__(self) -> None:
        self._tangents: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}
        # of outputs that nodes save without their history, by node and number
        self._of_outputs: weakref.WeakKeyDictionary[Node, dict[int, Tensor]] = weakref.WeakKeyDictionary()
        self._primals: dict[int, weakref.ref[Tensor]] = {}  # in whose memory dual tensors are

    def get(self, x: Any) -> Tensor | None:
        """The tangent of a tensor, if it has one."""
        found = self._own(x)
        if found is not None or not isinstance(x, Tensor) or x._base is None:
            return found
        shown = self._own(root_of(x))  # a view that was made before its base became dual
        if shown is not None:
            with _without_tangents():
                for spec in x._specs:
                    shown = spec.apply(shown)
        return shown

    def _own(self, x: Any) -> Tensor | None:
        found = self._tangents.get(id(x))
        return found[1] if found is not None and found[0]() is x else None

    def put(self, x: Tensor, tangent: Tensor) -> None:
        """Gives a tensor its tangent."""
        key = id(x)
        self._tangents[key] = weakref.ref(x, lambda ref: self._forget(key, ref)), tangent
        if x.grad_fn is not None:
            self._of_outputs.setdefault(x.grad_fn, {})[x.output_nr] = tangent

    def note_primal(self, x: Tensor) -> None:
        """Remembers whose memory a dual tensor shares."""
        owner = root_of(x) or x if x._base is not None else x
        key = id(owner)
        self._primals[key] = weakref.ref(owner, lambda ref: self._primals.pop(key, None))

    def restore(self, x: Tensor, node: Node, output: int) -> None:
        """Gives a saved output, as it is unpacked, the tangent that it was made with."""
        tangent = self._of_outputs.get(node, {}).get(output)
        if tangent is not None:
            self.put(x, tangent)

    def _forget(self, key: int, ref: weakref.ref[Tensor]) -> None:
        if key in self._tangents and self._tangents[key][0] is ref:
            del self._tangents[key]

    def has_tangents(self, values: Sequence[Any]) -> bool:
        """True if one of the inputs is dual."""
        return any(self.get(x) is not None for x in _flat(values))

    def through_op(self, op: Any, values: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Gives the outputs of a call of a defined operation their tangents."""
        for y, tangent in self._made(op, values, outputs):
            self.put(y, tangent)

    def _made(self, op: Any, values: Sequence[Any], outputs: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
        from tinyflow.ops.node import OUTPUT, OpNode, record

        inputs = [values[k] for k in op.input_indices]
        tangents = [self.get(x) for x in _flat(inputs)]
        if all(t is None for t in tangents):
            return []
        wanted = self.mask(op, values)
        watched, mode.watched = mode.watched, False
        try:
            node: OpNode = record(op, values, outputs, wanted, attach=False)
        finally:
            mode.watched = watched
        ends = [None if t is None else Edge(AccumulateGrad(x), 0) for x, t in zip(_flat(inputs), tangents)]
        node.next_edges = tuple(ends)
        for name, what, place in node.recipe.kept:
            saved = None if node.saved is None else node.saved[name]
            if what == OUTPUT and isinstance(saved, SavedTensor):
                saved.forget_output(outputs[place])  # with the history that it has, and not as an output of this node
        counters = [t._counter for t in tangents if t is not None]
        with _without_tangents():  # memory of their own, to be written where the tensors are
            return [
                (y, t.clone() if any(t._counter is c for c in counters) else t)
                for y, t in _pushed(node, outputs, op.differentiable, tangents)
            ]

    def mask(self, op: Any, values: Sequence[Any]) -> int:
        """A bit for each input of an operation that has a tangent."""
        return sum(1 << k for k, index in enumerate(op.input_indices) if self.has_tangents([values[index]]))

    def through_view(self, view: Any, x: Tensor, y: Tensor) -> None:
        """Gives a view the same view of the tangent."""
        tangent = self.get(x)
        if tangent is not None:
            self.put(y, view.apply(tangent))

    def through_function(self, function: Any, ctx: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Gives the outputs of a user's Function the tangents that its ``jvp`` makes.

        Raises:
            NotImplementedError: if it has no ``jvp``.
            RuntimeError: if that returns another number of tangents than ``forward`` returned outputs.
        """
        tangents = [self.get(x) for x in inputs]
        if all(t is None for t in tangents):
            return
        made = ctx.forward_tangents(function, tangents)
        made = made if isinstance(made, tuple) else (made,)
        if len(made) != len(outputs):
            raise RuntimeError(
                f"{function.__name__}: jvp returned {len(made)} tangents, but forward returned {len(outputs)} outputs"
            )
        for y, tangent in zip(outputs, made):
            if tangent is not None:
                self.put(y, tangent)

    def concerns(self, op: str, target: Tensor, values: Sequence[Any]) -> bool:
        """True if an in-place change has to do with tangents.

        Raises:
            NotImplementedError: if it would change the memory of dual tensors behind their back.
        """
        owner = target if target._base is None else root_of(target)
        primal = self._primals.get(id(owner))
        if self._own(target) is None and primal is not None and primal() is owner:
            raise NotImplementedError(
                f"{op}_: this tensor was given to make_dual(); change the dual tensor in place, or a clone() of this one"
            )
        return self.has_tangents(values)

    def through_inplace(self, op: Any, values: Sequence[Any], target: Tensor) -> None:
        """Writes the tangent of an in-place result over that of ``target``, which those of its views share."""
        made = self._made(op, values, (target,))
        with _without_tangents():
            tangent = self.get(target)
            if tangent is None:
                owner = target if target._base is None else root_of(target)
                assert owner is not None
                self.put(owner, Tensor._zeros(owner.shape, owner.dtype, owner.device))
                tangent = self.get(target)
                assert tangent is not None
            if made:
                tangent.copy_(made[0][1])
            else:
                tangent.zero_()

    def refuse_out(self, op: str, values: Sequence[Any]) -> None:
        """Refuses ``out=`` where tangents are.

        Raises:
            NotImplementedError: if one of the values is dual.
        """
        if self.has_tangents(values):
            raise NotImplementedError(f"{op}: forward mode does not follow out= on dual tensors")


def _flat(values: Sequence[Any]) -> list[Any]:
    """Inputs in the order of a node's edges."""
    return [x for v in values for x in (v if type(v) in (list, tuple) else [v])]


@contextlib.contextmanager
def _without_tangents() -> Iterator[None]:
    """A block whose operations are not followed."""
    levels, mode.dual_levels = mode.dual_levels, []
    mode.look()
    try:
        yield
    finally:
        mode.dual_levels = levels
        mode.look()


def _pushed(
    node: Node, outputs: Sequence[Any], followed: Sequence[int], tangents: Sequence[Tensor | None]
) -> list[tuple[Tensor, Tensor]]:
    """The outputs of an operation that have tangents, with these, by the node's rules.

    Args:
        node: a node of its own, whose edges lead to accumulators of the inputs that have tangents, and nowhere else.
        followed: the numbers of the outputs that are differentiable.
        tangents: one for each edge.
    """
    create_graph = mode.records
    with _without_tangents(), enable_grad(), autocast_mode.disabled():
        ends = {k: outputs[k] for k in followed if isinstance(outputs[k], Tensor) and outputs[k].is_floating_point()}
        dummies = {k: Tensor._zeros(y.shape, y.dtype, y.device).requires_grad_() for k, y in ends.items()}
        pulled = node.apply([dummies.get(k) for k in range(len(outputs))])
        pairs = [(g, t) for g, t in zip(pulled, tangents) if g is not None and g.requires_grad and t is not None]
        if not pairs:
            return []
        found = autograd.grad(
            [g for g, _ in pairs],
            list(dummies.values()),
            [t for _, t in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    return [(y, tangent) for y, tangent in zip(ends.values(), found) if tangent is not None]


def enter_dual_level() -> int:
    """Begins a region of dual numbers in this thread, and returns its number.

    Raises:
        RuntimeError: inside of another one.
    """
    if mode.dual_levels:
        raise RuntimeError("Nested forward mode AD is not supported at the moment: leave the outer dual_level() first")
    mode.dual_levels.append(Level())
    mode.look()
    return 0


def exit_dual_level(*, level: int | None = None) -> None:
    """Ends the region: its dual tensors are plain ones from now on.

    Raises:
        RuntimeError: if there is none, or it is not that one.
    """
    if not mode.dual_levels or level not in (None, 0):
        raise RuntimeError(
            f"Trying to exit a forward AD level that was not the last one that was created: {level}, of "
            f"{len(mode.dual_levels)}"
        )
    mode.dual_levels.pop()
    mode.look()


class dual_level:
    """A context manager for :func:`enter_dual_level` and :func:`exit_dual_level`."""

    def __enter__(self) -> int:
        return enter_dual_level()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_dual_level()


def _level(op: str, level: int | None) -> Level:
    if not mode.dual_levels or level not in (None, 0):
        raise RuntimeError(
            f"{op}: trying to use forward AD on a level that does not exist; make sure that you are inside of a "
            "dual_level() context"
        )
    return mode.dual_levels[-1]


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """``tensor`` with a tangent: another Tensor on its memory, whose gradient flows to it in reverse mode.

    Raises:
        RuntimeError: outside of a level, or if the tangent has another shape, dtype or device.
        ValueError: if the tensor is not floating point.
    """
    current = _level("make_dual", level)
    if not tensor.is_floating_point():
        raise ValueError(f"Expected primal to be floating point, but got: {tensor.dtype}")
    if not tangent.is_floating_point():
        raise ValueError(f"Expected tangent to be floating point, but got: {tangent.dtype}")
    for what in ("shape", "dtype", "device"):
        expected, got = getattr(tensor, what), getattr(tangent, what)
        if got != expected:
            raise RuntimeError(f"make_dual: expected a tangent with the primal's {what} {expected}, got {got}")
    with _without_tangents():
        dual, own = tensor.view_as(tensor), tangent.clone()
    current.put(dual, own)
    current.note_primal(tensor)
    return dual


def _alias(x: Tensor) -> Tensor:
    """Another Tensor on the same memory and with the same history."""
    with _without_tangents():
        return x.view_as(x)


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """The tensor without its tangent, and that; (the tensor, None) outside of a level, as in torch."""
    if not mode.dual_levels:
        return UnpackedDualTensor(tensor, None)
    tangent = _level("unpack_dual", level).get(tensor)
    return UnpackedDualTensor(tensor, None) if tangent is None else UnpackedDualTensor(_alias(tensor), tangent)
