"""A network that is small enough to train in a moment, and draws random numbers as it trains."""

from __future__ import annotations

from typing import Any

from tinyflow import Tensor, nn
from tinyflow.models import catalogue


class SmallNet(nn.Module):
    """Two convolutions with batch normalisation, dropout, and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
        )
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def small(weights: str | None = None, num_classes: int = 2) -> SmallNet:
    from tinyflow import serialization

    model = SmallNet(num_classes)
    if weights is not None:
        model.load_state_dict(serialization.load(weights))
    return model


def register() -> None:
    """Makes ``--model small`` known to the programs of this process."""
    models: dict[str, Any] = catalogue.MODELS
    models["small"] = small
