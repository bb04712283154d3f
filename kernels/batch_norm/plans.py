"""How launches share out pixels and channels: tiles, splits of a reduction, and the tile that finishes it."""

from __future__ import annotations

from tinyflow.kernels.configs import interpreting
from tinyflow.kernels.launch import MAX_BLOCK, Config, block, cdiv

_TALL = Config({"BLOCK_P": 128, "BLOCK_C": 32})
_WIDE = Config({"BLOCK_P": 32, "BLOCK_C": 128})

TILES = (_TALL, _WIDE)

#: The same where a kernel keeps more than fits of those: float64, or statistics that change from channel to channel.
SMALL_TILES = Config({"BLOCK_P": 32, "BLOCK_C": 32}), Config({"BLOCK_P": 8, "BLOCK_C": 128})

#: Partial results of one channel: enough programs to fill a GPU, few enough for one finishing tile.
_MAX_SPLITS = 256

#: Tiles of so many elements, which only the interpreter has, are a split each: a loop over several costs more there.
_HUGE_TILE = 2**16


def choose_tile(pixels: int, channels: int) -> Config:
    return _WIDE if channels > 64 else _TALL


def interpreter_tile(pixels: int, channels: int) -> Config:
    """All channels, and as many pixels as one tile takes."""
    block_c = block(channels)
    return Config({"BLOCK_P": block(pixels, MAX_BLOCK // block_c), "BLOCK_C": block_c})


def pixel_splits(config: Config, pixels: int, channels: int) -> tuple[int, int]:
    """How many splits of how many pixels (a whole number of tiles) share a reduction; it depends on shapes alone."""
    if pixels == 0:
        return 0, 0
    block_p = config.blocks["BLOCK_P"]
    tiles = cdiv(pixels, block_p)
    if block_p * config.blocks["BLOCK_C"] >= _HUGE_TILE:
        wanted = min(_MAX_SPLITS, tiles)
    else:
        wanted = max(1, min(_MAX_SPLITS, 1024 // cdiv(channels, config.blocks["BLOCK_C"]), tiles // 4))
    split_pixels = cdiv(tiles, wanted) * block_p
    return cdiv(pixels, split_pixels), split_pixels


def is_one_program(splits: int, one_tile: bool) -> bool:
    """True where a program that has a channel's sums goes on to its result: a launch costs more than its work."""
    return interpreting() and splits == 1 and one_tile


def finish_config(splits: int, channels: int) -> Config:
    # 16 channels of 256 splits are 4096 elements; the interpreter has one split and takes all channels at once
    return Config({"BLOCK_S": block(splits), "BLOCK_C": block(channels, max(16, 4096 // block(splits)))})
