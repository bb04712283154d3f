"""Indexing as users write it: reading, writing, gathering and scattering, with first and second derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tinyflow
from tests.device import on_device
from tinyflow.autograd import gradcheck, gradgradcheck

ROWS = np.array([2, 0, 2, -1])
COLUMNS = np.array([[0], [3]])
MASK = np.arange(12).reshape(3, 4) % 5 == 0

#: Keys of a (3, 4, 2) tensor, as arrays; each library gets its own tensors.
KEYS = {
    "rows": (ROWS,),
    "columns": (slice(None), ROWS),
    "grid": (ROWS, COLUMNS),
    "apart": (ROWS, slice(None), np.array([0, 1, 1, 0])),
    "after a slice": (slice(1, None), np.array([[1, 1], [0, 3]])),
    "after a new dimension": (None, ROWS, Ellipsis, 1),
    "mask": (MASK,),
    "mask after a slice": (slice(None), np.array([True, False, True, True])),
    "list": ([0, 2],),
}


def _key(name: str, library):
    convert = tinyflow.from_numpy if library is tinyflow else torch.from_numpy
    return tuple(convert(k.copy()) if isinstance(k, np.ndarray) else k for k in KEYS[name])


def _pair(*shape: int):
    x = np.random.standard_normal(shape)
    return tinyflow.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(x.copy()).requires_grad_()


def _same(ours, theirs) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", KEYS)
def test_reading(name: str) -> None:
    x, reference = _pair(3, 4, 2)
    y, expected = x[_key(name, tinyflow)], reference[_key(name, torch)]
    _same(y, expected)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    _same(x.grad, reference.grad)
    assert gradcheck(lambda t: t[_key(name, tinyflow)], [x], fast_mode=True)
    assert gradgradcheck(lambda t: t[_key(name, tinyflow)], [x], fast_mode=True)


@pytest.mark.parametrize("name", KEYS)
def test_writing(name: str) -> None:
    (x, reference), (v, values) = _pair(3, 4, 2), _pair(2)
    if name in ("apart", "after a new dimension"):
        (v, values) = _pair(1)
    y, expected = x * 1, reference * 1
    y[_key(name, tinyflow)] = v
    expected[_key(name, torch)] = values
    _same(y, expected)
    (y * y * y).sum().backward()
    (expected * expected * expected).sum().backward()
    _same(x.grad, reference.grad)
    _same(v.grad, values.grad)


@pytest.mark.parametrize("accumulate", [False, True])
def test_index_put(accumulate: bool) -> None:
    (x, reference), (v, values) = _pair(3, 4), _pair(3, 4)
    index = np.array([2, 0, 2]) if accumulate else np.array([2, 0, 1])
    ours, theirs = tinyflow.from_numpy(index), torch.from_numpy(index)
    _same(x.index_put([ours], v, accumulate), reference.index_put((theirs,), values, accumulate))
    assert gradcheck(lambda a, b: a.index_put([ours], b, accumulate), [x, v], fast_mode=True)
    assert gradgradcheck(lambda a, b: a.index_put([ours], b, accumulate), [x, v], fast_mode=True)
    y = x * 1
    y.index_put_([ours], v, accumulate)
    _same(y, reference.index_put((theirs,), values, accumulate))


def test_writing_a_saved_tensor_is_an_error() -> None:
    x, _ = _pair(3, 4)
    y = x * 2
    z = y * y
    y[tinyflow.tensor([0, 1])] = 0.0
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|in-place"):
        z.sum().backward()


def test_writing_casts() -> None:
    x = tinyflow.zeros(4, dtype=tinyflow.int64)
    x[tinyflow.tensor([1, 2])] = 2.7
    x[x == 0] = tinyflow.tensor(5)
    assert x.tolist() == [5, 2, 2, 5]


def _differentiates(function, *inputs) -> None:
    assert gradcheck(function, list(inputs), fast_mode=True)
    assert gradgradcheck(function, list(inputs), fast_mode=True)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gather_and_scatter(dim: int) -> None:
    (x, reference), (v, values) = _pair(3, 4), _pair(2, 4)
    index = np.random.randint(0, x.shape[dim], (2, 4))
    ours, theirs = tinyflow.from_numpy(index), torch.from_numpy(index)
    _same(x.gather(dim, ours), reference.gather(dim, theirs))
    _same(x.scatter_add(dim, ours, v), reference.scatter_add(dim, theirs, values))
    _differentiates(lambda a: a.gather(dim, ours), x)
    _differentiates(lambda a, b: a.scatter_add(dim, ours, b), x, v)
    y = x * 1
    y.scatter_add_(dim, ours, v)
    _same(y, reference.scatter_add(dim, theirs, values))


def test_scatter() -> None:
    (x, reference), (v, values) = _pair(3, 4), _pair(2, 4)
    index = np.array([[0, 2, 1, 0], [2, 1, 0, 1]])
    ours, theirs = tinyflow.from_numpy(index), torch.from_numpy(index)
    _same(x.scatter(0, ours, v), reference.scatter(0, theirs, values))
    _same(x.scatter(0, ours, 2.5), reference.scatter(0, theirs, 2.5))
    _differentiates(lambda a, b: a.scatter(0, ours, b), x, v)


def test_index_select_and_add() -> None:
    (x, reference), (v, values) = _pair(3, 4), _pair(3, 3)
    ours, theirs = tinyflow.tensor([3, 0, 3]), torch.tensor([3, 0, 3])
    _same(x.index_select(1, ours), reference.index_select(1, theirs))
    _same(x.index_add(1, ours, v), reference.index_add(1, theirs, values))
    _differentiates(lambda a: a.index_select(1, ours), x)
    _differentiates(lambda a, b: a.index_add(1, ours, b), x, v)


def test_nonzero_as_tuple() -> None:
    rows, columns = tinyflow.nonzero(tinyflow.from_numpy(MASK), as_tuple=True)
    assert rows.tolist() == np.nonzero(MASK)[0].tolist()
    assert columns.tolist() == np.nonzero(MASK)[1].tolist()


def test_masked_fill_in_place() -> None:
    x = tinyflow.ones(3, 4)
    x.masked_fill_(tinyflow.from_numpy(MASK), tinyflow.tensor(3.0))
    np.testing.assert_array_equal(x.numpy(), np.where(MASK, 3.0, 1.0))


@pytest.mark.parametrize(
    ("dtype", "value"), [("int64", 2.5), ("int32", -2.5), ("uint8", -1), ("bool", -0.5), ("bool", float("inf"))]
)
def test_numbers_fill_integers_without_their_fraction(dtype: str, value: float) -> None:
    place = torch.tensor([1, -1])
    for call in (
        lambda x, i: x.masked_fill(x == 0, value),
        lambda x, i: x.index_fill(0, i, value),
        lambda x, i: x.clone().masked_fill_(x == 0, value),
    ):
        expected = call(torch.zeros(3, dtype=getattr(torch, dtype)), place)
        found = call(tinyflow.zeros(3, dtype=getattr(tinyflow, dtype)), on_device(place))
        assert found.dtype == expected.dtype and found.tolist() == expected.tolist()


@pytest.mark.parametrize("m", [tinyflow, torch])
def test_a_row_shown_several_times_is_not_written(m: Any) -> None:
    x, index = m.zeros(1, 2).expand(3, 2), m.tensor([1])
    with pytest.raises(RuntimeError, match="refers to a single memory location"):
        x.index_add_(0, index, m.ones(1, 2))
    with pytest.raises(RuntimeError, match="refers to a single memory location"):
        x.scatter_(0, index.reshape(1, 1), 2.0)


def test_integers_add_a_whole_multiple() -> None:
    def call(m: Any) -> Any:
        return m.zeros(3, dtype=m.int64).index_add(0, m.tensor([1, 1]), m.tensor([3, 4]), alpha=1.5)

    assert call(tinyflow).tolist() == call(torch).tolist() == [0, 7, 0]


def test_a_number_has_a_position_too() -> None:
    for value, expected in ((2.0, [[0]]), (0.0, [[]])):
        x = tinyflow.tensor(value)
        assert [p.tolist() for p in x.nonzero(as_tuple=True)] == expected
        assert [p.tolist() for p in tinyflow.where(x)] == expected


def test_errors() -> None:
    x = tinyflow.zeros(3, 4)
    with pytest.raises(IndexError, match="index 3 is out of bounds for dimension 0 with size 3"):
        x[tinyflow.tensor([3])]
    with pytest.raises(RuntimeError, match=r"masked_fill: expected a bool mask, got torch.int64"):
        x.masked_fill(tinyflow.zeros(3, 4, dtype=tinyflow.int64), 1.0)
    with pytest.raises(RuntimeError, match=r"value 300.5 cannot be converted to torch.int8 without overflow"):
        x.to(tinyflow.int8).masked_fill(tinyflow.from_numpy(MASK), 300.5)
    with pytest.raises(RuntimeError, match=r"value nan cannot be converted to torch.int64 without overflow"):
        x.long().masked_fill(tinyflow.from_numpy(MASK), float("nan"))
    with pytest.raises(RuntimeError, match=r"value 128 cannot be converted to torch.int8"):
        x.to(tinyflow.int8).index_fill(0, tinyflow.tensor([0]), 128)
    with pytest.raises(RuntimeError, match="only supports a 0-dimensional value tensor"):
        x.masked_fill(tinyflow.from_numpy(MASK), tinyflow.ones(4))
