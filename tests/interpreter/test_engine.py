"""How values are kept: deferred, shared out to threads, read in place, remembered. None of it may show in a result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from tinyflow.kernels import interpreter
from tinyflow.kernels.interpreter import launch, memo, observer, products, threads


@pytest.fixture(autouse=True)
def _installed() -> Any:
    with interpreter.use():
        yield


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(threads, "CORES", request.param)
    monkeypatch.setattr(threads, "_team", None)
    monkeypatch.setattr(threads._load, "has_idle_core", lambda: True)
    return request.param


@triton.jit
def scale_kernel(x, s, out, n, BLOCK: tl.constexpr, C: tl.constexpr):
    i, c = tl.arange(0, BLOCK), tl.arange(0, C)
    m = (i < n)[:, None]
    v = tl.load(x + i[:, None] * C + c[None, :], mask=m, other=0.0)
    y = tl.maximum(v * tl.load(s + c)[None, :] + 0.5, 0.0)
    tl.store(out + i[:, None] * C + c[None, :], y, mask=m)
    tl.store(s + c, tl.sum(y, axis=0))


def test_threads_share_out_expressions(cores: int) -> None:
    torch.manual_seed(0)
    x, s, out = torch.randn(2000, 64), torch.randn(64), torch.full((2048, 64), float("nan"))
    expected = torch.relu(x * s + 0.5)
    scale_kernel[(1,)](x, s, out, 2000, 2048, 64)
    assert torch.equal(out[:2000], expected) and out[2000:].isnan().all()
    assert torch.allclose(s, expected.sum(0) + 48 * 0.5, rtol=1e-4)


@triton.jit
def taps_kernel(x, w, out, rows, TAPS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    acc = tl.zeros((M, N), tl.float32)
    for tap in range(TAPS):
        row = (m * 7 + tap * 3) % rows
        ok = (row != 5) & (m < M - 9)
        a = tl.load(x + row[:, None] * K + k[None, :], mask=ok[:, None] & (k < K - 3)[None, :], other=0.0)
        b = tl.load(w + (tap * K + k)[:, None] * N + n[None, :])
        acc = tl.dot(a, b, acc)
        if tap == 2:
            tl.store(out + M * N + m[:, None] * N + n[None, :], acc)
    tl.store(out + m[:, None] * N + n[None, :], acc * 2)


def test_threads_share_out_products(cores: int) -> None:
    torch.manual_seed(0)
    taps, m, n, k, rows = 5, 1024, 32, 64, 500
    x, w, out = torch.randn(rows, k), torch.randn(taps, k, n), torch.full((2, m, n), float("nan"))
    taps_kernel[(1,)](x, w, out, rows, taps, m, n, k)
    acc = torch.zeros(m, n, dtype=torch.float64)
    for tap in range(taps):
        row = (torch.arange(m) * 7 + tap * 3) % rows
        a = x[row].double()
        a[(row == 5) | (torch.arange(m) >= m - 9)] = 0
        a[:, k - 3 :] = 0
        acc += a @ w[tap].double()
        if tap == 2:
            assert (out[1] - acc).abs().max() < 1e-4
    assert (out[0] - acc * 2).abs().max() < 2e-4


def test_threads_report_errors(cores: int) -> None:
    def make_worker() -> Any:
        def work(item: int) -> None:
            if item == 37:
                raise ValueError("item 37")

        return work

    with pytest.raises(ValueError, match="item 37"):
        threads.share(list(range(100)), make_worker, parallel=True)


@triton.jit
def weight_gradient_kernel(x, g, out, P: tl.constexpr, C: tl.constexpr, K: tl.constexpr):
    p, c, k = tl.arange(0, P), tl.arange(0, C), tl.arange(0, K)
    a = tl.load(x + p[:, None] * C + c[None, :], mask=(p % 5 != 0)[:, None], other=0.0)
    b = tl.load(g + p[:, None] * K + k[None, :])
    acc = tl.dot(tl.trans(a), b)
    tl.store(out + c[:, None] * K + k[None, :], tl.dot(tl.trans(a), b, acc))


@pytest.mark.parametrize("p", [products._DEEP // 2, products._DEEP, 4 * products._DEEP])
def test_sums_over_many_rows(cores: int, p: int) -> None:
    torch.manual_seed(0)
    x, g, out = torch.randn(p, 32), torch.randn(p, 16), torch.full((32, 16), float("nan"))
    weight_gradient_kernel[(1,)](x, g, out, p, 32, 16)
    kept = x.double() * (torch.arange(p) % 5 != 0)[:, None]
    expected = 2 * kept.T @ g.double()
    assert (out - expected).abs().max() <= 3e-7 * p**0.5 * expected.abs().max()


@triton.jit
def masked_factor_kernel(x, out, n, M: tl.constexpr, K: tl.constexpr):
    m, k = tl.arange(0, M), tl.arange(0, K)
    at = m[:, None] * K + k[None, :]
    a = tl.load(x + at, mask=(m < n)[:, None], other=2.0)
    tl.store(out + at, tl.dot(a, tl.trans(tl.load(x + at)), tl.dot(tl.trans(a), a) * 0))


def test_a_factor_may_be_all_fill() -> None:
    x, out = torch.randn(128, 128), torch.empty(128, 128)
    masked_factor_kernel[(1,)](x, out, 0, 128, 128)
    assert torch.allclose(out, torch.full((128, 128), 2.0) @ x.T, atol=1e-3)


@triton.jit
def chain_kernel(x, out, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    for _ in range(STEPS):
        v = v * 0.5 + tl.load(x + i)
    tl.store(out + i, v)


def test_long_expressions_are_cut() -> None:
    n = 1 << 15
    x, out = torch.randn(n), torch.empty(n)
    chain_kernel[(1,)](x, out, 200, n)
    expected = x.clone()
    for _ in range(200):
        expected = expected * 0.5 + x
    assert torch.equal(out, expected)


@triton.jit
def in_place_kernel(p, g, old, n, lr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(p + i, mask=i < n, other=0.0)
    tl.store(p + i, v - lr * tl.load(g + i, mask=i < n, other=0.0), mask=i < n)
    tl.store(old + i, v, mask=i < n)


def test_a_value_outlives_the_memory_it_came_from() -> None:
    n = 70_000
    p, g, old = torch.randn(n), torch.randn(n), torch.empty(n)
    before = p.clone()
    in_place_kernel[(2,)](p, g, old, n, 0.5, 1 << 16)
    assert torch.equal(old, before) and torch.equal(p, before - 0.5 * g)


@triton.jit
def update_kernel(p, g, HOW: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(p + i)
    if HOW == 0:  # nothing else asks for what is overwritten
        v = v - 0.5 * tl.load(g + i)
        tl.store(p + i, v)
    elif HOW == 1:  # the old value is stored as well
        tl.store(p + i, v - 0.5 * tl.load(g + i))
        tl.store(g + i, v)
    elif HOW == 2:  # so is a value made from it
        w = v * v
        v = w - v
        tl.store(p + i, v)
        tl.store(g + i, w)
    elif HOW == 3:  # one element further on
        tl.store(p + 1 + i, v * 2)
    else:  # a value that is not element-wise alone
        tl.store(p + i, tl.where(v > 0, v, -1.0) - tl.sum(v, axis=0))


@pytest.mark.parametrize("how", range(5))
def test_updates_in_place(cores: int, how: int) -> None:
    n = 1 << 16
    p, g = torch.randn(n + 1), torch.randn(n)
    v = p[:n].clone()
    expected_p, expected_g = p.clone(), g.clone()
    if how in (0, 1):
        expected_p[:n] = v - 0.5 * g
        expected_g = expected_g if how == 0 else v
    elif how == 2:
        expected_p[:n], expected_g = v * v - v, v * v
    elif how == 3:
        expected_p[1:] = v * 2
    update_kernel[(1,)](p, g, how, n)
    if how == 4:
        expected_p[:n] = torch.where(v > 0, v, -1.0) - v.double().sum().float()
        assert torch.allclose(p, expected_p, atol=1e-3)
    else:
        assert torch.equal(p, expected_p) and torch.equal(g, expected_g)


@triton.jit
def _shifted(i):
    return i * 3 + 1


@triton.jit
def _own_index(i):
    return i + tl.program_id(0) * 100


@triton.jit
def _fetched(pointer):
    return tl.load(pointer) + 1


@triton.jit
def remembered_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    base = out + tl.program_id(0) * 3 * BLOCK + i
    tl.store(base, _shifted(i) + n)
    tl.store(base + BLOCK, _own_index(i))
    tl.store(base + 2 * BLOCK, _fetched(x + i % n))


def test_what_is_remembered_is_the_same_again() -> None:
    i = torch.arange(16)
    for n in (3, 5, 3, 7, 5):
        x = torch.randint(0, 99, (n,))
        out = torch.zeros(2, 3, 16, dtype=torch.int64)
        remembered_kernel[(2,)](x, out, n, 16)
        for program in range(2):
            assert torch.equal(out[program, 0], i * 3 + 1 + n)
            assert torch.equal(out[program, 1], i + program * 100)
            assert torch.equal(out[program, 2], x[i % n] + 1)


def test_memory_of_index_arithmetic_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "_MOST_ENTRIES", 50)
    for n in range(1, 40):
        out = torch.zeros(1, 3, 16, dtype=torch.int64)
        remembered_kernel[(1,)](torch.arange(n), out, n, 16)
        assert torch.equal(out[0, 2], torch.arange(16) % n + 1)
        assert len(memo._entries) <= 50


def test_every_access_is_observed() -> None:
    seen: list[tuple[Any, ...]] = []

    class Recorder:
        def on_launch(self, kernel: Any, arguments: Any, grid: Any) -> None:
            seen.append(("launch", kernel.__name__, sorted(arguments), grid))

        def on_program(self, index: Any) -> None:
            assert launch.program() == index
            seen.append(("program", index))

        def on_load(self, pointer: Any, mask: Any, other: Any) -> None:
            seen.append(("load", pointer.data.shape, None if mask is None else int(mask.data.sum())))

        def on_store(self, pointer: Any, value: Any, mask: Any) -> None:
            seen.append(("store", value.data.tolist()[:2], int(mask.data.sum())))

        def on_atomic(self, pointer: Any, value: Any, mask: Any) -> None:
            raise AssertionError("no atomic here")

        def on_finish(self, kernel: Any, arguments: Any) -> None:
            seen.append(("finish",))

    before = observer.observe(Recorder())
    try:
        p, g, old = torch.ones(5), torch.ones(5), torch.empty(5)
        in_place_kernel[(1,)](p, g, old, 5, 0.5, 8)
    finally:
        assert isinstance(observer.observe(before), Recorder)
    assert seen == [
        ("launch", "in_place_kernel", ["BLOCK", "g", "lr", "n", "old", "p"], (1, 1, 1)),
        ("program", (0, 0, 0)),
        ("load", (8,), 5),
        ("load", (8,), 5),
        ("store", [0.5, 0.5], 5),
        ("store", [1.0, 1.0], 5),
        ("finish",),
    ]


def _philox(counter: int, seed: int, rounds: int = 10) -> int:
    """The first word of Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3)."""
    c, k = [counter, 0, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(rounds):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c[0]


@triton.jit
def random_kernel(out, seed, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.randint(seed, i))


@pytest.mark.parametrize("seed", [0, 42, 2**33 + 5])
def test_random_numbers_are_philox(seed: int) -> None:
    out = torch.zeros(64, dtype=torch.int32)
    random_kernel[(1,)](out, seed, 64)
    assert [v & 0xFFFFFFFF for v in out.tolist()] == [_philox(i, seed) for i in range(64)]


@triton.jit
def high_kernel(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.umulhi(tl.load(x + i), tl.load(y + i)))


@pytest.mark.parametrize("bits", [32, 64])
def test_high_halves_of_products(bits: int) -> None:
    rng = np.random.default_rng(0)
    kind = {32: np.uint32, 64: np.uint64}[bits]
    x, y = (rng.integers(0, 2**bits, 32, dtype=kind) for _ in "xy")
    out = torch.zeros(32, dtype={32: torch.int32, 64: torch.int64}[bits])
    signed = out.numpy().dtype
    high_kernel[(1,)](torch.from_numpy(x.view(signed)), torch.from_numpy(y.view(signed)), out, 32)
    assert [v % 2**bits for v in out.tolist()] == [int(a) * int(b) >> bits for a, b in zip(x, y)]


@triton.jit
def erf_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.erf(tl.load(x + i)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_erf_rounds_as_one_by_one(dtype: torch.dtype) -> None:
    """Small, large and special values, all points between two of the tables, and enough of them that some are unsure."""
    special = [0.0, -0.0, 1e-45, -1e-40, 1e-20, 4.2499, -4.25, 4.26, 1e30, math.inf, -math.inf, math.nan]
    x = torch.cat([torch.tensor(special), torch.linspace(-5, 5, 50_000), torch.randn(1 << 17) * 1.5])[: 1 << 17]
    x = x.to(dtype)
    out = torch.empty_like(x)
    erf_kernel[(1,)](x, out, x.numel())
    expected = torch.tensor([math.erf(v) for v in x.tolist()], dtype=torch.float64).to(dtype)
    assert torch.equal(out.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    assert torch.equal(torch.signbit(out[:11]), torch.signbit(expected[:11]))


@triton.jit
def histogram_kernel(x, out, n, BLOCK: tl.constexpr, BINS: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + tl.arange(0, BINS), tl.histogram(tl.load(x + i, mask=i < n, other=-1), BINS))


def test_histograms_drop_what_is_outside() -> None:
    x = torch.tensor([0, 1, 1, 7, 8, 9, -3, 3])
    out = torch.full((8,), -1, dtype=torch.int32)
    histogram_kernel[(1,)](x.int(), out, 7, 8, 8)
    assert out.tolist() == [1, 2, 0, 0, 0, 0, 0, 1]


@triton.jit
def grid_kernel(out):
    tl.store(out + tl.program_id(0), 1.0)


def test_a_grid_of_four_dimensions_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"grid must have one to three dimensions, got \(1, 1, 1, 1\)"):
        grid_kernel[(1, 1, 1, 1)](torch.zeros(1))


def test_a_missing_argument_is_an_error() -> None:
    with pytest.raises((TypeError, InterpreterError), match="missing"):
        in_place_kernel[(1,)](torch.zeros(1), BLOCK=8)
