"""Labelled images on the host: what a data set is, and the one that lies in memory."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image


class DataError(ValueError):
    """Data that is missing, empty, corrupt, or not what was asked for; the message says which, in one sentence."""


class Dataset(abc.ABC):
    """Labelled images of one size.

    Attributes:
        classes: the name of each label.
        channels: 1 for grey images, 3 for colour.
        image_size: height and width of every image that :meth:`batch` gives.
        mirrors: True if a mirrored image keeps its label (a cat is a cat; a mirrored 3 is no digit).
    """

    classes: tuple[str, ...]
    channels: int
    image_size: int
    mirrors: bool

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at ``indices`` as uint8 (B, C, H, W), 0 black to 255 white.

        Raises:
            DataError: if one cannot be read.
        """

    @property
    @abc.abstractmethod
    def labels(self) -> np.ndarray:
        """The label of every image, int64 (N,)."""


class ArrayDataset(Dataset):
    """Images that lie in memory, scaled to ``image_size`` when they are asked for.

    Args:
        images: uint8 (N, C, H, W) with C 1 or 3.
        labels: integers (N,) in ``[0, len(classes))``.

    Raises:
        DataError: if the two do not fit each other, there is no image, or a label has no class.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str],
        image_size: int | None = None,
        mirrors: bool = False,
    ) -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] not in (1, 3):
            raise DataError(f"expected uint8 images (N, 1 or 3, H, W), got {images.dtype} {images.shape}")
        if labels.shape != images.shape[:1]:
            raise DataError(f"expected one label an image, got {labels.shape} labels for {len(images)} images")
        if not len(images):
            raise DataError("the data set holds no images")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise DataError(
                f"expected labels from 0 to {len(classes) - 1}, got labels from {labels.min()} to {labels.max()}"
            )
        self._images = images
        self._labels = labels.astype(np.int64)
        self.classes = tuple(classes)
        self.channels = images.shape[1]
        self.image_size = image_size or images.shape[2]
        self.mirrors = mirrors

    def __len__(self) -> int:
        return len(self._images)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def images(self, indices: np.ndarray) -> np.ndarray:
        chosen = self._images[indices]
        size = self.image_size
        if chosen.shape[2:] == (size, size):
            return chosen
        scaled = np.empty((*chosen.shape[:2], size, size), np.uint8)
        for plane, target in zip(chosen.reshape(-1, *chosen.shape[2:]), scaled.reshape(-1, size, size)):
            target[:] = Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR)
        return scaled


@dataclass(frozen=True)
class Splits:
    """What a model learns from and what it is judged by, under a short name."""

    name: str
    train: Dataset
    test: Dataset


def every_fifth(labels: np.ndarray) -> np.ndarray:
    """The mask of a fixed, stratified test part: within each class, in order, every fifth item."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    return chosen
