"""Runs a kernel's programs, in an order drawn by a seed, with every access checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as stock

from tinyflow.kernels.interpreter import memory as loads
from tinyflow.kernels.interpreter.checks import bounds
from tinyflow.kernels.interpreter.checks.access import Access, access_of
from tinyflow.kernels.interpreter.checks.overflow import Overflow, overflow_report
from tinyflow.kernels.interpreter.checks.races import Races
from tinyflow.kernels.interpreter.checks.replay import Pass, find_difference
from tinyflow.kernels.interpreter.checks.report import Place, Program, StrictError, failure, here
from tinyflow.kernels.interpreter.checks.tensors import (
    ADDRESS_MASK,
    MOST_TENSORS,
    Region,
    Tensor,
    find_tensors,
    merge_regions,
    tagged,
    untag,
)
from tinyflow.kernels.interpreter.checks.written import Allocations
from tinyflow.kernels.interpreter.forms import Separable
from tinyflow.kernels.interpreter.handles import symbolic

_PATIENCE = 20_000


class Launch:
    """One launch of a kernel under the checks."""

    def __init__(
        self,
        kernel: Any,
        arguments: Mapping[str, Any],
        grid: Any,
        constexprs: frozenset[str],
        allocations: Allocations,
        seed: int | None,
    ) -> None:
        self.kernel = kernel
        self.name = kernel.__name__
        self.arguments = arguments
        self.constexprs = constexprs
        self.allocations = allocations
        self.seed = seed
        self.tensors = [
            Tensor.of(path, handle)
            for name, value in arguments.items()
            if name not in constexprs
            for path, handle in find_tensors(name, value)
        ]
        if len(self.tensors) > MOST_TENSORS:
            raise ValueError(
                f"{self.name}: the strict interpreter follows {MOST_TENSORS} tensors a launch, got {len(self.tensors)}"
            )
        self.regions = merge_regions(self.tensors)
        self.grid = self._grid_of(grid)
        self.program: Program = (0, 0, 0)
        self.number = 0
        self.checking = True
        self.replaying: Pass | None = None
        self.races = Races(int(np.prod(self.grid)), self.raising)
        self.overflows: list[Overflow] = []
        self.masked_places: dict[Any, tuple[str, Place | None]] = {}
        self._journal: list[tuple[np.ndarray, np.ndarray]] = []
        self._reached: dict[tuple[int, int], Region] = {}
        self._waiting: tuple[int | None, int] = (None, 0)

    # ---- the programs -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Runs every program, then looks again where masked lanes or wrapped integers may have mattered."""
        before = self._snapshot()
        self._run_programs()
        if self.masked_places or self.overflows:
            after, journal = self._snapshot(), self._journal
            outside = [(at, _read_bytes(at)) for at, _ in journal]
            try:
                self.checking = False
                self._look_again(before, journal)
            finally:
                self.checking = True
                self._restore(after)
                for at, values in outside:
                    _write_bytes(at, values)

    def forget(self) -> None:
        """Lets go of the arguments, whose memory its owners may want back: the checks refer to each other."""
        self.__dict__.clear()

    def _run_programs(self) -> None:
        self._journal = []
        arguments = {name: self._convert(name, value, iter(self._tags(name))) for name, value in self.arguments.items()}
        stock.interpreter_builder.set_grid_dim(*self.grid)
        function = self.kernel.rewrite()
        try:
            with np.errstate(all="ignore"):
                for program in self._order():
                    self.program = program
                    self.number = (program[0] * self.grid[1] + program[1]) * self.grid[2] + program[2]
                    self._waiting = (None, 0)
                    stock.interpreter_builder.set_grid_idx(*program)
                    function(**arguments)
                    loads.flush()
        except Exception as error:
            loads.flush()
            loads.release()  # the traceback keeps values alive, their memory may go
            found = _strict_cause(error)
            if found is None:
                raise
            raise found from None
        finally:
            loads.forget()

    def _order(self) -> Iterator[Program]:
        total = int(np.prod(self.grid))
        order = range(total) if self.seed is None else np.random.default_rng(self.seed).permutation(total).tolist()
        for number in order:
            rest, z = divmod(number, self.grid[2])
            yield (*divmod(rest, self.grid[1]), z)

    def _grid_of(self, grid: Any) -> Program:
        if callable(grid):
            grid = grid(
                {
                    name: value if name in self.constexprs else stock._implicit_cvt(value)
                    for name, value in self.arguments.items()
                }
            )
        sizes = tuple(int(n) for n in grid)
        if len(sizes) > 3:
            raise ValueError(f"{self.name}: expected a grid of at most 3 dimensions, got {sizes}")
        return sizes + (1,) * (3 - len(sizes))

    def _tags(self, name: str) -> list[int]:
        return [k for k, t in enumerate(self.tensors, 1) if t.name == name or t.name.startswith(f"{name}[")]

    def _convert(self, name: str, value: Any, tags: Iterator[int]) -> Any:
        if name in self.constexprs:
            return value
        if isinstance(value, tuple):
            return stock._tuple_create(value, [self._convert("", item, tags) for item in value])
        converted = stock._implicit_cvt(value)
        if isinstance(value, stock.TensorDescriptor):
            base = converted.handle.base
            converted.handle.base = _tag_pointer(base, next(tags))
        elif hasattr(value, "data_ptr"):
            converted = tl.tensor(_tag_pointer(converted.handle, next(tags)), converted.type)
        return converted

    # ---- memory before and after ----------------------------------------------------------------------------------

    def _snapshot(self) -> list[np.ndarray]:
        return [tensor.elements().copy() for tensor in self.tensors]

    def _restore(self, saved: list[np.ndarray]) -> None:
        for tensor, content in zip(self.tensors, saved):
            tensor.elements()[...] = content

    def _undo(self, journal: list[tuple[np.ndarray, np.ndarray]]) -> None:
        for at, values in reversed(journal):
            _write_bytes(at, values)

    def _look_again(self, before: list[np.ndarray], journal: list[tuple[np.ndarray, np.ndarray]]) -> None:
        def replay(a_pass: Pass) -> Pass:
            nonlocal journal
            self._undo(journal)
            self._restore(before)
            self.replaying = a_pass
            try:
                self._run_programs()
            except Exception as error:  # a different fate is a difference like any other
                a_pass.end(error)
            finally:
                journal, self.replaying = self._journal, None
            return a_pass

        error = find_difference(replay, self.masked_places, self.overflows, self.name, self.grid)
        self._undo(journal)
        if error is not None:
            raise error

    # ---- what the builder tells --------------------------------------------------------------------------------

    def access(self, kind: str, pointer: Any, mask: Any | None) -> Access:
        """Checks a memory operation that is about to run."""
        access = access_of(kind, pointer, mask, here(), self.program, self.number)
        self._watch_patience(access)
        if self.checking:
            self._check(access)
        if kind != "load" and not access.tag and (access.tags == 0).any():
            at = (access.addresses[access.tags == 0][:, None] + np.arange(access.size)).reshape(-1)
            self._journal.append((at, _read_bytes(at)))
        return access

    def _check(self, access: Access) -> None:
        ok = bounds.inside(access, self.tensors)
        if not ok.all():
            found = bounds.explain(access, ok, self.tensors)
            mine = [o for o in self.overflows if o.program == self.program]
            if mine:
                raise overflow_report(mine[-1], self.name, self.grid, [found["headline"].replace("this", "then a", 1)])
            raise self.raising(access, bounds.CHECK, **found)
        if not len(access.addresses):
            return
        name = self._namer(access)
        self.races.on_access(access, self._parts(access), name)
        self.allocations.on_access(access, self.raising, name, self.name)

    def _namer(self, access: Access) -> Callable[[int], str]:
        def name(address: int) -> str:
            tag = int(access.tags[int(np.flatnonzero(access.addresses == address)[0])])
            if tag == 0:
                return f"the address {address:#x}"
            tensor = self.tensors[tag - 1]
            return tensor.where(address - tensor.low)

        return name

    def _parts(self, access: Access) -> Iterator[tuple[Region, np.ndarray | slice]]:
        if access.tag:
            region = self.tensors[access.tag - 1].region
            if region is not None:
                yield region, slice(None)
            return
        found = np.zeros(access.tags.shape, np.bool_)
        for region in self.regions:
            inside = (access.addresses >= region.low) & (access.addresses < region.high)
            found |= inside
            if inside.any():
                yield region, np.flatnonzero(inside)
        while not found.all():
            region = self._region_of_allocation(int(access.addresses[~found].min()))
            if region is None:
                return
            inside = (access.addresses >= region.low) & (access.addresses < region.high)
            found |= inside
            yield region, np.flatnonzero(inside)

    def _region_of_allocation(self, address: int) -> Region | None:
        """Followed memory that the kernel reached through no argument, as by a table of pointers."""
        allocation = self.allocations.at(address)
        if allocation is None:
            return None
        key = (allocation.low, allocation.high)
        return self._reached.setdefault(key, Region(*key, allocation.tensor.itemsize))

    def _watch_patience(self, access: Access) -> None:
        """A program that waits for one that has not run yet would wait for ever."""
        address = int(access.addresses[0]) if len(access.addresses) == 1 and access.kind != "store" else None
        times = self._waiting[1] + 1 if address is not None and address == self._waiting[0] else 0
        self._waiting = (address, times)
        if times > _PATIENCE:
            raise self.raising(
                access,
                "endless-wait",
                f"this program read one address {_PATIENCE} times over, waiting for another program to change it",
                notes=[
                    "programs run one after another here, in an order drawn by the seed; a GPU promises no order either"
                ],
                help="do not wait for a program that may not have started; split the work into two launches",
            )

    def after_atomic(self, access: Access, semantic: Any) -> None:
        order = str(semantic).rsplit(".", 1)[-1].upper()
        if self.checking and order != "RELAXED":
            self.races.synchronise(access, "ACQUIRE" in order, "RELEASE" in order)

    def raising(self, access: Access, check: str, headline: str, **parts: Any) -> StrictError:
        """The error of a check on an access."""
        return failure(
            check, headline, kernel=self.name, place=access.place, program=access.program, grid=self.grid, **parts
        )


