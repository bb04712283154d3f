"""The launches that between them reach every kernel, on buffers of the ``meta`` device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tinyflow.kernels import (
    activation,
    amp,
    arithmetic,
    attention,
    batch_norm,
    conv2d,
    conv3d,
    conv_transpose,
    counting,
    elementwise,
    elementwise_loss,
    embedding,
    fused,
    grid_sample,
    indexing,
    layer_norm,
    loss,
    matmul,
    nonzero,
    ordering,
    padding,
    pooling,
    random,
    recurrent,
    reduction,
    resampling,
    rounding,
    scan,
    scatter,
    sequence,
    softmax,
    sorting,
    special,
    step_numbers,
    triangle,
    update_rules,
    windows,
)
from tinyflow.kernels.conv2d.box_forward import Shortcut, box_conv2d, narrow_conv2d_configs
from tinyflow.kernels.conv2d.box_input_grad import box_conv2d_input_grad, narrow_conv2d_input_grad_configs
from tinyflow.kernels.conv2d.box_stem import fold_image, stem_conv2d
from tinyflow.kernels.conv2d.box_weight_grad import box_conv2d_weight_grad
from tinyflow.kernels.conv2d.geometry import Geometry, resolve
from tinyflow.kernels.conv2d.row_forward import ROW_CONFIGS
from tinyflow.kernels.conv2d.row_input_grad import ROW_INPUT_GRAD_CONFIGS
from tinyflow.kernels.conv2d.statistics import merge_statistics
from tinyflow.kernels.conv2d.stream_weight_grad import stream_conv2d_weight_grad
from tinyflow.kernels.fused import pooled_stem
from tinyflow.kernels.fused.head import mean_linear
from tinyflow.kernels.fused.stem_weight_grad import pooled_stem_weight_grad
from tinyflow.kernels.optimizer import Update
from tinyflow.kernels.step_numbers import StepNumbers
from tinyflow.kernels.tensor_norms import tensor_norms

Call = Callable[[], Any]

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
HALF_AND_FULL = (torch.float32, torch.bfloat16)
META = torch.device("meta")


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def _index(*shape: int) -> torch.Tensor:
    return _meta(*shape, dtype=torch.int64)


def _image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return _meta(*shape, dtype=dtype).to(memory_format=torch.channels_last)


def _dtypes_of(name: str) -> tuple[torch.dtype, ...]:
    if name.startswith("bitwise") or name.endswith("shift"):
        return (torch.int64,)
    if name == "add":
        return (*FLOATING, torch.int64, torch.uint8)
    return (torch.float32, torch.float64)


def _elementwise() -> Iterator[tuple[str, Call]]:
    for family in (activation, arithmetic, elementwise_loss, reduction, rounding, special):
        for name, op in vars(family).items():
            if isinstance(op, elementwise.Pointwise):
                for dtype in _dtypes_of(name):
                    operands = [_meta(2048, dtype=dtype)] * len(op.fn.arg_names)
                    yield f"{name} {dtype}", lambda op=op, operands=operands: op(*operands)
    x = _meta(4, 64, 56, 56)
    yield "add, number", lambda: arithmetic.add(x, 2.5)
    yield "add, rows", lambda: arithmetic.add(_meta(300, 100), _meta(100))
    yield "copy to channels-last", lambda: elementwise.channels_last(x)
    yield "copy, cast", lambda: elementwise.copy(x, torch.bfloat16)
    yield "copy, five dimensions", lambda: elementwise.contiguous(_meta(2, 3, 4, 5, 6).permute(4, 2, 0, 3, 1))
    yield "fill", lambda: elementwise.full((1000,), 1.5, torch.float16, META)
    yield "arange", lambda: sequence.sequence(1000, 0, 1, 999, torch.int64, META)
    yield "linspace", lambda: sequence.sequence(1000, 0, 1, 999, torch.float32, META)


def _reduction() -> Iterator[tuple[str, Call]]:
    for dtype in (*FLOATING, torch.int64):
        x = _meta(256, 1000, dtype=dtype)
        yield f"sum of rows {dtype}", lambda x=x: reduction.sum(x, 1)
        yield f"argmax {dtype}", lambda x=x: reduction.argmax(x, 1)
    x = _meta(64, 3000)
    for name in ("mean", "var", "std", "amax", "amin", "any", "all", "prod", "argmin", "nansum", "norm"):
        yield name, lambda name=name: getattr(reduction, name)(x)
    yield "logsumexp", lambda: reduction.logsumexp(x, 1)
    for order in (1, float("inf"), -float("inf")):
        yield f"norm of order {order}", lambda order=order: reduction.norm(x, order, 1)
    yield "sum of columns", lambda: reduction.sum(_meta(100000, 64), 0)
    yield "sum of everything", lambda: reduction.sum(_meta(1 << 22))
    yield "max along a dimension", lambda: reduction.max_with_index(x, 1)


def _scan() -> Iterator[tuple[str, Call]]:
    for dtype in (*FLOATING, torch.int64):
        x = _meta(300, 3000, dtype=dtype)
        for name in ("cumsum", "cumprod", "cummax", "cummin"):
            yield f"{name} {dtype}", lambda x=x, name=name: getattr(scan, name)(x, 1)
    yield "logcumsumexp", lambda: scan.logcumsumexp(_meta(300, 3000), 1)
    yield "cumsum from the end", lambda: scan.cumsum(_meta(300, 20), 0, reverse=True)
    for reverse in (False, True):
        a = _meta(300, 3000)
        yield f"recurrence {reverse}", lambda a=a, reverse=reverse: scan.recurrence(a, a, 1, reverse, not reverse)


def _matmul() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        a, b, bias = _meta(512, 256, dtype=dtype), _meta(256, 384, dtype=dtype), _meta(384, dtype=dtype)
        yield f"matmul {dtype}", lambda a=a, b=b, bias=bias: matmul.matmul(a, b, bias)
        if dtype.itemsize == 2:
            yield f"matmul {dtype} to float32", lambda a=a, b=b: matmul.matmul(a, b, dtype=torch.float32)
    yield "matmul, batched transpose", lambda: matmul.matmul(_meta(4, 65, 33).mT, _meta(4, 65, 77))
    yield "matmul, long sum", lambda: matmul.matmul(_meta(64, 1 << 16), _meta(1 << 16, 64))
    yield "matmul, TF32", lambda: matmul.matmul(_meta(512, 512), _meta(512, 512), allow_tf32=True)


#: (input, weight, stride, padding, dilation, groups)
CONVOLUTIONS = {
    "3x3": ((8, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1, 1),
    "3x3 stride 2": ((8, 64, 56, 56), (128, 64, 3, 3), 2, 1, 1, 1),
    "1x1 stride 2": ((8, 64, 56, 56), (128, 64, 1, 1), 2, 0, 1, 1),
    "stem": ((8, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1, 1),
    "groups": ((8, 64, 14, 14), (64, 16, 3, 3), 1, 2, 2, 4),
    "depthwise": ((8, 64, 14, 14), (64, 1, 3, 3), 1, 1, 1, 64),
}


def _convolution() -> Iterator[tuple[str, Call]]:
    for name, (x_shape, w_shape, *how) in CONVOLUTIONS.items():
        for dtype in FLOATING if name == "3x3" else HALF_AND_FULL:
            x, w = _image(*x_shape, dtype=dtype), _image(*w_shape, dtype=dtype)
            y = conv2d.conv2d(x, w, None, *how)
            bias = _meta(w_shape[0], dtype=dtype)
            label = f"convolution {name} {dtype}"
            yield label, lambda x=x, w=w, bias=bias, how=how: conv2d.conv2d(x, w, bias, *how)
            yield (
                f"{label}, input gradient",
                lambda x=x, w=w, y=y, how=how: conv2d.conv2d_input_grad(y, w, x.shape, *how),
            )
            yield (
                f"{label}, weight gradient",
                lambda x=x, w=w, y=y, how=how: conv2d.conv2d_weight_grad(y, x, w.shape, *how),
            )


def _boxes() -> Iterator[tuple[str, Call]]:
    """Epilogues of convolutions by tensor-memory boxes; their plain forms are reached through ``conv2d``."""
    shape = (32, 64, 56, 56)
    same, half, stem = (
        resolve("conv2d", shape, (64, 64, 3, 3), 1, 1, 1, 1),
        resolve("conv2d", shape, (128, 64, 3, 3), 2, 1, 1, 1),
        resolve("conv2d", (32, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1, 1),
    )
    for dtype in (torch.float16, torch.bfloat16):
        x = _image(*shape, dtype=dtype)
        for found in (same, half):
            w, y = _image(*found.weight_shape, dtype=dtype), _image(*found.out_shape, dtype=dtype)
            label = f"boxes {found.weight_shape} {dtype}"
            yield f"{label}, statistics", lambda f=found, x=x, w=w: _merged(box_conv2d(f, x, w, statistics=True)[1])
            yield (
                f"{label}, inference",
                lambda f=found, x=x, w=w, y=y: box_conv2d(f, x, w, _meta(w.shape[0]), y, relu=True),
            )
            yield (
                f"{label}, input gradient",
                lambda f=found, x=x, w=w, y=y: box_conv2d_input_grad(f, y, w, x, x, x, _meta(64)),
            )
        yield (
            f"boxes {dtype}, shortcut",
            lambda x=x, y=_image(*half.out_shape, dtype=dtype), d=dtype: _joined(x, y, d),
        )
        yield (
            f"boxes {dtype}, weight gradient in equal shares",
            lambda x=x, y=_image(*half.out_shape, dtype=dtype): stream_conv2d_weight_grad(half, y, x),
        )
        for found in (same, half, stem):
            yield (
                f"boxes {found.weight_shape} {dtype}, weight gradient in float32",
                lambda f=found, d=dtype: _wide_weight_grad(f, d),
            )
        image, w = _meta(32, 3, 224, 224, dtype=dtype), _image(64, 3, 7, 7, dtype=dtype)
        yield (
            f"boxes {dtype}, stem",
            lambda i=image, w=w: stem_conv2d(stem, fold_image(stem, i), w, statistics=True),
        )
        yield f"boxes {dtype}, image of float32", lambda d=dtype: fold_image(stem, _meta(*stem.x_shape), d)


def _boxes_on_hopper() -> Iterator[tuple[str, Call]]:
    """Rows, and weight gradients that make the gradient they take."""
    shape = (32, 64, 56, 56)
    same = resolve("conv2d", shape, (64, 64, 3, 3), 1, 1, 1, 1)
    stem = resolve("conv2d", (32, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1, 1)
    for dtype in (torch.float16, torch.bfloat16):
        x, image = _image(*shape, dtype=dtype), _meta(*stem.x_shape, dtype=dtype)
        yield f"rows {dtype}", lambda x=x, w=_image(*same.weight_shape, dtype=dtype): _by_rows(same, x, w)
        yield (
            f"boxes {dtype}, weight gradient from above",
            lambda x=x: box_conv2d_weight_grad(same, None, x, x, x, _meta(3, 64)),
        )
        yield f"boxes {dtype}, stem's weight gradient from behind", lambda i=image, d=dtype: _pooled_stem(stem, i, d)


def _wide_weight_grad(found: Geometry, dtype: torch.dtype) -> None:
    x, y = _image(*found.x_shape, dtype=dtype), _image(*found.out_shape, dtype=dtype)
    conv2d.conv2d_weight_grad(y, x, found.weight_shape, found.stride, found.padding, dtype=torch.float32)


def _by_rows(found: Geometry, x: torch.Tensor, w: torch.Tensor) -> None:
    """Every configuration, which only a measured table chooses."""
    for config in ROW_CONFIGS:
        with narrow_conv2d_configs.forced(config):
            _merged(box_conv2d(found, x, w, statistics=True)[1])
            box_conv2d(found, x, w, _meta(64), x, relu=True)
    for config in ROW_INPUT_GRAD_CONFIGS:
        with narrow_conv2d_input_grad_configs.forced(config):
            box_conv2d_input_grad(found, x, w)
            box_conv2d_input_grad(found, x, w, x, x, x, _meta(64))


def _joined(x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype) -> None:
    found = resolve("conv2d", y.shape, (128, 128, 3, 3), 1, 1, 1, 1)
    short = resolve("conv2d", x.shape, (128, 64, 1, 1), 2, 0, 1, 1)
    weight, weight_short = _image(*found.weight_shape, dtype=dtype), _image(*short.weight_shape, dtype=dtype)
    bias = _meta(128)
    box_conv2d(found, y, weight, bias, relu=True, shortcut=Shortcut(short, x, weight_short, bias))


def _pooled_stem(found: Geometry, image: torch.Tensor, dtype: torch.dtype) -> None:
    z, pooled = _image(*found.out_shape, dtype=dtype), _image(32, 64, 56, 56, dtype=dtype)
    taps, folded = _image(32, 64, 56, 56, dtype=torch.uint8), fold_image(found, image)
    pooled_stem_weight_grad(found, pooled, taps, z, _meta(3, 64), folded)


def _merged(rows: torch.Tensor | None) -> None:
    assert rows is not None
    merge_statistics(rows, 1e-5, rows[0, 0], rows[0, 1], num_batches=_index())


def _indexing() -> Iterator[tuple[str, Call]]:
    x, i = _meta(100, 64), _index(32)
    yield "index", lambda: indexing.index(x, [i])
    yield "index, both", lambda: indexing.index(x, [i, i])
    yield "index_put", lambda: scatter.index_put(x, [i], _meta(32, 64))
    yield "index_put, accumulate", lambda: scatter.index_put(x, [i], _meta(32, 64), True)
    yield "index_grad", lambda: scatter.index_grad(_meta(32, 64), [i], x.shape)
    yield "gather", lambda: indexing.gather(x, 1, _index(100, 5))
    yield "scatter_add", lambda: scatter.scatter_add(x, 1, _index(100, 5), _meta(100, 5))
    yield "nonzero, count", lambda: nonzero._nonzero_first(x)
    yield "nonzero, write", lambda: nonzero._nonzero_coordinates(x, _index(9), _index(50, 2))
    for reduce in ("prod", "amax", "amin"):
        arguments = x, 1, _index(100, 5), _meta(100, 5), reduce
        yield f"scatter_reduce {reduce}", lambda arguments=arguments: scatter.scatter_reduce(*arguments)
    yield "sort of keys", lambda: sorting.sort_order(_index(5000))
    yield "sort of keys, one tile", lambda: sorting.sort_order(_index(100))
    for dtype in (torch.bfloat16, torch.float64, torch.bool):
        rows = _meta(100, 3000, dtype=dtype)
        yield f"sort {dtype}", lambda rows=rows: ordering.sort(rows)
        yield f"topk {dtype}", lambda rows=rows: ordering.topk(rows, 5)
    for dtype in (torch.bfloat16, torch.int64, torch.bool):
        sequence, values = _meta(1000, dtype=dtype), _meta(40, 5, dtype=dtype)
        yield f"searchsorted {dtype}", lambda s=sequence, v=values: counting.searchsorted(s, v, sorter=_index(1000))
        yield f"histogram {dtype}", lambda v=values: counting.count_in_bins(v, 10, 0.0, 1.0)
    yield "bincount", lambda: counting.count_integers(_index(1000), 10)
    yield "spread", lambda: ordering.spread(_meta(100, 5), 1, _index(100, 5), (100, 64))


def _random() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        x = _meta(5000, dtype=dtype)
        yield f"uniform {dtype}", lambda x=x: random.uniform(x, 1, 2)
        yield f"normal {dtype}", lambda x=x: random.normal(x, 1, 2)
        yield f"dropout {dtype}", lambda x=x: random.dropout(x, 0.3, 1, 2)
    yield "normal, recorded", lambda: random.normal(_meta(5000), _index(2), 2)
    yield "dropout, recorded", lambda: random.dropout(_meta(5000), 0.3, _index(2), 2)
    yield "exponential", lambda: random.exponential(_meta(100), 1, 2)
    yield "log_normal", lambda: random.log_normal(_meta(100), 1, 2)
    yield "cauchy", lambda: random.cauchy(_meta(100, dtype=torch.float64), 1, 2)
    yield "geometric", lambda: random.geometric(_meta(100), 1, 2, 0.5)
    yield "bernoulli", lambda: random.bernoulli(_meta(100), 1, 2)
    yield "integers", lambda: random.integers(_index(100), 1, 2, 0, 10)
    yield "permutation", lambda: random.permutation(1000, META, 1, 2)


def _update(rule: Update, dtype: torch.dtype, **options: Any) -> None:
    like = [_meta(n, dtype=dtype) for n in (64, 4096, 10)]
    rule(like, like, [like] * rule.states, [0.5], decay=0.1, shrink=0.9, **options)


def _recurrent() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        c, gates, three = _meta(64, 128, dtype=dtype), _meta(64, 512, dtype=dtype), _meta(64, 384, dtype=dtype)
        yield f"lstm_cell {dtype}", lambda c=c, g=gates: recurrent.lstm_cell(g, c)
        yield f"lstm_cell, gradient {dtype}", lambda c=c, g=gates: recurrent.lstm_cell_grad(c, c, g, c, c)
        yield f"gru_cell {dtype}", lambda c=c, g=three: recurrent.gru_cell(g, g, c)
        yield f"gru_cell, gradient {dtype}", lambda c=c, g=three: recurrent.gru_cell_grad(c, g, g, c)


def _updates() -> Iterator[tuple[str, Call]]:
    rules = {name: rule for name, rule in vars(update_rules).items() if isinstance(rule, Update)}
    for name, rule in rules.items():
        yield name, lambda rule=rule: _update(rule, torch.float32)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for name in ("momentum", "adam"):
            yield f"{name} {dtype}", lambda dtype=dtype, rule=rules[name]: _update(rule, dtype)
    options = {"settings": _index(8), "factors": _meta(3), "found_inf": _meta()}
    halves = [[_meta(64, dtype=dtype), _meta(4096, dtype=dtype), None] for dtype in (torch.float16, torch.bfloat16)]
    for name in ("momentum", "nesterov_begins", "adam", "amsgrad"):
        rule = rules[name]
        yield f"{name}, settings in memory", lambda rule=rule: _update(rule, torch.float32, **options)
        yield f"{name}, maximize", lambda rule=rule: _update(rule, torch.float32, maximize=True)
        for copies in halves:
            given = {"half_copies": copies}
            yield f"{name}, half copies", lambda rule=rule, g=given: _update(rule, torch.float32, **g)
            yield f"{name}, all of it", lambda rule=rule, g={**given, **options}: _update(rule, torch.float32, **g)
    for name, numbers in vars(step_numbers).items():
        if isinstance(numbers, StepNumbers):
            counts = [_meta(dtype=torch.float64)] * (1 + numbers.counts)
            yield f"{name}, its numbers", lambda n=numbers, c=counts: n(c, [0] * 8, _meta())
            yield f"{name}, its numbers, recorded", lambda n=numbers, c=counts: n(c, _index(8), None)
    for order in (1, 2, math.inf, -math.inf):
        for dtype in FLOATING:
            tensors = [_meta(n, dtype=dtype) for n in (64, 4096)]
            yield f"norms {order} {dtype}", lambda t=tensors, order=order: tensor_norms(t, order)


def _amp() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        for n in (64, 4096):
            g = [_meta(n, dtype=dtype)]
            yield f"unscale {n} {dtype}", lambda g=g: amp.unscale(g, _meta())
    yield "update_scale", lambda: amp.update_scale(_meta(), _meta(dtype=torch.int32), _meta(), 2.0, 0.5, 2000)


def _batch_norm() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        c = _meta(64, dtype=wide)
        x = _image(32, 64, 28, 28, dtype=dtype)
        yield f"batch_norm {dtype}", lambda x=x, c=c: batch_norm.batch_norm(x, c, c, c, c, num_batches=_index())
        yield f"batch_norm, inference {dtype}", lambda x=x, c=c: batch_norm.batch_norm_inference(x, c, c, c, c)
        yield f"batch_norm, gradient {dtype}", lambda x=x, c=c: batch_norm.batch_norm_grad(x, x, c, c, c)
    yield "batch_norm, no affine, NCHW", lambda: batch_norm.batch_norm(_meta(8, 16, 7, 7))
    x, c = _image(2, 64, 5, 5), _meta(64)
    yield "batch_norm, few pixels", lambda: batch_norm.batch_norm(x, c, c, c, c, num_batches=_index())
    yield "batch_norm, few pixels, gradient", lambda: batch_norm.batch_norm_grad(x, x, c, c, c)


def _fused() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        c = _meta(64, dtype=wide)
        norm = (c, c, c, c)
        x = _image(32, 64, 28, 28, dtype=dtype)
        yield f"normalise, ReLU {dtype}", lambda x=x, n=norm: fused.normalise_act(x, n)
        yield f"normalise, residual {dtype}", lambda x=x, n=norm: fused.normalise_act(x, n, x)
        yield f"normalise both {dtype}", lambda x=x, n=norm: fused.normalise_act(x, n, x, residual_norm=n)
        yield f"bias, residual {dtype}", lambda x=x, c=c: fused.bias_act(x, c, x)
        yield f"normalise, gradient {dtype}", lambda x=x, n=norm: fused.normalise_act_grad(x, x, None, n)
        yield (
            f"normalise, residual, gradient {dtype}",
            lambda x=x, n=norm: fused.normalise_act_grad(x, x, x, n, has_residual=True),
        )
        yield (
            f"normalise, known sums {dtype}",
            lambda x=x, n=norm, c=c: fused.normalise_act_grad(x, x, None, n, sums=(c, c)),
        )
        means, passed = _image(32, 64, 1, 1, dtype=dtype), _meta(2, 32, 64, dtype=wide)
        yield f"normalise, mean {dtype}", lambda x=x, n=norm: fused.normalise_mean(x, n, x)
        yield (
            f"normalise, mean, gradient {dtype}",
            lambda g=means, x=x, n=norm, p=passed: fused.normalise_mean_grad(g, x, x, n, p),
        )
        yield (
            f"mean, linear {dtype}",
            lambda x=_image(4, 512, 7, 7, dtype=dtype), w=_meta(1000, 512, dtype=dtype): mean_linear(x, w, w[:, 0]),
        )
        pooled = _image(32, 64, 14, 14, dtype=dtype)
        taps = _image(32, 64, 14, 14, dtype=torch.uint8)
        yield f"normalise, pool {dtype}", lambda x=x, n=norm: fused.normalise_pool(x, n)
        yield (
            f"bias, pool {dtype}",
            lambda x=x, c=c: fused.normalise_pool(x, (None, None, None, c), with_taps=False),
        )
        yield (
            f"normalise, pool, gradient {dtype}",
            lambda g=pooled, t=taps, x=x, n=norm: fused.normalise_pool_grad(g, t, g, x, n),
        )
        image, w = _meta(32, 3, 224, 224, dtype=dtype), _image(64, 3, 7, 7, dtype=dtype)
        stem = resolve("conv2d", image.shape, w.shape, 2, 3, 1, 1)
        if pooled_stem.suits(stem, dtype, META):
            yield f"stem, pool {dtype}", lambda f=stem, x=image, w=w, c=c: pooled_stem.pooled_stem(f, x, w, c)
        w = _image(64, 64, 3, 3, dtype=dtype)
        yield f"fold {dtype}", lambda w=w, c=c: fused.fold_batch_norm(w, c, c, c, c, c)
    x = _image(32, 512, 7, 7, dtype=torch.bfloat16)
    c = _meta(512)
    yield "normalise, many channels", lambda: fused.normalise_act(x, (c, c, c, c), x)
    yield "normalise, evaluation", lambda: fused.normalise_act_grad(x, x, None, (c, c, c, c), "none", False)
    sums = fused.normalise.normalise_act_gradient_sums
    yield "sums and affine map", lambda: sums(x, x, x, (c, c, c, c), has_residual=True, pixels=1568)


def _pooling() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        x = _image(8, 64, 57, 57, dtype=dtype)
        y, taps = pooling.max_pool2d(x, 3, 2, 1)
        yield f"max_pool2d {dtype}", lambda x=x: pooling.max_pool2d(x, 3, 2, 1)
        yield (
            f"max_pool2d, gradient {dtype}",
            lambda y=y, t=taps, s=x.shape: pooling.max_pool2d_input_grad(y, t, s, 3, 2, 1),
        )
        yield f"max_pool2d, select {dtype}", lambda x=x, t=taps: pooling.max_pool2d_select(x, t, 3, 2, 1)
        yield f"avg_pool2d {dtype}", lambda x=x: pooling.avg_pool2d(x, 3, 2, 1)
        yield f"adaptive_avg_pool2d {dtype}", lambda x=x: pooling.adaptive_avg_pool2d(x, 1)
    x = _image(8, 64, 57, 57)
    y, taps = pooling.max_pool2d(x, 3, 2, 1)
    yield "max_pool2d, indices", lambda: pooling.max_pool2d_indices(taps, x.shape, 3, 2, 1)
    yield "avg_pool2d, gradient", lambda: pooling.avg_pool2d_input_grad(y, x.shape, 3, 2, 1)
    yield (
        "adaptive_avg_pool2d, gradient",
        lambda: pooling.adaptive_avg_pool2d_input_grad(_image(8, 64, 5, 5), x.shape, 5),
    )


def _volumes() -> Iterator[tuple[str, Call]]:
    """Convolutions over three dimensions, which launch those over two, and transposed ones."""
    x, w = _meta(2, 32, 9, 14, 14, dtype=torch.bfloat16), _meta(32, 16, 3, 3, 3, dtype=torch.bfloat16)
    how = (2, 1, 1, 2)
    y = conv3d.conv3d(x, w, None, *how)
    yield "conv3d", lambda: conv3d.conv3d(x, w, _meta(32, dtype=torch.bfloat16), *how)
    yield "conv3d, input gradient", lambda: conv3d.conv3d_input_grad(y, w, x.shape, *how)
    yield "conv3d, weight gradient", lambda: conv3d.conv3d_weight_grad(y, x, w.shape, *how)
    image, filters = _image(8, 64, 14, 14), _image(64, 32, 2, 2)
    yield "conv_transpose2d", lambda: conv_transpose.conv_transpose2d(image, filters, _meta(32), 2)


def _resampling() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        for channels, form in ((64, "linear"), (3, "cubic"), (12, "nearest")):
            x = _image(4, channels, 28, 28, dtype=dtype)
            axes = (resampling.Axis(28, 56, form), resampling.Axis(28, 41, form))
            yield f"resample {form} {dtype}", lambda x=x, axes=axes: resampling.resample(x, axes)
    axes = (resampling.Axis(224, 30, "cubic", antialias=True),) * 2
    yield "resample, smoothing", lambda: resampling.resample(_meta(2, 3, 224, 224), axes)
    yield "resample, gradient", lambda: resampling.resample(_meta(2, 3, 30, 30), axes, transposed=True)


def _grid_sample() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        for mode, channels in (("bilinear", 64), ("nearest", 12), ("bicubic", 3)):
            x, grid = _image(2, channels, 28, 28, dtype=dtype), _meta(2, 20, 20, 2, dtype=dtype)
            g = _image(2, channels, 20, 20, dtype=dtype)
            yield f"grid_sample {mode} {dtype}", lambda x=x, grid=grid, m=mode: grid_sample.grid_sample(x, grid, m)
            yield (
                f"grid_sample {mode}, gradient {dtype}",
                lambda g=g, x=x, grid=grid, m=mode: grid_sample.grid_sample_input_grad(g, grid, x.shape, m),
            )
            yield (
                f"grid_sample {mode}, gradient for the grid {dtype}",
                lambda g=g, x=x, grid=grid, m=mode: grid_sample.grid_sample_grid_grad(g, x, grid, m, "reflection"),
            )
    x, grid = _meta(1, 8, 1, 9, 9), _meta(1, 1, 5, 5, 3)
    yield "grid_sample, volume", lambda: grid_sample.grid_sample(x, grid, padding_mode="border", orders=(0, 1, 1))
    yield (
        "grid_sample, volume, gradient",
        lambda: grid_sample.grid_sample_grid_grad(_meta(1, 8, 1, 5, 5), x, grid, align_corners=True),
    )


def _rearranging() -> Iterator[tuple[str, Call]]:
    """Moved, mirrored and masked elements, which are the same work in every dtype of a width; sums of them are not."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool):
        x = _meta(8, 64, 57, 57, dtype=dtype)
        yield f"constant pad {dtype}", lambda x=x: padding.pad(x, (8, 64, 59, 60), (0, 0, 1, 1), value=1)
        yield f"tril {dtype}", lambda x=x: triangle.tril(x, 1)
        yield f"replicate, gradient {dtype}", lambda x=x: padding.pad_grad(x, (8, 64, 55, 54), (0, 0, 1, 1), 2)
        yield (
            f"fold {dtype}",
            lambda d=dtype: windows.fold(_meta(8, 64, 3, 3, 28, 28, dtype=d), (28, 28), (1, 1), (1, 1)),
        )
    x = _image(8, 64, 57, 57)
    yield "flip", lambda: padding.flip(x, (2, 3))
    yield "roll", lambda: padding.roll(x, (3, 1), (2, 3))
    yield "replicate", lambda: padding.pad(x, (8, 64, 59, 57), (0, 0, 1, 0), 2)
    for mode in (1, 3):
        yield f"pad, gradient {mode}", lambda mode=mode: padding.pad_grad(x, (8, 64, 55, 57), (0, 0, 1, 0), mode)
    yield "triu", lambda: triangle.triu(x)
    yield "tril_indices", lambda: triangle.tril_indices(300, 200, 3, torch.int64, META)
    yield "triu_indices", lambda: triangle.triu_indices(300, 200, 3, torch.int32, META)
    yield "windows of a dimension", lambda: windows.fold_dim(_meta(300, 64, 5), (304, 64), 0, 1)


