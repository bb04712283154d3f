"""``tinyflow predict``: what image files show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tinyflow.models.classifier import Classifier
from tinyflow.models.config import Predict
from tinyflow.models.device import choose_device
from tinyflow.models.errors import InputError, check_positive

_BATCH = 32


def predict(config: Predict) -> int:
    """Runs the program; returns its exit code.

    Raises:
        InputError, DataError: if the checkpoint or an image cannot be used; all are read before the first answer.
    """
    if not config.images:
        raise InputError("expected at least one image file")
    check_positive(config, "top")
    device = choose_device(config.device)
    if config.weights is not None:
        classifier = Classifier.pretrained(config.model, config.weights, device)
    else:
        classifier = Classifier.from_checkpoint(config.checkpoint, device)
    pixels = [classifier.preparation.read(path) for path in config.images]
    for start in range(0, len(pixels), _BATCH):
        batch = np.stack(pixels[start : start + _BATCH])
        probabilities = classifier.probabilities(255 - batch if config.invert else batch)
        for path, row in zip(config.images[start:], probabilities):
            _print(path, top_classes(row, config.top), classifier.classes, config.json)
    return 0


def _print(path: Path, ranked: list[tuple[int, float]], classes: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        found = [{"class": classes[k], "index": k, "probability": p} for k, p in ranked]
        print(json.dumps({"image": str(path), "predictions": found}, ensure_ascii=False))
    else:
        print(f"{path}: " + ", ".join(f"{classes[k]} ({100 * p:.1f} %)" for k, p in ranked))


def top_classes(probabilities: np.ndarray, top: int) -> list[tuple[int, float]]:
    """The likeliest classes and their probabilities, the likeliest first."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(int(k), float(probabilities[k])) for k in order]
