"""Views and what they follow: after an in-place change of shared memory, a view's history comes from that of its base.

A view remembers its *base*, the tensor whose memory it is part of, itself no view, and its *specs*, the steps by which it
is read from the base. Tensors on the same memory share one counter of in-place changes; a view whose memory has changed
since its history was last up to date takes the steps again, from the base as it is now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tinyflow.autograd.grad_mode import enable_grad, is_grad_enabled, mode
from tinyflow.autograd.graph import made_where
from tinyflow.kernels.memory import Buffer

if TYPE_CHECKING:
    from tinyflow.tensor import Tensor


class Seen:
    """How a view sees the tensor whose memory it is part of."""

    __slots__ = ("base", "specs", "version", "frozen")

    def __init__(self, base: Tensor, specs: tuple[Any, ...], version: int, frozen: bool) -> None:
        self.base = base
        self.specs = specs
        self.version = version  # of the memory, at which the view's history was up to date
        self.frozen = frozen  # made where nothing was recorded, so that its history does not follow


def as_view(x: Tensor, data: Buffer, spec: Any) -> Tensor:
    """A view of the memory of ``x``, made by ``spec``; its history is set by the caller."""
    view, seen = x._alias(data), x._seen
    version = 0 if x._counter is None else x._counter[0]
    if seen is None:
        view._seen = Seen(x, (spec,), version, not is_grad_enabled())
    else:
        view._seen = Seen(seen.base, (*seen.specs, spec), version, seen.frozen or not is_grad_enabled())
    x._fresh = False
    return view


def stand_apart(x: Tensor, other: Tensor) -> None:
    """Makes ``x`` a view where ``other`` is one, of the same memory, whose history does not follow that of the base."""
    if other._seen is not None:
        x._seen = Seen(other._seen.base, other._seen.specs, other._seen.version, True)


def root_of(x: Tensor) -> Tensor | None:
    """What ``x`` is a view of: its base, or what that was before it became a view itself; None for what is no view."""
    base = x._base
    while base is not None and base._base is not None:
        base = base._base
    return base


def become(x: Tensor, view: Callable[[Tensor], Tensor]) -> None:
    """Turns ``x`` into a view of itself as it was, of which its other views are views from now on."""
    before = x._alias(x._data)
    node = x.grad_fn
    before._seen = x._seen
    before._bump_version()  # what was saved of this tensor had another shape
    if node is not None:
        before._set_history(node, x._output_index)
    with enable_grad():
        shown = view(before)
    x._data, x._seen, x._fresh = shown._data, shown._seen, False
    if x._rare is not None:
        x._rare.accumulator = None
    if shown._grad_fn is not None:
        x._set_history(shown._grad_fn, shown._output_index)


def renew_history(x: Tensor) -> None:
    """After an in-place change of the memory, the history of a view ``x`` follows from that of its base.

    Raises:
        RuntimeError: if the view was made where nothing was recorded, and its base has a history that is recorded now.
    """
    seen, base = x._seen, root_of(x)
    if seen is None or x._counter is None:
        return
    if seen.frozen and mode.records and base is not None and base.requires_grad:
        raise RuntimeError(
            f"a view was created {made_where(x._grad_fn)}, and its base or another view of its base has been "
            "modified inplace since, so that its history cannot be known. Make the view where gradients are recorded, "
            "make it again after the change, or keep a clone() of it."
        )
    if seen.frozen:
        return
    seen.version = x._counter[0]
    if base is None or not base.requires_grad:
        return
    view = base
    with enable_grad():
        for spec in seen.specs:
            view = spec.record(view)
    if view._grad_fn is not None:
        x._set_history(view._grad_fn, view._output_index)
