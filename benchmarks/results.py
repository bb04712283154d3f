"""Result files: one a device, in JSON, whole at every moment."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyflow.serialization import replacing

FOLDER = Path(__file__).parent / "results"
#: Where figures go that are none: small problems, timed once or twice.
QUICK_FOLDER = Path(".benchmarks/quick")
#: How the file of a training step's profile is named, after the stem of the result file.
PROFILE_SUFFIX = "-profile.json"
FORMAT = 1


def now() -> str:
    """Date and time in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


class Results:
    """Records by key, with the ceilings of the device, on disk after every change.

    A file that another machine, or the same with other versions, has written is not added to: it starts afresh, and what
    was there is kept beside it as ``….json.before``.
    Records stand in the order of ``keys``, whichever was made first; those of cases that are no more are dropped.
    """

    def __init__(self, path: Path, machine: dict[str, Any], keys: Sequence[str]) -> None:
        self.path = path
        self.machine = machine
        self._keys = keys
        self.cases: dict[str, Any] = {}
        self.ceilings: dict[str, Any] = {}
        self.begun: dict[str, int] = {}
        if path.exists():
            found = read(path)
            if found["machine"] == machine:
                self.cases = found["cases"]
                self.ceilings = found.get("ceilings", {})
                self.begun = found.get("begun", {})
            else:
                path.replace(path.with_name(f"{path.name}.before"))

    def begin(self, key: str) -> int:
        """Notes that a case is begun; returns how often it was before without an end."""
        before = self.begun.get(key, 0)
        self.begun[key] = before + 1
        self._write()
        return before

    def add(self, key: str, record: dict[str, Any]) -> None:
        records = {**self.cases, key: record}
        self.cases = {k: records[k] for k in self._keys if k in records}
        self.begun.pop(key, None)
        self._write()

    def set_ceilings(self, found: dict[str, Any]) -> None:
        self.ceilings = found
        self._write()

    def _write(self) -> None:
        begun = {"begun": self.begun} if self.begun else {}
        content = {"format": FORMAT, "machine": self.machine, "ceilings": self.ceilings, **begun, "cases": self.cases}
        write(self.path, content)


def files(folder: Path) -> list[Path]:
    """The result files of a folder, which may hold other things: those that hold cases."""
    found = [p for p in sorted(folder.glob("*.json")) if not p.name.endswith(PROFILE_SUFFIX)]
    return [p for p in found if "cases" in json.loads(p.read_text(encoding="utf-8"))]


def write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """The content of a result file.

    Raises:
        ValueError: if it is none.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a result file of format {FORMAT}")
    return content
