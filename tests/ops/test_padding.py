"""Padding, folding and shuffling: memory order, empty batches, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tinyflow
import tinyflow.nn.functional as F
from tests.device import on_cpu, on_device
from tests.memory_only import MemoryOnly


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_an_image_stays_channels_last(mode: str) -> None:
    x = tinyflow.rand(2, 3, 4, 5).contiguous(memory_format=tinyflow.channels_last).requires_grad_()
    y = F.pad(x, (1, 2, 0, 1), mode)
    assert y.is_contiguous(memory_format=tinyflow.channels_last)
    y.backward(tinyflow.ones_like(y))
    assert x.grad.is_contiguous(memory_format=tinyflow.channels_last)


@pytest.mark.parametrize(("name", "factor"), [("pixel_shuffle", 2), ("pixel_unshuffle", 2), ("channel_shuffle", 4)])
def test_shuffled_pixels_stay_channels_last(name: str, factor: int) -> None:
    x = torch.randn(2, 8, 4, 6).contiguous(memory_format=torch.channels_last)
    y = getattr(F, name)(on_device(x), factor)
    assert y.is_contiguous(memory_format=tinyflow.channels_last)
    assert y.tolist() == getattr(torch, name)(x, factor).tolist()


def test_empty_batches() -> None:
    for mode in ("constant", "reflect", "replicate", "circular"):
        x = tinyflow.zeros(0, 3, 4, requires_grad=True)
        y = F.pad(x, (1, 2), mode)
        assert y.shape == (0, 3, 7)
        y.sum().backward()
        assert x.grad.shape == x.shape
    assert F.unfold(tinyflow.zeros(0, 2, 4, 4), 2).shape == (0, 8, 9)
    assert F.fold(tinyflow.zeros(0, 8, 9), 4, 2).shape == (0, 2, 4, 4)
    assert F.pad(tinyflow.zeros(2, 0), (1, 0), value=7).tolist() == [[7], [7]]


def test_special_values_are_kept() -> None:
    x = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-40])
    for value in (float("inf"), float("nan"), -0.0, 3):
        y = F.pad(on_device(x), (1, 1), value=value)
        expected = torch.nn.functional.pad(x, (1, 1), value=value)
        assert on_cpu(y).view(torch.int32).tolist() == expected.view(torch.int32).tolist()
    halfway = 1 + 2**-11 + 2**-30  # rounded from float32, as torch does
    y = F.pad(tinyflow.zeros(1, dtype=tinyflow.float16), (0, 1), value=halfway)
    assert y[1].item() == torch.nn.functional.pad(torch.zeros(1).half(), (0, 1), value=halfway)[1].item()
    assert F.pad(tinyflow.zeros(1, dtype=tinyflow.bool), (0, 1), value=0.5).tolist() == [False, True]
    for library in (tinyflow, torch):
        with pytest.raises(RuntimeError, match="without overflow"):
            library.constant_pad_nd(library.zeros(1, dtype=library.float16), (0, 1), 1e9)


def test_only_memory_is_asked_of_torch() -> None:
    with MemoryOnly():
        x = tinyflow.rand(2, 4, 5, 5, requires_grad=True)
        y = F.unfold(F.pad(x, (1, 1, 1, 1), "reflect"), 3, padding=1).flip(0).roll(1, 2).tril()
        y = F.pixel_shuffle(F.fold(y, 7, 3, padding=1), 2).repeat(1, 2, 1, 1).unfold(3, 2, 1)
        sum(part.sum() for part in y.unbind(1)).backward()
        tinyflow.combinations(tinyflow.arange(4)), tinyflow.triu_indices(3, 4)
        tinyflow.arange(3).repeat_interleave(tinyflow.tensor([1, 0, 2]))
    assert x.grad.shape == x.shape


#: Ours and torch's functional module take the same call.
REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda f, z: f.pad(z(3), (1,)), RuntimeError, "divisible by 2"),
    (lambda f, z: f.pad(z(3), (1, 1, 1, 1)), RuntimeError, "less than or equal to two times the input dimension"),
    (lambda f, z: f.pad(z(3), (-2, -2)), RuntimeError, "resulted in a negative output size"),
    (lambda f, z: f.pad(z(1, 3), (3, 0), "reflect"), RuntimeError, "less than the corresponding input dimension"),
    (lambda f, z: f.pad(z(1, 3), (4, 0), "circular"), RuntimeError, "wrapping around more than once"),
    (lambda f, z: f.pad(z(1, 3), (-2, -1), "replicate"), RuntimeError, "too small"),
    (lambda f, z: f.pad(z(1, 0, 3), (1, 1), "replicate"), RuntimeError, "non-zero dimensions"),
    (lambda f, z: f.pad(z(3), (1, 1), "reflect"), NotImplementedError, "Only 2D, 3D, 4D, 5D padding"),
    (lambda f, z: f.pad(z(1, 1, 1, 3), (1, 1), "reflect"), NotImplementedError, "Only 2D, 3D, 4D, 5D padding"),
    (lambda f, z: f.pad(z(1, 3), (1, 1), "mirror"), NotImplementedError, "expected mode 'constant', 'reflect'"),
    (lambda f, z: f.pad(z(1, 3), (1, 1), "reflect", 2.0), RuntimeError, "doesn't take in value argument"),
    (lambda f, z: f.unfold(z(1, 1, 1, 3, 3), 2), RuntimeError, "Expected 3D or 4D"),
    (lambda f, z: f.unfold(z(1, 3, 3), 4), RuntimeError, "its components must be at least one"),
    (lambda f, z: f.unfold(z(1, 3, 3), 0), RuntimeError, "kernel_size should be greater than zero"),
    (lambda f, z: f.unfold(z(1, 3, 3), 2, padding=-1), RuntimeError, "padding should be non-negative"),
    (lambda f, z: f.unfold(z(1, 3, 3), (2, 2, 2)), RuntimeError, "an integer or two"),
    (lambda f, z: f.fold(z(1, 2, 3, 4), 2, 2), RuntimeError, "Expected 2D or 3D"),
    (lambda f, z: f.fold(z(5, 4), 3, 2), RuntimeError, "divisible by the product of kernel_size"),
    (lambda f, z: f.fold(z(4, 5), 3, 2), RuntimeError, r"sliding blocks 2 \* 2 = 4"),
    (lambda f, z: f.pixel_shuffle(z(2, 2), 1), RuntimeError, "at least 3 dimensions"),
    (lambda f, z: f.pixel_shuffle(z(4, 2, 2), 0), RuntimeError, "positive upscale_factor"),
    (lambda f, z: f.pixel_shuffle(z(6, 2, 2), 2), RuntimeError, "divisible by the square of upscale_factor"),
    (lambda f, z: f.pixel_unshuffle(z(1, 3, 2), 2), RuntimeError, "height to be divisible"),
    (lambda f, z: f.pixel_unshuffle(z(1, 2, 3), 2), RuntimeError, "width to be divisible"),
    (lambda f, z: f.channel_shuffle(z(4, 2), 2), RuntimeError, "> 2 dims"),
    (lambda f, z: f.channel_shuffle(z(1, 4, 2), 3), RuntimeError, "divisible by groups"),
    (lambda f, z: f.channel_shuffle(z(1, 4, 2), 0), RuntimeError, "must be positive"),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_refused_as_torch_refuses(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(F, tinyflow.zeros)
    with pytest.raises((error, ValueError)):
        call(torch.nn.functional, torch.zeros)


def test_overlapping_windows_change_in_place_only_without_a_gradient() -> None:
    x = tinyflow.zeros(5)
    x.unfold(0, 2, 1)[1:3].fill_(2)
    assert x.tolist() == [0, 2, 2, 2, 0]
    y = tinyflow.zeros(5, requires_grad=True) * 1
    with pytest.raises(RuntimeError, match="windows of shape .* overlap"):
        y.unfold(0, 2, 1).mul_(2)
    apart = tinyflow.ones(6, requires_grad=True)
    z = apart * 1
    z.unfold(0, 2, 3).mul_(4)
    z.sum().backward()
    assert apart.grad.tolist() == [4, 4, 1, 4, 4, 1]
