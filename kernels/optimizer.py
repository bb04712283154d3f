"""One step of an optimiser on all parameters: one kernel, whose rule is a few lines of arithmetic.

    @triton.jit
    def _adagrad(p, g, total, b, c, lr, eps, r2, r3, r4, r5):
        total += g * g
        return p - lr.to(g.dtype) * g / (tl.sqrt(total) + eps.to(g.dtype)), total, b, c

    adagrad = Update("adagrad", _adagrad, states=1, flops=6)

A rule takes the parameter, its gradient, up to three states and six float64 numbers, and returns the parameter and the
states as they will be. What all optimisers share comes before it: the sign of the gradient, weight decay in either form, and
a factor for each tensor; and after it the copy in half precision that autocast takes. Many tensors go in one launch through
a table of addresses (see ``tables``): a parameter, its gradient and its states are walked as one flat block of memory, so
all need one dense layout, and what has another is copied first. Numbers arrive as the bits of float64, by value or in
device memory, so that a schedule compiles nothing and reaches a recorded launch.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl

from tinyflow.kernels import dtypes, memory, tables
from tinyflow.kernels.addressing import float_from_bits
from tinyflow.kernels.flat import Flat, Group, check_like_parameters
from tinyflow.kernels.indexing import index_select
from tinyflow.kernels.launch import Cost, cdiv, launch, nbytes
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.tables import pointers, tile

#: How many numbers a rule takes, and the two before them: coupled weight decay, and what decoupled decay leaves of p.
NUMBERS = 6
WORDS = NUMBERS + 2


@triton.jit(do_not_specialize=["w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"])
def _update_kernel(
    addresses_ptr,  # (rows, tensors): parameter, gradient, states, and half copy if any; number of elements
    chunks_ptr,  # (2, chunks): tensor, first element
    tensors,
    chunks,
    w0,
    w1,
    w2,
    w3,
    w4,
    w5,
    w6,
    w7,
    settings_ptr,  # (8,): the same eight in device memory, or None
    found_inf_ptr,  # a float32 that is not 0 where what there is stays, or None
    factors_ptr,  # what each tensor's gradient is multiplied by, or None
    factor_stride,
    RULE: tl.constexpr,
    STATES: tl.constexpr,
    FRESH: tl.constexpr,  # how many of the last states hold nothing yet
    MOVES: tl.constexpr,  # whether the parameter changes
    DECAY: tl.constexpr,
    SHRINK: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    HALF: tl.constexpr,  # dtype of the half copies, or None
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    if settings_ptr is not None:
        w0 = tl.load(settings_ptr)
        w1 = tl.load(settings_ptr + 1)
        w2 = tl.load(settings_ptr + 2)
        w3 = tl.load(settings_ptr + 3)
        w4 = tl.load(settings_ptr + 4)
        w5 = tl.load(settings_ptr + 5)
        w6 = tl.load(settings_ptr + 6)
        w7 = tl.load(settings_ptr + 7)
    chunk = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    rows: tl.constexpr = 2 + STATES + (HALF is not None)
    tensor, start, listed, lane, mask = tile(chunk, chunks_ptr, chunks, addresses_ptr, rows, tensors, BLOCK)
    changed = mask
    if found_inf_ptr is not None:
        changed = mask & (tl.load(found_inf_ptr) == 0)

    p_ptr = pointers(addresses_ptr, 0, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
    g_ptr = pointers(addresses_ptr, 1, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
    p = tl.load(p_ptr, mask=mask, other=0).to(COMPUTE)
    g = tl.load(g_ptr, mask=mask, other=0).to(COMPUTE)
    a = g
    b = g
    c = g
    if STATES > 0:
        a_ptr = pointers(addresses_ptr, 2, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
        if STATES - FRESH > 0:
            a = tl.load(a_ptr, mask=mask, other=0).to(COMPUTE)
    if STATES > 1:
        b_ptr = pointers(addresses_ptr, 3, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
        if STATES - FRESH > 1:
            b = tl.load(b_ptr, mask=mask, other=0).to(COMPUTE)
    if STATES > 2:
        c_ptr = pointers(addresses_ptr, 4, tensors, tensor, listed, start, lane, DTYPE, ALIGN)
        if STATES - FRESH > 2:
            c = tl.load(c_ptr, mask=mask, other=0).to(COMPUTE)

    before = p
    if MAXIMIZE:
        g = -g
    if DECAY:
        g += float_from_bits(w0).to(COMPUTE) * p
    if factors_ptr is not None:
        g *= tl.load(factors_ptr + tensor * factor_stride, mask=listed, other=0).to(COMPUTE)[:, None]
    if SHRINK:
        p *= float_from_bits(w1).to(COMPUTE)
    p, a, b, c = RULE(
        p,
        g,
        a,
        b,
        c,
        float_from_bits(w2),
        float_from_bits(w3),
        float_from_bits(w4),
        float_from_bits(w5),
        float_from_bits(w6),
        float_from_bits(w7),
    )
    if MOVES:
        tl.store(p_ptr, p.to(DTYPE), mask=changed)
    if STATES > 0:
        tl.store(a_ptr, a.to(DTYPE), mask=changed if STATES - FRESH > 0 else mask)
    if STATES > 1:
        tl.store(b_ptr, b.to(DTYPE), mask=changed if STATES - FRESH > 1 else mask)
    if STATES > 2:
        tl.store(c_ptr, c.to(DTYPE), mask=changed if STATES - FRESH > 2 else mask)
    if HALF is not None:
        if found_inf_ptr is not None:
            p = tl.where(changed, p, before)  # a step that is left out copies what there is
        copied = tl.load(addresses_ptr + (2 + STATES) * tensors + tensor, mask=listed, other=0) != 0
        half_ptr = pointers(addresses_ptr, 2 + STATES, tensors, tensor, listed, start, lane, HALF, ALIGN)
        tl.store(half_ptr, p.to(DTYPE).to(HALF), mask=mask & copied[:, None])


configs = tables.configs("_update_kernel", 2048)


def words(decay: float, shrink: float, numbers: Sequence[float]) -> tuple[int, ...]:
    """What an update reads in place of values: the bits of weight decay, of the factor for p, and of the rule's numbers."""
    values = (decay, shrink, *numbers, *[0.0] * (NUMBERS - len(numbers)))
    return struct.unpack(f"{WORDS}q", struct.pack(f"{WORDS}d", *values))


