"""A GPT on characters, written once: its source runs with torch and with tinyflow, and both train alike, step for step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tinyflow

ROOT = Path(__file__).parents[2]


def gpt(lib, vocabulary: int, context: int, width: int, heads: int, depth: int):
    """The model, of the library's modules: ``lib`` is torch or tinyflow."""
    nn, F = lib.nn, lib.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x):
            q, k, v = (
                part.unflatten(-1, (heads, width // heads)).transpose(1, 2)
                for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
            )
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(attended.transpose(1, 2).flatten(2))
            return x + self.mlp(self.norm2(x))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.Sequential(*[Block() for _ in range(depth)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
            self.head.weight = self.token.weight

        def forward(self, text):
            x = self.token(text) + self.position(lib.arange(text.shape[1], device=text.device))
            return self.head(self.norm(self.blocks(x)))

    return GPT()


def train(lib, model, batches, lr: float) -> list[float]:
    """The loss before each step."""
    optimizer = lib.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = lib.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def batches(steps: int, rows: int, context: int, make):
    """The project's own text as numbers of characters: rows of it, and the character that follows each; and their count."""
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
    letters = sorted(set(text[:20000]))
    numbers = np.array([letters.index(c) for c in text[:20000]])
    random = np.random.default_rng(7)
    made = []
    for _ in range(steps):
        starts = random.integers(0, len(numbers) - context - 1, rows)
        chosen = np.stack([numbers[s : s + context + 1] for s in starts])
        made.append((make(chosen[:, :-1].copy()), make(chosen[:, 1:].copy())))
    return made, len(letters)


def on_device(array):
    return tinyflow.tensor(array)


def test_trains_step_for_step_like_its_torch_twin():
    ours, letters = batches(4, 3, 12, on_device)
    theirs, _ = batches(4, 3, 12, torch.from_numpy)
    size = {"vocabulary": letters, "context": 12, "width": 16, "heads": 2, "depth": 2}
    twin = gpt(torch, **size).double()
    model = gpt(tinyflow, **size).double()
    model.load_state_dict({key: tinyflow.tensor(value.numpy()) for key, value in twin.state_dict().items()})
    expected = train(torch, twin, theirs, lr=0.05)
    assert train(tinyflow, model, ours, lr=0.05) == pytest.approx(expected, rel=1e-9)
    for (name, mine), reference in zip(model.named_parameters(), twin.parameters()):
        np.testing.assert_allclose(
            mine.detach().cpu().numpy(), reference.detach().numpy(), rtol=1e-8, atol=1e-9, err_msg=name
        )


def test_learns_in_single_precision():
    tinyflow.manual_seed(0)
    ours, letters = batches(20, 4, 16, on_device)
    model = gpt(tinyflow, letters, context=16, width=32, heads=2, depth=1)
    tinyflow.nn.init.normal_(model.token.weight, std=0.02)
    losses = train(tinyflow, model, ours, lr=0.1)
    assert losses[0] == pytest.approx(np.log(letters), rel=0.1)  # at first every character is as likely
    assert np.mean(losses[-5:]) < 0.85 * losses[0]
