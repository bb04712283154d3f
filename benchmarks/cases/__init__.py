"""The table of all cases."""

from __future__ import annotations

from benchmarks.case import Case, Scale
from benchmarks.cases import convolution, framework, fused, operations, training
from benchmarks.peak_memory import MemoryCase


def table(scale: Scale) -> list[Case | MemoryCase]:
    """Every case, in the order in which it is run and shown."""
    return [
        *operations.cases(scale),
        *convolution.cases(scale),
        *fused.cases(scale),
        *framework.cases(scale),
        *training.cases(scale),
    ]
