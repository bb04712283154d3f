"""Batch normalisation as an operation: what the table of cases cannot say (evaluation, running statistics)."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.ops.batch_norm import batch_norm

DEVICE = tinyflow.get_default_device()


def tensor(*shape: int, dtype: torch.dtype = torch.float64, requires_grad: bool = False):
    made = tinyflow.from_torch(torch.randn(shape, dtype=dtype).to(DEVICE))
    return made.requires_grad_() if requires_grad else made


def test_evaluation_has_first_and_second_derivatives() -> None:
    mean, var = tensor(3), tinyflow.from_torch((torch.rand(3, dtype=torch.float64) + 0.5).to(DEVICE))
    inputs = [tensor(2, 3, 3, 2, requires_grad=True), tensor(3, requires_grad=True), tensor(3, requires_grad=True)]

    def evaluate(x, weight, bias):
        return batch_norm(x, mean, var, weight, bias)

    expected = torch.nn.functional.batch_norm(
        inputs[0].to_torch().cpu(), *(t.to_torch().cpu() for t in (mean, var, *inputs[1:]))
    )
    assert_close(evaluate(*inputs).to_torch(), expected)
    assert gradcheck(evaluate, inputs, fast_mode=True)
    assert gradgradcheck(evaluate, inputs, fast_mode=True)
    assert gradgradcheck(lambda x: batch_norm(x, mean, var), inputs[:1], fast_mode=True)


def test_third_derivative() -> None:
    x, weight = tensor(3, 2, 2, requires_grad=True), tensor(2, requires_grad=True)

    def slope(x, weight):
        y = batch_norm(x, None, None, weight, None, training=True, eps=0.1)
        (grad,) = tinyflow.autograd.grad((y * y * y).sum(), x, create_graph=True)
        return grad

    assert gradgradcheck(slope, [x, weight], fast_mode=True)


def test_frozen_parameters_and_inputs() -> None:
    x, weight, bias = tensor(4, 3), tensor(3, requires_grad=True), tensor(3)
    y = batch_norm(x, None, None, weight, bias, training=True)
    (y * y).sum().backward()
    wide = weight.to_torch().detach().cpu().clone().requires_grad_()
    z = torch.nn.functional.batch_norm(x.to_torch().cpu(), None, None, wide, bias.to_torch().cpu(), True)
    (z * z).sum().backward()
    assert_close(weight.grad.to_torch(), wide.grad, 16)
    assert x.grad is None
    assert bias.grad is None


def test_training_updates_the_running_statistics_in_place_and_says_so() -> None:
    x, mean, var = tensor(8, 3, requires_grad=True), tensor(3), tensor(3)
    stale = batch_norm(x, mean, tinyflow.ones_like(var))
    before = mean.to_torch().cpu().clone()
    batch_norm(x, mean, var, training=True, momentum=0.5)
    assert_close(mean.to_torch(), 0.5 * before + 0.5 * x.to_torch().detach().cpu().mean(0))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.sum().backward()  # its gradient needs the mean that is no more


def test_half_activations_with_float32_parameters() -> None:
    x = tensor(4, 3, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    weight, bias = (
        tensor(3, dtype=torch.float32, requires_grad=True),
        tensor(3, dtype=torch.float32, requires_grad=True),
    )
    y = batch_norm(x, None, None, weight, bias, training=True)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == bias.grad.dtype == torch.float32
    assert bias.grad.to_torch().tolist() == [16.0] * 3


def test_errors() -> None:
    x = tensor(4, 3)
    with pytest.raises(RuntimeError, match="Expected running_mean and running_var to be defined when training=False"):
        batch_norm(x)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        batch_norm(x[:1], training=True)
