"""Rows: a 3×3 convolution of few channels as a stream of rows, where a box of pixels serves three output rows.

The boxes of ``boxes`` fetch every pixel once for each tap, and with 64 channels it is L2 that cannot keep up. Here a
program keeps the weights of all nine taps and walks down a *strip* of TN images × TW columns. Of each input row it fetches
one box for each tap column, and multiplies it for three output rows at once: row h brings output row h − 1 its last
products, row h its second and row h + 1 its first. So a pixel is fetched three times, not nine, and no weight again.

A strip has H + 2 steps, rows −1 to H; outside the image boxes are zeros. The steps of all strips stand in one line that is
cut into equal shares, one for each program. A share begins two steps early, so that its first row is whole, and ends one
step late: a row is written in the step after its last products, so that the epilogue fills the time in which boxes arrive.
What is not a program's own goes to row H, below the image, where stores are dropped and loads are zeros; nothing branches.

Pixels are operand A of the product (M) and pass through registers, once for three uses. The compiler waits for each
product before it issues the next. Therefore two of the three accumulators lie side by side and share a wider product: six
waits a row instead of nine. Warps of another program, or of the same, fill them.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tinyflow.kernels import hardware, memory
from tinyflow.kernels.conv2d.boxes import SHARED_MEMORY
from tinyflow.kernels.conv2d.geometry import Geometry
from tinyflow.kernels.launch import Config, cdiv
from tinyflow.kernels.memory import Buffer

#: The most channels, in and out, whose nine weight tiles a program can keep.
MOST_CHANNELS = 64


@triton.jit
def share_of_steps(steps):
    """The first step of this program's share, and the first behind it."""
    program = tl.cast(tl.program_id(0), tl.int64)
    first = program * steps // tl.num_programs(0)
    end = (program + 1) * steps // tl.num_programs(0)
    return first.to(tl.int32), end.to(tl.int32)


@triton.jit
def place_of_step(step, H, W, TN: tl.constexpr, TW: tl.constexpr):
    """The first image, the input row and the first column of a step."""
    strip = step // (H + 2)
    across = tl.cdiv(W, TW)
    return strip // across * TN, step % (H + 2) - 1, strip % across * TW


@triton.jit
def tap_weights(tiles, r, s, TAPS: tl.constexpr, CHANNELS: tl.constexpr, BACK: tl.constexpr):
    """What a box is multiplied by at tap column s: side by side the weights of TAPS tap rows, from r on.

    Columns are (r, k), rows c; for the gradient, BACK, columns are (r, c) and rows k.
    """
    tile = tiles.load([r, s, 0, 0])
    if BACK:
        tile = tile.reshape(TAPS, CHANNELS, CHANNELS).permute(1, 0, 2)
        return tile.reshape(CHANNELS, TAPS * CHANNELS)
    else:
        return tile.reshape(TAPS * CHANNELS, CHANNELS).T


@triton.jit
def all_tap_weights(single, pair, CHANNELS: tl.constexpr, BACK: tl.constexpr):
    """For the boxes left of, at and right of a pixel: the weights of the row that is finished, and of the two others."""
    FIRST: tl.constexpr = 2 if BACK else 0
    STEP: tl.constexpr = -1 if BACK else 1
    ALONE: tl.constexpr = 0 if BACK else 2
    return (
        tap_weights(single, ALONE, FIRST, 1, CHANNELS, BACK),
        tap_weights(single, ALONE, 1, 1, CHANNELS, BACK),
        tap_weights(single, ALONE, FIRST + 2 * STEP, 1, CHANNELS, BACK),
        tap_weights(pair, 1 if BACK else 0, FIRST, 2, CHANNELS, BACK),
        tap_weights(pair, 1 if BACK else 0, 1, 2, CHANNELS, BACK),
        tap_weights(pair, 1 if BACK else 0, FIRST + 2 * STEP, 2, CHANNELS, BACK),
    )


@triton.jit
def side_by_side(a, b):
    return tl.join(a, b).permute(0, 2, 1).reshape(a.shape[0], 2 * a.shape[1])


