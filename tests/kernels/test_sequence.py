"""Number sequences in every dtype, counted from both ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyflow.kernels import launch, sequence

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [0, 1, 2, 1023, 2049])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_floating(n: int, dtype: torch.dtype) -> None:
    with sequence.sequence_configs.forced(sequence.sequence_configs.shipped[0]):
        got = sequence.sequence(n, -1.0, 0.1, -1.0 + (n - 1) * 0.1, dtype, CPU)
    assert got.dtype == dtype and got.shape == (n,)
    expected = torch.from_numpy(-1.0 + 0.1 * np.arange(n)).to(dtype)
    torch.testing.assert_close(
        got, expected, rtol=torch.finfo(dtype).eps, atol=1e-15 if dtype == torch.float64 else 1e-6
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8], ids=str)
def test_integers(dtype: torch.dtype) -> None:
    with sequence.sequence_configs.forced(launch.Config({"BLOCK": 16})):
        got = sequence.sequence(35, 5, 3, 5 + 34 * 3, dtype, CPU)
    assert torch.equal(got, torch.arange(5, 108, 3, dtype=dtype))


def test_large_integers_are_exact() -> None:
    first = 2**62 + 1
    assert sequence.sequence(3, first, -1, first - 2, torch.int64, CPU).tolist() == [first, first - 1, first - 2]


def test_fractions_truncate_into_integers() -> None:
    assert sequence.sequence(5, 0, 2.5, 10, torch.int64, CPU).tolist() == [0, 2, 5, 7, 10]
    assert sequence.sequence(4, -5, 10 / 3, 5, torch.int32, CPU).tolist() == [-5, -1, 1, 5]


def test_the_end_is_exact() -> None:
    got = sequence.sequence(10, -1.0, 2 / 9, 1.0, torch.float64, CPU)
    assert got[-1].item() == 1.0 and torch.equal(-got.flip(0), got)


def test_cost_and_meta() -> None:
    with launch.count() as records:
        x = sequence.sequence(7, 0.0, 1.0, 6.0, torch.float16, torch.device("meta"))
        sequence.sequence(0, 0.0, 1.0, 0.0, torch.float16, torch.device("meta"))
    assert x.shape == (7,) and [(r.kernel, r.cost) for r in records] == [("_sequence_kernel", launch.Cost(14, 14))]


def test_unknown_dtype() -> None:
    with pytest.raises(TypeError, match="not supported"):
        sequence.sequence(3, 0, 1, 2, torch.complex64, CPU)
