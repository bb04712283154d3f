"""Upsampling layers compute what torch's do, and have their text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Upsample", {"scale_factor": 2}),
        ("Upsample", {"size": (5, 3), "mode": "bicubic", "align_corners": True}),
        ("Upsample", {"scale_factor": (1.5, 2), "mode": "bilinear", "recompute_scale_factor": True}),
        ("UpsamplingNearest2d", {"size": 7}),
        ("UpsamplingBilinear2d", {"scale_factor": 3}),
    ],
)
def test_layers_are_those_of_torch(name: str, settings: dict[str, Any]) -> None:
    ours, theirs = (getattr(m, name)(**settings) for m in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mine, reference = on_device(x.clone()).requires_grad_(), x.clone().requires_grad_()
    y, expected = ours(mine), theirs(reference)
    assert_close(on_cpu(y), expected.detach(), 64)
    g = torch.randn_like(expected)
    y.backward(on_device(g))
    expected.backward(g)
    assert_close(on_cpu(mine.grad), reference.grad, 64)
