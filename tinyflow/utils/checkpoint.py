"""Checkpointing: what a part of a model saves for its backward pass is not kept, but computed again there.

>>> y = checkpoint(block, x, use_reentrant=False)

The part runs once more in the backward pass, with the random numbers and the autocast region of the first run. In between
only its arguments are kept. Without ``use_reentrant`` this is a pair of saved-tensor hooks: the graph is that of the first
run, and the second one only fills in what it saved, so hooks, ``autograd.grad`` and higher derivatives work as ever. With
it the part is a single node, whose backward pass runs a backward pass of its own.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tinyflow import autocast_mode, autograd
from tinyflow import random as random_numbers
from tinyflow.autograd.function import Function
from tinyflow.autograd.grad_mode import enable_grad, is_grad_enabled
from tinyflow.autograd.saved import saved_tensors_hooks
from tinyflow.autograd.walks import walks_under_way
from tinyflow.tensor import Tensor

__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential", "noop_context_fn"]

Contexts = tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]


class CheckpointError(RuntimeError):
    """The second run of a part saved other tensors than the first."""


class _Stop(Exception):
    """All that was saved has been computed again."""


def noop_context_fn() -> Contexts:
    """Contexts for the two runs that do nothing."""
    return contextlib.nullcontext(), contextlib.nullcontext()


class _Surroundings:
    """What a run depends on besides its arguments: random numbers and the autocast region."""

    def __init__(self, preserve_rng_state: bool) -> None:
        self._autocast = autocast_mode.state.noted()
        self._random = random_numbers.get_rng_state() if preserve_rng_state else None

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """A block in which they are as they were."""
        with autocast_mode.restored(self._autocast), contextlib.ExitStack() as kept:
            if self._random is not None:
                kept.enter_context(random_numbers.fork_rng())
                random_numbers.set_rng_state(self._random)
            yield


# ---- by saved-tensor hooks -----------------------------------------------------------------------------------------


class _Holder:
    """Stands in the graph for a saved tensor."""

    __slots__ = ("number", "part", "__weakref__")

    def __init__(self, number: int, part: _Part) -> None:
        self.number, self.part = number, part


def _described(x: Tensor) -> tuple[Any, ...]:
    return tuple(x.shape), x.dtype, x.device


class _Part:
    """One call of a checkpointed function."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        surroundings: _Surroundings,
        context: contextlib.AbstractContextManager[Any],
        checked: bool,
        early_stop: bool,
    ) -> None:
        self._function, self._args, self._kwargs = function, args, kwargs
        self._versions = [
            x._version for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and not x.is_inference()
        ]
        self._surroundings, self._context = surroundings, context
        self._checked, self._early_stop = checked, early_stop
        self._described: list[tuple[Any, ...]] = []  # of each saved tensor
        self._holders: list[weakref.ref[_Holder]] = []
        self._again: dict[int, Tensor] = {}  # what the second run saved, by number, until it is taken

    def pack(self, x: Tensor) -> _Holder:
        """In the first run: keeps nothing of a saved tensor but what it looks like."""
        number, again = len(self._holders), self._again
        holder = _Holder(number, self)
        self._described.append(_described(x))
        self._holders.append(weakref.ref(holder, lambda _: again.pop(number, None)))
        return holder

    def unpack(self, holder: _Holder) -> Tensor:
        """In the backward pass: the saved tensor, after a second run if there was none or it was taken."""
        if holder.number not in self._again:
            self._run_again()
        return self._again.pop(holder.number)

    def _run_again(self) -> None:
        args = (*self._args, *self._kwargs.values())
        versions = [x._version for x in args if isinstance(x, Tensor) and not x.is_inference()]
        if versions != self._versions:
            raise RuntimeError(
                "checkpoint: an argument has been modified by an inplace operation since the function ran, so that it "
                "cannot run again; give it a clone()"
            )
        saved: list[tuple[Any, ...]] = []

        def keep(x: Tensor) -> Tensor:
            number = len(saved)
            saved.append(_described(x))
            if number < len(self._holders) and self._holders[number]() is not None:
                self._again[number] = x.detach()
            if self._early_stop and len(saved) == len(self._holders):
                raise _Stop
            return x

        hooks = saved_tensors_hooks(keep, lambda x: x)
        with contextlib.suppress(_Stop), enable_grad(), self._surroundings.again(), self._context, hooks:
            self._function(*self._args, **self._kwargs)
        self._compare(saved)

    def _compare(self, saved: list[tuple[Any, ...]]) -> None:
        if len(saved) != len(self._described):
            self._again.clear()
            raise CheckpointError(
                "checkpoint: A different number of tensors was saved during the original forward and recomputation. "
                f"Number of tensors saved during forward: {len(self._described)}. Number of tensors saved during "
                f"recomputation: {len(saved)}"
            )
        wrong = [k for k, (a, b) in enumerate(zip(self._described, saved)) if a != b]
        if wrong and self._checked:
            self._again.clear()
            k = wrong[0]
            raise CheckpointError(
                "checkpoint: Recomputed values for the following tensors have different metadata than during the forward "
                f"pass: tensor {k} was {self._described[k]} and is {saved[k]}"
            )


