"""Searches a kernel's configurations: each is proved alone before it is timed, and the fastest that is right wins.

A :class:`Call` is a launcher with its arguments. It is run with every candidate on fresh copies of them, its new memory
filled with NaN, so that a candidate which leaves something out is seen, and cannot hide behind the right results of the
one before. What it returns and what it changed must agree with the same call in float64, whose configuration is not the
candidate.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyflow.kernels import arithmetic, dtypes, elementwise, hardware, memory, random, reduction, strides
from tinyflow.kernels.configs import Config, Configs, observed, planned_for_gpu
from tinyflow.kernels.memory import Buffer

#: Bytes that are moved between two timed calls, more than any cache holds.
_FLUSH = 1 << 28

#: float32 products may round their factors to TF32.
_LEAST_TOLERANCE = 2.0**-9


#: Shares of elements that may be another value for the rounding of what they are decided by.
_FLIPPED, _TIED = 1e-4, 0.1


@dataclass(frozen=True)
class Call:
    """A launcher with its arguments; buffers may stand in lists."""

    launcher: Callable[..., Any]
    args: tuple[Any, ...]
    named: Mapping[str, Any]

    def __call__(self) -> Any:
        return self.launcher(*self.args, **self.named)

    def each(self, change: Callable[[Buffer], Buffer]) -> Call:
        """The call with other buffers."""
        args = tuple(_each(value, change) for value in self.args)
        return Call(self.launcher, args, {name: _each(value, change) for name, value in self.named.items()})

    @property
    def label(self) -> str:
        """The launcher and its arguments in words; equal for calls that do the same work."""
        values = [_words(value) for value in (*self.args, *self.named.values())]
        return f"{getattr(self.launcher, '__name__', 'launcher')}({', '.join(values)})"


@dataclass(frozen=True)
class Trial:
    """What became of one candidate: its time in seconds, or what was wrong with it."""

    config: Config
    seconds: float | None
    wrong: str | None = None


@dataclass(frozen=True)
class Problem:
    """One entry of a table to be found."""

    configs: Configs
    problem: str
    call: Call


def _each(value: Any, change: Callable[[Buffer], Buffer]) -> Any:
    if isinstance(value, Buffer):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_each(v, change) for v in value)
    return value


def _words(value: Any) -> str:
    if isinstance(value, Buffer):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{list(value.stride())}"
    if type(value) in (list, tuple):
        return f"[{', '.join(map(_words, value))}]"
    return str(value)


def problems(calls: Sequence[Call], device: memory.device, kernel: str | None = None) -> list[Problem]:
    """What a device would have to choose in calls on ``meta`` buffers, each once: where there is more than one candidate."""
    found: dict[tuple[str, str], Problem] = {}
    for call in calls:

        def note(configs: Configs, problem: str, call: Call = call) -> None:
            several = len(configs.shipped_for(hardware.capability(device))) > 1
            if several and kernel in (None, configs.kernel):
                found.setdefault((configs.kernel, problem), Problem(configs, problem, call))

        like_the_device = hardware.assumed(hardware.capability(device), hardware.multiprocessors(device))
        with observed(note), planned_for_gpu(), like_the_device:
            call()
    return list(found.values())


def with_numbers(call: Call, device: memory.device) -> Call:
    """The call on random buffers of the same shapes, strides and dtypes; integers are 0, which every index may be."""
    seed = 0

    def fill(x: Buffer) -> Buffer:
        nonlocal seed
        seed += 1
        made = memory.empty(x.shape, x.dtype, device, x.stride() if memory.is_dense(x) else strides.like(x))
        if x.dtype not in dtypes.FLOATING:
            return elementwise.fill(made, 0)
        # what has one dimension may be a variance or a divisor
        drawn = random.uniform(made, seed, 0) if x.dim() < 2 else random.normal(made, seed, 0)
        return drawn if x.stride() == drawn.stride() else _restrided(drawn, x)

    return call.each(fill)


def _restrided(drawn: Buffer, like: Buffer) -> Buffer:
    """Numbers under the strides of ``like``, which leave gaps or repeat elements."""
    whole = elementwise.full((memory.extent(like),), 0.5, like.dtype, drawn.device)
    view = memory.as_strided(whole, like.shape, like.stride(), 0)
    return view if 0 in like.stride() else elementwise.copy_into(view, drawn)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fills memory that is allocated in a block with NaN, or with the largest integer, past every kernel of ours."""

    def fill(x: Buffer) -> None:
        if x.numel() == 0 or x.device.type == "meta" or not memory.is_dense(x):
            return
        pattern = memory.from_bytes(_poison(x.dtype) * x.numel(), x.dtype, (x.numel(),))
        flat = memory.as_strided(x, (x.numel(),), (1,))
        memory.copy_bytes(flat, pattern)

    memory.allocation_hooks.append(fill)
    try:
        yield
    finally:
        memory.allocation_hooks.remove(fill)


def _poison(dtype: memory.dtype) -> bytes:
    """One element that no kernel gives by chance: a NaN in every floating-point format."""
    if dtype == memory.bool_:
        return b"\x01"
    return b"\xff" * (dtype.itemsize - 1) + b"\x7f"


