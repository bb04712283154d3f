"""Shapes changed in place: torch's results, one memory, gradients through what came before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tinyflow

CHANGES: dict[str, Any] = {
    "squeeze_": lambda x: x.squeeze_(),
    "squeeze_ of one": lambda x: x.squeeze_(1),
    "unsqueeze_": lambda x: x.unsqueeze_(-1),
    "transpose_": lambda x: x.transpose_(0, 2),
    "swapaxes_": lambda x: x.swapaxes_(0, 1),
    "swapdims_": lambda x: x.swapdims_(-1, 0),
    "t_": lambda x: x.squeeze_(1).t_(),
    "as_strided_": lambda x: x.as_strided_((3, 2), (1, 3)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_tensor_itself_changes(name: str) -> None:
    results = []
    for m in (tinyflow, torch):
        leaf = m.tensor(np.arange(6.0).reshape(2, 1, 3), requires_grad=True)
        x = leaf * 3
        before, place = x * 2, x.data_ptr()
        assert CHANGES[name](x) is x and x.data_ptr() == place
        x.mul_(2)
        after = x * m.arange(6.0, dtype=m.float64).reshape(tuple(x.shape))
        (before.sum() + after.sum()).backward()
        results.append((tuple(x.shape), x.stride(), x.tolist(), leaf.grad.tolist()))
    assert results[0] == results[1]


def test_other_views_stay_views() -> None:
    for m in (tinyflow, torch):
        leaf = m.ones(2, 1, 3, requires_grad=True)
        x = leaf * 1
        row = x[1]
        x.transpose_(0, 2)
        later = x[0]
        row.mul_(2)
        later.mul_(5)
        assert x.tolist() == [[[5, 10]], [[1, 2]], [[1, 2]]]
        assert row.tolist() == [[10, 2, 2]] and later.tolist() == [[5, 10]]
        (x.sum() + row.sum()).backward()
        assert leaf.grad.tolist() == [[[5, 1, 1]], [[20, 4, 4]]]


def test_what_was_saved_with_another_shape_is_not_used() -> None:
    x = tinyflow.ones(2, 1, requires_grad=True) * 1
    y = x * x
    x.squeeze_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_leaf_is_refused_where_gradients_are_recorded() -> None:
    for m in (tinyflow, torch):
        x = m.ones(1, 2, requires_grad=True)
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            x.squeeze_()
        with m.no_grad():
            x.squeeze_()
        (x * 3).sum().backward()
        assert x.is_leaf and x.grad.tolist() == [3, 3]


def test_a_leaf_that_a_graph_knows_gets_gradients_of_its_new_shape() -> None:
    x = tinyflow.ones(1, 2, requires_grad=True)
    kept = x * 2
    with tinyflow.no_grad():
        x.squeeze_()
    (x * 3).sum().backward()
    assert kept.shape == (1, 2) and x.grad.tolist() == [3, 3]


def test_a_view_changes_alone() -> None:
    x = tinyflow.zeros(2, 3)
    row = x[1]
    row.unsqueeze_(1)
    row += 1
    assert row.shape == (3, 1) and x.tolist() == [[0, 0, 0], [1, 1, 1]]
