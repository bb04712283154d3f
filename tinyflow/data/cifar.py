"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the "python version" as downloaded: the archive, or its folder."""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyflow.data.dataset import ArrayDataset, DataError, Splits

_CIFAR10 = tuple(f"data_batch_{k}" for k in range(1, 6)), ("test_batch",), "batches.meta", b"labels", b"label_names"
_CIFAR100 = ("train",), ("test",), "meta", b"fine_labels", b"fine_label_names"

_FOLDERS = ("cifar-10-batches-py", "cifar-100-python")
_ALLOWED = {
    "_reconstruct": ("numpy.core.multiarray", "numpy._core.multiarray"),
    "ndarray": ("numpy",),
    "dtype": ("numpy",),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numbers, text, lists, dictionaries and numpy arrays, and refuses whatever else a pickle could name."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in _ALLOWED.get(name, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no CIFAR file does")
        if name == "_reconstruct":
            return _empty_array
        return getattr(np, name)


def _empty_array(kind: type, shape: tuple[int, ...], typecode: bytes) -> np.ndarray:
    """What an array's pickle starts from; its state follows."""
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


def unpickle(data: bytes, name: str) -> dict[bytes, Any]:
    """The dictionary in a CIFAR file.

    Raises:
        DataError: if the data is damaged or holds anything but a dictionary of plain data and arrays.
    """
    try:
        value = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{name} is not a CIFAR file that can be read: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{name} is not a CIFAR file: expected a dictionary, got {type(value).__name__}")
    return value


def find(path: Path) -> Path | None:
    """The folder or archive of CIFAR files that ``path`` names or contains, if any."""
    if path.is_file():
        named = path.name.lower().startswith("cifar") and path.name.endswith((".tar.gz", ".tgz", ".tar"))
        return path if named else None
    for folder in (path, *(path / name for name in _FOLDERS)):
        if any((folder / layout[2]).is_file() for layout in (_CIFAR10, _CIFAR100)):
            return folder
    return None


def cifar(path: Path, image_size: int | None = None) -> Splits:
    """50,000 colour images of 32x32 pixels to learn from and 10,000 to test with, in 10 or 100 classes.

    Raises:
        DataError: if a file is missing or damaged.
    """
    files = _read_files(path)
    ten = _CIFAR10[2] in files
    train, test, meta, labels_key, names_key = _CIFAR10 if ten else _CIFAR100
    missing = [name for name in (*train, *test, meta) if name not in files]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}")
    where = {name: f"{path}/{name}" for name in files}
    names = unpickle(files[meta], where[meta]).get(names_key)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{where[meta]} holds no class names")
    classes = [name.decode("ascii", "replace") for name in names]
    parts = []
    for part in (train, test):
        batches = [_batch(files[name], where[name], labels_key) for name in part]
        images, labels = (np.concatenate(arrays) for arrays in zip(*batches))
        parts.append(ArrayDataset(images, labels, classes, image_size, mirrors=True))
    return Splits("cifar10" if ten else "cifar100", *parts)


def _batch(data: bytes, name: str, labels_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    content = unpickle(data, name)
    images, labels = content.get(b"data"), content.get(labels_key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        raise DataError(f"{name}: expected uint8 data (N, 3072)")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(isinstance(k, int) for k in labels):
        raise DataError(f"{name}: expected {len(images)} whole-number labels")
    return images.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def _read_files(path: Path) -> Mapping[str, bytes]:
    """The files that a CIFAR folder or archive holds, by name."""
    known = {name for train, test, meta, *_ in (_CIFAR10, _CIFAR100) for name in (*train, *test, meta)}
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in known if (path / name).is_file()}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if Path(member.name).name in known else None
                if content is not None:
                    files[Path(member.name).name] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is not an archive that can be read: {error}") from None
    return files
