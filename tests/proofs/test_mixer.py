"""An MLP-Mixer (Tolstikhin et al. 2021) that reads the shipped digits trains step for step as the same lines do in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import tinyflow
from tests.device import on_cpu, on_device
from tinyflow.data.digits import digits

STEPS = 8


def mixer(lib: Any, size: int, patch: int = 4, width: int = 12, layers: int = 2) -> Any:
    """The model, from a library's names: ``torch`` or ``tinyflow``."""
    nn = lib.nn
    patches = (size // patch) ** 2

    class Mix(nn.Module):
        """A perceptron over the last dimension, with a residual connection."""

        def __init__(self, features: int, norm: int, across: bool) -> None:
            super().__init__()
            self.across = across
            self.norm = nn.LayerNorm(norm)
            self.net = nn.Sequential(nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, features))

        def forward(self, x: Any) -> Any:
            y = self.norm(x)
            return x + (self.net(y.transpose(1, 2)).transpose(1, 2) if self.across else self.net(y))

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(1, width, patch, stride=patch)
            blocks = [m for _ in range(layers) for m in (Mix(patches, width, True), Mix(width, width, False))]
            self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, x: Any) -> Any:
            x = self.embed(x).flatten(2).transpose(1, 2)  # (N, patches, width)
            return self.head(self.norm(self.blocks(x)).mean(1))

    return Mixer()


def examples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of digits (n, 1, H, W) between 0 and 1, and which digit each is."""
    data = digits().train
    images = np.asarray(data.images(np.arange(n)))[:, :1]
    height = images.shape[-1] // 4 * 4
    return images[..., :height, :height] / 255.0, np.asarray(data.labels[:n]).astype(np.int64)


def train(lib: Any, model: Any, images: Any, targets: Any) -> list[float]:
    """Losses of training steps."""
    optimizer = lib.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        loss = lib.nn.functional.cross_entropy(model(images), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        lib.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_mixer_trains_step_for_step_as_in_torch() -> None:
    torch.manual_seed(0)
    images, targets = (torch.from_numpy(x) for x in examples(32))
    theirs, ours = mixer(torch, images.shape[-1]).double(), mixer(tinyflow, images.shape[-1]).double()
    ours.load_state_dict({k: on_device(v.clone()) for k, v in theirs.state_dict().items()})
    expected = train(torch, theirs, images.double(), targets)
    found = train(tinyflow, ours, on_device(images.double()), on_device(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[-1] < found[0]
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        np.testing.assert_allclose(on_cpu(p.detach()), q.detach(), rtol=1e-6, atol=1e-8, err_msg=name)
