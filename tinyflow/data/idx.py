"""MNIST (LeCun, Cortes and Burges) and its relatives: IDX files, plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from tinyflow.data.dataset import ArrayDataset, DataError, Splits

_FILES = {
    "train images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_UNSIGNED_BYTE = 0x08


def find(path: Path) -> Path | None:
    """The folder of IDX files that ``path`` names or contains, if any."""
    if not path.is_dir():
        return None
    folders = (path, path / "raw", *(path / name / "raw" for name in ("MNIST", "FashionMNIST")))
    return next((f for f in folders if any(_locate(f, names) for names in _FILES.values())), None)


def mnist(folder: Path, image_size: int | None = None) -> Splits:
    """The grey images of the four files that MNIST and Fashion-MNIST consist of.

    The files do not name their classes: Fashion-MNIST is known by "fashion" in the folder's path, and elsewhere a class
    is called by its number.

    Raises:
        DataError: if a file is missing, damaged or does not fit its partner.
    """
    located = {part: _locate(folder, names) for part, names in _FILES.items()}
    missing = [_FILES[part][0] for part, file in located.items() if file is None]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)} (plain or .gz)")
    arrays = {part: read_idx(file) for part, file in located.items() if file is not None}
    fashion = "fashion" in str(folder.resolve()).lower()
    labels = max(int(arrays[f"{part} labels"].max(initial=0)) for part in ("train", "test"))
    classes = _FASHION if fashion and labels < 10 else tuple(str(k) for k in range(max(labels + 1, 10)))
    parts = []
    for part in ("train", "test"):
        images = arrays[f"{part} images"]
        if images.ndim != 3:
            raise DataError(f"{located[part + ' images']}: expected images (N, H, W), got {images.shape}")
        parts.append(ArrayDataset(images[:, None], arrays[f"{part} labels"], classes, image_size, mirrors=fashion))
    return Splits("fashion-mnist" if fashion else "mnist", *parts)


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file of unsigned bytes: two zero bytes, the type, the rank, the sizes, the elements.

    Raises:
        DataError: if the file is no such file, or is cut short.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path} is not an IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DataError(f"{path} is cut short in its header")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    expected = start + int(np.prod(shape, dtype=np.uint64))
    if len(data) != expected:
        raise DataError(f"{path}: expected {expected} bytes for shape {shape}, got {len(data)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _locate(folder: Path, names: tuple[str, ...]) -> Path | None:
    candidates = (folder / (name + suffix) for name in names for suffix in ("", ".gz"))
    return next((c for c in candidates if c.is_file()), None)
