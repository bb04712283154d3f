"""What launches count, against formulas written out by hand: FLOPs, and each byte that must move, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.kernels.test_optimizer import sgd
from tinyflow.kernels import (
    arithmetic,
    batch_norm,
    conv2d,
    elementwise,
    indexing,
    launch,
    loss,
    matmul,
    pooling,
    reduction,
    scatter,
    softmax,
    step_numbers,
    update_rules,
)
from tinyflow.kernels.configs import planned_for_gpu
from tinyflow.kernels.launch import Cost

BF, F32, I64 = 2, 4, 8


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def image(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return meta(*shape, dtype=dtype).to(memory_format=torch.channels_last)


def costs(call: Callable[[], Any]) -> list[tuple[str, Cost]]:
    """The launches of a call as a GPU would make them."""
    with launch.count() as records, planned_for_gpu():
        call()
    return [(r.kernel, r.cost) for r in records]


def cost(call: Callable[[], Any]) -> Cost:
    """The cost of a call's one launch."""
    found = costs(call)
    assert len(found) == 1, found
    return found[0][1]


def test_elementwise() -> None:
    x, row = meta(30, 7), meta(7)
    assert cost(lambda: arithmetic.add(x, x)) == Cost(210, 2 * 210 * BF)  # one operand, though it is named twice
    assert cost(lambda: arithmetic.add(x, row)) == Cost(210, (2 * 210 + 7) * BF)  # a broadcast element is read once
    assert cost(lambda: arithmetic.add(x, row.expand(30, 7))) == Cost(210, (2 * 210 + 7) * BF)
    assert cost(lambda: arithmetic.add(x, meta(30, 7), out=x)) == Cost(210, 3 * 210 * BF)  # read and written in place
    assert cost(lambda: arithmetic.add(x, 2.0)) == Cost(210, 2 * 210 * BF)
    assert cost(lambda: arithmetic.eq(x, row)) == Cost(210, 210 * BF + 7 * BF + 210)  # bools are bytes
    assert cost(lambda: elementwise.copy(x[:, ::2], torch.float32)) == Cost(0, 120 * (BF + F32))
    assert cost(lambda: elementwise.full((5,), 1.0, torch.float32, torch.device("meta"))) == Cost(0, 5 * F32)


def test_matmul() -> None:
    a, b, bias = meta(300, 64), meta(64, 200), meta(200)
    flops = 2 * 300 * 200 * 64
    assert cost(lambda: matmul.matmul(a, b, bias)) == Cost(flops, (300 * 64 + 64 * 200 + 200 + 300 * 200) * BF)
    many = meta(9, 1, 300, 64), meta(5, 64, 200)
    moved = (9 * 300 * 64 + 5 * 64 * 200 + 45 * 300 * 200) * BF
    assert cost(lambda: matmul.matmul(*many)) == Cost(45 * flops, moved)


def test_a_long_sum_counts_its_partial_sums() -> None:
    product, total = costs(lambda: matmul.matmul(meta(64, 65536), meta(65536, 64)))
    split = matmul._DEEP.blocks["SPLIT_K"]
    partials = split * 64 * 64 * F32
    assert product == ("_matmul_kernel", Cost(2 * 64 * 64 * 65536, 2 * 64 * 65536 * BF + partials))
    assert total == ("_sum_partials_kernel", Cost((split - 1) * 64 * 64, partials + 64 * 64 * BF))


#: x, weight, stride, padding, pixels of x in each image that some window reads
CONVOLUTIONS = [
    ((4, 64, 14, 14), (32, 64, 3, 3), 1, 1, 14 * 14),
    ((4, 64, 15, 14), (32, 64, 3, 3), 2, 1, 15 * 14),
    ((4, 64, 14, 14), (32, 64, 1, 1), 2, 0, 7 * 7),  # every other row and column is passed by
    ((4, 64, 16, 16), (32, 64, 2, 2), 3, 0, 10 * 10),  # of each three rows, two
]


@pytest.mark.parametrize(("x_shape", "weight_shape", "stride", "padding", "read"), CONVOLUTIONS)
def test_convolution(
    x_shape: tuple[int, ...], weight_shape: tuple[int, ...], stride: int, padding: int, read: int
) -> None:
    x, weight = image(*x_shape), image(*weight_shape)
    like = torch.nn.functional.conv2d(meta(*x_shape), meta(*weight_shape), None, stride, padding)
    grad = image(*like.shape)
    flops = 2 * like.numel() * math.prod(weight_shape[1:])
    pixels, filters, out = 4 * 64 * read * BF, math.prod(weight_shape) * BF, like.numel() * BF
    forward = cost(lambda: conv2d.conv2d(x, weight, meta(32), stride, padding))
    assert forward == Cost(flops, pixels + filters + out + 32 * BF)
    back = costs(lambda: conv2d.conv2d_input_grad(grad, weight, x_shape, stride, padding))
    assert sum(c.flops for _, c in back) == flops
    assert sum(c.bytes for _, c in back) == out + filters + x.numel() * BF  # gradients nobody reaches are written too
    product, *total = costs(lambda: conv2d.conv2d_weight_grad(grad, x, weight_shape, stride, padding))
    partials = 0 if not total else (total[0][1].bytes - filters)
    assert partials % (2 * filters) == 0  # whole float32 partial sums
    assert product[1] == Cost(flops, out + pixels + (partials or filters))


