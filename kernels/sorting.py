"""Order from integers: prefix sums, and stable sorts of rows of keys.

A row that fits a tile is sorted there at once, 32 bits of the keys a pass: each key's 32 bits and its place make one
64-bit number, so the numbers differ and an unstable network (``tl.sort``, bitonic: Batcher 1968) sorts stably. Longer rows
take a radix sort, least significant digit first (Knuth, TAOCP 3, §5.2.5), ``BITS`` a pass: every tile counts its digits,
one program turns the counts, row by row, digit by digit and tile by tile, into first places, and every tile then sends its
elements there in order. Where only the first few of a long row are wanted, each tile keeps its own first ones, and these
are sorted again. All of these are stable, so the result is the same whatever the tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tinyflow.kernels import memory
from tinyflow.kernels.elementwise import contiguous
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
def _tile_order_kernel(
    keys_ptr,  # (rows, n)
    order_ptr,  # (rows, length), places in the rows of keys, n or more for none; or None: 0 … n−1
    out_ptr,  # (rows, tiles, keep)
    rows,
    n,
    length,
    keep,
    shift,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles = tl.cdiv(length, BLOCK_N)
    program = tl.program_id(0).to(tl.int64)
    start = (program % tiles) * BLOCK_N
    m = ((program // tiles) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    lane = tl.arange(0, BLOCK_N)[None, :].to(tl.int64)
    mask = (m < rows) & (start + lane < length)
    if order_ptr is not None:
        element = tl.load(order_ptr + m * length + start + lane, mask=mask, other=0)
    else:
        element = tl.broadcast_to(start + lane, (BLOCK_M, BLOCK_N))
    mask = mask & (element < n)
    key = tl.load(keys_ptr + m * n + element, mask=mask, other=0).to(tl.int64)
    digits = ((key >> shift) & 0xFFFFFFFF) - 0x80000000  # signed, as numbers are compared
    numbers = tl.where(mask, (digits << 32) | lane, 0x7FFFFFFFFFFFFFFF)
    place = tl.sort(numbers, dim=1) & 0xFFFFFFFF
    found = place < BLOCK_N
    if order_ptr is not None:
        element = tl.load(order_ptr + m * length + start + place, mask=found & (m < rows), other=0)
    else:
        element = start + place
    element = tl.where(found, element, n)
    tl.store(out_ptr + (m * tiles + program % tiles) * keep + lane, element, mask=(m < rows) & (lane < keep))


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
    # keys, order: (rows, n); counts: (rows, digits, tiles)
    program = tl.program_id(0).to(tl.int64)
    row = program // tiles
    i = (program % tiles) * BLOCK + tl.arange(0, BLOCK)
    if order_ptr is not None:
        order_ptr += row * n
    _, _, is_digit = _digits(keys_ptr + row * n, order_ptr, i, i < n, shift, BITS)
    digit = row * (1 << BITS) + tl.arange(0, 1 << BITS)
    tl.store(counts_ptr + digit * tiles + program % tiles, tl.sum(is_digit, axis=0))


@triton.jit
def _digit_place_kernel(
    keys_ptr, order_ptr, first_ptr, out_ptr, n, shift, tiles, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    # first: (rows, digits, tiles), the place in out of each tile's first element of each digit; None: one tile a row
    program = tl.program_id(0).to(tl.int64)
    row = program // tiles
    i = (program % tiles) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    if order_ptr is not None:
        order_ptr += row * n
    element, digit, is_digit = _digits(keys_ptr + row * n, order_ptr, i, mask, shift, BITS)
    if first_ptr is not None:
        place = tl.cumsum(is_digit, axis=0) - 1
        counted = (row * (1 << BITS) + digit.to(tl.int64)) * tiles + program % tiles
        start = tl.load(first_ptr + counted, mask=mask, other=0)
    else:
        count = tl.sum(is_digit, axis=0)
        place = tl.cumsum(is_digit, axis=0) - 1 + (tl.cumsum(count, axis=0) - count)[None, :]
        start = row * n
    place = tl.sum(place * is_digit, axis=1)
    tl.store(out_ptr + start + place, element, mask=mask)


_SCAN = Config({"BLOCK": 4096}, num_warps=8)
_RADIX = Config({"BITS": 4, "BLOCK": 512}, num_warps=8)


_TILES = (
    Config({"BLOCK_M": 16, "BLOCK_N": 64}),
    Config({"BLOCK_M": 4, "BLOCK_N": 256}),
    Config({"BLOCK_M": 1, "BLOCK_N": 1024}),
    Config({"BLOCK_M": 1, "BLOCK_N": 2048}, num_warps=8),
)

#: Bits of a key that a tile sorts by in one pass.
_TILE_BITS = 32


def _choose_tile(rows: int, length: int) -> Config:
    return next((c for c in _TILES if length <= c.blocks["BLOCK_N"]), _TILES[-1])


def _interpreter_tile(rows: int, length: int) -> Config:
    block_n = max(2, block(length, MAX_BLOCK))
    return Config({"BLOCK_M": block(rows, MAX_BLOCK // block_n), "BLOCK_N": block_n})


def _interpreter_radix(n: int) -> Config:
    # the work of a pass grows with n · 2^BITS, its overhead does not
    bits = 4 if n <= 2**14 else 2
    return Config({"BITS": bits, "BLOCK": block(n, MAX_BLOCK >> bits)})


exclusive_sum_configs = Configs(
    "_exclusive_sum_kernel", (_SCAN,), lambda n: _SCAN, lambda n: Config({"BLOCK": block(n)})
)
digit_configs = Configs("_digit_place_kernel", (_RADIX,), lambda n: _RADIX, _interpreter_radix)
tile_order_configs = Configs("_tile_order_kernel", _TILES, _choose_tile, _interpreter_tile)


def exclusive_sum(x: Buffer) -> Buffer:
    """``out[i] = x[0] + … + x[i−1]`` for i = 0 … n: int64, one more than the contiguous vector ``x`` has."""
    out = memory.empty((x.numel() + 1,), memory.int64, x.device)
    config = exclusive_sum_configs(n=x.numel())
    launch(_exclusive_sum_kernel, (1,), x, out, x.numel(), config=config, cost=Cost(0, nbytes(x, out)), device=x.device)
    return out


def sort_order(keys: Buffer, bits: int = 63, rows: int = 1) -> Buffer:
    """The positions that sort each row of ``keys`` stably: ``keys[order]`` ascends, equal keys stay in order.

    Args:
        keys: contiguous, ``rows`` rows one after the other; int64 or int32, whose lowest ``bits`` bits are the key, a number
            without a sign.
        bits: how many low bits there are; the sort takes one pass for every few of them.

    Returns an int64 vector: for each row its order, positions in that row. FLOPs 0. Bytes: keys and positions once a pass.
    """
    return first_order(keys, keys.numel() // max(rows, 1), bits, rows)


def first_order(keys: Buffer, k: int, bits: int = 63, rows: int = 1) -> Buffer:
    """The first ``k`` positions of each row's :func:`sort_order`: int64, ``rows`` of ``k`` one after the other.

    Where ``k`` is small beside a tile, longer rows are not sorted: each tile keeps its first ``k``. Bytes: the keys once a
    pass, and positions.
    """
    n = keys.numel() // max(rows, 1)
    if rows * k == 0:
        return memory.empty((0,), memory.int64, keys.device)
    length, order = n, None
    while True:
        config = tile_order_configs(rows=rows, length=length)
        width = config.blocks["BLOCK_N"]
        tiles = cdiv(length, width)
        if tiles > 1 and k > width // 2:
            whole = radix_order(keys, bits, rows)
            return whole if k == n else _first_columns(whole, rows, n, k)
        for shift in range(0, bits, _TILE_BITS):
            last = shift + _TILE_BITS >= bits
            keep = k if last else width if tiles > 1 else length
            order = _tile_order(keys, order, rows, n, length, keep, shift, config)
            length = tiles * keep
        if tiles == 1:
            assert order is not None
            return order


def _first_columns(order: Buffer, rows: int, n: int, k: int) -> Buffer:
    kept = memory.as_strided(order, (rows, k), (n, 1))
    return memory.as_strided(contiguous(kept), (rows * k,), (1,))


def _tile_order(
    keys: Buffer, order: Buffer | None, rows: int, n: int, length: int, keep: int, shift: int, config: Config
) -> Buffer:
    tiles = cdiv(length, config.blocks["BLOCK_N"])
    out = memory.empty((rows * tiles * keep,), memory.int64, keys.device)
    launch(
        _tile_order_kernel,
        (cdiv(rows, config.blocks["BLOCK_M"]) * tiles,),
        keys,
        order,
        out,
        rows,
        n,
        length,
        keep,
        shift,
        config=config,
        cost=Cost(0, nbytes(keys, order, out)),
        device=keys.device,
    )
    return out


def radix_order(keys: Buffer, bits: int = 63, rows: int = 1) -> Buffer:
    """:func:`sort_order` for rows of any length, digit by digit."""
    n = keys.numel() // rows
    config = digit_configs(n=n)
    tiles = cdiv(n, config.blocks["BLOCK"])
    digits = 1 << config.blocks["BITS"]
    order: Buffer | None = None
    for shift in range(0, max(bits, 1), config.blocks["BITS"]):
        first = None
        if tiles > 1:
            counts = memory.empty((rows, digits, tiles), memory.int32, keys.device)
            cost = Cost(0, nbytes(keys, order, counts))
            arguments = keys, order, counts, n, shift, tiles
            launch(_digit_count_kernel, (rows * tiles,), *arguments, config=config, cost=cost, device=keys.device)
            first = exclusive_sum(memory.as_strided(counts, (counts.numel(),), (1,)))
        out = memory.empty((rows * n,), memory.int64, keys.device)
        launch(
            _digit_place_kernel,
            (rows * tiles,),
            keys,
            order,
            first,
            out,
            n,
            shift,
            tiles,
            config=config,
            cost=Cost(0, nbytes(keys, order, out, first)),
            device=keys.device,
        )
        order = out
    assert order is not None
    return order
