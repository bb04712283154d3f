"""Stride arithmetic: broadcasting, dense layouts, and walking several views in the fewest dimensions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyflow.kernels import strides

sizes = st.lists(st.sampled_from([0, 1, 2, 3, 4]), max_size=5).map(tuple)


@given(sizes, sizes)
def test_broadcast_shapes_are_torchs(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        expected = tuple(torch.broadcast_shapes(a, b))
    except RuntimeError:
        with pytest.raises(RuntimeError, match="op: shapes .* do not broadcast: dimension -"):
            strides.broadcast_shapes("op", a, b)
    else:
        assert strides.broadcast_shapes("op", a, b) == expected


@given(sizes, st.data())
def test_broadcast_strides_read_the_same_elements(shape: tuple[int, ...], data: Any) -> None:
    x = torch.arange(float(math.prod(shape))).reshape(shape)
    target = (2, *[3 if n == 1 and data.draw(st.booleans()) else n for n in shape])
    steps = strides.broadcast_strides(x, target)
    assert torch.equal(x.as_strided(target, steps), x.expand(target))


@given(sizes)
def test_layouts(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    assert strides.contiguous_strides(shape) == tuple(x.stride())
    assert strides.is_contiguous(x) and strides.numel(shape) == x.numel()
    if len(shape) == 4 and 0 not in shape:
        y = torch.empty(shape, memory_format=torch.channels_last)
        assert strides.channels_last_strides(shape) == tuple(y.stride()) and strides.is_channels_last(y)
        assert strides.is_channels_last(x) == x.is_contiguous(memory_format=torch.channels_last)


@given(st.permutations(range(4)), st.sampled_from([(2, 3, 4, 5), (2, 1, 3, 1)]), st.booleans())
def test_like_is_what_torch_allocates(order: list[int], shape: tuple[int, ...], gaps: bool) -> None:
    x = torch.empty(*shape[:3], shape[3] * 2)[..., ::2] if gaps else torch.empty(shape)
    x = x.permute(*order)
    expected = torch.empty_like(x).stride()
    got = strides.like(x)
    assert [s for s, n in zip(got, x.shape) if n > 1] == [s for s, n in zip(expected, x.shape) if n > 1]


@pytest.mark.parametrize("shape", [(2, 3, 4), (4, 1, 3), (5,), ()])
def test_like_of_repeated_dimensions_is_dense(shape: tuple[int, ...]) -> None:
    x = torch.empty((1,) * len(shape)).expand(shape)
    assert strides.like(x) == torch.empty_like(x).stride() == strides.contiguous_strides(shape)


@st.composite
def strided_pair(draw: Any) -> tuple[torch.Tensor, torch.Tensor]:
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5)))
    views = []
    for _ in range(2):
        order = draw(st.permutations(range(len(shape))))
        base = (
            torch.arange(float(math.prod(shape)))
            .reshape([shape[k] for k in order])
            .permute([order.index(k) for k in range(len(shape))])
        )
        if draw(st.booleans()):
            dim = draw(st.integers(0, len(shape) - 1))
            base = base.narrow(dim, 0, 1).expand(shape)
        views.append(base)
    return views[0], views[1]


@given(strided_pair())
def test_coalesce_visits_the_same_pairs_of_elements(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    merged, (a, b) = strides.coalesce(x.shape, x.stride(), y.stride())
    walked = [
        (sum(i * s for i, s in zip(index, a)), sum(i * s for i, s in zip(index, b))) for index in np.ndindex(*merged)
    ]
    direct = [
        (sum(i * s for i, s in zip(index, x.stride())), sum(i * s for i, s in zip(index, y.stride())))
        for index in np.ndindex(*x.shape)
    ]
    assert sorted(walked) == sorted(direct)
    assert len(merged) <= sum(n != 1 for n in x.shape)


def test_coalesce_merges_all_it_can() -> None:
    contiguous = strides.contiguous_strides((4, 5, 6))
    assert strides.coalesce((4, 5, 6), contiguous, contiguous) == ([120], [[1], [1]])
    last = strides.channels_last_strides((2, 3, 4, 5))
    assert strides.coalesce((2, 3, 4, 5), last, last) == ([120], [[1], [1]])
    assert strides.coalesce((4, 5), (5, 1), (0, 1)) == ([4, 5], [[5, 1], [0, 1]])
    assert strides.coalesce((4, 5), (5, 1), (0, 0)) == ([20], [[1], [0]])
    assert strides.coalesce((), ()) == ([], [[]]) and strides.coalesce((1, 1), (7, 9)) == ([], [[]])


def test_every_order_of_a_dense_copy_merges() -> None:
    for order in itertools.permutations(range(3)):
        x = torch.empty(2, 3, 4).permute(order)
        assert strides.coalesce(x.shape, x.stride(), x.stride())[0] == [24]
