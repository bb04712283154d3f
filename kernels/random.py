"""Random numbers from a counter: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers", 2011).

A draw is named by a 64-bit seed and a 64-bit offset. The key of the generator is the seed; counter ``offset + k`` gives
four 32-bit words, which make elements ``4k … 4k+3`` of the draw, or, for 64-bit results, elements ``2k`` and ``2k+1``.
So element ``i`` (row-major) depends on seed, offset and ``i`` alone: not on tiles, strides or the device. Integers,
Bernoulli variables and uniform numbers on [0, 1) are the same bits everywhere; other distributions agree to the
rounding of their functions.

In place of the seed, launchers take two int64 in device memory, a seed and an offset that is added to the given one: what
a recorded launch draws then changes from replay to replay.

Every distribution is a JIT function ``FN(x, y, a, b, OUT)`` from two words and two parameters to two numbers.
Parameters arrive as the bits of a float64, or as an int64."""

from __future__ import annotations

import math
import struct
from typing import Any

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_from_bits, offsets
from tinyflow.kernels.elementwise import copy_into
from tinyflow.kernels.launch import MAX_BLOCK, Config, Configs, Cost, block, cdiv, launch, nbytes, offset_dtype
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.sorting import sort_order

#: A seed, or (seed, added offset) in device memory.
Seed = int | Buffer

_TWO_PI = tl.constexpr(6.283185307179586)


@triton.jit
def _unit(word, BITS: tl.constexpr):
    """Uniform on the multiples of 2^-BITS in [0, 1)."""
    WIDTH: tl.constexpr = word.dtype.primitive_bitwidth
    FLOAT: tl.constexpr = tl.float64 if WIDTH == 64 else tl.float32
    return (word >> (WIDTH - BITS)).to(FLOAT) * (1.0 / (1 << BITS))


@triton.jit
def _positive_unit(word):
    """Uniform on (0, 1], with as fine a grid near 0 as the word allows."""
    if word.dtype.primitive_bitwidth == 64:
        unit = ((word >> 11).to(tl.float64) + 1.0) * (1.0 / (1 << 53))
    else:
        unit = (word.to(tl.float32) + 1.0) * (1.0 / (1 << 32))
    return unit


@triton.jit
def _uniform_one(word, a, b, OUT: tl.constexpr):
    # as many bits as OUT holds in [0.5, 1), so that a number just below 1 does not round up to 1
    if tl.float64 == OUT:
        unit = _unit(word, 53)
    elif tl.float32 == OUT:
        unit = _unit(word, 24)
    elif tl.float16 == OUT:
        unit = _unit(word, 11)
    else:
        unit = _unit(word, 8)
    low = float_from_bits(a).to(unit.dtype)
    high = float_from_bits(b).to(unit.dtype)
    number = (low + unit * (high - low)).to(OUT)
    return tl.where(number.to(unit.dtype) >= high, low.to(OUT), number)  # rounding may have reached high


@triton.jit
def _uniform(x, y, a, b, OUT: tl.constexpr):
    return _uniform_one(x, a, b, OUT), _uniform_one(y, a, b, OUT)


@triton.jit
def _normal(x, y, a, b, OUT: tl.constexpr):
    # Box & Muller 1958: both coordinates of a point at a Rayleigh distance in a uniform direction
    distance = tl.sqrt(-2.0 * tl.log(_positive_unit(x)))
    if y.dtype.primitive_bitwidth == 64:
        angle = _unit(y, 53) * _TWO_PI
    else:
        angle = _unit(y, 24) * _TWO_PI
    mean = float_from_bits(a).to(angle.dtype)
    std = float_from_bits(b).to(angle.dtype)
    return mean + std * (distance * tl.cos(angle)), mean + std * (distance * tl.sin(angle))


@triton.jit
def _exponential_one(word, a):
    unit = _positive_unit(word)
    if word.dtype.primitive_bitwidth == 64:
        unit = tl.minimum(unit, 1.0 - 1.0 / (1 << 53))  # log(1) = 0 is no exponential variable
    else:
        unit = tl.minimum(unit, 1.0 - 1.0 / (1 << 24))
    return -tl.log(unit) / float_from_bits(a).to(unit.dtype)


@triton.jit
def _exponential(x, y, a, b, OUT: tl.constexpr):
    return _exponential_one(x, a), _exponential_one(y, a)


@triton.jit
def _log_normal(x, y, a, b, OUT: tl.constexpr):
    first, second = _normal(x, y, a, b, OUT)
    return tl.exp(first), tl.exp(second)


