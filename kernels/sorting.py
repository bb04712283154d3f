"""Order from integers: prefix sums, and a stable radix sort.

The sort is least-significant-digit first (Knuth, TAOCP 3, §5.2.5), ``BITS`` a pass. In each pass every tile counts its
digits, one program turns the counts, digit by digit and tile by tile, into first places, and every tile then sends its
elements there in order. So the sort is stable and its result is the same whatever the tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer


@triton.jit
def _exclusive_sum_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    # one program walks all n; out has n + 1 elements, the last of which is the total
    carry = tl.full((), 0, tl.int64)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i, mask=i < n, other=0).to(tl.int64)
        tl.store(out_ptr + i, carry + tl.cumsum(x, axis=0) - x, mask=i < n)
        carry += tl.sum(x, axis=0)
    tl.store(out_ptr + n, carry)


@triton.jit
def _digits(keys_ptr, order_ptr, i, mask, shift, BITS: tl.constexpr):
    if order_ptr is not None:
        element = tl.load(order_ptr + i, mask=mask, other=0)
    else:
        element = i
    key = tl.load(keys_ptr + element, mask=mask, other=0)
    digit = ((key >> shift) & ((1 << BITS) - 1)).to(tl.int32)
    is_digit = (digit[:, None] == tl.arange(0, 1 << BITS)[None, :]) & mask[:, None]
    return element, digit, is_digit.to(tl.int32)


@triton.jit
def _digit_count_kernel(keys_ptr, order_ptr, counts_ptr, n, shift, tiles, BITS: tl.constexpr, BLOCK: tl.constexpr):
    # counts: (digits, tiles)
    tile = tl.program_id(0).to(tl.int64)
    i = tile * BLOCK + tl.arange(0, BLOCK)
    _, _, is_digit = _digits(keys_ptr, order_ptr, i, i < n, shift, BITS)
    tl.store(counts_ptr + tl.arange(0, 1 << BITS) * tiles + tile, tl.sum(is_digit, axis=0))


@triton.jit
def _digit_place_kernel(
    keys_ptr, order_ptr, first_ptr, out_ptr, n, shift, tiles, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    # first: (digits, tiles), the place of each tile's first element of each digit; None where one tile holds all
    tile = tl.program_id(0).to(tl.int64)
    i = tile * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    element, digit, is_digit = _digits(keys_ptr, order_ptr, i, mask, shift, BITS)
    if first_ptr is not None:
        place = tl.cumsum(is_digit, axis=0) - 1
        start = tl.load(first_ptr + digit.to(tl.int64) * tiles + tile, mask=mask, other=0)
    else:
        count = tl.sum(is_digit, axis=0)
        place = tl.cumsum(is_digit, axis=0) - 1 + (tl.cumsum(count, axis=0) - count)[None, :]
        start = 0
    place = tl.sum(place * is_digit, axis=1)
    tl.store(out_ptr + start + place, element, mask=mask)


_SCAN = Config({"BLOCK": 4096}, num_warps=8)
_RADIX = Config({"BITS": 4, "BLOCK": 1024}, num_warps=8)


def _interpreter_radix(n: int) -> Config:
    # the work of a pass grows with n · 2^BITS, its overhead does not
    bits = 4 if n <= 2**14 else 2
    return Config({"BITS": bits, "BLOCK": block(n, MAX_BLOCK >> bits)})


exclusive_sum_configs = Configs(
    "_exclusive_sum_kernel", (_SCAN,), lambda n: _SCAN, lambda n: Config({"BLOCK": block(n)})
)
digit_configs = Configs("_digit_place_kernel", (_RADIX,), lambda n: _RADIX, _interpreter_radix)


def exclusive_sum(x: Buffer) -> Buffer:
    """``out[i] = x[0] + … + x[i−1]`` for i = 0 … n: int64, one more than the contiguous vector ``x`` has."""
    out = memory.empty((x.numel() + 1,), memory.int64, x.device)
    config = exclusive_sum_configs(n=x.numel())
    launch(_exclusive_sum_kernel, (1,), x, out, x.numel(), config=config, cost=Cost(0, nbytes(x, out)), device=x.device)
    return out


def sort_order(keys: Buffer, bits: int = 63) -> Buffer:
    """The positions that sort ``keys`` stably: ``keys[order]`` ascends, equal keys stay in order.

    Args:
        keys: contiguous int64 vector, every key in [0, 2^bits).
        bits: how many low bits differ; the sort takes one pass for every few of them.

    Returns an int64 vector. FLOPs 0. Bytes: keys and positions once a pass.
    """
    n = keys.numel()
    config = digit_configs(n=n)
    tiles = cdiv(n, config.blocks["BLOCK"])
    digits = 1 << config.blocks["BITS"]
    order: Buffer | None = None
    for shift in range(0, max(bits, 1), config.blocks["BITS"]):
        first = None
        if tiles > 1:
            counts = memory.empty((digits, tiles), memory.int32, keys.device)
            cost = Cost(0, nbytes(keys, order, counts))
            sizes = n, shift, tiles
            launch(
                _digit_count_kernel, (tiles,), keys, order, counts, *sizes, config=config, cost=cost, device=keys.device
            )
            first = exclusive_sum(memory.as_strided(counts, (digits * tiles,), (1,)))
        out = memory.empty((n,), memory.int64, keys.device)
        cost = Cost(0, nbytes(keys, order, out, first))
        launch(
            _digit_place_kernel,
            (tiles,),
            keys,
            order,
            first,
            out,
            n,
            shift,
            tiles,
            config=config,
            cost=cost,
            device=keys.device,
        )
        order = out
    assert order is not None
    return order
