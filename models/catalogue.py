"""The models that the programs know by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources

from tinyflow import nn
from tinyflow.models import resnet
from tinyflow.models.errors import InputError, one_line

MODELS: dict[str, Callable[..., resnet.ResNet]] = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnext50_32x4d": resnet.resnext50_32x4d,
    "resnext101_32x8d": resnet.resnext101_32x8d,
    "resnext101_64x4d": resnet.resnext101_64x4d,
    "wide_resnet50_2": resnet.wide_resnet50_2,
    "wide_resnet101_2": resnet.wide_resnet101_2,
}


def build(name: str, classes: int, weights: str | None = None) -> resnet.ResNet:
    """A model with ``classes`` outputs; a last layer of ``weights`` that has another number of them is made anew.

    Raises:
        InputError: if there is no such model, or its weights cannot be had.
    """
    if name not in MODELS:
        raise InputError(f"there is no model {name!r}; expected one of {', '.join(MODELS)}")
    if weights is None:
        return MODELS[name](num_classes=classes)
    try:
        model = MODELS[name](weights=weights)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"weights {weights} for {name}: {one_line(error)}") from None
    if model.fc.out_features != classes:
        model.fc = nn.Linear(model.fc.in_features, classes)
    return model


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, in the order of the published weights' outputs."""
    text = (resources.files("tinyflow.models") / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