@triton.jit
def _cauchy_one(word, a, b):
    # the tangent of an angle uniform on (-pi/2, pi/2]; from sine and cosine, since a quotient keeps both tails alike
    angle = (_positive_unit(word) - 0.5) * 3.141592653589793
    median = float_from_bits(a).to(angle.dtype)
    return median + float_from_bits(b).to(angle.dtype) * (tl.sin(angle) / tl.cos(angle))


@triton.jit
def _cauchy(x, y, a, b, OUT: tl.constexpr):
    return _cauchy_one(x, a, b), _cauchy_one(y, a, b)


@triton.jit
def _geometric_one(word, a):
    unit = _positive_unit(word)
    trials = tl.ceil(tl.log(unit) / float_from_bits(a).to(unit.dtype))
    return tl.maximum(trials, 1.0)  # a unit of 1 gives 0


@triton.jit
def _geometric(x, y, a, b, OUT: tl.constexpr):
    return _geometric_one(x, a), _geometric_one(y, a)


@triton.jit
def _bernoulli(x, y, a, b, OUT: tl.constexpr):
    p = float_from_bits(a).to(tl.float32)
    return (_unit(x, 24) < p).to(tl.float32), (_unit(y, 24) < p).to(tl.float32)


@triton.jit
def _integer_one(word, a, b):
    # the high half of word · span: uniform on [0, span) up to span / 2^64; a span of 0 stands for 2^64
    span = tl.cast(b, tl.int64).to(tl.uint64)
    scaled = tl.umulhi(word, tl.broadcast_to(span, word.shape))
    return tl.where(span == 0, word, scaled).to(tl.int64) + tl.cast(a, tl.int64)


@triton.jit
def _integer(x, y, a, b, OUT: tl.constexpr):
    return _integer_one(x, a, b), _integer_one(y, a, b)


@triton.jit
def _words(seed, offset, block):
    counter = tl.cast(offset, tl.int64) + block
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = ((counter >> 32) & 0xFFFFFFFF).to(tl.uint32)
    none = tl.zeros_like(low)
    return tl.philox(tl.cast(seed, tl.int64), low, high, none, none)


@triton.jit
def _in_turn(w0, w1, w2, w3):
    """Four vectors as one, whose elements 4k … 4k+3 are the vectors' elements k."""
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit(do_not_specialize=["seed", "offset", "a", "b"])
def _random_kernel(
    out_ptr,  # contiguous
    numel,
    seed,
    offset,
    a,
    b,
    state_ptr,  # (2,): the seed, and what is added to offset; or None
    FN: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,  # counters of a program
):
    program = tl.program_id(0).to(tl.int64)
    OUT: tl.constexpr = out_ptr.dtype.element_ty
    if state_ptr is not None:
        seed = tl.load(state_ptr)
        offset = tl.load(state_ptr + 1) + offset
    w0, w1, w2, w3 = _words(seed, offset, program * BLOCK + tl.arange(0, BLOCK))
    if WIDE:
        x = w0.to(tl.uint64) | (w1.to(tl.uint64) << 32)
        y = w2.to(tl.uint64) | (w3.to(tl.uint64) << 32)
        first, second = FN(x, y, a, b, OUT)
        numbers = tl.interleave(first, second)
    else:
        n0, n1 = FN(w0, w1, a, b, OUT)
        n2, n3 = FN(w2, w3, a, b, OUT)
        numbers = _in_turn(n0, n1, n2, n3)
    if tl.int1 == OUT:
        numbers = numbers != 0
    COUNT: tl.constexpr = numbers.shape[0]
    at = program * COUNT + tl.arange(0, COUNT)
    tl.store(out_ptr + at, numbers.to(OUT), mask=at < numel)


@triton.jit(do_not_specialize=["seed", "offset", "p_bits"])
def _dropout_kernel(
    x_ptr,
    out_ptr,
    numel,
    seed,
    offset,
    p_bits,
    sizes,
    x_strides,
    out_strides,
    state_ptr,  # as above
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK: tl.constexpr,  # counters of a program
):
    program = tl.program_id(0).to(INDEX)
    if state_ptr is not None:
        seed = tl.load(state_ptr)
        offset = tl.load(state_ptr + 1) + offset
    w0, w1, w2, w3 = _words(seed, offset, program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK))
    p = float_from_bits(p_bits)
    kept = _unit(_in_turn(w0, w1, w2, w3), 24) >= p.to(tl.float32)
    i = program * (4 * BLOCK) + tl.arange(0, 4 * BLOCK).to(INDEX)
    mask = i < numel
    x = tl.load(x_ptr + offsets(i, sizes, x_strides, DIMS), mask=mask, other=0).to(COMPUTE)
    scale = (1.0 / tl.maximum(1.0 - p, 1e-30)).to(COMPUTE)  # with p = 1 nothing is kept
    y = tl.where(kept, x * scale, 0.0)
    tl.store(out_ptr + offsets(i, sizes, out_strides, DIMS), y.to(out_ptr.dtype.element_ty), mask=mask)


