"""Kernel families: their launchers on bare memory beside the torch operation that does the same."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F

import tinyflow
from benchmarks.case import OURS, TORCH, Call, Case, Input, Scale, Setup, bound, case
from tinyflow.kernels import (
    arithmetic,
    attention,
    batch_norm,
    elementwise,
    loss,
    matmul,
    pooling,
    random,
    reduction,
    softmax,
)
from tinyflow.kernels.memory import default_device_as
from tinyflow.models import resnet18

_HALF = torch.bfloat16
_aten = torch.ops.aten


def cases(scale: Scale) -> list[Case]:
    return [
        *_elementwise(scale),
        *_copies(scale),
        *_reductions(scale),
        *_products(scale),
        *_attention(scale),
        *_batch_norm(scale),
        *_pooling(scale),
        *_softmax(scale),
        *_optimizer(),
        *_random(scale),
    ]


def _elementwise(scale: Scale) -> list[Case]:
    flat, side = Input((scale.elements,)), scale.side
    half, square = Input((scale.elements,), _HALF), Input((side, side))
    make = functools.partial(case, "elementwise")
    return [
        make("add", arithmetic.add, torch.add, flat, flat),
        make("add in bfloat16", arithmetic.add, torch.add, half, half, tolerance=1e-2),
        make("multiply by a row", arithmetic.mul, torch.mul, square, Input((side,))),
        make("multiply column by row", arithmetic.mul, torch.mul, Input((side, 1)), Input((1, side))),
        make("add a transposed view", lambda x, y: arithmetic.add(x, y.t()), lambda x, y: x + y.t(), square, square),
        make("relu", arithmetic.relu, torch.relu, flat),
        make("exp", arithmetic.exp, torch.exp, flat),
        make("tanh", arithmetic.tanh, torch.tanh, flat),
    ]


def _copies(scale: Scale) -> list[Case]:
    flat, square = Input((scale.elements,)), Input((scale.side, scale.side))
    image = Input((scale.batch, 64, scale.image // 2, scale.image // 2))
    make = functools.partial(case, "copies")
    return [
        make("copy", elementwise.copy, torch.clone, flat),
        make("fill", lambda x: elementwise.fill(x, 1.0), lambda x: x.fill_(1.0), flat),
        make("float32 to bfloat16", lambda x: elementwise.copy(x, _HALF), lambda x: x.to(_HALF), flat),
        make(
            "bfloat16 to float32",
            lambda x: elementwise.copy(x, torch.float32),
            lambda x: x.float(),
            Input((scale.elements,), _HALF),
        ),
        make("transposed", lambda x: elementwise.contiguous(x.t()), lambda x: x.t().contiguous(), square),
        make(
            "NCHW to channels-last",
            elementwise.channels_last,
            lambda x: x.contiguous(memory_format=torch.channels_last),
            image,
        ),
    ]


def _reductions(scale: Scale) -> list[Case]:
    square = Input((scale.side, scale.side))
    maps = _maps(scale, 64, 4)
    make = functools.partial(case, "reductions")
    return [
        make("sum", reduction.sum, torch.sum, square, tolerance=1e-2),  # a sum of normals is small beside its terms
        make("sum of columns", lambda x: reduction.sum(x, 0), lambda x: x.sum(0), square),
        make("sum of rows", lambda x: reduction.sum(x, 1), lambda x: x.sum(1), square),
        make(
            "mean of maps",
            lambda x: reduction.mean(x, (2, 3)),
            lambda x: x.mean((2, 3)),
            maps,
            tolerance=scale.tolerance,
        ),
        make("variance of rows", lambda x: reduction.var(x, 1), lambda x: x.var(1), square),
        make("maximum of rows", lambda x: reduction.amax(x, 1), lambda x: x.amax(1), square),
        make("argmax of rows", lambda x: reduction.argmax(x, 1), lambda x: x.argmax(1), square),
    ]


def _products(scale: Scale) -> list[Case]:
    make = functools.partial(case, "matmul", tolerance=scale.tolerance)

    def matrix(*shape: int) -> Input:
        return Input(shape, scale.dtype)

    sides = [n for n in (scale.side // 8, scale.side // 2, scale.side) if n]
    square = [make(f"{n} cubed", matmul.matmul, torch.matmul, matrix(n, n), matrix(n, n)) for n in sides]
    n, m = scale.side // 2, scale.side // 8
    return [
        *square,
        make(
            "transposed factor",
            lambda a, b: matmul.matmul(a, b.t()),
            lambda a, b: a @ b.t(),
            matrix(n, n),
            matrix(n, n),
        ),
        make("batch of 16", matmul.matmul, torch.matmul, matrix(16, m, m), matrix(16, m, m)),
        make("a matrix and few columns", matmul.matmul, torch.matmul, matrix(n, n), matrix(n, 16)),
        make(
            "classifier",
            lambda x, w, b: matmul.matmul(x, w.t(), b),
            lambda x, w, b: F.linear(x, w, b),
            matrix(scale.batch, 512),
            matrix(1000, 512),
            matrix(1000),
        ),
    ]


def _attention(scale: Scale) -> list[Case]:
    """Of four heads, as a model calls it: the gradient's case runs forwards too."""
    heads = Input((4, 4, scale.sequence, 64), scale.dtype)
    names = {"forward": False, "causal": True}
    forward = [
        case(
            "attention",
            name,
            lambda q, k, v, causal=causal: attention.attention(q[:, :, None], k, v, is_causal=causal, scale=0.125)[0][
                :, :, 0
            ],
            lambda q, k, v, causal=causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
            heads,
            heads,
            heads,
            tolerance=scale.tolerance,
        )
        for name, causal in names.items()
    ]

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Call:
        q, grad = q[:, :, None], torch.ones_like(q[:, :, None])

        def both() -> torch.Tensor:
            out, lse = attention.attention(q, k, v, scale=0.125)
            return attention.attention_grad(grad, q, k, v, None, out, lse, scale=0.125)[0][:, :, 0]

        return both

    def theirs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Call:
        operands = [x.clone().requires_grad_() for x in (q, k, v)]
        grad = torch.ones_like(q)
        return lambda: torch.autograd.grad(F.scaled_dot_product_attention(*operands), operands, grad)

    both = {OURS: ours, TORCH: theirs}
    # with equal gradients the query's gradient is a difference of sums that nearly cancel
    return [*forward, Case("attention", "forward and gradients", both, (heads,) * 3, tolerance=20 * scale.tolerance)]


