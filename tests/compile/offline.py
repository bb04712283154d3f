"""Compiles every kernel for GPUs that are not here: run as ``python -m tests.compile.offline TARGET``.

A stub driver names the target, whose compute capability decides which form an operation takes, and launches on ``meta``
buffers compile exactly what they would run. Each launch of ``tests/compile/launches.py`` is compiled with the configuration
it would get, and each shipped configuration on one launch of its kernel, in half precision where it takes that. Prints one
line of JSON for each compiled kernel, and exits with 1 if one fails, a kernel of the package was never reached, or one was
reached that is not for the target.
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
from tests.compile.resources import resources
from tinyflow.kernels import configs, hardware, launch
from tinyflow.kernels.hardware import Capability

TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 166912),
    "sm_90": (GPUTarget("cuda", 90, 32), 232448),
    "sm_100": (GPUTarget("cuda", 100, 32), 232448),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 65536),
}

#: Streaming multiprocessors of the GPU that is stood for.
MULTIPROCESSORS = 132

#: Columns of tensor memory, of 128 lanes each, that one multiprocessor has on sm_100.
TENSOR_MEMORY = 512

#: Modules whose kernels are not for every GPU, most for their tensor descriptors, and the major compute capabilities
#: that get to them; 0 is another maker's.
FOR_SOME = {
    "tinyflow.kernels.conv2d.box_forward": (9, 10),
    "tinyflow.kernels.conv2d.box_input_grad": (9, 10),
    "tinyflow.kernels.conv2d.box_stem": (9, 10),
    "tinyflow.kernels.conv2d.box_weight_grad": (9, 10),
    "tinyflow.kernels.conv2d.row_forward": (9,),
    "tinyflow.kernels.conv2d.row_input_grad": (9,),
    "tinyflow.kernels.conv2d.statistics": (9, 10),
    "tinyflow.kernels.conv2d.stream_weight_grad": (9, 10),
    "tinyflow.kernels.fused.pooled_stem": (0, 9),
    "tinyflow.kernels.fused.stem_weight_grad": (9,),
}


def capability(target: GPUTarget) -> Capability:
    """The compute capability of a target; (0, 0) for one that is not NVIDIA's."""
    return divmod(int(target.arch), 10) if target.backend == "cuda" else (0, 0)


class OfflineDriver:
    """Stands where a GPU driver would: names a target, never runs anything."""

    def __init__(self, target: GPUTarget, shared_memory: int) -> None:
        self._target = target
        properties = {"max_shared_mem": shared_memory, "multiprocessor_count": MULTIPROCESSORS}
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


def all_kernels() -> dict[str, str]:
    """The package's kernels, JIT functions that end in ``_kernel``, each with the module that it stands in."""
    found = {}
    for module in pkgutil.walk_packages(tinyflow.kernels.__path__, "tinyflow.kernels."):
        if ".interpreter" in module.name:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, triton.runtime.jit.JITFunction) and name.endswith("_kernel"):
                found[name] = value.fn.__module__
    return found


def _compile(call: Callable[[], Any], label: str, limit: int, asked: set[str] | None = None) -> tuple[set[str], bool]:
    """Runs one launch; prints what it compiled, and adds to ``asked`` the names of the configurations it chose from."""
    start = time.perf_counter()
    note = set() if asked is None else asked
    try:
        with launch.compile_only() as compiled, configs.observed(lambda chosen_from, _: note.add(chosen_from.kernel)):
            call()
    except Exception as error:
        print(json.dumps({"launch": label, "error": f"{type(error).__name__}: {str(error)[:2000]}"}), flush=True)
        return set(), False
    good = True
    for name, kernel in compiled:
        found, shared = resources(kernel), kernel.metadata.shared
        fits = shared <= limit and (getattr(kernel.metadata, "tmem_size", 0) or 0) <= TENSOR_MEMORY
        good &= fits
        record = {"launch": label, "kernel": name, "warps": kernel.metadata.num_warps, "shared": shared, "fits": fits}
        print(json.dumps({**record, **found._asdict(), "seconds": round(time.perf_counter() - start, 2)}), flush=True)
    return {name for name, _ in compiled}, good


def main(target: str) -> int:
    """Compiles everything for one target."""
    gpu, limit = TARGETS[target]
    driver.set_active(OfflineDriver(gpu, limit))
    with hardware.assumed(capability(gpu), MULTIPROCESSORS):
        return compile_all(target)


def compile_all(target: str) -> int:
    """Compiles every launch and every shipped configuration; 0 if all is well."""
    from tests.compile.launches import BOX_LAUNCHES, HOPPER_LAUNCHES, LAUNCHES

    gpu, limit = TARGETS[target]
    major = capability(gpu)[0]
    launches = {**LAUNCHES, **(BOX_LAUNCHES if major in (9, 10) else {}), **(HOPPER_LAUNCHES if major == 9 else {})}
    good, reached = True, set()
    first: dict[str, tuple[str, Callable[[], Any]]] = {}
    for label, call in launches.items():
        asked: set[str] = set()
        names, fine = _compile(call, label, limit, asked)
        good &= fine
        reached |= names
        for name in asked:
            # half precision where the kernel takes it: the largest tiles are for that, and are not chosen for more bytes
            if name not in first or ("bfloat16" in label and "bfloat16" not in first[name][0]):
                first[name] = label, call
    for name, choice in launch.Configs.registry.items():
        if name in first:
            label, call = first[name]
            for k, config in enumerate(choice.shipped_for(capability(gpu))):
                with choice.forced(config):
                    good &= _compile(call, f"{label}, shipped config {k}", limit)[1]
    meant = {name for name, module in all_kernels().items() if major in FOR_SOME.get(module, (major,))}
    if missing := sorted(meant - reached):
        print(json.dumps({"error": f"no launch in tests/compile/launches.py reaches {missing}"}))
    if stray := sorted(all_kernels().keys() & reached - meant):
        print(json.dumps({"error": f"{target} is not meant to reach {stray}"}))
    return 1 if missing or stray or not good else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
