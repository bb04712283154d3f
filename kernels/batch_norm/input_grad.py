"""The gradients of batch normalisation: after its sums, one pass for that of the input."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.batch_norm.gradient_sums import gradient_sums
from tinyflow.kernels.batch_norm.operands import check_input, check_parameters, dense, empty_like, walk_pixels
from tinyflow.kernels.batch_norm.plans import TILES, choose_tile, interpreter_tile
from tinyflow.kernels.batch_norm.tiles import channel_values, input_gradient, tile_places
from tinyflow.kernels.elementwise import contiguous
from tinyflow.kernels.launch import Configs, Cost, cdiv, check_same_device, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _batch_norm_input_grad_kernel(
    grad_x_ptr,
    g_ptr,
    x_ptr,
    weight_ptr,
    mean_ptr,
    invstd_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    pixels,
    channels,
    sizes,
    grad_x_strides,
    g_strides,
    x_strides,
    grad_x_stride_c,
    g_stride_c,
    x_stride_c,
    DIMS: tl.constexpr,
    TRAINING: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0).to(INDEX) * BLOCK_P + tl.arange(0, BLOCK_P).to(INDEX)
    c = tl.program_id(1).to(INDEX) * BLOCK_C + tl.arange(0, BLOCK_C).to(INDEX)
    invstd = channel_values(invstd_ptr, c, channels, 1.0, COMPUTE)
    scale = invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
    g_at, mask = tile_places(p, pixels, c, channels, sizes, g_strides, g_stride_c, DIMS)
    out_at, mask = tile_places(p, pixels, c, channels, sizes, grad_x_strides, grad_x_stride_c, DIMS)
    g = tl.load(g_ptr + g_at, mask=mask, other=0).to(COMPUTE)
    if TRAINING:
        x_at, mask = tile_places(p, pixels, c, channels, sizes, x_strides, x_stride_c, DIMS)
        x = tl.load(x_ptr + x_at, mask=mask, other=0).to(COMPUTE)
        mean = channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
        grad_weight = channel_values(grad_weight_ptr, c, channels, 0.0, COMPUTE)
        grad_bias = channel_values(grad_bias_ptr, c, channels, 0.0, COMPUTE)
        grad_x = input_gradient(g, x - mean[None, :], invstd, scale, grad_weight, grad_bias, pixels)
    else:
        grad_x = g * scale[None, :]
    tl.store(grad_x_ptr + out_at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)


input_grad_configs = Configs("_batch_norm_input_grad_kernel", TILES, choose_tile, interpreter_tile)


def batch_norm_grad(
    grad: Buffer, x: Buffer, weight: Buffer | None, mean: Buffer, invstd: Buffer, training: bool = True
) -> tuple[Buffer, Buffer, Buffer]:
    """The gradients of :func:`batch_norm`, or of :func:`batch_norm_inference` with ``training=False``.

    Args:
        grad: gradient of ``y``, the shape and dtype of ``x``, any strides.
        x: (N, C, ...), the input, any strides.
        weight: (C,) or None for 1.
        mean, invstd: (C,), float32 (float64 for float64), the statistics that the forward pass used.
        training: whether ``mean`` and ``invstd`` follow ``x``; if not, grad_x = grad · weight · invstd.

    Returns:
        ``grad_x`` like ``x`` (channels-last memory for 4-d); ``grad_weight`` and ``grad_bias`` (C,) in the dtype of
        ``mean``.

    Raises:
        TypeError, RuntimeError: if dtypes, shapes or devices do not fit.

    FLOPs: 9 an element. Least bytes: ``grad`` and ``x`` twice, ``grad_x`` once.
    """
    op = "batch_norm_grad"
    dtypes.check_floating(op, grad=grad, x=x)
    if grad.shape != x.shape:
        raise RuntimeError(f"{op}: expected grad of shape {tuple(x.shape)}, got {tuple(grad.shape)}")
    _, channels = check_input(op, x, training=False)
    check_parameters(op, x, weight=weight, mean=mean, invstd=invstd)
    device = check_same_device(op, grad=grad, x=x, weight=weight, mean=mean, invstd=invstd)
    statistic = dtypes.accumulate_dtype(x.dtype)
    grad_x = empty_like(x)
    grad_weight, grad_bias = (memory.empty((channels,), statistic, device) for _ in range(2))
    mean, invstd = contiguous(mean), contiguous(invstd)
    done = gradient_sums(grad, x, mean, invstd, grad_weight, grad_bias, grad_x if training else None, weight)
    if not (done or x.numel() == 0):
        _input_grad(grad_x, grad, x, weight, (mean, invstd, grad_weight, grad_bias), training)
    return grad_x, grad_weight, grad_bias


def _input_grad(
    grad_x: Buffer,
    grad: Buffer,
    x: Buffer,
    weight: Buffer | None,
    statistics: tuple[Buffer, Buffer, Buffer, Buffer],
    training: bool,
) -> None:
    """``statistics`` are mean, invstd and the gradients of weight and bias."""
    channels = x.shape[1]
    pixels = x.numel() // channels
    sizes, (out_strides, g_strides, x_strides) = walk_pixels(grad_x, grad, x)
    read = [x, weight, *statistics] if training else [weight, statistics[1]]
    config = input_grad_configs(x.dtype, pixels=pixels, channels=channels)
    launch(
        _batch_norm_input_grad_kernel,
        (cdiv(pixels, config.blocks["BLOCK_P"]), cdiv(channels, config.blocks["BLOCK_C"])),
        grad_x,
        grad,
        x,
        dense(weight),
        *statistics,
        pixels,
        channels,
        sizes,
        out_strides,
        g_strides,
        x_strides,
        grad_x.stride(1),
        grad.stride(1),
        x.stride(1),
        config=config,
        cost=Cost((5 if training else 1) * x.numel(), nbytes(grad_x, grad, *read)),
        device=grad_x.device,
        DIMS=len(sizes),
        TRAINING=training,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=offset_dtype(grad_x, grad, x),
    )
