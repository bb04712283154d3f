"""Convolution over one and three dimensions: one is two with a height of 1, three has kernels of its own.

As in two dimensions, forward, input gradient and weight gradient are each the derivative of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.kernels import conv3d as kernels
from tinyflow.kernels.conv3d import Padding3d, Triple
from tinyflow.ops.conv2d import convolution, convolve2d
from tinyflow.tensor import Tensor

METHODS: list[str] = []
__all__ = ["conv1d", "conv3d"]

Single = int | Sequence[int]

convolve3d, conv3d_input_grad, conv3d_weight_grad = convolution(
    kernels.conv3d, kernels.conv3d_input_grad, kernels.conv3d_weight_grad, 3
)


def single(op: str, name: str, value: Single) -> int:
    """A setting for one dimension: an integer, or a sequence of one.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(value, Sequence) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{op}: expected {name} to be an integer or one in a sequence, got {value!r}")
    return value


def check_dims(op: str, input: Tensor, weight: Tensor, ndim: int) -> None:
    """Raises RuntimeError unless input, with a batch or without, and weight have ``ndim`` spatial dimensions."""
    if input.dim() not in (ndim + 1, ndim + 2):
        raise RuntimeError(
            f"Expected {ndim + 1}D (unbatched) or {ndim + 2}D (batched) input to {op}, but got input of size: "
            f"{list(input.shape)}"
        )
    if weight.dim() != ndim + 2:
        raise RuntimeError(f"{op}: expected weight of {ndim + 2} dimensions, got {list(weight.shape)}")


def flat(x: Tensor) -> Tensor:
    """(A, B, L) as (A, B, 1, L)."""
    return x.reshape(x.shape[0], x.shape[1], 1, x.shape[2])


def _same_padding(op: str, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[list[int]]:
    """The padding that keeps every size; the odd element goes to the end, as in torch."""
    if any(s != 1 for s in strides):
        raise RuntimeError(f"{op}: padding='same' is not supported for strided convolutions, got stride {strides}")
    totals = [d * (n - 1) for d, n in zip(dilations, kernel)]
    return [[total // 2, total - total // 2] for total in totals]


def _check_word(op: str, padding: str) -> None:
    if padding not in ("same", "valid"):
        raise ValueError(f"{op}: expected padding 'same', 'valid' or integers, got {padding!r}")


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Single = 1,
    padding: Single | str = 0,
    dilation: Single = 1,
    groups: int = 1,
) -> Tensor:
    """The sums of products of ``weight`` (K, C / groups, S) with the windows of ``input`` (N, C, L) or (C, L).

    Arguments as :func:`conv2d`, for one dimension. Returns (N, K, Q) in N·Q·K memory, or (K, Q).

    Raises:
        RuntimeError: on shapes, dtypes or devices that do not fit.
        ValueError: on an unknown word for padding.
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
    """
    check_dims("conv1d", input, weight, 1)
    step, spread = single("conv1d", "stride", stride), single("conv1d", "dilation", dilation)
    if isinstance(padding, str):
        _check_word("conv1d", padding)
        same = padding == "same"
        sides = _same_padding("conv1d", weight.shape[2:], [step], [spread])[0] if same else [0, 0]
    else:
        sides = [single("conv1d", "padding", padding)] * 2
    batched = input.dim() == 3
    x = flat(input if batched else input.reshape(1, *input.shape))
    y = convolve2d(x, flat(weight), bias, (1, step), ((0, 0), tuple(sides)), (1, spread), groups)
    return y.reshape(y.shape[0], y.shape[1], y.shape[3]) if batched else y.reshape(y.shape[1], y.shape[3])


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = 1,
    padding: Padding3d | str = 0,
    dilation: Triple = 1,
    groups: int = 1,
) -> Tensor:
    """The sums of products of ``weight`` with the windows of ``input``.

    ``weight`` is (K, C / groups, T, R, S), ``input`` (N, C, D, H, W) or (C, D, H, W); other arguments
    as :func:`conv2d`, for three dimensions. Returns (N, K, O, P, Q) in N·O·P·Q·K memory, or (K, O, P, Q).

    Raises:
        RuntimeError: on shapes, dtypes or devices that do not fit.
        ValueError: on an unknown word for padding.
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
    """
    check_dims("conv3d", input, weight, 3)
    if isinstance(padding, str):
        _check_word("conv3d", padding)
        steps, spread = ([v] * 3 if isinstance(v, int) else list(v) for v in (stride, dilation))
        padding = _same_padding("conv3d", weight.shape[2:], steps, spread) if padding == "same" else 0
    if input.dim() == 5:
        return convolve3d(input, weight, bias, stride, padding, dilation, groups)
    y = convolve3d(input.reshape(1, *input.shape), weight, bias, stride, padding, dilation, groups)
    return y.reshape(y.shape[1:])
