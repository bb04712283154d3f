"""A few of the cases for pytest-benchmark (its JSON, comparison, groups): ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

from typing import Any

import pytest

import tinyflow
from benchmarks.case import FULL, Case
from benchmarks.cases import table

_CHOSEN = (
    "elementwise/add",
    "copies/transposed",
    "reductions/sum of rows",
    "matmul/512 cubed",
    "convolution/layer2 3×3, forward",
    "convolution/layer2 3×3, weight gradient",
    "batch_norm/training",
    "pooling/maximum 3×3/2",
    "softmax/softmax",
    "cross_entropy/cross_entropy",
    "engine/backward",
    "launcher/one store",
)
_CASES = {c.key: c for c in table(FULL) if isinstance(c, Case) and c.key in _CHOSEN}


@pytest.mark.parametrize("contender", ["tinyflow", "torch"])
@pytest.mark.parametrize("key", _CHOSEN)
def test_case(benchmark: Any, key: str, contender: str) -> None:
    benchmark.group = key
    device = tinyflow.get_default_device()
    call = _CASES[key].calls(device)[contender]

    def call_and_wait() -> None:
        call()
        tinyflow.synchronize(device)

    call_and_wait()
    benchmark.pedantic(call_and_wait, rounds=10)
