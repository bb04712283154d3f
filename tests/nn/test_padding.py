"""Padding, folding and shuffling layers: torch's results, gradients and text."""

from __future__ import annotations

import pytest
import torch

from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn

#: Name of the layer, its settings, the input's shape.
LAYERS = [
    ("ConstantPad1d", (2, 1.5), (2, 5)),
    ("ConstantPad2d", ((1, 0, 2, -1), -0.5), (3, 4, 5)),
    ("ConstantPad3d", (1, 0.25), (2, 3, 2, 3)),
    ("ZeroPad1d", ((1, 2),), (2, 3, 4)),
    ("ZeroPad2d", (1,), (2, 3, 4, 3)),
    ("ZeroPad3d", ((0, 1, 2, 0, 1, 1),), (1, 2, 2, 3, 2)),
    ("ReflectionPad1d", (3,), (2, 3, 4)),
    ("ReflectionPad2d", ((1, 2, 0, 1),), (2, 3, 4, 3)),
    ("ReflectionPad3d", (1,), (1, 2, 2, 3, 2)),
    ("ReplicationPad1d", ((0, 4),), (3, 4)),
    ("ReplicationPad2d", (2,), (3, 4, 3)),
    ("ReplicationPad3d", ((1, 0, 0, 2, 1, 0),), (2, 2, 3, 2)),
    ("CircularPad1d", (3,), (3, 4)),
    ("CircularPad2d", ((1, 2, 0, 3),), (2, 3, 4, 3)),
    ("CircularPad3d", (1,), (1, 2, 2, 3, 2)),
    ("Unfold", ((2, 3), 1, 1, (2, 1)), (2, 3, 5, 4)),
    ("Fold", ((4, 5), 2), (2, 8, 12)),
    ("PixelShuffle", (2,), (2, 8, 3, 5)),
    ("PixelUnshuffle", (2,), (2, 3, 4, 6)),
    ("ChannelShuffle", (2,), (2, 6, 3, 5)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS, ids=[name for name, *_ in LAYERS])
def test_layers_are_those_of_torch(name, arguments, shape):
    ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    assert repr(ours) == repr(theirs)
    x = torch.randn(shape, dtype=torch.float64)
    mine, reference = on_device(x.clone()).requires_grad_(), x.clone().requires_grad_()
    y, expected = ours(mine), theirs(reference)
    assert_close(on_cpu(y), expected.detach(), length=4)
    g = torch.randn_like(expected)
    y.backward(on_device(g))
    expected.backward(g)
    assert_close(on_cpu(mine.grad), reference.grad, length=27)


def test_a_circular_layer_takes_its_own_dimensions():
    with pytest.raises(ValueError, match=r"expected 3D or 4D input \(got 2D input\)"):
        nn.CircularPad2d(1)(on_device(torch.zeros(3, 3)))
