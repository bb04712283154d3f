"""A model with what it needs to judge pictures: how pixels are prepared, and what its outputs are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tinyflow
from tinyflow import nn
from tinyflow.data import Normalize, read_image
from tinyflow.models import checkpoint
from tinyflow.models.catalogue import build, imagenet_classes
from tinyflow.models.errors import InputError, one_line
from tinyflow.nn import functional as F

#: Mean and standard deviation of ImageNet's channels, and the sizes that its models are judged with.
IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_IMAGENET_RESIZE, _IMAGENET_SIZE = 256, 224


@dataclass(frozen=True)
class Preparation:
    """How an image file becomes the pixels of a model's input."""

    channels: int
    image_size: int
    normalize: Normalize
    resize_to: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "channels": self.channels,
            "image_size": self.image_size,
            "mean": list(self.normalize.mean),
            "std": list(self.normalize.std),
            "resize_to": self.resize_to,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Preparation:
        normalize = Normalize(tuple(state["mean"]), tuple(state["std"]))
        return cls(state["channels"], state["image_size"], normalize, state["resize_to"])

    def read(self, path: Path) -> np.ndarray:
        """An image file's pixels, uint8 (C, H, W).

        Raises:
            DataError: if it is missing or damaged.
        """
        return read_image(path, self.channels, self.image_size, self.resize_to)


@dataclass(frozen=True)
class Classifier:
    """Images to probabilities of named classes."""

    model: nn.Module
    preparation: Preparation
    classes: tuple[str, ...]
    device: tinyflow.device

    @classmethod
    def from_checkpoint(cls, path: Path, device: tinyflow.device) -> Classifier:
        """What ``tinyflow train`` left.

        Raises:
            InputError: if there is no such checkpoint, or it does not fit.
        """
        return cls.from_state(checkpoint.load(path), path, device)

    @classmethod
    def from_state(cls, state: dict[str, Any], path: Path, device: tinyflow.device) -> Classifier:
        """The same from a checkpoint that was read already."""
        try:
            classes = tuple(state["classes"])
            preparation = Preparation.from_state_dict(state["preparation"])
            model = build(state["config"]["model"], len(classes))
            model.load_state_dict(state["weights"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path} does not fit this version of tinyflow: {one_line(error)}") from None
        return cls(model.to(device).eval(), preparation, classes, device)

    @classmethod
    def pretrained(cls, name: str, weights: str, device: tinyflow.device) -> Classifier:
        """An architecture with ImageNet weights: a file, or the name of published ones.

        Raises:
            InputError: if they cannot be had, or do not fit.
        """
        model = build(name, len(imagenet_classes()), weights)
        preparation = Preparation(3, _IMAGENET_SIZE, IMAGENET, _IMAGENET_RESIZE)
        return cls(model.to(device).eval(), preparation, imagenet_classes(), device)

    def logits(self, pixels: np.ndarray) -> tinyflow.Tensor:
        """uint8 (B, C, H, W) to (B, classes)."""
        return self.judge_pixels(tinyflow.from_numpy(np.ascontiguousarray(pixels)).to(self.device))

    def judge_pixels(self, images: tinyflow.Tensor) -> tinyflow.Tensor:
        """The same for pixels on the device."""
        return self.model(self.preparation.normalize(images))

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (B, C, H, W) to float32 (B, classes); each row sums to one."""
        with tinyflow.no_grad():
            return F.softmax(self.logits(pixels), dim=1).cpu().numpy()


@dataclass(frozen=True)
class Judgement:
    """How well images of known labels are recognised."""

    loss: float
    accuracy: float
    correct: np.ndarray  # by class
    count: np.ndarray  # by class


def judge(classifier: Classifier, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Judgement:
    """Mean cross-entropy and accuracy over batches of pixels and labels, in evaluation mode."""
    classes = len(classifier.classes)
    total, correct, count = 0.0, np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    with tinyflow.no_grad():
        for loss, right, labels in _judged(classifier, batches):
            total += loss
            correct += np.bincount(labels[right], minlength=classes)
            count += np.bincount(labels, minlength=classes)
    images = int(count.sum())
    return Judgement(total / images, int(correct.sum()) / images, correct, count)


def _judged(
    classifier: Classifier, batches: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    for pixels, labels in batches:
        logits = classifier.logits(pixels)
        target = tinyflow.from_numpy(np.ascontiguousarray(labels)).to(classifier.device)
        loss = F.cross_entropy(logits, target, reduction="sum").item()
        yield loss, logits.argmax(1).cpu().numpy() == labels, labels
