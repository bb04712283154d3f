"""Configurations measured on a GPU, one ``<gpu>.json`` for each kind, as ``tinyflow tune`` writes them.

::

    {"device": "NVIDIA H100 80GB HBM3", "versions": {"triton": "3.6.0", ...}, "time": "2026-01-31T12:00:00+00:00",
     "kernels": {"_matmul_kernel": {"bfloat16 m=256 n=1024 k=512 batch=1 itemsize=2":
                                    {"blocks": {"BLOCK_M": 64, ...}, "num_warps": 4, "num_stages": 3, "us": 7.1, ...}}}}

``TINYFLOW_TUNED`` names another file to use instead of the one that ships.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyflow.kernels import memory

FOLDER = Path(__file__).parent


def file_name(device: str) -> str:
    """What the table of a device is called: ``nvidia-h100-80gb-hbm3.json``."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


@functools.cache
def current_device() -> str:
    """The name of the default device, whose table serves all devices of the process."""
    return memory.device_name(memory.get_default_device())


def read(path: Path, device: str) -> dict[str, dict[str, Any]]:
    """The table at ``path`` by kernel and problem; empty where there is none.

    Raises:
        ValueError: if the table is another device's, or no table.
    """
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        owner, kernels = table["device"], dict(table["kernels"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no table of configurations: {error!r}") from None
    if owner != device:
        raise ValueError(f"{path} is the table of '{owner}', not of '{device}'")
    return kernels


def write(path: Path, device: str, versions: Mapping[str, str], kernels: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds what was found to the table at ``path``, or starts one; the file is replaced as a whole.

    Raises:
        ValueError: if the table is another device's, or no table.
    """
    merged = read(path, device)
    for kernel, entries in kernels.items():
        merged.setdefault(kernel, {}).update(entries)
    table = {
        "device": device,
        "versions": dict(versions),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernels": {kernel: dict(sorted(merged[kernel].items())) for kernel in sorted(merged)},
    }
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def load(device: str) -> dict[str, Mapping[str, Any]]:
    """The table of a device by kernel and problem; empty where none was measured.

    Raises:
        ValueError: if the file that ``TINYFLOW_TUNED`` names is no such table.
    """
    chosen = os.environ.get("TINYFLOW_TUNED")
    path = Path(chosen) if chosen else FOLDER / file_name(device)
    if not chosen and not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["kernels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"TINYFLOW_TUNED: {path} is no table of configurations: {error!r}") from None
