"""Number sequences: arange and linspace."""

from __future__ import annotations

import struct

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory
from tinyflow.kernels.launch import Config, Configs, Cost, block, cdiv, launch, offset_dtype
from tinyflow.kernels.memory import Buffer


@triton.jit
def _sequence_kernel(
    out_ptr,
    n,
    start,
    step,
    last,
    FLOATING: tl.constexpr,
    STAGE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # start, step, last: the bits of float64, or int64; the second half counts back from last, so that the end is exact
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    if FLOATING:
        first = tl.cast(tl.cast(start, tl.int64), tl.float64, bitcast=True)
        stride = tl.cast(tl.cast(step, tl.int64), tl.float64, bitcast=True)
        final = tl.cast(tl.cast(last, tl.int64), tl.float64, bitcast=True)
        value = tl.where(
            i < (n + 1) // 2, first + i.to(tl.float64) * stride, final - (n - 1 - i).to(tl.float64) * stride
        )
    else:
        value = tl.cast(start, tl.int64) + i.to(tl.int64) * tl.cast(step, tl.int64)
    tl.store(out_ptr + i, value.to(STAGE).to(out_ptr.dtype.element_ty), mask=i < n)


_FLAT = Config({"BLOCK": 1024})
sequence_configs = Configs("_sequence_kernel", (_FLAT,), lambda n: _FLAT, lambda n: Config({"BLOCK": block(n)}))


def _bits(value: float) -> int:
    return struct.unpack("q", struct.pack("d", value))[0]


def sequence(n: int, start: float, step: float, last: float, dtype: memory.dtype, device: memory.device) -> Buffer:
    """``out[i] = start + i * step`` for 0 <= i < n, computed in float64, or in int64 where all three numbers are ints.

    In float64 the second half is ``last - (n - 1 - i) * step``, as torch.linspace has it; give
    ``last = start + (n - 1) * step`` for a plain sequence. An integer ``dtype`` truncates towards 0.
    FLOPs 2n, bytes n times the item size.
    """
    dtypes.triton_dtype(dtype)
    out = memory.empty((n,), dtype, device)
    floating = dtype.is_floating_point or not all(isinstance(v, int) for v in (start, step, last))
    numbers = [_bits(float(v)) if floating else int(v) for v in (start, step, last)]
    config = sequence_configs(n=n)
    launch(
        _sequence_kernel,
        (cdiv(n, config.blocks["BLOCK"]),),
        out,
        n,
        *numbers,
        config=config,
        cost=Cost(2 * n, n * out.element_size()),
        device=device,
        FLOATING=floating,
        STAGE=dtypes.compute_dtype(dtype),  # half precision is rounded from float32, as torch does
        INDEX=offset_dtype(out),
    )
    return out
