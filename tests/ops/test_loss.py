"""Losses as operations: what the table of cases cannot say (class weights, ignored batches, warnings)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import tinyflow
from tests.closeness import assert_close
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.ops.loss import cross_entropy, l1_loss, mse_loss, nll_loss

DEVICE = tinyflow.get_default_device()
TARGET = torch.tensor([0, 2, 1, 2])


def on_device(x: torch.Tensor):
    return tinyflow.from_torch(x.to(DEVICE))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_class_weights(name: str, reduction: str) -> None:
    x, weight = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    ours = {"cross_entropy": cross_entropy, "nll_loss": nll_loss}[name]
    options = {
        "reduction": reduction,
        "ignore_index": 1,
        **({"label_smoothing": 0.1} if name == "cross_entropy" else {}),
    }
    target, weights = on_device(TARGET), on_device(weight)

    def loss(x):
        return ours(x, target, weights, **options)

    leaf = on_device(x).requires_grad_()
    assert_close(loss(leaf).to_torch(), getattr(F, name)(x, TARGET, weight, **options), 12)
    assert gradcheck(loss, [leaf], fast_mode=True)
    assert gradgradcheck(loss, [leaf], fast_mode=True)


def test_weighted_probabilities_with_and_without_their_own_gradient() -> None:
    x, target, weight = torch.randn(4, 3), torch.rand(4, 3), torch.tensor([0.5, 2.0, 1.5])
    options = {"label_smoothing": 0.1, "reduction": "mean"}
    wide = [t.double().requires_grad_() for t in (x, target)]
    expected = F.cross_entropy(wide[0], wide[1], weight.double(), **options)
    wanted = torch.autograd.grad(expected, wide)
    logits, probabilities = on_device(x).requires_grad_(), on_device(target).requires_grad_()
    for q, leaves in ((probabilities, [logits, probabilities]), (probabilities.detach(), [logits])):
        loss = cross_entropy(logits, q, on_device(weight), **options)
        assert_close(loss.to_torch(), expected, 12)
        for mine, theirs in zip(tinyflow.autograd.grad(loss, leaves), wanted):
            assert_close(mine.to_torch(), theirs, 16)


def test_a_batch_of_ignored_rows_has_no_gradient_of_any_order() -> None:
    x = on_device(torch.randn(3, 4)).requires_grad_()
    loss = cross_entropy(x, on_device(torch.full((3,), -100)))
    assert loss.to_torch().isnan()
    (grad,) = tinyflow.autograd.grad(loss, x, create_graph=True)
    assert not grad.to_torch().any()
    (second,) = tinyflow.autograd.grad((grad * grad).sum(), x)
    assert not second.to_torch().any()


@pytest.mark.parametrize("loss", [mse_loss, l1_loss])
def test_shapes_that_broadcast_are_warned_of(loss) -> None:
    with pytest.warns(UserWarning, match=r"a target size \(3, 1\) that is different to the input size \(3,\)"):
        loss(on_device(torch.randn(3)), on_device(torch.randn(3, 1)))


def test_errors() -> None:
    x, target = on_device(torch.randn(4, 3)), on_device(TARGET)
    with pytest.raises(ValueError, match="median is not a valid value for reduction"):
        mse_loss(x, x, reduction="median")
    with pytest.raises(ValueError, match=r"Expected input batch_size \(2\) to match target batch_size \(4\)"):
        cross_entropy(x[:2], target)
    with pytest.raises(RuntimeError, match="ignore_index is not supported for floating point target"):
        cross_entropy(x, x.detach().requires_grad_(), ignore_index=1)
