"""Every launch of a captured ResNet18 step as it would run on sm_90, and what the compiler makes of it, with no GPU.

Run as ``python -m tests.compile.step [FILE]``: walks a training step and an inference pass (256 images of 224×224, bfloat16,
fused) on the ``meta`` device, compiles each launch with the configuration that it would get, and reads the machine code.
Writes JSON (default: benchmarks/results/step_sm_90.json), of which ``benchmarks.prediction`` makes times.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "0"
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton
from triton.runtime import driver

import tinyflow
from tests.compile.instructions import read as read_resources
from tests.compile.offline import MULTIPROCESSORS, TARGETS, OfflineDriver
from tinyflow import models, nn
from tinyflow.kernels import hardware, launch
from tinyflow.optim import SGD

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "step_sm_90.json"

BATCH, SIZE = 256, 224

#: Threads of a warp, and warps that make a product together.
WARP, WARPGROUP = 32, 4

#: A wait is a loop of so few instructions.
_SPIN = 5

#: Bytes of a load or a store of a thread, by the last part of its name.
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}

Step = Callable[[], Any]


def training() -> Step:
    """A step as the benchmarks have it: float32 weights, autocast, SGD with momentum."""
    model = models.resnet18()
    optimizer = SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, labels = tinyflow.empty((BATCH, 3, SIZE, SIZE)), tinyflow.empty((BATCH,), dtype=tinyflow.int64)

    def step() -> None:
        optimizer.zero_grad()
        with tinyflow.autocast("meta", dtype=tinyflow.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def inference() -> Step:
    model = models.resnet18().eval().to(tinyflow.bfloat16)
    images = tinyflow.empty((BATCH, 3, SIZE, SIZE), dtype=tinyflow.bfloat16)

    def step() -> None:
        with tinyflow.inference_mode():
            model(images)

    return step


def loops(code: list[str], labels: dict[str, int]) -> list[tuple[int, int]]:
    """First and last instruction of the loops of a kernel's body, waits apart, the outer ones first."""
    end = next((i for i, line in enumerate(code) if line == "EXIT"), len(code))
    found = []
    for i, line in enumerate(code[:end]):
        target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
        if target and i - labels.get(target[1], i) > _SPIN:
            found.append((labels[target[1]], i))
    return sorted(found, key=lambda loop: (loop[0], -loop[1]))


def _length(loop: tuple[int, int]) -> int:
    return loop[1] - loop[0]


def counted(code: list[str]) -> dict[str, int]:
    """What of some instructions the prediction wants to know."""
    names = [re.sub(r"^@!?U?P\w+\s+", "", line).split()[0] for line in code]
    kinds = Counter(name.split(".")[0] for name in names)
    memory = {kind: sum(_width(name) for name in names if name.split(".")[0] == kind) for kind in ("LDG", "STG")}
    shapes = re.findall(r"HGMMA\.(\d+)x(\d+)x(\d+)", "\n".join(names))
    return {
        "instructions": len(code),
        "bytes_loaded": memory["LDG"],  # by a thread
        "bytes_stored": memory["STG"],
        "product_flops": sum(2 * int(m) * int(n) * int(k) for m, n, k in shapes),  # of a warpgroup
        **{name: kinds[name] for name in ("LDG", "STG", "LDGSTS", "HGMMA", "UTMALDG", "UTMASTG", "BAR", "LDL", "STL")},
        "waits": sum(name.startswith("WARPGROUP.DEPBAR") for name in names),
    }


def _width(name: str) -> int:
    return next((_WIDTHS[part] for part in name.split(".")[1:] if part in _WIDTHS), 4)


def boxed_bytes(ttgir: str) -> int:
    """Bytes that an iteration of the innermost loop with boxes in it has fetched in them."""
    lines = ttgir.splitlines()
    indents = [len(line) - len(line.lstrip()) for line in lines]
    found = []
    for first, line in enumerate(lines):
        if "scf.for" in line:
            ends = (i for i in range(first + 1, len(lines)) if indents[i] == indents[first] and "}" in lines[i])
            body = lines[first + 1 : next(ends)]
            fetched = sum(int(n) for n in re.findall(r"ttng\.barrier_expect [^,]*, (\d+)", "\n".join(body)))
            if fetched and not any("scf.for" in inner for inner in body):
                found.append(fetched)
    return max(found, default=0)


def disassembled(kernel: Any) -> tuple[list[str], dict[str, int]]:
    """The instructions of a compiled kernel, and which one each label stands before."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    code: list[str] = []
    labels = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            code.append(instruction[1].strip())
    return code, labels


def read(kernel: Any) -> dict[str, Any]:
    """Registers, memory and instructions of a compiled kernel."""
    code, labels = disassembled(kernel)
    found = loops(code, labels)
    inner = [a for a in found if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in found)]
    products = [loop for loop in inner if "HGMMA" in " ".join(code[loop[0] : loop[1]])]
    # a loop that others are left from and entered looks longer than it is
    longest = min(products, key=_length) if products else max(inner, key=_length, default=None)
    outer = None if longest is None else next((a for a in found if a[0] <= longest[0] and longest[1] <= a[1]), None)
    spans = {"loop": longest, "outer": outer if outer != longest else None}
    return {
        **{
            name: value
            for name, value in read_resources(kernel, "sm_90").items()
            if name in ("registers", "stack", "shared")
        },
        "all": counted(code),
        **{name: counted(code[span[0] : span[1] + 1]) for name, span in spans.items() if span is not None},
        "boxed": boxed_bytes(kernel.asm["ttgir"]),
    }


def walked(make: Callable[[], Step]) -> list[dict[str, Any]]:
    """The launches of a step in order."""
    step = make()
    step()  # after which weights are folded, and copies and momentum buffers there
    launches: list[tuple[launch.Launch, Any]] = []

    def observer(made: launch.Launch) -> Callable[[], None]:
        return lambda: launches.append((made, compiled[-1][1]))

    with launch.compile_only() as compiled, launch.observed(observer):
        step()
    facts: dict[str, dict[str, Any]] = {}
    rows = []
    for made, kernel in launches:
        if kernel.hash not in facts:
            facts[kernel.hash] = read(kernel)
        operands = [getattr(x, "base", x) for x in made.args]
        rows.append(
            {
                "kernel": made.kernel.__name__,
                "operands": [list(x.shape) for x in operands if hasattr(x, "stride")],
                "grid": list(made.grid),
                "blocks": dict(made.config.blocks),
                "num_warps": made.config.num_warps,
                "num_stages": made.config.num_stages,
                "flops": made.cost.flops,
                "bytes": made.cost.bytes,
                **facts[kernel.hash],
            }
        )
    return rows


def main(file: Path = RESULTS) -> None:
    driver.set_active(OfflineDriver(*TARGETS["sm_90"]))
    tinyflow.set_default_device("meta")
    with hardware.assumed((9, 0), MULTIPROCESSORS):
        steps = {"training": walked(training), "inference": walked(inference)}
    about = {"target": "sm_90", "dtype": "bfloat16", "triton": triton.__version__, "images": BATCH, "size": SIZE}
    for name, rows in steps.items():
        print(f"{name}: {len(rows)} launches, {sum(row['bytes'] for row in rows) / 1e9:.2f} GB")
    file.write_text(json.dumps({**about, "multiprocessors": MULTIPROCESSORS, "steps": steps}, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
