"""tinyflow inside torch, and torch inside tinyflow: functions of the one as operations of the other, without copies.

A library that lives in torch can use a single operation of ours in place::

    fast_conv = interop.to_torch_function(lambda x, w: tinyflow.nn.functional.conv2d(x, w, padding=1))
    y = fast_conv(x, w)             # torch tensors in and out, with gradients of every order

and what runs here can call into torch by :func:`from_torch_function`. Memory is shared both ways: nothing is copied, and on
a GPU both work on torch's current stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from tinyflow.autograd import grad as gradients
from tinyflow.autograd.function import Function
from tinyflow.autograd.grad_mode import enable_grad, is_grad_enabled, no_grad
from tinyflow.nn.module import Module
from tinyflow.ops.creation import from_numpy, from_torch, tensor
from tinyflow.ops.shape import stack
from tinyflow.tensor import Tensor

__all__ = ["collate", "from_torch_function", "share_parameters", "to_torch_function"]


def _listed(name: str, outputs: Any, kind: type) -> tuple[Any, ...]:
    """One output or several as a tuple."""
    found = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
    wrong = [x for x in found if not isinstance(x, kind)]
    if wrong or not found:
        raise TypeError(
            f"{name}: expected the function to return a {kind.__module__.split('.')[0]} tensor or a tuple of them, "
            f"got {type(wrong[0] if wrong else outputs).__name__}"
        )
    return found


class _Library(NamedTuple):
    """What calls a function of one of the two libraries: the name that errors give, and what of the library it takes."""

    caller: str
    tensor: type
    enable_grad: Callable[[], Any]
    gradients: Callable[..., Any]


_OURS = _Library("to_torch_function", Tensor, enable_grad, gradients)
_TORCHS = _Library("from_torch_function", torch.Tensor, torch.enable_grad, torch.autograd.grad)


def _pullback(
    library: _Library, function: Callable[..., Any], needed: Sequence[bool], outputs: int
) -> Callable[..., Any]:
    """The gradients of the inputs that need one, as a function of the outputs' gradients and the inputs."""

    def pull(*arguments: Any) -> tuple[Any, ...]:
        grads, inputs = arguments[:outputs], list(arguments[outputs:])
        with library.enable_grad():
            inputs = [x.view_as(x) if needs and x.requires_grad else x for x, needs in zip(inputs, needed)]
            for x, needs in zip(inputs, needed):
                if needs and not x.requires_grad:
                    x.requires_grad_()
            found = _listed(library.caller, function(*inputs), library.tensor)
            return library.gradients(
                [y for y in found if y.requires_grad],
                [x for x, needs in zip(inputs, needed) if needs],
                [g for g, y in zip(grads, found) if y.requires_grad],
                create_graph=True,
                materialize_grads=True,
            )

    return pull


# ---- ours as an operation of torch -------------------------------------------------------------------------------------


