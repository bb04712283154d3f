"""Matrix product: against float64 torch, at every configuration that ships, in any layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import launch
from tinyflow.kernels import matmul as kernels
from tinyflow.kernels.precision import tf32


@pytest.fixture(autouse=True)
def _exact_products_on_the_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tf32, "convolution", False)
    with torch.device(tinyflow.get_default_device()):
        yield


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def assert_product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    y = kernels.matmul(a, b, bias)
    expected = a.double() @ b.double()
    if bias is not None:
        expected = expected + bias.double()
    assert y.dtype == a.dtype
    assert y.is_contiguous()
    assert_close(y, expected, max(a.shape[-1], 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 1, 1), (17, 31, 13), (3, 65, 130), (128, 64, 32)],
    ids=["ones", "primes", "over a power of two", "powers of two"],
)
def test_agrees_with_float64(m: int, k: int, n: int, dtype: torch.dtype) -> None:
    assert_product(torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), torch.randn(n, dtype=dtype))


@pytest.mark.parametrize("config", kernels.matmul_configs.shipped, ids=lambda c: str(dict(c.blocks)))
def test_every_shipped_config(config: launch.Config) -> None:
    """Two tiles in each dimension, ragged; with K split, some shares have more to add than others or nothing."""
    tiles = config.blocks
    m, n, k = (2 * tiles[f"BLOCK_{axis}"] - 3 for axis in "MNK")
    with kernels.matmul_configs.forced(config):
        assert_product(torch.randn(m, k), torch.randn(k, n), torch.randn(n))


@pytest.mark.parametrize("config", [None, kernels.matmul_configs.shipped[5]], ids=["whole", "split"])
def test_a_result_wider_than_its_factors_is_not_rounded_to_them(config: launch.Config | None) -> None:
    a, b, bias = (torch.randn(*shape).bfloat16() for shape in ((37, 100), (100, 9), (9,)))
    with kernels.matmul_configs.forced(config) if config else contextlib.nullcontext():
        y = kernels.matmul(a, b, bias, dtype=torch.float32)
    assert y.dtype == torch.float32
    assert_close(y, a.double() @ b.double() + bias.double(), 100)


@pytest.mark.parametrize("config", kernels.matmul_configs.shipped[5:7], ids=lambda c: str(dict(c.blocks)))
def test_split_sum_is_deterministic_and_batched(config: launch.Config) -> None:
    a, b = torch.randn(2, 5, 200), torch.randn(2, 200, 3)
    with kernels.matmul_configs.forced(config):
        first = kernels.matmul(a, b, torch.randn(5, 1) * 0 + 1)
        assert torch.equal(first, kernels.matmul(a, b, torch.ones(5, 1)))
        assert_product(a, b, torch.randn(2, 1, 3))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (lambda: torch.randn(7, 5).T, lambda: torch.randn(9, 7).T),
        (lambda: torch.randn(10, 14)[::2, ::2], lambda: torch.randn(7, 30)[:, 3:25:3]),
        (lambda: torch.randn(1, 7).expand(5, 7), lambda: torch.randn(7, 1).expand(7, 4)),
        (lambda: torch.randn(5, 3, 2, 7).permute(2, 1, 0, 3), lambda: torch.randn(7, 4)),
        (lambda: torch.randn(3, 5, 7), lambda: torch.randn(1, 7, 4).expand(3, 7, 4)),
        (lambda: torch.randn(5, 7), lambda: torch.randn(2, 3, 7, 4)),
        (lambda: torch.randn(2, 1, 5, 7), lambda: torch.randn(3, 7, 4)),
        (lambda: torch.randn(3, 1, 7), lambda: torch.randn(3, 7, 1)),
    ],
    ids=[
        "transposed",
        "strided",
        "expanded",
        "rows merge in part",
        "shared b",
        "shared a",
        "both broadcast",
        "vectors",
    ],
)
def test_layouts_and_batches(a, b) -> None:
    assert_product(a(), b())


@pytest.mark.parametrize(
    "shape",
    [(4,), (1,), (5, 4), (5, 1), (2, 1, 1, 4), (2, 3, 5, 4), ()],
    ids=lambda s: "x".join(map(str, s)) or "scalar",
)
def test_bias_broadcasts(shape: tuple[int, ...]) -> None:
    assert_product(torch.randn(2, 3, 5, 6), torch.randn(6, 4), torch.randn(shape))


def test_wide_offsets() -> None:
    with launch.wide_offsets():
        assert_product(torch.randn(2, 5, 6), torch.randn(2, 6, 4), torch.randn(4))


def test_no_terms_give_the_bias() -> None:
    bias = torch.randn(4)
    assert torch.equal(kernels.matmul(torch.empty(3, 0), torch.empty(0, 4)), torch.zeros(3, 4))
    assert torch.equal(kernels.matmul(torch.empty(3, 0), torch.empty(0, 4), bias), bias.expand(3, 4))


@pytest.mark.parametrize(("a", "b"), [((0, 3), (3, 4)), ((5, 3), (3, 0)), ((0, 5, 3), (0, 3, 4))], ids=str)
def test_empty_results(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert_product(torch.randn(a), torch.randn(b))


def test_nan_and_infinity_spread_as_in_torch() -> None:
    a, b = torch.randn(4, 5), torch.randn(5, 3)
    a[1, 2], b[0, 1] = float("nan"), float("inf")
    torch.testing.assert_close(kernels.matmul(a, b), a @ b, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_integers_wrap_as_in_torch(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    a = torch.randint(info.min, info.max, (5, 19), dtype=dtype)
    b = torch.randint(info.min, info.max, (19, 37), dtype=dtype)
    bias = torch.randint(info.min, info.max, (37,), dtype=dtype)
    product = a.cpu() @ b.cpu()  # which torch has on the CPU alone
    with kernels.integer_matmul_configs.forced(kernels.integer_matmul_configs.shipped[0]):
        assert torch.equal(kernels.matmul(a, b, bias).cpu(), product + bias.cpu())
    assert torch.equal(kernels.matmul(a, b).cpu(), product)


def test_counts_work_and_bytes() -> None:
    with launch.count() as records:
        kernels.matmul(
            torch.empty(3, 5, 7, device="meta"), torch.empty(7, 4, device="meta"), torch.empty(4, device="meta")
        )
    assert sum(r.cost.flops for r in records) == 2 * 3 * 5 * 7 * 4
    assert sum(r.cost.bytes for r in records) == 4 * (3 * 5 * 7 + 7 * 4 + 4 + 3 * 5 * 4)


@pytest.mark.parametrize("config", [None, *kernels.sum_partials_configs.shipped], ids=str)
@pytest.mark.parametrize("count", [1, 5, 70])
def test_sum_partials_rounds_once(count, config) -> None:
    partials = torch.randint(-(2**15), 2**15, (count, 3, 700)) / 2**12  # whose sums are exact in any order
    out = torch.full((3, 700), float("nan"), dtype=torch.float16)
    with kernels.sum_partials_configs.forced(config) if config else contextlib.nullcontext():
        kernels.sum_partials(partials, out)
    assert torch.equal(out, partials.sum(0).half())


@pytest.mark.parametrize(
    ("a", "b", "bias", "error", "message"),
    [
        (
            torch.ones(2, 3),
            torch.ones(4, 5),
            None,
            RuntimeError,
            r"expected b with 3 rows .*\(2, 3\), got b .*\(4, 5\)",
        ),
        (torch.ones(3), torch.ones(3, 5), None, RuntimeError, r"2 or more dimensions, got \(3,\) and \(3, 5\)"),
        (torch.ones(2, 4, 3), torch.ones(3, 3, 5), None, RuntimeError, "do not broadcast"),
        (
            torch.ones(2, 3),
            torch.ones(3, 5).double(),
            None,
            RuntimeError,
            "one dtype, got a torch.float32, b torch.float64",
        ),
        (
            torch.ones(2, 3).long(),
            torch.ones(3, 5).int(),
            None,
            RuntimeError,
            "one dtype, got torch.int64, torch.int32",
        ),
        (torch.ones(2, 3).bool(), torch.ones(3, 5).bool(), None, TypeError, "floating-point a, got torch.bool"),
        (
            torch.ones(2, 3),
            torch.ones(3, 5),
            torch.ones(4, 2, 5),
            RuntimeError,
            r"bias that broadcasts to \(2, 5\), got",
        ),
        (torch.ones(2, 3), torch.ones(3, 5, device="meta"), None, RuntimeError, "one device, got a on cpu, b on meta"),
    ],
    ids=["rows", "vector", "batch", "dtypes", "integer dtypes", "bool", "bias", "devices"],
)
def test_errors(a, b, bias, error, message) -> None:
    with pytest.raises(error, match=message):
        kernels.matmul(a, b, bias)
