"""What a run on a GPU machine has found so far, as a page to read."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import line, table
from benchmarks.gpu import journal
from benchmarks.gpu.scheduler import State
from benchmarks.results import files, read
from tinyflow.serialization import replacing

#: What a collector gets: a file of everything, and beside it what says how far a run has come.
ARCHIVE = "on_gpu.tar.gz"
_READ_FIRST = ("summary.md", "state.json")

#: What belongs to one machine, or to one call.
_NOT_COLLECTED = ("compiled", "lock")

#: The family of cases that is shown.
_FOREMOST = "resnet18"

#: Tests that are named.
_NAMED = 60


def write(state: State) -> Path:
    """Writes ``summary.md`` into the run's folder."""
    path = state.folder / "summary.md"
    path.write_text(text(state), encoding="utf-8")
    return path


def text(state: State) -> str:
    rows = [_row(name, record) for name, record in state.tasks.items()]
    lines = ["# What was done", "", *table(("task", "status", "seconds", "starts", "why"), rows), ""]
    for kind in ("untuned", "results"):
        lines += _figures(state.folder / kind)
    for kind in ("risky tests", "tests"):
        outcomes = _outcomes(state.folder / kind.replace(" ", "-"))
        if outcomes:
            lines += _tests(kind.capitalize(), outcomes)
    return "\n".join(lines)


def _row(name: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    return name, record["status"], f"{record['seconds']:.0f}", str(record["starts"]), record.get("why", "")


def _outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    return {test: found for path in sorted(folder.glob("*.jsonl")) for test, found in journal.outcomes(path).items()}


def _figures(folder: Path) -> list[str]:
    """What matters most of a folder's cases, and what failed."""
    lines = []
    for path in files(folder):
        records = read(path)["cases"].values()
        named = [r for r in records if r["family"] == _FOREMOST or "error" in r]
        lines += [f"# {folder.name}/{path.name}", "", *(f"- {r['family']}, {r['name']}: {line(r)}" for r in named)]
        lines += [f"- and {len(records) - len(named)} more", ""]
    return lines


def _tests(title: str, outcomes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    counts = Counter(found["outcome"] for found in outcomes.values())
    lines = [f"# {title}", "", ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())), ""]
    bad = {test: found for test, found in outcomes.items() if found["outcome"] not in ("passed", "skipped")}
    for test, found in list(bad.items())[:_NAMED]:
        reason = found.get("why", "").strip().splitlines()
        lines.append(f"- `{test}`: {found['outcome']}" + (f", {reason[-1][:200]}" if reason else ""))
    if len(bad) > _NAMED:
        lines.append(f"- and {len(bad) - _NAMED} more")
    return [*lines, ""] if bad else lines


def copy(folder: Path, target: Path) -> None:
    """Copies all that a run has written to where it is collected: what is read first as it is, and everything in one file.

    A collector may take but a few files.
    """
    if folder.resolve() == target.resolve():
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in _READ_FIRST:
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    with replacing(target / ARCHIVE) as unfinished, tarfile.open(unfinished, "w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in _NOT_COLLECTED:
                archive.add(path, path.name, filter=_without_unfinished)


def _without_unfinished(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith((".unfinished", ".tmp")) else member
