"""Tensors to files and back: safetensors, written whole or not at all, and what torch saved.

Reading runs no code from the file: safetensors holds none, and torch's own format is read with its safe loader, which
refuses everything but tensors and plain containers. The safetensors package, which takes and gives torch tensors as handles
and moves bytes only, is loaded where a file is: what computes does without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyflow.kernels import memory
from tinyflow.nest import pack, unpack
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


#: Under what name a file's texts hold the structure of a nest, and the version of that.
STRUCTURE = "tinyflow"
VERSION = 1


def save(obj: Any, path: PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors as a safetensors file: a module's ``state_dict()``, or a nest of them with numbers and text.

    ``save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)`` goes as in torch; what is
    no tensor is kept as text in the file's header, and nothing is pickled.

    Args:
        obj: dictionaries, lists and tuples of tensors, numbers, text and None. Tensors may be on any device, in any
            strides; one under two names is written twice.
        path: the file, which appears whole or not at all.
        metadata: texts by name to keep with them.

    Raises:
        TypeError: if ``obj`` holds anything else.
    """
    if isinstance(obj, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in obj.items()):
        save_tensors(obj, path, metadata)
    else:
        save_nest(obj, path, metadata)


def save_nest(obj: Any, path: PathLike, metadata: Mapping[str, str] | None = None, what: str = "save") -> None:
    """As :func:`save`, with the structure even of a plain dictionary of tensors.

    Raises:
        TypeError: if a leaf is neither tensor, number, text nor None.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps({"version": VERSION, "state": pack(obj, tensors, what=what)})
    save_tensors(tensors, path, {**(metadata or {}), STRUCTURE: structure})


def save_tensors(state: Mapping[str, Tensor], path: PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """As :func:`save`, of a dictionary of tensors."""
    buffers: dict[str, memory.Buffer] = {}
    for name, value in state.items():
        buffer = value.detach().cpu().contiguous().to_torch()
        if any(memory.same_storage(buffer, other) for other in buffers.values()):
            buffer = value.detach().cpu().contiguous().clone().to_torch()
        buffers[name] = buffer
    import safetensors.torch

    with replacing(path) as unfinished:
        safetensors.torch.save_file(buffers, unfinished, dict(metadata or {}))


def load(path: PathLike) -> Any:
    """Reads what :func:`save` wrote, a safetensors file of another program, or a file that ``torch.save`` wrote.

    Returns:
        A dictionary of tensors on the CPU, or the nest that was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds anything but tensors, numbers, text and containers of them.
    """
    source = Path(path)
    if _format(source) == "torch":
        return _load_torch(source)
    tensors = _load_safetensors(source)
    header = load_metadata(source).get(STRUCTURE)
    if header is None:
        return tensors
    try:
        content = json.loads(header)
        if content["version"] != VERSION:
            raise ValueError(f"load: {source} has structure of version {content['version']}, expected {VERSION}")
        return unpack(content["state"], tensors)
    except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
        raise ValueError(f"load: {source} is damaged: {error!r}") from None


def load_tensors(path: PathLike) -> dict[str, Tensor]:
    """The tensors of a safetensors file by their names in it.

    Raises:
        FileNotFoundError, ValueError: as :func:`load`.
    """
    source = Path(path)
    if _format(source) == "torch":
        raise ValueError(f"load: {source} is a file that torch saved, expected a safetensors file")
    return _load_safetensors(source)


def _format(source: Path) -> str:
    if not source.is_file():
        raise FileNotFoundError(f"load: expected a file of tensors (.safetensors or .pth) at {source}, found none")
    with open(source, "rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:] == b"{":  # the length of a header, and the header's first character
        return "safetensors"
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return "torch"
    raise ValueError(f"load: {source} is neither a safetensors file nor one that torch saved")


def _load_torch(source: Path) -> Any:
    try:
        loaded = memory.load_saved(str(source))
    except pickle.UnpicklingError:
        raise ValueError(
            f"load: {source} is damaged, or holds more than tensors, which could run code and is not read"
        ) from None
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"load: {source} is damaged: {str(error).splitlines()[0]}") from None
    return _from_saved(loaded)


def _from_saved(value: Any) -> Any:
    """What torch saved with its tensors as ours."""
    if isinstance(value, memory.Buffer):
        return from_torch(memory.detach(value))
    if isinstance(value, Mapping):
        return {key: _from_saved(x) for key, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_from_saved(x) for x in value)
    return value


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
