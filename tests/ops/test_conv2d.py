"""2-d convolution: what the table of cases does not say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tinyflow.kernels.precision import tf32
from tinyflow.ops import conv2d as ops


@pytest.fixture(autouse=True)
def _exact_products_on_the_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tf32, "convolution", False)
    with torch.device(tinyflow.get_default_device()):
        yield


def test_results_and_gradients_lie_channels_last() -> None:
    x = tinyflow.from_torch(torch.randn(2, 3, 5, 4)).requires_grad_()
    weight = tinyflow.from_torch(torch.randn(4, 3, 3, 3)).requires_grad_()
    y = ops.conv2d(x, weight, padding=1)
    grads = tinyflow.autograd.grad(y, [x, weight], tinyflow.from_torch(torch.randn(2, 4, 5, 4)))
    for tensor in (y, *grads):
        assert tensor.to_torch().detach().is_contiguous(memory_format=torch.channels_last)


def test_the_three_are_one_trilinear_sum() -> None:
    """⟨g, conv(x, w)⟩ = ⟨x, input_grad(g, w)⟩ = ⟨w, weight_grad(g, x)⟩."""
    x, weight = torch.randn(2, 4, 7, 6, dtype=torch.float64), torch.randn(6, 2, 3, 2, dtype=torch.float64)
    parameters = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 2}
    x_, weight_ = tinyflow.from_torch(x), tinyflow.from_torch(weight)
    y = ops.convolve2d(x_, weight_, **parameters).to_torch()
    g = torch.randn(y.shape, dtype=torch.float64)
    g_ = tinyflow.from_torch(g)
    expected = (g * y).sum()
    by_x = (x * ops.conv2d_input_grad(g_, weight_, x.shape, **parameters).to_torch()).sum()
    by_weight = (weight * ops.conv2d_weight_grad(g_, x_, weight.shape, **parameters).to_torch()).sum()
    assert_close(torch.stack([by_x, by_weight]), torch.stack([expected, expected]), 1000)


def test_third_derivative() -> None:
    """Of a square, since the convolution itself has none: it is linear in each of its operands."""
    x = tinyflow.from_torch(torch.randn(1, 2, 4, 3, dtype=torch.float64)).requires_grad_()
    weight = tinyflow.from_torch(torch.randn(3, 2, 2, 2, dtype=torch.float64)).requires_grad_()
    y = (ops.conv2d(x, weight) * ops.conv2d(x, weight)).sum()
    (first,) = tinyflow.autograd.grad(y, [x], create_graph=True)
    (second,) = tinyflow.autograd.grad(first.sum(), [weight], create_graph=True)
    (third,) = tinyflow.autograd.grad(second.sum(), [x])

    a, b = (t.to_torch().detach().clone().requires_grad_() for t in (x, weight))
    expected = torch.nn.functional.conv2d(a, b).square().sum()
    (expected,) = torch.autograd.grad(expected, [a], create_graph=True)
    (expected,) = torch.autograd.grad(expected.sum(), [b], create_graph=True)
    (expected,) = torch.autograd.grad(expected.sum(), [a])
    assert_close(third.to_torch(), expected, 100)


def test_errors() -> None:
    x, weight = tinyflow.from_torch(torch.ones(1, 3, 5, 5)), tinyflow.from_torch(torch.ones(4, 3, 3, 3))
    with pytest.raises(ValueError, match="expected padding 'same', 'valid' or integers, got 'full'"):
        ops.conv2d(x, weight, padding="full")
    with pytest.raises(RuntimeError, match="padding='same' needs stride 1, got 2"):
        ops.conv2d(x, weight, stride=2, padding="same")
    with pytest.raises(RuntimeError, match=r"expected x \(N, C, H, W\) and weight .*, got \(3, 5\)"):
        ops.conv2d(tinyflow.from_torch(torch.ones(3, 5)), weight)
