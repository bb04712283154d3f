"""Image files, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyflow.data import DataError, read_image


def saved(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_is_read_as_it_is(tmp_path: Path, colours: np.ndarray) -> None:
    found = read_image(saved(tmp_path / "a.png", colours), 3, 9)
    assert np.array_equal(found, colours.transpose(2, 0, 1))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("shape", [(9, 31), (31, 9), (40, 40), (3, 5), (1, 1), (1, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_shape_becomes_a_square(tmp_path: Path, shape: tuple[int, int], channels: int) -> None:
    path = saved(tmp_path / "a.png", np.full((*shape, 3), 77, np.uint8))
    found = read_image(path, channels, 16)
    assert found.shape == (channels, 16, 16)
    assert np.abs(found.astype(int) - 77).max() <= 1


def test_the_middle_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert read_image(saved(tmp_path / "a.png", wide), 3, 10).min() == 255
    assert read_image(saved(tmp_path / "b.png", wide), 3, 10, resize_to=20).min() == 255


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I", "F"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "I", "F") else "a.png")
    saved(path, np.full((6, 6, 3), 255, np.uint8), mode)
    for channels in (1, 3):
        found = read_image(path, channels, 6)
        assert found.min() >= 254
        assert found.flags.writeable


def test_deep_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.array([[0, 32768], [49152, 65535]], np.uint16))
    assert read_image(path, 1, 2)[0].tolist() == [[0, 127], [191, 255]]


def test_transparency_is_black(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[:, :2, 3] = 0
    found = read_image(saved(tmp_path / "a.png", pixels), 1, 4)[0]
    assert found[:, :2].max() == 0
    assert found[:, 2:].min() == 255


def test_what_is_no_image_is_refused_in_a_sentence(tmp_path: Path, colours: np.ndarray) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    whole = saved(tmp_path / "whole.png", np.repeat(np.repeat(colours, 20, 0), 20, 1)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    (tmp_path / "damaged.png").write_bytes(damaged)
    for name, message in (
        ("text.png", "is not an image that can be read"),
        ("empty.png", "is empty"),
        ("cut.png", "cannot be read"),
        ("damaged.png", "cannot be read"),
        ("missing.png", "does not exist"),
        ("", "is a folder"),
    ):
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / name, 3, 8)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", np.zeros((50, 50, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(DataError, match="more pixels than is safe"):
        read_image(path, 3, 8)
