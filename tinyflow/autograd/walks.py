"""The backward passes that are under way in a thread, and who sees the gradients in them."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyflow.kernels import dtypes, memory

if TYPE_CHECKING:
    from tinyflow.autograd.graph import Edge, Node
    from tinyflow.tensor import Tensor


class Walk(NamedTuple):
    """One backward pass that is under way."""

    number: int
    nodes: Collection[Node]  # at which gradients may arrive
    captured: dict[Node, list[Edge]]  # whose gradients are returned
    accumulates_everywhere: bool  # at all leaves that it comes to


class Walks(threading.local):
    """What a thread knows of its backward passes."""

    def __init__(self) -> None:
        self.under_way: list[Walk] = []  # the innermost last
        self.ones: deque[tuple[weakref.ref[Tensor], Any]] = deque(maxlen=8)  # with the stamps of their memory


walks = Walks()


def walks_under_way() -> list[Walk]:
    """The backward passes of this thread, the innermost last."""
    return walks.under_way


def is_watched(node: Node) -> bool:
    """True if somebody sees the gradients that arrive at ``node``: a hook, ``retain_grad``, a walk that returns them."""
    if node.attached is not None and node.attached.sees_gradients:
        return True
    return any(node in walk.captured for walk in walks.under_way)


def gradient_dtype(node: Node, position: int) -> memory.dtype | None:
    """The dtype in which ``node`` may give the gradient of its input ``position``: that of the input, None if there is none.

    An input in half precision that is the cast of a tensor in the dtype of its sums, as autocast makes of parameters, or a
    view of one, gets its gradient in that dtype: it need not be rounded only to be cast back. Where somebody sees it on its
    way there, it has the input's.
    """
    edge = node.next_edges[position]
    if edge is None:
        return None
    following, output = edge
    dtype: memory.dtype = following.outputs[output].dtype
    wide: memory.dtype | None = dtype
    if following.only_casts:
        source = following.next_edges[0]
        wide = None if source is None else source.node.outputs[source.position].dtype
        wide = wide if wide == dtypes.accumulate_dtype(dtype) else dtype
    elif following.only_views:
        wide = gradient_dtype(following, 0)
    if wide == dtype or is_watched(following) or (node.attached is not None and node.attached.posthooks):
        return dtype
    return wide
