"""Containers behave as the lists and dictionaries that they stand for, and as torch's."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

import tinyflow
from tinyflow import nn


def both(build):
    return build(nn), build(torch.nn)


def layers(nn, n):
    return [nn.Linear(k + 1, k + 2) for k in range(n)]


def listing(module):
    return [name for name, _ in module.named_modules()], repr(module), list(module.state_dict())


EDITS = {
    "append": lambda m, nn: m.append(nn.Tanh()),
    "extend": lambda m, nn: m.extend([nn.Tanh(), nn.Identity()]),
    "insert": lambda m, nn: m.insert(1, nn.Tanh()),
    "insert at the end": lambda m, nn: m.insert(len(m), nn.Tanh()),
    "set": lambda m, nn: m.__setitem__(-1, nn.Tanh()),
    "delete": lambda m, nn: m.__delitem__(1),
    "delete a slice": lambda m, nn: m.__delitem__(slice(0, 2)),
    "pop": lambda m, nn: m.pop(0),
    "slice": lambda m, nn: m.add_module("9", m[1:]),
    "repeat": lambda m, nn: m.extend([nn.Tanh(), nn.Tanh(), nn.Sequential(nn.Tanh()), nn.Sequential(nn.Tanh())]),
    "add": lambda m, nn: m.add_module("9", m + m[:1]),
}


@pytest.mark.parametrize("kind", ["Sequential", "ModuleList"])
@pytest.mark.parametrize("edit", EDITS)
def test_edits_are_those_of_torch(kind, edit):
    def build(nn):
        module = nn.Sequential(*layers(nn, 4)) if kind == "Sequential" else nn.ModuleList(layers(nn, 4))
        EDITS[edit](module, nn)
        return module

    ours, theirs = both(build)
    assert listing(ours) == listing(theirs)
    assert len(ours) == len(theirs)


def test_sequential_with_names():
    ours, theirs = both(
        lambda nn: nn.Sequential(OrderedDict(first=nn.Linear(1, 2), second=nn.Tanh(), third=nn.Linear(2, 1)))
    )
    assert listing(ours) == listing(theirs)
    assert listing(ours[1:]) == listing(theirs[1:])
    assert ours.second is ours[1]
    del ours[0]
    del theirs[0]
    assert listing(ours) == listing(theirs)


def test_sequential_applies_in_order():
    class Times(nn.Module):
        def __init__(self, by, plus):
            super().__init__()
            self.by, self.plus = by, plus

        def forward(self, x):
            return x * self.by + self.plus

    assert nn.Sequential(Times(2, 1), Times(10, 0))(tinyflow.ones(1)).tolist() == [30.0]
    assert nn.Sequential()(tinyflow.ones(1)).tolist() == [1.0]


def test_module_dict():
    modules = nn.ModuleDict({"a": nn.Tanh()})
    modules["b"] = nn.Identity()
    modules.update([("c", nn.Linear(1, 1)), ("a", nn.Identity())])
    assert list(modules) == list(modules.keys()) == ["a", "b", "c"]
    assert "b" in modules
    assert [type(m).__name__ for m in modules.values()] == ["Identity", "Identity", "Linear"]
    assert modules.pop("b").__class__ is nn.Identity
    assert [name for name, _ in modules.items()] == ["a", "c"]
    assert [name for name, _ in modules.named_parameters()] == ["c.weight", "c.bias"]
    modules.clear()
    assert len(modules) == 0


def test_parameter_list():
    parameters = nn.ParameterList([tinyflow.ones(1), nn.Parameter(tinyflow.zeros(2))])
    parameters.append(tinyflow.zeros(3)).extend([tinyflow.zeros(4)])
    parameters += [tinyflow.zeros(5)]
    parameters[0] = tinyflow.zeros(6)
    assert [tuple(p.shape) for p in parameters] == [(6,), (2,), (3,), (4,), (5,)]
    assert all(isinstance(p, nn.Parameter) for p in parameters)
    assert parameters[-1].shape == (5,)
    assert len(parameters[1:3]) == 2
    assert list(parameters.state_dict()) == ["0", "1", "2", "3", "4"]
    assert "(1): Parameter of shape (2,), torch.float32" in repr(parameters)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: nn.Sequential(nn.Tanh())[1], IndexError, "index 1 is out of range for Sequential of length 1"),
        (lambda: nn.ModuleList([nn.Tanh()])[-2], IndexError, "index -2 is out of range for ModuleList of length 1"),
        (lambda: nn.ModuleList().insert(2, nn.Tanh()), IndexError, "index 2 is out of range"),
        (lambda: nn.ModuleList().insert(0, 3), TypeError, "int is not a Module subclass"),
        (lambda: nn.Sequential(3), TypeError, "int is not a Module subclass"),
        (lambda: nn.Sequential() + 3, ValueError, "only objects of Sequential class, got int"),
        (lambda: nn.ParameterList()[0], IndexError, "out of range for ParameterList of length 0"),
        (lambda: nn.ModuleDict()["a"], KeyError, "a"),
    ],
)
def test_mistakes_say_so(act, error, text):
    with pytest.raises(error, match=text):
        act()
