"""What a compiled kernel takes of a GPU, read from its code: registers, stack, and registers that were put aside."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Resources(NamedTuple):
    """``registers`` and bytes of ``stack`` of a thread, and ``spills``: what of it holds registers that did not fit.

    Spills are bytes on an NVIDIA GPU and vector registers on an AMD one. The rest of a stack is arrays that are indexed at
    run time, as the words of 2/π are where a large angle is reduced.
    """

    registers: int
    stack: int
    spills: int


def resources(kernel: Any) -> Resources:
    """The resources of a compiled kernel of either maker."""
    if "cubin" in kernel.asm:
        registers, stack = usage(kernel.asm["cubin"])
        arrays = _arrays(kernel.asm["ptx"])  # which the assembler may do without
        return Resources(registers, stack, stack - arrays if stack >= arrays else stack)
    code = kernel.asm["amdgcn"]
    names = "vgpr_count", "private_segment_fixed_size", "vgpr_spill_count"
    return Resources(*(_number(rf"\.{name}:\s+(\d+)", code) for name in names))


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = _run(_CUOBJDUMP, "-res-usage", file.name)
    return _number(r"REG:(\d+)", said), _number(r"STACK:(\d+)", said)


def _arrays(ptx: str) -> int:
    """Bytes of the arrays that the assembler was given; the stack is aligned to 8."""
    size = sum(int(found) for found in re.findall(r"^\s*\.local .*\[(\d+)\];", ptx, re.MULTILINE))
    return (size + 7) // 8 * 8


def _run(*command: Any) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text[:400])
    return int(found[1])
