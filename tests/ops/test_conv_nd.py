"""Convolutions of one to three dimensions and their transposes: what the table of cases does not say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.nn import functional

#: Name, input, weight, settings: between them stride, padding, dilation, groups, transposed forms in each dimension.
FORMS = [
    ("conv1d", (2, 4, 7), (2, 2, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ("conv2d", (1, 2, 5, 6), (3, 2, 2, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
    ("conv2d", (1, 4, 5, 4), (4, 1, 3, 2), {"stride": 2, "padding": 1, "groups": 4}),
    (
        "conv3d",
        (1, 2, 4, 3, 3),
        (2, 1, 2, 2, 2),
        {"stride": (2, 1, 1), "padding": 1, "dilation": (2, 1, 1), "groups": 2},
    ),
    ("conv_transpose1d", (2, 2, 4), (2, 3, 3), {"stride": 2, "padding": 1}),
    ("conv_transpose2d", (1, 4, 3, 2), (4, 1, 2, 3), {"stride": (2, 1), "dilation": (1, 2), "groups": 2}),
    ("conv_transpose3d", (1, 2, 2, 3, 2), (2, 1, 2, 2, 2), {"stride": (2, 1, 1), "padding": (1, 0, 0), "groups": 2}),
]


def _operands(x: tuple[int, ...], weight: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in (x, weight)]


def _third(module: Any, grad: Any, name: str, settings: dict[str, Any], x: Any, weight: Any) -> Any:
    """∂³/∂x∂w∂x of Σ y³/3, in which no term of the third derivative vanishes."""
    y = getattr(module, name)(x, weight, **settings)
    (first,) = grad((y * y * y).sum() / 3, [x], create_graph=True)
    (second,) = grad((first * first).sum(), [weight], create_graph=True)
    return grad((second * second).sum(), [x, weight])


@pytest.mark.parametrize(("name", "x", "weight", "settings"), FORMS, ids=lambda v: v if isinstance(v, str) else "")
def test_derivatives_of_three_orders(name: str, x: Any, weight: Any, settings: dict[str, Any]) -> None:
    operands = _operands(x, weight)
    ours = [on_device(t.clone()).requires_grad_() for t in operands]
    theirs = [t.clone().requires_grad_() for t in operands]
    found = _third(functional, tinyflow.autograd.grad, name, settings, *ours)
    expected = _third(F, torch.autograd.grad, name, settings, *theirs)
    for mine, reference in zip(found, expected):
        assert_close(on_cpu(mine), reference, 10_000)


@pytest.mark.parametrize(("name", "x", "weight", "settings"), FORMS, ids=lambda v: v if isinstance(v, str) else "")
def test_the_gradients_are_a_closed_family(name: str, x: Any, weight: Any, settings: dict[str, Any]) -> None:
    """Second and third derivatives numerically: of the function, and of its gradients as functions."""
    ours = [on_device(t).requires_grad_() for t in _operands(x, weight)]
    function = getattr(functional, name)
    g = on_device(torch.randn(tuple(function(*ours, **settings).shape), dtype=torch.float64)).requires_grad_()

    def gradients(a: Any, w: Any, g: Any) -> Any:
        return tinyflow.autograd.grad(function(a, w, **settings), [a, w], g, create_graph=True)

    assert gradgradcheck(lambda a, w: function(a, w, **settings), ours, fast_mode=True)
    assert gradcheck(gradients, [*ours, g], fast_mode=True)
    assert gradgradcheck(gradients, [*ours, g], fast_mode=True)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("name", "x", "weight"), [("conv1d", (2, 3, 6), (4, 3, 4)), ("conv3d", (1, 2, 4, 3, 3), (3, 2, 2, 4, 1))]
)
def test_same_padding_of_even_kernels_has_its_odd_element_at_the_end(name: str, x: Any, weight: Any) -> None:
    operands = _operands(x, weight)
    y = getattr(functional, name)(*map(on_device, operands), padding="same")
    assert_close(on_cpu(y), getattr(F, name)(*operands, padding="same"), 24)


def test_results_lie_with_channels_innermost() -> None:
    x, weight = on_device(torch.randn(2, 3, 4, 3, 3)), on_device(torch.randn(4, 3, 2, 2, 2))
    assert functional.conv3d(x, weight).to_torch().is_contiguous(memory_format=torch.channels_last_3d)
    y = functional.conv1d(x[:, :, 0, 0], weight[:, :, 0, 0])
    assert y.to_torch().movedim(1, 2).is_contiguous()


def test_volumes_that_lie_any_way_give_the_same() -> None:
    x, weight = torch.randn(2, 3, 4, 3, 3, dtype=torch.float64), torch.randn(4, 3, 3, 2, 2, dtype=torch.float64)
    expected = F.conv3d(x, weight, padding=1)
    channels_last = x.to(memory_format=torch.channels_last_3d)
    flipped = x.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    for view in (x, channels_last, flipped):
        for filters in (
            weight,
            weight.to(memory_format=torch.channels_last_3d),
            weight.transpose(3, 4).contiguous().mT,
        ):
            assert_close(on_cpu(functional.conv3d(on_device(view), on_device(filters), padding=1)), expected, 36)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (
            lambda x, w: functional.conv1d(x, w),
            RuntimeError,
            r"Expected 2D \(unbatched\) or 3D \(batched\) input to conv1d, but got input of size: \[2, 3, 4, 5\]",
        ),
        (lambda x, w: functional.conv1d(x[0], w[..., 0], padding="full"), ValueError, "got 'full'"),
        (lambda x, w: functional.conv1d(x[0], w[..., 0], stride=(1, 2)), TypeError, r"expected stride .* got \(1, 2\)"),
        (
            lambda x, w: functional.conv1d(x[0], w[..., 0], stride=2, padding="same"),
            RuntimeError,
            "strided convolutions",
        ),
        (lambda x, w: functional.conv3d(x, w[:, :, None]), RuntimeError, r"expects 3 input channels .*got 2 from x"),
        (
            lambda x, w: functional.conv3d(x[:1], w[:, :1, None], dilation=9),
            RuntimeError,
            "a kernel that fits the padded",
        ),
        (
            lambda x, w: functional.conv_transpose2d(x, w[:3], output_padding=1),
            RuntimeError,
            r"output padding must be smaller than either stride or dilation, .*\[1, 1\], stride: \[1, 1\]",
        ),
        (lambda x, w: functional.conv_transpose2d(x, w[:3], stride=0), RuntimeError, r"at least 1, got \[0, 0\]"),
        (lambda x, w: functional.conv_transpose2d(x, w), RuntimeError, r"with 5 channels, .*got x \(2, 3, 4, 5\)"),
        (
            lambda x, w: functional.conv_transpose2d(x, w[:3], padding=4),
            RuntimeError,
            r"sizes \(-2, -1\), .* too small",
        ),
    ],
)
def test_mistakes_say_so(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act(on_device(torch.ones(2, 3, 4, 5)), on_device(torch.ones(5, 3, 3, 3)))
