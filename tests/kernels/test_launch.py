"""Launching: what is counted, which tiles are chosen, how wide offsets are, where kernels run."""

from __future__ import annotations

import threading

import pytest
import torch
import triton
import triton.language as tl

from tinyflow.kernels import arithmetic, launch
from tinyflow.kernels.launch import Config, Configs, Cost


@triton.jit
def _number_kernel(out_ptr, value, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, value + i)


def run(out: torch.Tensor, programs: int, config: Config) -> None:
    launch.launch(_number_kernel, (programs,), out, 3, config=config, cost=Cost(8, 32), device=out.device)


def test_launches_and_counts() -> None:
    out = torch.zeros(8, dtype=torch.int32)
    with launch.count() as outer:
        run(out, 2, Config({"BLOCK": 4}))
        with launch.count() as inner:
            run(out, 1, Config({"BLOCK": 8}))
    run(out, 1, Config({"BLOCK": 8}))
    assert out.tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    assert len(outer) == 2 and len(inner) == 1 and inner[0].kernel == "_number_kernel" and inner[0].cost == Cost(8, 32)
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


def test_equal_recorders_are_told_apart() -> None:
    """Two blocks that have counted the same are still two."""
    with launch.count() as outer:
        with launch.count() as inner:
            pass
        run(torch.zeros(8, dtype=torch.int32), 1, Config({"BLOCK": 8}))
    assert len(outer) == 1 and inner == []


def test_an_empty_grid_launches_nothing() -> None:
    with launch.count() as records:
        run(torch.zeros(0, dtype=torch.int32), 0, Config({"BLOCK": 4}))
    assert records == []


def test_meta_counts_and_computes_nothing() -> None:
    with launch.count() as records:
        run(torch.empty(8, dtype=torch.int32, device="meta"), 2, Config({"BLOCK": 4}))
    assert len(records) == 1


def test_counting_and_wide_offsets_are_each_threads_own() -> None:
    seen: list[object] = []

    def elsewhere() -> None:
        seen.append(launch.offset_dtype(torch.zeros(1)))
        arithmetic.neg(torch.zeros(3))

    with launch.count() as records, launch.wide_offsets():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert launch.offset_dtype(torch.zeros(1)) == tl.int64
    assert records == [] and seen == [tl.int32] and launch.offset_dtype(torch.zeros(1)) == tl.int32


def test_configs_choose_or_are_forced() -> None:
    small, large = Config({"BLOCK": 4}), Config({"BLOCK": 8})
    configs = Configs(
        "_test_launch_kernel",
        (small, large),
        lambda n: small if n < 8 else large,
        lambda n: Config({"BLOCK": launch.block(n)}),
    )
    try:
        assert Configs.registry["_test_launch_kernel"] is configs
        assert configs(n=100).blocks["BLOCK"] == (128 if launch.INTERPRETING else 8)
        with configs.forced(small):
            assert configs(n=100) is small
            with configs.forced(large):
                assert configs(n=1) is large
            assert configs(n=100) is small
        with pytest.raises(ZeroDivisionError), configs.forced(small):
            raise ZeroDivisionError
        assert configs(n=100) is not small
    finally:
        del Configs.registry["_test_launch_kernel"]


@pytest.mark.parametrize(
    ("n", "expected"), [(0, 1), (1, 1), (2, 2), (3, 4), (1000, 1024), (1024, 1024), (2**20 + 1, 2**20)]
)
def test_block(n: int, expected: int) -> None:
    assert launch.block(n) == expected and launch.block(n, 16) == min(expected, 16)


def test_sizes() -> None:
    assert launch.cdiv(7, 3) == 3 and launch.cdiv(6, 3) == 2 and launch.cdiv(0, 3) == 0
    x = torch.zeros(3, 4, dtype=torch.float16)
    assert launch.nbytes(x, None, x[:, ::2], x[:1].expand(5, 4), torch.zeros(0, 3)) == 24 + 12 + 8
    assert launch.nbytes(torch.zeros(1).expand(0)) == 0


def test_devices_must_agree() -> None:
    x, y = torch.zeros(1), torch.zeros(1, device="meta")
    assert launch.check_same_device("op", x=x, bias=None, weight=x) == x.device
    with pytest.raises(RuntimeError, match="op: expected all operands on one device, got x on cpu, weight on meta"):
        launch.check_same_device("op", x=x, bias=None, weight=y)
