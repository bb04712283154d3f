"""Launches with and without the cheap launcher, on a driver that only writes down.

Run as ``python -m tests.compile.cheap_launches``, with ``TRITON_INTERPRET=0``. For real launchers and for a kernel with
every kind of argument, what a looked-up launch hands to the compiled kernel must be what Triton's own path hands to it.
Prints one JSON object; exits with 1 at a difference.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from tests.compile.offline import TARGETS, OfflineDriver
from tinyflow.kernels import compiled, launch
from tinyflow.kernels.launch import Config

LABELS = (
    "add torch.bfloat16",
    "add, number",
    "add, rows",
    "copy, five dimensions",
    "sum of rows torch.float32",
    "matmul torch.bfloat16",
    "convolution 3x3 stride 2 torch.bfloat16",
    "convolution 3x3 stride 2 torch.bfloat16, weight gradient",
    "batch_norm torch.bfloat16",
    "max_pool2d torch.bfloat16",
    "cross_entropy torch.float32",
    "dropout torch.float32",
    "adam",
)

#: Where launch metadata and the two hooks stand among a compiled kernel's arguments.
_HOOKS = slice(6, 9)


class RecordingLauncher:
    """Stands where a compiled kernel's launcher would."""

    calls: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        self.calls.append(arguments)


class RecordingDriver(OfflineDriver):
    """Also "loads" kernels, each under a handle of its own, and launches them into a list."""

    launcher_cls = RecordingLauncher

    def __init__(self) -> None:
        super().__init__(*TARGETS["sm_90"])
        handles = itertools.count(1000)
        self.utils.load_binary = lambda *_: ("module", next(handles), 32, 0, 1024)
        self.utils.unload_module = lambda _: None

    def get_current_stream(self, device: int = 0) -> int:
        return 77


def _last_call(expected: int) -> tuple[Any, ...]:
    assert len(RecordingLauncher.calls) == expected, f"{len(RecordingLauncher.calls)} launches, not {expected}"
    return RecordingLauncher.calls[-1]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (torch.Tensor, TensorDescriptor)) or isinstance(b, (torch.Tensor, TensorDescriptor)):
        return a is b
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


def differences(kernel: Any, grid: tuple[int, ...], args: Any, config: Config, constexprs: dict[str, Any]) -> list[str]:
    """What differs between Triton's launch and the second, looked-up one."""
    RecordingLauncher.calls.clear()
    kernel[grid](*args, **config.blocks, **constexprs, **config.options)
    theirs = _last_call(1)
    compiled.launch(kernel, grid, args, config, constexprs, 0)
    how = compiled.launch(kernel, grid, args, config, constexprs, 0)
    ours = _last_call(3)
    wrong = [] if how == compiled.LOOKED_UP else [f"{kernel.__name__}: launched by {how}"]
    if len(theirs) != len(ours):
        return [*wrong, f"{kernel.__name__}: {len(ours)} arguments, not {len(theirs)}"]
    for k, (a, b) in enumerate(zip(theirs, ours)):
        if k not in range(*_HOOKS.indices(9)) and not _same(a, b):
            wrong.append(f"{kernel.__name__}: argument {k} is {b!r}, not {a!r}")
    return wrong + [f"{kernel.__name__}: hook {k} is {x!r}" for k, x in enumerate(ours[_HOOKS]) if x is not None]


