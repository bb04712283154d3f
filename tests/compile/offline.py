"""Compiles every kernel for GPUs that are not here: run as ``python -m tests.compile.offline TARGET``.

A stub driver names the target and launches on ``meta`` buffers compile exactly what they would run. Each launch of
``tests/compile/launches.py`` is compiled with the configuration it would get, and each shipped configuration is compiled on
the first launch of its kernel. Prints one line of JSON for each compiled kernel, and exits with 1 if one fails or a kernel
of the package was never reached.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "0"
import importlib
import json
import pkgutil
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import tinyflow.kernels
from tinyflow.kernels import launch

TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 166912),
    "sm_90": (GPUTarget("cuda", 90, 32), 232448),
    "sm_100": (GPUTarget("cuda", 100, 32), 232448),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 65536),
}


class OfflineDriver:
    """Stands where a GPU driver would: names a target, never runs anything."""

    def __init__(self, target: GPUTarget, shared_memory: int) -> None:
        self._target = target
        properties = {"max_shared_mem": shared_memory, "multiprocessor_count": 132}
        self.utils = types.SimpleNamespace(get_device_properties=lambda device: properties)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_device_interface(self) -> None:
        return None

    def get_active_torch_device(self) -> Any:
        raise RuntimeError("there is no device")


def all_kernels() -> set[str]:
    """The names of the package's kernels: JIT functions that end in ``_kernel``."""
    names = set()
    for module in pkgutil.walk_packages(tinyflow.kernels.__path__, "tinyflow.kernels."):
        if ".interpreter" in module.name:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, triton.runtime.jit.JITFunction) and name.endswith("_kernel"):
                names.add(name)
    return names


def _compile(call: Callable[[], Any], label: str, limit: int) -> tuple[set[str], bool]:
    """Runs one launch; prints what it compiled."""
    start = time.perf_counter()
    try:
        with launch.compile_only() as compiled:
            call()
    except Exception as error:
        print(json.dumps({"launch": label, "error": f"{type(error).__name__}: {str(error)[:2000]}"}), flush=True)
        return set(), False
    good = True
    for name, kernel in compiled:
        shared = kernel.metadata.shared
        good &= shared <= limit
        record = {"launch": label, "kernel": name, "shared": shared, "fits": shared <= limit}
        print(json.dumps({**record, "seconds": round(time.perf_counter() - start, 2)}), flush=True)
    return {name for name, _ in compiled}, good


def main(target: str) -> int:
    """Compiles everything for one target."""
    from tests.compile.launches import LAUNCHES

    gpu, limit = TARGETS[target]
    driver.set_active(OfflineDriver(gpu, limit))
    good, reached = True, set()
    first: dict[str, tuple[str, Callable[[], Any]]] = {}
    for label, call in LAUNCHES.items():
        names, fine = _compile(call, label, limit)
        good &= fine
        reached |= names
        for name in names:
            first.setdefault(name, (label, call))
    for name, configs in launch.Configs.registry.items():
        if name in first:
            label, call = first[name]
            for k, config in enumerate(configs.shipped):
                with configs.forced(config):
                    good &= _compile(call, f"{label}, shipped config {k}", limit)[1]
    missing = sorted(all_kernels() - reached)
    if missing:
        print(json.dumps({"error": f"no launch in tests/compile/launches.py reaches {missing}"}))
    return 0 if good and not missing else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