@triton.jit
def halves(a):
    return a.reshape(a.shape[0], 2, a.shape[1] // 2).permute(0, 2, 1).split()


@triton.jit
def take_row(boxes, n, h, w, H, above, here, weights, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, BACK: tl.constexpr):
    """Multiplies input row h for three output rows.

    Args:
        above, here: what output rows h − 1 and h have of the rows before.
        weights: from :func:`all_tap_weights`.

    Returns output row h − 1, finished, and the two sums that the next row goes on with.
    """
    left = boxes.load([n, h, w - 1, 0]).reshape(PIXELS, CHANNELS)
    middle = boxes.load([n, h, w, 0]).reshape(PIXELS, CHANNELS)
    right = boxes.load([n, h, w + 1, 0]).reshape(PIXELS, CHANNELS)
    zeros = tl.zeros((PIXELS, CHANNELS), tl.float32)
    if BACK:
        others = side_by_side(here, zeros)
    else:
        others = side_by_side(zeros, here)
    others = tl.dot(left, weights[3], others, input_precision="ieee")
    above = tl.dot(left, weights[0], above, input_precision="ieee")
    others = tl.dot(middle, weights[4], others, input_precision="ieee")
    above = tl.dot(middle, weights[1], above, input_precision="ieee")
    others = tl.dot(right, weights[5], others, input_precision="ieee")
    above = tl.dot(right, weights[2], above, input_precision="ieee")
    if BACK:
        here, below = halves(others)
    else:
        below, here = halves(others)
    # a strip leaves nothing to the next. That this is a choice at every row also keeps the sums where they are: what goes
    # on to the next step as it is would be moved between registers with products in flight, and the assembler would
    # then wait after every instruction
    within = h < H
    return tl.where(h > 0, above, 0.0), tl.where(within, here, 0.0), tl.where(within, below, 0.0)


def rows_suit(found: Geometry) -> bool:
    """Whether a convolution that boxes can do is one for rows, too: 3×3 at a stride of 1, sizes kept, few channels."""
    same = found.kernel == (3, 3) and found.stride == (1, 1) and found.padding == ((1, 1), (1, 1))
    return same and max(found.weight_shape[:2]) <= MOST_CHANNELS


def rowed(images: int, columns: int, warps: int, stages: int, channels: int = MOST_CHANNELS) -> Config:
    """A configuration with strips of so many images and columns.

    The stages are a constant of the kernel, too: a loop that names them fetches the boxes of its epilogue ahead, and not
    those of its products alone.
    """
    blocks = {"TN": images, "TW": columns, "CHANNELS": channels, "STAGES": stages}
    return Config(blocks, num_warps=warps, num_stages=stages)


def walks_rows(config: Config) -> bool:
    """Whether a configuration is one for rows: boxes of more than one row have a height."""
    return "TH" not in config.blocks


def row_steps(config: Config, images: int, height: int, width: int) -> int:
    """The steps of all strips."""
    return cdiv(images, config.blocks["TN"]) * cdiv(width, config.blocks["TW"]) * (height + 2)


def row_programs(config: Config, steps: int, added: Sequence[Buffer | None], device: memory.device) -> int:
    """How many programs share the steps: as many as the device holds at a time.

    Args:
        added: what the epilogue reads, if it does, a box in each step.
    """
    channels, pixels = config.blocks["CHANNELS"], config.blocks["TN"] * config.blocks["TW"]
    read = 3 + sum(other is not None for other in added)
    elements = channels * (9 * channels + (read * (config.num_stages - 1) + 1) * pixels)
    resident = max(min(SHARED_MEMORY // (2 * elements), 16 // config.num_warps), 1)
    return max(min(hardware.multiprocessors(device) * resident, steps), 1)


def row_boxes(x: Buffer, config: Config) -> TensorDescriptor:
    """Boxes of one row of ``x`` (N, C, H, W) in channels-last memory."""
    n, c, h, w = x.shape
    block = [config.blocks["TN"], 1, config.blocks["TW"], config.blocks["CHANNELS"]]
    return TensorDescriptor(x, [n, h, w, c], [h * w * c, w * c, c, 1], block)


def tap_tiles(weight: Buffer, config: Config) -> tuple[TensorDescriptor, TensorDescriptor]:
    """Of ``weight`` (K, C, 3, 3) in K·R·S·C order the tiles of one tap, and those of one tap row and the next."""
    k, c, r, s = weight.shape
    shape, steps = [r, s, k, c], [s * c, c, r * s * c, 1]
    single, pair = ([taps, 1, config.blocks["CHANNELS"], config.blocks["CHANNELS"]] for taps in (1, 2))
    return TensorDescriptor(weight, shape, steps, single), TensorDescriptor(weight, shape, steps, pair)