@triton.jit(do_not_specialize=["seed"])
def _everything_kernel(out_ptr, x_ptr, n, seed, steps, scale, maybe_ptr, FLAG: tl.constexpr, BLOCK: tl.constexpr = 16):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(x_ptr + i * steps[0], mask=i < n, other=0).to(tl.float32) * scale + seed + steps[1]
    if maybe_ptr is not None:
        y += tl.load(maybe_ptr + i, mask=i < n, other=0).to(tl.float32)
    if FLAG == 1:
        y = -y
    tl.store(out_ptr + i, y.to(out_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def _described_kernel(x, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i[:, None] * BLOCK + i[None, :], x.load([0, 0]))


def _kinds_of_arguments() -> list[str]:
    """Every kind of argument that is specialised on, each launch after the one that it must not be taken for."""
    f, h = torch.zeros(64), torch.zeros(64, dtype=torch.float16)
    base: dict[str, Any] = {"n": 16, "seed": 5, "steps": (2, 3), "scale": 0.5, "maybe": f, "flag": 1, "x": f}
    variants: list[dict[str, Any]] = [
        {},
        {"x": f[1:]},
        {"x": f[4:]},
        {"x": h},
        {"n": 1},
        {"n": 17},
        {"n": 2**31},
        {"n": 2**31 + 1},
        {"seed": 1},
        {"seed": 2**40},
        {"seed": -(2**40)},
        {"steps": (1, 3)},
        {"steps": (16, 3)},
        {"steps": (2, 2**33)},
        {"scale": 3},
        {"maybe": None},
        {"flag": 0},
        {"flag": True},
        {"flag": 1.0},
    ]
    wrong = []
    for variant in variants:
        v = {**base, **variant}
        args = f, v["x"], v["n"], v["seed"], v["steps"], v["scale"], v["maybe"]
        for config in (Config({"BLOCK": 16}), Config({"BLOCK": 32}), Config({"BLOCK": 16}, num_warps=2), Config({})):
            found = differences(_everything_kernel, (2, 3), args, config, {"FLAG": v["flag"]})
            wrong += [f"{variant} {text}" for text in found]
    matrix = torch.zeros(32, 32, dtype=torch.bfloat16)
    for size in (16, 32):
        args = TensorDescriptor.from_tensor(matrix, [size, size]), matrix
        wrong += differences(_described_kernel, (1,), args, Config({"BLOCK": size}), {})
    return wrong


def _real_launchers() -> tuple[list[str], int]:
    """Compares wherever a launcher would compile."""
    from tests.compile.launches import LAUNCHES

    wrong, compared = [], 0

    def compare(kernel: Any, *args: Any, grid: tuple[int, ...], **named: Any) -> None:
        nonlocal compared
        compared += 1
        options = {name: named.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
        config = Config({}, options["num_warps"], options["num_stages"])
        wrong.extend(differences(kernel, grid, args, config, named))

    original, JITFunction.warmup = JITFunction.warmup, compare
    try:
        for label in LABELS:
            with launch.compile_only():
                LAUNCHES[label]()
    finally:
        JITFunction.warmup = original
    return wrong, compared


def _hooks() -> list[str]:
    """What listens to Triton sees every launch."""
    f, seen = torch.zeros(64), []
    args, config = (f, f, 16, 5, (2, 3), 0.5, f), Config({"BLOCK": 16})
    hook = seen.append
    triton.knobs.runtime.launch_enter_hook.add(hook)
    try:
        how = compiled.launch(_everything_kernel, (2, 3), args, config, {"FLAG": 1}, 0)
    finally:
        triton.knobs.runtime.launch_enter_hook.remove(hook)
    wrong = [] if how == compiled.TRITON else ["a listening hook was not told"]
    with compiled.through_triton():
        how = compiled.launch(_everything_kernel, (2, 3), args, config, {"FLAG": 1}, 0)
    return wrong if how == compiled.TRITON else [*wrong, "a launch was not left to Triton"]


def microseconds(call: Any, rounds: int = 5, each: int = 2000) -> float:
    """The least time of a call."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(each):
            call()
        best = min(best, time.perf_counter() - start)
    RecordingLauncher.calls.clear()
    return best / each * 1e6


def _timings() -> dict[str, float]:
    f = torch.zeros(64)
    args, config, grid = (f, f, 16, 5, (2, 3), 0.5, f), Config({"BLOCK": 16}), (2, 3)
    return {
        "cheap": microseconds(lambda: compiled.launch(_everything_kernel, grid, args, config, {"FLAG": 1}, 0)),
        "triton": microseconds(
            lambda: _everything_kernel[grid](*args, **config.blocks, FLAG=1, **config.options), each=500
        ),
    }


def main() -> int:
    driver.set_active(RecordingDriver())
    wrong = _kinds_of_arguments() + _hooks()
    more, compared = _real_launchers()
    wrong += more
    print(json.dumps({"wrong": wrong, "compared": compared, "microseconds": _timings()}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
