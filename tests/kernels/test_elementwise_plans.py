"""What an elementwise launch works out once and looks up from then on: only what its operands' looks decide."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tinyflow.kernels import arithmetic, elementwise, launch, memory
from tinyflow.kernels.configs import planned_for_gpu

DEVICE = memory.get_default_device()
CONFIGS = elementwise.pointwise_configs


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    CONFIGS.kept.clear()


def buffer(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=dtype, device=DEVICE).reshape(shape)


def test_a_second_call_looks_up_and_is_right() -> None:
    x, y = buffer(3, 4), buffer(3, 4) * 2
    first = arithmetic.mul(x, y)
    assert len(CONFIGS.kept) == 1
    again = arithmetic.mul(y, y + 1)
    assert len(CONFIGS.kept) == 1 and first.tolist() == (x * y).tolist() and again.tolist() == (y * (y + 1)).tolist()


def test_shapes_strides_dtypes_and_kinds_of_numbers_are_told_apart() -> None:
    x = buffer(3, 3)
    for other in (x.T, x[:1], x[:, :1], x.double(), x.int(), 2, 2.5, True):
        for _ in range(2):
            got = arithmetic.mul(x, other)
            expected = x * other
            assert got.dtype == expected.dtype and got.tolist() == expected.tolist()
    integers = buffer(2, dtype=torch.int64)
    assert arithmetic.add(integers, 2).dtype == torch.int64 and arithmetic.add(integers, 2.0).dtype == torch.float32


def test_the_default_dtype_counts() -> None:
    integers = buffer(2, dtype=torch.int64)
    assert arithmetic.div(integers, 2).dtype == torch.float32
    memory.set_default_dtype(torch.float64)
    try:
        assert arithmetic.div(integers, 2).dtype == torch.float64
    finally:
        memory.set_default_dtype(torch.float32)


def test_an_operand_given_twice_is_read_once() -> None:
    x, y = buffer(10), buffer(10)
    for operands, moved in (((x, x), 80), ((x, y), 120), ((x, x), 80), ((x, y), 120)):
        with launch.count() as records:
            arithmetic.mul(*operands)
        assert records[0].cost.bytes == moved
    for operands, moved in (((x, x, y), 120), ((x, y, y), 120), ((x, y, x + 1), 160), ((x, x, x), 80)):
        for out in (None, torch.empty_like(x)):
            with launch.count() as records:
                arithmetic.addcmul(*operands, 2, out=out)
            assert records[0].cost.bytes == moved


def _launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    original = elementwise.launch_prepared

    def noted(kernel: Any, grid: Any, args: Any, config: Any, cost: Any, device: Any, constexprs: Any) -> None:
        seen.append({"config": config, **constexprs})
        original(kernel, grid, args, config, cost, device, constexprs)

    monkeypatch.setattr(elementwise, "launch_prepared", noted)
    return seen


def test_what_is_forced_planned_or_wide_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = buffer(3, 4), _launched(monkeypatch)
    arithmetic.neg(x)
    usual = seen[0]["config"]
    forced = CONFIGS.shipped[1]
    with CONFIGS.forced(forced):
        arithmetic.neg(x)
    with launch.wide_offsets():
        arithmetic.neg(x)
    with planned_for_gpu():
        arithmetic.neg(torch.empty(3, 4, device="meta"))
    arithmetic.neg(x)
    assert seen[1]["config"] is forced and seen[3]["config"] in CONFIGS.shipped and seen[4]["config"] is usual
    assert [str(named["INDEX"]) for named in seen[:3]] == ["int32", "int32", "int64"] and str(
        seen[4]["INDEX"]
    ) == "int32"
    CONFIGS.forget_tables()
    assert not CONFIGS.kept


def test_writing_over_operands_looks_at_where_they_are() -> None:
    """The same shapes and strides, apart, in place, and overlapping."""
    memory_ = buffer(6)
    a, b = memory_[:5], buffer(5)
    assert elementwise.copy_into(torch.empty_like(b), b).tolist() == b.tolist()
    arithmetic.add(a, 1, out=a)
    assert memory_.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 6.0]
    elementwise.copy_into(memory_[1:], memory_[:5])
    assert memory_.tolist() == [2.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        elementwise.copy_into(torch.zeros(1, device=DEVICE).expand(5), b)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(4096):
        CONFIGS.keep(k, None)
    arithmetic.neg(buffer(2))
    assert len(CONFIGS.kept) == 1
