"""Philox numbers: the published test vectors, independence of tiles, exact ranges, and the shape of each
distribution."""

from __future__ import annotations

import math

import pytest
import torch

from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import launch, random
from tinyflow.kernels.launch import Config

FLOATING = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
BITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
N = 20011


def philox(counter: int, key: int) -> list[int]:
    """Philox4x32-10, written from the paper: four words of a 128-bit counter."""
    c = [counter >> 32 * k & 0xFFFFFFFF for k in range(4)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def test_reference_has_the_published_vectors() -> None:
    """The known answers of the authors' Random123 library."""
    assert philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox(2**128 - 1, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize(("seed", "offset"), [(0, 0), (2**64 - 1, 2**32 - 3), (12345678901234567890, 2**63 + 5)])
def test_bits_are_philox(seed: int, offset: int) -> None:
    words = [w for k in range(5) for w in philox((offset + k) % 2**64, seed)]
    uniform = random.uniform(torch.empty(18), seed, offset)
    assert uniform.tolist() == [(w >> 8) / 2**24 for w in words[:18]]
    wide = [words[2 * k] | words[2 * k + 1] << 32 for k in range(10)]
    assert random.uniform(torch.empty(9, dtype=torch.float64), seed, offset).tolist() == [
        (w >> 11) / 2**53 for w in wide[:9]
    ]
    drawn = random.integers(torch.empty(9, dtype=torch.int64), seed, offset, -7, 10**15)
    assert drawn.tolist() == [(w * (10**15 + 7) >> 64) - 7 for w in wide[:9]]


def _draws(dtype: torch.dtype, n: int = 1003) -> list[torch.Tensor]:
    out = [
        random.uniform(torch.empty(n, dtype=dtype), 1, 2, -1.0, 2.0),
        random.normal(torch.empty(n, dtype=dtype), 1, 2),
        random.exponential(torch.empty(n, dtype=dtype), 1, 2),
        random.bernoulli(torch.empty(n, dtype=dtype), 1, 2, 0.3),
        random.integers(torch.empty(n, dtype=dtype), 1, 2, 0, 9),
        random.dropout(torch.ones(n, dtype=dtype), 0.3, 1, 2),
    ]
    return [*out, random.permutation(n, torch.device("cpu"), 1, 2)]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("block", [64, 256])
def test_tiles_do_not_matter(dtype: torch.dtype, block: int) -> None:
    config = Config({"BLOCK": block})
    whole = _draws(dtype)
    with random.random_configs.forced(config), random.dropout_configs.forced(config):
        assert all(torch.equal(a, b) for a, b in zip(_draws(dtype), whole))


def test_an_element_depends_on_its_number_alone() -> None:
    long = random.normal(torch.empty(1000), 3, 10)
    assert torch.equal(random.normal(torch.empty(8), 3, 10), long[:8])
    assert torch.equal(random.normal(torch.empty(8), 3, 12), long[8:16])  # four float32 a counter
    strided = torch.empty(10, 100).t()
    assert torch.equal(random.normal(strided, 3, 10).reshape(-1), long)
    assert not torch.equal(random.normal(torch.empty(1000), 4, 10), long)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_uniform(dtype: torch.dtype) -> None:
    u = random.uniform(torch.empty(N, dtype=dtype), 7, 0)
    assert u.dtype == dtype
    steps = u.double() * 2 ** BITS[dtype]
    assert (steps == steps.round()).all()
    assert u.min() >= 0
    assert u.max() < 1
    _assert_distribution(u.double() + 0.5 / 2 ** BITS[dtype], lambda x: x, 1 / 2 ** BITS[dtype])


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0 + 2**-6), (-3.0, -2.9), (1000.0, 1001.0), (0.0, 1e-30), (2.0, 2.0)]
)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_uniform_never_reaches_high(dtype: torch.dtype, low: float, high: float) -> None:
    """A narrow interval has few numbers in it, and rounding to nearest would often give its end."""
    u = random.uniform(torch.empty(2000, dtype=dtype), 7, 0, low, high).double()
    nearest = torch.tensor(low, dtype=dtype).double()
    assert (u >= min(low, nearest)).all()
    assert ((u < high) | (u == nearest)).all()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_normal(dtype: torch.dtype) -> None:
    z = random.normal(torch.empty(N, dtype=dtype), 11, 0, 3.0, 0.5)
    assert z.isfinite().all()
    z = (z.double() - 3) / 0.5
    grain = 8 * torch.finfo(dtype).eps  # of a number near 3, in standard deviations
    _assert_distribution(z, lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2))), grain)
    pairs = z[: N // 2 * 2].reshape(-1, 2)
    assert abs((pairs[:, 0] * pairs[:, 1]).mean()) < 4 / math.sqrt(len(pairs))  # the two of a point are independent
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / N)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_exponential(dtype: torch.dtype) -> None:
    x = random.exponential(torch.empty(N, dtype=dtype), 5, 0, 2.0)
    assert (x > 0).all()
    assert x.isfinite().all()
    _assert_distribution(x.double(), lambda t: 1 - torch.exp(-2 * t), 0.0)


