"""The elementwise kernel by itself: every operand kind, shape, stride and tile, on raw memory filled with NaN before."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from tinyflow.kernels import arithmetic, elementwise, launch

from ..closeness import assert_close


@triton.jit
def _four(x, y, z, w):
    return x * 8 + y * 4 + z * 2 + w


def poisoned(shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> torch.Tensor:
    x = torch.full((int(np.prod(shape)) * 3 + 7,), float("nan"))
    return x[: int(np.prod(shape))].view(shape) if strides is None else x.as_strided(shape, strides)


VIEWS: dict[str, Any] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "step": lambda x: torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0],
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "row": lambda x: x[:1],
    "column": lambda x: x[..., :1],
    "scalar": lambda x: x[0, 0, 0, 0],
}


@pytest.mark.parametrize("other", VIEWS)
@pytest.mark.parametrize("view", VIEWS)
def test_two_operands_of_any_strides(view: str, other: str) -> None:
    x, y = VIEWS[view](torch.randn(3, 2, 5, 7)), VIEWS[other](torch.randn(3, 2, 5, 7))
    assert_close(arithmetic.add(x, y), x.double() + y.double())


@pytest.mark.parametrize("config", elementwise.pointwise_configs.shipped, ids=str)
@pytest.mark.parametrize("view", ["contiguous", "transposed", "step", "channels last"])
def test_each_shipped_tile(config: launch.Config, view: str) -> None:
    """Ragged, with two tiles and more in each dimension that the tile covers."""
    x = VIEWS[view](torch.randn(3, 2, 37, 1031 if config.blocks["BLOCK_1"] == 1 else 131))
    y, out = torch.randn(x.shape), poisoned(tuple(x.shape))
    with elementwise.pointwise_configs.forced(config), launch.count() as records:
        elementwise.apply(arithmetic._mul, out, [x, y], tl.float32)
    assert_close(out, x.double() * y.double())
    assert [r.kernel for r in records] == ["_pointwise_kernel"]


@pytest.mark.parametrize("config", elementwise.pointwise_configs.shipped, ids=str)
def test_many_programs_in_the_outer_dimensions(config: launch.Config) -> None:
    """Five dimensions that no two of merge: two are found from the program's number."""
    x = torch.randn(3, 4, 5, 9, 33)[:, ::2, ::2, ::2, :-1].permute(1, 3, 0, 4, 2)
    out = poisoned((2, 5, 3, 32, 3))
    with elementwise.pointwise_configs.forced(config):
        elementwise.apply(arithmetic._neg, out, [x], tl.float32)
    assert torch.equal(out, -x)


def test_written_view_leaves_its_neighbours() -> None:
    base = torch.full((6, 8), float("nan"))
    elementwise.fill(base[1:5:2, 1:7:3], 4.0)
    expected = torch.full((6, 8), float("nan"))
    expected[1:5:2, 1:7:3] = 4.0
    assert torch.equal(base.nan_to_num(-1), expected.nan_to_num(-1))


def test_one_to_four_operands_and_numbers() -> None:
    x, out = torch.randn(5, 3), poisoned((5, 3))
    elementwise.apply(_four, out, [x, 2.0, x[:1], 0.5], tl.float32)
    assert_close(out, x.double() * 8 + 8 + x[:1].double() * 2 + 0.5)
    elementwise.apply(_four, out, [1.0, x, 3.0, x[:, :1]], tl.float32)
    assert_close(out, 8 + 4 * x.double() + 6 + x[:, :1].double())


@pytest.mark.parametrize(
    "value", [0.1, -1e300, 5e-324, float("inf"), 2.0**53 + 2, struct.unpack("d", b"\x01\0\0\0\0\0\xf0\x3f")[0]]
)
def test_numbers_arrive_exactly(value: float) -> None:
    assert arithmetic.add(torch.zeros(1, dtype=torch.float64), value).item() == value
    assert elementwise.full((1,), value, torch.float64, torch.device("cpu")).item() == value


@pytest.mark.parametrize("value", [2**62 + 1, -(2**63), 2**53 + 1])
def test_integers_arrive_exactly(value: int) -> None:
    assert arithmetic.add(torch.zeros(1, dtype=torch.int64), value).item() == value
    assert elementwise.full((1,), value, torch.int64, torch.device("cpu")).item() == value


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 1, 4)])
def test_nothing_is_launched_for_nothing(shape: tuple[int, ...]) -> None:
    with launch.count() as records:
        out = arithmetic.add(torch.zeros(shape), torch.zeros(1))
        elementwise.copy_into(torch.zeros(shape), torch.zeros(shape))
    assert out.shape == shape and not records


def test_cost_counts_flops_and_least_bytes() -> None:
    x, y = torch.zeros(6, 5), torch.zeros(5, dtype=torch.float16)
    with launch.count() as records:
        arithmetic.add(x, y)
        arithmetic.add(x, y.expand(6, 5))
        arithmetic.sigmoid(x.to("meta"))
    assert [(r.cost.flops, r.cost.bytes) for r in records] == [(30, 120 + 120 + 10), (30, 120 + 120 + 10), (120, 240)]


