"""Random tensors, in-place draws, and dropout. A draw takes the next counters of a generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.kernels import memory
from tinyflow.kernels import random as kernels
from tinyflow.kernels.memory import Buffer
from tinyflow.kernels.random import Seed
from tinyflow.ops.counting import searchsorted
from tinyflow.ops.creation import Device, empty, empty_like, size_of
from tinyflow.ops.define import Op, define
from tinyflow.ops.sorting import topk
from tinyflow.random import Generator, default_generator
from tinyflow.recording import may_read
from tinyflow.tensor import Tensor

METHODS = [
    "uniform_", "normal_", "exponential_", "bernoulli", "bernoulli_", "random_", "log_normal_", "cauchy_", "geometric_",
    "multinomial",
]  # fmt: skip
__all__ = [
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli",
    "multinomial",
]  # fmt: skip

FUNCTIONAL = ["dropout"]


def _reserve(numel: int, generator: Generator | None) -> tuple[Seed, int]:
    return (generator or default_generator).reserve(kernels.counters(numel))


def _draw_op(name: str, draw: Callable[..., Buffer]) -> Op:
    """``draw(out, seed, offset, a, b)`` as an operation that overwrites a tensor."""

    def launcher(self: Buffer, seed: Seed, offset: int, a: Any, b: Any, *, out: Buffer | None = None) -> Buffer:
        assert out is not None
        return draw(out, seed, offset, a, b)

    return define(launcher, name=name, self=lambda g: g * 0)


_uniform = _draw_op("uniform", kernels.uniform)
_normal = _draw_op("normal", kernels.normal)
_exponential = _draw_op("exponential", lambda out, seed, offset, rate, _: kernels.exponential(out, seed, offset, rate))
_bernoulli = _draw_op("bernoulli", lambda out, seed, offset, p, _: kernels.bernoulli(out, seed, offset, p))
_log_normal = _draw_op("log_normal", kernels.log_normal)
_cauchy = _draw_op("cauchy", kernels.cauchy)
_geometric = _draw_op("geometric", lambda out, seed, offset, p, _: kernels.geometric(out, seed, offset, p))
_integers = _draw_op("random", kernels.integers)

_dropout: Op = define(kernels.dropout, x=lambda g, p, seed, offset: _dropout(g, p, seed, offset))

# ---- in place ------------------------------------------------------------------------------------------------------


def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fills the tensor with numbers uniform on [a, b)."""
    return _uniform.inplace(self, *_reserve(self.numel(), generator), a, b)


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fills the tensor with normally distributed numbers."""
    return _normal.inplace(self, *_reserve(self.numel(), generator), mean, std)


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fills the tensor with exponentially distributed numbers of rate ``lambd``."""
    return _exponential.inplace(self, *_reserve(self.numel(), generator), lambd, None)


def log_normal_(self: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None) -> Tensor:
    """Fills the tensor with numbers whose logarithm is normally distributed."""
    return _log_normal.inplace(self, *_reserve(self.numel(), generator), mean, std)


