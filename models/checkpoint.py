"""Checkpoints: tensors in a safetensors file, everything else as JSON in its header.

The state is a nest of dictionaries, lists and tuples with tensors, numbers, text and None at its leaves. A tensor is
stored under its path in the nest, ``weights.conv1.weight`` say, so that other programs find it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tinyflow
from tinyflow import serialization
from tinyflow.models.errors import InputError
from tinyflow.tensor import Tensor

_KEY = "tinyflow"
_TENSOR, _TUPLE, _ITEMS, _LAYOUT = "$tensor", "$tuple", "$items", "$channels_last"
VERSION = 1


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a state; the file appears whole or not at all.

    Raises:
        TypeError: if a leaf is neither tensor, number, text nor None.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps({"version": VERSION, "state": _pack(dict(state), "", tensors)})
    serialization.save(tensors, path, {_KEY: structure})


def load(path: Path) -> dict[str, Any]:
    """Reads a state back, its tensors on the CPU.

    Raises:
        InputError: if the file is missing, damaged, or no checkpoint of tinyflow.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a checkpoint file (.safetensors)")
    try:
        tensors = serialization.load(path)
        header = serialization.load_metadata(path).get(_KEY)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is not a checkpoint that can be read: {error}") from None
    if header is None:
        raise InputError(f"{path} holds tensors but is no checkpoint of tinyflow train")
    try:
        content = json.loads(header)
        version, state = content["version"], content["state"]
        if version != VERSION:
            raise InputError(f"{path} is a checkpoint of version {version}; this tinyflow reads version {VERSION}")
        unpacked = _unpack(state, tensors)
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is a damaged checkpoint: {error!r}") from None
    if not isinstance(unpacked, dict):
        raise InputError(f"{path} is a damaged checkpoint: expected a dictionary")
    return unpacked


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        channels_last = value.ndim == 4 and not value.is_contiguous()
        return {_TENSOR: name, _LAYOUT: channels_last}

    def inner(key: Any, x: Any) -> Any:
        return _pack(x, f"{name}.{key}" if name else str(key), tensors)

    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: inner(key, x) for key, x in value.items()}
        return {_ITEMS: [[_pack(key, name, tensors), inner(key, x)] for key, x in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [inner(k, x) for k, x in enumerate(value)]}
    if isinstance(value, list):
        return [inner(k, x) for k, x in enumerate(value)]
    raise TypeError(f"checkpoint: {name} is a {type(value).__name__}; expected tensors, numbers, text or None")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(x, tensors) for x in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        tensor = tensors[value[_TENSOR]]
        return tensor.contiguous(memory_format=tinyflow.channels_last) if value[_LAYOUT] else tensor
    if _TUPLE in value:
        return tuple(_unpack(x, tensors) for x in value[_TUPLE])
    if _ITEMS in value:
        return {_unpack(key, tensors): _unpack(x, tensors) for key, x in value[_ITEMS]}
    return {key: _unpack(x, tensors) for key, x in value.items()}
