"""Pooling as operations: what the table of cases cannot say (indices, and a gradient without them)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tinyflow
from tinyflow.ops.pooling import adaptive_max_pool2d, max_pool2d

DEVICE = tinyflow.get_default_device()


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (max_pool2d, F.max_pool2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
        (adaptive_max_pool2d, F.adaptive_max_pool2d, {"output_size": (3, None)}),
    ],
)
def test_indices(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    x = torch.randint(0, 5, (2, 3, 7, 6)).float()
    leaf = tinyflow.from_torch(x.to(DEVICE)).requires_grad_()
    y, indices = ours(leaf, **options, return_indices=True)
    expected, positions = theirs(x, **options, return_indices=True)
    assert torch.equal(y.to_torch().detach().cpu(), expected)
    assert torch.equal(indices.to_torch().cpu(), positions)
    assert not indices.requires_grad
    y.sum().backward()
    wide = x.clone().requires_grad_()
    theirs(wide, **options).sum().backward()
    assert torch.equal(leaf.grad.to_torch().cpu(), wide.grad)
