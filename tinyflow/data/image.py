"""Image files: one is read, made grey or coloured, and brought to the size that a model takes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tinyflow.data.dataset import DataError

#: File name endings that are taken for images.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def read_image(path: str | Path, channels: int, size: int, resize_to: int | None = None) -> np.ndarray:
    """The image in a file as uint8 (``channels``, ``size``, ``size``).

    Its shorter side is scaled to ``resize_to`` (default: ``size``) and the middle is cut out. Transparent parts are
    taken as black, and a photograph's orientation tag is followed.

    Raises:
        DataError: if the file is missing, empty, or no image that can be read.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected an image file")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; expected an image")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened)
                return fit(image, channels, size, resize_to)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image that can be read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path} claims to have more pixels than is safe to read") from None
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise for damaged files
        raise DataError(f"{path} cannot be read: {error}") from None


def fit(image: Image.Image, channels: int, size: int, resize_to: int | None = None) -> np.ndarray:
    """The image as uint8 (``channels``, ``size``, ``size``): scaled by its shorter side, the middle cut out."""
    if image.mode in ("I", "I;16", "F"):  # deep grey scans, which Pillow would clip instead of scale
        deep = np.asarray(image, dtype=np.float64)
        span = 65535 if deep.max(initial=0) > 255 else 255
        image = Image.fromarray((deep.clip(0, span) * (255 / span)).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    scale = (resize_to or size) / min(image.size)
    width, height = (max(round(side * scale), size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.array(image.crop((left, top, left + size, top + size)))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
