"""The mean of a residual network's last maps, one operation with the block before: equal to the composition, twice over."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.kernels import hardware, launch
from tinyflow.ops import fused
from tinyflow.ops.batch_norm import batch_norm
from tinyflow.ops.conv2d import convolve2d
from tinyflow.ops.fused import Window
from tinyflow.ops.pooling import adaptive_avg_pool2d

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SAME = Window(1, 1)


def leaf(*shape: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tinyflow.Tensor:
    return on_device((torch.randn(shape) * scale).to(dtype)).requires_grad_()


def inputs(size: tuple[int, int], dtype: torch.dtype = torch.float64, channels: int = 4) -> list[tinyflow.Tensor]:
    """x, the weights of convolution and normalisation, its bias, and a residual; float32 parameters for half precision."""
    wide = dtype if dtype == torch.float64 else torch.float32
    weights = [leaf(channels, 3, 3, 3, dtype=dtype, scale=0.3), leaf(channels, dtype=wide), leaf(channels, dtype=wide)]
    return [leaf(3, 3, *size, dtype=dtype), *weights, leaf(3, channels, *size, dtype=dtype)]


def composed(x, w, gamma, beta, residual, statistics=(None, None), training=True) -> Any:
    y = batch_norm(convolve2d(x, w, None, *SAME), *statistics, gamma, beta, training)
    return adaptive_avg_pool2d((y + residual).relu(), 1)


def operation(x, w, gamma, beta, residual, statistics=(None, None), training=True) -> Any:
    return fused.conv_bn_act_mean(x, w, gamma, beta, *statistics, residual=residual, window=SAME, training=training)


def running(channels: int, dtype: torch.dtype) -> list[tinyflow.Tensor]:
    return [on_device(torch.randn(channels).to(dtype)), on_device((torch.rand(channels) + 0.5).to(dtype))]


def gradients(y: Any, leaves: list[tinyflow.Tensor], g: tinyflow.Tensor) -> list[torch.Tensor]:
    return [on_cpu(t) for t in tinyflow.autograd.grad(y, leaves, g)]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_composition(dtype, training) -> None:
    """In the same dtype: the masks are the same, and so is every rounding but that of sums."""
    leaves = inputs((3, 5), dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mine, theirs = running(4, wide), None
    theirs = [t.clone() for t in mine]
    y, expected = operation(*leaves, mine, training), composed(*leaves, theirs, training)
    assert y.dtype == expected.dtype
    assert_close(on_cpu(y), on_cpu(expected).double(), 15)
    for a, b in zip(mine, theirs):
        assert_close(on_cpu(a), on_cpu(b).double(), 45)
    g = on_device(torch.randn(3, 4, 1, 1).to(dtype))
    for a, b in zip(gradients(y, leaves, g), gradients(expected, leaves, g)):
        assert_close(a.to(dtype), b.double(), 45, factor=20.0)


@pytest.mark.parametrize(("size", "training"), [((1, 1), True), ((3, 5), True), ((4, 2), False)], ids=str)
def test_first_and_second_derivatives(size, training) -> None:
    leaves = inputs(size, channels=2)
    statistics = (None, None) if training else running(2, torch.float64)

    def checked(*leaves):
        return operation(*leaves, statistics, training)

    assert gradcheck(checked, leaves, fast_mode=True)
    assert gradgradcheck(checked, leaves, fast_mode=True)


def test_a_recorded_gradient_is_that_of_the_composition() -> None:
    leaves = inputs((3, 5))
    g = on_device(torch.randn(3, 4, 1, 1).double()).requires_grad_()
    outcomes = []
    for made in (operation, composed):
        first = tinyflow.autograd.grad(made(*leaves), leaves, g, create_graph=True)
        penalty = sum((t * t).sum() for t in first)
        followed = [*leaves[:3], g]  # the bias and the residual matter to the masks alone
        outcomes.append([*map(on_cpu, first), *gradients(penalty, followed, on_device(torch.tensor(1.0).double()))])
    for mine, theirs in zip(*outcomes):
        assert_close(mine, theirs, 1000)


def test_tensors_of_any_strides() -> None:
    made = [on_device(torch.randn(3, 5, 3, 4).double()).permute(0, 2, 3, 1), on_device(torch.randn(5, 4).double()).T]
    x = made[0].detach().requires_grad_()
    residual = made[1].expand(3, 4, 4, 5).detach().requires_grad_()
    leaves = [x, *inputs((4, 5))[1:4], residual]
    g = on_device(torch.randn(1, 4, 1, 1).double()).expand(3, 4, 1, 1)
    assert_close(on_cpu(operation(*leaves)), on_cpu(composed(*leaves)), 20)
    for mine, theirs in zip(gradients(operation(*leaves), leaves, g), gradients(composed(*leaves), leaves, g)):
        assert_close(mine, theirs, 60)


@pytest.mark.parametrize("wanted", [(), (0,), (1,), (4,)], ids=["normalisation", "x", "convolution", "residual"])
def test_only_what_is_wanted_is_computed(wanted) -> None:
    leaves = [t if k in (2, 3, *wanted) else t.detach() for k, t in enumerate(inputs((3, 5), torch.float32))]
    with launch.count() as records:
        y = operation(*leaves)
        records.clear()
        y.sum().backward()
    names = {r.kernel for r in records}
    assert ("_correlate_kernel" in names) == (0 in wanted)
    assert ("_weight_grad_kernel" in names) == (1 in wanted)
    assert ("_normalise_mean_input_grad_kernel" in names) == bool(wanted)
    assert [t.grad is not None for t in leaves] == [k in (2, 3, *wanted) for k in range(5)]


def test_by_boxes_the_operation_below_gets_its_sums() -> None:
    """No pass of its own for the sums of any normalisation: the head's come with the mean, the others with a gradient."""
    wide = {"dtype": torch.float32}
    half = {"dtype": torch.bfloat16}
    x, g = leaf(2, 64, 6, 6, **half), on_device(torch.randn(2, 64, 1, 1).bfloat16())
    blocks = [[leaf(64, 64, 3, 3, **half, scale=0.1), leaf(64, **wide), leaf(64, **wide)] for _ in range(2)]
    leaves = [x, *blocks[0], *blocks[1]]
    outcomes = []
    for capability in ((9, 0), (8, 0)):
        with hardware.assumed(capability=capability, multiprocessors=3):
            y, shortcut = fused.conv_bn_act_fork(x, *blocks[0], None, None, window=SAME)
            y = fused.conv_bn_act_mean(y, *blocks[1], None, None, residual=shortcut, window=SAME)
            with launch.count() as records:
                outcomes.append(gradients(y, leaves, g))
            passes = [r.kernel for r in records if "_normalise_act_gradient_sums" in r.kernel]
        assert len(passes) == (capability < (9, 0))
    for by_boxes, general in zip(*outcomes):
        assert float((by_boxes.double() - general.double()).norm() / general.double().norm()) < 0.02


def test_a_changed_residual_is_an_error() -> None:
    leaves = inputs((3, 5), torch.float32)
    residual = leaves[4] * 1.0
    y = operation(*leaves[:4], residual)
    residual.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_which_maps_are_taken() -> None:
    assert [fused.averages(*size) for size in ((1, 1), (32, 32), (33, 32), (0, 4))] == [True, True, False, False]
    leaves = inputs((3, 5), torch.float32)
    with pytest.raises(RuntimeError, match="expected running_mean and running_var when training=False"):
        operation(*leaves, training=False)
    with pytest.raises(RuntimeError, match=r"expected \(3, 4, 3, 5\) torch.float32 as x, got \(3, 4, 3, 4\)"):
        operation(*leaves[:4], leaves[4][..., :4])
