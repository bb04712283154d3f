"""New memory that is full of NaN, so that what a kernel leaves unwritten cannot pass for a result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tinyflow.kernels import memory


def _fill(x: torch.Tensor) -> None:
    x.fill_(float("nan") if x.is_floating_point() else 0x55)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Import it into a test file, and every buffer that a launcher allocates starts as NaN (integers: 85)."""
    memory.allocation_hooks.append(_fill)
    yield
    memory.allocation_hooks.remove(_fill)
