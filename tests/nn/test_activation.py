"""Activation modules beside torch's: values, gradients, repr, in place; and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tinyflow
from tinyflow import nn
from tinyflow.nn import functional as F

MODULES: list[tuple[str, dict[str, object]]] = [
    ("GELU", {}), ("GELU", {"approximate": "tanh"}), ("SiLU", {}), ("Mish", {}), ("ELU", {"alpha": 0.5}),
    ("CELU", {"alpha": 0.5}), ("SELU", {}), ("LeakyReLU", {"negative_slope": 0.25}), ("PReLU", {"num_parameters": 4}),
    ("Softplus", {"beta": 2.0, "threshold": 3.0}), ("Softsign", {}), ("Hardswish", {}), ("Hardsigmoid", {}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 2.0}), ("ReLU6", {}), ("LogSigmoid", {}), ("Tanhshrink", {}),
    ("Hardshrink", {"lambd": 0.25}), ("Softshrink", {"lambd": 0.25}), ("Threshold", {"threshold": 0.25, "value": -1.0}),
    ("GLU", {"dim": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_modules_agree_with_torch(name: str, options: dict[str, object]) -> None:
    ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (3, 4, 5))).float()
    mine, reference = tinyflow.from_torch(x.clone()).requires_grad_(), x.clone().requires_grad_()
    y, expected = ours(mine), theirs(reference)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=2e-6, atol=1e-6)
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(mine.grad.numpy(), reference.grad.numpy(), rtol=1e-5, atol=1e-6)
    for own, other in zip(ours.parameters(), theirs.parameters()):
        np.testing.assert_allclose(own.grad.numpy(), other.grad.numpy(), rtol=1e-5, atol=1e-5)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    "name", ["silu", "mish", "elu", "selu", "celu", "leaky_relu", "hardtanh", "relu6", "hardswish"]
)
def test_in_place_overwrites_and_differentiates(name: str) -> None:
    x = torch.tensor([-2.5, -0.2, 0.3, 4.0])
    leaf = tinyflow.from_torch(x.clone()).requires_grad_()
    target = leaf * 1
    y = getattr(F, name)(target, inplace=True)
    assert y is target
    y.sum().backward()
    reference = x.clone().requires_grad_()
    expected = getattr(torch.nn.functional, name)(reference)
    expected.sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(leaf.grad.numpy(), reference.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["expm1", "log1p", "atan", "erf", "round", "trunc", "bitwise_not", "nan_to_num", "lerp"]
)
def test_methods_in_place(name: str) -> None:
    x = torch.tensor([1, 2, 3]) if name == "bitwise_not" else torch.tensor([0.25, 0.75, 1.5])
    args = [torch.ones(3), 0.25] if name == "lerp" else []
    mine = tinyflow.from_torch(x.clone())
    assert (
        getattr(mine, f"{name}_")(*[tinyflow.from_torch(a) if isinstance(a, torch.Tensor) else a for a in args]) is mine
    )
    np.testing.assert_allclose(mine.numpy(), getattr(x, f"{name}_")(*args).numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["logical_and", "eq", "lt", "clip", "multiply", "fmod", "atan2", "copysign", "xlogy"])
def test_methods_of_two_in_place(name: str) -> None:
    x, y = torch.tensor([0.25, 0.75, 1.5]), torch.tensor([0.5, 0.75, 1.0])
    mine = tinyflow.from_torch(x.clone())
    getattr(mine, f"{name}_")(tinyflow.from_torch(y))
    np.testing.assert_allclose(mine.numpy(), getattr(x, f"{name}_")(y).numpy(), rtol=1e-6)


def test_refusals() -> None:
    x, whole = tinyflow.ones(3, 4), tinyflow.ones(3, dtype=tinyflow.int64)
    with pytest.raises(RuntimeError, match="approximate argument must be either none or tanh"):
        F.gelu(x, approximate="erf")
    with pytest.raises(NotImplementedError, match="silu: expected a floating-point input, got torch.int64"):
        F.silu(whole)
    with pytest.raises(RuntimeError, match="Halving dimension must be even, but dimension 0 is size 3"):
        F.glu(x, 0)
    with pytest.raises(RuntimeError, match="prelu: expected weight to hold 1 or 4 values"):
        F.prelu(x, tinyflow.ones(3))
    with pytest.raises(ValueError, match="hardtanh: min_val cannot be greater than max_val"):
        F.hardtanh(x, 1.0, 0.0)
    with pytest.raises(RuntimeError, match="alpha cannot be 0 for CELU"):
        F.celu(x, 0.0)
    with pytest.raises(NotImplementedError, match="bitwise_not: expected integer operands"):
        tinyflow.bitwise_not(x)
    with pytest.raises(RuntimeError, match="can't be cast"):
        whole.expm1_()