def _softmax_and_loss() -> Iterator[tuple[str, Call]]:
    target = _index(64)
    for dtype in FLOATING:
        x, total = _meta(64, 1000, dtype=dtype), _meta(dtype=torch.float32)
        yield f"softmax {dtype}", lambda x=x: softmax.softmax(x, 1)
        yield f"log_softmax {dtype}", lambda x=x: softmax.log_softmax(x, 1)
        yield f"softmax, gradient {dtype}", lambda x=x: softmax.softmax_input_grad(x, x, 1)
        yield f"log_softmax, gradient {dtype}", lambda x=x: softmax.log_softmax_input_grad(x, x, 1)
        yield f"cross_entropy {dtype}", lambda x=x: _cross_entropy_both_ways(x, target)
        yield f"nll_loss {dtype}", lambda x=x, total=total: loss.nll_loss(x, target)
    x = _meta(64, 1000)
    yield "softmax of columns", lambda: softmax.softmax(_meta(1000, 300), 0)
    yield "softmax of long rows", lambda: softmax.softmax(_meta(8, 200000), 1)
    yield "cross_entropy, probabilities", lambda: _cross_entropy_both_ways(x, x)
    yield "nll_loss, gradient", lambda: loss.nll_loss_input_grad(_meta(), target, None, _meta(), x.shape)