def _by_hooks(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    surroundings: _Surroundings,
    context_fn: Callable[[], Contexts],
    checked: bool,
    early_stop: bool,
) -> Any:
    first, second = context_fn()
    if not is_grad_enabled():
        with first:
            return function(*args, **kwargs)
    part = _Part(function, args, kwargs, surroundings, second, checked, early_stop)
    with first, saved_tensors_hooks(part.pack, lambda holder: holder.part.unpack(holder)):
        return function(*args, **kwargs)


# ---- by a node of its own ------------------------------------------------------------------------------------------


class _Reentrant(Function):
    """A call without a graph, whose backward pass makes the graph and walks it."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], surroundings: _Surroundings, *args: Any) -> Any:
        ctx.function, ctx.surroundings = function, surroundings
        ctx.others = [None if isinstance(x, Tensor) else x for x in args]
        ctx.places = [k for k, x in enumerate(args) if isinstance(x, Tensor)]
        ctx.save_for_backward(*[args[k] for k in ctx.places])
        return function(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if not walks_under_way()[-1].accumulates_everywhere:
            raise RuntimeError(
                "When use_reentrant=True, checkpoint is incompatible with .grad() or passing an `inputs` parameter to "
                ".backward(). To resolve this error, you can either set use_reentrant=False, or call .backward() without "
                "passing the `inputs` argument."
            )
        args = list(ctx.others)
        for k, x in zip(ctx.places, ctx.saved_tensors):
            args[k] = x.detach().requires_grad_(x.requires_grad)
        with enable_grad(), ctx.surroundings.again():
            outputs = ctx.function(*args)
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        pairs = [(y, g) for y, g in zip(outputs, grads) if isinstance(y, Tensor) and y.requires_grad]
        if not pairs:
            raise RuntimeError(
                "none of output has requires_grad=True, this checkpoint() is not necessary: no argument and no parameter "
                "requires a gradient"
            )
        autograd.backward([y for y, _ in pairs], [g for _, g in pairs])
        return None, None, *[x.grad if isinstance(x, Tensor) else None for x in args]


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], Contexts] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """``function(*args, **kwargs)``, with what it saves for the backward pass computed again there.

    Args:
        function: must do the same in both runs.
        use_reentrant: False is recommended. True makes one node of the call: then an argument must require a gradient
            for parameters to get theirs, ``backward()`` must not be given ``inputs``, and ``autograd.grad`` is an error.
            To leave it out warns and means True, as in torch.
        context_fn: returns two contexts, for the first run and for the second.
        determinism_check: "default" compares shapes, dtypes and devices of what the runs save, "none" does not.
        debug: not implemented.
        early_stop: ends the second run when the last saved tensor is there.
        preserve_rng_state: gives the second run the random numbers of the first.

    Raises:
        CheckpointError: in the backward pass, if the runs saved different tensors.
    """
    if debug:
        raise NotImplementedError("checkpoint: debug=True is not implemented; anomaly mode names the failing operation")
    if determinism_check not in ("default", "none"):
        raise ValueError(f"determinism_check should be one of ['default', 'none'], but got {determinism_check}")
    if use_reentrant is None:
        warnings.warn(
            "checkpoint: the use_reentrant parameter should be passed explicitly. use_reentrant=False is recommended; to "
            "leave it out means True.",
            stacklevel=2,
        )
        use_reentrant = True
    surroundings = _Surroundings(preserve_rng_state)
    if not use_reentrant:
        checked = determinism_check != "none"
        return _by_hooks(function, args, kwargs, surroundings, context_fn, checked, early_stop)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    if context_fn is not noop_context_fn:
        raise ValueError("Passing `context_fn` is only supported when use_reentrant=False.")
    if is_grad_enabled() and not any(isinstance(x, Tensor) and x.requires_grad for x in args):
        warnings.warn("None of the inputs have requires_grad=True. Gradients will be None", stacklevel=2)
    return _Reentrant.apply(function, surroundings, *args)


def checkpoint_sequential(
    functions: Any, segments: int, input: Tensor, use_reentrant: bool | None = None, **kwargs: Any
) -> Tensor:
    """The functions, or the children of an ``nn.Sequential``, one after another, in checkpointed segments.

    The last segment is not checkpointed, since its backward pass comes at once.

    Args:
        segments: how many; between them their inputs are kept.
        kwargs: ``preserve_rng_state``.
    """
    if use_reentrant is None:
        warnings.warn(
            "checkpoint_sequential: the use_reentrant parameter should be passed explicitly. use_reentrant=False is "
            "recommended; to leave it out means True.",
            stacklevel=2,
        )
        use_reentrant = True
    preserve_rng_state = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    parts = list(functions.children()) if hasattr(functions, "children") else list(functions)
    if not 1 <= segments <= max(len(parts), 1):
        raise ValueError(f"checkpoint_sequential: expected between 1 and {len(parts)} segments, got {segments}")
    size = len(parts) // segments

    def run(start: int, end: int) -> Callable[[Any], Any]:
        def segment(x: Any) -> Any:
            for part in parts[start:end]:
                x = part(x)
            return x

        return segment

    for start in range(0, size * (segments - 1), size):
        input = checkpoint(
            run(start, start + size), input, use_reentrant=use_reentrant, preserve_rng_state=preserve_rng_state
        )
    return run(size * (segments - 1), len(parts))(input)