def test_batch_norm() -> None:
    x, c = image(8, 32, 14, 14), meta(32, dtype=torch.float32)
    n, channel = 8 * 32 * 14 * 14, 32 * F32
    statistics, finish, apply = costs(lambda: batch_norm.batch_norm(x, c, c, c, c))
    partials = statistics[1].bytes - n * BF
    assert partials > 0 and partials % (2 * channel) == 0  # a mean and a sum of squares for each split
    assert statistics[1].flops == 6 * n
    assert finish[1].bytes == partials + 4 * channel
    assert apply == ("_batch_norm_apply_kernel", Cost(3 * n, 2 * n * BF + 4 * channel))
    sums, finish, back = costs(lambda: batch_norm.batch_norm_grad(x, x.clone(), c, c, c))
    assert sums[1] == Cost(4 * n, 2 * n * BF + partials + channel)
    assert back[1] == Cost(5 * n, 3 * n * BF + 5 * channel)
    *_, fixed = costs(lambda: batch_norm.batch_norm_grad(x, x.clone(), c, c, c, training=False))
    assert fixed[1] == Cost(n, 2 * n * BF + 2 * channel)


def test_pooling() -> None:
    x = image(2, 16, 12, 12)
    n, out = x.numel(), 2 * 16 * 6 * 6
    assert cost(lambda: pooling.max_pool2d(x, 3, 2, 1)) == Cost(9 * out, n * BF + out * BF + out)
    with planned_for_gpu():
        y, taps = pooling.max_pool2d(x, 3, 2, 1)
    back = cost(lambda: pooling.max_pool2d_input_grad(y, taps, x.shape, 3, 2, 1))
    assert back == Cost(4 * n, n * BF + out * BF + out)
    assert cost(lambda: pooling.max_pool2d_select(x, taps, 3, 2, 1)).bytes == 2 * out * BF + out
    assert cost(lambda: pooling.max_pool2d_indices(taps, x.shape, 3, 2, 1)).bytes == out * I64 + out
    assert cost(lambda: pooling.avg_pool2d(x, 2)) == Cost(5 * out, (n + out) * BF)


def test_softmax_and_loss() -> None:
    x, target, n = meta(64, 1000), meta(64, dtype=torch.int64), 64000
    assert cost(lambda: softmax.log_softmax(x, 1)) == Cost(5 * n, 2 * n * BF)
    assert cost(lambda: softmax.log_softmax_input_grad(x, x.clone(), 1)) == Cost(4 * n, 3 * n * BF)
    rows, total = costs(lambda: loss.cross_entropy(x, target))
    # of each row its target, loss, weight, factor, and the normaliser's two numbers
    assert rows[1] == Cost(5 * n, n * BF + 64 * (I64 + 5 * F32))
    assert total[1] == Cost(64, 64 * 2 * F32 + BF + F32)
    # the loss's own gradient, and of each row target, factor and normaliser
    y, *saved = loss.cross_entropy(x, target)
    back = cost(lambda: loss.cross_entropy_input_grad(y, x, target, None, *saved))
    assert back == Cost(6 * n, 2 * n * BF + BF + F32 + 64 * (I64 + 3 * F32))


def test_reductions() -> None:
    x = meta(64, 1000)
    assert cost(lambda: reduction.sum(x, 1)) == Cost(64000, 64000 * BF + 64 * BF)
    first, second = costs(lambda: reduction.sum(meta(1 << 20)))
    partials = second[1].bytes - BF
    assert first[1] == Cost(1 << 20, (1 << 20) * BF + partials)


def test_indexing() -> None:
    x, i = meta(100, 64), meta(32, dtype=torch.int64)
    place, gather = costs(lambda: indexing.index(x, [i]))
    assert place[1] == Cost(0, 2 * 32 * I64)
    assert gather[1] == Cost(0, 2 * 32 * 64 * BF + 32 * I64)  # what is picked is read, not all of x
    *_, put = costs(lambda: scatter.index_put(x, [i], meta(32, 64), True))
    assert put == ("_put_kernel", Cost(32 * 64, 32 * 64 * (F32 + 2 * BF) + 32 * I64))  # sums, added to what is there


@pytest.mark.parametrize(("settings", "flops", "moved"), [
    ({}, 2, 3),
    ({"weight_decay": 0.1}, 4, 3),
    ({"momentum": 0.9, "first": True}, 2, 4),
    ({"momentum": 0.9}, 5, 5),
    ({"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}, 9, 5),
])  # fmt: skip
def test_sgd(settings: dict[str, Any], flops: int, moved: int) -> None:
    sizes = (64, 5000, 10)
    p, g, b = ([meta(n, dtype=torch.float32) for n in sizes] for _ in range(3))
    (found,) = costs(lambda: sgd(p, g, b, lr=0.1, **settings))
    rows = 4 if "momentum" in settings else 3
    tables = rows * 3 * I64 + 2 * (1 + 3 + 1) * I64  # of three tensors, and of their chunks of 2048 elements
    assert found[1] == Cost(flops * sum(sizes), moved * sum(sizes) * F32 + tables)


def test_optimizers_with_all_that_they_can_do() -> None:
    """Half copies are written once; what may be left out, or come from memory, costs nothing but that decay is computed."""
    sizes = (64, 5000, 10)
    p, g, m, v = ([meta(n, dtype=torch.float32) for n in sizes] for _ in range(4))
    copies = [meta(64), None, meta(10)]
    options = {"found_inf": meta(dtype=torch.float32), "settings": meta(8, dtype=torch.int64), "half_copies": copies}
    (found,) = costs(lambda: update_rules.adam(p, g, [m, v], [0.9], **options))
    tables = 6 * 3 * I64 + 2 * (1 + 3 + 1) * I64
    assert found[1] == Cost((12 + 2 + 1) * sum(sizes), 7 * sum(sizes) * F32 + 74 * BF + tables)
    counts = [meta(dtype=torch.float64)] * 2
    (numbers,) = costs(lambda: step_numbers.nadam(counts, options["settings"], options["found_inf"]))
    assert numbers[1] == Cost(0, 2 * 2 * 8 + 2 * 8 * I64 + F32)
