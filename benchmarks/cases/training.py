"""Whole models: a training step, inference, and the memory that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import tinyflow
from benchmarks import torch_resnet
from benchmarks.case import OURS, TORCH, Call, Case, Input, Scale
from benchmarks.peak_memory import MemoryCase
from tinyflow.models import resnet18

LAST = "torch channels-last"


def cases(scale: Scale) -> list[Case | MemoryCase]:
    images = Input((scale.batch, 3, scale.image, scale.image))
    labels = Input((scale.batch,), torch.int64, below=1000)
    return [
        Case(
            "resnet18",
            "training step",
            {OURS: TrainingStep, TORCH: TorchTrainingStep, LAST: _channels_last(TorchTrainingStep)},
            (images, labels),
            problem=str(images),
        ),
        Case(
            "resnet18",
            "inference",
            {OURS: inference, TORCH: torch_inference, LAST: _channels_last(torch_inference)},
            (images,),
        ),
        MemoryCase("resnet18", "training step, peak memory", scale),
    ]


class TrainingStep:
    """Loss, gradients and an SGD step of our ResNet18 from fixed initial values; a call gives the loss."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        tinyflow.manual_seed(0)
        self.model = resnet18()
        self.optimizer = tinyflow.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.images, self.labels = tinyflow.from_torch(images), tinyflow.from_torch(labels)

    def __call__(self) -> Any:
        loss = self.forward()
        self.backward(loss)
        self.update()
        return loss

    def forward(self) -> Any:
        return tinyflow.nn.functional.cross_entropy(self.model(self.images), self.labels)

    def backward(self, loss: Any) -> None:
        loss.backward()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


class TorchTrainingStep:
    """The same in torch, with the same initial values."""

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.model = _torch_model(images.device, memory_format)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.images, self.labels = images.contiguous(memory_format=memory_format), labels

    def __call__(self) -> torch.Tensor:
        loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def inference(images: torch.Tensor) -> Call:
    """Scores by our ResNet18 in evaluation mode."""
    tinyflow.manual_seed(0)
    model, x = resnet18().eval(), tinyflow.from_torch(images)

    def scores() -> Any:
        with tinyflow.inference_mode():
            return model(x)

    return scores


def torch_inference(images: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Call:
    """The same in torch."""
    model = _torch_model(images.device, memory_format).eval()
    x = images.contiguous(memory_format=memory_format)

    def scores() -> torch.Tensor:
        with torch.inference_mode():
            return model(x)

    return scores


def _torch_model(device: torch.device, memory_format: torch.memory_format) -> torch.nn.Module:
    tinyflow.manual_seed(0)
    state = {name: value.to_torch() for name, value in resnet18().state_dict().items()}
    model = torch_resnet.resnet18()
    model.load_state_dict(state)
    return model.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]


def _channels_last(setup: Callable[..., Call]) -> Callable[..., Call]:
    return lambda *inputs: setup(*inputs, memory_format=torch.channels_last)
