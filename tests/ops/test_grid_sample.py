"""Samples at given places against torch's, with places far outside, on edges, and nowhere; and torch's refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tests.poison import poisoned_memory as poisoned_memory
from tinyflow.nn import functional


def _both(x: torch.Tensor, grid: torch.Tensor, **settings: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Values and both gradients, ours and torch's."""
    mine = [on_device(t.clone()).requires_grad_() for t in (x, grid)]
    theirs = [t.clone().requires_grad_() for t in (x, grid)]
    y, expected = functional.grid_sample(*mine, **settings), F.grid_sample(*theirs, **settings)
    g = torch.randn_like(expected)
    found = tinyflow.autograd.grad(y, mine, on_device(g))
    wanted = torch.autograd.grad(expected, theirs, g)
    return [(on_cpu(a), b.detach()) for a, b in zip((y, *found), (expected, *wanted))]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_values_and_gradients_far_outside_too(mode: str, padding_mode: str, align_corners: bool) -> None:
    settings = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    grid = torch.rand(2, 4, 3, 2, dtype=torch.float64) * 7 - 3.5
    shapes = [(2, 3, 4, 5), (2, 1, 1, 3)]  # and an image of one row, which nothing reflects into
    if mode != "bicubic":
        shapes.append((2, 2, 2, 3, 4))
    for shape in shapes:
        places = grid if len(shape) == 4 else torch.rand(2, 2, 2, 3, 3, dtype=torch.float64) * 5 - 2.5
        for ours, theirs in _both(torch.randn(shape, dtype=torch.float64), places, **settings):
            assert_close(ours, theirs, 400)


def test_places_on_the_elements_and_edges() -> None:
    """Ties of the nearest element go to the even one, and a border counts as outside for the gradient, as in torch."""
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None]
    for mode in ("bilinear", "nearest"):
        for padding_mode in ("zeros", "border", "reflection"):
            for ours, theirs in _both(x, grid, mode=mode, padding_mode=padding_mode, align_corners=False):
                assert_close(ours, theirs, 400)


def test_the_identity_gives_the_image() -> None:
    x = torch.randn(2, 3, 5, 4)
    theta = torch.eye(2, 3).expand(2, 2, 3)
    for align_corners in (False, True):
        grid = functional.affine_grid(on_device(theta.contiguous()), (2, 3, 5, 4), align_corners)
        y = functional.grid_sample(on_device(x), grid, align_corners=align_corners)
        assert_close(on_cpu(y), x.double(), 16)


def test_a_place_that_is_no_number_samples_zeros() -> None:
    x, grid = torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 4, 2)
    grid[0, 0, 0], grid[0, 0, 1], grid[0, 0, 2] = float("nan"), float("inf"), 1e30
    for mode in ("bilinear", "nearest", "bicubic"):
        y = functional.grid_sample(on_device(x), on_device(grid), mode, align_corners=False)
        assert y.flatten().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_a_border_is_all_there_is_beyond_it(mode: str) -> None:
    x, grid = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.zeros(1, 1, 4, 2)
    grid[0, 0, :, 0] = torch.tensor([float("nan"), -1e30, 1e30, float("inf")])
    y = functional.grid_sample(on_device(x), on_device(grid), mode, "border", align_corners=False)
    assert y.flatten().tolist() == [1, 1, 3, 3]


def test_all_places_on_one_element() -> None:
    """Its gradient sums them all, in the same order each time."""
    grid = on_device(torch.zeros(1, 10, 13, 2))
    x = on_device(torch.randn(1, 3, 3, 3)).requires_grad_()
    g = torch.randn(1, 3, 10, 13)
    found = [
        tinyflow.autograd.grad(functional.grid_sample(x, grid, align_corners=True), x, on_device(g))[0]
        for _ in range(2)
    ]
    assert torch.equal(on_cpu(found[0]), on_cpu(found[1]))
    expected = torch.zeros(1, 3, 3, 3, dtype=torch.float64)
    expected[:, :, 1, 1] = g.double().sum((2, 3))
    assert_close(on_cpu(found[0]), expected, 130)


def test_no_places_and_no_images() -> None:
    x = on_device(torch.ones(2, 3, 4, 4)).requires_grad_()
    y = functional.grid_sample(x, on_device(torch.ones(2, 0, 5, 2)), align_corners=False)
    assert y.shape == (2, 3, 0, 5)
    y.sum().backward()
    assert not x.grad.to_torch().any()
    assert functional.grid_sample(x[:0], on_device(torch.ones(0, 2, 5, 2)), align_corners=False).shape == (0, 3, 2, 5)


def test_half_precision_computes_in_single() -> None:
    x, grid = torch.randn(1, 3, 6, 6).bfloat16(), (torch.rand(1, 5, 5, 2) * 2 - 1).bfloat16()
    expected = F.grid_sample(x.double(), grid.double(), align_corners=False)
    assert_close(on_cpu(functional.grid_sample(on_device(x), on_device(grid), align_corners=False)), expected, 4)


def test_autocast_lets_half_precision_meet_single() -> None:
    x, grid = on_device(torch.randn(1, 2, 4, 4).bfloat16()), on_device(torch.zeros(1, 2, 3, 2))
    with tinyflow.autocast(x.device.type, dtype=tinyflow.bfloat16):
        assert functional.grid_sample(x, grid, align_corners=False).dtype == tinyflow.float32


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (
            lambda x, g: functional.grid_sample(x, g, mode="cubic"),
            ValueError,
            "expected mode .* got 'cubic' and 'zeros'",
        ),
        (lambda x, g: functional.grid_sample(x, g, padding_mode="wrap"), ValueError, "got 'bilinear' and 'wrap'"),
        (lambda x, g: functional.grid_sample(x[:1], g), RuntimeError, r"got x \(1, 3, 4, 5\) and grid \(2, 2, 2, 2\)"),
        (lambda x, g: functional.grid_sample(x[:, :, :0], g), RuntimeError, "non-empty spatial dimensions"),
        (
            lambda x, g: functional.grid_sample(x[:, :, None], tinyflow.ones(2, 1, 2, 2, 3), mode="bicubic"),
            RuntimeError,
            "bicubic interpolation only supports 4D input",
        ),
        (lambda x, g: functional.grid_sample(x.double(), g), RuntimeError, "expected one dtype"),
        (lambda x, g: functional.affine_grid(g[0], (2, 1, 3, 3)), ValueError, r"got theta \(2, 2, 2\)"),
    ],
)
def test_mistakes_say_so(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act(on_device(torch.ones(2, 3, 4, 5)), on_device(torch.zeros(2, 2, 2, 2)))
