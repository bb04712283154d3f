"""What the tiles of a convolution cost, by estimate: the arithmetic by which they are chosen where nothing was measured.

A multiprocessor multiplies, fetches boxes through the second-level cache, moves memory, and between two tiles drains its
pipeline and writes. The first three overlap, so the longest counts, and a little of the others. How fast the cache is
decides many choices and is not known: the estimate is the mean over rates that it may have, so that a tile much worse at
one of them is not taken for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tinyflow.kernels import ceilings
from tinyflow.kernels.launch import Config

_GPU = ceilings.known()["h100"]

#: For one multiprocessor: FLOP/s of a large half-precision product and bytes/s of a large copy, as measured.
PRODUCTS, MEMORY = _GPU.flops["bfloat16"] / _GPU.multiprocessors, _GPU.bandwidth / _GPU.multiprocessors

#: Cycles a second, and those between two instructions of a warp, assumed.
CLOCK, CYCLES = 1.755e9, 4

#: Bytes/s of boxes through the second-level cache, assumed: 4 TB/s is about what the best known convolution of few channels
#: reaches, 9 what 5,120 bytes a cycle at 1.755 GHz come to, 6.5 is half-way.
CACHE_RATES = tuple(rate / _GPU.multiprocessors for rate in (4.0e12, 6.5e12, 9.0e12))

#: Seconds from the last box of a tile to the first of the next, assumed: a load from memory and a bit.
REFILL = 0.8e-6

#: Seconds for each element of a tile between its products and the next tile's, from instructions: some 900 of each of eight
#: warps for 128×256 elements, two a cycle.
WRITE = 8 * 900 / (2 * CLOCK) / (128 * 256)

#: Seconds of a turn of a loop over boxes, from instructions: some 160 of each warp, one in four cycles.
TURN = CYCLES * 160 / CLOCK

#: How much of what overlaps with something longer is not hidden by it, assumed.
SEEN = 0.1

#: What an estimate cannot tell apart.
MARGIN = 1.05


def of(
    flops: float, fetched: float, moved: float, turns: float, tiles: float, written: int, together: int = 1
) -> float:
    """Seconds that a multiprocessor takes.

    Args:
        flops: that the busiest multiplies.
        fetched: bytes in boxes; a share of what all fetch, since they wait for the same cache.
        moved: bytes of memory, likewise.
        turns: of loops over boxes, of the busiest.
        tiles: that the busiest finishes.
        written: elements of a tile.
        together: programs that it holds at a time, which fill each other's pauses.
    """
    busy = max(flops / PRODUCTS, turns * TURN / together) + tiles * (REFILL + WRITE * written) / together
    return sum(_overlapped(busy, fetched / rate, moved / MEMORY) for rate in CACHE_RATES) / len(CACHE_RATES)


def _overlapped(*parts: float) -> float:
    return (1 - SEEN) * max(parts) + SEEN * sum(parts)


def first_of_the_quickest(configs: Iterable[Config], estimate: Callable[[Config], float]) -> Config:
    """The first that takes no longer than the quickest, as far as an estimate can tell."""
    found = [(estimate(config), config) for config in configs]
    least = min(seconds for seconds, _ in found)
    return next(config for seconds, config in found if seconds <= MARGIN * least)
