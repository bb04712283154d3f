"""A pytest plugin for a run that may be stopped, crash or hang at any test, where little but pytest is installed.

``pytest -p benchmarks.gpu.journal --journal FILE --part 1/8``: the outcome of each test is a line of the file as soon as it
is known. A test that has one is not run again; one that was begun and has none crashed, hung, or was cut off.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import types
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.scheduler import DEVICE_LOST
from benchmarks.timer import device_is_lost

#: Neighbours share fixtures and kernels, so they stay together.
_TOGETHER = 16

#: Times that a test may be cut off at the end of a call before it counts as too long.
_CUTS = 2

_LONGEST_REASON = 2000

#: The exit code where pytest itself fails: its own ones mean something else here.
_PYTEST_FAILED = 70


#: Packages of which a bare machine may have none.
_OPTIONAL = ("PIL", "hypothesis", "matplotlib", "rich", "safetensors", "tyro")


def _absent(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return True
    return False


_ABSENT = frozenset(filter(_absent, _OPTIONAL))


class _Anything:
    """Where hypothesis is not installed: whatever a file asks of it when it is loaded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __or__(self, other: Any) -> Any:
        return self


def _mark(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    def mark(test: Any) -> Any:
        test.needs_hypothesis = True
        return test

    return mark


def _unchanged(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    return lambda test: test


def _stand_in_for_hypothesis() -> None:
    """Tests of its properties are left out, and the others of their files run."""
    hypothesis, strategies = types.ModuleType("hypothesis"), types.ModuleType("hypothesis.strategies")
    getattr_ = _Anything().__getattr__
    settings = type("settings", (_Anything,), {"__call__": lambda self, test: test})
    settings.register_profile = settings.load_profile = staticmethod(lambda *args, **kwargs: None)  # type: ignore[attr-defined]
    names = {"given": _mark, "example": _unchanged, "settings": settings, "strategies": strategies}
    for module, known in ((hypothesis, names), (strategies, {})):
        vars(module).update(known, __getattr__=getattr_, __spec__=ModuleSpec(module.__name__, None))
    sys.modules.update({"hypothesis": hypothesis, "hypothesis.strategies": strategies})


if "hypothesis" in _ABSENT:
    _stand_in_for_hypothesis()


def _absent_for(file: Path) -> list[str]:
    """The packages that a file asks for and that are not here."""
    if not file.is_file():
        return []
    found = re.findall(r"^(?:import|from) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return sorted(_ABSENT & set(found) - {"hypothesis"})


def outcomes(path: Path) -> dict[str, dict[str, Any]]:
    """What a journal says of each test."""
    found: dict[str, dict[str, Any]] = {}
    begun: str | None = None
    cuts = Counter[str]()

    def crashed() -> None:
        if begun is not None:
            found[begun] = {"outcome": "crashed", "why": "the process ended in it, or had to be ended"}

    for line in lines(path):
        if "begun" in line:
            crashed()
            begun = line["begun"]
        elif "cut" in line:
            if begun is not None:
                cuts[begun] += 1
                if cuts[begun] >= _CUTS:
                    found[begun] = {"outcome": "too long", "why": f"cut off {cuts[begun]} times"}
            begun = None
        else:
            found[line["test"]] = line
            begun = None
    crashed()
    return found


class Journal:
    """The file while tests run."""

    def __init__(self, path: Path) -> None:
        self.outcomes = outcomes(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (open as long as the process)

    def write(self, **line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; the last one may have been cut off."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def note_cut(path: Path) -> None:
    """Says that the tests were stopped from outside, and not by the one that was running."""
    if path.exists():
        with open(path, "a", encoding="utf-8") as file:
            file.write('\n{"cut": true}\n')


class _Plugin:
    def __init__(self, journal: Journal, part: int, parts: int) -> None:
        self._journal, self._part, self._parts = journal, part, parts
        self._reports: list[pytest.TestReport] = []

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
        absent = _absent_for(file) if file.name.startswith(("test_", "conftest")) else []
        if not absent:
            return None
        self._journal.write(
            test=os.path.relpath(collection_path), outcome="not collected", why=f"not installed: {', '.join(absent)}"
        )
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, collector: Any, name: str, obj: Any) -> list[Any] | None:
        return [] if getattr(obj, "needs_hypothesis", False) is True else None

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        own = [item for k, item in enumerate(items) if k // _TOGETHER % self._parts == self._part]
        kept = [item for item in own if item.nodeid not in self._journal.outcomes]
        left_out = set(items) - set(kept)
        items[:] = kept
        config.hook.pytest_deselected(items=list(left_out))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._journal.write(
                test=report.nodeid, outcome="not collected", why=str(report.longrepr)[-_LONGEST_REASON:]
            )

    def pytest_unconfigure(self) -> None:
        self._journal.close()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports = []
        self._journal.write(begun=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        bad = [r for r in self._reports if r.failed]
        outcome = "failed" if bad else "skipped" if any(r.skipped for r in self._reports) else "passed"
        why = str(bad[0].longrepr)[-_LONGEST_REASON:] if bad else ""
        seconds = round(sum(r.duration for r in self._reports), 3)
        self._journal.write(test=nodeid, outcome=outcome, seconds=seconds, why=why)
        if bad and device_is_lost():
            os._exit(DEVICE_LOST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--journal", type=Path, help="the file of outcomes")
    parser.addoption("--part", default="1/1", help="run one part of so many: 1/8")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("journal")
    if path is not None:
        part, parts = map(int, config.getoption("part").split("/"))
        config.pluginmanager.register(_Plugin(Journal(path), part - 1, parts))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK  # all have an outcome
    elif session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        os._exit(_PYTEST_FAILED)