def _cross_entropy_both_ways(x: torch.Tensor, target: torch.Tensor) -> None:
    weight = _meta(x.shape[1], dtype=x.dtype)
    y, *saved = loss.cross_entropy(x, target, weight, label_smoothing=0.1)
    loss.cross_entropy_input_grad(y, x, target, weight, *saved, label_smoothing=0.1)
    loss.cross_entropy_with_grad(x, target, weight, label_smoothing=0.1)


def _attention() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        heads = [_meta(2, 4, 1, 200, 64, dtype=dtype), *[_meta(2, 4, 200, 64, dtype=dtype)] * 2]
        yield f"attention {dtype}", lambda h=heads: _attention_both_ways(*h)
    for dtype in (torch.bfloat16, torch.float64):
        large = [_meta(2, 4, 1, 200, 200, dtype=dtype), *[_meta(2, 4, 200, 200, dtype=dtype)] * 2]
        yield f"attention, large heads {dtype}", lambda h=large: _attention_both_ways(*h)
    half = [_meta(2, 4, 1, 200, 128, dtype=torch.float16), *[_meta(2, 4, 200, 128, dtype=torch.float16)] * 2]
    yield "attention, causal", lambda: _attention_both_ways(*half, is_causal=True)
    q, k, v = _meta(2, 4, 2, 200, 40), _meta(2, 4, 90, 40), _meta(2, 4, 90, 100)
    yield "attention, mask", lambda: _attention_both_ways(q, k, v, _meta(2, 4, 1, 1, 90), mask_grad=True)
    yield "attention, bool mask", lambda: _attention_both_ways(q, k, v, _meta(200, 90, dtype=torch.bool))
    yield "attention, dropout", lambda: _attention_both_ways(q, k, v, dropout_p=0.1)
    yield "attention, recorded dropout", lambda: _attention_both_ways(q, k, v, dropout_p=0.1, seed=_index(2))