def _maps(scale: Scale, channels: int, reduced: int) -> Input:
    side = scale.image // reduced
    return Input((scale.batch, channels, side, side), scale.dtype, torch.channels_last)


def _batch_norm(scale: Scale) -> list[Case]:
    maps, vector = _maps(scale, 64, 2), Input((64,))
    return [
        case(
            "batch_norm",
            "training",
            batch_norm.batch_norm,
            lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
            maps,
            vector,
            vector,
            tolerance=scale.tolerance,
        ),
        Case(
            "batch_norm",
            "gradients",
            {OURS: _norm_gradients, TORCH: _torch_norm_gradients},
            (maps, maps, vector),
            tolerance=scale.tolerance,
        ),
        case(
            "batch_norm",
            "inference",
            lambda x, w, b: batch_norm.batch_norm_inference(x, b, w * w, w, b),
            lambda x, w, b: F.batch_norm(x, b, w * w, w, b),
            maps,
            vector,
            vector,
            tolerance=scale.tolerance,
        ),
    ]


def _norm_gradients(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> Call:
    _, mean, invstd = batch_norm.batch_norm(x, weight)
    return lambda: batch_norm.batch_norm_grad(grad, x, weight, mean, invstd)


def _torch_norm_gradients(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> Call:
    _, mean, invstd = _aten.native_batch_norm(x, weight, None, None, None, True, 0.1, 1e-5)
    return lambda: _aten.native_batch_norm_backward(
        grad, x, weight, None, None, mean, invstd, True, 1e-5, [True, True, True]
    )


def _pooling(scale: Scale) -> list[Case]:
    maps, pooled = _maps(scale, 64, 2), _maps(scale, 64, 4)
    return [
        case(
            "pooling",
            "maximum 3×3/2",
            lambda x: pooling.max_pool2d(x, 3, 2, 1),
            lambda x: _aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1]),
            maps,
        ),
        Case(
            "pooling",
            "maximum 3×3/2, gradient",
            {OURS: _max_pool_gradient, TORCH: _torch_max_pool_gradient},
            (pooled, maps),
            tolerance=scale.tolerance,
        ),
        case(
            "pooling",
            "mean 2×2",
            lambda x: pooling.avg_pool2d(x, 2),
            lambda x: F.avg_pool2d(x, 2),
            maps,
            tolerance=scale.tolerance,
        ),
        case(
            "pooling",
            "mean 2×2, gradient",
            lambda g: pooling.avg_pool2d_input_grad(g, maps.shape, 2),
            _torch_mean_pool_gradient,
            pooled,
            tolerance=scale.tolerance,
        ),
    ]


def _max_pool_gradient(grad: torch.Tensor, x: torch.Tensor) -> Call:
    _, taps = pooling.max_pool2d(x, 3, 2, 1)
    return lambda: pooling.max_pool2d_input_grad(grad, taps, x.shape, 3, 2, 1)


