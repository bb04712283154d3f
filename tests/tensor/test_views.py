"""Views of views: torch's shapes, strides, values and gradients, and one memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tinyflow

SHAPES = [(2, 3, 4), (4, 1, 3), (1, 6), (5,), (0, 3), (2, 2, 2, 2)]


def pair(shape: tuple[int, ...]) -> tuple[Any, Any]:
    values = np.random.default_rng(0).standard_normal(shape)
    return tinyflow.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)


@st.composite
def steps(draw: Any) -> tuple[tuple[int, ...], list[tuple[str, Any]]]:
    """A shape and up to five views that fit one after another."""
    shape = draw(st.sampled_from(SHAPES))
    x = torch.zeros(shape)
    chain: list[tuple[str, Any]] = []
    for _ in range(draw(st.integers(1, 5))):
        kinds = ["unsqueeze", "index", "squeeze"] + (
            ["permute", "transpose", "narrow", "flatten", "movedim"] if x.dim() else []
        )
        kinds += (
            ["diagonal"] * (x.dim() >= 2)
            + ["expand"] * (x.dim() < 5)
            + ["unflatten"] * (x.dim() > 0)
            + ["select"] * (x.dim() > 0 and x.numel() > 0)
        )
        kind = draw(st.sampled_from(kinds))
        dim = draw(st.integers(0, max(x.dim() - 1, 0)))
        other = draw(st.integers(0, max(x.dim() - 1, 0)))
        arguments: Any = ()
        if kind == "unsqueeze":
            arguments = (draw(st.integers(-x.dim() - 1, x.dim())),)
        elif kind == "index":
            entries = [
                draw(st.sampled_from([slice(None), slice(1, None), slice(None, -1), slice(None, None, 2), slice(5, 2)]))
                for _ in x.shape
            ]
            entries = entries[: draw(st.integers(0, x.dim()))]
            arguments = ((*entries, draw(st.sampled_from([None, ...]))),)
        elif kind == "permute":
            arguments = tuple(draw(st.permutations(range(x.dim()))))
        elif kind in ("transpose", "movedim"):
            arguments = (dim - x.dim(), other)
        elif kind == "narrow":
            start = draw(st.integers(0, x.shape[dim]))
            arguments = (dim, start, draw(st.integers(0, x.shape[dim] - start)))
        elif kind == "flatten":
            arguments = (min(dim, other), max(dim, other))
        elif kind == "diagonal" and dim != other:
            arguments = (draw(st.integers(-2, 2)), dim, other)
        elif kind == "expand":
            arguments = (2, *[n if n != 1 else 3 for n in x.shape])
        elif kind == "unflatten":
            arguments = (dim, (1, x.shape[dim]))
        elif kind == "select":
            arguments = (dim, draw(st.integers(-x.shape[dim], x.shape[dim] - 1))) if x.shape[dim] else (0, 0)
        try:
            x = apply(x, kind, arguments)
        except (IndexError, RuntimeError):
            continue
        chain.append((kind, arguments))
    return shape, chain


def apply(x: Any, kind: str, arguments: Any) -> Any:
    return x[arguments[0]] if kind == "index" else getattr(x, kind)(*arguments)


@given(steps())
def test_any_chain_of_views(case: tuple[tuple[int, ...], list[tuple[str, Any]]]) -> None:
    shape, chain = case
    ours, theirs = pair(shape)
    x, y = ours, theirs
    for kind, arguments in chain:
        x, y = apply(x, kind, arguments), apply(y, kind, arguments)
        assert x.shape == y.shape
        if y.numel() > 1 and kind != "flatten":
            kept = [k for k, n in enumerate(y.shape) if n > 1]
            assert [x.stride(k) for k in kept] == [y.stride(k) for k in kept]
            assert x.storage_offset() == y.storage_offset()
        assert x.is_contiguous() == y.is_contiguous()
    np.testing.assert_array_equal(x.detach().numpy(), y.detach().numpy())
    weights = np.random.default_rng(1).standard_normal(tuple(y.shape))
    x.backward(tinyflow.tensor(weights))
    y.backward(torch.tensor(weights))
    if y.numel():
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-12)


@given(data=st.data(), shape=st.sampled_from([(2, 3, 4), (6, 4), (24,), (1, 24, 1), (0, 3)]))
def test_reshape_is_a_view_where_torchs_is(data: Any, shape: tuple[int, ...]) -> None:
    values = torch.arange(float(np.prod(shape))).reshape(shape)
    values = values.permute(*data.draw(st.permutations(range(len(shape)))))
    targets = (
        [(24,), (4, 6), (2, 2, 6), (3, 8), (1, 24), (2, 3, 2, 2), (-1, 4), (12, -1)]
        if 0 not in shape
        else [(0,), (3, 0), (0, 5)]
    )
    target = data.draw(st.sampled_from(targets))
    ours = tinyflow.from_torch(values)
    got, expected = ours.reshape(target), values.reshape(target)
    assert got.tolist() == expected.tolist() and got.shape == expected.shape
    assert (got.data_ptr() == ours.data_ptr()) == (expected.data_ptr() == values.data_ptr())
    try:
        values.view(target)
    except RuntimeError:
        with pytest.raises(RuntimeError, match="is not compatible with a tensor of shape"):
            ours.view(target)
    else:
        assert ours.view(target).tolist() == expected.tolist()


def test_views_share_memory_and_copies_do_not() -> None:
    x = tinyflow.zeros(2, 3)
    for view in (
        x.T,
        x[0],
        x.view(6),
        x.expand(4, 2, 3),
        x.unsqueeze(0),
        x.detach(),
        x.diagonal(),
        x.as_strided((2,), (1,)),
    ):
        assert view.data_ptr() == x.data_ptr()
    for copy in (x.clone(), x.T.reshape(6), x.T.contiguous(), x.to(tinyflow.float64), tinyflow.tensor(x)):
        assert copy.data_ptr() != x.data_ptr()
    assert x.contiguous() is x and x.to(x.dtype) is x


@pytest.mark.parametrize(
    "case",
    [
        lambda x: x.expand(3, 2, 3, 4),
        lambda x: x.permute(2, 0, 1),
        lambda x: x[:, ::2],
        lambda x: x[:1].expand(5, 3, 4),
        lambda x: x[:, :, :1].expand(2, 3, 5),
        lambda x: x.transpose(1, 2)[..., :2],
    ],
    ids=["expand", "permute", "step", "expand first", "expand last", "part"],
)
def test_copies_lie_in_memory_as_torchs(case: Any) -> None:
    """Dense views keep their order of dimensions; what repeats has no say."""
    theirs = case(torch.randn(2, 3, 4))
    ours = tinyflow.from_torch(theirs)
    assert ours.clone().stride() == theirs.clone().stride()
    assert tinyflow.empty_like(ours).stride() == torch.empty_like(theirs).stride()
    assert (ours * 2).stride() == (theirs * 2).stride()
    dense = torch.empty_strided((2, 3, 4), (1, 8, 2))
    assert (tinyflow.from_torch(dense) + 1).stride() == (dense + 1).stride()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: x.view(5), RuntimeError),
        (lambda x: x.view(-1, -1), RuntimeError),
        (lambda x: x.permute(0, 0), RuntimeError),
        (lambda x: x.permute(0), RuntimeError),
        (lambda x: x.transpose(0, 2), IndexError),
        (lambda x: x.select(0, 5), IndexError),
        (lambda x: x.narrow(1, 2, 2), RuntimeError),
        (lambda x: x.expand(4, 3), RuntimeError),
        (lambda x: x.expand(3), RuntimeError),
        (lambda x: x.squeeze(3), IndexError),
        (lambda x: x.split([1, 3], 0), RuntimeError),
        (lambda x: x.chunk(0), RuntimeError),
        (lambda x: x.flatten(1, 0), RuntimeError),
        (lambda x: x.diagonal(0, 1, 1), RuntimeError),
        (lambda x: x.as_strided((4,), (3,)), RuntimeError),
        (lambda x: x.unflatten(1, (2, 2)), RuntimeError),
        (lambda x: x[2], IndexError),
        (lambda x: x[0, 0, 0], IndexError),
        (lambda x: x[::-1], ValueError),
        (lambda x: x["a"], (TypeError, IndexError)),
        (lambda x: x[0.5], (TypeError, IndexError)),
    ],
)
def test_refused_as_torch_refuses(call: Any, error: Any) -> None:
    for x in (tinyflow.zeros(2, 3), torch.zeros(2, 3)):
        with pytest.raises(error):
            call(x)


def test_parts_and_joins() -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    ours, theirs = tinyflow.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    for x, m in ((ours, tinyflow), (theirs, torch)):
        parts = [*x.split(2, 1), *x.chunk(3, 2), *x.split([1, 1], 0), *x.unbind(1)]
        joined = m.cat([p.flatten() for p in parts]) ** 2
        stacked = m.stack([x[0], x[1] * 2], 1)
        mixed = m.cat([x[:, :, :1], m.ones(2, 3, 2)], 2)
        ((joined.sum() + (stacked * stacked).sum()) + mixed.sum()).backward()
        assert mixed.dtype == m.float64 and stacked.shape == (3, 2, 4)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy())
    assert [tuple(p.shape) for p in ours.split(2, 1)] == [(2, 2, 4), (2, 1, 4)]


def test_index_expressions_that_only_we_refuse() -> None:
    with pytest.raises(IndexError, match="single ellipsis"):
        tinyflow.zeros(2, 3)[..., ...]
    with pytest.raises(IndexError, match="must be long, int, byte or bool"):
        tinyflow.zeros(2, 3)[[0.5]]


ROW, COLUMN, MASK = [0, 2, 2], [[1], [-1]], [True, False, True]
INDICES: dict[str, Any] = {
    "list": lambda t: ROW,
    "tensor": lambda t: t(ROW),
    "negative": lambda t: t([-1, -3]),
    "with slice": lambda t: (slice(1, None), t([0, 1])),
    "two broadcast": lambda t: (t([[0], [2]]), t(COLUMN)),
    "apart": lambda t: (t([0, 2]), slice(None), t([1, 0])),
    "with int": lambda t: (0, t([1, 3, 1])),
    "mask": lambda t: t(MASK),
    "mask and slice": lambda t: (t(MASK), slice(None, 2)),
    "mask of two": lambda t: t(MASK)[:, None] & t([True, False, True, True]),
    "new axis": lambda t: (None, t([1]), ..., None),
    "empty": lambda t: t(np.zeros(0, np.int64)),
    "True": lambda t: True,
    "False": lambda t: False,
    "scalar": lambda t: (t(1), t([2])),
}


@pytest.mark.parametrize("name", INDICES)
def test_advanced_indexing(name: str) -> None:
    values = np.random.default_rng(0).standard_normal((3, 4, 2))
    results = []
    for m in (tinyflow, torch):
        x = m.tensor(values, requires_grad=True)
        y = x[INDICES[name](m.tensor)]
        (y * y).sum().backward()
        written = m.tensor(values)
        written[INDICES[name](m.tensor)] = 7.0
        results.append((y.tolist(), tuple(y.shape), x.grad.tolist(), written.tolist()))
    assert results[0] == results[1]
