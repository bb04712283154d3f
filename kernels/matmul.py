"""Matrix product with batches, any strides and an optional bias: ``out = a @ b + bias``.

A program computes a BLOCK_M × BLOCK_N tile of one product of the batch over a share of K, with float32 accumulation
(float64 for float64). Tiles of one group of rows run next to each other, so that their operands meet in the L2 cache.
Where the output has too few tiles for a GPU, K is split: each share writes a partial product to a workspace and a
second kernel adds them in a fixed order, so results are the same bits on every run.

Integers, which tensor cores do not take in full width, are multiplied and summed directly and wrap as in C.
"""

from __future__ import annotations

import functools
import math

import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, strides
from tinyflow.kernels.addressing import offsets
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
from tinyflow.kernels.precision import input_precision, tf32

INTEGERS = (memory.int64, memory.int32, memory.int16, memory.int8, memory.uint8)


@triton.jit
def _matmul_kernel(
    out_ptr,  # out[split, batch…, m, n]
    a_ptr,  # a[batch…, m, k]
    b_ptr,  # b[batch…, k, n]
    bias_ptr,  # bias[batch…, m, n]
    M,
    N,
    K,
    batch_sizes,
    out_strides,
    a_strides,
    b_strides,
    bias_strides,
    out_stride_split,
    HAS_BIAS: tl.constexpr,
    INTEGER: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    DIMS: tl.constexpr,  # of the batch
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    program = tl.program_id(0)
    tile = program % (tiles_m * tiles_n)
    program = program // (tiles_m * tiles_n)
    split = program % SPLIT_K
    batch = (program // SPLIT_K).to(INDEX)

    group = tile // (GROUP_M * tiles_n)
    within = tile % (GROUP_M * tiles_n)
    rows_in_group = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    tile_m = group * GROUP_M + within % rows_in_group
    tile_n = within // rows_in_group
    m = tile_m.to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
    n = tile_n.to(INDEX) * BLOCK_N + tl.arange(0, BLOCK_N).to(INDEX)
    m_exists = (m < M)[:, None]
    n_exists = (n < N)[None, :]

    a_rows = a_ptr + (offsets(batch, batch_sizes, a_strides, DIMS) + m * a_strides[DIMS])[:, None]
    b_columns = b_ptr + (offsets(batch, batch_sizes, b_strides, DIMS) + n * b_strides[DIMS + 1])[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    steps = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT_K)
    for step in range(steps):
        k = (split * steps + step).to(INDEX) * BLOCK_K + tl.arange(0, BLOCK_K).to(INDEX)
        a = tl.load(a_rows + (k * a_strides[DIMS + 1])[None, :], mask=m_exists & (k < K)[None, :], other=0)
        b = tl.load(b_columns + (k * b_strides[DIMS])[:, None], mask=(k < K)[:, None] & n_exists, other=0)
        if INTEGER:
            acc += tl.sum(a.to(ACC)[:, :, None] * b.to(ACC)[None, :, :], axis=1)
        else:
            acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)

    if HAS_BIAS:  # (the compiler takes this branch, the program the next)
        if split == 0:
            bias_rows = bias_ptr + (offsets(batch, batch_sizes, bias_strides, DIMS) + m * bias_strides[DIMS])[:, None]
            bias_ptrs = bias_rows + (n * bias_strides[DIMS + 1])[None, :]
            acc += tl.load(bias_ptrs, mask=m_exists & n_exists, other=0).to(ACC)
    out_at = offsets(batch, batch_sizes, out_strides, DIMS) + split.to(INDEX) * out_stride_split
    out_ptrs = out_ptr + (out_at + m * out_strides[DIMS])[:, None] + (n * out_strides[DIMS + 1])[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=m_exists & n_exists)


@triton.jit
def _sum_partials_kernel(
    out_ptr, partial_ptr, SIZE, COUNT, INDEX: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK).to(INDEX)
    part = tl.arange(0, PARTS).to(INDEX)
    acc = tl.zeros((PARTS, BLOCK), dtype=partial_ptr.dtype.element_ty)
    for first in range(0, COUNT, PARTS):
        mask = (first + part < COUNT)[:, None] & (i < SIZE)[None, :]
        acc += tl.load(partial_ptr + ((first + part) * SIZE)[:, None] + i[None, :], mask=mask, other=0)
    tl.store(out_ptr + i, tl.sum(acc, axis=0).to(out_ptr.dtype.element_ty), mask=i < SIZE)


def _tile(m: int, n: int, k: int, split: int = 1, warps: int = 4, stages: int = 3) -> Config:
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": 8, "SPLIT_K": split}
    return Config(blocks, num_warps=warps, num_stages=stages)


_LARGE, _MEDIUM, _SMALL = _tile(128, 128, 64, warps=8), _tile(64, 64, 64), _tile(32, 32, 64)
_ROWS, _COLUMNS = _tile(16, 64, 64), _tile(64, 16, 64)
_DEEP, _DEEP_SMALL = _tile(64, 64, 64, split=8), _tile(32, 32, 64, split=16)
_DEEP_FLOAT32 = _tile(64, 64, 32, split=8)  # whose factors fit registers where float32 has no tensor cores
_WIDE_TYPE, _WIDE_TYPE_DEEP = _tile(64, 64, 16, stages=2), _tile(32, 32, 32, split=8, stages=2)

#: Fewer programs than this leave a large GPU idle. One number for all devices: the split decides how results round.
_PROGRAMS = 256


def _choose(m: int, n: int, k: int, batch: int, itemsize: int) -> Config:
    def programs(config: Config) -> int:
        return cdiv(m, config.blocks["BLOCK_M"]) * cdiv(n, config.blocks["BLOCK_N"]) * batch

    if itemsize == 8:
        return _WIDE_TYPE if programs(_WIDE_TYPE) * 1024 >= k else _WIDE_TYPE_DEEP
    if k >= 2048 and programs(_MEDIUM) < _PROGRAMS // 2:
        if min(m, n) <= 32:
            return _DEEP_SMALL
        return _DEEP if itemsize == 2 else _DEEP_FLOAT32
    if m <= 16 or n <= 16:
        return _ROWS if m <= n else _COLUMNS
    if itemsize == 2 and programs(_LARGE) >= _PROGRAMS // 2:
        return _LARGE
    return _MEDIUM if programs(_MEDIUM) >= _PROGRAMS // 2 else _SMALL


def _interpreter(m: int, n: int, k: int, batch: int, itemsize: int) -> Config:
    bm, bn = max(block(m), 16), max(block(n), 16)
    while bm * bn > MAX_BLOCK:
        bm, bn = (bm // 2, bn) if bm >= bn else (bm, bn // 2)
    return _tile(bm, bn, max(block(k, MAX_BLOCK // max(bm, bn)), 16))


matmul_configs = Configs(
    "_matmul_kernel",
    (_LARGE, _MEDIUM, _SMALL, _ROWS, _COLUMNS, _DEEP, _DEEP_SMALL, _WIDE_TYPE, _WIDE_TYPE_DEEP, _DEEP_FLOAT32),
    _choose,
    _interpreter,
)

_INTEGER = _tile(32, 32, 8, stages=2)


def _interpreter_integer(m: int, n: int, k: int, batch: int, itemsize: int) -> Config:
    bm, bn = block(m, 256), block(n, 256)
    return _tile(bm, bn, block(k, MAX_BLOCK // (bm * bn)))


integer_matmul_configs = Configs("_matmul_kernel on integers", (_INTEGER,), lambda **_: _INTEGER, _interpreter_integer)

#: Many parts are a chain of loads unless several are on their way at a time.
_SUM_FEW, _SUM_MANY = Config({"PARTS": 4, "BLOCK": 512}), Config({"PARTS": 32, "BLOCK": 128})


def _interpreter_sum(size: int, count: int) -> Config:
    parts = block(count, 64)
    return Config({"PARTS": parts, "BLOCK": block(size, MAX_BLOCK // parts)})


sum_partials_configs = Configs(
    "_sum_partials_kernel",
    (_SUM_FEW, _SUM_MANY),
    lambda size, count: _SUM_MANY if count > 16 else _SUM_FEW,
    _interpreter_sum,
)


def sum_partials(partials: Buffer, out: Buffer) -> Buffer:
    """``out = partials.sum(0)`` in an order that depends on the shape alone, cast to ``out``'s dtype.

    Args:
        partials: (count, \\*shape), each part dense as ``out`` is, in the accumulation dtype.
        out: (\\*shape), dense.

    FLOPs: (count − 1)·numel. Bytes: each partial read and ``out`` written once.
    """
    size, count = out.numel(), partials.shape[0]
    config = sum_partials_configs(out.dtype, size=size, count=count)
    launch(
        _sum_partials_kernel,
        (cdiv(size, config.blocks["BLOCK"]),),
        out,
        partials,
        size,
        count,
        config=config,
        cost=Cost((count - 1) * size, nbytes(out, partials)),
        device=out.device,
        INDEX=offset_dtype(partials),
    )
    return out


def _check(a: Buffer, b: Buffer, bias: Buffer | None) -> tuple[int, ...]:
    """The shape of the product."""
    if a.dim() < 2 or b.dim() < 2:
        raise RuntimeError(
            f"matmul: expected operands of 2 or more dimensions, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if a.shape[-1] != b.shape[-2]:
        raise RuntimeError(
            f"matmul: expected b with {a.shape[-1]} rows for a of shape {tuple(a.shape)}, "
            f"got b of shape {tuple(b.shape)}"
        )
    if a.dtype in INTEGERS:
        if any(x is not None and x.dtype != a.dtype for x in (b, bias)):
            got = ", ".join(str(x.dtype) for x in (a, b, bias) if x is not None)
            raise RuntimeError(f"matmul: expected operands of one dtype, got {got}")
    else:
        dtypes.check_floating("matmul", a=a, b=b, bias=bias)
    batch = strides.broadcast_shapes("matmul", a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    if bias is not None and strides.broadcast_shapes("matmul", shape, bias.shape) != shape:
        raise RuntimeError(f"matmul: expected a bias that broadcasts to {shape}, got {tuple(bias.shape)}")
    return shape


#: The shape and the strides of an operand.
Layout = tuple[tuple[int, ...], tuple[int, ...]]


def _layout(x: Buffer) -> Layout:
    return tuple(x.shape), x.stride()


def _matrix_strides(x: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides by which an operand is read along the result's batch, 0 where it is broadcast, and along its own rows
    and columns."""
    sizes, steps = x
    lead = (0,) * (len(shape) - len(sizes))
    return *lead, *(0 if n == 1 else st for n, st in zip(sizes[:-2], steps)), *steps[-2:]


@functools.lru_cache(maxsize=1024)
def _walk(
    shape: tuple[int, ...], out: Layout, a: Layout, b: Layout, bias: Layout | None
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Sizes of the batch (one dimension at least) and, last, M; and how out, a, b, bias step through them, N or K last.

    Dimensions that all walk evenly are merged; the rows of a batch that shares ``b`` become one M.
    """
    views = [_matrix_strides(x, shape) for x in (out, a, b)]
    views.append((0,) * len(shape) if bias is None else strides.expanded_strides(*bias, shape))
    last = [v[-1] for v in views]
    rows = [v[-2] for v in views]
    if any(views[2][:-2]):
        sizes, walked = strides.coalesce(shape[:-2], *(v[:-2] for v in views))
        m = shape[-2]
    else:
        rows[2] = 0
        sizes, walked = strides.coalesce(shape[:-1], *((*v[:-2], row) for v, row in zip(views, rows)))
        m = sizes.pop() if sizes else 1
        rows = [w.pop() if w else 0 for w in walked]
        rows[2] = views[2][-2]
    if not sizes:
        sizes, walked = [1], [[0], [0], [0], [0]]
    return (*sizes, m), tuple([(*w, row, end) for w, row, end in zip(walked, rows, last)])


def matmul(
    a: Buffer,
    b: Buffer,
    bias: Buffer | None = None,
    allow_tf32: bool | None = None,
    dtype: memory.dtype | None = None,
) -> Buffer:
    """``out[…, m, n] = Σ_k a[…, m, k]·b[…, k, n] + bias[…, m, n]``, contiguous.

    Args:
        a: (\\*batch, M, K), any strides; so a transpose costs nothing.
        b: (\\*batch, K, N), any strides; the two batches broadcast.
        bias: broadcasts to the result, for example (N,) for a value per column.
        allow_tf32: lets a GPU round float32 factors to TF32; default: ``precision.tf32.matmul``.
        dtype: of the result; default: that of the operands.

    Dtypes: one of float64, float32, float16, bfloat16 for all, accumulated in float32 (float64 for float64) and rounded
    once; or one integer dtype, which wraps. K = 0 gives zeros, or the bias.

    Raises:
        RuntimeError: on operands with fewer than two dimensions, or whose shapes, dtypes or devices do not fit.
        TypeError: on bool.

    FLOPs: 2·batch·M·N·K. Bytes: ``a``, ``b``, ``bias`` read and the result written once.
    """
    device = check_same_device("matmul", a=a, b=b, bias=bias)
    shape = _check(a, b, bias)
    out = memory.empty(shape, dtype or a.dtype, device)
    if out.numel() == 0:
        return out
    (*batch_sizes, m), steps = _walk(
        shape, _layout(out), _layout(a), _layout(b), None if bias is None else _layout(bias)
    )
    n, k, batch = shape[-1], a.shape[-1], math.prod(batch_sizes)
    integer = a.dtype in INTEGERS
    configs = integer_matmul_configs if integer else matmul_configs
    config = configs(a.dtype, m=m, n=n, k=k, batch=batch, itemsize=a.element_size())
    split = config.blocks["SPLIT_K"]
    accumulator = dtypes.accumulate_dtype(a.dtype)
    target = out if split == 1 else memory.empty((split, *shape), accumulator, device)
    launch(
        _matmul_kernel,
        (cdiv(m, config.blocks["BLOCK_M"]) * cdiv(n, config.blocks["BLOCK_N"]) * split * batch,),
        target,
        a,
        b,
        bias,
        m,
        n,
        k,
        tuple(batch_sizes),
        *steps,
        out.numel(),
        config=config,
        cost=Cost(2 * out.numel() * k, nbytes(target, a, b, bias)),
        device=device,
        HAS_BIAS=bias is not None,
        INTEGER=integer,
        PRECISION=input_precision(a.dtype, tf32.matmul if allow_tf32 is None else allow_tf32),
        ACC=dtypes.triton_dtype(accumulator),
        INDEX=offset_dtype(target, a, b, bias),
        DIMS=len(batch_sizes),
    )
    return out if split == 1 else sum_partials(target, out)


def linear(x: Buffer, weight: Buffer, bias: Buffer | None = None) -> Buffer:
    """``x @ weight.T + bias`` by :func:`matmul`, for weight (N, K) of any strides."""
    (n, k), (stride_n, stride_k) = weight.shape, weight.stride()
    return matmul(x, memory.as_strided(weight, (k, n), (stride_k, stride_n)), bias)
