"""Settles, once and before Triton is imported, whether kernels are compiled for a GPU or run by Triton's interpreter.

Triton reads ``TRITON_INTERPRET`` when a kernel's file is imported, so one process either compiles or interprets. A value
that the user has set is respected; with none, the interpreter serves machines without a GPU.
"""

from __future__ import annotations

import os
import sys

from tinyflow.kernels import environment, memory

_ENVIRONMENT = "TRITON_INTERPRET"


def _triton_was_imported_to_compile() -> bool:
    language = sys.modules.get("triton.language")
    return language is not None and type(language.sum).__name__ == "JITFunction"


def _settle() -> bool:
    requested = os.environ.get(_ENVIRONMENT)
    if requested is None:
        interpret = not memory.gpu_available()
    else:
        interpret = requested.lower() in environment.YES
    if interpret and _triton_was_imported_to_compile():
        raise RuntimeError(
            "tinyflow found no GPU and needs Triton's interpreter, but triton was already imported in compiled mode. "
            f"Import tinyflow before triton, or start the program with {_ENVIRONMENT}=1."
        )
    if interpret and requested is None:
        os.environ[_ENVIRONMENT] = "1"
        if not environment.flag("TINYFLOW_QUIET"):
            print("tinyflow: no GPU found, kernels run in Triton's interpreter on the CPU", file=sys.stderr)
    return interpret


#: True where kernels run in Triton's interpreter on host memory, False where they are compiled for a GPU.
INTERPRETING: bool = _settle()
