"""Batches: their order, their random state, and what augmentation does to them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinyflow.data import ArrayDataset, Augment, DataError, Loader


def numbered(count: int, size: int = 4) -> ArrayDataset:
    """Images whose every pixel is their own number."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 1, size, size))
    return ArrayDataset(images.copy(), np.arange(count) % 3, ("a", "b", "c"))


def order(loader: Loader) -> list[int]:
    return [number for batch in seen(loader) for number in batch]


def seen(loader: Loader) -> list[list[int]]:
    return [images[:, 0, 0, 0].tolist() for images, _ in loader]


def test_in_order_every_image_comes_once() -> None:
    loader = Loader(numbered(7), 3)
    assert len(loader) == 3
    assert seen(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    assert seen(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_drop_last_leaves_out_what_is_not_full() -> None:
    loader = Loader(numbered(7), 3, drop_last=True)
    assert len(loader) == 2
    assert seen(loader) == [[0, 1, 2], [3, 4, 5]]


def test_labels_go_with_their_images() -> None:
    for images, labels in Loader(numbered(20), 6, shuffle=True):
        assert labels.dtype == np.int64
        assert np.array_equal(images[:, 0, 0, 0] % 3, labels)


def test_shuffling_is_a_new_permutation_each_epoch_and_the_same_for_a_seed() -> None:
    loader = Loader(numbered(31), 8, shuffle=True, seed=5)
    first, second = (order(loader) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(31))
    assert first != second
    assert order(Loader(numbered(31), 8, shuffle=True, seed=5)) == first
    assert order(Loader(numbered(31), 8, shuffle=True, seed=6)) != first


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 9])
def test_stopped_anywhere_it_goes_on_with_the_next_batch(stop: int) -> None:
    def fresh(seed: int) -> Loader:
        return Loader(numbered(14, 6), 4, shuffle=True, augment=Augment(shift=2, flip=True), seed=seed)

    def batches(loader: Loader, epochs: int) -> list[bytes]:
        return [images.tobytes() + labels.tobytes() for _ in range(epochs) for images, labels in loader]

    whole = batches(fresh(3), 3)
    stopped = fresh(3)
    taken = 0
    while taken < stop:
        for _ in stopped:
            taken += 1
            if taken == stop:
                break
    resumed = fresh(99)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert batches(resumed, 3)[: len(whole) - stop] == whole[stop:]


@pytest.mark.parametrize(("images", "batch", "drop"), [(3, 4, True), (3, 0, False)])
def test_no_batch_at_all_is_refused(images: int, batch: int, drop: bool) -> None:
    with pytest.raises(DataError, match="batch"):
        Loader(numbered(images), batch, drop_last=drop)


def test_a_shift_moves_black_in() -> None:
    white = np.full((64, 3, 5, 5), 255, np.uint8)
    moved = Augment(shift=2)(white, np.random.default_rng(0))
    assert moved.shape == white.shape
    columns, rows = (moved[:, 0].any(axis=axis).sum(1) for axis in (1, 2))
    assert np.array_equal(moved.reshape(64, 3, -1).sum(2)[:, 0], columns * rows * 255)
    assert set(columns) == set(rows) == {3, 4, 5}


def test_a_flip_mirrors_half_of_them() -> None:
    ramp = np.broadcast_to(np.arange(6, dtype=np.uint8), (200, 1, 6, 6))
    flipped = Augment(flip=True)(ramp, np.random.default_rng(0))[:, 0, 0, 0] == 5
    assert 70 < flipped.sum() < 130


def test_no_augmentation_changes_nothing() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    assert np.array_equal(Augment()(images, np.random.default_rng(0)), images)
