"""Pixels to what a network takes."""

from __future__ import annotations

import numpy as np
import pytest

import tinyflow
from tinyflow.data import ArrayDataset, Normalize, digits


def dataset(images: np.ndarray) -> ArrayDataset:
    return ArrayDataset(images, np.zeros(len(images), np.int64), ("a",))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_data_set_gets_mean_0_and_deviation_1(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(20, 200, (50, channels, 7, 7), dtype=np.uint8)
    pixels[:, 0] //= 2
    device = tinyflow.get_default_device()
    y = Normalize.of(dataset(pixels))(tinyflow.from_numpy(pixels).to(device)).cpu().numpy()
    assert y.shape == (50, 3, 7, 7)
    assert y.dtype == np.float32
    assert np.abs(y.mean((0, 2, 3))).max() < 1e-5
    assert np.abs(y.std((0, 2, 3)) - 1).max() < 1e-5
    expected = pixels / 255.0
    mean, std = (f((0, 2, 3), keepdims=True) for f in (expected.mean, expected.std))
    assert np.abs(y - (expected - mean) / std).max() < 1e-5


def test_a_constant_channel_stays_finite() -> None:
    pixels = np.full((4, 3, 5, 5), 51, np.uint8)
    normalize = Normalize.of(dataset(pixels))
    assert normalize.mean == pytest.approx((0.2, 0.2, 0.2))
    assert normalize.std == (1.0, 1.0, 1.0)


def test_a_large_data_set_is_sampled_over_its_whole_length() -> None:
    pixels = np.zeros((6000, 1, 2, 2), np.uint8)
    pixels[3000:] = 255
    normalize = Normalize.of(dataset(pixels))
    assert normalize.mean[0] == pytest.approx(0.5, abs=1e-3)
    assert normalize.std[0] == pytest.approx(0.5, abs=1e-3)


def test_the_digits() -> None:
    normalize = Normalize.of(digits().train)
    assert 0.2 < normalize.mean[0] < 0.4
    assert 0.2 < normalize.std[0] < 0.5
