"""The rates that a GPU was seen to reach, and the least time that counted launches take at them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tinyflow.kernels import hardware
from tinyflow.kernels.launch import Record


@dataclass(frozen=True)
class Ceilings:
    """Measured ceilings of one GPU.

    Attributes:
        device: its name.
        capability: its compute capability, by which kernels choose their form.
        multiprocessors: how many it has.
        flops: FLOP/s of a large matrix product, by the dtype's name.
        bandwidth: bytes/s of a large copy, reading plus writing.
        source: how that was found.
    """

    device: str
    capability: tuple[int, int]
    multiprocessors: int
    flops: Mapping[str, float]
    bandwidth: float
    source: str

    def assumed(self) -> AbstractContextManager[None]:
        """Launches on the ``meta`` device in a block are counted as this GPU would make them."""
        return hardware.assumed((self.capability[0], self.capability[1]), self.multiprocessors)

    def floor(self, records: Iterable[Record], dtype: str) -> float:
        """Seconds that launches take at least: each the longer of FLOPs / rate and bytes / bandwidth, summed.

        Raises:
            ValueError: if no rate was measured for the dtype.
        """
        if dtype not in self.flops:
            raise ValueError(f"no rate of {dtype} was measured on {self.device}; known: {', '.join(self.flops)}")
        rate = self.flops[dtype]
        return sum(max(r.cost.flops / rate, r.cost.bytes / self.bandwidth) for r in records)


@functools.cache
def known() -> dict[str, Ceilings]:
    """The ceilings of ``ceilings.json`` by a GPU's short name."""
    found = json.loads((Path(__file__).parent / "ceilings.json").read_text(encoding="utf-8"))
    return {name: Ceilings(**values) for name, values in found.items()}
