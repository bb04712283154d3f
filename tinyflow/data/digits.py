"""The handwritten digits that tinyflow ships (``files/README.md`` names their source and licence)."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np

from tinyflow.data.dataset import ArrayDataset, Splits, every_fifth

#: Twice the side of the scans: large enough for ResNet's five halvings with its padding, quick on a CPU.
DIGITS_SIZE = 16


def digits(image_size: int = DIGITS_SIZE) -> Splits:
    """1,797 grey digits of 8x8 pixels, scaled up to ``image_size``; every fifth of each class is for testing.

    The scans stand in the file by writer, so both parts hold all thirteen writers.
    """
    data = (resources.files("tinyflow.data") / "files" / "digits.npz").read_bytes()
    with np.load(io.BytesIO(data)) as arrays:
        ink, labels = arrays["images"], arrays["labels"]
    images = (ink.astype(np.uint16) * 255 // 16).astype(np.uint8)[:, None]
    test = every_fifth(labels)
    classes = [str(digit) for digit in range(10)]
    return Splits(
        "digits",
        ArrayDataset(images[~test], labels[~test], classes, image_size),
        ArrayDataset(images[test], labels[test], classes, image_size),
    )
