"""Hooks of a module: before and after forward, and in backward."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tinyflow import nn


class Scale(nn.Module):
    def forward(self, x, by=2.0):
        if by == 0:
            raise ZeroDivisionError("by zero")
        return x * by


def test_forward_hooks_see_and_change():
    module, calls = Scale(), []
    module.register_forward_pre_hook(lambda m, args: calls.append(args))
    module.register_forward_pre_hook(lambda m, args: args[0] + 1)
    module.register_forward_hook(lambda m, args, y: y * 10)
    assert module(tinyflow.ones(1)).tolist() == [40.0]
    assert calls[0][0].tolist() == [1.0]


def test_keywords_reach_hooks_that_ask_for_them():
    module = Scale()
    before = module.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"by": kwargs["by"] + 1}), with_kwargs=True
    )
    module.register_forward_hook(lambda m, args, kwargs, y: y + kwargs["by"], with_kwargs=True)
    assert module(tinyflow.ones(1), by=3.0).tolist() == [8.0]
    before.remove()
    assert module(tinyflow.ones(1), by=3.0).tolist() == [6.0]
    module.register_forward_pre_hook(lambda m, args, kwargs: 3, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"expected None or a pair \(args, kwargs\), got 3"):
        module(tinyflow.ones(1), by=3.0)


def test_order_and_removal():
    module, calls = Scale(), []
    module.register_forward_hook(lambda *a: calls.append("second"))
    with module.register_forward_hook(lambda *a: calls.append("first"), prepend=True):
        module(tinyflow.ones(1))
    module(tinyflow.ones(1))
    assert calls == ["first", "second", "second"]


def test_always_call_runs_where_forward_raises():
    module, calls = Scale(), []
    module.register_forward_hook(lambda m, args, y: calls.append(y), always_call=True)
    module.register_forward_hook(lambda m, args, y: calls.append("not this"))
    with pytest.raises(ZeroDivisionError):
        module(tinyflow.ones(1), by=0)
    assert calls == [None]


def backward_calls(library, layer, x, changing):
    """What the backward hooks of a linear layer get, and the gradients that come out."""
    seen = []

    def pre(module, grad_output):
        seen.append([g.tolist() for g in grad_output])
        return (grad_output[0] * 2,) if changing else None

    def hook(module, grad_input, grad_output):
        seen.append([[None if g is None else g.tolist() for g in grads] for grads in (grad_input, grad_output)])
        return (grad_input[0] * 3,) if changing else None

    layer.register_full_backward_pre_hook(pre)
    layer.register_full_backward_hook(hook)
    layer(x).sum().backward()
    return seen, None if x.grad is None else x.grad.tolist(), layer.weight.grad.tolist()


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # which is what the test is about
@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_backward_hooks_are_those_of_torch(requires_grad, changing):
    if changing and not requires_grad:
        pytest.skip("there is no grad_input to change")
    ours, theirs = nn.Linear(2, 2), torch.nn.Linear(2, 2)
    values = [[[1.0, 2.0], [3.0, 4.0]], [0.5, 0.25]]
    ours.load_state_dict({"weight": tinyflow.tensor(values[0]), "bias": tinyflow.tensor(values[1])})
    theirs.load_state_dict({"weight": torch.tensor(values[0]), "bias": torch.tensor(values[1])})
    x = [[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]]
    assert backward_calls(tinyflow, ours, tinyflow.tensor(x, requires_grad=requires_grad), changing) == backward_calls(
        torch, theirs, torch.tensor(x, requires_grad=requires_grad), changing
    )


def test_a_backward_hook_returns_as_many_gradients_as_it_got():
    layer = nn.Linear(2, 2)
    layer.register_full_backward_hook(lambda module, grad_input, grad_output: (None, None))
    with pytest.raises(RuntimeError, match="expected 1 gradients from the hook, got 2"):
        layer(tinyflow.ones(1, 2, requires_grad=True)).sum().backward()