def _torch_max_pool_gradient(grad: torch.Tensor, x: torch.Tensor) -> Call:
    _, indices = _aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])
    return lambda: _aten.max_pool2d_with_indices_backward(grad, x, [3, 3], [2, 2], [1, 1], [1, 1], False, indices)


def _torch_mean_pool_gradient(grad: torch.Tensor) -> torch.Tensor:
    n, c, h, w = grad.shape
    x = torch.empty((n, c, 2 * h, 2 * w), dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    return _aten.avg_pool2d_backward(grad, x, [2, 2], [2, 2], [0, 0], False, True, None)


def _softmax(scale: Scale) -> list[Case]:
    logits = Input((scale.side, 1000))
    target = Input((scale.side,), torch.int64, below=1000)
    f32 = torch.float32
    return [
        case("softmax", "softmax", lambda x: softmax.softmax(x, 1), lambda x: x.softmax(1), logits),
        case("softmax", "log_softmax", lambda x: softmax.log_softmax(x, 1), lambda x: x.log_softmax(1), logits),
        case(
            "softmax",
            "softmax, gradient",
            lambda g, y: softmax.softmax_input_grad(g, y, 1),
            lambda g, y: _aten._softmax_backward_data(g, y, 1, f32),
            logits,
            logits,
        ),
        case("cross_entropy", "cross_entropy", loss.cross_entropy, F.cross_entropy, logits, target),
        Case(
            "cross_entropy",
            "gradient",
            {OURS: _cross_entropy_gradient, TORCH: _torch_cross_entropy_gradient},
            (logits, target),
        ),
    ]


def _cross_entropy_gradient(x: torch.Tensor, target: torch.Tensor) -> Call:
    value, normalizer, factor, total = loss.cross_entropy(x, target)
    grad = torch.ones_like(value)
    return lambda: loss.cross_entropy_input_grad(grad, x, target, None, normalizer, factor, total)


def _torch_cross_entropy_gradient(x: torch.Tensor, target: torch.Tensor) -> Call:
    x = x.clone().requires_grad_()
    value = F.cross_entropy(x, target)
    return lambda: torch.autograd.grad(value, x, retain_graph=True)


def _optimizer() -> list[Case]:
    """An update of all of ResNet18's parameters."""
    with default_device_as("meta"):
        shapes = [tuple(p.shape) for p in resnet18().parameters()]
    elements = sum(p.numel() for p in map(torch.Size, shapes))
    make = functools.partial(
        Case,
        "optimizer",
        inputs=tuple(map(Input, shapes)),
        problem=f"{len(shapes)} tensors, {elements:,} elements",
        tolerance=1e-5,
    )
    sgd: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
    return [
        make("SGD with momentum", _updates("SGD", sgd)),
        make("Adam", _updates("Adam", {"lr": 1e-3}), stock=False),
        make("AdamW", _updates("AdamW", {"lr": 1e-3, "weight_decay": 1e-2}), stock=False),
    ]


def _updates(name: str, settings: dict[str, Any]) -> dict[str, Setup]:
    """Ours, torch's, and torch's in one kernel."""

    def ours(*parameters: torch.Tensor) -> Call:
        own = [tinyflow.from_torch(p.clone()).requires_grad_() for p in parameters]
        for p in own:
            p.grad = p.detach().clone()
        return _stepping(getattr(tinyflow.optim, name)(own, **settings), own[0])

    def theirs(*parameters: torch.Tensor, **how: bool) -> Call:
        own = [p.clone().requires_grad_() for p in parameters]
        for p in own:
            p.grad = p.detach().clone()
        return _stepping(getattr(torch.optim, name)(own, **settings, **how), own[0])

    return {OURS: ours, TORCH: theirs, f"{TORCH} fused": functools.partial(theirs, fused=True)}


def _stepping(optimizer: Any, result: Any) -> Call:
    def step() -> Any:
        optimizer.step()
        return result

    return step


def _random(scale: Scale) -> list[Case]:
    flat = Input((scale.elements,))
    tinyflow.manual_seed(0)
    make = functools.partial(Case, "random", inputs=(flat,), tolerance=None)
    return [
        make("uniform", {OURS: lambda x: lambda: random.uniform(x, 1, 0), TORCH: lambda x: lambda: x.uniform_()}),
        make("normal", {OURS: lambda x: lambda: random.normal(x, 1, 0), TORCH: lambda x: lambda: x.normal_()}),
        make("dropout", {OURS: bound(random.dropout, 0.5, 1, 0), TORCH: bound(F.dropout, 0.5)}),
    ]
