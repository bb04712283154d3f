"""Random changes to training images that keep their label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augment:
    """Moves each image by up to ``shift`` pixels each way (black moves in) and mirrors half of them if ``flip``."""

    shift: int = 0
    flip: bool = False

    def __call__(self, images: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """uint8 (B, C, H, W) to the same; ``random`` is drawn from in a fixed order."""
        count, _, height, width = images.shape
        offsets = random.integers(0, 2 * self.shift + 1, (count, 2)) if self.shift else None
        mirrored = random.integers(0, 2, count).astype(bool) if self.flip else None
        if offsets is not None:
            around = (self.shift, self.shift)
            padded = np.pad(images, ((0, 0), (0, 0), around, around))
            images = np.stack([x[:, i : i + height, j : j + width] for x, (i, j) in zip(padded, offsets)])
        if mirrored is not None:
            images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
        return images
