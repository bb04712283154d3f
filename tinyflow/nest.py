"""Nests of dictionaries, lists and tuples with tensors, numbers, text and None at their leaves: taken apart, put together.

A tensor stands under its path in the nest, ``model.conv1.weight`` say, so that other programs find it in a file too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyflow.kernels import memory
from tinyflow.tensor import Tensor

_TENSOR, _TUPLE, _ITEMS, _LAYOUT = "$tensor", "$tuple", "$items", "$channels_last"


def pack(value: Any, tensors: dict[str, Tensor], name: str = "", what: str = "save") -> Any:
    """What JSON can hold of a nest, its tensors put into ``tensors``.

    Raises:
        TypeError: if a leaf is neither tensor, number, text nor None.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        while name in tensors:
            name += "_"
        tensors[name] = value
        return {_TENSOR: name, _LAYOUT: value.ndim == 4 and not value.is_contiguous()}

    def inner(key: Any, x: Any) -> Any:
        return pack(x, tensors, f"{name}.{key}" if name else str(key), what)

    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: inner(key, x) for key, x in value.items()}
        return {_ITEMS: [[pack(key, tensors, name, what), inner(key, x)] for key, x in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [inner(k, x) for k, x in enumerate(value)]}
    if isinstance(value, list):
        return [inner(k, x) for k, x in enumerate(value)]
    where = f"{name} is" if name else "got"
    raise TypeError(f"{what}: {where} a {type(value).__name__}; expected tensors, numbers, text or None")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nest again.

    Raises:
        KeyError, TypeError, IndexError: if it was not made by :func:`pack`.
    """
    if isinstance(value, list):
        return [unpack(x, tensors) for x in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        tensor = tensors[value[_TENSOR]]
        return tensor.contiguous(memory_format=memory.channels_last) if value[_LAYOUT] else tensor
    if _TUPLE in value:
        return tuple(unpack(x, tensors) for x in value[_TUPLE])
    if _ITEMS in value:
        return {unpack(key, tensors): unpack(x, tensors) for key, x in value[_ITEMS]}
    return {key: unpack(x, tensors) for key, x in value.items()}
