"""The mean of each map and a linear layer in one kernel, against float64 torch."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F

from tests.closeness import assert_close
from tinyflow.kernels import launch, memory
from tinyflow.kernels.fused.head import fits_mean_linear, mean_linear, mean_linear_configs

DEVICE = memory.get_default_device()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def to(x: torch.Tensor) -> torch.Tensor:
    return x.to(DEVICE)


def assert_agrees(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Up to the mean, which torch rounds as we do."""
    out = mean_linear(to(x), to(weight), None if bias is None else to(bias))
    mean = x.double().mean((2, 3)).to(x.dtype)
    assert out.dtype == x.dtype
    assert out.shape == (x.shape[0], weight.shape[0])
    expected = F.linear(mean.double(), weight.double(), None if bias is None else bias.double())
    assert_close(out, expected, x.shape[1])


#: Images, channels, height and width, classes: odd and prime; one pixel; one of everything; no images; no classes.
PROBLEMS = [(3, 5, 3, 5, 7), (2, 37, 1, 1, 3), (1, 1, 1, 1, 1), (0, 3, 2, 2, 2), (2, 3, 2, 2, 0)]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_odd_sizes(problem) -> None:
    n, c, h, w, k = problem
    assert_agrees(torch.randn(n, c, h, w), torch.randn(k, c), torch.randn(k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype) -> None:
    x = torch.randn(2, 19, 3, 5).to(dtype).contiguous(memory_format=torch.channels_last)
    assert_agrees(x, torch.randn(11, 19).to(dtype), None)


def test_any_strides() -> None:
    x = torch.randn(1, 5, 1, 6).expand(2, 5, 3, 6)[:, :, :, ::2]
    assert_agrees(x, torch.randn(5, 4).T, torch.randn(8)[::2])


@pytest.mark.parametrize("config", mean_linear_configs.shipped, ids=lambda c: str(c.blocks))
def test_shipped_configurations(config) -> None:
    # two ragged tiles of pixels, of channels, of classes
    size = {name: size + 3 for name, size in config.blocks.items()}
    x = torch.randn(2, size["BLOCK_C"], size["BLOCK_P"], 1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mean_linear_configs.forced(config))
        stack.enter_context(launch.wide_offsets())
        assert_agrees(x, torch.randn(size["BLOCK_K"], size["BLOCK_C"]), torch.randn(size["BLOCK_K"]))


def test_means_are_rounded_as_if_they_were_written() -> None:
    """1 + 2⁻⁷ / 3 is 1 in bfloat16, and then the difference to a mean of 1 is none."""
    x = torch.tensor([[1.0, 1.0, 1.0 + 2.0**-7], [1.0, 1.0, 1.0]]).bfloat16().view(1, 2, 1, 3)
    assert mean_linear(to(x), to(torch.tensor([[1.0, -1.0]]).bfloat16())).item() == 0.0


def test_nan_stays_with_its_image() -> None:
    x = torch.ones(2, 3, 2, 2)
    x[0, 1, 1, 0] = float("nan")
    assert mean_linear(to(x), to(torch.ones(2, 3))).isnan().tolist() == [[True, True], [False, False]]


def test_where_it_is_worth_it() -> None:
    """A few images, of maps that one program walks."""
    assert [fits_mean_linear(*p) for p in ((1, 49), (4, 1024), (5, 49), (1, 1025), (1, 0))] == [True, True] + 3 * [
        False
    ]


def test_errors() -> None:
    x, weight = to(torch.randn(2, 3, 4, 4)), to(torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"expected x of shape \(N, C, H, W\) with pixels, got \(2, 3, 0, 4\)"):
        mean_linear(x[:, :, :0], weight)
    with pytest.raises(RuntimeError, match=r"expected weight \(K, 3\) for x \(2, 3, 4, 4\), got \(5, 2\)"):
        mean_linear(x, weight[:, :2])
    with pytest.raises(RuntimeError, match=r"expected bias \(5,\), got \(3,\)"):
        mean_linear(x, weight, weight[0])
    with pytest.raises(RuntimeError, match="expected one dtype, got x torch.float32, weight torch.float64"):
        mean_linear(x, to(torch.randn(5, 3).double()))
