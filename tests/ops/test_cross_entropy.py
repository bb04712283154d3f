"""The gradient of a cross entropy that the forward pass makes: the same bits, handed out once, and only for a one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow.kernels import launch
from tinyflow.ops.loss import cross_entropy

TARGET = torch.tensor([2, -100, 0, 1])
WEIGHT = torch.tensor([0.5, 2.0, 1.5])
GRADIENT = "_cross_entropy_input_grad_kernel"


@pytest.fixture(autouse=True)
def _after_a_plain_step() -> None:
    """What the last loss was scaled by, in whatever test, decides nothing here."""
    logits = leaf()
    loss_of(logits).backward()


def leaf() -> tinyflow.Tensor:
    return on_device(torch.randn(4, 3)).requires_grad_()


def loss_of(logits: tinyflow.Tensor, **options) -> tinyflow.Tensor:
    return cross_entropy(logits, on_device(TARGET), on_device(WEIGHT), **options)


def gradient(logits: tinyflow.Tensor, gradient: tinyflow.Tensor | None = None, **options) -> tuple[torch.Tensor, bool]:
    """The logits' gradient, and whether the backward pass launched something for it."""
    loss = loss_of(logits, **options)
    with launch.count() as records:
        loss.backward(gradient)
    assert logits.grad is not None
    found, logits.grad = on_cpu(logits.grad), None
    return found, GRADIENT in {r.kernel for r in records}


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"label_smoothing": 0.2}], ids=str)
def test_the_same_bits_with_no_launch(options) -> None:
    logits = leaf()
    given = on_device(torch.ones(()))  # a one that nobody knows of
    made, launched = gradient(logits, **options)
    assert not launched
    computed, launched = gradient(logits, given, **options)
    assert launched
    assert torch.equal(made, computed)
    wide = on_cpu(logits).double().requires_grad_()
    F.cross_entropy(wide, TARGET, WEIGHT.double(), **options).backward()
    assert_close(made, wide.grad, 3)


def test_a_scaled_loss_and_what_follows_it() -> None:
    logits = leaf()
    plain, _ = gradient(logits)
    with launch.count() as records:
        (loss_of(logits) * 4.0).backward()
    assert GRADIENT in {r.kernel for r in records}
    assert torch.equal(on_cpu(logits.grad), 4 * plain)
    logits.grad = None
    with launch.count() as records:  # a scaled loss is expected again, and its gradient not made beforehand
        loss = loss_of(logits)
    assert "_target_total_kernel" not in {r.kernel for r in records}
    loss.backward()
    assert torch.equal(on_cpu(logits.grad), plain)
    logits.grad = None
    assert not gradient(logits)[1]


def test_a_second_walk_has_a_gradient_of_its_own() -> None:
    logits = leaf()
    loss = loss_of(logits)
    loss.backward(retain_graph=True)
    first = on_cpu(logits.grad).clone()
    logits.grad.mul_(0.0)  # the memory that the forward pass wrote
    loss.backward()
    assert torch.equal(on_cpu(logits.grad), first)


@pytest.mark.parametrize("in_place", [False, True], ids=["another", "in place"])
def test_a_hook_that_changes_the_gradient(in_place) -> None:
    logits = leaf()
    plain, _ = gradient(logits)
    loss = loss_of(logits)
    loss.register_hook(lambda g: (g.mul_(2.0), None)[1] if in_place else g * 2.0)
    loss.backward()
    assert torch.equal(on_cpu(logits.grad), 2 * plain)


def test_second_derivatives_go_through_operations() -> None:
    logits = leaf()
    wide = on_cpu(logits).double().requires_grad_()
    results = []
    for x, loss, grad in (
        (logits, loss_of(logits, label_smoothing=0.1), tinyflow.autograd.grad),
        (wide, F.cross_entropy(wide, TARGET, WEIGHT.double(), label_smoothing=0.1), torch.autograd.grad),
    ):
        (first,) = grad(loss, x, create_graph=True)
        (second,) = grad((first * first).sum(), x)
        results.append(second)
    assert_close(on_cpu(results[0]), results[1], 9)


def test_nothing_is_made_where_no_gradient_is_followed() -> None:
    logits = leaf()
    with launch.count() as records:
        loss_of(logits.detach())
        with tinyflow.no_grad():
            loss_of(logits)
        loss_of(logits, reduction="none")
    assert "_target_total_kernel" not in {r.kernel for r in records}
