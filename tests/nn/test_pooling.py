"""Pooling layers compute what torch's do, and have their text; indices, ties and NaN; unpooling; random windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.nn import functional

LINE, VOLUME = (2, 3, 7), (2, 3, 4, 5, 3)
LAYERS = [
    ("MaxPool1d", (3,), {"stride": 2, "padding": 1, "return_indices": True}, LINE),
    ("MaxPool3d", ((2, 3, 1),), {"stride": 1, "return_indices": True, "ceil_mode": True}, VOLUME),
    ("MaxPool3d", (2,), {"padding": 1, "return_indices": True}, VOLUME[1:]),
    ("AvgPool1d", (3,), {"count_include_pad": False, "padding": 1}, LINE),
    ("AvgPool3d", (2,), {"stride": (1, 2, 1), "divisor_override": 5}, VOLUME),
    ("AdaptiveAvgPool1d", (3,), {}, LINE),
    ("AdaptiveAvgPool3d", ((2, None, 2),), {}, VOLUME),
    ("AdaptiveMaxPool1d", (4,), {"return_indices": True}, LINE),
    ("AdaptiveMaxPool3d", ((3, 2, None),), {"return_indices": True}, VOLUME),
    ("LPPool1d", (2, 3), {"stride": 2}, LINE),
    ("LPPool2d", (2, (3, 2)), {"ceil_mode": True}, VOLUME[1:]),
    ("LPPool3d", (4, 2), {}, VOLUME),
]


@pytest.mark.parametrize(("name", "arguments", "settings", "shape"), LAYERS, ids=str)
def test_layers_are_those_of_torch(name: str, arguments: Any, settings: Any, shape: tuple[int, ...]) -> None:
    ours, theirs = (getattr(m, name)(*arguments, **settings) for m in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    x = torch.randint(1, 5, shape).double()  # many equal maxima, of which the first counts
    mine, reference = on_device(x.clone()).requires_grad_(), x.clone().requires_grad_()
    y, expected = ours(mine), theirs(reference)
    if settings.get("return_indices"):
        (y, indices), (expected, positions) = y, expected
        assert indices.tolist() == positions.tolist()
    assert_close(on_cpu(y), expected.detach(), 64)
    g = torch.randn_like(expected)
    y.backward(on_device(g))
    expected.backward(g)
    assert_close(on_cpu(mine.grad), reference.grad, 64)


def test_volumes_that_lie_any_way_give_the_same() -> None:
    x = torch.randn(VOLUME, dtype=torch.float64)
    expected, positions = F.max_pool3d(x, 2, 1, return_indices=True)
    for view in (x, x.to(memory_format=torch.channels_last_3d), x.mT.contiguous().mT):
        y, indices = functional.max_pool3d(on_device(view), 2, 1, return_indices=True)
        assert torch.equal(on_cpu(y), expected)
        assert torch.equal(on_cpu(indices), positions)


def test_no_images_have_no_maxima() -> None:
    y, indices = functional.max_pool3d(on_device(torch.ones(0, 2, 4, 4, 4)), 2, return_indices=True)
    assert y.shape == indices.shape == (0, 2, 2, 2, 2)
    assert functional.max_unpool3d(y, indices, 2).shape == (0, 2, 4, 4, 4)
    y, indices = functional.fractional_max_pool2d(on_device(torch.ones(0, 2, 6, 6)), 2, 3, return_indices=True)
    assert y.shape == indices.shape == (0, 2, 3, 3)


def test_a_nan_wins_in_three_dimensions() -> None:
    x = torch.zeros(1, 1, 4, 3, 3)
    x[0, 0, 1, 2, 0], x[0, 0, 2] = float("nan"), float("-inf")
    expected, positions = F.max_pool3d(x, (2, 3, 3), 1, return_indices=True)
    y, indices = functional.max_pool3d(on_device(x), (2, 3, 3), 1, return_indices=True)
    assert torch.equal(on_cpu(y).isnan(), expected.isnan())
    assert indices.tolist() == positions.tolist()


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_unpooling_puts_maxima_back(ndim: int) -> None:
    x = torch.randn((2, 3, *(6, 5, 4)[:ndim]), dtype=torch.float64)
    settings = {"kernel_size": 2, "stride": 2}
    pool, theirs = (getattr(m, f"MaxPool{ndim}d")(**settings, return_indices=True) for m in (nn, torch.nn))
    unpool, reference = (getattr(m, f"MaxUnpool{ndim}d")(**settings) for m in (nn, torch.nn))
    assert repr(unpool) == repr(reference)
    back = unpool(*pool(on_device(x)), output_size=x.shape)
    assert torch.equal(on_cpu(back), reference(*theirs(x), output_size=x.shape))
    with pytest.raises(ValueError, match=f"expected output_size of {ndim} "):
        unpool(*pool(on_device(x)), output_size=[9] * ndim)


@pytest.mark.parametrize("ndim", [2, 3])
def test_windows_at_given_random_places(ndim: int) -> None:
    x = torch.randn((2, 3, *(9, 7, 6)[:ndim]))
    samples = torch.rand(2, 3, ndim)
    theirs = getattr(torch.nn, f"FractionalMaxPool{ndim}d")(
        2, output_ratio=0.6, return_indices=True, _random_samples=samples
    )
    ours = getattr(nn, f"FractionalMaxPool{ndim}d")(
        2, output_ratio=0.6, return_indices=True, _random_samples=on_device(samples)
    )
    expected, positions = theirs(x)
    y, indices = ours(on_device(x))
    assert torch.equal(on_cpu(y), expected)
    assert torch.equal(on_cpu(indices), positions)


def test_windows_at_random_places_cover_the_image() -> None:
    x = on_device(torch.rand(1, 2, 9, 8)).requires_grad_()
    y = nn.FractionalMaxPool2d(3, output_size=(4, 1))(x)
    assert y.shape == (1, 2, 4, 1)
    y.sum().backward()
    assert x.grad.sum().item() == 8


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (
            lambda: nn.FractionalMaxPool2d(2),
            ValueError,
            "expected either output_size or output_ratio, got None and None",
        ),
        (
            lambda: nn.FractionalMaxPool3d(2, output_ratio=1.5),
            ValueError,
            "output_ratio must be between 0 and 1, got 1.5",
        ),
        (
            lambda: nn.FractionalMaxPool2d(3, output_size=6)(on_device(torch.ones(1, 1, 7, 7))),
            RuntimeError,
            r"kernel_size \(3, 3\) and output_size \(6, 6\) do not fit",
        ),
        (
            lambda: functional.max_pool3d(on_device(torch.ones(2, 3)), 2),
            RuntimeError,
            "Expected 4D or 5D .*got \\(2, 3\\)",
        ),
        (
            lambda: functional.avg_pool3d(on_device(torch.ones(1, 2, 3, 3)), 3, padding=1),
            RuntimeError,
            r"avg_pool3d: input of sizes \(2, 3, 3\) is smaller than kernel_size \(3, 3, 3\)",
        ),
        (
            lambda: functional.avg_pool1d(on_device(torch.ones(2, 3)), (2, 2)),
            TypeError,
            r"avg_pool1d: expected kernel_size to be an integer or one in a sequence, got \(2, 2\)",
        ),
        (
            lambda: functional.max_unpool2d(on_device(torch.ones(1, 2, 2)), on_device(torch.zeros(1, 2, 3).long()), 2),
            RuntimeError,
            r"expected int64 indices of shape \(1, 2, 2\), .*got torch.int64 of shape \(1, 2, 3\)",
        ),
    ],
)
def test_mistakes_say_so(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()
