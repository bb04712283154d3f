"""Fused operations of a residual network, each beside torch, and beside torch again with our operations apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.case import OURS, TORCH, Case, Input, Scale, bound
from tinyflow.kernels import arithmetic, batch_norm, conv2d, fused, loss, matmul, pooling, reduction
from tinyflow.kernels.fused import convolution, head
from tinyflow.kernels.fused.convolution import Biased, Window

_HALF, _LAST = torch.bfloat16, torch.channels_last
_STEM, _SAME, _STRIDED = Window(2, 3), Window(1, 1), Window(2, 0)

Work = Callable[..., Any]


def cases(scale: Scale) -> list[Case]:
    return [*_inference(scale), *_training(scale), *_cross_entropy(scale)]


def _both(name: str, together: Work, apart: Work, theirs: Work, *inputs: Input, tolerance: float = 2e-2) -> list[Case]:
    """The fused operation and the composition that it stands for, each against torch's composition."""
    return [
        Case("fused", label, {OURS: bound(ours), TORCH: bound(theirs)}, inputs, tolerance=tolerance, stock=False)
        for label, ours in ((name, together), (f"{name}, apart", apart))
    ]


def _maps(scale: Scale, channels: int, reduced: int, dtype: torch.dtype = _HALF) -> Input:
    side = max(scale.image // reduced, 2)
    return Input((scale.batch, channels, side, side), dtype, _LAST)


def _inference(scale: Scale) -> Iterator[Case]:
    """With batch normalisation folded into weights and bias."""
    image, stem, bias = _maps(scale, 3, 1), Input((64, 3, 7, 7), _HALF, _LAST), Input((64,))
    yield from _both(
        "stem: convolution, ReLU, pooling",
        lambda x, w, b: convolution.conv2d_bias_relu_pool(x, w, b, _STEM),
        lambda x, w, b: pooling.max_pool2d(fused.bias_act(conv2d.conv2d(x, w, None, *_STEM), b), 3, 2, 1)[0],
        lambda x, w, b: F.max_pool2d(F.conv2d(x, w, b.to(_HALF), 2, 3).relu(), 3, 2, 1),
        Input(image.shape, _HALF),
        stem,
        bias,
    )
    x, w = _maps(scale, 64, 4), Input((64, 64, 3, 3), _HALF, _LAST)
    yield from _both(
        "convolution, residual, ReLU",
        lambda x, w, b, r: convolution.conv2d_bias_act(x, w, b, _SAME, r),
        lambda x, w, b, r: arithmetic.relu(
            arithmetic.add(fused.bias_act(conv2d.conv2d(x, w, None, 1, 1), b, act="none"), r)
        ),
        lambda x, w, b, r: (F.conv2d(x, w, b.to(_HALF), 1, 1) + r).relu(),
        x,
        w,
        bias,
        x,
    )
    half, w, short = _maps(scale, 128, 8), Input((128, 128, 3, 3), _HALF, _LAST), Input((128, 64, 1, 1), _HALF, _LAST)
    bias = Input((128,))
    yield from _both(
        "convolution, convolved shortcut, ReLU",
        lambda x, w, b, y, v: convolution.conv2d_joined_bias_relu(Biased(x, w, b, _SAME), Biased(y, v, b, _STRIDED)),
        lambda x, w, b, y, v: fused.bias_act(
            conv2d.conv2d(x, w, None, 1, 1), b, fused.bias_act(conv2d.conv2d(y, v, None, 2), b, act="none")
        ),
        lambda x, w, b, y, v: (F.conv2d(x, w, b.to(_HALF), 1, 1) + F.conv2d(y, v, b.to(_HALF), 2)).relu(),
        half,
        w,
        bias,
        x,
        short,
    )
    side = max(scale.image // 32, 2)
    yield from _both(
        "mean and linear layer of one image",
        lambda x, w, b: head.mean_linear(x, w, b),
        lambda x, w, b: matmul.linear(reduction.mean(x, (2, 3)), w, b),
        lambda x, w, b: F.linear(x.mean((2, 3)), w, b),
        Input((1, 512, side, side), _HALF, _LAST),
        Input((1000, 512), _HALF),
        Input((1000,), _HALF),
    )


def _training(scale: Scale) -> Iterator[Case]:
    maps, vector = _maps(scale, 64, 4), Input((64,))
    yield from _both(
        "batch norm, residual, ReLU",
        lambda x, r, w, b: fused.normalise_act(x, (*batch_norm.batch_norm_statistics(x), w, b), r),
        lambda x, r, w, b: arithmetic.relu(arithmetic.add(batch_norm.batch_norm(x, w, b)[0], r)),
        lambda x, r, w, b: (F.batch_norm(x, None, None, w, b, training=True) + r).relu(),
        maps,
        maps,
        vector,
        vector,
    )
    yield from _both(
        "stem: batch norm, ReLU, pooling",
        lambda x, w, b: fused.normalise_pool(x, (*batch_norm.batch_norm_statistics(x), w, b))[0],
        lambda x, w, b: pooling.max_pool2d(arithmetic.relu(batch_norm.batch_norm(x, w, b)[0]), 3, 2, 1)[0],
        lambda x, w, b: F.max_pool2d(F.batch_norm(x, None, None, w, b, training=True).relu(), 3, 2, 1),
        _maps(scale, 64, 2),
        vector,
        vector,
    )
    last, vector = _maps(scale, 512, 32), Input((512,))
    yield from _both(
        "batch norm, residual, ReLU, mean",
        lambda x, r, w, b: fused.normalise_mean(x, (*batch_norm.batch_norm_statistics(x), w, b), r)[0],
        lambda x, r, w, b: reduction.mean(
            fused.normalise_act(x, (*batch_norm.batch_norm_statistics(x), w, b), r), (2, 3), keepdim=True
        ),
        lambda x, r, w, b: (F.batch_norm(x, None, None, w, b, training=True) + r).relu().mean((2, 3), keepdim=True),
        last,
        last,
        vector,
        vector,
    )


def _cross_entropy(scale: Scale) -> list[Case]:
    """The loss of logits and its gradient; the gradient is compared."""

    def apart(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        value, *saved = loss.cross_entropy(x, target)
        return loss.cross_entropy_input_grad(torch.ones_like(value), x, target, None, *saved)

    def theirs(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(x, target), x)[0]

    return _both(
        "cross entropy and gradient",
        lambda x, target: loss.cross_entropy_with_grad(x, target)[4],
        apart,
        theirs,
        Input((scale.side, 1000)),
        Input((scale.side,), torch.int64, below=1000),
        tolerance=1e-3,
    )
