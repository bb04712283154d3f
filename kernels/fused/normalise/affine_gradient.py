"""The gradient of a normalisation as an affine map, for a kernel that makes it on the spot."""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.batch_norm.tiles import channel_values
from tinyflow.kernels.fused.normalise.images import Norm
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def _gradient_as_affine_kernel(
    out_ptr,  # [3, channels]
    mean_ptr,
    invstd_ptr,
    weight_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    pixels,
    channels,
    COMPUTE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = c < channels
    invstd = channel_values(invstd_ptr, c, channels, 0.0, COMPUTE)
    scale = invstd * channel_values(weight_ptr, c, channels, 1.0, COMPUTE)
    total = tl.cast(pixels, COMPUTE)
    by_x = -scale * invstd * channel_values(grad_weight_ptr, c, channels, 0.0, COMPUTE) / total
    constant = -scale * channel_values(grad_bias_ptr, c, channels, 0.0, COMPUTE) / total
    constant -= by_x * channel_values(mean_ptr, c, channels, 0.0, COMPUTE)
    tl.store(out_ptr + c, scale, mask=mask)
    tl.store(out_ptr + channels + c, by_x, mask=mask)
    tl.store(out_ptr + 2 * channels + c, constant, mask=mask)


_VECTOR = Config({"BLOCK_C": 128})
affine_configs = Configs(
    "_gradient_as_affine_kernel",
    (_VECTOR,),
    lambda channels: _VECTOR,
    lambda channels: Config({"BLOCK_C": block(channels)}),
)


def gradient_as_affine(norm: Norm, sums: tuple[Buffer, Buffer], pixels: int) -> Buffer:
    """(3, C): a, b, c with ``grad_x = a·h + b·x + c``, the gradient of a normalisation by the batch's statistics.

    ``sums`` are grad_weight and grad_bias over ``pixels``. FLOPs: 8 a channel. Bytes: all vectors once.
    """
    mean, invstd, weight, _ = (dense(v) for v in norm)
    grad_weight, grad_bias = sums
    (channels,) = grad_weight.shape
    out = memory.empty((3, channels), grad_weight.dtype, grad_weight.device)
    config = affine_configs(channels=channels)
    launch(
        _gradient_as_affine_kernel,
        (cdiv(channels, config.blocks["BLOCK_C"]),),
        out,
        mean,
        invstd,
        weight,
        grad_weight,
        grad_bias,
        pixels,
        channels,
        config=config,
        cost=Cost(8 * channels, nbytes(out, mean, invstd, weight, grad_weight, grad_bias)),
        device=out.device,
        COMPUTE=dtypes.triton_dtype(out.dtype),
    )
    return out
