"""Comparisons with a tolerance, questions, other spellings and in-place products, as torch has them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.nn import functional as F

EDGES = [0.0, -0.0, 1.0, 1.00001, -1.0, 1e-9, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("options", [{}, {"equal_nan": True}, {"rtol": 0.0, "atol": 0.0}, {"rtol": 1e-6}], ids=str)
def test_close_is_what_torch_calls_close(options) -> None:
    pairs = list(itertools.product(EDGES, EDGES))
    a, b = (torch.tensor([p[k] for p in pairs], dtype=torch.float64) for k in (0, 1))
    found = tinyflow.isclose(on_device(a), on_device(b), **options)
    assert found.tolist() == torch.isclose(a, b, **options).tolist()
    assert tinyflow.allclose(on_device(a), on_device(a), **options) == torch.allclose(a, a, **options)
    whole = torch.tensor([1, 2, 100000])
    assert on_device(whole).isclose(on_device(whole + 1)).tolist() == torch.isclose(whole, whole + 1).tolist()
    assert on_device(a).isposinf().tolist() == torch.isposinf(a).tolist()
    assert on_device(a).isneginf().tolist() == torch.isneginf(a).tolist()


def test_questions() -> None:
    x = tinyflow.ones(2, 3)
    assert tinyflow.equal(x, x.clone()) and not x.equal(x[0]) and not x.equal(x * 2)
    assert tinyflow.numel(x) == 6 and x.ndimension() == 2
    assert tinyflow.is_tensor(x) and not tinyflow.is_tensor(torch.ones(1)) and not tinyflow.is_tensor(3)
    assert tinyflow.is_floating_point(x) and not tinyflow.is_floating_point(x.long())
    assert x.is_signed() and not x.to(tinyflow.uint8).is_signed() and x.is_same_size(x + 1)
    assert x[0, 0].is_nonzero() and not tinyflow.zeros(1).is_nonzero()
    assert x.positive() is x and (x > 0).tolist() == x.greater(0).tolist() == x.not_equal(0).tolist()
    y = x.clone().requires_grad_()
    assert not tinyflow.detach(y).requires_grad
    assert tinyflow.scalar_tensor(3).dtype == tinyflow.float32
    for arguments in [(0, 2, 5), (-1.0, 1.0, 4, 2.0), (0, 1, 1), (0, 1, 0)]:
        assert_close(on_cpu(tinyflow.logspace(*arguments)), torch.logspace(*arguments, dtype=torch.float64), 4)


def test_products_in_place() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    calls = [
        ("addmm_", (3, 5), (a[0], b[0])), ("addmv_", (3,), (a[0], b[0, :, 0])), ("addr_", (3, 5), (a[0, :, 0], b[0, 0])),
        ("addbmm_", (3, 5), (a, b)), ("baddbmm_", (2, 3, 5), (a, b)),
    ]  # fmt: skip
    for name, shape, operands in calls:
        start = torch.randn(shape)
        x = on_device(start.clone())
        assert getattr(x, name)(*map(on_device, operands), beta=0.5, alpha=2) is x
        expected = getattr(start.double(), name)(*(o.double() for o in operands), beta=0.5, alpha=2)
        assert_close(on_cpu(x), expected, 9)


@pytest.mark.parametrize(
    ("x", "other", "dtype"),
    [
        (torch.tensor([1.5, 2.0**-14], dtype=torch.float16), torch.tensor([-2, 20]), torch.float16),  # 2^20 is none
        (torch.tensor(1.1, dtype=torch.float64), torch.tensor([3, -4]), torch.float64),
        (torch.tensor([3, -5]), torch.tensor([1, 2]), torch.float32),
        (torch.tensor([3.0, -5.0]), torch.tensor([1.5, 2.0]), torch.float32),
    ],
)
def test_ldexp_keeps_the_dtype(x, other, dtype) -> None:
    found = tinyflow.ldexp(on_device(x), on_device(other))
    torch.testing.assert_close(on_cpu(found), (x.double() * 2.0 ** other.double()).to(dtype))


def test_alpha_multiplies_in_the_dtype_of_the_result() -> None:
    small, wide = torch.tensor([200, 3], dtype=torch.uint8), torch.tensor([1, 2])
    for name in ("add", "sub", "rsub"):
        found = getattr(tinyflow, name)(on_device(wide), on_device(small), alpha=2)
        assert found.tolist() == getattr(torch, name)(wide, small, alpha=2).tolist()
    assert tinyflow.rsub(on_device(small), on_device(wide), alpha=2).tolist() == torch.rsub(small, wide, alpha=2).tolist()
    for name in ("add", "sub", "rsub"):
        with pytest.raises(RuntimeError, match=r"alpha must not be a floating point number, got 0.5"):
            getattr(tinyflow, name)(on_device(wide), on_device(small), alpha=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x[0].adjoint(), "expected matrices or batches of matrices"),
        (lambda x: x.isclose(x.double()), "expected one dtype, got torch.float32 and torch.float64"),
        (lambda x: x.isclose(x, rtol=-1), "rtol and atol >= 0, got -1"),
        (lambda x: (x > 0).positive(), "bool tensor is not supported"),
        (lambda x: x.is_nonzero(), "with 8 values is ambiguous"),
        (lambda x: x.cross(x), r"a dimension of size 3, got shape \(2, 4\)"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(tinyflow.ones(2, 4))


def test_functions_that_overwrite_and_softmin() -> None:
    x = torch.randn(3, 4)
    for name in ("relu_", "elu_", "selu_", "celu_", "leaky_relu_", "hardtanh_"):
        mine = on_device(x.clone())
        assert getattr(F, name)(mine) is mine
        assert_close(on_cpu(mine), getattr(torch.nn.functional, name)(x.double().clone()), 4)
    mine = on_device(x.clone())
    assert_close(on_cpu(F.threshold_(mine, 0.1, 2.0)), torch.nn.functional.threshold(x.double(), 0.1, 2.0), 1)
    assert_close(on_cpu(F.softmin(on_device(x), 1)), torch.nn.functional.softmin(x.double(), 1), 4)
    assert_close(on_cpu(nn.Softmin(0)(on_device(x))), torch.nn.Softmin(0)(x.double()), 4)
    image = torch.randn(2, 3, 2, 2)
    assert_close(on_cpu(nn.Softmax2d()(on_device(image))), torch.nn.Softmax2d()(image.double()), 4)
    with pytest.raises(ValueError, match="Softmax2d: expected input to be 3D or 4D, got 2D"):
        nn.Softmax2d()(on_device(x))


def test_a_dictionary_of_parameters() -> None:
    made = nn.ParameterDict({"left": nn.Parameter(tinyflow.ones(2)), "right": tinyflow.zeros(3)})
    reference = torch.nn.ParameterDict({"left": torch.nn.Parameter(torch.ones(2)), "right": torch.zeros(3)})
    assert list(made.state_dict()) == list(reference.state_dict()) and len(made) == 2
    made["more"] = tinyflow.ones(1)
    assert isinstance(made["more"], nn.Parameter) and "more" in made and made.more is made["more"]
    assert [k for k, _ in made.items()] == list(made) == list(made.keys()) == ["left", "right", "more"]
    assert made.pop("more").shape == (1,) and "more" not in made
    made.update({"left": tinyflow.zeros(1)})
    assert made.left.shape == (1,) and len(list(made.values())) == 2 and made.get("nothing") is None
    del made["left"]
    made.clear()
    assert not len(made) and not list(made.parameters())


def test_torch_names_the_first_operand_input() -> None:
    x = tinyflow.tensor([-1.0, 2.0])
    assert tinyflow.exp(input=x).tolist() == x.exp().tolist()
    assert tinyflow.maximum(input=x, other=tinyflow.zeros(2)).tolist() == [0.0, 2.0]
    assert tinyflow.sum(input=x, dim=0).item() == 1.0
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        tinyflow.exp(x, input=x)