def _attention_both_ways(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    mask_grad: bool = False,
    **how: Any,
) -> None:
    out, lse = attention.attention(q, k, v, mask, **how)
    attention.attention_grad(out, q, k, v, mask, out, lse, mask_grad=mask_grad, **how)


def _layer_norm() -> Iterator[tuple[str, Call]]:
    for dtype in FLOATING:
        for n in (100, 768, 40000):
            x, w = _meta(512, n, dtype=dtype), _meta(1, n, dtype=dtype)
            yield f"layer_norm {n} {dtype}", lambda x=x, w=w: _layer_norm_both_ways(x, w, 1)
    x = _image(8, 64, 28, 28).view(8, 8, 8, 28, 28)
    yield "layer_norm, groups", lambda: _layer_norm_both_ways(x, _meta(1, 8, 8, 1, 1), 2)
    yield "layer_norm, no parameters", lambda: _layer_norm_both_ways(_meta(512, 768), None, 1)
    yield "layer_norm, not centred", lambda: _layer_norm_both_ways(_meta(512, 768), _meta(1, 768), 1, centred=False)


def _layer_norm_both_ways(x: torch.Tensor, w: torch.Tensor | None, lead: int, **how: Any) -> None:
    y, mean, invstd = layer_norm.layer_norm(x, w, w, lead, **how)
    layer_norm.layer_norm_input_grad(y, x, w, mean, invstd)
    if w is not None:
        layer_norm.layer_norm_parameter_grad(y, x, mean, invstd, w.shape, w.dtype)


