"""The search for configurations: what is wrong never wins, however fast it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from tinyflow.kernels import batch_norm, conv2d, launch, matmul, memory, tuning
from tinyflow.kernels.configs import Config, Configs
from tinyflow.kernels.launch import Cost, cdiv
from tinyflow.kernels.tuning import Call

DEVICE = memory.get_default_device()


@triton.jit
def _halve_kernel(out_ptr, x_ptr, n, BLOCK: tl.constexpr, SHARE: tl.constexpr, FACTOR: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0).to(tl.float32)
    tl.store(out_ptr + i, (x * FACTOR).to(out_ptr.dtype.element_ty), mask=i < n // SHARE)


def candidate(block: int, share: int = 1, factor: float = 0.5) -> Config:
    return Config({"BLOCK": block, "SHARE": share, "FACTOR": factor})


RIGHT, ALSO_RIGHT = candidate(16), candidate(32)
FORGETS, MISTAKEN, ROUGH = candidate(64, share=2), candidate(64, factor=0.25), candidate(64, factor=0.51)
BROKEN = Config({"BLOCK": 24, "SHARE": 1, "FACTOR": 0.5})  # not a power of two


@pytest.fixture
def halves() -> Iterator[Configs]:
    """A kernel's configurations, of which some are wrong; ``choose`` gives a right one."""
    shipped = (FORGETS, RIGHT, MISTAKEN, BROKEN, ALSO_RIGHT, ROUGH)
    yield Configs("_halve_kernel", shipped, lambda n: RIGHT, lambda n: RIGHT)
    del Configs.registry["_halve_kernel"]


def halve_with(configs: Configs) -> Call:
    def halve(x: torch.Tensor) -> torch.Tensor:
        out = memory.empty(x.shape, x.dtype, x.device)
        config = configs(x.dtype, n=x.numel())
        grid = (cdiv(x.numel(), config.blocks["BLOCK"]),)
        launch.launch(_halve_kernel, grid, out, x, x.numel(), config=config, cost=Cost(), device=x.device)
        return out

    return Call(halve, (torch.empty(100, dtype=torch.bfloat16, device="meta"),), {})


def test_only_what_is_right_is_timed(halves: Configs) -> None:
    (problem,) = tuning.problems([halve_with(halves)], DEVICE)
    assert problem.problem == "bfloat16 n=128"
    trials = {trial.config.key: trial for trial in tuning.search(problem, DEVICE, rounds=2)}
    for config in (RIGHT, ALSO_RIGHT):
        assert trials[config.key].wrong is None and (trials[config.key].seconds or 0) > 0
    assert trials[FORGETS.key].wrong == "50 elements that are not finite"
    for config in (MISTAKEN, ROUGH):
        assert (trials[config.key].wrong or "").startswith("off by ")
    assert trials[BROKEN.key].seconds is None and trials[BROKEN.key].wrong
    order = [trial.seconds is None for trial in tuning.search(problem, DEVICE, rounds=1)]
    assert order == sorted(order)  # the right ones first


def test_a_wrong_candidate_is_no_better_for_what_ran_before(halves: Configs) -> None:
    """Memory is often handed out again as it was: with the right results of the candidate before in it."""
    (problem,) = tuning.problems([halve_with(halves)], DEVICE)
    for _ in range(2):
        found = {trial.config.key: trial for trial in tuning.search(problem, DEVICE, rounds=1)}
        assert found[FORGETS.key].wrong is not None


def test_new_memory_is_poisoned() -> None:
    before = list(memory.allocation_hooks)
    with tuning.poisoned():
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            assert memory.empty((3, 5), dtype, DEVICE).isnan().all()
        assert memory.empty((2, 3, 4, 5), torch.float32, DEVICE, (60, 1, 15, 3)).isnan().all()
        assert (memory.empty((3,), torch.int64, DEVICE) == 2**63 - 1).all()
        assert (memory.empty((3,), torch.uint8, DEVICE) == 127).all()
    assert memory.allocation_hooks == before


def image(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta").to(memory_format=torch.channels_last)


def test_every_shipped_configuration_of_real_kernels_is_right() -> None:
    c, x = torch.empty(20, device="meta"), image(2, 20, 9, 9)
    plain = torch.empty(40, 33, dtype=torch.float16, device="meta")
    calls = [
        Call(matmul.matmul, (plain, plain.mT), {}),
        Call(batch_norm.batch_norm, (x, c, c, c, c), {}),  # changes its running statistics
    ]
    found = {p.configs.kernel: p for p in tuning.problems(calls, DEVICE)}
    for kernel in ("_matmul_kernel", "_batch_norm_statistics_kernel", "_batch_norm_apply_kernel"):
        assert [t.wrong for t in tuning.search(found[kernel], DEVICE, rounds=1) if t.wrong] == []


def test_what_a_launcher_changes_is_compared() -> None:
    """A call that writes in place has no result to be judged by."""

    def forgetful(x: torch.Tensor) -> None:
        if x.dtype == torch.float64:
            x.copy_(x * 2)

    x = torch.ones(5, device=DEVICE)
    expected = tuning.reference(Call(forgetful, (x,), {}))
    assert "off by 1" in (tuning.disagreement([x], expected) or "")


def outcome(*buffers: torch.Tensor) -> list[torch.Tensor]:
    return [x.to(DEVICE) for x in buffers]


def test_what_rounding_decides_may_differ_here_and_there() -> None:
    """An index of a maximum among equals, a mask where its argument is 0; but not many, and no index out of range."""
    values, index = torch.ones(20000, dtype=torch.bfloat16), torch.arange(100, dtype=torch.int8)
    expected = outcome(values.double(), index.double())
    turned, tied = values.clone(), index.clone()
    turned[7], tied[7] = 0, 8
    assert tuning.disagreement(outcome(turned, tied), expected) is None
    turned[:100], tied[7] = 0, 127
    assert "off by 1 where" in (tuning.disagreement(outcome(turned, index), expected) or "")
    assert "off by 120 where" in (tuning.disagreement(outcome(values, tied), expected) or "")
    tied[:20] = 8
    assert "off by" in (tuning.disagreement(outcome(values, tied), expected) or "")
    assert "off by" in (tuning.disagreement(outcome(tied), expected[1:]) or "")  # nothing was rounded


def test_sums_of_rounded_numbers_are_as_good_as_those() -> None:
    half, total = torch.ones(10, dtype=torch.bfloat16), torch.full((10,), 3.0)
    expected = outcome(half.double(), total.double() * 1.01)
    assert tuning.disagreement(outcome(half, total), expected) is None
    assert "off by" in (tuning.disagreement(outcome(total), expected[1:]) or "")


def test_problems_of_one_kernel() -> None:
    x, w = image(2, 20, 9, 9), image(24, 20, 3, 3)
    calls = [Call(conv2d.conv2d, (x, w), {}), Call(conv2d.conv2d, (x, w), {})]
    assert calls[0].label == calls[1].label
    assert [p.configs.kernel for p in tuning.problems(calls, DEVICE, "_correlate_kernel")] == ["_correlate_kernel"]
    assert tuning.problems(calls, DEVICE, "_no_such_kernel") == []