def cauchy_(self: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fills the tensor with numbers of Cauchy's distribution."""
    return _cauchy.inplace(self, *_reserve(self.numel(), generator), median, sigma)


def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """Fills the tensor with the numbers of trials up to the first success, each of probability ``p``.

    Raises:
        RuntimeError: if ``p`` is not in (0, 1).
        NotImplementedError: for bools.
    """
    return _geometric.inplace(self, *_reserve(self.numel(), generator), p, None)


def bernoulli_(self: Tensor, p: float | Tensor = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fills the tensor with 1 with probability ``p`` (a number, or a tensor that broadcasts), else 0."""
    if isinstance(p, Tensor):
        return self.copy_(bernoulli(p.expand(self.shape), generator=generator))
    return _bernoulli.inplace(self, *_reserve(self.numel(), generator), p, None)


def random_(
    self: Tensor, from_: int | None = None, to: int | None = None, *, generator: Generator | None = None
) -> Tensor:
    """Fills the tensor with integers uniform on [from_, to); ``random_(to)`` counts from 0.

    Without either up to the greatest value of an integer dtype, or as far as a floating-point dtype has every integer.

    Raises:
        RuntimeError: if ``from_ >= to``, or the dtype does not hold them.
    """
    if to is None:
        from_, to = 0, _integers_of(self.dtype) if from_ is None else from_
    return random_between(self, from_ or 0, to, generator)


def _integers_of(dtype: memory.dtype) -> int:
    if dtype == memory.bool_:
        return 2
    if not dtype.is_floating_point:
        return memory.iinfo(dtype).max + 1
    return round(2 / memory.finfo(dtype).eps) + 1


# ---- new tensors ---------------------------------------------------------------------------------------------------


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers uniform on [0, 1)."""
    return uniform_(empty(*size, dtype=dtype, device=device), generator=generator).requires_grad_(requires_grad)


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers of the standard normal distribution."""
    return normal_(empty(*size, dtype=dtype, device=device), generator=generator).requires_grad_(requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Sequence[int] | None = None,
    *,
    generator: Generator | None = None,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """``randint(low, high, size)`` or ``randint(high, size)``: integers uniform on [low, high), int64 unless said.

    Raises:
        TypeError: if no size is given.
    """
    if size is None:
        if not isinstance(high, (tuple, list)):
            raise TypeError(f"randint(): expected a size, as in randint(high, (2, 3)), got {(low, high)}")
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    out = empty(size_of("randint", (tuple(size),)), dtype=dtype or memory.int64, device=device)
    return random_between(out, low, high, generator).requires_grad_(requires_grad)


def random_between(out: Tensor, low: int, high: int, generator: Generator | None) -> Tensor:
    """Fills a tensor with integers uniform on [low, high)."""
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    if not out.dtype.is_floating_point:
        least = 0 if out.dtype == memory.bool_ else memory.iinfo(out.dtype).min
        if low < least or high > _integers_of(out.dtype):
            raise RuntimeError(f"random_: 'from' {low} or 'to' - 1 {high - 1} is out of bounds for {out.dtype}")
    return _integers.inplace(out, *_reserve(out.numel(), generator), low, high)


def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers 0 … n−1 in random order, int64 unless said.

    Raises:
        RuntimeError: if ``n`` is negative, or the dtype does not hold n - 1.
    """
    if n < 0:
        raise RuntimeError(f"randperm: n must be non-negative, got {n}")
    if dtype is not None and n > _integers_of(dtype):
        raise RuntimeError(f"randperm: expected a dtype that holds {n - 1}, got {dtype}")
    order = Tensor(kernels.permutation(n, memory.as_device(device), *_reserve(n, generator)))
    result = order if dtype is None else order.to(dtype)
    return result.requires_grad_(requires_grad)


def rand_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers uniform on [0, 1) in the shape, dtype, device and memory order of ``input``."""
    return uniform_(empty_like(input, dtype=dtype, device=device), generator=generator).requires_grad_(requires_grad)


def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal numbers in the shape, dtype, device and memory order of ``input``."""
    return normal_(empty_like(input, dtype=dtype, device=device), generator=generator).requires_grad_(requires_grad)


def randint_like(
    input: Tensor,
    low: int,
    high: int | None = None,
    *,
    generator: Generator | None = None,
    dtype: memory.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers uniform on [low, high), or [0, low), in the shape, dtype, device and memory order of ``input``."""
    if high is None:
        low, high = 0, low
    out = empty_like(input, dtype=dtype, device=device)
    return random_between(out, low, high, generator).requires_grad_(requires_grad)


def normal(
    mean: float | Tensor,
    std: float | Tensor = 1.0,
    size: Sequence[int] | None = None,
    *,
    generator: Generator | None = None,
    dtype: memory.dtype | None = None,
    device: Device = None,
) -> Tensor:
    """Normally distributed numbers: of one mean and standard deviation in ``size``, or of a tensor of either.

    Raises:
        TypeError: for tensors beside a size, or neither.
        RuntimeError: for a negative standard deviation; in a tensor it is found on the CPU only.
    """
    if size is not None:
        if isinstance(mean, Tensor) or isinstance(std, Tensor):
            raise TypeError("normal(): expected numbers as mean and std where a size is given")
        return normal_(empty(tuple(size), dtype=dtype, device=device), mean, std, generator=generator)
    if isinstance(std, Tensor):
        if may_read(std) and bool((std < 0).any()):
            raise RuntimeError("normal expects all elements of std >= 0.0, got one below")
    elif std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, got {std}")
    with no_grad():
        like: Any = mean + std * 0
        if not isinstance(like, Tensor):
            raise TypeError("normal(): expected a tensor as mean or std, or a size")
        return mean + std * randn_like(like, generator=generator)


def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that ``input`` has in that place (or with probability ``p``), else 0, in its dtype."""
    if p is not None:
        return bernoulli_(empty_like(input), p, generator=generator)
    if not input.dtype.is_floating_point:
        raise RuntimeError(f"bernoulli: expected floating-point probabilities, got {input.dtype}")
    with no_grad():
        if may_read(input) and not bool(((input >= 0) & (input <= 1)).all()):
            raise RuntimeError("bernoulli: expected all elements of input to be between 0 and 1")
        chance = rand_like(input, dtype=memory.float32 if input.dtype != memory.float64 else None, generator=generator)
        return (chance < input).to(input.dtype)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Positions drawn with probabilities proportional to ``input``, int64.

    Without replacement the largest of ``input / e`` with e exponentially distributed, which fall in that order; with it,
    where uniform numbers fall among the sums of ``input``.

    Args:
        input: weights, not negative, (K,) or (N, K).
        num_samples: how many of each row.
        replacement: whether a position may be drawn again.

    Returns:
        (num_samples,) or (N, num_samples).

    Raises:
        RuntimeError: for another shape or dtype, fewer weights than draws without replacement, or, on the CPU, for weights
            that are negative, not finite, or all 0.
    """
    if input.dim() not in (1, 2) or not input.dtype.is_floating_point:
        raise RuntimeError(
            f"multinomial: expected floating-point weights (K,) or (N, K), got {tuple(input.shape)} {input.dtype}"
        )
    if num_samples <= 0:
        raise RuntimeError(f"multinomial: expected num_samples > 0, got {num_samples}")
    if not replacement and num_samples > input.shape[-1]:
        raise RuntimeError(
            f"multinomial: cannot draw {num_samples} samples without replacement from {input.shape[-1]} weights"
        )
    with no_grad():
        weights = input.to(memory.float64 if input.dtype == memory.float64 else memory.float32)
        if may_read(input):
            _check_weights(weights)
        if replacement:
            sums = weights.cumsum(-1)
            total = sums[..., -1:]
            shape = (*input.shape[:-1], num_samples)
            at = uniform_(empty(shape, dtype=weights.dtype, device=input.device), generator=generator) * total
            return searchsorted(sums, at, right=True).clamp(max=input.shape[-1] - 1)
        keys = weights / exponential_(empty_like(weights), generator=generator)
        return topk(keys, num_samples, -1)[1]


def _check_weights(weights: Tensor) -> None:
    if not bool(((weights >= 0) & (weights < math.inf)).all()):
        raise RuntimeError("multinomial: expected weights that are finite and not negative")
    if not bool((weights.sum(-1) > 0).all()):
        raise RuntimeError("multinomial: expected weights with a positive sum in every row")


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Zeros with probability ``p``, and the rest divided by ``1 − p``; ``input`` itself where not training.

    Raises:
        ValueError: if ``p`` is not a probability.
    """
    if not 0 <= p <= 1 or math.isnan(p):
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    draw = (float(p), *_reserve(input.numel(), generator))
    return _dropout.inplace(input, *draw) if inplace else _dropout(input, *draw)