def _embedding() -> Iterator[tuple[str, Call]]:
    numbers, offsets = _index(300), _index(40)
    for dtype in FLOATING:
        table = _meta(1000, 96, dtype=dtype)
        yield f"embedding_bag {dtype}", lambda t=table: embedding.embedding_bag(t, numbers, offsets, 40)
    table = _meta(1000, 64)
    yield "embedding_bag, max", lambda: embedding.embedding_bag(table, numbers, offsets, 39, "max", padding_idx=3)
    yield "embedding_bag, weights", lambda: embedding.embedding_bag(table, numbers, offsets, 40, "sum", _meta(300))


LAUNCHES: dict[str, Call] = {}
for _family in (
    _elementwise,
    _reduction,
    _scan,
    _matmul,
    _convolution,
    _indexing,
    _random,
    _updates,
    _recurrent,
    _amp,
    _batch_norm,
    _fused,
    _pooling,
    _rearranging,
    _volumes,
    _resampling,
    _grid_sample,
    _softmax_and_loss,
    _attention,
    _layer_norm,
    _embedding,
):
    LAUNCHES.update(_family())

#: For targets that ``conv2d.dispatch`` admits to boxes, and for Hopper alone.
BOX_LAUNCHES: dict[str, Call] = dict(_boxes())
HOPPER_LAUNCHES: dict[str, Call] = dict(_boxes_on_hopper())
