"""Elementwise arithmetic: one kernel for every function of up to four operands, whatever their shapes, strides, dtypes.

An operation is a line of scalar arithmetic, a JIT function handed to the kernel as a ``constexpr``::

    @triton.jit
    def _relu(x):
        return tl.where(x < 0, 0.0, x)

    relu = Pointwise("relu", _relu, result=FLOAT)

The host merges dimensions that all operands walk evenly (``strides.coalesce``); the kernel covers the last three with a
tile and finds its place in the others from the program's number. Operands may be buffers or Python numbers; a number
arrives as the bits of a float64 or an int64, so that it is exact and a new value compiles nothing. Half precision
computes in float32.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import float_bits
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.launch import (
    MAX_BLOCK,
    Config,
    Configs,
    Cost,
    block,
    cdiv,
    check_same_device,
    launch_prepared,
    nbytes,
    offset_dtype,
    situation,
)
from tinyflow.kernels.memory import Buffer

Operand = Buffer | Scalar

ABSENT, BUFFER, FLOAT_BITS, INTEGER = 0, 1, 2, 3


@triton.jit
def _operand(x, offset, mask, KIND: tl.constexpr, COMPUTE: tl.constexpr):
    if KIND == 1:
        value = tl.load(x + offset, mask=mask, other=0)
        if value.dtype == tl.int1:
            value = value.to(tl.int8)  # a bool byte reads as 0 or 1 on every backend
        value = value.to(COMPUTE)
    elif KIND == 2:
        value = tl.cast(tl.cast(x, tl.int64), tl.float64, bitcast=True).to(COMPUTE)
    else:
        value = tl.cast(x, tl.int64).to(COMPUTE)
    return value


@triton.jit
def _outer_offset(strides, outer, sizes, OUTER: tl.constexpr, INDEX: tl.constexpr):
    offset = tl.cast(0, INDEX)
    for k in tl.static_range(OUTER):
        offset += (outer % sizes[OUTER - 1 - k]) * strides[OUTER - 1 - k]
        outer = outer // sizes[OUTER - 1 - k]
    return offset


@triton.jit
def _tile_offset(strides, outer, i0, i1, i2, sizes, OUTER: tl.constexpr, INDEX: tl.constexpr):
    base = _outer_offset(strides, outer, sizes, OUTER, INDEX)
    return base + i0 * strides[OUTER] + i1 * strides[OUTER + 1] + i2 * strides[OUTER + 2]


@triton.jit
def _tile(
    program,
    sizes,
    OUTER: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_0: tl.constexpr,
    BLOCK_1: tl.constexpr,
    BLOCK_2: tl.constexpr,
):
    """A program's indices along the last three dimensions, its number among the others, and which lanes are inside."""
    tiles_1 = tl.cdiv(sizes[OUTER + 1], BLOCK_1)
    tiles_2 = tl.cdiv(sizes[OUTER + 2], BLOCK_2)
    i2 = (program % tiles_2) * BLOCK_2 + tl.arange(0, BLOCK_2).to(INDEX)
    program = program // tiles_2
    i1 = (program % tiles_1) * BLOCK_1 + tl.arange(0, BLOCK_1).to(INDEX)
    program = program // tiles_1
    tiles_0 = tl.cdiv(sizes[OUTER], BLOCK_0)
    i0 = (program % tiles_0) * BLOCK_0 + tl.arange(0, BLOCK_0).to(INDEX)
    mask = (
        (i0 < sizes[OUTER])[:, None, None]
        & (i1 < sizes[OUTER + 1])[None, :, None]
        & (i2 < sizes[OUTER + 2])[None, None, :]
    )
    return i0[:, None, None], i1[None, :, None], i2[None, None, :], program // tiles_0, mask


