"""Indexing: reading against torch, writing against torch (one value a place) and numpy (several), in many tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.closeness import assert_close
from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import indexing, launch, nonzero, scatter, sorting
from tinyflow.kernels.launch import Config

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
I = torch.tensor([[0, -1, 2], [3, 3, 1]])  # noqa: E741
J = torch.tensor([0, 2, -1])

#: What indexes a (5, 7, 3, 11) buffer. Neighbouring indices stand in place, others come first.
INDICES = {
    "first": [I],
    "second": [None, I],
    "both, broadcast": [I, J],
    "last two": [None, None, J, I],
    "apart": [I, None, J],
    "one and several": [torch.tensor([2]), None, J],
    "all four": [I, J, J, J],
    "mask of all": [torch.arange(5 * 7 * 3 * 11).reshape(5, 7, 3, 11) % 5 == 0],
    "mask in the middle": [None, torch.arange(21).reshape(7, 3) % 4 == 0],
    "mask and index": [torch.tensor([True, False, True, False, True]), J],
    "mask of nothing": [torch.zeros(5, dtype=torch.bool)],
    "no index": [torch.empty(0, dtype=torch.int64)],
    "int32, strided": [torch.arange(10, dtype=torch.int32)[1:8:3] % 5],
}


def _key(indices):
    return tuple(slice(None) if i is None else i.long() if i.dtype == torch.int32 else i for i in indices)


def _layouts(x: torch.Tensor) -> list[torch.Tensor]:
    return [x, x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)]


@pytest.mark.parametrize("name", INDICES)
def test_reads_as_torch(name: str) -> None:
    for x in _layouts(torch.randn(5, 7, 3, 11)):
        assert torch.equal(indexing.index(x, INDICES[name]), x[_key(INDICES[name])])


@pytest.mark.parametrize("name", INDICES)
def test_writes_as_numpy(name: str) -> None:
    key = tuple(k.numpy() if isinstance(k, torch.Tensor) else k for k in _key(INDICES[name]))
    for x in _layouts(torch.randn(5, 7, 3, 11)):
        values = torch.randn(x[_key(INDICES[name])].shape)
        expected = x.numpy().copy()
        expected[key] = values.numpy()
        assert scatter.index_put(x, INDICES[name], values) is x
        np.testing.assert_array_equal(x.numpy(), expected)


@pytest.mark.parametrize("name", INDICES)
def test_adds_as_numpy(name: str) -> None:
    key = tuple(k.numpy() if isinstance(k, torch.Tensor) else k for k in _key(INDICES[name]))
    for x in _layouts(torch.randn(5, 7, 3, 11)):
        values = torch.randn(x[_key(INDICES[name])].shape)
        expected = x.double().numpy().copy()
        np.add.at(expected, key, values.double().numpy())
        scatter.index_put(x, INDICES[name], values, accumulate=True)
        assert_close(x, torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (5, 7)).to(dtype)
    assert torch.equal(indexing.index(x, [I]), x[I])
    values = torch.randint(0, 2, (2, 3, 7)).to(dtype)
    expected = x.double()
    expected.index_put_((I,), values.double(), accumulate=True)
    assert torch.equal(scatter.index_put(x, [I], values, accumulate=True), expected.to(dtype))


def test_values_broadcast() -> None:
    x = torch.zeros(5, 7)
    scatter.index_put(x, [J, None], torch.tensor(2.0))
    scatter.index_put(x, [None, J], torch.arange(3.0))
    expected = torch.zeros(5, 7)
    expected[J] = 2.0
    expected[:, J] = torch.arange(3.0)
    assert torch.equal(x, expected)


@pytest.mark.parametrize(("n", "places"), [(1, 1), (8, 1), (9, 1), (65, 1), (600, 2), (513, 100)])
def test_many_values_at_one_place(n: int, places: int) -> None:
    """8, 64 and 512 rows of one place end a pass of the segmented sum; one more needs another."""
    index, values = torch.randint(0, places, (n,)), torch.randn(n, 4)  # places of 9 bits, some alike in the low 8
    expected = torch.zeros(places, 4, dtype=torch.float64).index_add_(0, index, values.double())
    assert_close(scatter.index_grad(values, [index], (places, 4)), expected, n)
    last = torch.full((places, 4), -1.0)
    reference = last.numpy().copy()
    reference[index.numpy()] = values.numpy()
    np.testing.assert_array_equal(scatter.index_put(last, [index], values).numpy(), reference)


def test_values_from_the_same_memory() -> None:
    x = torch.arange(40.0).reshape(8, 5)
    expected = x.clone()
    expected[torch.arange(1, 8)] = x[:-1].clone()
    with scatter.put_configs.forced(Config({"BLOCK_B": 1, "BLOCK_E": 8})):
        scatter.index_put(x, [torch.arange(1, 8)], x[:-1])
    assert torch.equal(x, expected)


def test_infinities_stay_in_their_place() -> None:
    values = torch.tensor([1.0, float("inf"), 2.0, float("nan")])
    assert scatter.index_grad(values, [torch.tensor([0, 1, 0, 2])], (4,)).tolist()[:2] == [3.0, float("inf")]


@pytest.mark.parametrize("config", indexing.ROWS, ids=lambda c: "-".join(map(str, c.blocks.values())))
def test_shipped_configs(config: Config) -> None:
    rows, elements = 2 * config.blocks["BLOCK_B"] + 3, 2 * config.blocks["BLOCK_E"] + 1
    x, index = torch.randn(rows + 5, elements), torch.randint(0, rows // 2, (rows,))
    values = torch.randn(rows, elements)
    kernels = indexing.gather_configs, scatter.segment_configs, scatter.put_configs
    with kernels[0].forced(config), kernels[1].forced(config), kernels[2].forced(config):
        with indexing.place_configs.forced(Config({"BLOCK": 16})):
            assert torch.equal(indexing.index(x, [index]), x[index])
        grad = scatter.index_grad(values, [index], x.shape)
    assert_close(grad, torch.zeros(x.shape, dtype=torch.float64).index_add_(0, index, values.double()), 8)


def test_shipped_line() -> None:
    n = 2 * indexing._LINE.blocks["BLOCK"] + 3
    x = torch.randn(n)
    with indexing.place_configs.forced(indexing._LINE), nonzero.nonzero_configs.forced(nonzero._LINE):
        index = torch.randint(-n, n, (n,))
        assert torch.equal(indexing.index(x, [index]), x[index])
        assert torch.equal(nonzero.nonzero(x > 0), (x > 0).nonzero())


def test_wide_offsets() -> None:
    x = torch.randn(5, 7)
    with launch.wide_offsets():
        assert torch.equal(indexing.index(x, [I]), x[I])
        assert_close(
            scatter.index_grad(x[I], [I], x.shape),
            torch.zeros(5, 7, dtype=torch.float64).index_put_((I,), x[I].double(), accumulate=True),
        )


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gather_and_scatter(dim: int) -> None:
    x = torch.randn(5, 7, 3).transpose(0, 1).contiguous().transpose(0, 1)
    index = torch.randint(0, x.shape[dim], (4, 6, 2))
    source = torch.randn(5, 6, 3)
    assert torch.equal(indexing.gather(x, dim, index), x.gather(dim, index))
    expected = x.double().scatter_add(dim, index, source.double())
    assert_close(scatter.scatter_add(x.clone(), dim, index, source), expected, 6)
    expected = torch.zeros(5, 7, 3, dtype=torch.float64).scatter_add(dim, index, source[:4, :6, :2].double())
    assert_close(scatter.gather_grad(source[:4, :6, :2], dim, index, (5, 7, 3)), expected, 6)


def test_scatter_keeps_the_last() -> None:
    x = scatter.scatter(torch.zeros(3), 0, torch.tensor([1, 1, 2, 1]), torch.tensor([1.0, 2, 3, 4]))
    assert x.tolist() == [0, 4, 3]


def test_index_select_and_add() -> None:
    x, index = torch.randn(4, 5, 3), torch.tensor([4, 0, 3, 0])
    assert torch.equal(indexing.index_select(x, 1, index), x[:, index])
    source = torch.randn(4, 4, 3)
    assert_close(scatter.index_add(x.clone(), 1, index, source), x.double().index_add(1, index, source.double()), 2)
    assert_close(
        scatter.index_select_grad(source, 1, index, x.shape),
        torch.zeros(4, 5, 3, dtype=torch.float64).index_add(1, index, source.double()),
        2,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU does not wait to look")
def test_slices_are_not_counted_from_the_end() -> None:
    x, index = torch.randn(4, 2), torch.tensor([-1])
    for act in (
        lambda: indexing.index_select(x, 0, index),
        lambda: scatter.index_add(x.clone(), 0, index, torch.ones(1, 2)),
    ):
        with pytest.raises(IndexError, match="index -1 is out of bounds for dimension 0 with size 4"):
            act()


def test_zero_dimensions() -> None:
    x, zero = torch.tensor(3.0), torch.tensor(0)
    assert torch.equal(indexing.gather(x, 0, zero), x)
    assert torch.equal(indexing.index_select(x, 0, zero), x)
    assert scatter.index_select_grad(torch.tensor(2.0), 0, zero, ()).item() == 2.0
    assert scatter.scatter_add(torch.tensor(1.0), 0, zero, torch.tensor(2.0)).item() == 3.0


MASKS = {
    "transposed": (torch.arange(24).reshape(4, 6) % 5 == 1).t(),
    "gaps": (torch.arange(60).reshape(3, 20) % 3 == 0)[:, ::3],
    "full": torch.ones(3, 2, dtype=torch.bool),
    "none": torch.zeros(3, 2, dtype=torch.bool),
    "empty": torch.zeros(0, 2, dtype=torch.bool),
    "scalar": torch.tensor(True),
    "numbers": torch.tensor([0.0, -0.0, 1.0, float("nan")]),
    "integers": torch.tensor([[3, 0], [0, -1]]),
}


@pytest.mark.parametrize("name", MASKS)
def test_nonzero(name: str) -> None:
    mask = MASKS[name]
    expected = mask.nonzero()
    assert torch.equal(nonzero.nonzero(mask), expected)
    with (
        nonzero.nonzero_configs.forced(Config({"BLOCK": 4})),
        sorting.exclusive_sum_configs.forced(Config({"BLOCK": 2})),
    ):
        assert torch.equal(nonzero.nonzero(mask), expected)


def test_masked_select() -> None:
    x = torch.randn(4, 3, 5).transpose(0, 2)
    mask = x[0] > 0
    assert torch.equal(indexing.masked_select(x, mask), x.masked_select(mask))
    assert indexing.masked_select(torch.tensor(2.0), torch.tensor(True)).tolist() == [2.0]


def test_errors() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(IndexError, match="index: index 4 is out of bounds for dimension 1 with size 4"):
        indexing.index(x, [None, torch.tensor([0, 4])])
    with pytest.raises(IndexError, match="index: index -4 is out of bounds for dimension 0 with size 3"):
        indexing.index(x, [torch.tensor([-4])])
    with pytest.raises(IndexError, match="gather: index -1 is out of bounds for dimension 0 with size 3"):
        indexing.gather(x, 0, torch.tensor([[-1]]))
    with pytest.raises(IndexError, match="index is out of bounds for dimension 0 with size 0"):
        indexing.index(torch.empty(0, 2), [torch.tensor([0])])
    with pytest.raises(IndexError, match="too many indices, 3, for a buffer of 2 dimensions"):
        indexing.index(x, [J, J, J])
    with pytest.raises(IndexError, match=r"must be integer or bool, got torch.float32"):
        indexing.index(x, [torch.tensor([1.0])])
    with pytest.raises(IndexError, match=r"mask of shape \(2,\) at dimension 0 does not match \(3, 4\)"):
        indexing.index(x, [torch.tensor([True, False])])
    with pytest.raises(IndexError, match=r"shape mismatch: .* \(2, 3\) and \(2,\)"):
        indexing.index(x, [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)])
    with pytest.raises(RuntimeError, match=r"index_put: expected values of dtype torch.float32, got torch.float64"):
        scatter.index_put(x, [J], torch.zeros(4, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"values of shape \(3, 5\) do not broadcast|do not broadcast"):
        scatter.index_put(x, [J], torch.zeros(3, 5))
    with pytest.raises(RuntimeError, match=r"gather: expected an int64 or int32 index, got torch.int16"):
        indexing.gather(x, 0, torch.zeros(1, 1, dtype=torch.int16))
    with pytest.raises(RuntimeError, match=r"gather: expected an index of 2 dimensions, got shape \(3,\)"):
        indexing.gather(x, 0, J)
    with pytest.raises(RuntimeError, match=r"to be no larger than \(3, 4\) apart from dimension 0"):
        indexing.gather(x, 0, torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="meta device"):
        nonzero.nonzero(torch.empty(3, device="meta"))


@given(st.data())
def test_any_index_of_any_view(data) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    x = torch.randn(shape).permute(data.draw(st.permutations(range(len(shape)))))
    indices = []
    for n in x.shape:
        kind = data.draw(st.sampled_from(["keep", "list", "column"]))
        values = torch.tensor(data.draw(st.lists(st.integers(-n, n - 1), min_size=2, max_size=2)))
        indices.append(None if kind == "keep" else values if kind == "list" else values[:, None])
    if any(i is not None for i in indices):
        assert torch.equal(indexing.index(x, indices), x[_key(indices)])
