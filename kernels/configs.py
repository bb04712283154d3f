"""Which tiles and compiler options a kernel is launched with: a table measured on this GPU, else a heuristic."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tinyflow.kernels import environment, memory, tuned
from tinyflow.kernels.mode import INTERPRETING

#: ``TINYFLOW_LOG=launch`` prints each launch: its kernel, operands, configuration, and where that came from.
LOGGING = "launch" in environment.words("TINYFLOW_LOG", ("launch",))

#: Where a configuration came from: the launcher's own, the kernel's choice, a measured table, or a person.
OWN, HEURISTIC, TABLE, INTERPRETER, FORCED = "launcher", "heuristic", "table", "interpreter", "forced"


@dataclass(frozen=True)
class Config:
    """Tile sizes (by the name of their ``constexpr``) and compiler options of a launch."""

    blocks: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    source: str = field(default=OWN, compare=False)

    @functools.cached_property
    def key(self) -> tuple[Any, ...]:
        """What tells two configurations apart, to be looked up by."""
        return self.num_warps, self.num_stages, *self.blocks.items()

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """The compiler's options, all of them named."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}


class _State(threading.local):
    def __init__(self) -> None:
        self.gpu: str | None = None
        self.observers: list[Callable[[Configs, str], None]] = []


_state = _State()


@contextlib.contextmanager
def planned_for_gpu(name: str = "") -> Iterator[None]:
    """Chooses as on a GPU of that name, to count on the ``meta`` device what it would do."""
    before, _state.gpu = _state.gpu, name
    try:
        yield
    finally:
        _state.gpu = before


@contextlib.contextmanager
def observed(observer: Callable[[Configs, str], None]) -> Iterator[None]:
    """Tells ``observer`` of every choice: the kernel's configurations, and the class of the problem."""
    _state.observers.append(observer)
    try:
        yield
    finally:
        _state.observers.remove(observer)


def interpreting() -> bool:
    """True where launches are for the interpreter, not for a GPU, be it a planned one."""
    return INTERPRETING and _state.gpu is None


def problem_class(dtype: memory.dtype | None, problem: Mapping[str, Any]) -> str:
    """The name under which a table keeps a configuration: the dtype, and the problem with sizes rounded up to powers of two.

    >>> problem_class(torch.bfloat16, {"m": 4000, "n": 64})
    'bfloat16 m=4096 n=64'
    """
    name = "any" if dtype is None else str(dtype).removeprefix("torch.")
    return " ".join([name, *(f"{key}={_rounded(value)}" for key, value in problem.items())])


def _rounded(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "(" + ",".join(map(_rounded, value)) + ")"
    if type(value) is int and value > 0:
        return str(1 << (value - 1).bit_length())
    return str(value)


class _Table:
    """One kernel's part of a measured table; what a problem got is kept, since to name its class takes time."""

    def __init__(self, entries: Mapping[str, Config]) -> None:
        self.entries = entries
        self._found: dict[Any, Config | None] = {}

    def find(self, dtype: memory.dtype | None, problem: Mapping[str, Any]) -> Config | None:
        key = dtype, *problem.values()
        try:
            return self._found[key]
        except KeyError:
            if len(self._found) >= 4096:
                self._found.clear()
            found = self._found[key] = self.entries.get(problem_class(dtype, problem))
            return found


@dataclass
class Configs:
    """The configurations of one kernel.

    ``shipped`` are all that a GPU may get; ``choose`` picks one of them from the problem; ``interpreter`` makes one for
    the CPU interpreter, whose cost is per program and not per element. Both take the same keyword arguments. Where the
    GPU has a measured table, that goes before ``choose``; a table's entry counts only if it ships.

    ``instead`` has what ships for a major compute capability in place of ``shipped``, where compilers ask for it.

    ``float64`` has what operands of that dtype get in place of each of ``shipped``: tiles of as many elements would not fit
    registers.
    """

    kernel: str
    shipped: Sequence[Config]
    choose: Callable[..., Config]
    interpreter: Callable[..., Config]
    instead: Mapping[int, Sequence[Config]] = field(default_factory=dict)
    float64: Sequence[Config] = ()
    _forced: Config | None = field(default=None, init=False)
    _tables: dict[str, _Table] = field(default_factory=dict, init=False)  # by the GPU's name
    kept: dict[Any, Any] = field(default_factory=dict, init=False)  # what launchers worked out, see settled

    registry: ClassVar[dict[str, Configs]] = {}  # of every kernel, by its name

    def __post_init__(self) -> None:
        self.registry[self.kernel] = self

    def __call__(self, dtype: memory.dtype | None = None, /, **problem: Any) -> Config:
        """The configuration for a problem on operands of ``dtype``, which only a table asks for."""
        if _state.observers:
            for observer in _state.observers:
                observer(self, problem_class(dtype, problem))
        config, source = self._chosen(dtype, problem)
        return dataclasses.replace(config, source=source) if LOGGING else config

    def shipped_for(self, capability: tuple[int, int]) -> Sequence[Config]:
        """All that a GPU of this compute capability may get."""
        return [*self.instead.get(capability[0], self.shipped), *self.declared[len(self.shipped) :]]

    @functools.cached_property
    def declared(self) -> Sequence[Config]:
        """``shipped``, and what float64 gets besides."""
        return [*self.shipped, *(config for config in self.float64 if config not in self.shipped)]

    @property
    def settled(self) -> bool:
        """True where a problem gets the configuration that it got before, so that a launcher may look it up in ``kept``."""
        return self._forced is None and _state.gpu is None and not _state.observers and not LOGGING

    def keep(self, key: Any, plan: Any) -> None:
        """Keeps what a launcher worked out while :attr:`settled`; shapes that never come again do not fill memory."""
        if len(self.kept) >= 4096:
            self.kept.clear()
        self.kept[key] = plan

    def _chosen(self, dtype: memory.dtype | None, problem: Mapping[str, Any]) -> tuple[Config, str]:
        if self._forced is not None:
            return self._forced, FORCED
        if INTERPRETING and _state.gpu is None:
            return self.interpreter(**problem), INTERPRETER
        table = self._table(tuned.current_device() if _state.gpu is None else _state.gpu)
        found = table.find(dtype, problem) if table.entries else None
        if found is not None:
            return found, TABLE
        config = self.choose(**problem)
        if self.float64 and dtype == memory.float64:
            config = self.float64[self.shipped.index(config)]
        return config, HEURISTIC

    def _table(self, gpu: str) -> _Table:
        table = self._tables.get(gpu)
        if table is None:
            entries = tuned.load(gpu).get(self.kernel, {})
            measured = {p: Config(e["blocks"], e["num_warps"], e["num_stages"]) for p, e in entries.items()}
            ships = [*self.declared, *(config for configs in self.instead.values() for config in configs)]
            table = self._tables[gpu] = _Table({p: c for p, c in measured.items() if c in ships})
        return table

    def forget_tables(self) -> None:
        """Reads tables anew at the next launch."""
        self._tables.clear()
        self.kept.clear()

    @contextlib.contextmanager
    def forced(self, config: Config) -> Iterator[None]:
        """Launches with ``config`` whatever the problem, to test or to time that one alone."""
        before, self._forced = self._forced, config
        try:
            yield
        finally:
            self._forced = before