@triton.jit
def _pointwise_kernel(
    out_ptr,
    a,
    b,
    c,
    d,
    sizes,
    out_strides,
    a_strides,
    b_strides,
    c_strides,
    d_strides,
    FN: tl.constexpr,
    KIND_A: tl.constexpr,
    KIND_B: tl.constexpr,
    KIND_C: tl.constexpr,
    KIND_D: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    OUTER: tl.constexpr,
    BLOCK_0: tl.constexpr,
    BLOCK_1: tl.constexpr,
    BLOCK_2: tl.constexpr,
):
    # sizes: the OUTER leading dimensions, then the three that a tile covers
    program = tl.program_id(0).to(INDEX)
    i0, i1, i2, outer, mask = _tile(program, sizes, OUTER, INDEX, BLOCK_0, BLOCK_1, BLOCK_2)
    if KIND_A == 1:
        a_at = _tile_offset(a_strides, outer, i0, i1, i2, sizes, OUTER, INDEX)
    else:
        a_at = i2
    x = _operand(a, a_at, mask, KIND_A, COMPUTE)
    if KIND_B == 0:
        y = FN(x)
    else:
        if KIND_B == 1:
            b_at = _tile_offset(b_strides, outer, i0, i1, i2, sizes, OUTER, INDEX)
        else:
            b_at = i2
        x2 = _operand(b, b_at, mask, KIND_B, COMPUTE)
        if KIND_C == 0:
            y = FN(x, x2)
        else:
            if KIND_C == 1:
                c_at = _tile_offset(c_strides, outer, i0, i1, i2, sizes, OUTER, INDEX)
            else:
                c_at = i2
            x3 = _operand(c, c_at, mask, KIND_C, COMPUTE)
            if KIND_D == 0:
                y = FN(x, x2, x3)
            else:
                if KIND_D == 1:
                    d_at = _tile_offset(d_strides, outer, i0, i1, i2, sizes, OUTER, INDEX)
                else:
                    d_at = i2
                y = FN(x, x2, x3, _operand(d, d_at, mask, KIND_D, COMPUTE))
    out_at = _tile_offset(out_strides, outer, i0, i1, i2, sizes, OUTER, INDEX)
    if out_ptr.dtype.element_ty == tl.int1:
        y = y != 0
    y = tl.broadcast_to(y.to(out_ptr.dtype.element_ty), BLOCK_0, BLOCK_1, BLOCK_2)
    tl.store(out_ptr + out_at, y, mask=mask)


def _tile_of(rows: int, columns: int) -> Config:
    return Config({"BLOCK_0": 1, "BLOCK_1": rows, "BLOCK_2": columns})


#: A tile along memory, one of short rows, and one for an operand that runs across the output's rows.
_FLAT, _ROWS, _TRANSPOSE = _tile_of(1, 1024), _tile_of(8, 128), _tile_of(32, 32)

#: The same for what keeps so many registers an element that a thread has them for two, not for eight.
_FLAT_COSTLY, _ROWS_COSTLY, _TRANSPOSE_COSTLY = _tile_of(1, 256), _tile_of(4, 64), _tile_of(16, 16)

#: FLOPs of an element from which on a function is so costly; one in float64 counts for sixteen.
_COSTLY_FLOPS = 90


def _choose(sizes: Sequence[int], views: Sequence[Sequence[int]], costly: bool) -> Config:
    if any(abs(v[-2]) == 1 and sizes[-2] > 1 for v in views):
        return _TRANSPOSE_COSTLY if costly else _TRANSPOSE
    if sizes[-1] >= 512 or sizes[-2] == 1:
        return _FLAT_COSTLY if costly else _FLAT
    return _ROWS_COSTLY if costly else _ROWS


