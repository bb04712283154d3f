"""Every operation of the table against torch in float64: values, gradients, both derivatives numerically."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch

import tests.ops.cases
import tinyflow
from tests.closeness import assert_close
from tests.ops.case import Case
from tinyflow.autograd import gradcheck, gradgradcheck

CASES: list[Case] = []
for _module in pkgutil.iter_modules(tests.ops.cases.__path__):
    CASES += importlib.import_module(f"tests.ops.cases.{_module.name}").CASES

DEVICE = tinyflow.get_default_device()


def _ours(x: torch.Tensor | None, requires_grad: bool = False):
    if x is None:
        return None
    made = tinyflow.from_torch(x.to(DEVICE))
    return made.requires_grad_() if requires_grad and x.is_floating_point() else made


def _reference(case: Case, inputs: list, requires_grad: bool = False):
    wide = [
        x if x is None or not x.is_floating_point() else x.double().detach().requires_grad_(requires_grad)
        for x in inputs
    ]
    return case.pick(case.torch(*wide, **case.params)), wide


def _expand_dtypes():
    return [pytest.param(c, d, id=f"{c.id}-{str(d)[6:]}") for c in CASES for d in c.dtypes]


@pytest.mark.parametrize(("case", "dtype"), _expand_dtypes())
def test_values(case: Case, dtype: torch.dtype) -> None:
    inputs = case.arrays(dtype)
    expected, _ = _reference(case, inputs)
    actual = case.pick(case.function()(*[_ours(x) for x in inputs], **case.params))
    if expected.is_floating_point():
        assert actual.dtype == dtype
    assert_close(actual.to_torch(), expected, case.length)


def _strided(x: torch.Tensor) -> torch.Tensor:
    """The same values in memory with gaps, dimensions laid out in reverse."""
    room = torch.full([2 * n for n in reversed(x.shape)], float("nan"), dtype=x.dtype)
    view = room[tuple(slice(0, 2 * n, 2) for n in reversed(x.shape))].permute(tuple(reversed(range(x.dim()))))
    view.copy_(x)
    return view


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_strided_inputs(case: Case) -> None:
    inputs = case.arrays(torch.float32)
    expected, _ = _reference(case, inputs)
    spread = [x if x is None or not x.is_floating_point() else _strided(x) for x in inputs]
    actual = case.pick(
        case.function()(*[None if x is None else tinyflow.from_torch(_move(x)) for x in spread], **case.params)
    )
    assert_close(actual.to_torch(), expected, case.length)


def _move(x: torch.Tensor) -> torch.Tensor:
    if DEVICE.type == "cpu":
        return x
    moved = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE)
    return moved.copy_(x)


@pytest.mark.parametrize("case", [c for c in CASES if c.gradient], ids=lambda c: c.id)
def test_gradients(case: Case) -> None:
    inputs = case.arrays(torch.float64)
    expected, wide = _reference(case, inputs, requires_grad=True)
    g = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    leaves = [x for x in wide if x is not None and x.requires_grad]
    wanted = torch.autograd.grad(expected, leaves, g, allow_unused=True)
    ours = [_ours(x, requires_grad=True) for x in inputs]
    result = case.pick(case.function()(*ours, **case.params))
    found = tinyflow.autograd.grad(
        result, [x for x in ours if x is not None and x.requires_grad], _ours(g), allow_unused=True
    )
    for mine, theirs in zip(found, wanted):
        if theirs is None:
            assert mine is None or not mine.to_torch().any()
        else:
            assert_close(mine.to_torch(), theirs, max(case.length, 16))


def _check(case: Case, check) -> None:
    ours = [_ours(x, requires_grad=True) for x in case.arrays(torch.float64)]
    assert check(lambda *xs: case.pick(case.function()(*xs, **case.params)), ours, fast_mode=True)


@pytest.mark.parametrize("case", [c for c in CASES if c.gradient], ids=lambda c: c.id)
def test_first_derivative_numerically(case: Case) -> None:
    _check(case, gradcheck)


@pytest.mark.parametrize("case", [c for c in CASES if c.gradient and c.second], ids=lambda c: c.id)
def test_second_derivative_numerically(case: Case) -> None:
    _check(case, gradgradcheck)
