"""Convolutions with what stands beside them in a residual network: statistics, bias, ReLU, or the way back through them.

This is the one place that decides where the rest is done: on the tile in hand where a convolution by boxes serves
(``conv2d.dispatch`` says so), else in a pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tinyflow.kernels import arithmetic, dtypes, memory
from tinyflow.kernels.batch_norm import batch_norm_statistics
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.conv2d import conv2d, conv2d_input_grad, dispatch
from tinyflow.kernels.conv2d.box_forward import Shortcut, box_conv2d
from tinyflow.kernels.conv2d.box_input_grad import box_conv2d_input_grad
from tinyflow.kernels.conv2d.box_stem import IMAGES, fold_image, stem_conv2d, stem_conv2d_weight_grad
from tinyflow.kernels.conv2d.box_weight_grad import box_conv2d_weight_grad
from tinyflow.kernels.conv2d.boxes import for_boxes
from tinyflow.kernels.conv2d.geometry import Geometry, IntPair, Padding, resolve
from tinyflow.kernels.conv2d.statistics import merge_statistics
from tinyflow.kernels.elementwise import channels_last
from tinyflow.kernels.fused import pooled_stem
from tinyflow.kernels.fused.normalise import (
    NO_ACT,
    RELU,
    Norm,
    Sums,
    bias_act,
    finished_sums,
    normalise_act_gradient_sums,
)
from tinyflow.kernels.fused.stem import normalise_pool, normalise_pool_grad
from tinyflow.kernels.fused.stem_weight_grad import pooled_stem_weight_grad
from tinyflow.kernels.launch import check_same_device
from tinyflow.kernels.memory import Buffer


def _pixels(found: Geometry) -> int:
    n, _, p, q = found.out_shape
    return n * p * q


class Window(NamedTuple):
    """How a convolution's filters walk."""

    stride: IntPair = 1
    padding: Padding = 0
    dilation: IntPair = 1
    groups: int = 1


class Below(NamedTuple):
    """What made a convolution's input: ``x = relu((z − mean) · invstd · weight + bias + …)``.

    ``pixels`` were normalised; of a map behind a pooling those of ``z`` are the ones that it let through.
    """

    x: Buffer
    z: Buffer
    mean: Buffer
    invstd: Buffer
    weight: Buffer | None
    pixels: int


class Statistics(NamedTuple):
    """A convolution's result, the mean and invstd of its channels, and its folded image where it is a stem's by boxes."""

    z: Buffer
    mean: Buffer
    invstd: Buffer
    folded: Buffer | None


def _resolved(x: Buffer, weight: Buffer, window: Window, rounds: bool = False) -> Geometry:
    check_same_device("conv2d", x=x, weight=weight)
    if not rounds:
        dtypes.check_floating("conv2d", x=x, weight=weight)
    return resolve("conv2d", x.shape, weight.shape, *window)


def rounds_image(x: Buffer, weight_shape: Sequence[int], window: Window, dtype: memory.dtype) -> bool:
    """Whether :func:`conv2d_statistics` takes x as it is for a weight of ``dtype``: what folds an image rounds it too."""
    found = resolve("conv2d", x.shape, weight_shape, *window)
    stem = dispatch.forward(found, dtype, x.device) == dispatch.STEM
    return stem and _pixels(found) > 1 and x.dtype in IMAGES


def conv2d_statistics(
    x: Buffer,
    weight: Buffer,
    window: Window,
    running_mean: Buffer | None,
    running_var: Buffer | None,
    momentum: float,
    eps: float,
    num_batches: Buffer | None = None,
    rounds: bool = False,
) -> Statistics:
    """``z = conv2d(x, weight)``, and each channel's mean and invstd over the batch; updates the running statistics.

    With ``rounds``, x is rounded to the weight's dtype first: only where :func:`rounds_image` holds.
    """
    found = _resolved(x, weight, window, rounds)
    path = dispatch.forward(found, weight.dtype, x.device)
    rows = folded = None
    if _pixels(found) > 1 and path == dispatch.BOX:
        z, rows = box_conv2d(found, for_boxes(x), for_boxes(weight), statistics=True)
    elif _pixels(found) > 1 and path == dispatch.STEM:
        folded = fold_image(found, x, weight.dtype)
        z, rows = stem_conv2d(found, folded, weight, statistics=True)
    else:
        z = conv2d(x, weight, None, *window)
    if rows is None:
        return Statistics(z, *batch_norm_statistics(z, running_mean, running_var, momentum, eps, num_batches), folded)
    return Statistics(z, *merge_statistics(rows, eps, running_mean, running_var, momentum, num_batches), folded)


def conv2d_bias_act(
    x: Buffer, weight: Buffer, bias: Buffer, window: Window, residual: Buffer | None = None, act: str = RELU
) -> Buffer:
    """``act(conv2d(x, weight) + bias + residual)``."""
    found = _resolved(x, weight, window)
    if dispatch.forward(found, x.dtype, x.device) != dispatch.BOX:
        return bias_act(conv2d(x, weight, None, *window), bias, residual, act)
    residual = None if residual is None else for_boxes(residual)
    return box_conv2d(found, for_boxes(x), for_boxes(weight), dense(bias), residual, relu=act == RELU)[0]


class Biased(NamedTuple):
    """A convolution with a bias, on an input of its own."""

    x: Buffer
    weight: Buffer
    bias: Buffer
    window: Window


