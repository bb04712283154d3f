"""What the compiler makes of the convolutions for sm_90: registers, shared memory, and the instructions that count.

Run as ``python -m tests.compile.instructions [FILE]``: compiles every configuration that ships, with every epilogue, on
ResNet18's layers, with no GPU. Prints a table and writes it as JSON (default: benchmarks/results/compile_sm_90.json).
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "0"
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime import driver
from triton.tools.disasm import get_sass

from tests.compile.offline import MULTIPROCESSORS, TARGETS, OfflineDriver
from tinyflow.kernels import hardware, launch
from tinyflow.kernels.conv2d import box_forward, box_input_grad, box_stem, box_weight_grad, stream_weight_grad
from tinyflow.kernels.conv2d.geometry import resolve
from tinyflow.kernels.fused import pooled_stem
from tinyflow.kernels.launch import Configs

#: Products on the tensor core, loads and stores of boxes, and spills.
INSTRUCTIONS = ("HGMMA", "UTMALDG", "UTMASTG", "LDSM", "LDL", "STL")

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "compile_sm_90.json"

Call = Callable[[], Any]


def _image(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta").to(memory_format=torch.channels_last)


def _vector(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def variants() -> Iterator[tuple[str, str, Configs, Call]]:
    """A kernel's name, an epilogue, the configurations to try, and a launch."""
    shape, batch = (256, 64, 56, 56), 256
    same = resolve("conv2d", shape, (64, 64, 3, 3), 1, 1, 1, 1)
    half = resolve("conv2d", shape, (128, 64, 3, 3), 2, 1, 1, 1)
    deep = resolve("conv2d", (batch, 512, 7, 7), (512, 512, 3, 3), 1, 1, 1, 1)
    stem = resolve("conv2d", (batch, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1, 1)
    x = _image(*shape)

    forward, name = box_forward.box_conv2d_configs, "_box_conv2d_kernel"
    for found, size in ((same, "3x3"), (half, "3x3 stride 2")):
        w, y = _image(*found.weight_shape), _image(*found.out_shape)
        yield name, size, forward, lambda f=found, w=w: box_forward.box_conv2d(f, x, w)
        yield (
            name,
            f"{size}, statistics",
            forward,
            lambda f=found, w=w: box_forward.box_conv2d(f, x, w, statistics=True),
        )
        yield (
            name,
            f"{size}, bias, residual, ReLU",
            forward,
            lambda f=found, w=w, y=y: box_forward.box_conv2d(f, x, w, _vector(w.shape[0]), y, relu=True),
        )

    w, y = _image(128, 128, 3, 3), _image(batch, 128, 28, 28)
    joined = resolve("conv2d", y.shape, w.shape, 1, 1, 1, 1)
    short = box_forward.Shortcut(
        resolve("conv2d", shape, (128, 64, 1, 1), 2, 0, 1, 1), x, _image(128, 64, 1, 1), _vector(128)
    )
    yield (
        name,
        "3x3, bias, shortcut, ReLU",
        forward,
        lambda: box_forward.box_conv2d(joined, y, w, _vector(128), relu=True, shortcut=short),
    )

    backward, name = box_input_grad.box_conv2d_input_grad_configs, "_box_conv2d_input_grad_kernel"
    for found, size in ((same, "3x3"), (half, "3x3 stride 2")):
        w, y = _image(*found.weight_shape), _image(*found.out_shape)
        yield name, size, backward, lambda f=found, w=w, y=y: box_input_grad.box_conv2d_input_grad(f, y, w)
        yield (
            name,
            f"{size}, residual, ReLU, sums",
            backward,
            lambda f=found, w=w, y=y: box_input_grad.box_conv2d_input_grad(f, y, w, x, x, x, _vector(64)),
        )

    nine, name = box_weight_grad.box_conv2d_weight_grad_configs, "_box_conv2d_weight_grad_kernel"
    yield name, "3x3", nine, lambda: box_weight_grad.box_conv2d_weight_grad(same, x, x)
    yield (
        name,
        "3x3, gradient made",
        nine,
        lambda: box_weight_grad.box_conv2d_weight_grad(same, None, x, x, x, _vector(3, 64)),
    )

    stream, name = stream_weight_grad.stream_conv2d_weight_grad_configs, "_stream_conv2d_weight_grad_kernel"
    z = _image(*deep.out_shape)
    yield name, "3x3", stream, lambda: stream_weight_grad.stream_conv2d_weight_grad(deep, z, z)
    yield (
        name,
        "3x3 stride 2",
        stream,
        lambda: stream_weight_grad.stream_conv2d_weight_grad(half, _image(*half.out_shape), x),
    )

    image = torch.empty(stem.x_shape, dtype=torch.bfloat16, device="meta")
    yield (
        "_pooled_stem_kernel",
        "7x7, bias, ReLU, pool",
        pooled_stem.pooled_stem_configs,
        lambda: pooled_stem.pooled_stem(stem, image, _image(*stem.weight_shape), _vector(64)),
    )

    folded = torch.empty(batch, 115, 115, 16, dtype=torch.bfloat16, device="meta")
    yield (
        "_stem_weight_grad_kernel",
        "7x7",
        box_stem.stem_weight_grad_configs,
        lambda: box_stem.stem_conv2d_weight_grad(stem, _image(*stem.out_shape), folded),
    )


def read(kernel: Any) -> dict[str, int]:
    """Registers a thread, bytes of stack a thread and of shared memory a program, and counts of instructions."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+)", usage), re.search(r"STACK:(\d+)", usage)
    assert registers and stack, usage
    sass = get_sass(kernel.asm["cubin"])
    counts = {name: len(re.findall(rf"\b{name}\b", sass)) for name in INSTRUCTIONS}
    return {"registers": int(registers[1]), "stack": int(stack[1]), "shared": kernel.metadata.shared, **counts}


def table() -> Iterator[dict[str, Any]]:
    """One row for each kernel, epilogue and shipped configuration."""
    driver.set_active(OfflineDriver(*TARGETS["sm_90"]))
    with hardware.assumed((9, 0), MULTIPROCESSORS):
        for name, epilogue, configs, call in variants():
            for config in configs.shipped:
                with configs.forced(config), launch.compile_only() as compiled:
                    call()
                kernel = dict(compiled)[name]
                options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
                yield {"kernel": name, "epilogue": epilogue, "blocks": dict(config.blocks), **options, **read(kernel)}


def main(file: Path = RESULTS) -> None:
    rows = []
    for row in table():
        blocks = "×".join(str(n) for n in row["blocks"].values())
        numbers = " ".join(f"{key} {row[key]}" for key in ("registers", "stack", "shared", *INSTRUCTIONS))
        print(
            f"{row['kernel']} {row['epilogue']} | {blocks} w{row['num_warps']} s{row['num_stages']} | {numbers}",
            flush=True,
        )
        rows.append(row)
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"target": "sm_90", "dtype": "bfloat16", "triton": triton.__version__}
    file.write_text(json.dumps({**about, "kernels": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
