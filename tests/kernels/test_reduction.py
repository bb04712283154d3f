"""Reductions: against float64 torch, at every configuration that ships, over any dimensions and strides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.closeness import assert_close
from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import launch, reduction
from tinyflow.kernels.launch import Config
from tinyflow.kernels.reduction import rules, sums

FLOATING = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
VALUES = ("sum", "mean", "var", "std", "amax", "amin")


def assert_agrees(name: str, x: torch.Tensor, dim=None, keepdim: bool = False) -> None:
    actual = getattr(reduction, name)(x, dim, keepdim=keepdim)
    dims = tuple(range(x.dim())) if dim is None else dim
    expected = getattr(torch, name)(x.double(), dims, keepdim=keepdim)
    assert actual.dtype == x.dtype
    terms = x.numel() // max(expected.numel(), 1)
    assert_close(actual, expected, max(terms, 1))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_agrees_with_float64(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, 7, 5, 2).to(dtype)
    for dim in (None, 0, 1, -1, (0, 2), (1, 3), (3, 0, 1)):
        assert_agrees(name, x, dim)
        assert_agrees(name, x, dim, keepdim=True)


def _layouts() -> dict[str, torch.Tensor]:
    return {
        "one element": torch.randn(1, 1),
        "scalar": torch.randn(()),
        "transposed": torch.randn(7, 5).t(),
        "channels-last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "gaps": torch.randn(6, 10, 4)[::2, 1::3, ::2],
        "expanded": torch.randn(5, 1, 3).expand(5, 4, 3),
        "five dimensions that do not merge": torch.randn(3, 2, 4, 2, 3).permute(4, 2, 0, 3, 1)[:, ::2],
    }


@pytest.mark.parametrize("layout", _layouts())
def test_strides(layout: str) -> None:
    x = _layouts()[layout]
    for name in ("sum", "amax"):
        for dim in [None, *range(x.dim())]:
            assert_agrees(name, x, dim)
        if x.dim() > 2:
            assert_agrees(name, x, (0, x.dim() - 1))


def test_result_lies_as_the_input() -> None:
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert reduction.sum(x, 0).stride() == (1, 15, 3)
    assert reduction.sum(x, (2, 3), keepdim=True).is_contiguous(memory_format=torch.channels_last)


# Two tiles and a rest in both directions of each: along rows, across them, and more parts than a part has steps.
CONFIGS = sorted(reduction.reduce_configs.shipped, key=str)
SHAPES = {1: (3, 4101), 8: (19, 517), 32: (70, 75), 64: (130, 75)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c.blocks.values())))
@pytest.mark.parametrize("transposed", [False, True])
def test_shipped_configs(config: Config, transposed: bool) -> None:
    rows, columns = SHAPES[config.blocks["BLOCK_M"]]
    if config.blocks["SPLIT"] > 16:
        rows = min(rows, 3)
    x = torch.randn(columns, rows).t() if transposed else torch.randn(rows, columns)
    with reduction.reduce_configs.forced(config), reduction.arg_reduce_configs.forced(config):
        for name in ("sum", "var", "amax"):
            assert_agrees(name, x, 1)
        values, indices = reduction.max_with_index(x, 1)
    assert torch.equal(indices, x.argmax(1))
    assert torch.equal(values, x.amax(1))


@pytest.mark.parametrize(
    "collapse", [rules._product_by_halves, rules._product_by_reduction], ids=["halves", "reduction"]
)
def test_product_at_a_small_tile(collapse, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the interpreter takes it, and as a GPU does."""
    monkeypatch.setattr(sums, "PROD", rules.PROD._replace(collapse=collapse))
    x = torch.rand(9, 75) + 0.5
    with reduction.reduce_configs.forced(Config({"BLOCK_M": 4, "BLOCK_N": 32, "SPLIT": 1})):
        assert_close(reduction.prod(x, 1), x.double().prod(1), 75)


def test_wide_offsets() -> None:
    x = torch.randn(5, 7)
    with launch.wide_offsets():
        assert_agrees("sum", x, 0)
        assert torch.equal(reduction.argmin(x, 1), x.argmin(1))


def test_a_long_sum_keeps_its_precision() -> None:
    """Adding a million numbers one after the other in float32 is wrong by a percent here."""
    x = torch.full((2**20 + 7,), 0.1)
    expected = x.double().sum()
    assert abs(reduction.sum(x).double() / expected - 1) < 1e-6


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool], ids=str)
def test_integers(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2 if dtype == torch.bool else 100, (4, 6)).to(dtype)
    assert reduction.sum(x, 1).dtype == torch.int64
    assert torch.equal(reduction.sum(x, 1), x.sum(1))
    assert torch.equal(reduction.prod(x, 0), x.prod(0))
    assert torch.equal(reduction.amax(x, 1), x.amax(1))
    assert torch.equal(reduction.amin(x), x.amin())
    assert torch.equal(reduction.sum(x, 0, dtype=torch.float32), x.sum(0, dtype=torch.float32))
    if dtype != torch.bool:
        assert torch.equal(reduction.argmin(x, 1), x.argmin(1))


def test_extreme_integers() -> None:
    """The least int64 is a value like any other, not only the start of a maximum."""
    x = torch.tensor([[-(2**63), -(2**63)], [2**63 - 1, 0]])
    assert reduction.amax(x, 1).tolist() == [-(2**63), 2**63 - 1]
    values, indices = reduction.max_with_index(x, 1)
    assert (values.tolist(), indices.tolist()) == ([-(2**63), 2**63 - 1], [0, 0])


