"""Runs tasks in processes of their own until all are done or time is over, and goes on from there at the next call."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Exit codes of a task beside 0, done: done, with failures; time ran out; the device is of no more use to this process.
FAILURES, TIME_RAN_OUT, DEVICE_LOST = 1, 3, 74

#: A task that ends otherwise, or hangs, is run again; without progress only so often.
_TRIES = 2

#: Seconds between looks at the running tasks, and between two saves while they run.
_LOOK, _SAVE = 0.2, 15.0

#: Of Linux's prctl: the signal that a process gets when the one that started it has ended.
_PARENT_DEATH_SIGNAL = 1

DONE = ("done", "done, with failures", "crashed", "hung")


@dataclass(frozen=True)
class Task:
    """A command that goes on where it was when it is run again.

    Attributes:
        phase: tasks of a phase run side by side, phases one after another.
        command: the arguments, from the seconds that are left.
        progress: files that grow as it gets on; what is printed counts too.
        stall_s: without progress for so long it hangs.
        least_s: it is not begun with less time.
        on_cut: called when time is over and it was ended.
    """

    phase: str
    name: str
    command: Callable[[float], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    progress: tuple[Path, ...] = ()
    stall_s: float = 300.0
    least_s: float = 30.0
    on_cut: Callable[[], None] = lambda: None


class Busy(Exception):
    """Another call is at work in the same folder."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other calls out of a folder in a block; a call that was killed keeps nobody out.

    Raises:
        Busy: if one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"another call is at work in {folder}: wait for it, or name another folder") from None
        yield


class State:
    """What became of each task, on disk after every change."""

    def __init__(self, folder: Path, saved: Callable[[State], None] = lambda state: None) -> None:
        self.folder = folder
        self._path = folder / "state.json"
        self._saved = saved
        folder.mkdir(parents=True, exist_ok=True)
        found = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        self.tasks: dict[str, dict[str, Any]] = found.get("tasks", {})

    def of(self, task: Task) -> dict[str, Any]:
        new = {"phase": task.phase, "status": "waiting", "seconds": 0.0, "starts": 0, "fruitless": 0}
        return self.tasks.setdefault(task.name, new)

    def is_done(self, task: Task) -> bool:
        return self.of(task)["status"] in DONE

    def log(self, task: Task) -> Path:
        return self.folder / "logs" / (task.name.replace(" ", "-").replace("/", "-") + ".log")

    def save(self) -> None:
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"tasks": self.tasks}, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self._path)
        self._saved(self)


class _Running:
    """A task's process, and when it last gave a sign of life."""

    def __init__(self, task: Task, state: State, left: float, environment: Mapping[str, str]) -> None:
        self.task, self.record = task, state.of(task)
        self._log = state.log(task)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._log, "ab")  # noqa: SIM115  (closed when the process has ended)
        self.record["starts"] += 1
        self.started = self.alive = time.monotonic()
        self._size = self.size_before = self._sizes()
        self.process = subprocess.Popen(
            task.command(left),
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env={**environment, **task.environment},
            preexec_fn=_in_a_group_of_its_own,
        )

    def _sizes(self) -> tuple[tuple[int, int], ...]:
        """Size and age of what the task writes: a file that is replaced by another as long has made progress too."""
        found = [path.stat() for path in (*self.task.progress, self._log) if path.exists()]
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in found)

    def progressed(self) -> bool:
        """Whether it has written to its progress files, or where it has none to its log, since it began."""
        now = self._sizes()
        return now[:-1] != self.size_before[:-1] if self.task.progress else now != self.size_before

    def stalled(self) -> bool:
        size = self._sizes()
        if size != self._size:
            self._size, self.alive = size, time.monotonic()
        return time.monotonic() - self.alive > self.task.stall_s

    def end(self) -> None:
        """Ends the process with all that it started."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what outlived it
        self.close()

    def close(self) -> None:
        self._file.close()
        self.record["seconds"] = round(self.record["seconds"] + time.monotonic() - self.started, 1)


def _in_a_group_of_its_own() -> None:
    """In a task's process before its program: it can be ended with all that it starts, and it ends when the call does.

    A call that is killed cannot end its tasks; they would go on, and disturb those of the next call.
    """
    os.setpgid(0, 0)
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def run(tasks: Sequence[Task], state: State, end: float, width: Mapping[str, int], say: Callable[[str], None]) -> bool:
    """Runs what is not done, phase by phase, until ``end`` on the monotonic clock; True if all is done.

    Args:
        width: how many tasks of a phase run at a time; one where it is not named.
    """
    for task in tasks:
        if (
            state.tasks.get(task.name, {}).get("status") == "running"
        ):  # the call before was killed, and its tasks with it
            state.of(task)["status"] = "to go on"
            task.on_cut()
    for phase in dict.fromkeys(task.phase for task in tasks):
        found = [task for task in tasks if task.phase == phase]
        _run_phase(found, state, end, width.get(phase, 1), say)
        if not all(map(state.is_done, found)):
            return False
    return True


def _run_phase(tasks: Sequence[Task], state: State, end: float, width: int, say: Callable[[str], None]) -> None:
    running: list[_Running] = []
    cut: set[str] = set()  # in this call: they go on in the next
    saved = time.monotonic()
    try:
        while True:
            busy = {r.task.name for r in running} | cut
            waiting = [t for t in tasks if not state.is_done(t) and t.name not in busy]
            left = end - time.monotonic()
            for task in waiting[: width - len(running)]:
                if left > task.least_s:
                    running.append(_Running(task, state, left, os.environ))
                    state.of(task)["status"] = "running"
                    state.save()  # a call that is killed leaves word of it
                    say(f"{task.name}: begins, {left:.0f} s left")
            if not running:
                return
            time.sleep(_LOOK)
            for r in [r for r in running if _settled(r, end, cut)]:
                running.remove(r)
                state.save()
                say(f"{r.task.name}: {r.record['status']}")
            if time.monotonic() - saved > _SAVE:
                state.save()
                saved = time.monotonic()
    finally:
        for r in running:  # the call itself was stopped
            r.end()
            _cut(r, cut)
        state.save()


def _settled(r: _Running, end: float, cut: set[str]) -> bool:
    """Whether a task has ended, or was ended; writes down how."""
    code = r.process.poll()
    if code is None:
        if r.stalled():
            r.end()
            _fruitless(r, "hung", f"no sign of life for {r.task.stall_s:.0f} s")
            return True
        if time.monotonic() > end:
            r.end()
            _cut(r, cut)
            return True
        return False
    r.close()
    if code in (0, FAILURES):
        r.record["status"] = "done" if code == 0 else "done, with failures"
    elif code == TIME_RAN_OUT:
        _cut(r, cut)
    else:
        reason = "the device was lost" if code == DEVICE_LOST else f"exit code {code}"
        _fruitless(r, "crashed", reason)
    return True


def _cut(r: _Running, cut: set[str]) -> None:
    r.record["status"] = "to go on"
    cut.add(r.task.name)
    r.task.on_cut()


def _fruitless(r: _Running, status: str, why: str) -> None:
    """After a crash or a hang: the task is to be run again, unless that was tried without progress."""
    r.record["fruitless"] = 0 if r.progressed() else r.record["fruitless"] + 1
    r.record["why"] = why
    r.record["status"] = status if r.record["fruitless"] >= _TRIES else f"{status}, to be tried again"
