"""Splitting and unbinding: one joint gradient, whose cost grows with the tensor and not with the number of parts."""

from __future__ import annotations

import pytest

import tinyflow
from tinyflow.autograd import forward_ad, grad, gradgradcheck
from tinyflow.kernels import launch


def _backward_bytes(rows: int) -> int:
    x = tinyflow.ones(rows, 8, requires_grad=True)
    total = sum(row.sum() for row in x)
    with launch.count() as records:
        total.backward()
    assert x.grad.tolist() == [[1.0] * 8] * rows
    return sum(r.cost.bytes for r in records)


def test_iteration_costs_as_much_as_there_is_to_write() -> None:
    assert _backward_bytes(48) < 5 * _backward_bytes(12)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (lambda x: x.unbind(1), "UnbindBackward0"),
        (lambda x: x.split(2, 1), "SplitBackward0"),
        (lambda x: x.split([1, 0, 2], 1), "SplitWithSizesBackward0"),
        (lambda x: x.chunk(2), "SplitBackward0"),
        (lambda x: list(x), "UnbindBackward0"),
    ],
)
def test_parts_share_one_node(parts, name) -> None:
    x = tinyflow.rand(2, 3, dtype=tinyflow.float64, requires_grad=True)
    made = parts(x)
    assert {p.grad_fn.name() for p in made} == {name}
    assert len({id(p.grad_fn) for p in made}) == 1
    assert [p.output_nr for p in made] == list(range(len(made)))
    assert gradgradcheck(lambda t: tuple(p * p for p in parts(t)), [x], fast_mode=True)


def test_parts_that_are_not_used_have_no_gradient() -> None:
    x = tinyflow.ones(4, 2, requires_grad=True)
    _, second, _, last = x
    (second.sum() + (last * last).sum()).backward()
    assert x.grad.tolist() == [[0, 0], [1, 1], [0, 0], [2, 2]]
    (g,) = grad(x.split(3)[1].sum(), x)
    assert g.tolist() == [[0, 0], [0, 0], [0, 0], [1, 1]]


def test_tangents_go_with_the_parts() -> None:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(tinyflow.ones(2, 3), tinyflow.arange(6.0).reshape(2, 3))
        for part, tangent in zip((*x, *x.split(2, 1)), ([0, 1, 2], [3, 4, 5], [[0, 1], [3, 4]], [[2], [5]])):
            assert forward_ad.unpack_dual(part * 2).tangent.tolist() == (2 * tinyflow.tensor(tangent)).tolist()
        with pytest.raises(NotImplementedError, match="unsqueeze_: forward mode does not follow in-place"):
            x.unsqueeze_(0)


def test_a_part_changed_in_place_changes_the_whole() -> None:
    x = tinyflow.ones(3, 2, requires_grad=True)
    y = x * 2
    first, second, _ = y
    second *= 5
    assert y.tolist() == [[2, 2], [10, 10], [2, 2]]
    (y.sum() + 3 * first.sum() + second.sum()).backward()
    assert x.grad.tolist() == [[8, 8], [20, 20], [2, 2]]


def test_gradients_lie_as_the_parts_do() -> None:
    x = tinyflow.ones(2, 4, 3, 3).contiguous(memory_format=tinyflow.channels_last).requires_grad_()
    a, b = x.chunk(2, 1)
    y = a * b
    (g,) = grad(y, x, tinyflow.ones_like(y))
    assert g.is_contiguous(memory_format=tinyflow.channels_last)