def _interpreter(sizes: Sequence[int], views: Sequence[Sequence[int]], costly: bool) -> Config:
    b2 = block(sizes[-1])
    b1 = block(sizes[-2], MAX_BLOCK // b2)
    return Config({"BLOCK_0": block(sizes[-3], MAX_BLOCK // (b1 * b2)), "BLOCK_1": b1, "BLOCK_2": b2})


pointwise_configs = Configs(
    "_pointwise_kernel",
    (_FLAT, _ROWS, _TRANSPOSE, _FLAT_COSTLY, _ROWS_COSTLY, _TRANSPOSE_COSTLY),
    _choose,
    _interpreter,
)


def _kind(value: Scalar, compute: Any) -> int:
    return FLOAT_BITS if isinstance(value, float) or compute.is_floating() else INTEGER


def check_apart(out: Buffer) -> None:
    """Raises RuntimeError if a buffer that is to be written repeats elements by a stride of 0."""
    if out.numel() and any(st == 0 and n > 1 for n, st in zip(out.shape, out.stride())):
        raise RuntimeError(
            f"unsupported operation: more than one element of the written-to tensor of shape {tuple(out.shape)} and strides "
            f"{out.stride()} refers to a single memory location. Please clone() the tensor before performing the operation."
        )


def apply(
    fn: Any, out: Buffer, operands: Sequence[Operand], compute: Any, flops: int = 1, fresh: bool = False
) -> Buffer:
    """``out[i] = fn(operands[0][i], …)`` for every index ``i`` of ``out``, operands broadcast to its shape.

    Args:
        fn: a Triton JIT function of as many values as there are operands (one to four), in ``compute`` arithmetic.
        out: the result's memory, any strides without overlap (RuntimeError where a stride is 0).
        operands: buffers that broadcast to ``out``, on its device, or Python numbers.
        compute: the Triton dtype that operands are cast to before ``fn``.
        flops: floating-point operations of ``fn`` for one element.
        fresh: ``out`` is new memory, which no operand can share.
    """
    if 0 in out.stride():
        check_apart(out)
    if not fresh:
        operands = [_apart(x, out) if isinstance(x, Buffer) else x for x in operands]
    if not pointwise_configs.settled:
        return _run(_planned(fn, out, operands, compute, flops), out, operands)
    key = id(fn), id(compute), flops, *situation(), _distinct(operands), *map(_description, (out, *operands))
    plan = pointwise_configs.kept.get(key)
    if plan is None:
        plan = _planned(fn, out, operands, compute, flops)  # which keeps fn, so that nothing else gets its identity
        pointwise_configs.keep(key, plan)
    return _run(plan, out, operands)


def _distinct(operands: Sequence[Operand]) -> int:
    """How many of the operands are different ones, which decides what is read."""
    if len(operands) <= 2:
        return 1 if operands[0] is operands[-1] else 2
    return len({id(x) for x in operands if isinstance(x, Buffer)})


def _description(x: Operand) -> Any:
    """All of an operand that decides how a kernel is launched."""
    return (x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Buffer) else type(x)


class _Plan(NamedTuple):
    """All of a launch that follows from shapes, strides, dtypes and the kinds of numbers."""

    kinds: tuple[int, ...]
    grid: tuple[int]
    tail: tuple[Any, ...]  # the kernel's arguments after the operands
    config: Config
    cost: Cost
    constexprs: dict[str, Any]
    result: tuple[Any, ...]  # shape, dtype, device and strides


def _planned(fn: Any, out: Buffer, operands: Sequence[Operand], compute: Any, flops: int) -> _Plan:
    buffers = [x for x in operands if isinstance(x, Buffer)]
    kinds = tuple([BUFFER if isinstance(x, Buffer) else _kind(x, compute) for x in operands])
    sizes, walked = _walk(out.shape, out.stride(), *[(x.shape, x.stride()) for x in buffers])
    costly = flops * (16 if compute is tl.float64 else 1) >= _COSTLY_FLOPS
    config = pointwise_configs(out.dtype, sizes=sizes, views=walked, costly=costly)
    outer = len(sizes) - 3
    blocks = config.blocks
    grid = strides.numel(sizes[:outer]) * cdiv(sizes[-3], blocks["BLOCK_0"])
    grid *= cdiv(sizes[-2], blocks["BLOCK_1"]) * cdiv(sizes[-1], blocks["BLOCK_2"])
    views = iter(walked[1:])
    steps = [next(views) if kind == BUFFER else None for kind in kinds]
    absent = (None,) * (4 - len(kinds))
    constexprs = dict(zip(("KIND_A", "KIND_B", "KIND_C", "KIND_D"), kinds + (ABSENT,) * len(absent)))
    constexprs.update(FN=fn, COMPUTE=compute, INDEX=offset_dtype(out, *buffers), OUTER=outer)
    return _Plan(
        kinds,
        (grid,),
        (*absent, sizes, walked[0], *steps, *absent),
        config,
        Cost(flops * out.numel(), nbytes(out, *{id(x): x for x in buffers}.values())),
        constexprs,
        (out.shape, out.dtype, out.device, out.stride()),
    )


def _run(plan: _Plan, out: Buffer, operands: Sequence[Operand]) -> Buffer:
    kinds, grid, tail, config, cost, constexprs, result = plan
    arguments: list[Any] = [out]
    for x, kind in zip(operands, kinds):
        if kind != BUFFER:
            x = float_bits(x) if kind == FLOAT_BITS else int(x)  # type: ignore[arg-type]
        arguments.append(x)
    launch_prepared(_pointwise_kernel, grid, (*arguments, *tail), config, cost, result[2], constexprs)
    return out


@functools.lru_cache(maxsize=4096)
def _walk(
    shape: tuple[int, ...], out_stride: tuple[int, ...], *operands: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The three or more dimensions that walk output and operands (shape, strides) together: sizes, strides of each."""
    views = [strides.expanded_strides(own, steps, shape) for own, steps in operands]
    sizes, walked = strides.coalesce(shape, out_stride, *views)
    lead = 3 - len(sizes)
    return (1,) * lead + tuple(sizes), tuple([(0,) * lead + tuple(view) for view in walked])


def _apart(x: Buffer, out: Buffer) -> Buffer:
    """``x``, or its copy where writing ``out`` would change elements of ``x`` that are still to be read."""
    if not memory.may_overlap(x, out):
        return x
    same_walk = (
        x.data_ptr() == out.data_ptr() and x.shape == out.shape and x.stride() == out.stride() and x.dtype == out.dtype
    )
    return x if same_walk else copy(x)


#: The dtype of a result: that of promotion, the same but floating point, or bool.
PROMOTE, FLOAT, BOOL = "promote", "float", "bool"


@dataclass(frozen=True, eq=False)
class Pointwise:
    """An elementwise function as a launcher: ``f(*operands, out=None) -> Buffer``.

    Operands are buffers of any shapes that broadcast and any strides, or Python numbers. The result has torch's promoted
    dtype (``result``: as it is, lifted to floating point, or bool) and lies in memory as the first dense operand of its
    shape does. FLOPs: ``flops`` an element; bytes: each operand read and the result written once.
    """

    name: str
    fn: Any
    result: str = PROMOTE
    flops: int = 1
    takes_bool: bool = True
    takes_float: bool = True

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        named = [inspect.Parameter(n, kind) for n in self.fn.arg_names]
        return inspect.Signature([*named, inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None)])

    def __call__(self, *operands: Operand, out: Buffer | None = None) -> Buffer:
        if out is not None or not pointwise_configs.settled:
            return self._call(operands, out)
        key = (
            self,
            *situation(),
            _distinct(operands),
            *[(x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Buffer) else type(x) for x in operands],
        )
        plan = pointwise_configs.kept.get(key)
        if plan is not None:
            return _run(plan, memory.empty(*plan.result), operands)
        return self._call(operands, None, key)

    def _call(self, operands: Sequence[Operand], out: Buffer | None, key: Any = None) -> Buffer:
        buffers = [x for x in operands if isinstance(x, Buffer)]
        if not buffers:
            raise TypeError(f"{self.name}: expected at least one tensor, got {operands}")
        device = buffers[0].device
        if any(x.device != device for x in buffers):
            check_same_device(self.name, **{f"operand {k}": x for k, x in enumerate(buffers)})
        promoted = dtypes.result_type(*operands)
        if promoted == memory.bool_ and not self.takes_bool:
            raise RuntimeError(f"{self.name}: not defined for bool operands; cast them, or use a logical operation")
        if promoted.is_floating_point and not self.takes_float:
            raise NotImplementedError(f"{self.name}: expected integer or bool operands, got {promoted}")
        if self.result == FLOAT and not promoted.is_floating_point:
            promoted = memory.get_default_dtype()
        shape: tuple[int, ...] = buffers[0].shape
        if any(x.shape != shape for x in buffers):
            shape = strides.broadcast_shapes(self.name, *[x.shape for x in buffers])
        fresh = out is None
        if out is None:
            full = [x for x in buffers if x.shape == shape]
            leader = next((x for x in full if memory.is_dense(x)), full[0] if full else None)
            layout = strides.contiguous_strides(shape) if leader is None else strides.like(leader)
            out = memory.empty(shape, memory.bool_ if self.result == BOOL else promoted, device, layout)
        elif out.shape != shape:
            raise RuntimeError(f"{self.name}: expected out of shape {tuple(shape)}, got {tuple(out.shape)}")
        elif self.result != BOOL and not dtypes.can_cast(promoted, out.dtype):
            raise RuntimeError(
                f"{self.name}: result type {promoted} can't be cast to the desired output type {out.dtype}"
            )
        compute = dtypes.compute_dtype(promoted)
        if key is None:
            return apply(self.fn, out, operands, compute, self.flops, fresh)
        plan = _planned(self.fn, out, operands, compute, self.flops)
        pointwise_configs.keep(key, plan)
        return _run(plan, out, operands)


@triton.jit
def _identity(x):
    return x


def copy_into(out: Buffer, x: Buffer) -> Buffer:
    """``out[i] = x[i]`` between any two strided views on one device, ``x`` broadcast and cast to ``out``'s dtype.

    Floating point to integer truncates, to bool tests for nonzero, to half precision rounds to nearest even. FLOPs 0.

    Raises:
        RuntimeError: if the shapes do not broadcast or the devices differ.
    """
    check_same_device("copy", source=x, destination=out)
    shape = strides.broadcast_shapes("copy", x.shape, out.shape)
    if shape != tuple(out.shape):
        raise RuntimeError(
            f"copy: a source of shape {tuple(x.shape)} does not fit a destination of shape {tuple(out.shape)}"
        )
    half = memory.float16, memory.bfloat16
    through_float = (x.dtype in half or out.dtype in half) and x.dtype != out.dtype
    compute = tl.float32 if through_float else dtypes.triton_dtype(x.dtype)
    return apply(_identity, out, [x], compute, flops=0)


def copy(x: Buffer, dtype: memory.dtype | None = None, layout: Sequence[int] | None = None) -> Buffer:
    """A new buffer with the elements of ``x``, cast to ``dtype``; dense as ``x`` is, or with strides ``layout``."""
    out = memory.empty(x.shape, dtype or x.dtype, x.device, strides.like(x) if layout is None else layout)
    return copy_into(out, x)


def contiguous(x: Buffer) -> Buffer:
    """``x`` itself if it is row-major, else a row-major copy."""
    return x if strides.is_contiguous(x) else copy(x, layout=strides.contiguous_strides(x.shape))


def channels_last(x: Buffer) -> Buffer:
    """A (N, C, H, W) buffer that lies as (N, H, W, C): ``x`` itself where it does, else a copy."""
    return x if strides.is_channels_last(x) else copy(x, layout=strides.channels_last_strides(x.shape))


def fill(out: Buffer, value: Scalar) -> Buffer:
    """``out[i] = value``.

    Raises:
        RuntimeError: if the dtype of ``out`` has no such number.
    """
    value = dtypes.stored(value, out.dtype)
    if out.dtype == memory.bool_:
        return apply(_identity, out, [int(value)], tl.int64, flops=0)
    return apply(_identity, out, [value], dtypes.compute_dtype(out.dtype), flops=0)


def full(shape: Sequence[int], value: Scalar, dtype: memory.dtype, device: memory.device) -> Buffer:
    """A new contiguous buffer with every element ``value``."""
    return fill(memory.empty(shape, dtype, device), value)
