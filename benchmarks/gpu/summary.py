"""What a run on a GPU machine has found so far, as a page to read."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import table
from benchmarks.gpu import journal
from benchmarks.gpu.scheduler import State

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
    outcomes = _outcomes(state.folder / "tests")
    if outcomes:
        lines += _tests(outcomes)
    for report in sorted((state.folder / "results").glob("*.md")):
        lines += [f"# {report.name}", "", f"The figures are in results/{report.name}.", ""]
    if (state.folder / "tuned.json").exists():
        lines += ["# Configurations", "", "tuned.json is a table for kernels/tuned/.", ""]
    return "\n".join(lines)


def _row(name: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    return name, record["status"], f"{record['seconds']:.0f}", str(record["starts"]), record.get("why", "")


def _outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    return {test: found for path in sorted(folder.glob("*.jsonl")) for test, found in journal.outcomes(path).items()}


def _tests(outcomes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    counts = Counter(found["outcome"] for found in outcomes.values())
    lines = ["# Tests", "", ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())), ""]
    bad = {test: found for test, found in outcomes.items() if found["outcome"] not in ("passed", "skipped")}
    for test, found in list(bad.items())[:_NAMED]:
        reason = found.get("why", "").strip().splitlines()
        lines.append(f"- `{test}`: {found['outcome']}" + (f", {reason[-1][:200]}" if reason else ""))
    if len(bad) > _NAMED:
        lines.append(f"- and {len(bad) - _NAMED} more")
    return [*lines, ""] if bad else lines


def copy(folder: Path, target: Path) -> None:
    """Copies all that a run has written to where it is collected."""
    if folder.resolve() != target.resolve():
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.unfinished"))
