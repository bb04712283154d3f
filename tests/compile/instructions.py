"""What the compiler makes of the convolutions by boxes: registers, shared memory, and the instructions that count.

Run as ``python -m tests.compile.instructions [FILE [TARGET]]``, for sm_90 or sm_100: compiles every configuration that ships
there, with every epilogue, on ResNet18's layers, with no GPU. Prints a table and writes it as JSON (default: sm_90's, to
benchmarks/results/compile_sm_90.json).
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "0"
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime import driver
from triton.tools.disasm import get_sass

from tests.compile.offline import MULTIPROCESSORS, TARGETS, OfflineDriver, capability
from tests.compile.resources import usage
from tinyflow.kernels import hardware, launch
from tinyflow.kernels.conv2d import (
    box_forward,
    box_input_grad,
    box_stem,
    box_weight_grad,
    dispatch,
    stream_weight_grad,
)
from tinyflow.kernels.conv2d.geometry import resolve
from tinyflow.kernels.fused import pooled_stem, stem_weight_grad
from tinyflow.kernels.launch import Configs

#: Products on the tensor core, waits for them, loads and stores of boxes, and spills.
INSTRUCTIONS = {
    "sm_90": ("HGMMA", "WARPGROUP.DEPBAR", "UTMALDG", "UTMASTG", "LDSM", "LDL", "STL"),
    "sm_100": ("UTCHMMA", "UTMALDG", "UTMASTG", "LDSM", "LDL", "STL"),
}

#: The kernels that the table tells of; the launchers make others besides.
KERNELS = (
    "_box_conv2d_kernel",
    "_row_conv2d_kernel",
    "_box_conv2d_input_grad_kernel",
    "_row_conv2d_input_grad_kernel",
    "_box_conv2d_weight_grad_kernel",
    "_stream_conv2d_weight_grad_kernel",
    "_pooled_stem_kernel",
    "_stem_weight_grad_kernel",
    "_pooled_stem_weight_grad_kernel",
)

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "compile_sm_90.json"

Call = Callable[[], Any]


def _image(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta").to(memory_format=torch.channels_last)


def _vector(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def variants() -> Iterator[tuple[str, Configs, Call]]:
    """An epilogue, the configurations to try, and a launch."""
    shape, batch = (256, 64, 56, 56), 256
    same = resolve("conv2d", shape, (64, 64, 3, 3), 1, 1, 1, 1)
    half = resolve("conv2d", shape, (128, 64, 3, 3), 2, 1, 1, 1)
    deep = resolve("conv2d", (batch, 512, 7, 7), (512, 512, 3, 3), 1, 1, 1, 1)
    stem = resolve("conv2d", (batch, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1, 1)
    x = _image(*shape)

    wide, narrow = box_forward.box_conv2d_configs, box_forward.narrow_conv2d_configs
    for found, size, forward in ((same, "3x3", narrow), (half, "3x3 stride 2", wide)):
        w, y = _image(*found.weight_shape), _image(*found.out_shape)
        yield size, forward, lambda f=found, w=w: box_forward.box_conv2d(f, x, w)
        yield (
            f"{size}, statistics",
            forward,
            lambda f=found, w=w: box_forward.box_conv2d(f, x, w, statistics=True),
        )
        yield (
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
        "3x3, bias, shortcut, ReLU",
        wide,
        lambda: box_forward.box_conv2d(joined, y, w, _vector(128), relu=True, shortcut=short),
    )

    wide, narrow = box_input_grad.box_conv2d_input_grad_configs, box_input_grad.narrow_conv2d_input_grad_configs
    for found, size, backward in ((same, "3x3", narrow), (half, "3x3 stride 2", wide)):
        w, y = _image(*found.weight_shape), _image(*found.out_shape)
        yield size, backward, lambda f=found, w=w, y=y: box_input_grad.box_conv2d_input_grad(f, y, w)
        yield (
            f"{size}, residual, ReLU, sums",
            backward,
            lambda f=found, w=w, y=y: box_input_grad.box_conv2d_input_grad(f, y, w, x, x, x, _vector(64)),
        )

    nine = box_weight_grad.box_conv2d_weight_grad_configs
    yield "3x3", nine, lambda: box_weight_grad.box_conv2d_weight_grad(same, x, x)
    if dispatch.makes_gradient(x.device):
        yield (
            "3x3, gradient made",
            nine,
            lambda: box_weight_grad.box_conv2d_weight_grad(same, None, x, x, x, _vector(3, 64)),
        )

    stream = stream_weight_grad.stream_conv2d_weight_grad_configs
    z = _image(*deep.out_shape)
    yield "3x3", stream, lambda: stream_weight_grad.stream_conv2d_weight_grad(deep, z, z)
    yield (
        "3x3 stride 2",
        stream,
        lambda: stream_weight_grad.stream_conv2d_weight_grad(half, _image(*half.out_shape), x),
    )

    image = torch.empty(stem.x_shape, dtype=torch.bfloat16, device="meta")
    if pooled_stem.suits(stem, image.dtype, image.device):
        yield (
            "7x7, bias, ReLU, pool",
            pooled_stem.pooled_stem_configs,
            lambda: pooled_stem.pooled_stem(stem, image, _image(*stem.weight_shape), _vector(64)),
        )

    folded = torch.empty(batch, 115, 115, 16, dtype=torch.bfloat16, device="meta")
    yield (
        "7x7",
        box_stem.stem_weight_grad_configs,
        lambda: box_stem.stem_conv2d_weight_grad(stem, _image(*stem.out_shape), folded),
    )
    if dispatch.makes_gradient(x.device):
        taps = x.to(torch.uint8, memory_format=torch.channels_last)
        yield (
            "7x7, gradient made",
            stem_weight_grad.pooled_stem_weight_grad_configs,
            lambda: stem_weight_grad.pooled_stem_weight_grad(
                stem, x, taps, _image(*stem.out_shape), _vector(3, 64), folded
            ),
        )


def read(kernel: Any, target: str = "sm_90") -> dict[str, int]:
    """Registers a thread, bytes of stack a thread and of shared memory a program, and counts of instructions."""
    registers, stack = usage(kernel.asm["cubin"])
    sass = get_sass(kernel.asm["cubin"])
    counts = {name: len(re.findall(rf"\b{re.escape(name)}\b", sass)) for name in INSTRUCTIONS[target]}
    return {"registers": registers, "stack": stack, "shared": kernel.metadata.shared, **counts}


def table(target: str) -> Iterator[dict[str, Any]]:
    """One row for each kernel, epilogue and shipped configuration."""
    gpu, limit = TARGETS[target]
    driver.set_active(OfflineDriver(gpu, limit))
    with hardware.assumed(capability(gpu), MULTIPROCESSORS):
        for epilogue, configs, call in variants():
            for config in configs.shipped_for(capability(gpu)):
                with configs.forced(config), launch.compile_only() as compiled:
                    call()
                name, kernel = next(entry for entry in compiled if entry[0] in KERNELS)
                chosen = {"blocks": dict(config.blocks), "num_warps": config.num_warps, "num_stages": config.num_stages}
                yield {"kernel": name, "epilogue": epilogue, **chosen, **read(kernel, target)}


def main(file: str | Path = RESULTS, target: str = "sm_90") -> None:
    rows, file = [], Path(file)
    for row in table(target):
        blocks = "×".join(str(n) for n in row["blocks"].values())
        numbers = " ".join(f"{key} {row[key]}" for key in ("registers", "stack", "shared", *INSTRUCTIONS[target]))
        print(
            f"{row['kernel']} {row['epilogue']} | {blocks} w{row['num_warps']} s{row['num_stages']} | {numbers}",
            flush=True,
        )
        rows.append(row)
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"target": target, "dtype": "bfloat16", "triton": triton.__version__}
    file.write_text(json.dumps({**about, "kernels": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
