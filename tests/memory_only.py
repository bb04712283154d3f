"""Proof that torch only handles memory: every operation that it dispatches must allocate, describe, view, or move bytes."""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DESCRIBES = {
    "empty.memory_format",
    "empty_strided",
    "as_strided",
    "view",
    "view.dtype",
    "detach",
    "alias",
    "lift_fresh",
    "is_pinned",
    "set_.source_Storage",
    "set_.source_Storage_storage_offset",
    "_local_scalar_dense",
}
MOVES = {"copy_", "_to_copy"}


class TorchComputed(AssertionError):
    """torch ran an operation that computes."""


class MemoryOnly(TorchDispatchMode):
    """Fails on any dispatched operation that is not on the list; a move must be of the same bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(function).removeprefix("aten.").removesuffix(".default")
        self.seen[name] += 1
        if function.namespace != "aten":
            raise TorchComputed(f"an operation outside aten: {function}")
        if name in MOVES:
            self._check_move(name, args, kwargs)
        elif name not in DESCRIBES:
            raise TorchComputed(
                f"torch computed {function} on {[tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]}"
            )
        return function(*args, **kwargs)

    @staticmethod
    def _check_move(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        destination, source = (args[0], args[1]) if name == "copy_" else (args[0], args[0])
        dtype = kwargs.get("dtype") or destination.dtype
        if source.dtype != dtype:
            raise TorchComputed(f"{name} casts {source.dtype} to {dtype}")
        if source.shape != destination.shape:
            raise TorchComputed(f"{name} broadcasts {tuple(source.shape)} to {tuple(destination.shape)}")
        if not (source.is_contiguous() and destination.is_contiguous()):
            raise TorchComputed(f"{name} gathers a strided tensor: {tuple(source.shape)}, strides {source.stride()}")
