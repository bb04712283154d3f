"""From pixels to what a network takes: each channel brought to mean 0 and standard deviation 1, on the device."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

import tinyflow
from tinyflow.data.dataset import Dataset
from tinyflow.tensor import Tensor

_SAMPLE = 2048


@dataclass(frozen=True)
class Normalize:
    """``y = (x / 255 - mean) / std`` a channel, grey repeated to the three channels that the models take.

    ``mean`` and ``std`` are those of pixels scaled to [0, 1], one a channel of the data.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Normalize:
        """The statistics of a data set, taken from up to 2,048 images spread evenly over it."""
        chosen = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLE)).astype(np.int64))
        total, squares, count = np.zeros(dataset.channels), np.zeros(dataset.channels), 0
        for start in range(0, len(chosen), 64):
            pixels = dataset.images(chosen[start : start + 64]).astype(np.float64) / 255
            total += pixels.sum((0, 2, 3))
            squares += (pixels**2).sum((0, 2, 3))
            count += pixels[:, 0].size
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        std[std < 1 / 255] = 1.0  # a constant channel stays as it is
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 1 or 3, H, W) to float32 (B, 3, H, W)."""
        scale = _channels(tuple(1 / (255 * s) for s in self.std), pixels.device)
        offset = _channels(tuple(-m / s for m, s in zip(self.mean, self.std)), pixels.device)
        normal = pixels.to(tinyflow.float32) * scale + offset
        return normal if normal.shape[1] == 3 else normal.expand(-1, 3, -1, -1)


@functools.lru_cache(maxsize=16)  # a copy to a GPU for each batch would cost more than the arithmetic
def _channels(values: tuple[float, ...], device: tinyflow.device) -> Tensor:
    return tinyflow.tensor(values, dtype=tinyflow.float32, device=device).view(-1, 1, 1)