@pytest.mark.parametrize("dim", [0, 1, None])
def test_nan_wins(dim) -> None:
    x = torch.randn(3, 5)
    x[1, 2] = x[1, 4] = float("nan")
    dims = (0, 1) if dim is None else dim
    torch.testing.assert_close(reduction.amax(x, dim), x.amax(dims), equal_nan=True)
    torch.testing.assert_close(reduction.amin(x, dim), x.amin(dims), equal_nan=True)
    assert torch.equal(reduction.argmax(x, dim), x.argmax(dim))
    assert torch.equal(reduction.argmin(x, dim), x.argmin(dim))


@pytest.mark.parametrize("at", [0, 3, 6])
def test_nan_wins_from_any_tile(at: int) -> None:
    """Three tiles of two in two parts: a NaN must outlive what is combined after it, and take over what was before."""
    x = torch.arange(7.0).repeat(2, 1)
    x[:, at] = float("nan")
    config = Config({"BLOCK_M": 2, "BLOCK_N": 2, "SPLIT": 2})
    with reduction.reduce_configs.forced(config), reduction.arg_reduce_configs.forced(config):
        for values in (x, -x):
            assert reduction.amax(values, 1).isnan().all()
            assert reduction.amin(values, 1).isnan().all()
            assert reduction.argmax(values, 1).tolist() == [at, at]
            assert reduction.argmin(values, 1).tolist() == [at, at]


def test_the_first_of_equals_is_chosen() -> None:
    x = torch.tensor([[2.0, 3, 3, 3], [float("-inf")] * 4, [float("inf")] * 4])
    assert reduction.argmax(x, 1).tolist() == [1, 0, 0]
    assert reduction.argmin(x, 1).tolist() == [0, 0, 0]
    with reduction.arg_reduce_configs.forced(Config({"BLOCK_M": 2, "BLOCK_N": 2, "SPLIT": 2})):
        assert reduction.argmax(x, 1).tolist() == [1, 0, 0]


def test_argmax_counts_row_major() -> None:
    x = torch.randn(4, 6).t()
    assert reduction.argmax(x) == x.argmax()
    assert reduction.argmax(x, keepdim=True).shape == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int32], ids=str)
def test_any_and_all(dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 1]]).to(dtype)
    assert reduction.any(x, 1).tolist() == [False, True, True]
    assert reduction.all(x, 1).tolist() == [False, False, True]
    assert reduction.any(torch.tensor([float("nan")])).item() is True


def test_no_elements() -> None:
    x = torch.empty(3, 0)
    assert reduction.sum(x, 1).tolist() == [0, 0, 0]
    assert reduction.prod(x).item() == 1
    assert reduction.mean(x, 1).isnan().all()
    assert reduction.any(x).item() is False
    assert reduction.all(x).item() is True
    assert reduction.sum(x, 0).shape == (0,)
    assert reduction.amax(x, 0).shape == (0,)
    for name in ("amax", "amin", "argmax", "argmin"):
        with pytest.raises(IndexError, match=f"{name}: expected dimension 1 of .3, 0. to have elements"):
            getattr(reduction, name)(x, 1)


def test_variance_without_freedom() -> None:
    assert reduction.var(torch.ones(3, 1), 1).isnan().all()
    assert reduction.var(torch.ones(3, 1), 1, correction=0).tolist() == [0, 0, 0]


def test_errors() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(IndexError, match=r"sum: dimension out of range: expected one in \[-2, 1\], got 2"):
        reduction.sum(x, 2)
    with pytest.raises(RuntimeError, match=r"sum: expected each dimension once, got \(0, -2\)"):
        reduction.sum(x, (0, -2))
    with pytest.raises(RuntimeError, match=r"mean: expected a floating-point dtype, got torch.int64"):
        reduction.mean(torch.ones(2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="var: expected a floating-point dtype"):
        reduction.var(torch.ones(2, dtype=torch.int32))


def test_meta_counts_and_computes_nothing() -> None:
    with launch.count() as records:
        y = reduction.sum(torch.empty(100, 200, device="meta"), 0)
    assert (y.shape, y.device.type) == ((200,), "meta")
    assert sum(r.cost.flops for r in records) >= 100 * 200


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_any_dimensions_of_any_view(shape, random, keepdim) -> None:
    x = torch.randn(shape).permute(random.sample(range(len(shape)), len(shape)))
    dim = tuple(random.sample(range(x.dim()), random.randint(1, x.dim())))
    assert_close(reduction.sum(x, dim, keepdim), x.double().sum(dim, keepdim), max(x.numel(), 1))


@pytest.mark.parametrize("op", ["any", "all"])
def test_truth_of_bytes_and_over_no_dimension(op: str) -> None:
    """torch gives uint8 for uint8, and takes () as no dimension here alone."""
    x = torch.tensor([[0, 3], [1, 2]], dtype=torch.uint8)
    for dim in (None, 1, ()):
        expected = getattr(torch, op)(x) if dim is None else getattr(torch, op)(x, dim=dim)
        found = getattr(reduction, op)(x, dim)
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_positions_among_bools_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"argmax\(\): does not support bool input"):
        reduction.argmax(torch.tensor([True, False]))
