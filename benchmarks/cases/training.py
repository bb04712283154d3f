"""Whole models: training steps, inference, throughput by the batch, and the memory that they take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

import tinyflow
from benchmarks import torch_resnet
from benchmarks.case import OURS, TORCH, Call, Case, Input, Scale, Setup
from benchmarks.peak_memory import MemoryCase
from tinyflow import models

LAST = f"{TORCH} channels-last"

#: ResNet50 takes its images in smaller batches where the processor computes.
_SMALLER = 4

#: Numbers a channel of the last maps.
_FEW = 16


def cases(scale: Scale) -> list[Case | MemoryCase]:
    return [*_models(scale), *_throughput(scale)]


def _models(scale: Scale) -> Iterator[Case | MemoryCase]:
    for model, batch in (
        ("resnet18", scale.batch),
        ("resnet50", scale.batch if scale.half else scale.batch // _SMALLER),
    ):
        batch = max(batch, 2)
        make = functools.partial(_case, scale, model, batch=batch, stock=model == "resnet18")
        yield make(model, "training step", _training(scale, model))
        if scale.half:
            yield make(model, "training step, launch by launch", _training(scale, model, captured=False))
        yield make(model, "inference", _inference(scale, model), labels=False)
        yield MemoryCase(model, "training step, peak memory", model, batch, scale.image, scale.half)
        if scale.half:
            yield make(model, "training step, beside torch.compile", _training(scale, model, compiled=True))
            yield make(model, "inference, beside torch.compile", _inference(scale, model, compiled=True), labels=False)


def _throughput(scale: Scale) -> Iterator[Case]:
    for batch in scale.batches:
        make = functools.partial(_case, scale, "resnet18", "throughput", batch=batch, stock=False)
        if batch > 1 or scale.image >= 64:  # batch normalisation wants more than one number a channel
            yield make(f"training, batch of {batch}", _training(scale, "resnet18"))
        yield make(f"inference, batch of {batch}", _inference(scale, "resnet18"), labels=False)


def _case(
    scale: Scale,
    model: str,
    family: str,
    name: str,
    contenders: dict[str, Setup],
    batch: int,
    stock: bool,
    labels: bool = True,
) -> Case:
    images = Input((batch, 3, scale.image, scale.image))
    answers = [Input((batch,), torch.int64, below=1000)] * labels
    # every layer's rounding adds up; normalising few numbers multiplies it beyond any bound
    normalised = batch * (scale.image // 32) ** 2
    tolerance = None if labels and normalised < _FEW else 5e-2 if scale.half else 1e-3
    half = torch.bfloat16 if scale.half else torch.float32
    inputs, words = (images, *answers), {"problem": str(images), "tolerance": tolerance, "dtype": half}
    return Case(family, name, contenders, inputs, images=batch, stock=stock, **words)  # type: ignore[arg-type]


def _training(scale: Scale, model: str, captured: bool = True, compiled: bool = False) -> dict[str, Setup]:
    ours = functools.partial(TrainingStep, model=model, half=scale.half, captured=scale.half and captured)
    theirs = functools.partial(TorchTrainingStep, model=model, half=scale.half, compiled=compiled)
    return _variants(scale, ours, theirs)


def _inference(scale: Scale, model: str, compiled: bool = False) -> dict[str, Setup]:
    ours = functools.partial(inference, model=model, half=scale.half)
    return _variants(scale, ours, functools.partial(torch_inference, model=model, half=scale.half, compiled=compiled))


def _variants(scale: Scale, ours: Setup, theirs: Callable[..., Call]) -> dict[str, Setup]:
    """On a GPU torch gets the memory format that is fast there; on a CPU either may be."""
    last = functools.partial(theirs, memory_format=torch.channels_last)
    return {OURS: ours, TORCH: last} if scale.half else {OURS: ours, TORCH: theirs, LAST: last}


class TrainingStep:
    """Loss, gradients and an SGD step of our model from fixed initial values; a call gives the loss.

    Args:
        half: products in bfloat16.
        captured: the step is recorded and replayed.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        model: str = "resnet18",
        half: bool = False,
        captured: bool = False,
    ) -> None:
        tinyflow.manual_seed(0)
        self.model = getattr(models, model)()
        self.optimizer = tinyflow.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.images, self.labels = tinyflow.from_torch(images), tinyflow.from_torch(labels)
        self._half = half
        self._step: Callable[..., Any] = self._whole
        if captured:
            self._step = recorded = tinyflow.capture(self._whole, self.images, self.labels)
            self.images, self.labels = recorded.inputs  # where it reads them: nothing is copied

    def __call__(self) -> Any:
        return self._step(self.images, self.labels)

    def _whole(self, images: tinyflow.Tensor, labels: tinyflow.Tensor) -> Any:
        self.optimizer.zero_grad()
        loss = self._loss(images, labels)
        self.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def _loss(self, images: tinyflow.Tensor, labels: tinyflow.Tensor) -> Any:
        with tinyflow.autocast(images.device.type, dtype=tinyflow.bfloat16, enabled=self._half):
            return tinyflow.nn.functional.cross_entropy(self.model(images), labels)

    def forward(self) -> Any:
        return self._loss(self.images, self.labels)

    def backward(self, loss: Any) -> None:
        loss.backward()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


class TorchTrainingStep:
    """The same in torch, with the same initial values.

    Args:
        compiled: by ``torch.compile(mode="max-autotune")``.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        memory_format: torch.memory_format = torch.contiguous_format,
        model: str = "resnet18",
        half: bool = False,
        compiled: bool = False,
    ) -> None:
        self.model = _torch_model(model, images.device, memory_format)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.images, self.labels = images.contiguous(memory_format=memory_format), labels
        self._half = half
        self._forward = _compiled(self.model) if compiled else self.model

    def __call__(self) -> torch.Tensor:
        with torch.autocast(self.images.device.type, dtype=torch.bfloat16, enabled=self._half):
            loss = F.cross_entropy(self._forward(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def inference(images: torch.Tensor, model: str = "resnet18", half: bool = False) -> Call:
    """Scores by our model in evaluation mode; in bfloat16 the call is recorded and replayed."""
    tinyflow.manual_seed(0)
    net, x = getattr(models, model)().eval(), tinyflow.from_torch(images)

    def scores(x: tinyflow.Tensor) -> Any:
        with tinyflow.inference_mode():
            return net(x)

    if not half:
        return lambda: scores(x)
    net, x = net.to(tinyflow.bfloat16), x.to(tinyflow.bfloat16)
    captured = tinyflow.capture(scores, x)
    return lambda: captured(*captured.inputs)


def torch_inference(
    images: torch.Tensor,
    memory_format: torch.memory_format = torch.contiguous_format,
    model: str = "resnet18",
    half: bool = False,
    compiled: bool = False,
) -> Call:
    """The same in torch."""
    net = _torch_model(model, images.device, memory_format).eval()
    x = images.contiguous(memory_format=memory_format)
    if half:
        net, x = net.to(torch.bfloat16), x.to(torch.bfloat16)
    called = _compiled(net) if compiled else net

    def scores() -> torch.Tensor:
        with torch.inference_mode():
            return called(x)

    return scores


def _compiled(model: torch.nn.Module) -> Any:
    return torch.compile(model, mode="max-autotune")


def _torch_model(name: str, device: torch.device, memory_format: torch.memory_format) -> torch.nn.Module:
    tinyflow.manual_seed(0)
    state = {name: value.cpu().to_torch() for name, value in getattr(models, name)().state_dict().items()}
    model = getattr(torch_resnet, name)()
    model.load_state_dict(state)
    return model.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