def _outcome(call: Call) -> list[Buffer]:
    """Runs a call; returns all buffers that it gave, and all that it was given, which it may have changed."""
    found: list[Buffer] = []

    def keep(x: Buffer) -> Buffer:
        found.append(x)
        return x

    _each([call()], keep)
    call.each(keep)
    return found


def reference(call: Call) -> list[Buffer]:
    """The outcome in float64."""
    wide = call.each(lambda x: elementwise.copy(x, memory.float64 if x.dtype in dtypes.FLOATING else x.dtype))
    return [_widened(x) for x in _outcome(wide)]


def _widened(x: Buffer) -> Buffer:
    return elementwise.copy(x, memory.float64, strides.contiguous_strides(x.shape))


def _numbers(x: Buffer) -> np.ndarray:
    return memory.to_numpy(memory.to_host(_widened(x)))


def _tolerance(found: Sequence[Buffer]) -> float:
    """Relative, of all that a call gives: what is kept in float32 may come from what was rounded to half precision."""
    eps = [memory.finfo(x.dtype).eps for x in found if x.dtype in dtypes.FLOATING]
    return max([_LEAST_TOLERANCE, *(4 * e for e in eps)]) if eps else 0.0


def _agree(x: Buffer, right: Buffer, tolerance: float) -> bool:
    """Whether all elements are finite and as they should be, found on the device: what is large is slow to fetch."""
    if x.shape != right.shape or x.numel() == 0:
        return x.shape == right.shape
    error = arithmetic.sub(_widened(x), right)
    largest, size = (float(memory.item(reduction.norm(y, math.inf))) for y in (error, right))
    length, whole = (float(memory.item(reduction.norm(y))) for y in (error, right))
    if x.dtype not in dtypes.FLOATING:
        return largest == 0
    return math.isfinite(size) and largest <= tolerance * size and length <= tolerance / 2 * whole


def disagreement(found: Sequence[Buffer], expected: Sequence[Buffer]) -> str | None:
    """What is wrong with an outcome, in words; None if it agrees with the reference within its dtypes' rounding."""
    if len(found) != len(expected):
        return f"{len(found)} buffers instead of {len(expected)}"
    tolerance = _tolerance(found)
    pairs = (pair for pair in zip(found, expected) if not _agree(*pair, tolerance))
    return next((words for pair in pairs if (words := _difference(*pair, tolerance)) is not None), None)


def _difference(x: Buffer, expected: Buffer, tolerance: float) -> str | None:
    numbers, right = _numbers(x), _numbers(expected)
    if numbers.shape != right.shape:
        return f"shape {numbers.shape} instead of {right.shape}"
    if not np.array_equal(np.isfinite(numbers), np.isfinite(right)):
        return f"{int((~np.isfinite(numbers)).sum())} elements that are not finite"
    finite = np.isfinite(right)
    error = np.abs(numbers - right, where=finite, out=np.zeros_like(right))
    size = np.where(finite, right, 0.0)
    largest = float(np.abs(size).max())
    if x.dtype in dtypes.FLOATING:
        # a mask that is computed anew may turn where its argument is as good as 0
        wrong = (error > tolerance * largest).mean() > _FLIPPED or _rms(error) > tolerance / 2 * _rms(size)
    else:
        # the place of a maximum is another one where rounding makes equals
        in_range = float(size.min()) <= float(numbers.min()) and float(numbers.max()) <= float(size.max())
        wrong = not in_range or (error > 0).mean() > (_TIED if tolerance else 0.0)
    return f"off by {float(error.max()):.3g} where values reach {largest:.3g}" if wrong else None


def _rms(x: np.ndarray) -> float:
    return math.sqrt(float(np.square(x).mean()))


def candidates(configs: Configs, capability: hardware.Capability = (0, 0)) -> list[Config]:
    """All that a GPU's table may hold: what ships, and so was compiled for its kind and run on ragged shapes."""
    return list(configs.shipped_for(capability))


def search(problem: Problem, device: memory.device, rounds: int = 20) -> list[Trial]:
    """Tries every candidate on a problem, the fastest first and the wrong ones last."""
    call = with_numbers(problem.call, device)
    expected = reference(call)
    tried = candidates(problem.configs, hardware.capability(device))
    trials = [_try(problem.configs, call, config, expected, device, rounds) for config in tried]
    return sorted(trials, key=lambda t: math.inf if t.seconds is None else t.seconds)


def _try(
    configs: Configs, call: Call, config: Config, expected: Sequence[Buffer], device: memory.device, rounds: int
) -> Trial:
    try:
        fresh = call.each(lambda x: elementwise.copy(x, layout=x.stride()) if memory.is_dense(x) else x)
        with configs.forced(config), poisoned():
            found = _outcome(fresh)
        memory.synchronize(device)
    except Exception as error:
        # a candidate may not fit the device, or not compile there: that is an answer, not a failure of the search
        return Trial(config, None, f"{type(error).__name__}: {error}".splitlines()[0])
    wrong = disagreement(found, expected)  # not by the candidate: comparing launches kernels too
    if wrong is not None:
        return Trial(config, None, wrong)
    with configs.forced(config):
        return Trial(config, statistics.median(memory.timed(fresh, device, rounds, _FLUSH)))
