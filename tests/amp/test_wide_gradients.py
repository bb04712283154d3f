"""Gradients of what autocast has cast arrive in the dtype that it had, rounded nowhere between, unless somebody looks on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as T

import tinyflow
import tinyflow.nn.functional as F
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.autograd import Function
from tinyflow.autograd.half_copies import _Cast
from tinyflow.kernels import launch
from tinyflow.ops import fused

HALF, WIDE = tinyflow.bfloat16, tinyflow.float32


def region(dtype: tinyflow.dtype = HALF, **settings: Any) -> tinyflow.autocast:
    return tinyflow.autocast(tinyflow.get_default_device().type, dtype=dtype, **settings)


def leaf(*shape: int) -> tinyflow.Tensor:
    return on_device(torch.randn(shape)).requires_grad_()


def half(*shape: int) -> tinyflow.Tensor:
    return on_device(torch.randn(shape).bfloat16())


def reference(function: Callable[..., Any], g: tinyflow.Tensor, *operands: tinyflow.Tensor) -> list[torch.Tensor]:
    """The gradients in float64 of operands that are rounded as autocast rounds them."""
    leaves = [on_cpu(x.to(HALF)).double().requires_grad_() for x in operands]
    return list(torch.autograd.grad(function(*leaves), leaves, on_cpu(g).double()))


def is_rounded(grad: tinyflow.Tensor) -> bool:
    return bool(torch.equal(on_cpu(grad), on_cpu(grad).bfloat16().float()))


#: An operation of either library, the shapes of its operands, and the terms of a sum in their gradients.
OPERATIONS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...], int]] = {
    "conv1d": (lambda m, x, w, b: m.conv1d(x, w, b), ((2, 3, 9), (4, 3, 3), (4,)), 18),
    "conv2d": (lambda m, x, w, b: m.conv2d(x, w, b, 2, 1), ((2, 3, 7, 5), (4, 3, 3, 3), (4,)), 24),
    "conv2d, groups": (lambda m, x, w: m.conv2d(x, w, groups=4), ((2, 4, 5, 5), (4, 1, 3, 3)), 18),
    "conv3d": (lambda m, x, w: m.conv3d(x, w), ((2, 2, 3, 4, 4), (3, 2, 2, 2, 2)), 36),
    "conv_transpose2d": (lambda m, x, w, b: m.conv_transpose2d(x, w, b, 2), ((2, 3, 4, 3), (3, 5, 3, 3), (5,)), 126),
    "linear": (lambda m, x, w, b: m.linear(x, w, b), ((2, 5, 7), (4, 7), (4,)), 10),
    "matmul": (lambda m, x, w: x @ w, ((5, 7), (7, 4)), 7),
    "matmul, transposed": (lambda m, x, w: x @ w.T, ((5, 7), (4, 7)), 7),
    "matmul, a part": (lambda m, x, w: x @ w[:, 1:4], ((5, 7), (7, 4)), 7),
    "matmul, a part of several": (lambda m, x, w: x @ w.split(3, 1)[0], ((5, 7), (7, 4)), 7),
    "matmul, batches": (lambda m, x, w: x @ w, ((3, 5, 7), (7, 4)), 15),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_those_of_rounded_factors(name: str) -> None:
    """The result is half precision, as is what flows back into it; the sums of their products are not rounded."""
    function, shapes, terms = OPERATIONS[name]
    operands = [leaf(*shape) for shape in shapes]
    first = 0 if name == "linear" or "matmul" in name else 1  # a convolution rounds the gradient of its input
    counted = []
    for leaves in ([x.detach().to(HALF).requires_grad_() for x in operands], operands):
        with region():
            y = function(F, *leaves)
        g = half(*y.shape)
        with launch.count() as records:
            y.backward(g)
        counted.append(len(records))
    assert y.dtype == HALF
    assert counted[1] - counted[0] == first  # casts
    expected = reference(lambda *leaves: function(T, *leaves), g, *operands)
    for k, x in enumerate(operands):
        assert x.grad.dtype == WIDE and is_rounded(x.grad) == (k < first)
        assert_close(on_cpu(x.grad.to(HALF) if k < first else x.grad), expected[k], terms)


def test_a_sum_over_float16s_largest_number() -> None:
    x, w = on_device(torch.full((8, 1), 200.0).half()), leaf(1, 1)
    with region(tinyflow.float16):
        y = x @ w
    y.backward(on_device(torch.full((8, 1), 100.0).half()))
    assert w.grad.item() == 160000.0


def test_parameters_in_half_precision_have_rounded_gradients() -> None:
    w, x = half(4, 7).requires_grad_(), half(5, 7)
    with region():
        y = F.linear(x, w)
    g = half(5, 4)
    y.backward(g)
    assert w.grad.dtype == HALF
    assert_close(on_cpu(w.grad), reference(lambda w: T.linear(on_cpu(x).double(), w), g, w)[0], 5)


def test_wider_than_its_sums_is_no_cast_to_pass() -> None:
    """A float64 parameter's gradient is what float32 sums are, rounded once to the cast's dtype."""
    w, x = on_device(torch.randn(4, 7).double()).requires_grad_(), half(5, 7)
    F.linear(x, w.to(HALF)).backward(half(5, 4))
    assert w.grad.dtype == tinyflow.float64
    assert torch.equal(on_cpu(w.grad), on_cpu(w.grad).bfloat16().double())


def test_a_weight_used_twice_gets_the_sum() -> None:
    """Both times by a product, and once by an operation that gives its gradient in half precision."""
    x, w = half(5, 4), leaf(4, 4)
    g = half(5, 4)
    with region():
        y = x @ w + (x * 2) @ w
    y.backward(g)
    assert_close(on_cpu(w.grad), 3 * reference(lambda w: on_cpu(x).double() @ w, g, w)[0], 10)
    assert not is_rounded(w.grad)
    for first in (True, False):
        w.grad = None
        copy = w.to(HALF)
        parts = [(x @ copy).float().sum(), copy[:1].float().sum()]
        (parts[0] + parts[1] if first else parts[1] + parts[0]).backward()
        expected = on_cpu(x).double().sum(0)[:, None].expand(4, 4) + torch.tensor([[1.0], [0], [0], [0]])
        assert_close(on_cpu(w.grad), expected, 10)


WATCHES: dict[str, Callable[[tinyflow.Tensor, tinyflow.Tensor, list[Any]], Any]] = {
    "hook": lambda copy, y, seen: copy.register_hook(lambda grad: seen.append(grad)),
    "hook that replaces": lambda copy, y, seen: copy.register_hook(lambda grad: seen.append(grad) or grad * 1),
    "hook of the cast": lambda copy, y, seen: copy.grad_fn.register_hook(lambda _, grads: seen.extend(grads)),
    "hook before the cast": lambda copy, y, seen: copy.grad_fn.register_prehook(lambda grads: seen.extend(grads)),
    "hook of the product": lambda copy, y, seen: y.grad_fn.register_hook(lambda grads, _: seen.append(grads[1])),
    "retain_grad": lambda copy, y, seen: copy.retain_grad(),
}


@pytest.mark.parametrize("watch", WATCHES)
def test_who_looks_on_sees_half_precision(watch: str) -> None:
    x, w, seen = half(5, 4), leaf(4, 3), []
    copy = w.to(HALF)
    y = x @ copy
    WATCHES[watch](copy, y, seen)
    y.backward(half(5, 3))
    (grad,) = seen or [copy.grad]
    assert grad.dtype == HALF and w.grad.dtype == WIDE
    assert torch.equal(on_cpu(grad).float(), on_cpu(w.grad))


def test_the_gradient_of_a_copy_is_half_precision() -> None:
    x, w, g = half(5, 4), leaf(4, 3), half(5, 3)
    copy = w.to(HALF)
    y = x @ copy
    of_copy, of_weight = tinyflow.autograd.grad(y, (copy, w), g, retain_graph=True)
    assert (of_copy.dtype, of_weight.dtype) == (HALF, WIDE)
    assert torch.equal(on_cpu(of_copy).float(), on_cpu(of_weight))
    (alone,) = tinyflow.autograd.grad(y, w, g)
    assert_close(on_cpu(alone), reference(lambda w: on_cpu(x).double() @ w, g, w)[0], 5)
    assert not is_rounded(alone)


def test_hooks_of_the_weight_see_its_gradient() -> None:
    x, w, seen = half(5, 4), leaf(4, 3), []
    w.register_hook(lambda grad: seen.append(grad.dtype) or grad * 2)
    w.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.dtype))
    g = half(5, 3)
    with region():
        y = x @ w
    y.backward(g)
    assert seen == [WIDE, WIDE]
    assert_close(on_cpu(w.grad), 2 * reference(lambda w: on_cpu(x).double() @ w, g, w)[0], 5)


def test_gradients_accumulate_and_the_leaf_owns_its_memory() -> None:
    x, w, g = half(5, 4), leaf(4, 3), half(5, 3)
    for _ in range(2):
        with region():
            y = x @ w
        y.backward(g)
    assert_close(on_cpu(w.grad), 2 * reference(lambda w: on_cpu(x).double() @ w, g, w)[0], 5)


class _Scaled(Function):
    """Gives its gradient wider than its input."""

    @staticmethod
    def forward(ctx: Any, x: tinyflow.Tensor) -> tinyflow.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: tinyflow.Tensor) -> Any:
        return g.float() * 2.001


def test_a_users_function_may_give_a_wide_gradient() -> None:
    w = leaf(3)
    _Scaled.apply(w.to(HALF)).backward(half(3))
    assert w.grad.dtype == WIDE and not is_rounded(w.grad)
    w = half(3).requires_grad_()
    _Scaled.apply(w).backward(half(3))
    assert w.grad.dtype == HALF


@pytest.mark.parametrize("operation", ["conv2d", "linear", "matmul"])
def test_second_derivatives(operation: str) -> None:
    """First derivatives are the same bits whether they are recorded or not; second ones those of rounded factors."""
    function = {
        "conv2d": lambda m, x, w: m.conv2d(x, w, padding=1),
        "linear": lambda m, x, w: m.linear(x, w),
        "matmul": lambda m, x, w: x @ w,
    }[operation]
    x, w = {"conv2d": (leaf(2, 3, 5, 4), leaf(4, 3, 3, 3)), "linear": (leaf(5, 4), leaf(3, 4))}.get(
        operation, (leaf(5, 4), leaf(4, 3))
    )
    with region():
        y = function(F, x, w)
    g = half(*y.shape)
    once = tinyflow.autograd.grad(y, w, g, retain_graph=True)[0]
    first = tinyflow.autograd.grad(y, (x, w), g, create_graph=True)
    assert torch.equal(on_cpu(once), on_cpu(first[1]))
    second = tinyflow.autograd.grad([t.square().sum() for t in first], (x, w))
    wide = [on_cpu(t.to(HALF)).double().requires_grad_() for t in (x, w)]
    expected = torch.autograd.grad(function(T, *wide), wide, on_cpu(g).double(), create_graph=True)
    for mine, theirs in zip(second, torch.autograd.grad([t.square().sum() for t in expected], wide)):
        assert mine.dtype == WIDE
        assert (on_cpu(mine).double() - theirs).norm() <= 0.01 * theirs.norm()


@pytest.mark.parametrize("create_graph", [False, True], ids=["kernels", "composed"])
@pytest.mark.parametrize("form", ["block", "fork", "joined", "mean", "stem"])
def test_fused_blocks(form: str, create_graph: bool) -> None:
    window, channels = fused.Window(1, 1), (leaf(4), leaf(4))
    x, residual, w, short = half(2, 3, 6, 4), half(2, 4, 6, 4), leaf(4, 3, 3, 3), leaf(4, 3, 1, 1)
    batch = fused.Batch(window, True, 0.1, 1e-5)
    with region():
        if form == "block":
            y = fused.conv_bn_act(x, w, *channels, None, None, residual=residual, window=window)
        elif form == "fork":
            y = fused.conv_bn_act_fork(x, w, *channels, None, None, window=window)[0]
        elif form == "joined":
            shortcut = fused.Branch(x, short, leaf(4), leaf(4), None, None, batch._replace(window=fused.Window()))
            y = fused.conv_bn_joined(fused.Branch(x, w, *channels, None, None, batch), shortcut)
        elif form == "mean":
            y = fused.conv_bn_act_mean(x, w, *channels, None, None, residual=residual, window=window)
        else:
            y = fused.conv_bn_relu_pool(x, w, *channels, None, None, window=fused.Window(1, 1))
    weights = [w, *([short] if form == "joined" else [])]
    for grad in tinyflow.autograd.grad(y, weights, half(*y.shape), create_graph=create_graph):
        assert grad.dtype == WIDE and not is_rounded(grad)


def test_a_copy_that_an_optimizer_left_passes_them_too() -> None:
    layer, x = nn.Linear(4, 3), half(5, 4)
    optimizer = tinyflow.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        with region():
            y = layer(x)
        y.float().square().sum().backward()
        optimizer.step()
    names = {node.name() for node, _ in y.grad_fn.next_functions if node is not None}
    assert f"{_Cast.__name__}Backward" in names
    assert layer.weight.grad.dtype == WIDE and not is_rounded(layer.weight.grad)
