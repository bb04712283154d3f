"""Boxes: the tiles of a convolution that the tensor memory accelerator of sm_90 and later fetches whole.

In channels-last memory an operand of the implicit matrix product is a box of ``TN`` images × ``TH`` × ``TW`` pixels ×
some channels, moved by the tap. A tensor descriptor loads it in one instruction and reads zeros outside the image, so
padding costs nothing and no element has an address of its own. Weights lie as rows of K by columns (r, s, c); they are
operand A of the product (M), pixels are operand B (N): a reshaped box feeds the tensor core from shared memory as B, not
as A.

With a stride of 2 every second row and column is read or written. They are a box too, of the view (n, h / 2, h % 2,
w / 2, (w % 2)·C + c), for even sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tinyflow.kernels import elementwise, hardware, memory, strides
from tinyflow.kernels.conv2d import times
from tinyflow.kernels.launch import MAX_BLOCK, Config, block, cdiv
from tinyflow.kernels.memory import Buffer

#: Bytes to which the base and the strides of a descriptor are aligned.
ALIGNMENT = 16

#: Shared memory that the programs of one multiprocessor have together, in bytes.
SHARED_MEMORY = 227 * 1024


@triton.jit
def box_place(tile, height, width, TN: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """The first image, row and column of a box; neighbours in a row follow each other and share what L2 holds."""
    across = tl.cdiv(width, TW)
    down = tl.cdiv(height, TH)
    return tile // (across * down) * TN, tile // across % down * TH, tile % across * TW


@triton.jit
def box_tiles(images, height, width, TN: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """How many boxes cover a batch of images."""
    return tl.cdiv(images, TN) * tl.cdiv(height, TH) * tl.cdiv(width, TW)


@triton.jit
def step_place(step, columns, tiles, CHANNELS: tl.constexpr):
    """Of a step of a walk over ``columns`` taps a row and ``tiles`` of channels: tap row, tap column, first channel."""
    tap = step // tiles
    return tap // columns, tap % columns, step % tiles * CHANNELS


@triton.jit
def add_product(grad, pixels, acc, exists, TENSOR_MEMORY: tl.constexpr):
    """``acc + grad · pixels`` in a turn of a walk over boxes; ``exists``: whether the turn has one, true in each."""
    acc = tl.dot(grad, pixels, acc, input_precision="ieee")
    # What goes on to the next turn as it is would be moved between registers with products in flight, and the assembler
    # would then wait after every instruction. A choice, even one that is always made alike, keeps the sums where they are.
    if not TENSOR_MEMORY:
        acc = tl.where(exists, acc, 0.0)
    return acc


@triton.jit
def load_box(boxes, n, h, w, c, C, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, STRIDE: tl.constexpr):
    """PIXELS × CHANNELS at image n, row h, column w and channel c on, every STRIDE-th row and column of them."""
    if STRIDE == 1:
        box = boxes.load([n, h, w, c])
    else:
        box = boxes.load([n, h >> 1, h & 1, w >> 1, (w & 1) * C + c])
    return box.reshape(PIXELS, CHANNELS)


@dataclass(frozen=True)
class Tile:
    """The output tile of a configuration, as its blocks name it: a box of pixels by rows of the weight matrix."""

    images: int
    rows: int
    columns: int
    channels: int

    @property
    def pixels(self) -> int:
        return self.images * self.rows * self.columns

    def count(self, images: int, height: int, width: int) -> int:
        """How many boxes of pixels cover a batch of images."""
        return cdiv(images, self.images) * cdiv(height, self.rows) * cdiv(width, self.columns)


def tile_of(config: Config, channels: str) -> Tile:
    """The tile of a configuration, whose block ``channels`` counts rows of the weight matrix."""
    return Tile(config.blocks["TN"], config.blocks["TH"], config.blocks["TW"], config.blocks[channels])


def boxed(box: tuple[int, int, int], k: int, c: int, warps: int, stages: int) -> Config:
    """A configuration with boxes of (images, rows, columns), and tiles of k × c of the weight matrix."""
    blocks = {"TN": box[0], "TH": box[1], "TW": box[2], "BLOCK_K": k, "BLOCK_C": c}
    return Config(blocks, num_warps=warps, num_stages=stages)


def whole_boxes(images: int, height: int, width: int, k: int, c: int) -> Config:
    """The interpreter's configuration: boxes as large as the problem."""
    columns, rows = block(width, 1024), block(height, 1024)
    across = min(block(k), 1024), min(block(c), 1024)
    tn = block(images, max(MAX_BLOCK // (rows * columns * max(across)), 1))
    return boxed((max(tn, cdiv(16, rows * columns)), rows, columns), max(across[0], 16), max(across[1], 16), 4, 2)


def whole_channels(c: int) -> int:
    """The widest tile of channels, up to 128, that ends with the last one, as the columns of a stride of 2 need it."""
    return min(c & -c, 128)


def _met(taps: int, size: int, tile: int, stride: int) -> list[int]:
    """Along one axis, how many taps each box meets, of a convolution padded by half its taps."""
    before = taps // 2
    firsts = [max(before - (at + tile - 1) * stride, 0) for at in range(0, size, tile)]
    ends = [min((size - at) * stride + before, taps) for at in range(0, size, tile)]
    return [end - first for first, end in zip(firsts, ends)]


def quickest(
    configs: Iterable[Config],
    rows: str,
    images: int,
    height: int,
    width: int,
    channels: int,
    reduced: int,
    taps: tuple[int, int],
    stride: int,
    multiprocessors: int,
    phases: int = 1,
) -> Config:
    """The first configuration that, by estimate, takes hardly longer than the quickest (see ``times``).

    Args:
        configs: those first whose boxes lie closest together in memory.
        rows: the block that divides ``channels``, the rows of the weight matrix.
        images, height, width: the pixels that boxes cover.
        reduced: the channels that are summed over.
        phases: into which a gradient's rows and columns are split; they share the taps.
    """

    def estimate(config: Config) -> float:
        tile, depth = tile_of(config, rows), _depth(config, rows)
        boxes, across = tile.count(images, height, width) * phases, cdiv(channels, tile.channels)
        streams = _streams(config, rows, across, boxes, multiprocessors)
        together = cdiv(streams * across, multiprocessors)
        down, along = _met(taps[0], height, tile.rows, stride), _met(taps[1], width, tile.columns, stride)
        met = [r * c for r in down for c in along] * (boxes // (len(down) * len(along)))
        if min(met) == max(met):
            busiest = met[0] * cdiv(boxes, streams)
        else:
            busiest = max(sum(met[first::streams]) for first in range(streams))
        turns, all_turns = (n * cdiv(reduced, depth) / phases for n in (busiest * together, sum(met) * across))
        return times.of(
            flops=turns * depth * 2 * tile.pixels * tile.channels,
            fetched=all_turns * depth * 2 * (tile.pixels + tile.channels) / multiprocessors,
            moved=2 * images * height * width * phases * (channels + reduced) / multiprocessors,
            turns=turns,
            tiles=cdiv(boxes, streams) * together,
            written=tile.pixels * tile.channels,
            together=together,
        )

    return times.first_of_the_quickest(configs, estimate)


def _depth(config: Config, rows: str) -> int:
    """How many of the channels that are summed over a box has."""
    return config.blocks["BLOCK_C" if rows == "BLOCK_K" else "BLOCK_K"]


def _streams(config: Config, rows: str, across: int, tiles: int, multiprocessors: int) -> int:
    tile, depth = tile_of(config, rows), _depth(config, rows)
    elements = config.num_stages * depth * (tile.pixels + tile.channels) + tile.pixels * tile.channels
    resident = max(min(SHARED_MEMORY // (2 * elements), 16 // config.num_warps), 1)
    return max(min(multiprocessors * resident // across, tiles), 1)


def streams(config: Config, rows: str, channels: int, tiles: int, device: memory.device) -> int:
    """How many programs share the boxes of one tile of channels: as many as the device holds at a time."""
    across = cdiv(channels, tile_of(config, rows).channels)
    return _streams(config, rows, across, tiles, hardware.multiprocessors(device))


def for_boxes(x: Buffer) -> Buffer:
    """``x`` (N, C, H, W) in aligned channels-last memory: itself, or a copy."""
    if x.data_ptr() % ALIGNMENT:
        return elementwise.copy(x, layout=strides.channels_last_strides(x.shape))
    return elementwise.channels_last(x)


def image_boxes(x: Buffer, config: Config, channels: str, stride: int = 1) -> TensorDescriptor:
    """Boxes of ``x`` (N, C, H, W) in channels-last memory, of every ``stride``-th row and column, 1 or 2."""
    n, c, h, w = x.shape
    tn, th, tw, bc = (config.blocks[name] for name in ("TN", "TH", "TW", channels))
    if stride == 1:
        return TensorDescriptor(x, [n, h, w, c], [h * w * c, w * c, c, 1], [tn, th, tw, bc])
    shape, steps = [n, cdiv(h, 2), 2, cdiv(w, 2), 2 * c], [h * w * c, 2 * w * c, w * c, 2 * c, 1]
    return TensorDescriptor(x, shape, steps, [tn, th, 1, tw, bc])


def weight_tiles(weight: Buffer, config: Config) -> TensorDescriptor:
    """Tiles of the weight matrix: ``weight`` in dense memory, K rows of all that follows, (r, s, c).

    A tile that passes the last channel reads the next tap's weights; the pixels' zeros cancel them.
    """
    k = weight.shape[0]
    columns = weight.numel() // k
    tile = [config.blocks["BLOCK_K"], config.blocks["BLOCK_C"]]
    return TensorDescriptor(weight, [k, columns], [columns, 1], tile)
