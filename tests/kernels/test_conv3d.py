"""3-d convolution as a launcher: its three directions are one sum, weights in any memory, costs, and its refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.poison import poisoned_memory as poisoned_memory
from tinyflow.kernels import conv3d, conv_transpose, launch

#: x, weight, settings: windows that overlap, skip slices, lie wholly in the padding, or are one slice.
FORMS = [
    ((2, 4, 5, 4, 3), (6, 2, 3, 2, 2), {"stride": (2, 1, 1), "padding": (1, 0, 1), "groups": 2}),
    (
        (1, 3, 7, 3, 3),
        (2, 3, 2, 1, 3),
        {"stride": (4, 2, 1), "dilation": (3, 1, 1), "padding": ((0, 2), (1, 0), (1, 1))},
    ),
    ((2, 3, 2, 3, 3), (4, 3, 3, 3, 3), {"padding": (3, 1, 1)}),
    ((2, 3, 4, 3, 3), (4, 3, 1, 2, 2), {"stride": (3, 1, 1)}),
    ((2, 3, 4, 3, 3), (4, 3, 1, 1, 1), {}),
]


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(tinyflow.get_default_device()):
        yield


@pytest.mark.parametrize(("x_shape", "weight_shape", "settings"), FORMS)
def test_the_three_are_one_trilinear_sum(x_shape: Any, weight_shape: Any, settings: dict[str, Any]) -> None:
    """⟨g, conv(x, w)⟩ = ⟨x, input_grad(g, w)⟩ = ⟨w, weight_grad(g, x)⟩."""
    x, weight = torch.randn(x_shape, dtype=torch.float64), torch.randn(weight_shape, dtype=torch.float64)
    y = conv3d.conv3d(x, weight, **settings)
    g = torch.randn(y.shape, dtype=torch.float64)
    by_x = (x * conv3d.conv3d_input_grad(g, weight, x_shape, **settings)).sum()
    by_weight = (weight * conv3d.conv3d_weight_grad(g, x, weight_shape, **settings)).sum()
    assert_close(torch.stack([by_x, by_weight]), (g * y).sum().expand(2), 10_000)


def test_a_weight_that_lies_with_channels_innermost_is_read_in_place() -> None:
    x, weight = torch.randn(1, 3, 4, 3, 3), torch.randn(2, 3, 3, 2, 2)
    innermost = torch.empty_strided(weight.shape, conv3d.filter_strides(weight.shape)).copy_(weight)
    launches = []
    for w in (weight, innermost):
        with launch.count() as records:
            conv3d.conv3d(x, w)
        launches.append(len(records))
    assert launches[0] == launches[1] + 1
    gradient = conv3d.conv3d_weight_grad(torch.randn(1, 2, 2, 2, 2), x, weight.shape)
    assert gradient.stride() == innermost.stride()


def test_flops_are_those_of_the_sum() -> None:
    x, weight = torch.empty(2, 4, 5, 4, 3, device="meta"), torch.empty(6, 2, 3, 2, 2, device="meta")
    with launch.count() as records:
        y = conv3d.conv3d(x, weight, padding=1, groups=2)
    assert sum(r.cost.flops for r in records) == 2 * y.numel() * weight[0].numel()


def test_a_bias_is_added_to_a_transposed_convolution() -> None:
    x, weight, bias = torch.randn(2, 3, 4, 3), torch.randn(3, 4, 2, 2), torch.randn(4)
    y = conv_transpose.conv_transpose2d(x, weight, bias, stride=2)
    expected = torch.nn.functional.conv_transpose2d(x.double(), weight.double(), bias.double(), stride=2)
    assert_close(y, expected, 4)
    with pytest.raises(RuntimeError, match=r"expected bias of shape \(4,\), got \(3,\)"):
        conv_transpose.conv_transpose2d(x, weight, bias[:3])


def test_mistakes_say_so() -> None:
    x, weight = torch.ones(1, 3, 4, 4, 4), torch.ones(2, 3, 2, 2, 2)
    with pytest.raises(TypeError, match=r"conv3d: expected stride to be an integer or three integers, got \(1, 2\)"):
        conv3d.conv3d(x, weight, stride=(1, 2))
    with pytest.raises(RuntimeError, match="expected padding of at least 0"):
        conv3d.conv3d(x, weight, padding=-1)
    with pytest.raises(RuntimeError, match=r"expected grad of shape \(1, 2, 3, P, Q\)"):
        conv3d.conv3d_input_grad(torch.ones(1, 2, 4, 3, 3), weight, x.shape)