@dataclass(frozen=True, eq=False)
class Update:
    """A rule as a launcher that changes parameters and states in place.

    The last ``fresh`` states are results, written without having been read; without ``moves`` the parameter stays.

    Floating-point dtypes; half precision computes in float32. FLOPs: ``flops`` an element, and two for each form of decay.
    Bytes: parameter and states read and written, gradient read once, half copies written once; tables of addresses and
    chunks.
    """

    name: str
    rule: Any
    states: int
    flops: int
    fresh: int = 0
    moves: bool = True

    def __call__(
        self,
        params: Sequence[Buffer],
        grads: Sequence[Buffer],
        states: Sequence[Sequence[Buffer]],
        numbers: Sequence[float],
        *,
        decay: float = 0.0,
        shrink: float = 1.0,
        maximize: bool = False,
        factors: Buffer | None = None,
        settings: Buffer | None = None,
        found_inf: Buffer | None = None,
        half_copies: Sequence[Buffer | None] | None = None,
    ) -> None:
        """One step.

        Args:
            params, grads: of one shape, dtype and device each, any strides.
            states: for each of the rule's states a buffer like each parameter.
            numbers: the rule's, at most six.
            decay: the gradient is ``g + decay · p``.
            shrink: the parameter is first multiplied by it.
            maximize: the gradient is ``-g``.
            factors: for each parameter what its gradient (decay included) is multiplied by, (parameters,) or ().
            settings: eight int64 on the device, see :func:`words`, in place of values.
            found_inf: a float32 on the device; where it is not 0, nothing is written but half copies and what is fresh.
            half_copies: for each parameter a buffer of its shape, all of one half precision, that gets the new value too;
                or None.

        Raises:
            ValueError: if there are not as many gradients, states, factors or half copies as the rule and the parameters
                want.
            RuntimeError: if shapes, dtypes or devices differ.
            TypeError: for parameters that are not floating point.
        """
        self._check(params, grads, states, factors)
        half = self._check_half_copies(params, half_copies)
        flat = Flat()
        recorded = settings is not None  # what is 0 or 1 now may be something else at a replay
        bits = (0,) * WORDS if recorded else words(decay, shrink, numbers)
        shared = {"DECAY": recorded or decay != 0, "SHRINK": recorded or shrink != 1, "MAXIMIZE": maximize}
        copies = () if half is None or half_copies is None else (half_copies,)
        for group in flat.groups(params, grads, [*states, *copies]):
            self._launch(group, bits, settings, found_inf, _factors_of(factors, group.places), half, shared)
        flat.finish()

    def _check(
        self,
        params: Sequence[Buffer],
        grads: Sequence[Buffer],
        states: Sequence[Sequence[Buffer]],
        factors: Buffer | None,
    ) -> None:
        if len(states) != self.states or any(len(s) != len(params) for s in (grads, *states)):
            raise ValueError(
                f"{self.name}: expected {self.states} states, and gradients and states for {len(params)} parameters, "
                f"got {len(grads)} gradients and states {[len(s) for s in states]}"
            )
        if factors is not None and tuple(factors.shape) not in ((), (len(params),)):
            raise ValueError(
                f"{self.name}: expected factors of shape () or ({len(params)},), got {tuple(factors.shape)}"
            )
        for name, others in (("gradient", grads), *((f"state {n}", s) for n, s in enumerate(states))):
            check_like_parameters(self.name, name, params, others)
        for k, p in enumerate(params):
            dtypes.check_floating(self.name, **{f"parameter {k}": p})

    def _check_half_copies(
        self, params: Sequence[Buffer], half_copies: Sequence[Buffer | None] | None
    ) -> memory.dtype | None:
        """The dtype of the half copies, or None without any."""
        if half_copies is None:
            return None
        if len(half_copies) != len(params):
            raise ValueError(
                f"{self.name}: expected a half copy or None for each of {len(params)} parameters, got {len(half_copies)}"
            )
        found: memory.dtype | None = None
        for k, (p, x) in enumerate(zip(params, half_copies)):
            if x is None:
                continue
            found = found or x.dtype
            if (x.shape, x.device) != (p.shape, p.device) or x.dtype != found or found.itemsize != 2:
                raise RuntimeError(
                    f"{self.name}: expected the half copy of parameter {k} to be {tuple(p.shape)} in one half precision on "
                    f"{p.device}, got {tuple(x.shape)} {x.dtype} on {x.device}"
                )
        return found

    def _launch(
        self,
        group: Group,
        bits: Sequence[int],
        settings: Buffer | None,
        found_inf: Buffer | None,
        factors: Buffer | None,
        half: memory.dtype | None,
        shared: dict[str, bool],
    ) -> None:
        sizes = tuple(group.sizes)
        config = configs(group.dtype, sizes=sizes)
        chunks = tables.chunks(sizes, config.blocks["BLOCK"], group.device)
        addresses, aligned = tables.addresses(group.members, 3 + self.states + (half is not None), group.device)
        copies = [] if half is None else [m[-1] for m in group.members]
        elements = sum(sizes)
        flops = self.flops + 2 * shared["DECAY"] + shared["SHRINK"] + (factors is not None)
        moved = (2 + self.moves + 2 * self.states - self.fresh) * elements * group.dtype.itemsize
        launch(
            _update_kernel,
            (cdiv(chunks.shape[1], config.blocks["CHUNKS"]),),
            addresses,
            chunks,
            len(sizes),
            chunks.shape[1],
            *bits,
            settings,
            found_inf,
            factors,
            factors.stride(0) if factors is not None and factors.dim() else 0,
            config=config,
            cost=Cost(flops * elements, moved + nbytes(addresses, chunks, *copies)),
            device=group.device,
            RULE=self.rule,
            STATES=self.states,
            FRESH=self.fresh,
            MOVES=self.moves,
            HALF=None if half is None else dtypes.triton_dtype(half),
            DTYPE=dtypes.triton_dtype(group.dtype),
            COMPUTE=dtypes.compute_dtype(group.dtype),
            ALIGN=aligned,  # chunks are whole vectors
            **shared,
        )


def _factors_of(factors: Buffer | None, members: Sequence[int]) -> Buffer | None:
    """The factors of some of the tensors: all of them, a run of them, or those gathered."""
    if factors is None or factors.dim() == 0:
        return factors
    if list(members) == list(range(members[0], members[-1] + 1)):
        step = int(factors.stride(0))
        return memory.as_strided(factors, (len(members),), (step,), int(factors.storage_offset()) + members[0] * step)
    return index_select(factors, 0, memory.upload(np.array(members, np.int64), factors.device))