_GPU = Config({"BLOCK": 256})


def _choose(numel: int) -> Config:
    return _GPU


def _interpreter(numel: int) -> Config:
    return Config({"BLOCK": block(cdiv(numel, 4), MAX_BLOCK // 4)})


random_configs = Configs("_random_kernel", (_GPU,), _choose, _interpreter)
dropout_configs = Configs("_dropout_kernel", (_GPU,), _choose, _interpreter)


def counters(numel: int) -> int:
    """How far a draw of ``numel`` elements, of any distribution, moves a generator's offset."""
    return cdiv(numel, 2)


def _bits(value: float) -> int:
    return struct.unpack("q", struct.pack("d", value))[0]


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed integer that a kernel takes."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _position(seed: Seed, offset: int) -> tuple[int, int]:
    return 0 if isinstance(seed, Buffer) else _signed(seed), _signed(offset)


def _state(seed: Seed) -> Buffer | None:
    return seed if isinstance(seed, Buffer) else None


def _draw(out: Buffer, seed: Seed, offset: int, fn: Any, a: int, b: int, wide: bool, flops: int) -> Buffer:
    if not strides.is_contiguous(out):
        drawn = memory.empty(out.shape, out.dtype, out.device)
        return copy_into(out, _draw(drawn, seed, offset, fn, a, b, wide, flops))
    config = random_configs(out.dtype, numel=out.numel())
    launch(
        _random_kernel,
        (cdiv(out.numel(), config.blocks["BLOCK"] * (2 if wide else 4)),),
        out,
        out.numel(),
        *_position(seed, offset),
        a,
        b,
        _state(seed),
        config=config,
        cost=Cost(flops * out.numel(), nbytes(out)),
        device=out.device,
        FN=fn,
        WIDE=wide,
    )
    return out


def _check_floating(op: str, out: Buffer) -> None:
    dtypes.check_floating(op, out=out)


def uniform(out: Buffer, seed: Seed, offset: int, low: float = 0.0, high: float = 1.0) -> Buffer:
    """Fills ``out`` with numbers uniform on [low, high), never ``high`` unless ``low`` equals it.

    ``out``: floating point, any shape and strides. float32 has 24 random bits, float64 53, float16 11, bfloat16 8.
    FLOPs: two an element (and Philox's integer arithmetic). Bytes: ``out`` written once.

    Raises:
        RuntimeError: if ``low > high``, or the interval is longer than the dtype can hold.
        TypeError: if ``out`` is not floating point.
    """
    _check_floating("uniform", out)
    if not low <= high:
        raise RuntimeError(f"uniform: expected low <= high, got low {low} and high {high}")
    if high - low > memory.finfo(out.dtype).max:
        raise RuntimeError(f"uniform: the interval [{low}, {high}) is longer than {out.dtype} can hold")
    wide = out.dtype == memory.float64
    return _draw(out, seed, offset, _uniform, _bits(low), _bits(high), wide, 2)


def normal(out: Buffer, seed: Seed, offset: int, mean: float = 0.0, std: float = 1.0) -> Buffer:
    """Fills ``out`` with numbers of the normal distribution, all of them finite, by Box and Muller's method.

    ``out`` as in :func:`uniform`. FLOPs: about 10 an element.

    Raises:
        RuntimeError: if ``std`` is negative or NaN.
    """
    _check_floating("normal", out)
    if not std >= 0:
        raise RuntimeError(f"normal: expected std >= 0, got {std}")
    wide = out.dtype == memory.float64
    return _draw(out, seed, offset, _normal, _bits(mean), _bits(std), wide, 10)


def exponential(out: Buffer, seed: Seed, offset: int, rate: float = 1.0) -> Buffer:
    """Fills ``out`` with positive numbers of density ``rate · exp(−rate · x)``: ``−log(u) / rate`` with u uniform.

    Raises:
        RuntimeError: if ``rate`` is not positive.
    """
    _check_floating("exponential", out)
    if not rate > 0:
        raise RuntimeError(f"exponential: expected rate > 0, got {rate}")
    return _draw(out, seed, offset, _exponential, _bits(rate), 0, out.dtype == memory.float64, 4)


def log_normal(out: Buffer, seed: Seed, offset: int, mean: float = 1.0, std: float = 2.0) -> Buffer:
    """Fills ``out`` with numbers whose logarithm is normal with this mean and standard deviation.

    Raises:
        RuntimeError: if ``std`` is not positive.
    """
    _check_floating("log_normal", out)
    if not std > 0:
        raise RuntimeError(f"log_normal: expected std > 0, got {std}")
    return _draw(out, seed, offset, _log_normal, _bits(mean), _bits(std), out.dtype == memory.float64, 20)


def cauchy(out: Buffer, seed: Seed, offset: int, median: float = 0.0, sigma: float = 1.0) -> Buffer:
    """Fills ``out`` with numbers of Cauchy's density ``sigma / (π ((x − median)² + sigma²))``.

    Raises:
        RuntimeError: if ``sigma`` is not positive.
    """
    _check_floating("cauchy", out)
    if not sigma > 0:
        raise RuntimeError(f"cauchy: expected sigma > 0, got {sigma}")
    return _draw(out, seed, offset, _cauchy, _bits(median), _bits(sigma), out.dtype == memory.float64, 12)


def geometric(out: Buffer, seed: Seed, offset: int, p: float) -> Buffer:
    """Fills ``out`` (any dtype but bool) with the number of trials up to the first success, whose probability is ``p``.

    Raises:
        RuntimeError: if ``p`` is not in (0, 1).
        NotImplementedError: for bools.
    """
    if out.dtype == memory.bool_:
        raise NotImplementedError("geometric: expected a dtype with numbers above 1, got torch.bool")
    if not 0 < p < 1:
        raise RuntimeError(f"geometric: expected p in (0, 1), got {p}")
    return _draw(out, seed, offset, _geometric, _bits(math.log1p(-p)), 0, out.dtype == memory.float64, 5)


def bernoulli(out: Buffer, seed: Seed, offset: int, p: float = 0.5) -> Buffer:
    """Fills ``out`` (any dtype) with 1 where a number uniform on [0, 1) is below ``p``, else with 0.

    Raises:
        RuntimeError: if ``p`` is not a probability.
    """
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli: expected 0 <= p <= 1, got {p}")
    return _draw(out, seed, offset, _bernoulli, _bits(p), 0, False, 1)


def integers(out: Buffer, seed: Seed, offset: int, low: int, high: int) -> Buffer:
    """Fills ``out`` (any dtype) with integers uniform on [low, high), from the high half of a 64 × 64-bit product.

    Raises:
        RuntimeError: if the interval is empty, or longer than 2⁶⁴.
    """
    if not low < high:
        raise RuntimeError(f"integers: expected low < high, got low {low} and high {high}")
    if high - low > 2**64:
        raise RuntimeError(f"integers: the interval [{low}, {high}) has more than 2^64 elements")
    return _draw(out, seed, offset, _integer, _signed(low), _signed(high - low), True, 0)


def permutation(n: int, device: memory.device, seed: Seed, offset: int) -> Buffer:
    """The numbers 0 … n−1 as int64 in random order: the order that sorts random keys.

    Keys have so many bits that two of ``n`` are equal with probability below 2⁻¹⁴; equal ones stay in order.
    """
    bits = min(2 * n.bit_length() + 14, 62)
    keys = integers(memory.empty((n,), memory.int64, device), seed, offset, 0, 2**bits)
    return sort_order(keys, bits)


def dropout(x: Buffer, p: float, seed: Seed, offset: int) -> Buffer:
    """``y = x · keep / (1 − p)`` with ``keep`` 0 with probability ``p``, else 1 (Srivastava et al. 2014).

    Linear in ``x``, and the mask comes from (seed, offset) alone: the same call on ``grad_output`` is the derivative,
    and nothing is saved. ``x``: floating point, any shape and strides; the result lies as ``x`` does. FLOPs: two an
    element. Bytes: ``x`` read and the result written once.

    Raises:
        ValueError: if ``p`` is not a probability.
    """
    _check_floating("dropout", x)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: probability has to be between 0 and 1, got {p}")
    shape = tuple(x.shape)
    out = memory.empty(shape, x.dtype, x.device, strides.like(x))
    row_major = strides.contiguous_strides(shape)  # first, so that elements are numbered in this order
    sizes, (_, x_strides, out_strides) = strides.coalesce(shape, row_major, tuple(x.stride()), tuple(out.stride()))
    config = dropout_configs(x.dtype, numel=x.numel())
    launch(
        _dropout_kernel,
        (cdiv(x.numel(), 4 * config.blocks["BLOCK"]),),
        x,
        out,
        x.numel(),
        *_position(seed, offset),
        _bits(p),
        tuple(sizes or [1]),
        tuple(x_strides or [0]),
        tuple(out_strides or [0]),
        _state(seed),
        config=config,
        cost=Cost(2 * x.numel(), nbytes(x, out)),
        device=x.device,
        COMPUTE=dtypes.compute_dtype(x.dtype),
        INDEX=tl.int64 if x.numel() > 2**30 else offset_dtype(x, out),
        DIMS=max(len(sizes), 1),
    )
    return out
