"""A U-Net (Ronneberger et al. 2015) that finds discs in noise trains step for step as the same lines do in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import tinyflow
from tests.device import on_cpu, on_device

STEPS = 6


def unet(lib: Any, width: int = 6) -> Any:
    """The model, from a library's names: ``torch`` or ``tinyflow``."""
    nn = lib.nn

    def block(inputs: int, outputs: int) -> Any:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, padding_mode="reflect"),
            nn.SiLU(),
        )

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.down, self.deepest = block(1, width), block(width, 2 * width), block(2 * width, 4 * width)
            self.pool = nn.MaxPool2d(2)
            self.lift = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
            self.up = block(4 * width, 2 * width)
            self.resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.last = block(3 * width, width)
            self.head = nn.Conv2d(width, 2, 1)

        def forward(self, x: Any) -> Any:
            fine = self.stem(x)
            middle = self.down(self.pool(fine))
            deep = self.lift(self.deepest(self.pool(middle)))
            middle = self.up(lib.cat([middle, deep], dim=1))
            return self.head(self.last(lib.cat([fine, self.resize(middle)], dim=1)))

    return UNet().double()


def discs(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise in each of which one disc is brighter, and which of their pixels are in it."""
    random = np.random.default_rng(0)
    centre = random.uniform(4, size - 4, (n, 2, 1, 1))
    y, x = np.mgrid[:size, :size]
    inside = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < random.uniform(3, 6, (n, 1, 1)) ** 2
    return (inside + random.normal(0, 0.5, inside.shape))[:, None], inside.astype(np.int64)


def train(lib: Any, model: Any, images: Any, targets: Any) -> list[float]:
    """Losses of training steps."""
    optimizer = lib.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = lib.nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_unet_trains_as_its_twin() -> None:
    theirs = unet(torch)
    ours = unet(tinyflow)
    ours.load_state_dict({key: on_device(value.clone()) for key, value in theirs.state_dict().items()})
    images, targets = map(torch.from_numpy, discs(3, 20))

    expected = train(torch, theirs, images, targets)
    losses = train(tinyflow, ours, on_device(images), on_device(targets))

    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert losses[-1] < 0.8 * losses[0]
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(on_cpu(ours.state_dict()[key]).numpy(), value.numpy(), rtol=1e-6, atol=1e-9)
    theirs.eval(), ours.eval()
    np.testing.assert_allclose(
        on_cpu(ours(on_device(images))).numpy(), theirs(images).detach().numpy(), rtol=1e-6, atol=1e-8
    )
