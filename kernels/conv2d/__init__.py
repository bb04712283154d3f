"""2-d convolution and its two gradients, each a launcher of its own: they are closed under differentiation.

Shapes are (N, C, H, W) and (K, C / groups, R, S) in any strides; results lie channels-last, weights in K·R·S·C order.
``geometry`` checks sizes and ``dispatch`` chooses the form of each: on addresses (``correlation`` for the forward pass and
the input gradient, ``weight_gradient``), or by boxes of a GPU's tensor memory accelerator (``box_forward`` and others).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.conv2d import dispatch
from tinyflow.kernels.conv2d.box_forward import box_conv2d
from tinyflow.kernels.conv2d.box_input_grad import box_conv2d_input_grad
from tinyflow.kernels.conv2d.box_stem import fold_image, stem_conv2d, stem_conv2d_weight_grad
from tinyflow.kernels.conv2d.box_weight_grad import box_conv2d_weight_grad
from tinyflow.kernels.conv2d.boxes import for_boxes
from tinyflow.kernels.conv2d.correlation import correlate
from tinyflow.kernels.conv2d.geometry import Geometry, IntPair, Padding, check_grad, resolve
from tinyflow.kernels.conv2d.geometry import same_padding as same_padding
from tinyflow.kernels.conv2d.stream_weight_grad import stream_conv2d_weight_grad
from tinyflow.kernels.conv2d.weight_gradient import weight_grad
from tinyflow.kernels.elementwise import contiguous
from tinyflow.kernels.launch import Cost, check_same_device, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.precision import input_precision, tf32

_NO_COST = Cost()


def _precision(x: Buffer, allow_tf32: bool | None) -> str:
    return input_precision(x.dtype, tf32.convolution if allow_tf32 is None else allow_tf32)


def conv2d(
    x: Buffer,
    weight: Buffer,
    bias: Buffer | None = None,
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    allow_tf32: bool | None = None,
) -> Buffer:
    """``y[n, k, p, q] = bias[k] + Σ_{c, r, s} x[n, c, h, w]·weight[k, c, r, s]``, x being 0 outside the image,
    at ``h = p·stride − padding + r·dilation``, likewise ``w``.

    Args:
        x: (N, C, H, W), any strides.
        weight: (K, C / groups, R, S), any strides.
        bias: (K,), any stride.
        stride, dilation: an integer, or (height, width).
        padding: zeros around the image: an integer, (height, width), or ((top, bottom), (left, right)).
        groups: output channels k of the j-th of ``groups`` parts see the input channels of the j-th part.
        allow_tf32: lets a GPU round float32 factors to TF32; default: ``precision.tf32.convolution``.

    Returns (N, K, P, Q), channels-last. Dtypes: one of float64, float32, float16, bfloat16 for all, accumulated in
    float32 (float64 for float64).

    Raises:
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
        RuntimeError: on shapes, dtypes or devices that do not fit.

    FLOPs: 2·N·K·P·Q·(C / groups)·R·S. Bytes: ``x``, ``weight``, ``bias`` read and ``y`` written once.
    """
    check_same_device("conv2d", x=x, weight=weight, bias=bias)
    dtypes.check_floating("conv2d", x=x, weight=weight, bias=bias)
    found = resolve("conv2d", x.shape, weight.shape, stride, padding, dilation, groups)
    if bias is not None and tuple(bias.shape) != (found.weight_shape[0],):
        raise RuntimeError(f"conv2d: expected bias of shape ({found.weight_shape[0]},), got {tuple(bias.shape)}")
    path = dispatch.forward(found, x.dtype, x.device)
    if path == dispatch.BOX:
        return box_conv2d(found, for_boxes(x), for_boxes(weight), None if bias is None else contiguous(bias))[0]
    if path == dispatch.STEM:
        return stem_conv2d(found, fold_image(found, x), weight, None if bias is None else contiguous(bias))[0]
    out = strides.empty_channels_last(found.out_shape, x.dtype, x.device)
    return correlate(
        out,
        x,
        weight,
        bias,
        stride=found.stride,
        start=found.start,
        spacing=found.dilation,
        groups=groups,
        transposed=False,
        precision=_precision(x, allow_tf32),
        cost=Cost(found.flops, nbytes(out, weight, bias) + found.bytes_read(x)),
    )


def conv2d_input_grad(
    grad: Buffer,
    weight: Buffer,
    x_shape: Sequence[int],
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    allow_tf32: bool | None = None,
) -> Buffer:
    """The gradient of :func:`conv2d` for ``x``: every product of a window goes back to where it was read.

    A stride splits rows and columns into phases, each reached by its own taps alone and computed as a convolution of
    ``grad`` with stride 1; a phase that no tap reaches is zero.

    Args:
        grad: (N, K, P, Q), any strides, the gradient of conv2d's result.
        weight: (K, C / groups, R, S), any strides.
        x_shape: (N, C, H, W).
        stride, padding, dilation, groups, allow_tf32: as given to :func:`conv2d`.

    Returns (N, C, H, W), channels-last, in ``grad``'s dtype. Dtypes as :func:`conv2d`.

    Raises:
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
        RuntimeError: on shapes, dtypes or devices that do not fit.

    FLOPs: those of :func:`conv2d`, all on the first phase's launch. Bytes: ``grad`` and ``weight`` read and the result
    written once.
    """
    check_same_device("conv2d_input_grad", grad=grad, weight=weight)
    dtypes.check_floating("conv2d_input_grad", grad=grad, weight=weight)
    found = resolve("conv2d_input_grad", x_shape, weight.shape, stride, padding, dilation, groups)
    check_grad("conv2d_input_grad", grad.shape, found)
    if dispatch.input_grad(found, grad.dtype, grad.device) == dispatch.BOX:
        return box_conv2d_input_grad(found, for_boxes(grad), for_boxes(weight))[0]
    out = strides.empty_channels_last(found.x_shape, grad.dtype, grad.device)
    cost = Cost(found.flops, nbytes(out, grad, weight))
    for row in range(min(found.stride[0], found.x_shape[2])):
        for column in range(min(found.stride[1], found.x_shape[3])):
            _input_grad_phase(out, grad, weight, found, (row, column), _precision(grad, allow_tf32), cost)
            cost = _NO_COST
    return out


def _input_grad_phase(
    out: Buffer, grad: Buffer, weight: Buffer, found: Geometry, phase: tuple[int, int], precision: str, cost: Cost
) -> None:
    """Fills rows and columns of ``out`` that leave the remainder ``phase`` on division by the stride.

    Row h = i·stride + phase meets output row p at tap r where h + padding = p·stride + r·dilation. The taps that do
    form a progression; along it p falls from i + start in even steps.
    """
    taps, firsts, every, start, spacing = [], [], [], [], []
    for axis in range(2):
        stride, dilation, kernel = found.stride[axis], found.dilation[axis], found.kernel[axis]
        shifted = phase[axis] - found.start[axis]
        common = math.gcd(stride, dilation)
        period = stride // common
        first = next((r for r in range(min(period, kernel)) if (shifted - r * dilation) % stride == 0), kernel)
        firsts.append(first)
        every.append(period)
        taps.append(len(range(first, kernel, period)))
        start.append((shifted - first * dilation) // stride)
        spacing.append(-(dilation // common))
    offset = sum(f * st for f, st in zip(firsts, weight.stride()[2:])) if min(taps) else 0
    across = [e * st for e, st in zip(every, weight.stride()[2:])]
    reached = memory.as_strided(
        weight, (*weight.shape[:2], *taps), (*weight.stride()[:2], *across), int(weight.storage_offset()) + offset
    )
    sizes = [len(range(phase[axis], found.x_shape[2 + axis], found.stride[axis])) for axis in range(2)]
    origin = int(out.storage_offset()) + sum(phase[axis] * out.stride(2 + axis) for axis in range(2))
    spread = [found.stride[axis] * out.stride(2 + axis) for axis in range(2)]
    correlate(
        memory.as_strided(out, (*out.shape[:2], *sizes), (*out.stride()[:2], *spread), origin),
        grad,
        reached,
        None,
        stride=(1, 1),
        start=(start[0], start[1]),
        spacing=(spacing[0], spacing[1]),
        groups=found.groups,
        transposed=True,
        precision=precision,
        cost=cost,
    )


def conv2d_weight_grad(
    grad: Buffer,
    x: Buffer,
    weight_shape: Sequence[int],
    stride: IntPair = 1,
    padding: Padding = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    allow_tf32: bool | None = None,
    dtype: memory.dtype | None = None,
) -> Buffer:
    """The gradient of :func:`conv2d` for ``weight``: ``Σ_{n, p, q} grad[n, k, p, q]·x[n, c, h, w]`` with h, w as there.

    Args:
        grad: (N, K, P, Q), any strides, the gradient of conv2d's result.
        x: (N, C, H, W), any strides.
        weight_shape: (K, C / groups, R, S).
        stride, padding, dilation, groups, allow_tf32: as given to :func:`conv2d`.
        dtype: of the result; default: that of ``x``.

    Returns (K, C / groups, R, S) in K·R·S·C order, rounded once. Dtypes as :func:`conv2d`.

    Raises:
        TypeError: on dtypes that are not floating point, or parameters that are no integers.
        RuntimeError: on shapes, dtypes or devices that do not fit.

    FLOPs: those of :func:`conv2d`. Bytes: ``grad`` and ``x`` read and the result written once; where pixels are split,
    the partial sums written and read besides.
    """
    check_same_device("conv2d_weight_grad", grad=grad, x=x)
    dtypes.check_floating("conv2d_weight_grad", grad=grad, x=x)
    found = resolve("conv2d_weight_grad", x.shape, weight_shape, stride, padding, dilation, groups)
    check_grad("conv2d_weight_grad", grad.shape, found)
    path = dispatch.weight_grad(found, x.dtype, x.device)
    if path == dispatch.NINE_TAPS:
        return box_conv2d_weight_grad(found, for_boxes(grad), for_boxes(x), dtype=dtype)[0]
    if path == dispatch.STREAM_K:
        return stream_conv2d_weight_grad(found, for_boxes(grad), for_boxes(x), dtype)
    if path == dispatch.STEM:
        return stem_conv2d_weight_grad(found, for_boxes(grad), fold_image(found, x), dtype)
    return weight_grad(found, grad, x, _precision(x, allow_tf32), dtype)