def conv2d_joined_bias_relu(main: Biased, short: Biased) -> Buffer:
    """``relu(conv2d(main) + conv2d(short))``, both with their biases; one sum where boxes serve and ``short`` is 1×1."""
    found, found_short = (_resolved(side.x, side.weight, side.window) for side in (main, short))
    if found.out_shape != found_short.out_shape:
        shapes = f"{found.out_shape} and {found_short.out_shape}"
        raise RuntimeError(f"conv2d_joined_bias_relu: expected results of one shape, got {shapes}")
    by_boxes = {dispatch.forward(f, side.x.dtype, side.x.device) for f, side in ((found, main), (found_short, short))}
    unpadded = found_short.kernel == (1, 1) and found_short.padding == ((0, 0), (0, 0))
    if by_boxes != {dispatch.BOX} or not unpadded:
        return conv2d_bias_act(*main, residual=conv2d_bias_act(*short, act=NO_ACT))
    shortcut = Shortcut(found_short, for_boxes(short.x), for_boxes(short.weight), dense(short.bias))
    x, weight = for_boxes(main.x), for_boxes(main.weight)
    return box_conv2d(found, x, weight, dense(main.bias), relu=True, shortcut=shortcut)[0]


def conv2d_bias_relu_pool(x: Buffer, weight: Buffer, bias: Buffer, window: Window) -> Buffer:
    """``max_pool2d(relu(conv2d(x, weight) + bias), 3, stride=2, padding=1)``; one kernel for few channels of half precision.

    A wider dtype's products take longer than its map takes to write and read, and the interpreter wants few steps.
    """
    found = _resolved(x, weight, window)
    if pooled_stem.suits(found, x.dtype, x.device) and not interpreting():
        return pooled_stem.pooled_stem(found, x, weight, bias)
    return normalise_pool(conv2d(x, weight, None, *window), (None, None, None, bias), with_taps=False)[0]


def conv2d_input_grad_below(
    grad: Buffer,
    weight: Buffer,
    x_shape: Sequence[int],
    window: Window,
    other: Buffer | None = None,
    below: Below | None = None,
) -> tuple[Buffer, Sums | None]:
    """``g = conv2d_input_grad(grad, weight) + other``.

    By boxes, and if what made the input is given, g has passed that ReLU's mask, and the sums of its batch normalisation
    follow, with the affine map where a weight gradient may take it; None otherwise.
    """
    found = resolve("conv2d", x_shape, weight.shape, *window)
    if dispatch.input_grad(found, grad.dtype, grad.device) != dispatch.BOX:
        g = conv2d_input_grad(grad, weight, x_shape, *window)
        return (g if other is None else arithmetic.add(g, other)), None
    other = None if other is None else for_boxes(other)
    grad, weight = for_boxes(grad), for_boxes(weight)
    if below is None:
        return box_conv2d_input_grad(found, grad, weight, other)[0], None
    g, rows = box_conv2d_input_grad(found, grad, weight, other, for_boxes(below.x), for_boxes(below.z), below.mean)
    assert rows is not None
    streams, _, channels = rows.shape
    by_sum = memory.as_strided(rows, (2, streams, channels), (channels, 2 * channels, 1))
    pixels = below.pixels if dispatch.makes_gradient(grad.device) else None
    return g, finished_sums(by_sum, below.mean, below.invstd, below.weight, pixels)


def conv2d_weight_grad_through(
    h: Buffer,
    z: Buffer,
    affine: Buffer,
    x: Buffer,
    weight_shape: Sequence[int],
    window: Window,
    dtype: memory.dtype | None = None,
) -> tuple[Buffer, Buffer] | None:
    """The gradients of weight (in ``dtype``) and z, where z is normalised by its batch and h is the gradient behind that.

    Only where the weight gradient sees each pixel once, and can make grad_z as it goes, by the affine map; else None.
    """
    found = resolve("conv2d", x.shape, weight_shape, *window)
    if dispatch.weight_grad(found, x.dtype, x.device) != dispatch.NINE_TAPS or not dispatch.makes_gradient(x.device):
        return None
    return box_conv2d_weight_grad(found, None, for_boxes(x), for_boxes(h), for_boxes(z), affine, dtype)


def stem_grad(
    grad: Buffer,
    y: Buffer,
    taps: Buffer,
    winners: Buffer,
    z: Buffer,
    norm: Norm,
    x_shape: Sequence[int],
    folded: Buffer,
    weight_shape: Sequence[int],
    window: Window,
    sums: Sums | None = None,
    dtype: memory.dtype | None = None,
) -> tuple[Buffer, Buffer, Buffer]:
    """Gradients of the convolution's weight, weight and bias, with a :func:`normalise_pool` behind and a folded image.

    The statistics are the batch's, and nobody wants the image's gradient. With ``sums``, ``grad`` has passed the ReLU.
    The first is in ``dtype``, by default that of ``z``.
    """
    found = resolve("conv2d", x_shape, weight_shape, *window)
    h: Buffer | None = grad
    if sums is None:
        pixels = _pixels(found) if dispatch.makes_gradient(z.device) else None
        sums, h = normalise_act_gradient_sums(grad, winners, y, norm, has_residual=True, pixels=pixels)
    assert h is not None
    h, taps = channels_last(h), channels_last(taps)
    grad_weight, grad_bias, affine = sums
    if affine is not None:
        return pooled_stem_weight_grad(found, h, taps, z, affine, folded, dtype), grad_weight, grad_bias
    grad_z = normalise_pool_grad(h, taps, winners, z, norm, sums=sums)[0]
    assert grad_z is not None
    return stem_conv2d_weight_grad(found, for_boxes(grad_z), folded, dtype), grad_weight, grad_bias
