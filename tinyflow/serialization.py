"""Tensors to files and back: safetensors, written whole or not at all, and what torch saved.

Reading runs no code from the file: safetensors holds none, and torch's own format is read with its safe loader, which
refuses everything but tensors and plain containers. The safetensors package, which takes and gives torch tensors as handles
and moves bytes only, is loaded where a file is: what computes does without it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyflow.kernels import memory
from tinyflow.ops.creation import from_torch
from tinyflow.tensor import Tensor

PathLike = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its name when the block ends without an error.

    Whoever reads ``path``, even after a crash or a power cut in between, finds the old file or the new one, complete.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".unfinished", dir=target.parent)
    os.close(descriptor)
    unfinished = Path(name)
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        unfinished.chmod(0o666 & ~_umask())
        unfinished.replace(target)
        _sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(state: Mapping[str, Tensor], path: PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a dictionary of tensors, such as a module's ``state_dict()``, as a safetensors file.

    Args:
        state: tensors by name, on any device, in any strides; a tensor under two names is written twice.
        path: the file, which appears whole or not at all.
        metadata: texts by name to keep with them.

    Raises:
        TypeError: if ``state`` is no mapping, or a value is no tensor.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"save: expected a mapping of names to tensors, got {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"save: expected a Tensor under {name!r}, got {type(value).__name__}")
    buffers: dict[str, memory.Buffer] = {}
    for name, value in state.items():
        buffer = value.detach().cpu().contiguous().to_torch()
        if any(memory.same_storage(buffer, other) for other in buffers.values()):
            buffer = value.detach().cpu().contiguous().clone().to_torch()
        buffers[name] = buffer
    import safetensors.torch

    with replacing(path) as unfinished:
        safetensors.torch.save_file(buffers, unfinished, dict(metadata or {}))


def load(path: PathLike) -> dict[str, Tensor]:
    """Reads a dictionary of tensors on the CPU, from a safetensors file or from one that ``torch.save`` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds anything but tensors.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"load: expected a file of tensors (.safetensors or .pth) at {source}, found none")
    with open(source, "rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:] == b"{":  # the length of a header, and the header's first character
        return _load_safetensors(source)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return _load_torch(source)
    raise ValueError(f"load: {source} is neither a safetensors file nor one that torch saved")


def _load_torch(source: Path) -> dict[str, Tensor]:
    try:
        buffers = memory.load_tensors(str(source))
    except pickle.UnpicklingError:
        raise ValueError(
            f"load: {source} is damaged, or holds more than tensors, which could run code and is not read"
        ) from None
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"load: {source} is damaged: {str(error).splitlines()[0]}") from None
    return {name: from_torch(buffer) for name, buffer in buffers.items()}


def load_metadata(path: PathLike) -> dict[str, str]:
    """The texts that :func:`save` was given."""
    import safetensors

    with safetensors.safe_open(path, framework="pt", device="cpu") as file:
        return dict(file.metadata() or {})


def download_folder() -> Path:
    """Where torch keeps the weights that it downloads, and where ours go too."""
    return Path(memory.hub_directory()) / "checkpoints"


def _load_safetensors(source: Path) -> dict[str, Tensor]:
    import safetensors

    try:
        entries = safetensors.deserialize(source.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"load: {source} is damaged: {error}") from None
    return {name: _from_entry(source, name, entry) for name, entry in entries}


def _from_entry(source: Path, name: str, entry: dict[str, Any]) -> Tensor:
    dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
    if dtype is None:
        raise ValueError(f"load: {source} holds {name!r} as {entry['dtype']}, which tinyflow has no dtype for")
    return from_torch(memory.from_bytes(entry["data"], dtype, entry["shape"]))


_SAFETENSORS_DTYPES = {
    "F64": memory.float64,
    "F32": memory.float32,
    "F16": memory.float16,
    "BF16": memory.bfloat16,
    "I64": memory.int64,
    "I32": memory.int32,
    "I16": memory.int16,
    "I8": memory.int8,
    "U8": memory.uint8,
    "BOOL": memory.bool_,
}
