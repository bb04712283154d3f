"""Parametrised tensors: what they compute, what is learnt, state, copies, pickles, and removal."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.nn.utils import parametrizations, parametrize


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).t()

    def right_inverse(self, x):
        return x.triu()


class Doubled(nn.Module):
    calls = 0

    def forward(self, x):
        Doubled.calls += 1
        return x * 2


class Halved(nn.Module):
    def forward(self, x):
        return x[: x.shape[0] // 2]


def test_a_weight_is_computed_and_assigned():
    layer = nn.Linear(3, 3)
    before, weight = layer.weight, on_cpu(layer.weight).clone()
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert list(dict(layer.named_parameters())) == ["bias", "parametrizations.weight.original"]
    assert layer.parametrizations.weight.original is before
    assert_close(on_cpu(layer.weight), weight.triu() + weight.triu(1).t(), 1)
    layer(tinyflow.ones(2, 3)).sum().backward()
    assert before.grad.tolist() == [[2.0, 4.0, 4.0], [0.0, 2.0, 4.0], [0.0, 0.0, 2.0]]
    value = tinyflow.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
    layer.weight = value
    assert layer.weight.tolist() == value.tolist()
    assert isinstance(layer, nn.Linear) and type(layer).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    with pytest.raises(TypeError, match=r"cannot assign 'int' object to parametrized 'weight'"):
        layer.weight = 3


def test_parametrisations_add_up_and_are_cached():
    layer = nn.Linear(2, 2)
    weight = on_cpu(layer.weight).clone()
    for _ in range(2):
        parametrize.register_parametrization(layer, "weight", Doubled())
    assert_close(on_cpu(layer.weight), 4 * weight, 1)
    Doubled.calls = 0
    with parametrize.cached():
        assert layer.weight is layer.weight
    assert Doubled.calls == 2
    assert layer.weight is not layer.weight
    with pytest.raises(RuntimeError, match="Doubled does not implement right_inverse"):
        layer.weight = layer.weight.detach()


def test_shapes_may_change_only_if_that_is_said():
    layer = nn.Linear(2, 4)
    with pytest.raises(ValueError, match=r"may not change the shape .* expected \(4, 2\) .* got \(2, 2\)"):
        parametrize.register_parametrization(layer, "weight", Halved())
    assert not parametrize.is_parametrized(layer) and layer.weight.shape == (4, 2)
    parametrize.register_parametrization(layer, "weight", Halved(), unsafe=True)
    assert layer.weight.shape == (2, 2)
    with pytest.raises(ValueError, match="does not have a parameter, a buffer, or a parametrized element 'wait'"):
        parametrize.register_parametrization(layer, "wait", Halved())


def test_copies_and_pickles_are_of_their_own():
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.weight.tolist() == layer.weight.tolist()
        parametrize.remove_parametrizations(other, "weight")
        assert parametrize.is_parametrized(layer, "weight") and not parametrize.is_parametrized(other)


@pytest.mark.parametrize("leave", [True, False])
def test_removal(leave):
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "bias", Doubled())
    expected = on_cpu(layer.weight if leave else layer.parametrizations.weight.original).clone()
    original = layer.parametrizations.weight.original
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=leave)
    assert layer.weight is original and isinstance(layer.weight, nn.Parameter)
    assert_close(on_cpu(layer.weight), expected, 1)
    assert parametrize.is_parametrized(layer, "bias")
    parametrize.remove_parametrizations(layer, "bias")
    assert type(layer) is nn.Linear and not hasattr(layer, "parametrizations")
    with pytest.raises(ValueError, match="does not have a parametrization on weight"):
        parametrize.remove_parametrizations(layer, "weight")


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_that_of_torch(dim):
    theirs = torch.nn.Conv2d(3, 4, 2).double()
    ours = nn.Conv2d(3, 4, 2).double()
    torch.nn.utils.parametrizations.weight_norm(theirs, dim=dim)
    parametrizations.weight_norm(ours, dim=dim)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict({k: on_device(v.clone()) for k, v in theirs.state_dict().items()})
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected, found = theirs(x), ours(on_device(x))
    assert_close(on_cpu(found), expected.detach(), 16)
    expected.square().sum().backward(), found.square().sum().backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        assert_close(on_cpu(p.grad), q.grad, 256), name


@pytest.mark.parametrize(
    ("name", "arguments"), [("Linear", (4, 5)), ("Conv2d", (3, 4, 2)), ("ConvTranspose1d", (3, 4, 2))]
)
def test_spectral_norm_is_that_of_torch(name, arguments):
    theirs, ours = getattr(torch.nn, name)(*arguments).double(), getattr(nn, name)(*arguments).double()
    torch.nn.utils.parametrizations.spectral_norm(theirs, n_power_iterations=2)
    parametrizations.spectral_norm(ours, n_power_iterations=2)
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    ours.load_state_dict({k: on_device(v.clone()) for k, v in theirs.state_dict().items()})
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        expected, found = theirs.weight, ours.weight
        assert_close(on_cpu(found), expected.detach(), 64)
        slopes = torch.autograd.grad(expected.square().sum(), theirs.parametrizations.weight.original)
        assert_close(
            on_cpu(tinyflow.autograd.grad(found.square().sum(), ours.parametrizations.weight.original)[0]), slopes[0], 256
        )
    largest = torch.linalg.matrix_norm(theirs.weight.detach().flatten(1 if "Transpose" not in name else 2), 2)
    assert largest.max() < 2


def test_spectral_norm_of_a_vector_and_wrong_arguments():
    module = nn.Module()
    module.weight = nn.Parameter(tinyflow.tensor([3.0, 4.0]))
    parametrizations.spectral_norm(module)
    assert_close(on_cpu(module.weight), torch.tensor([0.6, 0.8]), 2)
    with pytest.raises(ValueError, match="has no parameter or buffer with name 'wait'"):
        parametrizations.spectral_norm(nn.Linear(2, 2), "wait")
    with pytest.raises(ValueError, match="n_power_iterations=0"):
        parametrizations.spectral_norm(nn.Linear(2, 2), n_power_iterations=0)
    with pytest.raises(IndexError, match=r"expected dim in \[-2, 1\], got 2"):
        parametrizations.spectral_norm(nn.Linear(2, 2), dim=2)
    with pytest.raises(IndexError, match=r"weight_norm: expected dim in \[-2, 1\], got 2"):
        parametrizations.weight_norm(nn.Linear(2, 2), dim=2)
