"""No two lanes write one address at once, and no program touches what another writes in the same launch.

Programs of a grid run in any order or together, so an address that one program writes and another reads or writes gives
a result that depends on luck. Atomics may share an address, and an acquiring atomic orders a program after those that
released the same address before it, as a counter that elects the last program does; what is so ordered is no race.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from tinyflow.kernels.interpreter.checks.access import READS, Access
from tinyflow.kernels.interpreter.checks.report import Place, StrictError
from tinyflow.kernels.interpreter.checks.tensors import Region

CHECK = "race"
_MOST_SYNCHRONISING_LANES = 64
#: A larger region keeps cells for the pages that are touched only: a view may reach across gigabytes.
_MOST_CELLS = 1 << 26
_PAGE_BITS = 12

_PAST = {"load": "read", "store": "wrote", "atomic": "updated"}

Raise = Callable[..., StrictError]
Name = Callable[[int], str]


@dataclass
class _Event:
    kind: str
    program: tuple[int, ...]
    number: int
    place: Place | None


@dataclass
class _Shadow:
    """For each cell of a region the events that last touched it: a write, and reads by two different programs."""

    region: Region
    unit: int
    writer: np.ndarray
    reader: np.ndarray
    other_reader: np.ndarray
    scratch: np.ndarray
    #: the place of each page's cells, where only touched pages have any
    pages: dict[int, int] | None = None

    @classmethod
    def of(cls, region: Region, programs: int) -> _Shadow:
        """One program cannot race with another: then only the scratch, which needs no content, has cells."""
        cells = -(-(region.high - region.low) // region.unit)
        if cells > _MOST_CELLS:
            none = np.zeros(0, np.int32)
            return cls(region, 1, none, none, none, none, pages={})
        events = cells if programs > 1 else 0
        writer, reader, other_reader = (np.zeros(events, np.int32) for _ in range(3))
        return cls(region, region.unit, writer, reader, other_reader, np.empty(cells, np.int32))

    def refine(self, unit: int) -> None:
        """Makes the cells small enough for accesses of ``unit`` bytes."""
        factor = self.unit // unit
        for name in ("writer", "reader", "other_reader", "scratch"):
            setattr(self, name, np.repeat(getattr(self, name), factor))
        self.unit = unit

    def cells(self, addresses: np.ndarray, size: int) -> np.ndarray:
        offsets = addresses - self.region.low
        if size < self.unit or (offsets & (self.unit - 1)).any():
            self.refine(1)
        first = offsets >> (self.unit.bit_length() - 1)
        cells = first if size == self.unit else (first[:, None] + np.arange(size // self.unit)).reshape(-1)
        return cells if self.pages is None else self._in_pages(cells, self.pages)

    def _in_pages(self, cells: np.ndarray, pages: dict[int, int]) -> np.ndarray:
        touched, which = np.unique(cells >> _PAGE_BITS, return_inverse=True)
        places = np.array([pages.setdefault(page, len(pages)) for page in touched.tolist()], np.int64)
        more = (len(pages) << _PAGE_BITS) - len(self.scratch)
        if more > 0:
            for name in ("writer", "reader", "other_reader", "scratch"):
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more, np.int32)]))
        return places[which.reshape(-1)] << _PAGE_BITS | cells & ((1 << _PAGE_BITS) - 1)


@dataclass
class _Touch:
    """An access to one region: its cells there, and which of the access's lanes they belong to."""

    access: Access
    shadow: _Shadow
    cells: np.ndarray
    lanes: np.ndarray | slice
    name: Name

    def lane(self, k: int) -> int:
        """The lane of the k-th cell."""
        return int(np.arange(len(self.access.addresses))[self.lanes][k // max(self.access.size // self.shadow.unit, 1)])

    def where(self, lane: int) -> str:
        return self.name(int(self.access.addresses[lane]))


@dataclass
class Races:
    """Follows who touched what in one launch."""

    programs: int
    raising: Raise
    events: list[_Event] = field(default_factory=list)
    _numbers: np.ndarray = field(default_factory=lambda: np.full(256, -1, np.int32))
    _shadows: dict[int, _Shadow] = field(default_factory=dict)
    _released: dict[int, dict[int, int]] = field(default_factory=dict)
    _acquired: dict[int, dict[int, int]] = field(default_factory=dict)

    def on_access(self, access: Access, parts: Iterable[tuple[Region, np.ndarray | slice]], name: Name) -> None:
        """Checks one access: ``parts`` are the regions it touches and its lanes there, ``name`` words an address."""
        if self.programs == 1 and access.kind != "store":
            return
        event = self._note(access)
        for region, lanes in parts:
            shadow = self._shadows.get(id(region))
            if shadow is None:
                shadow = self._shadows[id(region)] = _Shadow.of(region, self.programs)
            cells = shadow.cells(access.addresses[lanes], access.size)
            touch = _Touch(access, shadow, cells, lanes, name)
            if access.kind == "store":
                self._check_lanes(touch)
            if self.programs > 1:
                self._check_programs(touch)
                self._mark(touch, event)

    def synchronise(self, access: Access, acquires: bool, releases: bool) -> None:
        """Orders programs by an atomic that just ran."""
        if len(access.addresses) > _MOST_SYNCHRONISING_LANES:
            return
        mine = self._acquired.setdefault(access.number, {})
        now = len(self.events) - 1
        for address in access.addresses.tolist():
            released = self._released.setdefault(address, {})
            if acquires:
                for number, event in released.items():
                    mine[number] = max(mine.get(number, -1), event)
            if releases:
                released.update({n: max(e, released.get(n, -1)) for n, e in mine.items()})
                released[access.number] = now

    def _note(self, access: Access) -> int:
        self.events.append(_Event(access.kind, access.program, access.number, access.place))
        number = len(self.events)  # events count from 1: 0 means that nothing touched the cell
        if number >= len(self._numbers):
            self._numbers = np.concatenate([self._numbers, np.full(len(self._numbers), -1, np.int32)])
        self._numbers[number] = access.number
        return number

    def _check_lanes(self, touch: _Touch) -> None:
        order = np.arange(len(touch.cells), dtype=np.int32)
        touch.shadow.scratch[touch.cells] = order
        winner = touch.shadow.scratch[touch.cells]
        lost = np.flatnonzero(winner != order)
        if not len(lost) or (touch.access.place is not None and touch.access.place.allows(CHECK)):
            return
        first, second = touch.lane(int(lost[0])), touch.lane(int(winner[lost[0]]))
        raise self.raising(
            touch.access,
            CHECK,
            f"two lanes of this store write one address, {touch.where(first)}",
            notes=[f"{touch.access.lane(first)} and {touch.access.lane(second)}", "which of them wins is not defined"],
            help="give each lane its own address, reduce over the lanes first, or use tl.atomic_add",
        )

    def _check_programs(self, touch: _Touch) -> None:
        shadow, access = touch.shadow, touch.access
        tables = [shadow.writer] if access.kind == "load" else [shadow.writer, shadow.reader, shadow.other_reader]
        for table in tables:
            seen = table[touch.cells]
            foreign = np.flatnonzero((seen > 0) & (self._numbers[seen] != access.number))
            _, first_of_each = np.unique(seen[foreign], return_index=True)
            for k in foreign[first_of_each].tolist():
                event = int(seen[k]) - 1
                if self._is_race(access, event):
                    raise self._race(touch, self.events[event], k)

    def _is_race(self, access: Access, number: int) -> bool:
        event = self.events[number]
        if access.kind == event.kind == "atomic":
            return False
        if self._acquired.get(access.number, {}).get(event.number, -1) >= number:
            return False
        return not any(place is not None and place.allows(CHECK) for place in (access.place, event.place))

    def _race(self, touch: _Touch, event: _Event, k: int) -> StrictError:
        access, lane, did = touch.access, touch.lane(k), _PAST[event.kind]
        return self.raising(
            access,
            CHECK,
            f"program {access.program} {READS[access.kind]} {touch.where(lane)}, "
            f"which program {event.program} {did} in the same launch",
            notes=[access.lane(lane), "programs run in any order and at the same time, so the result depends on luck"],
            also=(f"program {event.program} {did} it here", event.place),
            help="let one program own each address, reduce partial results in a second launch, or use atomics",
        )

    def _mark(self, touch: _Touch, event: int) -> None:
        shadow, cells = touch.shadow, touch.cells
        if touch.access.kind != "load":
            shadow.writer[cells] = event
            return
        before = shadow.reader[cells]
        foreign = (before > 0) & (self._numbers[before] != touch.access.number)
        if foreign.any():
            shadow.other_reader[cells[foreign]] = before[foreign]
        shadow.reader[cells] = event
