"""Losses are those of torch, forward and backward."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn

WEIGHT = [0.5, 2.0, 1.0, 0.0, 3.0]


def case(name, target, shape=(7, 5), **settings):
    return pytest.param(name, target, shape, settings, id=f"{name}-{target}-{shape}-{settings}")


CASES = [
    case(name, target, shape, reduction=reduction)
    for reduction in ("mean", "sum", "none")
    for name, target, shape in [
        ("CrossEntropyLoss", "classes", (7, 5)),
        ("CrossEntropyLoss", "classes", (2, 5, 3, 2)),
        ("CrossEntropyLoss", "probabilities", (7, 5)),
        ("NLLLoss", "classes", (7, 5)),
        ("MSELoss", "values", (7, 5)),
        ("L1Loss", "values", (3, 1, 2)),
    ]
] + [
    case("CrossEntropyLoss", "classes", label_smoothing=0.1, weight=WEIGHT),
    case("CrossEntropyLoss", "classes", ignore_index=2, weight=WEIGHT),
    case("CrossEntropyLoss", "probabilities", label_smoothing=0.1, weight=WEIGHT),
    case("NLLLoss", "classes", ignore_index=2, weight=WEIGHT),
]


@pytest.mark.parametrize(("name", "target", "shape", "settings"), CASES)
def test_losses_are_those_of_torch(name, target, shape, settings):
    settings, weight = {k: v for k, v in settings.items() if k != "weight"}, settings.get("weight")
    values = torch.randn(shape, dtype=torch.float64)
    if target == "classes":
        goal = torch.arange(values.numel() // shape[1]).reshape(shape[:1] + shape[2:]) * 3 % shape[1]
    elif target == "probabilities":
        goal = torch.rand(shape, dtype=torch.float64).softmax(1)
    else:
        goal = torch.randn(shape, dtype=torch.float64)
    x, reference = on_device(values.clone()).requires_grad_(), values.clone().requires_grad_()
    ours = getattr(nn, name)(**settings, **({} if weight is None else {"weight": tinyflow.tensor(weight)})).double()
    theirs = getattr(torch.nn, name)(
        **settings, **({} if weight is None else {"weight": torch.tensor(weight)})
    ).double()
    assert repr(ours) == repr(theirs)
    loss, expected = ours(x, on_device(goal)), theirs(reference, goal)
    assert_close(on_cpu(loss), expected.detach(), length=64)
    g = torch.randn_like(expected)
    loss.backward(on_device(g))
    expected.backward(g)
    assert_close(on_cpu(x.grad), reference.grad, length=64)


def test_the_weight_is_part_of_the_state():
    loss = nn.CrossEntropyLoss(weight=tinyflow.tensor(WEIGHT))
    assert list(loss.state_dict()) == ["weight"]
    assert loss.double().weight.dtype == tinyflow.float64


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss, nn.MSELoss, nn.L1Loss])
def test_an_unknown_reduction_says_so(kind):
    with pytest.raises(ValueError, match="median is not a valid value for reduction"):
        kind(reduction="median")
