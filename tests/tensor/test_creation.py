"""New tensors: torch's dtypes, values and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tinyflow

DATA: dict[str, Any] = {
    "int": 3,
    "float": 2.5,
    "bool": True,
    "ints": [1, 2, 3],
    "floats": [1.0, 2.5],
    "mixed": [1, 2.5],
    "bool and int": [True, 2],
    "bool and float": [True, 2.5],
    "nested": [[1, 2], [3, 4]],
    "tuple": ((1.0,), (2.0,)),
    "empty": [],
    "nested empty": [[], []],
    "large int": 2**62,
    "numpy float64": np.array([1.0, 2.0]),
    "numpy int32": np.array([[1], [2]], dtype=np.int32),
    "numpy bool": np.array(True),
    "numpy scalar": np.float64(1.5),
    "numpy negative strides": np.arange(6.0)[::-2],
    "numpy fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "range": range(4),
}


def same(ours: Any, theirs: Any) -> None:
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.requires_grad == theirs.requires_grad
    np.testing.assert_array_equal(np.array(ours.tolist()), np.array(theirs.tolist()))


@pytest.mark.parametrize("name", DATA)
def test_tensor_infers(name: str) -> None:
    data = DATA[name].copy() if isinstance(DATA[name], np.ndarray) else DATA[name]
    same(tinyflow.tensor(DATA[name]), torch.tensor(data))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool], ids=str
)
def test_tensor_with_dtype(dtype: torch.dtype) -> None:
    for data in ([0.1, 2.7, -3.9], [[1, 0], [5, 100]], 1e15 if dtype in (torch.int64, torch.float64) else 3.0):
        same(tinyflow.tensor(data, dtype=dtype), torch.tensor(data, dtype=dtype))


def test_tensor_copies_and_nests() -> None:
    array = np.ones(3)
    x = tinyflow.tensor(array)
    array[0] = 5
    assert x.tolist() == [1.0, 1.0, 1.0]
    assert tinyflow.tensor([tinyflow.tensor(1.0), tinyflow.tensor(2.0)]).tolist() == [1.0, 2.0]
    y = tinyflow.tensor(x, requires_grad=True)
    assert y.is_leaf and y.requires_grad and y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: tinyflow.tensor([[1, 2], [3]]), ValueError, "equal length"),
        (lambda: tinyflow.tensor("abc"), TypeError, "could not make numbers"),
        (lambda: tinyflow.tensor([None]), TypeError, "could not make numbers"),
        (lambda: tinyflow.tensor(1j), TypeError, "could not make numbers"),
        (lambda: tinyflow.tensor(2**63), RuntimeError, "does not fit int64"),
        (lambda: tinyflow.tensor(np.ones(2, np.uint16)), TypeError, "not supported"),
        (lambda: tinyflow.tensor(torch.ones(2)), TypeError, "from_torch"),
        (lambda: tinyflow.zeros(2, -1), RuntimeError, "must not be negative"),
        (lambda: tinyflow.zeros(2.5), TypeError, "expected integers"),
        (lambda: tinyflow.ones(2, dtype=tinyflow.int64, requires_grad=True), RuntimeError, "floating point"),
        (lambda: tinyflow.arange(3, 0), RuntimeError, "inconsistent with step sign"),
        (lambda: tinyflow.arange(0, 3, 0), RuntimeError, "step must be nonzero"),
        (lambda: tinyflow.arange(0, 3, 0.5, dtype=tinyflow.int64), RuntimeError, "step must be nonzero"),
        (lambda: tinyflow.arange(float("inf")), RuntimeError, "unsupported range"),
        (lambda: tinyflow.linspace(0, 1, -1), RuntimeError, "non-negative"),
        (lambda: tinyflow.empty(2, dtype=torch.complex64), TypeError, "not supported"),
        (lambda: tinyflow.from_numpy([1]), TypeError, "expected np.ndarray"),
        (lambda: tinyflow.from_torch(np.ones(1)), TypeError, "expected a torch.Tensor"),
        (lambda: tinyflow.from_torch(torch.eye(2).to_sparse()), TypeError, "expected a dense tensor"),
    ],
)
def test_refused(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("size", [(), (3,), (2, 0), (2, 3, 1)])
def test_filled(size: tuple[int, ...]) -> None:
    for name in ("zeros", "ones"):
        same(getattr(tinyflow, name)(size), getattr(torch, name)(size))
        same(getattr(tinyflow, name)(*size, 2, dtype=torch.int8), getattr(torch, name)(*size, 2, dtype=torch.int8))
    for value in (1, 2.5, True, -7):
        same(tinyflow.full(size, value), torch.full(size, value))
    same(tinyflow.full(size, 1.9, dtype=torch.int32), torch.full(size, 1.9, dtype=torch.int32))
    same(tinyflow.full(size, 2, dtype=torch.bool), torch.full(size, 2, dtype=torch.bool))
    assert tinyflow.empty(size).shape == size and tinyflow.empty(size, dtype=torch.float16).dtype == torch.float16


def test_like() -> None:
    for m in (tinyflow, torch):
        x = m.zeros(2, 3, dtype=m.float64).T
        assert m.ones_like(x).stride() == (1, 3) and m.ones_like(x).dtype == m.float64
        assert m.full_like(x, 3, dtype=m.int64).tolist() == [[3, 3]] * 3
        assert m.zeros_like(x, requires_grad=True).requires_grad and m.empty_like(x).shape == (3, 2)
        assert (
            x.new_zeros(2).dtype == m.float64
            and x.new_ones((1, 2)).shape == (1, 2)
            and x.new_full((2,), 5).tolist() == [5.0, 5.0]
        )
        assert x.new_tensor([1, 2]).dtype == m.float64 if m is tinyflow else True


ARANGE: list[tuple[Any, ...]] = [
    (5,),
    (0,),
    (5.0,),
    (1, 5),
    (5, 1, -1),
    (0, 10, 3),
    (1, 2, 0.25),
    (0, 1, 0.1),
    (-1.5, 2),
    (3, -3, -2),
    (2, 2),
    (0, 7, 7),
    (1, 8, 3.5),
]


@pytest.mark.parametrize("bounds", ARANGE, ids=str)
def test_arange(bounds: tuple[Any, ...]) -> None:
    same_sequence(tinyflow.arange(*bounds), torch.arange(*bounds))
    for dtype in (torch.float64, torch.int32):
        if dtype == torch.float64 or all(float(b).is_integer() for b in bounds):
            same_sequence(tinyflow.arange(*bounds, dtype=dtype), torch.arange(*bounds, dtype=dtype))


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.float16, torch.int64], ids=str)
@pytest.mark.parametrize(
    "bounds", [(0, 1, 5), (-5, 5, 4), (0, 10, 5), (3, 3, 2), (1, 0, 3), (0, 1, 1), (0, 1, 0), (-1.5, 9, 100)], ids=str
)
def test_linspace(bounds: tuple[Any, ...], dtype: torch.dtype | None) -> None:
    ours, theirs = tinyflow.linspace(*bounds, dtype=dtype), torch.linspace(*bounds, dtype=dtype)
    if dtype == torch.float16:  # torch rounds the step to half first
        assert ours.dtype == dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(np.array(ours.tolist()), np.linspace(*bounds), rtol=1e-3, atol=1e-3)
    else:
        same_sequence(ours, theirs)
        assert theirs.numel() < 2 or ours.tolist()[-1] == theirs.tolist()[-1], "the end itself"


def same_sequence(ours: Any, theirs: Any) -> None:
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    eps = torch.finfo(theirs.dtype).eps if theirs.dtype.is_floating_point else 0
    np.testing.assert_allclose(np.array(ours.tolist()), np.array(theirs.tolist()), rtol=2 * eps, atol=2 * eps)


@pytest.mark.parametrize("size", [(3,), (2, 4), (4, 2), (0,), (3, 0)])
def test_eye(size: tuple[int, ...]) -> None:
    same(tinyflow.eye(*size), torch.eye(*size))
    same(tinyflow.eye(*size, dtype=torch.int64), torch.eye(*size, dtype=torch.int64))


def test_default_dtype() -> None:
    for m in (tinyflow, torch):
        before = m.get_default_dtype()
        try:
            m.set_default_dtype(m.float64)
            assert m.tensor(0.1).dtype == m.float64 and m.tensor(0.1).item() == 0.1
            assert m.zeros(1).dtype == m.arange(1.0).dtype == (m.ones(1, dtype=m.int64) / 2).dtype == m.float64
            assert m.ones(1, dtype=m.int64).add(0.5).dtype == m.float64
        finally:
            m.set_default_dtype(before)
        with pytest.raises(TypeError, match="floating"):
            m.set_default_dtype(m.int64)
