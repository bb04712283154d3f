"""Published weights: where a model's file is, and its tensors.

The files are torchvision's. Each carries the beginning of its SHA-256 in its name, which is checked. They are looked up
in the folder where torch keeps its own downloads, and put there.
"""

from __future__ import annotations

import enum
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyflow.serialization import download_folder, load, replacing
from tinyflow.tensor import Tensor

#: Name of the weights that were trained on ImageNet's 1000 classes with the original recipe.
IMAGENET1K_V1 = "IMAGENET1K_V1"


class ResNet18_Weights(str, enum.Enum):
    """The published weights of a ResNet18, under the names that torchvision gives them: for ``weights=``."""

    IMAGENET1K_V1 = IMAGENET1K_V1
    DEFAULT = IMAGENET1K_V1

    def __str__(self) -> str:
        return self.value


#: ResNet34's are named the same; deeper models have a second recipe too, whose files are not looked up here.
ResNet34_Weights = ResNet18_Weights

SERVER = "https://download.pytorch.org/models/"

FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
    "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
    "resnext101_64x4d": "resnext101_64x4d-173b62eb.pth",
    "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
    "wide_resnet101_2": "wide_resnet101_2-32ee1156.pth",
}

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30


def state_dict(model: str, weights: str | os.PathLike[str], progress: bool = True) -> dict[str, Tensor]:
    """The tensors of a model by name.

    Args:
        model: an architecture's name, such as ``"resnet18"``.
        weights: a file (.safetensors, or a dictionary of tensors that torch saved), or ``"IMAGENET1K_V1"``.
        progress: show a download's progress.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, is not what its name says, or no weights of that name are published.
        ConnectionError: if a download fails; the message says what to do.
    """
    return load(published_file(model, progress) if weights == IMAGENET1K_V1 else _local_file(weights))


def _local_file(weights: str | os.PathLike[str]) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights={str(weights)!r}: expected a file (.safetensors or .pth) or {IMAGENET1K_V1!r}, found none"
        )
    return path


def published_file(model: str, progress: bool = True) -> Path:
    """The file of a model's ImageNet weights, downloaded where it is not there yet.

    Raises:
        ValueError: if none is published, or the file's SHA-256 is not the one in its name.
        ConnectionError: if the download fails.
    """
    if model not in FILES:
        raise ValueError(
            f"no {IMAGENET1K_V1} weights are published for {model!r}; there are some for {', '.join(FILES)}"
        )
    path = download_folder() / FILES[model]
    if not path.is_file():
        _download(SERVER + path.name, path, progress)
    elif not _digest(path).startswith(_expected(path)):
        raise ValueError(
            f"{path} is damaged: its SHA-256 does not begin with {_expected(path)}; delete it and try again"
        )
    return path


def _expected(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(url: str, path: Path, progress: bool) -> None:
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, replacing(path) as unfinished:
            with open(unfinished, "wb") as file:
                for chunk in _chunks(response, path.name, progress):
                    digest.update(chunk)
                    file.write(chunk)
            if not digest.hexdigest().startswith(_expected(path)):
                raise ValueError(
                    f"{url} is not what its name says: its SHA-256 does not begin with {_expected(path)}; try again"
                )
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise ConnectionError(
            f"could not download {url}: {getattr(error, 'reason', error)}. Download it where there is a network and "
            f"put it at {path}, or give weights= a file that you have (.safetensors or .pth)."
        ) from None


def _chunks(response: Any, name: str, progress: bool) -> Iterator[bytes]:
    length = response.headers.get("Content-Length")
    if not progress:
        while chunk := response.read(_CHUNK):
            yield chunk
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None if length is None else int(length))
        while chunk := response.read(_CHUNK):
            yield chunk
            bar.advance(task, len(chunk))
