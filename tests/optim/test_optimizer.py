"""Optimizer: groups, what is remembered, its saved form, hooks, errors."""

from __future__ import annotations

import pickle

import pytest
import torch

import tinyflow
from tinyflow.nn import Parameter
from tinyflow.optim import SGD, Optimizer


def parameter(*values):
    return Parameter(tinyflow.tensor(list(values)))


def with_gradient(*values):
    p = parameter(*values)
    p.grad = tinyflow.ones_like(p)
    return p


def test_groups_take_defaults_and_their_own_settings():
    a, b, c = parameter(1.0), parameter(2.0), parameter(3.0)
    optimizer = SGD([{"params": [a, b]}, {"params": c, "lr": 0.5}], lr=0.1, momentum=0.9)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]
    assert optimizer.param_groups[0]["params"][1] is b
    optimizer.add_param_group({"params": iter([parameter(4.0)]), "momentum": 0.0})
    assert len(optimizer.param_groups) == 3
    assert optimizer.param_groups[2]["momentum"] == 0.0


def test_names_are_kept():
    optimizer = SGD([("weight", parameter(1.0)), ("bias", parameter(2.0))], lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_zero_grad():
    p = with_gradient(1.0, 2.0)
    optimizer = SGD([p], lr=0.1)
    kept = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0, 0.0]
    assert kept.tolist() == [0.0, 0.0]
    optimizer.zero_grad()
    assert p.grad is None


def test_state_dict_has_the_form_of_torch():
    def state(library, optim, make):
        a, b, c = (make(library.ones(n)) for n in (1, 2, 3))
        optimizer = optim([{"params": [a, b]}, {"params": [c], "lr": 0.5}], lr=0.1, momentum=0.9)
        for p in (a, c):
            p.grad = library.ones_like(p)
        optimizer.step()
        return optimizer.state_dict()

    ours, theirs = state(tinyflow, SGD, Parameter), state(torch, torch.optim.SGD, torch.nn.Parameter)
    assert ours["param_groups"] == theirs["param_groups"]
    assert {k: set(v) for k, v in ours["state"].items()} == {k: set(v) for k, v in theirs["state"].items()}
    for number, kept in theirs["state"].items():
        assert ours["state"][number]["momentum_buffer"].tolist() == kept["momentum_buffer"].tolist()


def test_load_state_dict_copies_casts_and_goes_on():
    saved = SGD([with_gradient(1.0, 2.0)], lr=0.1, momentum=0.9)
    saved.step()
    state = pickle.loads(pickle.dumps(saved.state_dict()))
    p = Parameter(tinyflow.zeros(2, dtype=tinyflow.float64))
    optimizer = SGD([p], lr=7.0)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["params"] == [p]
    buffer = optimizer.state[p]["momentum_buffer"]
    assert buffer.dtype == tinyflow.float64
    assert buffer.tolist() == [1.0, 1.0]
    buffer.fill_(5.0)
    assert state["state"][0]["momentum_buffer"].tolist() == [1.0, 1.0]


def test_load_state_dict_refuses_other_groups():
    optimizer = SGD([parameter(1.0), parameter(2.0)], lr=0.1)
    with pytest.raises(ValueError, match="different number of parameter groups: expected 1, got 2"):
        optimizer.load_state_dict(
            SGD([{"params": [parameter(1.0)]}, {"params": [parameter(1.0)]}], lr=1.0).state_dict()
        )
    with pytest.raises(ValueError, match="expected 2 parameters in group 0, got 1"):
        optimizer.load_state_dict(SGD([parameter(1.0)], lr=1.0).state_dict())


def test_hooks_run_around_a_step_once():
    class Twice(SGD):
        def step(self, closure=None):
            super().step(closure)
            return super().step(closure)

    calls = []
    p = with_gradient(1.0)
    optimizer = Twice([p], lr=0.25)
    before = optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append(("before", p.item(), args)))
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(("after", p.item(), args)))
    optimizer.step()
    assert calls == [("before", 1.0, ()), ("after", 0.5, ())]
    before.remove()
    optimizer.step()
    assert [name for name, *_ in calls[2:]] == ["after"]


def test_a_new_optimizer_defines_its_step():
    class Sign(Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            with tinyflow.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.sub_(p.grad.sign(), alpha=group["lr"])

    p = with_gradient(1.0, -2.0)
    optimizer = Sign([p], 0.5)
    optimizer.step()
    assert p.tolist() == [0.5, -2.5]
    assert optimizer.has_stepped
    with pytest.raises(NotImplementedError, match="Optimizer does not define its step"):
        Optimizer([p], {}).step()


def test_repr_names_the_settings_of_every_group():
    text = repr(SGD([{"params": [parameter(1.0)]}, {"params": [parameter(1.0)], "lr": 0.5}], lr=0.1))
    assert text.startswith("SGD (\nParameter Group 0\n    dampening: 0")
    assert "Parameter Group 1" in text
    assert "    lr: 0.5" in text
    assert text.endswith("\n)")


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        (lambda: parameter(1.0), TypeError, "iterable of Tensors or dicts, but got a single Tensor"),
        (list, ValueError, "empty parameter list"),
        (lambda: [1.0], TypeError, "can only optimize Tensors, but one of the params is a float"),
        (lambda: [parameter(1.0) * 2], ValueError, "can't optimize a non-leaf Tensor"),
        (lambda: [{"params": {parameter(1.0)}}], TypeError, "a set has no order"),
        (lambda: [parameter(1.0)] * 2, ValueError, "duplicate parameters"),
        (lambda: [{"params": p} for p in [parameter(1.0)] * 2], ValueError, "in more than one parameter group"),
        (lambda: [("a", parameter(1.0)), parameter(1.0)], ValueError, "Some param names are missing"),
        (lambda: [{"params": [("a", parameter(1.0))]}, {"params": [parameter(1.0)]}], ValueError, "with/without names"),
    ],
)
def test_wrong_parameters_say_so(params, error, text):
    with pytest.raises(error, match=text):
        SGD(params(), lr=0.1)


def test_a_group_is_a_dictionary():
    with pytest.raises(TypeError, match="param_group must be a dict, but got list"):
        SGD([parameter(1.0)], lr=0.1).add_param_group([parameter(1.0)])
