"""Convolution, batch normalisation, residual and ReLU as one operation: equal to the composition to second order."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.kernels import hardware, launch
from tinyflow.kernels.fused.stem_weight_grad import pooled_stem_weight_grad_configs
from tinyflow.ops import fused
from tinyflow.ops.batch_norm import batch_norm
from tinyflow.ops.conv2d import convolve2d
from tinyflow.ops.fused import Window
from tinyflow.ops.pooling import max_pool2d

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def leaf(*shape: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tinyflow.Tensor:
    return on_device((torch.randn(shape) * scale).to(dtype)).requires_grad_()


def running(channels: int, dtype: torch.dtype) -> list[tinyflow.Tensor]:
    return [on_device(torch.randn(channels).to(dtype)), on_device((torch.rand(channels) + 0.5).to(dtype))]


def composed(x, w, gamma, beta, mean, var, *, residual=None, act="relu", window=Window(), training=True):
    y = batch_norm(convolve2d(x, w, None, *window), mean, var, gamma, beta, training)
    y = y if residual is None else y + residual
    return y.relu() if act == "relu" else y


def inputs(dtype: torch.dtype, residual: bool, stride: int = 1) -> list[tinyflow.Tensor]:
    """Odd sizes, more output than input channels; float32 parameters for half precision."""
    wide = dtype if dtype == torch.float64 else torch.float32
    size = (7, 5) if stride == 1 else (4, 3)
    made = [leaf(3, 3, 7, 5, dtype=dtype), leaf(6, 3, 3, 3, dtype=dtype, scale=0.3)]
    made += [leaf(6, dtype=wide), leaf(6, dtype=wide)]
    return made + ([leaf(3, 6, *size, dtype=dtype)] if residual else [])


def gradients(y: Any, leaves: list[tinyflow.Tensor], g: tinyflow.Tensor) -> list[torch.Tensor]:
    return [on_cpu(t) for t in tinyflow.autograd.grad(y, leaves, g)]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("act", ["relu", "none"])
@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_composition(dtype, with_residual, act, training) -> None:
    stride = 2 if with_residual else 1
    window = Window(stride, 1)
    leaves = inputs(dtype, with_residual, stride)
    wide = [t.detach().to(tinyflow.float64).requires_grad_() for t in leaves]
    statistics = running(6, torch.float64 if dtype == torch.float64 else torch.float32)
    wide_statistics = [t.to(tinyflow.float64, copy=True) for t in statistics]
    options = {"act": act, "window": window, "training": training}
    y = fused.conv_bn_act(*leaves[:4], *statistics, residual=leaves[4] if with_residual else None, **options)
    expected = composed(*wide[:4], *wide_statistics, residual=wide[4] if with_residual else None, **options)
    assert y.dtype == dtype
    assert_close(on_cpu(y), on_cpu(expected), 27)
    for mine, theirs in zip(statistics, wide_statistics):
        assert_close(on_cpu(mine).to(dtype), on_cpu(theirs), 27)
    # where rounding decides whether the ReLU passes, both take the decision of the fused operation
    g = on_device(torch.randn(y.shape).to(dtype))
    if act == "relu":
        g = tinyflow.where((y.detach() > 0).to(tinyflow.float64) == (expected.detach() > 0), g, 0.0)
    for mine, theirs in zip(gradients(y, leaves, g), gradients(expected, wide, g.to(tinyflow.float64))):
        assert_close(mine.to(dtype), theirs, 105, factor=20.0)


@pytest.mark.parametrize(
    ("act", "training", "residual"), [*itertools.product(("relu", "none"), (True, False), (True, False))]
)
def test_first_and_second_derivatives(act, training, residual) -> None:
    statistics = running(4, torch.float64)
    leaves = [leaf(2, 3, 5, 4), leaf(4, 3, 3, 3), leaf(4), leaf(4), *([leaf(2, 4, 5, 4)] if residual else [])]

    def operation(x, w, gamma, beta, *rest):
        given = (None, None) if training else statistics
        shortcut = rest[0] if rest else None
        return fused.conv_bn_act(
            x, w, gamma, beta, *given, residual=shortcut, act=act, window=Window(1, 1), training=training
        )

    assert gradcheck(operation, leaves, fast_mode=True)
    assert gradgradcheck(operation, leaves, fast_mode=True)


def block(x, w, gamma, beta, w2, gamma2, beta2):
    y, shortcut = fused.conv_bn_act_fork(x, w, gamma, beta, None, None, window=Window(1, 1))
    return fused.conv_bn_act(y, w2, gamma2, beta2, None, None, residual=shortcut, window=Window(1, 1))


def composed_block(x, w, gamma, beta, w2, gamma2, beta2):
    y = composed(x, w, gamma, beta, None, None, window=Window(1, 1))
    return composed(y, w2, gamma2, beta2, None, None, residual=x, window=Window(1, 1))


def block_leaves(channels: int, size: int = 4, images: int = 2, dtype: torch.dtype = torch.float64):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    made = [leaf(images, channels, size, size, dtype=dtype)]
    for _ in range(2):
        made += [leaf(channels, channels, 3, 3, dtype=dtype, scale=0.1)]
        made += [leaf(channels, dtype=wide), leaf(channels, dtype=wide)]
    return made


def test_a_fork_has_first_and_second_derivatives() -> None:
    leaves = block_leaves(3)
    assert_close(on_cpu(block(*leaves)), on_cpu(composed_block(*leaves)), 27)
    assert gradcheck(block, leaves, fast_mode=True)
    assert gradgradcheck(block, leaves, fast_mode=True)


def test_a_stem_has_first_and_second_derivatives() -> None:
    leaves = [leaf(2, 3, 9, 8), leaf(4, 3, 3, 3), leaf(4), leaf(4)]

    def stem(x, w, gamma, beta):
        return fused.conv_bn_relu_pool(x, w, gamma, beta, None, None, window=Window(2, 1))

    expected = max_pool2d(composed(*leaves, None, None, window=Window(2, 1)), 3, 2, 1)
    assert_close(on_cpu(stem(*leaves)), on_cpu(expected), 27)
    assert gradcheck(stem, leaves, fast_mode=True)
    assert gradgradcheck(stem, leaves, fast_mode=True)


def test_only_what_is_wanted_is_computed() -> None:
    x, w, gamma, beta = inputs(torch.float32, False)
    y = fused.conv_bn_act(x.detach(), w.detach(), gamma, beta, None, None, window=Window(1, 1))
    with launch.count() as records:
        y.sum().backward()
    assert not any("conv2d" in r.kernel or "input_grad" in r.kernel for r in records)
    assert gamma.grad is not None


def chain(leaves: list[tinyflow.Tensor]) -> tuple[Any, ...]:
    """Two blocks; the value between them."""
    middle = block(*leaves[:7])
    return middle, block(middle, *leaves[7:])


def chain_leaves() -> list[tinyflow.Tensor]:
    return block_leaves(64, 6, 2, torch.bfloat16) + block_leaves(64, 6, 2, torch.bfloat16)[1:]


def sums_passes(records: list[Any]) -> int:
    return sum(r.kernel == "_normalise_act_gradient_sums_kernel" for r in records)


def relative_error(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((mine.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize("capability", [(9, 0), (10, 0)], ids=["gradient made", "gradient in a pass"])
def test_gradients_by_boxes_arrive_masked_and_summed(capability: tuple[int, int]) -> None:
    leaves = chain_leaves()
    g = on_device(torch.randn(2, 64, 6, 6).to(torch.bfloat16))
    with hardware.assumed(capability=capability, multiprocessors=3):
        _, y = chain(leaves)
        with launch.count() as records:
            found = gradients(y, leaves, g)
    assert sums_passes(records) == 1  # of the last operation, whose gradient came from outside
    _, general = chain(leaves)
    assert_close(on_cpu(y), on_cpu(general).double(), 576)
    for mine, theirs in zip(found, gradients(general, leaves, g)):
        assert relative_error(mine, theirs) < 0.02


@pytest.mark.parametrize("watch", ["hook", "retain_grad", "capture", "second use"])
def test_a_gradient_that_is_seen_or_shared_is_whole(watch) -> None:
    leaves = chain_leaves()
    g = on_device(torch.randn(2, 64, 6, 6).to(torch.bfloat16))
    seen: list[torch.Tensor] = []
    results = []
    for capability in ((9, 0), (8, 0)):
        for t in leaves:
            t.grad = None
        with hardware.assumed(capability=capability, multiprocessors=3):
            middle, y = chain(leaves)
            if watch == "capture":
                seen.append(on_cpu(tinyflow.autograd.grad(y, middle, g, retain_graph=True)[0]))
            if watch == "hook":
                middle.register_hook(lambda grad: seen.append(on_cpu(grad)))
            if watch == "retain_grad":
                middle.retain_grad()
            if watch == "second use":
                y = y + middle
            y.backward(g)
            if watch == "retain_grad":
                seen.append(on_cpu(middle.grad))
        results.append([on_cpu(t.grad) for t in leaves])
    for by_boxes, general in zip(*results):
        assert relative_error(by_boxes, general) < 0.02
    if seen:
        assert relative_error(seen[0], seen[1]) < 0.02
        assert (seen[0] != 0).float().mean() > 0.99  # not masked


def test_folded_weights_follow_their_sources() -> None:
    theirs = [*inputs(torch.float32, False), *running(6, torch.float32)]
    x, w, gamma, beta, mean, var = (t.detach().clone() for t in theirs)  # memory that nobody else has
    folded = fused.Folded()
    sources = (w, None, mean, var, gamma, beta)
    with tinyflow.no_grad():
        for change in (None, w, mean, beta):
            if change is not None:
                change.mul_(1.5)
            first = folded.get(sources, 1e-5)
            assert folded.get(sources, 1e-5) is first
            found = fused.conv_act(x, first, Window(1, 1))
            expected = composed(x, w, gamma, beta, mean, var, window=Window(1, 1), training=False)
            assert_close(on_cpu(found), on_cpu(expected).double(), 27)
    assert folded.get(sources, 1e-3) is not first
    shared = (theirs[1], *sources[1:])  # torch has this memory, and may write to it unseen
    assert folded.get(shared, 1e-3) is not folded.get(shared, 1e-3)


@pytest.mark.parametrize("capability", [(9, 0), (0, 0)], ids=["boxes", "apart"])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "misaligned"])
def test_a_folded_shortcut_joins_the_sum(capability, aligned) -> None:
    """Tensors that start at any element are copied to where boxes may start."""

    def placed(*shape: int) -> torch.Tensor:
        strides = torch.empty(shape).to(memory_format=torch.channels_last).stride()
        return torch.randn(math.prod(shape) + 3).bfloat16().as_strided(shape, strides, 0 if aligned else 3)

    x, x_short = placed(2, 16, 5, 4), placed(2, 64, 10, 8)
    weight, weight_short = placed(8, 16, 3, 3), placed(8, 64, 1, 1)
    biases = torch.randn(8), torch.randn(8)
    sides = [on_device(x), tuple(on_device(t)._data for t in (weight, biases[0])), fused.Window(1, 1)]
    sides += [on_device(x_short), tuple(on_device(t)._data for t in (weight_short, biases[1])), fused.Window(2)]
    with hardware.assumed(capability=capability, multiprocessors=3), launch.count() as records:
        y = fused.conv_joined(*sides)
    assert sum(r.kernel == "_box_conv2d_kernel" for r in records) == (capability != (0, 0))
    expected = F.conv2d(x.double(), weight.double(), biases[0].double(), padding=1)
    expected = (expected + F.conv2d(x_short.double(), weight_short.double(), biases[1].double(), stride=2)).relu()
    assert_close(on_cpu(y), expected, 144)
    with pytest.raises(RuntimeError, match=r"expected results of one shape, got \(2, 8, 5, 4\) and \(2, 8, 10, 8\)"):
        fused.conv_joined(*sides[:5], fused.Window(1))


def test_training_on_tensors_that_start_anywhere() -> None:
    """Boxes need aligned memory: what has none is copied, there and back."""
    made = [torch.randn(math.prod(s) + 3).bfloat16()[3:].view(s) for s in ((2, 5, 4, 16), (8, 3, 3, 16), (2, 5, 4, 8))]
    x, w, residual = (on_device(t.permute(0, 3, 1, 2)).requires_grad_() for t in made)
    leaves = [x, w, leaf(8, dtype=torch.float32), leaf(8, dtype=torch.float32), residual]
    outcomes = []
    for capability in ((9, 0), (8, 0)):
        with hardware.assumed(capability=capability, multiprocessors=3), launch.count() as records:
            y = fused.conv_bn_act(*leaves[:4], None, None, residual=residual, window=Window(1, 1))
            outcomes.append([on_cpu(y), *gradients(y, leaves, on_device(torch.ones(y.shape).to(torch.bfloat16)))])
        assert any(r.kernel == "_box_conv2d_input_grad_kernel" for r in records) == (capability == (9, 0))
    for by_boxes, general in zip(*outcomes):
        assert relative_error(by_boxes, general) < 0.02


def test_a_changed_output_is_an_error_and_a_shortcut_shares_its_version() -> None:
    leaves = block_leaves(3)
    y = block(*leaves)
    y.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with tinyflow.no_grad():
        x = leaves[0].detach()
    _, shortcut = fused.conv_bn_act_fork(x, *leaves[1:4], None, None, window=Window(1, 1))
    x.add_(1.0)
    assert shortcut._version == x._version


def test_errors() -> None:
    x, w, gamma, beta = inputs(torch.float32, False)
    with pytest.raises(RuntimeError, match="expected running_mean and running_var when training=False"):
        fused.conv_bn_act(x, w, gamma, beta, None, None, training=False)
    with pytest.raises(RuntimeError, match="expects 3 input channels"):
        fused.conv_bn_act(x[:, :2], w, gamma, beta, None, None)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        fused.conv_bn_act(x[:1, :, :3, :3], w, gamma, beta, None, None)


#: The interpreter's own, and each that ships on a map of three ragged tiles each way and two tiles of filters.
STEMS = [(None, (24, 20), 8), (None, (13, 18), 8)]
STEMS += [(config, (40, 36), 72) for config in pooled_stem_weight_grad_configs.shipped]


@pytest.mark.parametrize(("config", "size", "filters"), STEMS, ids=str)
def test_a_stem_by_boxes_never_writes_the_map_between(config, size, filters) -> None:
    x = on_device(torch.randn(3, 3, *size).to(torch.bfloat16))
    leaves = [
        leaf(filters, 3, 7, 7, dtype=torch.bfloat16, scale=0.1),
        *(leaf(filters, dtype=torch.float32) for _ in "wb"),
    ]
    forced = pooled_stem_weight_grad_configs.forced(config) if config else contextlib.nullcontext()
    outcomes = []
    for capability in ((9, 0), (8, 0), (10, 0)):
        with hardware.assumed(capability=capability, multiprocessors=3), launch.count() as records, forced:
            y = fused.conv_bn_relu_pool(x, *leaves, None, None, window=Window(2, 3))
            g = on_device(torch.ones(y.shape).to(torch.bfloat16))
            outcomes.append([on_cpu(y), *gradients(y, leaves, g)])
        wrote = {"_normalise_pool_input_grad_kernel"} & {r.kernel for r in records}
        assert bool(wrote) == (capability != (9, 0))
        assert ("_stem_weight_grad_kernel" in {r.kernel for r in records}) == (capability == (10, 0))
        forced = contextlib.nullcontext()
    assert_close(outcomes[0][0], outcomes[1][0].double(), 147)
    for by_boxes, general, in_a_pass in zip(*(gradients for _, *gradients in outcomes)):
        assert relative_error(by_boxes, general) < 0.02
        assert relative_error(in_a_pass, general) < 0.02


def rounded_stem(x: tinyflow.Tensor, leaves: list[tinyflow.Tensor], capability: tuple[int, int] = (9, 0)) -> Any:
    """A stem under autocast: its result, gradients of its leaves, gradients of those, and whether x was cast by a launch."""
    kind = tinyflow.get_default_device().type
    with hardware.assumed(capability=capability, multiprocessors=3), launch.count() as records:
        with tinyflow.autocast(kind, dtype=tinyflow.bfloat16):
            y, again = (fused.conv_bn_relu_pool(x, *leaves, None, None, window=Window(2, 3)) for _ in range(2))
        moved = x.numel() * (x.element_size() + 2)
        cast = any(r.kernel == "_pointwise_kernel" and r.cost.bytes == moved for r in records)
        g = on_device(torch.linspace(-1, 1, math.prod(y.shape)).reshape(y.shape).to(torch.bfloat16))
        first = tinyflow.autograd.grad(y, leaves, g, create_graph=True)
        second = tinyflow.autograd.grad([t.float().square().sum() for t in first[1:]], leaves[:2])
        once = gradients(again, leaves, g)
    return [on_cpu(t) for t in (y, *first, *second)] + once, cast


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_stem_under_autocast_rounds_the_image_as_it_folds_it(dtype) -> None:
    image = torch.randn(3, 3, 13, 18).to(dtype)
    leaves = [leaf(8, 3, 7, 7, dtype=torch.float32, scale=0.1), *(leaf(8, dtype=torch.float32) for _ in "wb")]
    expected, _ = rounded_stem(on_device(image.to(torch.bfloat16)), leaves)
    found, cast = rounded_stem(on_device(image), leaves)
    assert not cast and all(torch.equal(a, b) for a, b in zip(found, expected))
    found, cast = rounded_stem(on_device(image).requires_grad_(), leaves)
    assert cast and all(torch.equal(a, b) for a, b in zip(found, expected))
    assert rounded_stem(on_device(image), leaves, capability=(8, 0))[1]


def test_a_stem_outside_autocast_takes_one_dtype() -> None:
    x, w = on_device(torch.randn(3, 3, 13, 18)), leaf(8, 3, 7, 7, dtype=torch.bfloat16)
    refused = pytest.raises(RuntimeError, match="expected one dtype, got x torch.float32, weight torch.bfloat16")
    with hardware.assumed(capability=(9, 0), multiprocessors=3), refused:
        fused.conv_bn_relu_pool(x, w, None, None, None, None, window=Window(2, 3))


def test_two_branches_are_normalised_as_they_are_added() -> None:
    leaves = [
        leaf(2, 3, 6, 4),
        leaf(4, 3, 3, 3),
        leaf(4),
        leaf(4),
        leaf(2, 2, 6, 4),
        leaf(4, 2, 1, 1),
        leaf(4),
        leaf(4),
    ]

    def joined(x, w, gamma, beta, x2, w2, gamma2, beta2):
        main = fused.Branch(x, w, gamma, beta, None, None, fused.Batch(Window(2, 1), True, 0.1, 1e-5))
        short = fused.Branch(x2, w2, gamma2, beta2, None, None, fused.Batch(Window(2), True, 0.1, 1e-5))
        return fused.conv_bn_joined(main, short)

    shortcut = composed(*leaves[4:], None, None, act="none", window=Window(2))
    expected = composed(*leaves[:4], None, None, residual=shortcut, window=Window(2, 1))
    assert_close(on_cpu(joined(*leaves)), on_cpu(expected), 27)
    g = on_device(torch.randn(2, 4, 3, 2).double())
    for mine, theirs in zip(gradients(joined(*leaves), leaves, g), gradients(expected, leaves, g)):
        assert_close(mine, theirs, 105)
    assert gradcheck(joined, leaves, fast_mode=True)
    assert gradgradcheck(joined, leaves, fast_mode=True)