class _InTorch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *inputs: Any) -> Any:
        given = [x for x in inputs if isinstance(x, torch.Tensor)]
        ours = [from_torch(x) if isinstance(x, torch.Tensor) else x for x in inputs]
        needed = ctx.needs_input_grad[1:]
        for x, needs in zip(ours, needed):
            if needs:
                x.requires_grad_()
        with enable_grad() if any(needed) else no_grad():
            outputs = function(*ours)
        found = _listed("to_torch_function", outputs, Tensor)
        ctx.function, ctx.inputs, ctx.outputs = function, ours, found
        ctx.save_for_backward(*given)  # torch then notices a change in place before the backward pass
        results = tuple(y.to_torch() for y in found)
        ctx.mark_non_differentiable(*(r for r, y in zip(results, found) if not y.requires_grad))
        return results if isinstance(outputs, (tuple, list)) else results[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        saved = iter(ctx.saved_tensors)
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # the gradient is to be differentiated too
            inputs = [next(saved) if isinstance(x, Tensor) else x for x in ctx.inputs]
            slopes = iter(to_torch_function(_pullback(_OURS, ctx.function, needed, len(grads)))(*grads, *inputs))
            return (None, *(next(slopes) if needs else None for needs in needed))
        wanted = [x for x, needs in zip(ctx.inputs, needed) if needs]
        found = iter(
            gradients(
                [y for y in ctx.outputs if y.requires_grad],
                wanted,
                [from_torch(g) for g, y in zip(grads, ctx.outputs) if y.requires_grad],
                retain_graph=True,
                allow_unused=True,
            )
        )
        slopes_of = [next(found) if needs else None for needs in needed]
        return (None, *(None if s is None else s.to_torch() for s in slopes_of))


def to_torch_function(function: Callable[..., Any] | type[Function]) -> Callable[..., Any]:
    """A function of ours as one of torch's: tensors in and out are torch's, and its autograd differentiates it.

    Args:
        function: takes Tensors and other values, returns a Tensor or a tuple of them; or an ``autograd.Function`` of ours.
            It is called again where a gradient is differentiated, so it must not change anything but its outputs. Only
            its arguments have gradients: parameters that it uses beside them are constants to torch.

    Returns:
        A function of the same arguments (by position), with torch tensors that share memory. An output that is a view of
        an input is a tensor of its own to torch: do not change either in place.

    Raises:
        TypeError: when it is called, for what is no dense torch tensor of a dtype that tinyflow has, and if ``function``
            returns something else than Tensors.
    """
    run = _callable(function, Function)

    def call(*inputs: Any) -> Any:
        return _InTorch.apply(run, *inputs)

    return call


def _callable(function: Any, base: Any) -> Callable[..., Any]:
    if isinstance(function, type) and issubclass(function, base):
        return function.apply  # type: ignore[attr-defined]
    if not callable(function):
        raise TypeError(f"expected a function or a subclass of autograd.Function, got {type(function).__name__}")
    return function


# ---- torch's as an operation of ours -----------------------------------------------------------------------------------


class _FromTorch(Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *inputs: Any) -> Any:
        needed = ctx.needs_input_grad[1:]
        theirs = [
            x.to_torch().requires_grad_(needs) if isinstance(x, Tensor) else x for x, needs in zip(inputs, needed)
        ]
        with torch.enable_grad() if any(needed) else torch.no_grad():
            outputs = function(*theirs)
        found = _listed("from_torch_function", outputs, torch.Tensor)
        ctx.function, ctx.theirs, ctx.results = function, theirs, found
        ctx.save_for_backward(*[x for x in inputs if isinstance(x, Tensor)])
        results = tuple(from_torch(y) for y in found)
        ctx.mark_non_differentiable(*(r for r, y in zip(results, found) if not y.requires_grad))
        return results if isinstance(outputs, (tuple, list)) else results[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        saved = iter(ctx.saved_tensors)
        needed = ctx.needs_input_grad[1:]
        if is_grad_enabled():
            inputs = [next(saved) if isinstance(x, torch.Tensor) else x for x in ctx.theirs]
            slopes = iter(from_torch_function(_pullback(_TORCHS, ctx.function, needed, len(grads)))(*grads, *inputs))
            return (None, *(next(slopes) if needs else None for needs in needed))
        wanted = [x for x, needs in zip(ctx.theirs, needed) if needs]
        found = iter(
            torch.autograd.grad(
                [y for y in ctx.results if y.requires_grad],
                wanted,
                [g.to_torch() for g, y in zip(grads, ctx.results) if y.requires_grad],
                retain_graph=True,
                allow_unused=True,
            )
        )
        slopes_of = [next(found) if needs else None for needs in needed]
        return (None, *(None if s is None else from_torch(s) for s in slopes_of))


def from_torch_function(function: Callable[..., Any] | type[torch.autograd.Function]) -> Callable[..., Any]:
    """A function of torch's as an operation of ours, differentiated by torch's autograd: the reverse of
    :func:`to_torch_function`, with the same rules.

    What it computes, torch computes: it is meant for what tinyflow does not have.
    """
    run = _callable(function, torch.autograd.Function)

    def call(*inputs: Any) -> Any:
        return _FromTorch.apply(run, *inputs)

    return call


# ---- modules and data --------------------------------------------------------------------------------------------------


def share_parameters(module: Module, torch_module: torch.nn.Module) -> Module:
    """Gives a module the parameters and buffers of a torch module of the same ``state_dict`` keys, in the same memory.

    What one of them learns the other has. Gradients are each one's own.

    Returns:
        The module, changed in place; nothing is changed if something does not fit.

    Raises:
        RuntimeError: for keys, shapes or dtypes that differ.
    """
    theirs = {**dict(torch_module.named_parameters()), **dict(torch_module.named_buffers())}
    ours: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if missing := sorted(ours.keys() ^ theirs.keys()):
        raise RuntimeError(
            f"share_parameters: expected the same parameters and buffers, but only one side has {missing}"
        )
    for name, mine in ours.items():
        if (tuple(mine.shape), mine.dtype) != (tuple(theirs[name].shape), theirs[name].dtype):
            raise RuntimeError(
                f"share_parameters: expected '{name}' to be {tuple(mine.shape)} {mine.dtype}, "
                f"got {tuple(theirs[name].shape)} {theirs[name].dtype}"
            )
    for name, mine in ours.items():
        mine.data = from_torch(theirs[name])
    return module


def collate(batch: Sequence[Any]) -> Any:
    """Examples as one batch of Tensors, for ``torch.utils.data.DataLoader(dataset, collate_fn=interop.collate)``.

    Tensors (ours, torch's, numpy's arrays) are stacked, numbers become a tensor, tuples, lists and dictionaries keep their
    form, anything else stays a list.

    Raises:
        RuntimeError: for tensors of different shapes, or lists of different lengths.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch))
    if isinstance(first, torch.Tensor):
        return stack([from_torch(x) for x in batch])
    if type(first).__module__ == "numpy":
        return stack([from_numpy(x) if x.shape else tensor(x.item(), dtype=from_numpy(x[None]).dtype) for x in batch])
    if isinstance(first, (bool, int, float)):
        return tensor(list(batch))
    if isinstance(first, Mapping):
        return {key: collate([x[key] for x in batch]) for key in first}
    if isinstance(first, (tuple, list)) and any(len(x) != len(first) for x in batch):
        raise RuntimeError(f"collate: expected lists of one length, got lengths {[len(x) for x in batch]}")
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(collate(column) for column in zip(*batch)))
    if isinstance(first, (tuple, list)):
        return type(first)(collate(column) for column in zip(*batch))
    return list(batch)
