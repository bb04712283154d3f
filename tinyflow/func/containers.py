"""Tensors in nested tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tinyflow.tensor import Tensor


def leaves(tree: Any) -> list[Tensor]:
    """The Tensors in nested tuples, lists and dictionaries."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [x for v in tree.values() for x in leaves(v)]
    if isinstance(tree, (tuple, list)):
        return [x for v in tree for x in leaves(v)]
    return []


def replaced(tree: Any, tensors: Iterator[Any]) -> Any:
    """The same containers with other Tensors."""
    if isinstance(tree, Tensor):
        return next(tensors)
    if isinstance(tree, dict):
        return {k: replaced(v, tensors) for k, v in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[replaced(v, tensors) for v in tree])
    if isinstance(tree, (tuple, list)):
        return type(tree)([replaced(v, tensors) for v in tree])
    return tree


def mapped(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same containers with what ``function`` makes of each Tensor."""
    return replaced(tree, map(function, leaves(tree)))
