"""Tensors for the device under test, from torch's on the CPU, and back."""

from __future__ import annotations

import torch

import tinyflow


def on_device(x: torch.Tensor) -> tinyflow.Tensor:
    """The same values on the default device (in the same memory, where that is the CPU)."""
    return tinyflow.from_torch(x).to(tinyflow.get_default_device())


def on_cpu(x: tinyflow.Tensor) -> torch.Tensor:
    """A result's values for torch."""
    return x.detach().cpu().to_torch()
