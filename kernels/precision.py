"""Which float32 products a GPU may compute from factors rounded to TF32: torch's switches, with torch's defaults."""

from __future__ import annotations

from dataclasses import dataclass

from tinyflow.kernels import memory


@dataclass
class TF32:
    """True allows it. Sums stay in float32; other dtypes, and the interpreter, are never concerned."""

    matmul: bool = False
    convolution: bool = True


#: What launchers follow where a call does not say.
tf32 = TF32()


def input_precision(dtype: memory.dtype, allowed: bool) -> str:
    """The word for it in ``tl.dot``. Only float32 may be rounded; Triton 3.6 fails on "tf32" for float64 on AMD."""
    return "tf32" if allowed and dtype == memory.float32 else "ieee"
