"""A folder of images with one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyflow.data.dataset import DataError, Dataset, Splits, every_fifth
from tinyflow.data.image import IMAGE_SUFFIXES, read_image

#: The size that ResNet was published with.
FOLDER_SIZE = 224

_TEST_NAMES = ("val", "valid", "validation", "test")


class ImageFolder(Dataset):
    """Colour images read from files as they are asked for.

    Args:
        files: the image files.
        labels: their labels, int64 (N,).
    """

    channels = 3
    mirrors = True

    def __init__(self, files: Sequence[Path], labels: np.ndarray, classes: Sequence[str], image_size: int) -> None:
        self.files = tuple(files)
        self._labels = labels.astype(np.int64)
        self.classes = tuple(classes)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.files)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def images(self, indices: np.ndarray) -> np.ndarray:
        size = self.image_size
        chosen = np.empty((len(indices), 3, size, size), np.uint8)
        for target, k in zip(chosen, indices):
            target[:] = read_image(self.files[k], 3, size)
        return chosen


def image_folder(root: Path, image_size: int = FOLDER_SIZE) -> Splits:
    """``root/train/<class>/*`` with ``root/val/<class>/*`` (or ``test``), or ``root/<class>/*`` alone.

    Classes are numbered in the order of their names. Without a test folder every fifth image of each class, in the
    order of file names, is for testing.

    Raises:
        DataError: if there is no class folder, one is empty, or the test part has a class that training lacks.
    """
    train = root / "train"
    if not train.is_dir():
        files, labels, classes = _scan(root)
        test = every_fifth(labels)
        if not test.any():
            raise DataError(f"{root}: no class has five images, so none is left for testing; add a val folder")
        return Splits(
            root.resolve().name,
            ImageFolder([f for f, held in zip(files, test) if not held], labels[~test], classes, image_size),
            ImageFolder([f for f, held in zip(files, test) if held], labels[test], classes, image_size),
        )
    held_out = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if held_out is None:
        raise DataError(f"{root} has a train folder but none of {', '.join(_TEST_NAMES)} to judge by")
    files, labels, classes = _scan(train)
    test_files, test_labels, test_classes = _scan(held_out)
    unknown = sorted(set(test_classes) - set(classes))
    if unknown:
        raise DataError(f"{held_out} has classes that {train} lacks: {', '.join(unknown)}")
    renumbered = np.array([classes.index(name) for name in test_classes])[test_labels]
    return Splits(
        root.resolve().name,
        ImageFolder(files, labels, classes, image_size),
        ImageFolder(test_files, renumbered, classes, image_size),
    )


def has_classes(root: Path) -> bool:
    """True if a folder looks like an image folder: it has ``train``, or a folder that holds image files."""
    if (root / "train").is_dir():
        return True
    return any(_is_image(f) for folder in root.iterdir() if folder.is_dir() for f in folder.iterdir())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _scan(root: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """Image files, labels and class names under ``root/<class>/``, subfolders of a class included."""
    folders = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no class folders; expected {root}/<class>/<image files>")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(f for f in folder.rglob("*") if _is_image(f))
        if not found:
            raise DataError(f"{folder} holds no image files ({' '.join(IMAGE_SUFFIXES)})")
        files += found
        labels += [label] * len(found)
    return files, np.array(labels), [d.name for d in folders]
