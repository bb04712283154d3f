"""Puts what a run on a GPU machine collected where it belongs: ``benchmarks/on_gpu --keep COLLECTED``."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarks import report, results
from benchmarks.gpu.summary import ARCHIVE
from tinyflow.kernels import tuned
from tinyflow.serialization import replacing


def main(collected: Path, target: Path = results.FOLDER, tables: Path = tuned.FOLDER) -> int:
    """Takes over results and the table of configurations, and makes all reports anew; returns the exit code.

    Args:
        collected: the archive that a run left, or the folder that it was collected in, or where the run kept it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            taken = take(_unpacked(collected, Path(scratch)), target, tables)
        except (OSError, ValueError, KeyError, tarfile.TarError) as error:
            print(f"benchmarks/on_gpu: --keep {collected}: {error}", file=sys.stderr)
            return 2
    if not taken:
        print(f"benchmarks/on_gpu: --keep {collected}: there is nothing that was measured on a GPU", file=sys.stderr)
        return 2
    for path in taken:
        print(path)
    return report.main([str(target)])


def _unpacked(collected: Path, scratch: Path) -> Path:
    archive = collected / ARCHIVE if collected.is_dir() else collected
    if not archive.exists():
        return collected
    with tarfile.open(archive) as content:
        content.extractall(scratch, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return scratch


def take(folder: Path, target: Path, tables: Path) -> list[Path]:
    """Writes the files of a run's folder to where they belong; returns those.

    Figures from before the search stand in for those that were not measured after it.
    """
    taken = []
    found: dict[str, dict[str, object]] = {}
    for kind in ("untuned", "results"):
        for path in results.files(folder / kind):
            content = results.read(path)
            if content["machine"]["kind"] != "cuda":
                continue
            before = found.get(path.name, {})
            if before.get("machine") == content["machine"]:
                content["cases"] = {**before["cases"], **content["cases"]}  # type: ignore[dict-item]
            found[path.name] = {name: value for name, value in content.items() if name != "begun"}
    for name, content in found.items():
        results.write(target / name, content)
        taken.append(target / name)
        profile = folder / "results" / f"{Path(name).stem}{results.PROFILE_SUFFIX}"
        if profile.exists():
            taken.append(_copy(profile, target / profile.name))
    table = folder / "tuned.json"
    if found and table.exists():
        device = json.loads(table.read_text(encoding="utf-8"))["device"]
        taken.append(_copy(table, tables / tuned.file_name(device)))
    return taken


def _copy(source: Path, target: Path) -> Path:
    with replacing(target) as unfinished:
        shutil.copyfile(source, unfinished)
    return target