def test_the_ends_of_a_word() -> None:
    """Counters found by search: the largest words round to 1 in float32, whose log is 0; the least are next to 0."""
    largest, least = 11031643, 48643752
    assert philox(largest, 0)[3] == 0xFFFFFFCC
    assert philox(least, 0)[0] == 21
    assert (random.exponential(torch.empty(4), 0, largest) > 0).all()
    assert random.uniform(torch.empty(4), 0, largest).max() < 1
    assert (random.exponential(torch.empty(4), 0, least)[0] - math.log(2**32 / 22)).abs() < 1e-5
    assert random.normal(torch.empty(4), 0, least)[:2].norm() == pytest.approx(math.sqrt(2 * math.log(2**32 / 22)))


def _assert_distribution(x: torch.Tensor, cumulative, grain: float) -> None:
    """Kolmogorov and Smirnov's distance, below its bound at one in a million (plus the grain of a rounded number)."""
    rank = torch.arange(len(x), dtype=torch.float64) / len(x)
    distance = (cumulative(x.sort().values) - rank).abs().max()
    assert distance < 2.7 / math.sqrt(len(x)) + grain


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.uint8], ids=str)
def test_bernoulli(p: float, dtype: torch.dtype) -> None:
    x = random.bernoulli(torch.empty(N, dtype=dtype), 5, 0, p).double()
    assert ((x == 0) | (x == 1)).all()
    assert abs(x.mean() - p) <= 5 * math.sqrt(p * (1 - p) / N)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32], ids=str)
def test_integers(dtype: torch.dtype) -> None:
    x = random.integers(torch.empty(N, dtype=dtype), 5, 0, 3, 10)
    counts = torch.bincount(x.long(), minlength=10)
    assert counts[:3].sum() == 0
    expected = N / 7
    assert ((counts[3:] - expected) ** 2 / expected).sum() < 35  # chi-squared with 6 degrees of freedom: one in 10^5


def test_integers_of_all_64_bits() -> None:
    x = random.integers(torch.empty(1000, dtype=torch.int64), 5, 0, -(2**63), 2**63)
    assert x.min() < -(2**62)
    assert x.max() > 2**62


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_permutation(n: int) -> None:
    order = random.permutation(n, torch.device("cpu"), 3, 4)
    assert sorted(order.tolist()) == list(range(n))


def test_permutation_has_no_pattern() -> None:
    n = 4000
    order = random.permutation(n, torch.device("cpu"), 8, 0)
    for pattern in ((order - torch.arange(n)) % n, (order + torch.arange(n)) % n, (order - order.roll(1)) % n):
        counts = torch.bincount(pattern * 10 // n, minlength=10)
        assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 40  # chi-squared with 9 degrees of freedom: one in 10^5
    assert (order == torch.arange(n)).sum() < 12  # a fixed point is expected once


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_dropout(dtype: torch.dtype) -> None:
    x = torch.randn(40, 33).to(dtype)
    y = random.dropout(x, 0.25, 9, 4)
    kept = y != 0
    assert abs(kept.double().mean() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / x.numel())
    torch.testing.assert_close(y[kept], (x.double() / 0.75).to(dtype)[kept])
    ones = random.dropout(torch.ones_like(x), 0.25, 9, 4)
    assert torch.equal(ones != 0, kept)  # the derivative has the mask of the value


def test_dropout_numbers_elements_row_major() -> None:
    """A gradient may lie in memory unlike its tensor; the mask must be the same."""
    x = torch.ones(3, 5, 4, 2)
    expected = random.dropout(x, 0.5, 1, 2)
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    ):
        y = random.dropout(other, 0.5, 1, 2)
        assert y.stride() == other.stride()
        assert torch.equal(y, expected)
    gaps = torch.ones(6, 5, 4, 4)[::2, :, :, ::2]
    with launch.wide_offsets():
        assert torch.equal(random.dropout(gaps, 0.5, 1, 2), expected)


def test_dropout_of_all_and_of_none() -> None:
    x = torch.tensor([1.0, float("inf"), -2.0])
    assert random.dropout(x, 1.0, 1, 2).tolist() == [0, 0, 0]
    assert random.dropout(x, 0.0, 1, 2).tolist() == x.tolist()
    assert random.dropout(torch.empty(0, 3), 0.5, 1, 2).shape == (0, 3)


def test_errors() -> None:
    x = torch.empty(3)
    with pytest.raises(RuntimeError, match=r"uniform: expected low <= high, got low 2.0 and high 1.0"):
        random.uniform(x, 0, 0, 2.0, 1.0)
    with pytest.raises(RuntimeError, match=r"longer than torch.float16 can hold"):
        random.uniform(x.half(), 0, 0, -5e4, 5e4)
    with pytest.raises(TypeError, match=r"normal: expected floating-point out, got torch.int64"):
        random.normal(x.long(), 0, 0)
    with pytest.raises(RuntimeError, match=r"normal: expected std >= 0, got -1.0"):
        random.normal(x, 0, 0, 0.0, -1.0)
    with pytest.raises(RuntimeError, match="exponential: expected rate > 0, got 0"):
        random.exponential(x, 0, 0, 0)
    with pytest.raises(RuntimeError, match=r"bernoulli: expected 0 <= p <= 1, got 1.5"):
        random.bernoulli(x, 0, 0, 1.5)
    with pytest.raises(RuntimeError, match="integers: expected low < high, got low 3 and high 3"):
        random.integers(x, 0, 0, 3, 3)
    with pytest.raises(ValueError, match=r"dropout: probability has to be between 0 and 1, got -0.1"):
        random.dropout(x, -0.1, 0, 0)
