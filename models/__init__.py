"""Applications: architectures with published weights, and the programs that train, evaluate and use them.

An architecture is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "tinyflow.models":
    raise ImportError(f"import tinyflow.models instead of {__name__}, which would be a second copy of every module")

if TYPE_CHECKING:
    from tinyflow.models.resnet import ResNet as ResNet
    from tinyflow.models.resnet import resnet18 as resnet18
    from tinyflow.models.resnet import resnet34 as resnet34
    from tinyflow.models.resnet import resnet50 as resnet50
    from tinyflow.models.resnet import resnet101 as resnet101
    from tinyflow.models.resnet import resnet152 as resnet152
    from tinyflow.models.resnet import resnext50_32x4d as resnext50_32x4d
    from tinyflow.models.resnet import resnext101_32x8d as resnext101_32x8d
    from tinyflow.models.resnet import resnext101_64x4d as resnext101_64x4d
    from tinyflow.models.resnet import wide_resnet50_2 as wide_resnet50_2
    from tinyflow.models.resnet import wide_resnet101_2 as wide_resnet101_2
    from tinyflow.models.weights import ResNet18_Weights as ResNet18_Weights
    from tinyflow.models.weights import ResNet34_Weights as ResNet34_Weights

_RESNETS = (
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


_WEIGHTS = ("ResNet18_Weights", "ResNet34_Weights")


def __getattr__(name: str) -> Any:
    if name in _RESNETS:
        return getattr(importlib.import_module("tinyflow.models.resnet"), name)
    if name in _WEIGHTS:
        return getattr(importlib.import_module("tinyflow.models.weights"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_RESNETS, *_WEIGHTS})
