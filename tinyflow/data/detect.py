"""From a path to a data set, by looking at what lies there."""

from __future__ import annotations

from pathlib import Path

from tinyflow.data import cifar, idx, image_folder
from tinyflow.data.dataset import DataError, Splits
from tinyflow.data.digits import DIGITS_SIZE, digits


def open_data(path: str | Path | None = None, image_size: int | None = None) -> Splits:
    """The data set at ``path``, its images scaled to ``image_size`` (default: the data's own); None is the digits.

    Raises:
        DataError: if nothing is there, nothing known is there, or what is there is damaged.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"expected a positive image size, got {image_size}")
    if path is None:
        return digits(image_size or DIGITS_SIZE)
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist")
    archive = cifar.find(path)
    if archive is not None:
        return cifar.cifar(archive, image_size)
    if path.is_file():
        raise DataError(f"{path} is a file; expected a folder, or CIFAR's .tar.gz as downloaded")
    raw = idx.find(path)
    if raw is not None:
        return idx.mnist(raw, image_size)
    if image_folder.has_classes(path):
        return image_folder.image_folder(path, image_size or image_folder.FOLDER_SIZE)
    raise DataError(
        f"{path} holds no data set that is known here; expected <class>/<image files>, train and val folders of such, "
        "CIFAR-10 or CIFAR-100 (python version), or MNIST's idx files"
    )