def test_out() -> None:
    x, out = torch.randn(4, 3), poisoned((3, 4)).T
    assert arithmetic.add(x, 1, out=out) is out
    assert_close(out, x.double() + 1)
    wide = torch.zeros(4, 3, dtype=torch.float64)
    assert_close(arithmetic.mul(x, 2, out=wide).float(), x.double() * 2)
    with pytest.raises(RuntimeError, match=r"add: expected out of shape \(4, 3\), got \(3,\)"):
        arithmetic.add(x, 1, out=torch.zeros(3))
    with pytest.raises(
        RuntimeError, match="add: result type torch.float32 can't be cast to the desired output type torch.int64"
    ):
        arithmetic.add(x, 1, out=torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        arithmetic.add(x, 1, out=torch.zeros(3).expand(4, 3))


def test_errors() -> None:
    with pytest.raises(
        RuntimeError, match=r"add: shapes \(2, 3\) and \(4,\) do not broadcast: dimension -1 has sizes \[3, 4\]"
    ):
        arithmetic.add(torch.zeros(2, 3), torch.zeros(4))
    with pytest.raises(TypeError, match="add: expected at least one tensor"):
        arithmetic.add(1, 2)
    with pytest.raises(
        RuntimeError, match="add: expected all operands on one device, got operand 0 on cpu, operand 1 on meta"
    ):
        arithmetic.add(torch.zeros(2), torch.zeros(2, device="meta"))
    with pytest.raises(RuntimeError, match="does not fit a destination"):
        elementwise.copy_into(torch.zeros(3), torch.zeros(2, 3))
    with pytest.raises(TypeError, match="not supported"):
        arithmetic.add(torch.zeros(2, dtype=torch.complex64), 1)


@pytest.mark.parametrize("shift", [1, 3, -1])
def test_overlapping_memory_is_read_before_it_is_written(shift: int) -> None:
    x = torch.arange(4000.0)
    source, out = (x[:-shift], x[shift:]) if shift > 0 else (x[-shift:], x[:shift])
    expected = source.clone() + 1
    with elementwise.pointwise_configs.forced(elementwise._FLAT):
        arithmetic.add(source, 1, out=out)
    assert torch.equal(out, expected)
    y = torch.arange(9.0).view(3, 3)
    expected = y.T.clone()
    elementwise.copy_into(y, y.T)
    assert torch.equal(y, expected)
    z = torch.arange(5.0)
    arithmetic.mul(z, z, out=z)
    assert torch.equal(z, torch.arange(5.0) ** 2)


def test_copies_keep_or_change_the_order_of_memory() -> None:
    x = torch.randn(2, 3, 4, 5)
    last = elementwise.channels_last(x)
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, x)
    assert elementwise.channels_last(last) is last and elementwise.contiguous(x) is x
    assert elementwise.contiguous(last).is_contiguous() and elementwise.copy(last).stride() == last.stride()
    assert torch.equal(elementwise.copy(last, torch.float64), last.double())


@st.composite
def shapes_that_broadcast(draw: Any) -> list[tuple[int, ...]]:
    full = draw(st.lists(st.sampled_from([1, 2, 3, 5]), max_size=5))
    return [tuple(n if draw(st.booleans()) else 1 for n in full[draw(st.integers(0, len(full))) :]) for _ in range(3)]


@given(shapes_that_broadcast(), st.booleans())
def test_any_shapes_that_broadcast(shapes: list[tuple[int, ...]], wide: bool) -> None:
    c, x, y = torch.randn(shapes[0]) > 0, torch.randn(shapes[1]), torch.randn(shapes[2])
    if wide:
        with launch.wide_offsets():
            got = arithmetic.where(c, x, y)
    else:
        got = arithmetic.where(c, x, y)
    assert torch.equal(got, torch.where(c, x, y))


def test_offsets_beyond_32_bits() -> None:
    """Ends of an allocation of 6 GiB of which two pages are ever touched."""
    n = 3 * 2**31
    x = torch.empty(n, dtype=torch.uint8)
    ends = x.as_strided((2, 3), (n - 3, 1))
    source = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)
    elementwise.copy_into(ends, source)
    assert x[:3].tolist() == [1, 2, 3] and x[n - 3 :].tolist() == [4, 5, 6]
    assert arithmetic.add(ends, ends).tolist() == [[2, 4, 6], [8, 10, 12]]
    assert launch.offset_dtype(ends) == tl.int64


def test_offsets_in_the_last_tile_before_32_bits_end() -> None:
    """Masked lanes of the last tile lie past the end, and must not come round to its beginning."""
    n = 2**31 - 5
    ends = torch.empty(n, dtype=torch.int8).as_strided((2, 3), (n - 3, 1))
    assert launch.offset_dtype(ends) == tl.int64
    assert launch.offset_dtype(torch.empty(1).expand(2**31)) == tl.int64, "a count is as large as an offset"
    assert launch.offset_dtype(torch.empty(5)) == tl.int32
