"""The way back: a pass for the two sums of the gradient, and one for the gradient itself."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.batch_norm import Affine, finish_gradient_sums, pixel_splits
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.batch_norm.plans import interpreter_tile
from tinyflow.kernels.batch_norm.tiles import (
    channel_values,
    input_gradient,
    norm_values,
    normalised,
    split_places,
    store_partial,
)
from tinyflow.kernels.elementwise import channels_last
from tinyflow.kernels.fused.normalise.images import (
    RELU,
    TILES,
    TILES_OF_FLOAT64,
    Norm,
    check_images,
    choose_tile,
    has_relu,
    image,
)
from tinyflow.kernels.launch import Configs, Cost, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer

#: Where the backward pass finds the ReLU's mask: the gradient has passed it already, or it is recomputed, or read.
UNMASKED, FROM_X, FROM_Y = 0, 1, 2


@triton.jit
def _masked_gradient(
    g_ptr, x, y_ptr, at, mask, mean, scale, bias, MASK: tl.constexpr, COMPUTE: tl.constexpr, DTYPE: tl.constexpr
):
    """h: the gradient where the forward pass, rounded to DTYPE as it was, did not end below or at zero."""
    g = tl.load(g_ptr + at, mask=mask, other=0).to(COMPUTE)
    if MASK == 1:
        y = normalised(x, mean, scale, bias).to(DTYPE).to(COMPUTE)
        g = tl.where(y <= 0, 0.0, g)
    elif MASK == 2:
        y = tl.load(y_ptr + at, mask=mask, other=0).to(COMPUTE)
        g = tl.where(y <= 0, 0.0, g)
    return g


@triton.jit
def _normalise_act_gradient_sums_kernel(
    h_ptr,  # None where nobody needs h
    g_ptr,
    x_ptr,
    y_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    partial_ptr,  # [2, splits, channels]: Σ h, Σ h·(x − mean)
    pixels,
    channels,
    split_pixels,
    MASK: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first, last, c = split_places(pixels, split_pixels, INDEX, BLOCK_C)
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    lane_h = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    lane_hx = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    for start in range(first, last, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P).to(INDEX)
        mask = (p < last)[:, None] & (c < channels)[None, :]
        at = (p * channels)[:, None] + c[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
        h = _masked_gradient(g_ptr, x, y_ptr, at, mask, mean, scale, bias, MASK, COMPUTE, x_ptr.dtype.element_ty)
        if h_ptr is not None:
            tl.store(h_ptr + at, h.to(h_ptr.dtype.element_ty), mask=mask)
        lane_h += h
        lane_hx += h * (x - mean[None, :])
    store_partial(partial_ptr, tl.sum(lane_h, axis=0), tl.sum(lane_hx, axis=0), c, channels, INDEX)


@triton.jit
def _normalise_act_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    x_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    pixels,
    channels,
    MASK: tl.constexpr,
    TRAINING: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    at = (p * channels)[:, None] + c[None, :]
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    invstd = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
    x = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
    h = _masked_gradient(g_ptr, x, None, at, mask, mean, scale, bias, MASK, COMPUTE, x_ptr.dtype.element_ty)
    if TRAINING:
        grad_weight = channel_values(grad_weight_ptr, c, channels, 0.0, COMPUTE)
        grad_bias = channel_values(grad_bias_ptr, c, channels, 0.0, COMPUTE)
        grad_x = input_gradient(h, x - mean[None, :], invstd, scale, grad_weight, grad_bias, pixels)
    else:
        grad_x = h * scale[None, :]
    tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


gradient_sums_configs = Configs(
    "_normalise_act_gradient_sums_kernel", TILES, choose_tile, interpreter_tile, float64=TILES_OF_FLOAT64
)
input_grad_configs = Configs("_normalise_act_input_grad_kernel", TILES, choose_tile, interpreter_tile)


class Sums(NamedTuple):
    """What the first pass makes; with ``affine`` (3, C) a kernel can make grad_x on the spot, as a·h + b·x + c."""

    grad_weight: Buffer
    grad_bias: Buffer
    affine: Buffer | None = None


def finished_sums(
    partial: Buffer, mean: Buffer, invstd: Buffer, weight: Buffer | None, pixels: int | None = None
) -> Sums:
    """The sums from those of splits, (2, splits, C) of h and h·(x − mean); with the ``pixels`` of x also the affine map."""
    channels = partial.shape[2]
    shapes: list[tuple[int, ...]] = [(channels,), (channels,), *([] if pixels is None else [(3, channels)])]
    sums = Sums(*(memory.empty(shape, partial.dtype, partial.device) for shape in shapes))
    affine = None if sums.affine is None or pixels is None else Affine(sums.affine, mean, weight, pixels)
    if channels:
        finish_gradient_sums(partial, invstd, *sums[:2], affine)
    return sums


def normalise_act_gradient_sums(
    grad: Buffer,
    x: Buffer,
    y: Buffer | None,
    norm: Norm,
    act: str = RELU,
    has_residual: bool = False,
    pixels: int | None = None,
) -> tuple[Sums, Buffer | None]:
    """The sums of :func:`normalise_act_grad`, whose arguments these are, and its residual's gradient.

    With ``pixels``, so many of which are normalised and those of ``x`` are all that have a gradient, also the affine map.
    """
    op = "normalise_act_gradient_sums"
    masks = UNMASKED
    if has_relu(op, act):
        masks = FROM_Y if has_residual else FROM_X
        if has_residual and y is None:
            raise ValueError(f"{op}: expected y, from which the mask is read where there is a residual")
    check_images(op, x, grad, y if masks == FROM_Y else None)
    mean, invstd, weight, bias = (dense(v) for v in norm)
    assert mean is not None and invstd is not None
    grad, x = channels_last(grad), channels_last(x)
    h = image(x.shape, x) if masks == FROM_Y else None
    read_y = channels_last(y) if masks == FROM_Y and y is not None else None
    partial = _partial_sums(h, grad, x, read_y, (mean, invstd, weight, bias), masks)
    sums = finished_sums(partial, mean, invstd, weight, pixels)
    return sums, h if h is not None else grad if has_residual else None


def normalise_act_grad(
    grad: Buffer,
    x: Buffer,
    y: Buffer | None,
    norm: Norm,
    act: str = RELU,
    training: bool = True,
    has_residual: bool = False,
    sums: Sums | tuple[Buffer, Buffer] | None = None,
    need_x: bool = True,
) -> tuple[Buffer | None, Buffer, Buffer, Buffer | None]:
    """The gradients of :func:`normalise_act` (without ``residual_norm``).

    Args:
        grad: the gradient of y.
        x: the input.
        y: the result; needed with a residual under ReLU, where the mask cannot be recomputed.
        norm: mean, invstd, weight, bias as given.
        training: whether mean and invstd are those of ``x``; if not, they are constants.
        has_residual: whether to return the residual's gradient.
        sums: grad_weight and grad_bias, where they are known already; then ``grad`` has passed the mask.
        need_x: whether to return grad_x.

    Returns grad_x (or None) in the dtype of ``x``, grad_weight and grad_bias in that of the arithmetic, and the residual's
    gradient (or None): ``grad`` itself where it needs no mask. Images are channels-last.

    FLOPs: 7 an element and 5 for grad_x. Bytes: ``grad`` and ``x`` once for the sums and once for grad_x, grad_x once; with
    a residual under ReLU ``y`` and the residual's gradient once more.
    """
    op = "normalise_act_grad"
    grad, x = channels_last(grad), channels_last(x)
    relu, masks, residual_grad = has_relu(op, act), UNMASKED, None
    if sums is None:
        sums, residual_grad = normalise_act_gradient_sums(grad, x, y, norm, act, has_residual)
        if residual_grad is not None:
            grad = residual_grad
        elif relu:
            masks = FROM_X
    else:
        check_images(op, x, grad)
        residual_grad = grad if has_residual else None
    mean, invstd, weight, bias = (dense(v) for v in norm)
    assert mean is not None and invstd is not None
    norm = (mean, invstd, weight, bias)
    grad_weight, grad_bias = sums[:2]
    grad_x = _input_grad(grad, x, norm, masks, (grad_weight, grad_bias), training) if need_x else None
    return grad_x, grad_weight, grad_bias, residual_grad


def _partial_sums(h: Buffer | None, grad: Buffer, x: Buffer, y: Buffer | None, norm: Norm, masks: int) -> Buffer:
    """Fills ``h`` and sums h and h·(x − mean) by splits, (2, splits, C); of no pixels there are no splits."""
    channels = x.shape[1]
    statistic = dtypes.accumulate_dtype(x.dtype)
    if channels == 0:
        return memory.empty((2, 0, 0), statistic, x.device)
    pixels = x.numel() // channels
    config = gradient_sums_configs(x.dtype, pixels=pixels, channels=channels)
    splits, split_pixels = pixel_splits(config, pixels, channels)
    partial = memory.empty((2, splits, channels), statistic, x.device)
    launch(
        _normalise_act_gradient_sums_kernel,
        (splits, cdiv(channels, config.blocks["BLOCK_C"])),
        h,
        grad,
        x,
        y,
        *norm,
        partial,
        pixels,
        channels,
        split_pixels,
        config=config,
        cost=Cost((7 if masks == FROM_X else 5) * x.numel(), nbytes(h, grad, x, y, *norm, partial)),
        device=x.device,
        MASK=masks,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return partial


def _input_grad(grad: Buffer, x: Buffer, norm: Norm, masks: int, sums: tuple[Buffer, Buffer], training: bool) -> Buffer:
    grad_x = image(x.shape, x)
    if grad_x.numel() == 0:
        return grad_x
    channels = x.shape[1]
    pixels = x.numel() // channels
    config = input_grad_configs(pixels=pixels, channels=channels)
    launch(
        _normalise_act_input_grad_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        grad_x,
        grad,
        x,
        *norm,
        *sums,
        pixels,
        channels,
        config=config,
        cost=Cost((5 if training else 1) * x.numel(), nbytes(grad_x, grad, x, *norm, *sums)),
        device=x.device,
        MASK=masks,
        TRAINING=training,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return grad_x
