"""Samples at given places, none of them where a derivative jumps."""

import numpy as np
import torch.nn.functional as F

from tests.ops.case import case

IMAGE, GRID = (2, 3, 4, 5), (2, 3, 2, 2)
#: Half precision would move a place to the next element's side.
EXACT = np.random.default_rng(0).choice(np.linspace(-1.375, 1.375, 12), GRID)


def sampled(shapes, label, length=4, **params):
    return case("grid_sample", shapes, torch=F.grid_sample, label=label, length=length, low=-1.3, high=1.3, **params)


CASES = [
    sampled((IMAGE, GRID), "zeros", length=64, align_corners=False),
    sampled((IMAGE, GRID), "border", length=64, padding_mode="border", align_corners=True),
    sampled((IMAGE, GRID), "reflection", length=64, padding_mode="reflection", align_corners=False),
    sampled((IMAGE, EXACT), "nearest", mode="nearest", align_corners=False, gradient=False),
    sampled((IMAGE, GRID), "bicubic", length=400, mode="bicubic", align_corners=False),
    sampled(
        (IMAGE, GRID),
        "bicubic, reflection",
        length=400,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=True,
        second=False,
    ),
    sampled(((1, 2, 3, 2, 4), (1, 2, 1, 3, 3)), "volume", length=100, align_corners=False),
    sampled(
        ((1, 2, 3, 2, 4), (1, 2, 1, 3, 3)),
        "volume, border",
        length=100,
        padding_mode="border",
        align_corners=False,
        second=False,
    ),
    case("affine_grid", ((2, 2, 3),), torch=F.affine_grid, length=4, size=(2, 1, 3, 4), align_corners=False),
    case("affine_grid", ((1, 3, 4),), torch=F.affine_grid, length=4, size=(1, 1, 3, 2, 2), align_corners=True),
]
