"""Checkpoints: tensors in a safetensors file, all else as JSON in its header, as :func:`tinyflow.save` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyflow import serialization
from tinyflow.models.errors import InputError
from tinyflow.nest import unpack
from tinyflow.serialization import STRUCTURE, VERSION


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a state; the file appears whole or not at all.

    Raises:
        TypeError: if a leaf is neither tensor, number, text nor None.
    """
    serialization.save_nest(dict(state), path, what="checkpoint")


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
        tensors = serialization.load_tensors(path)
        header = serialization.load_metadata(path).get(STRUCTURE)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is not a checkpoint that can be read: {error}") from None
    if header is None:
        raise InputError(f"{path} holds tensors but is no checkpoint of tinyflow train")
    try:
        content = json.loads(header)
        version, state = content["version"], content["state"]
        if version != VERSION:
            raise InputError(f"{path} is a checkpoint of version {version}; this tinyflow reads version {VERSION}")
        unpacked = unpack(state, tensors)
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is a damaged checkpoint: {error!r}") from None
    if not isinstance(unpacked, dict):
        raise InputError(f"{path} is a damaged checkpoint: expected a dictionary")
    return unpacked
