"""Batch normalisation by running statistics, folded into the convolution before it (Jacob et al. 2018, section 3.2).

    s = weight / √(running_var + eps)      conv_weight ← conv_weight · s      bias ← (conv_bias − running_mean) · s + bias

Arithmetic is float32 (float64 for float64); weights are rounded once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_bits, float_from_bits
from tinyflow.kernels.batch_norm.operands import dense
from tinyflow.kernels.batch_norm.tiles import channel_values
from tinyflow.kernels.elementwise import channels_last
from tinyflow.kernels.launch import (
    MAX_BLOCK,
    Config,
    Configs,
    Cost,
    block,
    cdiv,
    check_same_device,
    launch,
    nbytes,
    offset_dtype,
)
from tinyflow.kernels.memory import Buffer


@triton.jit(do_not_specialize=["eps_bits"])
def _fold_batch_norm_kernel(
    out_ptr,  # [filters, taps], as the convolution's weight
    out_bias_ptr,  # [filters]
    conv_weight_ptr,
    conv_bias_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    var_ptr,
    eps_bits,
    filters,
    taps,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    k = tl.program_id(0).to(INDEX) * BLOCK_K + tl.arange(0, BLOCK_K).to(INDEX)
    n = tl.program_id(1).to(INDEX) * BLOCK_N + tl.arange(0, BLOCK_N).to(INDEX)
    var = channel_values(var_ptr, k, filters, 1.0, COMPUTE)
    scale = channel_values(weight_ptr, k, filters, 1.0, COMPUTE)
    scale = scale / tl.sqrt(var + float_from_bits(eps_bits).to(COMPUTE))
    mask = (k < filters)[:, None] & (n < taps)[None, :]
    at = (k * taps)[:, None] + n[None, :]
    folded = tl.load(conv_weight_ptr + at, mask=mask, other=0).to(COMPUTE) * scale[:, None]
    tl.store(out_ptr + at, folded.to(out_ptr.dtype.element_ty), mask=mask)
    if tl.program_id(1) == 0:
        shift = channel_values(conv_bias_ptr, k, filters, 0.0, COMPUTE)
        shift = shift - channel_values(mean_ptr, k, filters, 0.0, COMPUTE)
        shift = shift * scale + channel_values(bias_ptr, k, filters, 0.0, COMPUTE)
        tl.store(out_bias_ptr + k, shift.to(out_bias_ptr.dtype.element_ty), mask=k < filters)


_TILE = Config({"BLOCK_K": 8, "BLOCK_N": 256})


def _choose(filters: int, taps: int) -> Config:
    return _TILE


def _interpreter(filters: int, taps: int) -> Config:
    block_n = block(taps)
    return Config({"BLOCK_K": block(filters, MAX_BLOCK // block_n), "BLOCK_N": block_n})


fold_configs = Configs("_fold_batch_norm_kernel", (_TILE,), _choose, _interpreter)


def fold_batch_norm(
    conv_weight: Buffer,
    conv_bias: Buffer | None,
    running_mean: Buffer,
    running_var: Buffer,
    weight: Buffer | None = None,
    bias: Buffer | None = None,
    eps: float = 1e-5,
    dtype: memory.dtype | None = None,
) -> tuple[Buffer, Buffer]:
    """A convolution's weight and bias that do what it and the batch normalisation behind it do in evaluation.

    Args:
        conv_weight: (K, C, R, S), any strides.
        conv_bias, running_mean, running_var, weight, bias: (K,); those that may be None are 0 and 1.
        eps: added to the variance.
        dtype: of the folded weight; default: that of ``conv_weight``.

    Returns the weight in K·R·S·C order, and the bias (K,) in float32 (float64 for float64), where it loses nothing.

    Raises:
        RuntimeError: if a vector has not K elements, or devices differ.
        TypeError: for a weight that is not floating point.

    FLOPs: 1 a weight. Bytes: the weights read and written once.
    """
    op = "fold_batch_norm"
    dtypes.check_floating(op, conv_weight=conv_weight)
    filters = conv_weight.shape[0]
    vectors = {"conv_bias": conv_bias, "weight": weight, "bias": bias}
    vectors |= {"running_mean": running_mean, "running_var": running_var}
    for name, value in vectors.items():
        if value is not None and tuple(value.shape) != (filters,):
            raise RuntimeError(f"{op}: expected {name} of shape ({filters},), got {tuple(value.shape)}")
    device = check_same_device(op, conv_weight=conv_weight, **vectors)
    layout = strides.channels_last_strides(conv_weight.shape)
    out = memory.empty(conv_weight.shape, dtype or conv_weight.dtype, device, layout)
    out_bias = memory.empty((filters,), dtypes.accumulate_dtype(out.dtype), device)
    if out.numel() == 0:
        return out, out_bias
    taps = out.numel() // filters
    read = [channels_last(conv_weight), *(dense(v) for v in (conv_bias, weight, bias, running_mean, running_var))]
    config = fold_configs(filters=filters, taps=taps)
    launch(
        _fold_batch_norm_kernel,
        (cdiv(filters, config.blocks["BLOCK_K"]), cdiv(taps, config.blocks["BLOCK_N"])),
        out,
        out_bias,
        *read,
        float_bits(eps),
        filters,
        taps,
        config=config,
        cost=Cost(out.numel(), nbytes(out, out_bias, *read)),
        device=device,
        COMPUTE=dtypes.compute_dtype(out.dtype),
        INDEX=offset_dtype(out),
    )
    return out, out_bias
