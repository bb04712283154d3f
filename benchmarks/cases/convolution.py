"""The convolutions of ResNet18, each in its three directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.case import OURS, TORCH, Case, Input, Scale, Setup, bound
from tinyflow.kernels import conv2d

_LAST = torch.channels_last


@dataclass(frozen=True)
class Layer:
    """A convolution of ResNet18: how much smaller than the image its input is, and how often it occurs."""

    name: str
    reduced: int
    channels: int
    filters: int
    kernel: int
    stride: int
    count: int

    @property
    def padding(self) -> int:
        return self.kernel // 2


RESNET18 = (
    Layer("stem 7×7/2", 1, 3, 64, 7, 2, 1),
    Layer("layer1 3×3", 4, 64, 64, 3, 1, 4),
    Layer("layer2 3×3/2", 4, 64, 128, 3, 2, 1),
    Layer("layer2 1×1/2", 4, 64, 128, 1, 2, 1),
    Layer("layer2 3×3", 8, 128, 128, 3, 1, 3),
    Layer("layer3 3×3/2", 8, 128, 256, 3, 2, 1),
    Layer("layer3 1×1/2", 8, 128, 256, 1, 2, 1),
    Layer("layer3 3×3", 16, 256, 256, 3, 1, 3),
    Layer("layer4 3×3/2", 16, 256, 512, 3, 2, 1),
    Layer("layer4 1×1/2", 16, 256, 512, 1, 2, 1),
    Layer("layer4 3×3", 32, 512, 512, 3, 1, 3),
)


def cases(scale: Scale) -> list[Case]:
    return [found for layer in RESNET18 for found in _directions(layer, scale)]


def _directions(layer: Layer, scale: Scale) -> list[Case]:
    """Forward pass, input gradient and weight gradient, on channels-last memory for both."""
    stride, padding = layer.stride, layer.padding
    side = max(scale.image // layer.reduced, 1)
    out = (side + 2 * padding - layer.kernel) // stride + 1
    x = Input((scale.batch, layer.channels, side, side), dtype=scale.dtype, layout=_LAST)
    weight = Input((layer.filters, layer.channels, layer.kernel, layer.kernel), scale.dtype, _LAST)
    grad = Input((scale.batch, layer.filters, out, out), scale.dtype, _LAST)

    def backward(want_input: bool) -> Setup:
        mask = [want_input, not want_input, False]

        def call(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            found = torch.ops.aten.convolution_backward(
                g, x, w, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
            )
            return found[0 if want_input else 1]

        return bound(call)

    problem = f"{x} → {layer.filters}"
    directions = {
        "forward": (
            bound(conv2d.conv2d, None, stride, padding),
            bound(F.conv2d, None, stride, padding),
            (x, weight),
        ),
        "input gradient": (
            bound(lambda g, x, w: conv2d.conv2d_input_grad(g, w, x.shape, stride, padding)),
            backward(True),
            (grad, x, weight),
        ),
        "weight gradient": (
            bound(lambda g, x, w: conv2d.conv2d_weight_grad(g, x, w.shape, stride, padding)),
            backward(False),
            (grad, x, weight),
        ),
    }
    return [
        Case(
            "convolution",
            f"{layer.name}, {direction}",
            {OURS: ours, TORCH: theirs},
            inputs,
            problem=problem,
            tolerance=max(scale.tolerance, 1e-2),  # a GPU may round factors to TF32
        )
        for direction, (ours, theirs, inputs) in directions.items()
    ]
