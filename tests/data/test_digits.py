"""The digits that tinyflow ships."""

from __future__ import annotations

from importlib import resources

import numpy as np

from tinyflow.data import digits
from tinyflow.data.dataset import every_fifth


def test_both_parts_hold_every_digit_in_like_numbers() -> None:
    splits = digits()
    train, test = (np.bincount(part.labels, minlength=10) for part in (splits.train, splits.test))
    assert len(splits.train) + len(splits.test) == 1797
    assert np.abs(test / (train + test) - 0.2).max() < 0.006
    assert splits.train.classes == tuple("0123456789")


def test_the_parts_do_not_share_an_image_and_do_not_change() -> None:
    splits = digits(8)
    train, test = (part.images(np.arange(len(part))) for part in (splits.train, splits.test))
    assert not {x.tobytes() for x in train} & {x.tobytes() for x in test}
    again = digits(8).test
    assert np.array_equal(test, again.images(np.arange(len(again))))


def test_the_scans_values_span_all_greys() -> None:
    scans = digits(8).train.images(np.arange(100))
    assert scans.shape == (100, 1, 8, 8)
    assert scans.dtype == np.uint8
    assert scans.min() == 0
    assert scans.max() == 255
    assert set(np.unique(scans)) <= {k * 255 // 16 for k in range(17)}


def test_scaled_up_they_stay_the_same_picture() -> None:
    small, large = (digits(size).train.images(np.arange(50)).astype(float) for size in (8, 32))
    assert large.shape == (50, 1, 32, 32)
    blocks = large.reshape(50, 1, 8, 4, 8, 4).mean((3, 5))
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.97


def test_the_source_is_named_where_the_data_is() -> None:
    text = (resources.files("tinyflow.data") / "files" / "README.md").read_text()
    for words in ("Alpaydin", "Kaynak", "UCI Machine Learning Repository", "1998", "CC BY 4.0"):
        assert words in text


def test_every_fifth_of_each_class_is_held_out() -> None:
    labels = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 2])
    assert np.flatnonzero(every_fifth(labels)).tolist() == [6, 9]
