"""SGD takes the steps of torch's, in every setting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import tinyflow
from tests.device import on_cpu, on_device
from tinyflow.nn import Parameter
from tinyflow.optim import SGD

SHAPES = [(3, 5), (), (7,), (2, 3, 1, 3), (0, 4)]  # a matrix, a scalar, a prime, a kernel, nothing

SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.3},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "maximize": True, "weight_decay": 0.1},
    {"lr": 0.0, "momentum": 0.5},
]


def problem(dtype, seed=0):
    """Equal parameters on both sides, and gradients for each of several steps."""
    rng = np.random.default_rng(seed)
    values = [torch.tensor(rng.standard_normal(shape)).to(dtype) for shape in SHAPES]
    gradients = [[torch.tensor(rng.standard_normal(shape)).to(dtype) for shape in SHAPES] for _ in range(4)]
    ours = [Parameter(on_device(value.clone())) for value in values]
    return ours, [torch.nn.Parameter(value.clone()) for value in values], gradients


def give(ours, theirs, gradients):
    for p, q, g in zip(ours, theirs, gradients):
        p.grad, q.grad = on_device(g.clone()), g.clone()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_steps_are_those_of_torch(settings, dtype):
    ours, theirs, gradients = problem(dtype)
    mine, reference = SGD(ours, **settings), torch.optim.SGD(theirs, **settings)
    for step in gradients:
        give(ours, theirs, step)
        mine.step(), reference.step()
    tolerance = 20 * torch.finfo(dtype).eps
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(on_cpu(p), q.detach(), rtol=tolerance, atol=tolerance)
    if settings.get("momentum"):
        buffers = [on_cpu(mine.state[p]["momentum_buffer"]) for p in ours]
        torch.testing.assert_close(
            buffers, [reference.state[q]["momentum_buffer"] for q in theirs], rtol=tolerance, atol=tolerance
        )


def test_steps_go_on_from_a_saved_state_and_parameters_may_join_late():
    ours, theirs, gradients = problem(torch.float64)
    settings = {"lr": 0.1, "momentum": 0.9, "dampening": 0.2}
    mine, reference = SGD(ours, **settings), torch.optim.SGD(theirs, **settings)
    for k, step in enumerate(gradients):
        give(ours, theirs, step)
        if k < 2:  # two parameters have no gradient, and so no momentum, until the third step
            for p in (*ours[1:3], *theirs[1:3]):
                p.grad = None
        mine.step(), reference.step()
        resumed = SGD(ours, lr=1.0)
        resumed.load_state_dict(mine.state_dict())
        mine = resumed
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(on_cpu(p), q.detach(), rtol=1e-13, atol=1e-13)


def test_a_gradient_in_other_strides_counts_the_same():
    p = Parameter(tinyflow.zeros(3, 4, dtype=tinyflow.float64))
    g = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
    p.grad = on_device(g).t()
    SGD([p], lr=0.5).step()
    assert torch.equal(on_cpu(p), -0.5 * g.t())


def test_the_momentum_of_a_kernel_lies_as_the_kernel_does():
    weight = tinyflow.nn.Conv2d(3, 4, 3).weight
    weight.grad = tinyflow.ones_like(weight)
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    optimizer.step()
    assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


def test_closure_runs_with_gradients_and_its_result_is_returned():
    p = Parameter(tinyflow.tensor([3.0]))
    optimizer = SGD([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with tinyflow.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 9.0
    assert p.item() == 0.0


def test_a_step_is_seen_by_what_was_saved_for_backward():
    p = Parameter(tinyflow.tensor([3.0]))
    loss = (p * p).sum()
    p.grad = tinyflow.ones_like(p)
    SGD([p], lr=0.5).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_two_runs_give_the_same_bits():
    def run():
        ours, theirs, gradients = problem(torch.float32, seed=3)
        optimizer = SGD(ours, lr=0.1, momentum=0.9, weight_decay=1e-4)
        for step in gradients:
            give(ours, theirs, step)
            optimizer.step()
        return [p.tolist() for p in ours]

    assert run() == run()


def test_foreach_and_fused_are_accepted():
    for foreach, fused in itertools.product((None, False, True), repeat=2):
        if not (foreach and fused):
            SGD([Parameter(tinyflow.zeros(1))], lr=0.1, foreach=foreach, fused=fused)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ({"momentum": -1.0}, ValueError, "Invalid momentum value: -1.0"),
        ({"weight_decay": -1.0}, ValueError, "Invalid weight_decay value: -1.0"),
        ({"nesterov": True}, ValueError, "Nesterov momentum requires a momentum and zero dampening"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "Nesterov momentum"),
        ({"differentiable": True}, NotImplementedError, "differentiable=True is not implemented"),
        ({"foreach": True, "fused": True}, RuntimeError, "cannot be `True` together"),
    ],
    ids=str,
)
def test_wrong_settings_say_so(settings, error, text):
    with pytest.raises(error, match=text):
        SGD([Parameter(tinyflow.zeros(1))], **settings)


def test_a_gradient_of_another_dtype_is_refused():
    p = Parameter(tinyflow.zeros(2))
    p.grad = tinyflow.zeros(2)
    p.data = p.data.double()
    with pytest.raises(RuntimeError, match=r"gradient of parameter 0 to be \(2,\) torch.float64"):
        SGD([p], lr=0.1).step()
