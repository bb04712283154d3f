"""bfloat16, float16 and the 8-bit floats, bit for bit as torch has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tinyflow.kernels.interpreter import dtypes

BF16, F16 = torch.bfloat16, torch.float16
F8 = {
    "fp8e4nv": (torch.float8_e4m3fn, tl.float8e4nv),
    "fp8e5": (torch.float8_e5m2, tl.float8e5),
    "fp8e4b8": (torch.float8_e4m3fnuz, tl.float8e4b8),
    "fp8e5b16": (torch.float8_e5m2fnuz, tl.float8e5b16),
}
SPECIAL = [
    float("nan"),
    float("inf"),
    -float("inf"),
    0.0,
    -0.0,
    3.4e38,
    -3.4e38,
    1e-40,
    1 + 2**-8,
    1 + 3 * 2**-8,
    1e-45,
    65520.0,
]


@triton.jit
def cast_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n).to(out.dtype.element_ty), mask=i < n)


@triton.jit
def round_kernel(x, out, TO: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i).to(TO, fp_downcast_rounding=MODE).to(tl.float32))


@triton.jit
def arithmetic_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    m = i < n
    a, b = tl.load(x + i, mask=m, other=0.0), tl.load(y + i, mask=m, other=1.0)
    tl.store(out + i, a + b, mask=m)
    tl.store(out + n + i, a * b - b, mask=m)
    tl.store(out + 2 * n + i, tl.where(a > b, a, -b), mask=m)
    tl.store(out + 3 * n + i, tl.maximum(a, b) + 1.5, mask=m)
    tl.store(out + 4 * n + i, tl.abs(a) * 2, mask=m)
    tl.store(out + 5 * n + i, (a.to(tl.float32) / b.to(tl.float32)).to(out.dtype.element_ty), mask=m)
    tl.store(out + 6 * n + i, tl.exp(a.to(tl.float32)).to(out.dtype.element_ty), mask=m)
    tl.store(out + 7 * n + i, a + i, mask=m)
    tl.store(out + 8 * n + i, tl.where(a == b, 1.0, 0.0), mask=m)


@triton.jit
def reduce_kernel(x, out, BLOCK: tl.constexpr):
    v = tl.load(x + tl.arange(0, BLOCK))
    tl.store(out, tl.sum(v, axis=0))
    tl.store(out + 1, tl.max(v, axis=0))
    tl.store(out + 2, tl.argmax(v, axis=0))
    tl.store(out + 3, tl.sum(tl.where(v > 0, 1, 0), axis=0))
    tl.store(out + 4 + tl.arange(0, BLOCK), tl.cumsum(v, axis=0))


@triton.jit
def dot_kernel(a, b, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x, y = tl.load(a + m[:, None] * K + k[None, :]), tl.load(b + k[:, None] * N + n[None, :])
    tl.store(out + m[:, None] * N + n[None, :], tl.dot(x, y))


@triton.jit
def atomic_kernel(out, x, index, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(out + tl.load(index + i), tl.load(x + i), mask=i < BLOCK - 3)


@triton.jit
def constant_kernel(out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.full((BLOCK,), 1.00390625, out.dtype.element_ty))


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    nan = expected.float().isnan()
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]
    equal = found.view(kind) == expected.view(kind)
    return bool((equal | (nan & found.float().isnan())).all())


def cast(x: torch.Tensor, to: torch.dtype) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=to).view(torch.uint8).fill_(0xA5).view(to)
    cast_kernel[(1,)](x, out, x.numel(), triton.next_power_of_2(x.numel()))
    return out


def floats(n: int) -> torch.Tensor:
    """float32 of every magnitude, and the special ones."""
    torch.manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (n,)).to(torch.int32)
    return torch.cat([torch.tensor(SPECIAL), bits.view(torch.float32), torch.randn(n)])


@pytest.mark.parametrize("n", [200, 40_000], ids=["small", "deferred"])
@pytest.mark.parametrize("to", [BF16, F16, torch.float64])
def test_casts_from_float32(to: torch.dtype, n: int) -> None:
    x = floats(n)
    assert same_bits(cast(x, to), x.to(to))


@pytest.mark.parametrize("source", [BF16, F16])
@pytest.mark.parametrize("to", [torch.float32, torch.float64, BF16, F16])
def test_casts_of_every_16_bit_float(source: torch.dtype, to: torch.dtype) -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(source)
    assert same_bits(cast(x, to), x.to(to))


@pytest.mark.parametrize("to", [BF16, F16, torch.float32])
def test_casts_from_integers_and_float64(to: torch.dtype) -> None:
    torch.manual_seed(0)
    wide, narrow = torch.randint(-70000, 70000, (300,)), torch.randint(-128, 128, (300,), dtype=torch.int8)
    for x in (wide, narrow, torch.randn(300).double()):
        assert same_bits(cast(x, to), x.to(to))


@pytest.mark.parametrize("to", [torch.int32, torch.int64, torch.int8, torch.bool])
def test_casts_to_integers(to: torch.dtype) -> None:
    x = torch.tensor([0.0, -0.0, 1.0, -1.5, 2.5, 100.7, -100.7])
    for source in (torch.float32, BF16, F16):
        assert torch.equal(cast(x.to(source), to), x.to(source).to(to))


@pytest.mark.parametrize("name", F8)
def test_every_8_bit_float_decodes(name: str) -> None:
    x = torch.arange(256).to(torch.uint8).view(F8[name][0])
    for to in (torch.float32, BF16, F16):
        assert same_bits(cast(x, to), x.float().to(to))


@pytest.mark.parametrize("name", F8)
def test_8_bit_floats_round_to_nearest_even(name: str) -> None:
    kind = F8[name][0]
    values = torch.arange(256).to(torch.uint8).view(kind).float()
    values = values[values.isfinite()].sort().values
    middles = (values[1:] + values[:-1]) / 2
    x = torch.cat(
        [values, middles, middles.nextafter(values[1:]), middles.nextafter(values[:-1]), torch.randn(200) * 20]
    )
    x = x[x.abs() <= values.max()]
    assert same_bits(cast(x, kind), x.to(kind))
    assert cast(torch.tensor([float("nan")]), kind).float().isnan().all()


@pytest.mark.parametrize("name", F8)
def test_8_bit_floats_saturate(name: str) -> None:
    kind = F8[name][0]
    found = cast(torch.tensor([1e9, -1e9]), kind).float()
    assert found.tolist() == [torch.finfo(kind).max, torch.finfo(kind).min]


@pytest.mark.parametrize(
    ("to", "expected"), [(tl.float16, F16), (tl.bfloat16, BF16), *[(t, k) for k, t in F8.values()]]
)
def test_rounding_towards_zero(to: Any, expected: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(64) * 3
    out = torch.full((64,), float("nan"))
    round_kernel[(1,)](x, out, to, "rtz", 64)
    nearest = x.to(expected).float()
    assert (out.abs() <= x.abs()).all() and (out.to(expected).float() == out).all()
    step = (nearest - out).abs()
    assert (out[nearest.abs() <= x.abs()] == nearest[nearest.abs() <= x.abs()]).all() and (step > 0).any()


@pytest.mark.parametrize("n", [500, 40_000], ids=["small", "deferred"])
@pytest.mark.parametrize("dtype", [BF16, F16])
def test_arithmetic(dtype: torch.dtype, n: int) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(n).to(dtype), torch.randn(n).to(dtype)
    y[::7] = x[::7]
    out = torch.full((9, n), float("nan")).to(dtype)
    arithmetic_kernel[(1,)](x, y, out, n, triton.next_power_of_2(n))
    i = torch.arange(n)
    expected = [
        x + y,
        x * y - y,
        torch.where(x > y, x, -y),
        torch.maximum(x, y) + 1.5,
        x.abs() * 2,
        (x.float() / y.float()).to(dtype),
        torch.exp(x.float()).to(dtype),
        x + i.to(F16) if dtype == F16 else (x.float() + i).to(dtype),  # Triton adds integers to bfloat16 in float32
        (x == y).to(dtype),
    ]
    for n_row, row in enumerate(expected):
        if n_row == 6:  # torch's exp and numpy's may differ in the last bit of float32, hence rarely in that of dtype
            assert (out[6] != row).float().mean() < 0.01
        else:
            assert same_bits(out[n_row], row), f"result {n_row}"


@triton.jit
def column_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)[:, None]
    a = tl.load(x + i)
    tl.store(out + i, a + a)
    tl.store(out + BLOCK + i, tl.where(a > 1, a, a * 3))
    tl.store(out + 2 * BLOCK + i, (a + tl.load(x)).to(out.dtype.element_ty))


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_columns(dtype: torch.dtype) -> None:
    """An array along one axis, which integers are kept symbolic by: the bits of a float are no integers."""
    x = torch.randn(32).to(dtype)
    out = torch.zeros(3, 32, dtype=dtype)
    column_kernel[(1,)](x, out, 32)
    for found, expected in zip(out, (x + x, torch.where(x > 1, x, x * 3), x + x[0])):
        assert same_bits(found, expected)


def test_bfloat16_reductions() -> None:
    torch.manual_seed(0)
    x = torch.randn(64).to(BF16)
    out = torch.full((68,), float("nan"))
    reduce_kernel[(1,)](x, out, 64)
    assert abs(out[0] - x.double().sum()) <= 2**-8 * x.double().abs().sum() / 4 and out[0] == out[0].to(BF16)
    assert out[1] == x.max() and out[2] == x.argmax() and out[3] == (x > 0).sum()
    assert torch.allclose(out[4:].double(), x.double().cumsum(0), atol=0.1)


@pytest.mark.parametrize(
    "kinds", [(BF16, BF16), (F16, F16), (F8["fp8e5"][0], F8["fp8e5"][0])], ids=["bf16", "fp16", "fp8"]
)
def test_dot(kinds: tuple[torch.dtype, torch.dtype]) -> None:
    torch.manual_seed(0)
    for m, n, k in ((32, 16, 64), (128, 64, 128)):  # at once, and deferred
        a, b = torch.randn(m, k).to(kinds[0]), torch.randn(k, n).to(kinds[1])
        out = torch.full((m, n), float("nan"))
        dot_kernel[(1,)](a, b, out, m, n, k)
        expected = a.double() @ b.double()
        assert (out - expected).abs().max() <= 1e-6 * k**0.5 * expected.abs().max()


def test_bfloat16_atomics_add_lane_after_lane() -> None:
    torch.manual_seed(0)
    x, index = torch.randn(32).to(BF16), torch.randint(0, 4, (32,))
    out = torch.zeros(4, dtype=BF16)
    atomic_kernel[(1,)](out, x, index, 32)
    expected = torch.zeros(4, dtype=BF16)
    for value, at in list(zip(x, index))[:-3]:
        expected[at] = (expected[at].float() + value.float()).to(BF16)
    assert same_bits(out, expected)


def test_bfloat16_constants_round() -> None:
    out = torch.zeros(16, dtype=BF16)
    constant_kernel[(1,)](out, 16)
    assert (out == torch.tensor(1.00390625).to(BF16)).all()


def test_formats_are_those_of_their_tables() -> None:
    assert dtypes.FLOAT8["fp8e4b15"].decoded[0x08] == 2.0**-14 and dtypes.FLOAT8["fp8e4b15"].decoded[0x7F] == 1.875
    assert dtypes.FLOAT8["fp8e4nv"].magnitudes[-1] == 448 and dtypes.FLOAT8["fp8e5"].magnitudes[-1] == 57344
