"""Transposed convolution: what the input gradient of a convolution does, with a bias and a size of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyflow.kernels import arithmetic, dtypes, memory
from tinyflow.kernels.conv2d import conv2d_input_grad
from tinyflow.kernels.conv3d import conv3d_input_grad
from tinyflow.kernels.launch import check_same_device
from tinyflow.kernels.memory import Buffer

Ints = int | Sequence[int]


def _each(op: str, name: str, value: Ints, ndim: int) -> tuple[int, ...]:
    values = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(values) != ndim or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise TypeError(f"{op}: expected {name} to be an integer or {ndim} integers, got {value!r}")
    return values


def _out_shape(
    op: str,
    x: Buffer,
    weight: Buffer,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> tuple[int, ...]:
    ndim = weight.dim() - 2
    x_shape, weight_shape = tuple(x.shape), tuple(weight.shape)
    if x.dim() != weight.dim() or x_shape[1] != weight_shape[0] or groups < 1 or weight_shape[0] % groups:
        raise RuntimeError(
            f"{op}: weight {weight_shape} with groups={groups} expects x of {ndim + 2} dimensions with {weight_shape[0]} "
            f"channels, divisible by groups, got x {x_shape}"
        )
    steps, around, extra, spread = (
        _each(op, name, value, ndim)
        for name, value in (
            ("stride", stride), ("padding", padding), ("output_padding", output_padding), ("dilation", dilation),
        )
    )  # fmt: skip
    if min(steps) < 1 or min(spread) < 1 or min(around) < 0 or min(extra) < 0:
        raise RuntimeError(
            f"{op}: expected stride and dilation of at least 1 and no negative padding, got stride={stride}, "
            f"dilation={dilation}, padding={padding}, output_padding={output_padding}"
        )
    sizes = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x_shape[2:], steps, around, spread, weight_shape[2:], extra)
    )
    if min(sizes) < 1:
        raise RuntimeError(f"{op}: x {x_shape} with weight {weight_shape} gives sizes {sizes}, which is too small")
    return (x_shape[0], weight_shape[1] * groups, *sizes)


def _conv_transpose(
    op: str,
    input_grad: Callable[..., Buffer],
    x: Buffer,
    weight: Buffer,
    bias: Buffer | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    allow_tf32: bool | None,
) -> Buffer:
    check_same_device(op, x=x, weight=weight, bias=bias)
    dtypes.check_floating(op, x=x, weight=weight, bias=bias)
    shape = _out_shape(op, x, weight, stride, padding, output_padding, groups, dilation)
    if bias is not None and tuple(bias.shape) != (shape[1],):
        raise RuntimeError(f"{op}: expected bias of shape ({shape[1]},), got {tuple(bias.shape)}")
    out = input_grad(x, weight, shape, stride, padding, dilation, groups, allow_tf32)
    if bias is None:
        return out
    across = memory.as_strided(bias, (shape[1], *(1,) * (len(shape) - 2)), (*bias.stride(), *(0,) * (len(shape) - 2)))
    return arithmetic.add(out, across, out=out)


def conv_transpose2d(
    x: Buffer,
    weight: Buffer,
    bias: Buffer | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    allow_tf32: bool | None = None,
) -> Buffer:
    """``y[n, k, p, q] = bias[k] + Σ x[n, c, h, w]·weight[c, k, r, s]`` where ``p = h·stride − padding + r·dilation``.

    Columns q as rows p.

    Args:
        x: (N, C, H, W), any strides.
        weight: (C, K / groups, R, S), any strides.
        bias: (K,).
        stride, padding, dilation: of the convolution whose input gradient this is; an integer, or (height, width).
        output_padding: rows and columns more at the end, fewer than the stride.
        groups, allow_tf32: as in :func:`tinyflow.kernels.conv2d.conv2d`, whose dtypes these are.

    Returns (N, K, P, Q), channels-last, ``P = (H − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1``.

    Raises:
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
        RuntimeError: on shapes, dtypes or devices that do not fit.

    FLOPs: 2·N·C·H·W·(K / groups)·R·S, and one an output for the bias. Bytes: ``x`` and ``weight`` read and the result
    written once; with a bias the result is read and written again.
    """
    return _conv_transpose(
        "conv_transpose2d", conv2d_input_grad, x, weight, bias, stride, padding, output_padding, groups, dilation,
        allow_tf32,
    )  # fmt: skip


def conv_transpose3d(
    x: Buffer,
    weight: Buffer,
    bias: Buffer | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    allow_tf32: bool | None = None,
) -> Buffer:
    """:func:`conv_transpose2d` over three dimensions: x (N, C, D, H, W), weight (C, K / groups, T, R, S)."""
    return _conv_transpose(
        "conv_transpose3d", conv3d_input_grad, x, weight, bias, stride, padding, output_padding, groups, dilation,
        allow_tf32,
    )  # fmt: skip
