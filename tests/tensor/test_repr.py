"""A tensor prints as torch prints it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tinyflow

NAN, INF = math.nan, math.inf

DATA = {
    "scalar": 3.5,
    "whole scalar": 2.0,
    "negative zero": -0.0,
    "integer scalar": 7,
    "bool scalar": True,
    "nan scalar": NAN,
    "vector": [1.0, -2.5, 3.25],
    "whole": [1.0, 20.0, -300.0],
    "integers": [[1, -20], [300, 4]],
    "bools": [[True, False], [False, True]],
    "special": [NAN, INF, -INF, 1.0],
    "special and fractions": [NAN, INF, -INF, 0.5],
    "only special": [NAN, INF, 0.0],
    "zeros": [0.0, 0.0],
    "large": [1.0e9, 2.0e9],
    "whole and far apart": [1.0, 1001.0],
    "whole and not so far": [1.0, 1000.0],
    "far apart": [0.25, 1000.5],
    "small": [1.0e-5, 2.0e-5],
    "small with zero": [0.0, 1.5e-5],
    "tiny": [1.0e-38, 1.5],
    "one in a row": [[[1.5]], [[2.5]]],
    "empty": [],
}


@pytest.mark.parametrize("name", DATA)
def test_data(name: str) -> None:
    assert repr(tinyflow.tensor(DATA[name])) == repr(torch.tensor(DATA[name]))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.bool], ids=str
)
def test_dtypes(dtype: torch.dtype) -> None:
    values = [[0.0, 1.0, 2.5], [100.0, 0.3, 7.0]]
    assert repr(tinyflow.tensor(values).to(dtype)) == repr(torch.tensor(values).to(dtype))


@pytest.mark.parametrize(
    "shape", [(40,), (3, 25), (2, 3, 4), (2, 2, 2, 2), (1001,), (30, 40), (9, 8, 20), (0,), (0, 3), (2, 0)]
)
def test_shapes(shape: tuple[int, ...]) -> None:
    """Long rows break, blocks are set apart, more than a thousand elements are summarised."""
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert repr(tinyflow.tensor(values)) == repr(torch.tensor(values))


def test_summary_widths_come_from_what_is_shown() -> None:
    values = np.arange(2000.0, dtype=np.float32)
    values[1000] = 1e30
    assert repr(tinyflow.tensor(values)) == repr(torch.tensor(values))


def test_empty_integers_say_their_dtype() -> None:
    assert repr(tinyflow.zeros(0, dtype=tinyflow.int64)) == repr(torch.zeros(0, dtype=torch.int64))
    assert repr(tinyflow.zeros(2, 0, dtype=tinyflow.float64)) == repr(torch.zeros(2, 0, dtype=torch.float64))


def test_history() -> None:
    for module in (tinyflow, torch):
        assert repr(module.ones(2, requires_grad=True)) == "tensor([1., 1.], requires_grad=True)"
        assert repr(module.ones(2, requires_grad=True) * 2) == "tensor([2., 2.], grad_fn=<MulBackward0>)"
    long = np.full(7, 0.12345, np.float64)
    assert repr(tinyflow.tensor(long).requires_grad_()) == repr(torch.tensor(long).requires_grad_()), (
        "remarks break the line"
    )


def test_meta_has_no_numbers() -> None:
    for dtype in (torch.float32, torch.int64):
        assert repr(tinyflow.empty(2, 3, device="meta", dtype=dtype)) == repr(
            torch.empty(2, 3, device="meta", dtype=dtype)
        )


def test_parameter() -> None:
    assert repr(tinyflow.nn.Parameter(tinyflow.ones(2))) == repr(torch.nn.Parameter(torch.ones(2)))


def test_view_and_format() -> None:
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert repr(tinyflow.tensor(values).T[1:]) == repr(torch.tensor(values).T[1:])
    for x in (tinyflow.tensor(1.23456), torch.tensor(1.23456)):
        assert f"{x:.2f}" == "1.23"
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{tinyflow.ones(2):.2f}"