def _strict_cause(error: BaseException | None) -> StrictError | None:
    """The failed check under what Triton wraps around errors in device functions."""
    while error is not None and not isinstance(error, StrictError):
        error = error.__cause__
    return error


def _tag_pointer(handle: Any, tag: int) -> Any:
    address = int(np.asarray(handle.data).reshape(-1)[0])
    return type(handle)(np.array([tagged(address, tag)], np.uint64), handle.dtype)


def without_tags(pointer: Any) -> Any:
    """A handle of the same pointers, as memory knows them."""
    form = getattr(pointer, "_form", None)
    if type(form) is Separable:
        low, high = form.range()  # the tag may stand in a term as well as in the constant
        tag = low & ~int(ADDRESS_MASK)
        if high & ~int(ADDRESS_MASK) == tag:
            return symbolic(Separable(form.shape, form.constant - tag, form.terms, form.dtype), pointer.dtype)
    return type(pointer)(untag(np.asarray(pointer.data)), pointer.dtype)


def bind(kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """A launch's arguments by name, compiler options left out, and the names of its constexprs."""
    function = kernel.rewrite()
    parameters = inspect.signature(function).parameters
    named = inspect.getcallargs(function, *args, **{k: v for k, v in kwargs.items() if k in parameters})
    constexprs = stock.GridExecutor(function, kernel.arg_names, (1,), kernel.pre_run_hooks).constexprs
    return named, frozenset(constexprs)


def _read_bytes(at: np.ndarray) -> np.ndarray:
    pointers = at.astype(np.uint64)
    return stock._interpreter.load(
        pointers, np.ones(at.shape, np.bool_), np.zeros(at.shape, np.uint8), np.dtype(np.uint8)
    )


def _write_bytes(at: np.ndarray, values: np.ndarray) -> None:
    stock._interpreter.store(at.astype(np.uint64), np.asarray(values, np.uint8), np.ones(at.shape, np.bool_))
