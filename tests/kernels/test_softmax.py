"""Softmax, its logarithm and their gradients: against float64 torch, in one tile and in many, NaN and infinities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from tests.closeness import assert_close
from tinyflow.kernels import launch, memory
from tinyflow.kernels import softmax as kernels

DEVICE = memory.get_default_device()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAMES = ["softmax", "log_softmax"]
NAN, INF = float("nan"), float("inf")

#: Shape and dimension, with what it is for.
SHAPES = {
    "rows": ((5, 7), 1),
    "columns": ((5, 7), 0),
    "middle": ((3, 5, 11), 1),
    "channels of images": ((2, 5, 3, 2), 1),
    "from the end": ((2, 3, 4), -2),
    "one element": ((3, 1), 1),
    "no dimension": ((), 0),
    "a prime row": ((2, 1009), 1),
}


@contextlib.contextmanager
def both_kernels_at(config: launch.Config) -> Iterator[None]:
    with kernels.softmax_configs.forced(config), kernels.softmax_input_grad_configs.forced(config):
        yield


def assert_agrees(name: str, x: torch.Tensor, dim: int) -> None:
    """Value and gradient; float16's and bfloat16's gradient starts from the rounded output, as it does in use."""
    wide = x.double().requires_grad_()
    expected = getattr(torch, name)(wide, dim)
    y = getattr(kernels, name)(x.to(DEVICE), dim)
    assert y.dtype == x.dtype
    length = x.shape[dim] if x.dim() else 1
    assert_close(y, expected, length)
    grad = torch.randn(x.shape).to(x.dtype)
    (wanted,) = torch.autograd.grad(expected, wide, grad.double())
    if x.numel() and length > 1:
        found = getattr(kernels, f"{name}_input_grad")(grad.to(DEVICE), y, dim)
        assert_close(found, wanted, max(length, 16))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(name: str, shape: str) -> None:
    assert_agrees(name, torch.randn(SHAPES[shape][0]) * 2, SHAPES[shape][1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    assert_agrees(name, torch.randn(4, 9).to(dtype), 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", kernels.ROW_TILES, ids=lambda c: str(c.blocks))
def test_shipped_configurations(name: str, config: launch.Config) -> None:
    rows, width = 2 * config.blocks["BLOCK_R"] + 1, config.blocks["BLOCK_N"]
    with both_kernels_at(config):
        assert_agrees(name, torch.randn(rows, width + 5) * 3, 1)  # two tiles of columns, the second ragged
        assert_agrees(name, torch.randn(rows, width - 3), 1)  # one
        assert_agrees(name, torch.randn(width + 5, rows), 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", [None, *kernels.ROW_TILES], ids=lambda c: str(c and c.blocks))
def test_nan_and_infinities_as_in_torch(name: str, config: launch.Config | None) -> None:
    width = 8 if config is None else config.blocks["BLOCK_N"]
    x = torch.randn(6, width + 5)
    x[0] = -INF
    x[1, :width] = -INF  # a first tile of nothing, and then something
    x[2, 3] = INF
    x[3, width + 1] = NAN
    x[4, width + 1 :] = -INF
    with contextlib.nullcontext() if config is None else both_kernels_at(config):
        y = getattr(kernels, name)(x.to(DEVICE), 1)
    torch.testing.assert_close(
        y.cpu().double(), getattr(torch, name)(x.double(), 1), rtol=1e-5, atol=1e-6, equal_nan=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_changes_nothing(name: str) -> None:
    x = torch.randint(-8, 8, (5, 33)).float()
    plain, shifted = (getattr(kernels, name)((x + c).to(DEVICE), 1) for c in (0, 2.0**16))
    assert torch.equal(plain, shifted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtype_casts_the_input_first(name: str, dtype: torch.dtype) -> None:
    for x in (torch.rand(3, 5) + 300, torch.randint(0, 5, (3, 5))):  # halves are coarse near 300
        y = getattr(kernels, name)(x.to(DEVICE), 1, dtype=dtype)
        assert y.dtype == dtype
        assert_close(y, getattr(torch, name)(x.to(dtype).double(), 1), 5)


@pytest.mark.parametrize("name", NAMES)
def test_any_layout(name: str) -> None:
    assert_agrees(name, torch.randn(4, 6, 10).transpose(0, 2)[::2], 1)
    assert_agrees(name, torch.randn(4, 6, 1).expand(4, 6, 5), 1)
    assert_agrees(name, torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), 1)
    x = torch.randn(2, 3, 4, 5, device=DEVICE).contiguous(memory_format=torch.channels_last)
    assert getattr(kernels, name)(x, 1).stride() == x.stride()


def test_an_expanded_gradient() -> None:
    x = torch.randn(3, 5)
    grad = torch.randn(3, 1).expand(3, 5)
    wide = x.double().requires_grad_()
    torch.log_softmax(wide, 1).backward(grad.double())
    found = kernels.log_softmax_input_grad(grad.to(DEVICE), kernels.log_softmax(x.to(DEVICE), 1), 1)
    assert_close(found, wide.grad, 16)


def test_wide_offsets() -> None:
    with launch.wide_offsets():
        assert_agrees("softmax", torch.randn(3, 5, 7), 1)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=DEVICE)
    y = kernels.softmax(x, 1)
    assert y.shape == shape
    assert kernels.softmax_input_grad(x, y, 1).shape == shape


def test_errors() -> None:
    x = torch.randn(2, 3, device=DEVICE)
    with pytest.raises(IndexError, match=r"expected to be in range of \[-2, 1\], but got 2"):
        kernels.softmax(x, 2)
    with pytest.raises(RuntimeError, match=r"expected a floating-point result, got torch\.int64; pass dtype="):
        kernels.softmax(x.long(), 1)
    with pytest.raises(RuntimeError, match=r"expected grad of shape \(2, 3\), got \(3, 2\)"):
        kernels.softmax_input_grad(x.t(), x, 1)
