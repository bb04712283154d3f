"""Joins, repeats, grids and sections: torch's values, gradients and errors, in every dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tinyflow
from tinyflow.autograd import gradcheck, gradgradcheck

#: What to call with the library and tensors of these shapes.
CALLS: dict[str, tuple[Any, ...]] = {
    "hstack": (lambda m, x, y: m.hstack([x, y]), (2, 3, 2), (2, 1, 2)),
    "hstack of vectors": (lambda m, x, y: m.hstack((x, y)), (), (3,)),
    "vstack": (lambda m, x, y: m.vstack([x, y]), (3,), (2, 3)),
    "row_stack": (lambda m, x, y: m.row_stack([x, y]), (3,), (3,)),
    "dstack": (lambda m, x, y: m.dstack([x, y]), (3,), (1, 3, 2)),
    "column_stack": (lambda m, x, y, z: m.column_stack([x, y, z]), (3,), (3, 2), (3,)),
    "concat": (lambda m, x, y: m.concat([x, y], 1), (2, 3), (2, 1)),
    "block_diag": (lambda m, x, y, z: m.block_diag(x, y, z), (2, 3), (), (2,)),
    "meshgrid ij": (lambda m, x, y: m.stack(m.meshgrid(x, y, indexing="ij")), (3,), ()),
    "meshgrid xy": (lambda m, x, y, z: m.stack(m.meshgrid([x, y, z], indexing="xy")), (3,), (2,), (4,)),
    "cartesian_prod": (lambda m, x, y, z: m.cartesian_prod(x, y, z), (2,), (3,), (1,)),
    "cartesian_prod of one": (lambda m, x: m.cartesian_prod(x), (3,)),
    "combinations": (lambda m, x: m.combinations(x, 3), (5,)),
    "combinations with replacement": (lambda m, x: m.combinations(x, 2, True), (4,)),
    "combinations, too few": (lambda m, x: m.combinations(x, 3), (2,)),
    "repeat": (lambda m, x: x.repeat(2, 1, 3), (3, 2)),
    "repeat once": (lambda m, x: x.repeat([1, 1]), (3,)),
    "repeat nothing": (lambda m, x: x.repeat(2, 0), (3,)),
    "tile": (lambda m, x: m.tile(x, (2,)), (2, 3)),
    "tile to more": (lambda m, x: x.tile(2, 1, 2), (3,)),
    "flip": (lambda m, x: m.flip(x, (0, -1)), (2, 3, 5)),
    "flip of nothing": (lambda m, x: x.flip(()), (2, 3)),
    "roll of a number": (lambda m, x: m.roll(x, 3), ()),
    "moveaxis": (lambda m, x: m.moveaxis(x, (0, 1), (-1, 0)), (2, 3, 5)),
    "swapdims": (lambda m, x: x.swapdims(0, 2), (2, 3, 5)),
    "atleast": (lambda m, x, y: m.cat(m.atleast_3d(x, y), 0) + m.atleast_2d(x) * m.atleast_1d(x), (), (1, 1)),
    "sections": (lambda m, x: sum(p.sum() * (k + 2) for k, p in enumerate(x.tensor_split(4, 1))), (2, 6)),
    "hsplit": (lambda m, x: x.hsplit(2)[1] * m.hsplit(x, (1, 3))[0], (2, 4)),
    "vsplit": (lambda m, x: m.vsplit(x, [1])[1], (3, 2)),
    "dsplit": (lambda m, x: m.dsplit(x, 3)[2], (1, 2, 3)),
    "split": (lambda m, x: m.cat([2 * p for p in x.split([2, 0, 3], 1)][::-1], 1), (2, 5)),
    "unfold twice": (lambda m, x: x.unfold(1, 3, 2).unfold(0, 2, 1), (3, 6)),
    "unfold of a number": (lambda m, x: x.unfold(0, 1, 1), ()),
}


def _leaves(shapes: Any, library: Any) -> list[Any]:
    draw = np.random.default_rng(3)
    made = [draw.standard_normal(s) for s in shapes]
    return [library.from_numpy(np.asarray(a)).requires_grad_() for a in made]


@pytest.mark.parametrize("name", CALLS)
def test_values_and_derivatives_are_those_of_torch(name: str) -> None:
    call, *shapes = CALLS[name]
    ours, theirs = _leaves(shapes, tinyflow), _leaves(shapes, torch)
    y, expected = call(tinyflow, *ours), call(torch, *theirs)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-15)
    assert y.shape == expected.shape
    weights = np.random.default_rng(4).standard_normal(tuple(y.shape))
    y.backward(tinyflow.tensor(weights))
    expected.backward(torch.tensor(weights))
    for x, reference in zip(ours, theirs):
        np.testing.assert_allclose(x.grad.numpy(), reference.grad.numpy(), rtol=1e-12)
    if y.numel():
        assert gradcheck(lambda *xs: call(tinyflow, *xs), ours, fast_mode=True)
        assert gradgradcheck(lambda *xs: call(tinyflow, *xs), ours, fast_mode=True)


#: Calls on a (3, 4) matrix of any dtype.
ANY_DTYPE: dict[str, Any] = {
    "flip": lambda m, x: x.flip(0),
    "roll": lambda m, x: x.roll((1, 2), (0, 1)),
    "repeat": lambda m, x: x.repeat(2, 2),
    "tril": lambda m, x: x.tril(1),
    "triu": lambda m, x: m.triu(x),
    "diag_embed": lambda m, x: m.diag_embed(x),
    "diagonal_scatter": lambda m, x: x.diagonal_scatter(x[:, 0]),
    "block_diag": lambda m, x: m.block_diag(x, x[0]),
    "constant": lambda m, x: m.nn.functional.pad(x, (1, -1, 0, 2), value=1),
    "repeat_interleave": lambda m, x: x.repeat_interleave(m.tensor([0, 2, 1]), 0),
    "unfold": lambda m, x: x.unfold(1, 2, 1),
    "trace": lambda m, x: m.trace(x) if x.dtype != m.bool else x,
    "hstack": lambda m, x: m.hstack([x, m.arange(3)[:, None]]),
}


@pytest.mark.parametrize("name", ANY_DTYPE)
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float16"])
def test_every_dtype(name: str, dtype: str) -> None:
    values = np.arange(12).reshape(3, 4) % 5
    y = ANY_DTYPE[name](tinyflow, tinyflow.tensor(values, dtype=getattr(tinyflow, dtype)))
    expected = ANY_DTYPE[name](torch, torch.tensor(values).to(getattr(torch, dtype)))
    assert y.dtype == expected.dtype and y.tolist() == expected.tolist()


def test_bordered_integers() -> None:
    x = tinyflow.arange(6).reshape(1, 2, 3)
    assert tinyflow.nn.functional.pad(x, (1, 1), mode="reflect").tolist() == [[[1, 0, 1, 2, 1], [4, 3, 4, 5, 4]]]
    wrapped = tinyflow.nn.functional.pad(x > 2, (0, 2), mode="circular")
    assert wrapped.dtype == tinyflow.bool and wrapped[0, 1].tolist() == [True] * 5


@pytest.mark.parametrize("rows", [0, 1, 3, 5])
@pytest.mark.parametrize("columns", [0, 1, 4])
def test_indices_of_triangles(rows: int, columns: int) -> None:
    for offset in range(-6, 6):
        for name in ("tril_indices", "triu_indices"):
            ours, theirs = (getattr(m, name)(rows, columns, offset) for m in (tinyflow, torch))
            assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist(), (name, offset)
    assert tinyflow.tril_indices(2, 2, dtype=tinyflow.int32).dtype == tinyflow.int32


def test_positions_repeated() -> None:
    counts = tinyflow.tensor([2, 0, 1, 0])
    assert tinyflow.repeat_interleave(counts).tolist() == [0, 0, 2]
    assert tinyflow.repeat_interleave(counts.int(), output_size=3).tolist() == [0, 0, 2]
    x = tinyflow.tensor([[1, 2], [3, 4]])
    assert x.repeat_interleave(tinyflow.tensor(2), dim=1).tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert x.repeat_interleave(tinyflow.tensor([1, 0, 2, 0])).tolist() == [1, 3, 3]


NAMED: list[Any] = [
    lambda m, x: m.flip(x, dims=(0, 1)),
    lambda m, x: m.tile(x, dims=(2,)),
    lambda m, x: x.repeat(repeats=(2, 1)),
    lambda m, x: m.permute(x, dims=(1, 0)),
    lambda m, x: x.expand(size=(2, -1, 3)),
    lambda m, x: x.view(size=(3, 2)) + m.reshape(x, shape=(3, -1)),
    lambda m, x: x.view(dtype=m.int32),
    lambda m, x: m.topk(x, m.tensor(1))[0],
    lambda m, x: m.index_put(input=x, indices=(m.tensor([1]),), values=m.tensor(7.0)),
]


@pytest.mark.parametrize("call", NAMED)
def test_arguments_are_named_as_in_torch(call: Any) -> None:
    ours, theirs = (call(m, m.arange(6.0).reshape(2, 3)) for m in (tinyflow, torch))
    assert ours.tolist() == theirs.tolist()


def test_nothing_is_shared_out_and_joined() -> None:
    for m in (tinyflow, torch):
        assert [tuple(part.shape) for part in m.zeros(0, 2).chunk(3)] == [(0, 2)] * 3
        assert m.cat([m.zeros(0, dtype=m.float64), m.ones(1, 2)], 1).dtype == m.float64


def test_shapes_that_broadcast() -> None:
    for shapes in (((2, 1), (3,)), (4, (3, 1)), ((),), ((0,), (1,))):
        assert tinyflow.broadcast_shapes(*shapes) == torch.broadcast_shapes(*shapes)


def test_what_can_be_a_view_is_one() -> None:
    x = tinyflow.zeros(4, 6)
    row = tinyflow.zeros(3)
    for view in (x.unfold(1, 3, 1), x.tensor_split(3, 1)[0], x.swapdims(0, 1), tinyflow.atleast_3d(x), x.hsplit(2)[0]):
        assert view.data_ptr() == x.data_ptr()
    assert tinyflow.meshgrid(row, row)[0].data_ptr() == row.data_ptr()
    for copy in (x.repeat(1, 1), x.repeat_interleave(1, 0), x.rot90(0), x.roll(0, 0), x.flip(()), tinyflow.diag(x)):
        assert copy.data_ptr() != x.data_ptr()


def test_triangles_in_place() -> None:
    x = tinyflow.ones(3, 3, requires_grad=True)
    y = x * 2
    y.T.tril_(-1)  # the upper triangle of y
    y.sum().backward()
    assert y.tolist() == [[0, 2, 2], [0, 0, 2], [0, 0, 0]]
    assert x.grad.tolist() == [[0, 2, 2], [0, 0, 2], [0, 0, 0]]


@pytest.mark.parametrize(("shape", "wrap"), [((3, 4), False), ((7, 2), False), ((7, 2), True), ((3, 3, 3), False)])
def test_a_diagonal_filled(shape: tuple[int, ...], wrap: bool) -> None:
    ours, theirs = (m.zeros(*shape).fill_diagonal_(5, wrap=wrap) for m in (tinyflow, torch))
    assert ours.tolist() == theirs.tolist()


#: What to call with the library, and a part of our message.
REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda m: m.zeros(2, 3).flip(0, 0), RuntimeError, "appears multiple times"),
    (lambda m: m.zeros(2, 3).flip(2), IndexError, "Dimension out of range"),
    (lambda m: m.fliplr(m.zeros(2)), RuntimeError, "must be >= 2-d"),
    (lambda m: m.flipud(m.zeros(())), RuntimeError, "must be >= 1-d"),
    (lambda m: m.zeros(2, 3).roll((1, 2), 0), RuntimeError, "shifts and dimensions must align"),
    (lambda m: m.zeros(2, 3).roll((1, 2)), RuntimeError, "shifts and dimensions must align"),
    (lambda m: m.zeros(2, 3).roll(()), RuntimeError, "`shifts` required"),
    (lambda m: m.zeros(2, 3).rot90(1, (0,)), RuntimeError, "total rotation dims == 2"),
    (lambda m: m.zeros(2, 3).rot90(1, (0, -2)), RuntimeError, "rotation dims to be different"),
    (lambda m: m.zeros(2).rot90(), RuntimeError, "total dims >= 2"),
    (lambda m: m.zeros(2, 3).repeat(2), RuntimeError, "can not be smaller than number of dimensions"),
    (lambda m: m.zeros(2).repeat(-1), RuntimeError, "negative"),
    (lambda m: m.zeros(2).repeat_interleave(-1), RuntimeError, "non-negative"),
    (lambda m: m.zeros(3).repeat_interleave(m.tensor([1, 2]), 0), RuntimeError, "same size as input along dim"),
    (lambda m: m.repeat_interleave(m.tensor([1, -2])), RuntimeError, "can not be negative"),
    (lambda m: m.repeat_interleave(m.tensor([1.0])), RuntimeError, "has to be Long or Int"),
    (lambda m: m.zeros(3).repeat_interleave(2, 0, output_size=5), RuntimeError, "expected 6 but got 5"),
    (lambda m: m.zeros(()).tensor_split(2), RuntimeError, "at least a 1-dimensional"),
    (lambda m: m.zeros(3).tensor_split(0), RuntimeError, "larger than 0, got 0"),
    (lambda m: m.zeros(5).hsplit(2), RuntimeError, "not divisible by the split_size 2"),
    (lambda m: m.zeros(5).vsplit(1), RuntimeError, "at least 2 dimension"),
    (lambda m: m.zeros(5).split([6, -1]), RuntimeError, "split_sizes"),
    (lambda m: m.zeros(5).unfold(0, 6, 1), RuntimeError, "maximum size for tensor at dimension 0 is 5 but size is 6"),
    (lambda m: m.zeros(5).unfold(0, 2, 0), RuntimeError, "step is 0 but must be > 0"),
    (lambda m: m.nn.functional.pad(m.zeros(2, dtype=m.int8), (1, 1), value=128), RuntimeError, "without overflow"),
    (lambda m: m.zeros(2, 3).flip(0, dims=(1,)), TypeError, "multiple values for argument 'dims'"),
    (lambda m: m.zeros(2, 3).view(6, dtype=m.int32), TypeError, "expected a shape or a dtype, got both"),
    (lambda m: m.tril(m.zeros(2, 3), 1.5), TypeError, "'float' object cannot be interpreted as an integer"),
    (lambda m: m.zeros(()).split(1), RuntimeError, "split expects at least a 1-dimensional tensor"),
    (lambda m: m.zeros(()).chunk(1), RuntimeError, "chunk expects at least a 1-dimensional tensor"),
    (lambda m: m.zeros(1, 2).squeeze((0, -2)), RuntimeError, "dim 0 appears multiple times"),
    (lambda m: m.zeros(()).unbind(), IndexError, "has no dimensions"),
    (lambda m: m.broadcast_shapes((2,), (3,)), RuntimeError, "do not broadcast"),
    (lambda m: m.hstack([]), RuntimeError, "non-empty TensorList"),
    (lambda m: m.meshgrid(m.zeros(2, 2), indexing="ij"), RuntimeError, "Expected 0D or 1D tensor"),
    (lambda m: m.meshgrid(m.zeros(2), m.arange(2), indexing="ij"), RuntimeError, "same dtype"),
    (lambda m: m.meshgrid(m.zeros(2), indexing="yx"), RuntimeError, 'must be one of "xy" or "ij"'),
    (lambda m: m.cartesian_prod(m.zeros(2, 2)), RuntimeError, "Expect a 1D vector"),
    (lambda m: m.combinations(m.zeros(2), -1), RuntimeError, "non-negative number"),
    (lambda m: m.block_diag(m.zeros(1, 1, 1)), RuntimeError, "2 or fewer dimensions"),
    (lambda m: m.zeros(2).tril(), RuntimeError, "at least 2 dimensions"),
    (lambda m: m.tril_indices(-1, 2), RuntimeError, "row must be non-negative, got -1"),
    (lambda m: m.diag(m.zeros(1, 1, 1)), RuntimeError, "Supports 1D or 2D tensors"),
    (lambda m: m.diag_embed(m.zeros(2), 0, 1, -1), RuntimeError, "cannot be identical"),
    (lambda m: m.trace(m.zeros(2)), RuntimeError, "expected a matrix"),
    (lambda m: m.diagonal_scatter(m.zeros(2, 3), m.zeros(3)), RuntimeError, "size equal to the slice of self"),
    (lambda m: m.select_scatter(m.zeros(2, 3), m.zeros(3), 0, 2), IndexError, "index 2 out of range"),
    (lambda m: m.slice_scatter(m.zeros(4), m.zeros(4), step=0), RuntimeError, "step must be positive"),
    (lambda m: m.zeros(3).fill_diagonal_(1), RuntimeError, "dimensions must larger than 1"),
    (lambda m: m.zeros(2, 3, 2).fill_diagonal_(1), RuntimeError, "equal length"),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_refused_as_torch_refuses(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(tinyflow)
    with pytest.raises((error, ValueError, IndexError)):
        call(torch)
