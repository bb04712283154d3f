"""Batches of a data set, in an order that can be stopped and taken up anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyflow.data.augment import Augment
from tinyflow.data.dataset import DataError, Dataset


class Loader:
    """Iterates over one epoch in batches of uint8 images (B, C, H, W) and int64 labels (B,).

    The order of epoch ``e`` and the augmentation of its batch ``b`` are drawn from generators seeded by
    ``(seed, e)`` and ``(seed, e, b)``: the whole random state is three numbers, :meth:`state_dict` has it, and a loader
    that loads it goes on with the very next batch.

    Args:
        drop_last: leaves out a last batch that is not full.

    Raises:
        DataError: if not a single batch comes out.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"expected a positive batch size, got {batch_size}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self.batch = 0  # batches of this epoch that were handed out
        if not len(self):
            raise DataError(f"{len(dataset)} images make no batch of {batch_size}; choose a smaller batch size")

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What is left of the epoch; the next iteration begins the next epoch."""
        order = self._order()
        while self.batch < len(self):
            number = self.batch
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            images = self.dataset.images(chosen)
            if self.augment is not None:
                images = self.augment(images, np.random.Generator(np.random.PCG64([self.seed, self.epoch, number])))
            self.batch += 1
            yield images, self.dataset.labels[chosen]
        self.epoch += 1
        self.batch = 0

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(len(self.dataset))

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seed, self.epoch, self.batch = state["seed"], state["epoch"], state["batch"]
