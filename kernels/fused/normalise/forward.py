"""Normalisation, residual and ReLU in one pass."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.batch_norm.plans import interpreter_tile
from tinyflow.kernels.batch_norm.tiles import norm_values, normalised
from tinyflow.kernels.elementwise import channels_last
from tinyflow.kernels.fused.normalise.images import RELU, TILES, Norm, check_images, choose_tile, has_relu, image, relu
from tinyflow.kernels.launch import Configs, Cost, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _normalise_act_kernel(
    y_ptr,  # y[pixel, channel], as the others
    x_ptr,
    residual_ptr,
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    bias_ptr,
    residual_mean_ptr,  # with these the residual is normalised too
    residual_invstd_ptr,
    residual_weight_ptr,
    residual_bias_ptr,
    pixels,
    channels,
    ACT: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    mask = (p < pixels)[:, None] & (c < channels)[None, :]
    at = (p * channels)[:, None] + c[None, :]
    y = tl.load(x_ptr + at, mask=mask, other=0).to(COMPUTE)
    mean, scale, bias = norm_values(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, c, channels, COMPUTE)
    if mean_ptr is not None:
        y = normalised(y, mean, scale, bias)
    elif bias_ptr is not None:
        y = y + bias[None, :]
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + at, mask=mask, other=0).to(COMPUTE)
        if residual_mean_ptr is not None:
            mean, scale, bias = norm_values(
                residual_mean_ptr, residual_invstd_ptr, residual_weight_ptr, residual_bias_ptr, c, channels, COMPUTE
            )
            residual = normalised(residual, mean, scale, bias)
        y = y + residual
    if ACT:
        y = relu(y)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


normalise_configs = Configs("_normalise_act_kernel", TILES, choose_tile, interpreter_tile)


def normalise_act(
    x: Buffer, norm: Norm, residual: Buffer | None = None, act: str = RELU, residual_norm: Norm | None = None
) -> Buffer:
    """``y = act((x − mean) · invstd · weight + bias + residual)`` for each channel.

    Args:
        x: (N, C, H, W), floating point; computed in float32 (float64 for float64).
        norm: mean, invstd, weight, bias.
        residual: the shape and dtype of ``x``, or None.
        act: 'relu' or 'none'.
        residual_norm: with it the residual is normalised by statistics of its own before it is added.

    Anything but channels-last memory is copied first. Returns the shape and dtype of ``x``, rounded once, channels-last.

    Raises:
        ValueError, RuntimeError, TypeError: if shapes, dtypes, devices or ``act`` do not fit.

    FLOPs: 3 an element, 4 with ReLU; 1 for the residual and 3 for its normalisation. Bytes: each operand once.
    """
    return _normalise(x, norm, residual, act, residual_norm)


def bias_act(x: Buffer, bias: Buffer | None, residual: Buffer | None = None, act: str = RELU) -> Buffer:
    """``y = act(x + bias + residual)``: what is left of :func:`normalise_act` once weights are folded."""
    return _normalise(x, (None, None, None, bias), residual, act, None)


def _normalise(x: Buffer, norm: tuple, residual: Buffer | None, act: str, residual_norm: Norm | None) -> Buffer:
    op = "normalise_act"
    with_relu = has_relu(op, act)
    vectors = [*norm, *(residual_norm or (None,) * 4)]
    pixels, channels = check_images(op, x, residual, **{f"vector {k}": v for k, v in enumerate(vectors)})
    y = image(x.shape, x)
    if y.numel() == 0:
        return y
    x = channels_last(x)
    residual = None if residual is None else channels_last(residual)
    vectors = [dense(v) for v in vectors]
    flops = 3 * (norm[0] is not None) + with_relu + (residual is not None) + 3 * (residual_norm is not None)
    config = normalise_configs(pixels=pixels, channels=channels)
    launch(
        _normalise_act_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        y,
        x,
        residual,
        *vectors,
        pixels,
        channels,
        config=config,
        cost=Cost(flops * x.numel(), nbytes(x, y, residual, *vectors)),
        device=x.device,
        ACT=with_relu,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(x),
    )
    return y
