"""Padding: other widths on every side, negative ones among them."""

import torch.nn.functional as F

from tests.ops.case import case

ROW, IMAGE, VOLUME = (2, 5), (2, 3, 5, 4), (1, 2, 3, 4, 2)

CASES = [
    case("pad", (IMAGE,), torch=F.pad, pad=(1, 2, -2, 3), value=-1.5),
    case("pad", (ROW,), torch=F.pad, pad=(0, 3, 2, 0), label="zeros"),
    case("pad", ((2, 3, 2, 2, 3),), torch=F.pad, pad=(1, 0, 0, 0, 0, 2, 1, 1, 0, 1), label="five"),
    case("pad", ((3,),), torch=F.pad, pad=(-1, -2), label="nothing left", gradient=False),
    case("pad", (ROW,), torch=F.pad, pad=(4, 3), mode="reflect", length=3, label="row reflect"),
    case("pad", (IMAGE,), torch=F.pad, pad=(3, 2, -1, 2), mode="reflect", length=9, label="reflect"),
    case("pad", (VOLUME,), torch=F.pad, pad=(1, 0, 0, 3, 2, 1), mode="reflect", length=27, label="reflect"),
    case("pad", (ROW,), torch=F.pad, pad=(6, 1), mode="replicate", length=7, label="row replicate"),
    case("pad", (IMAGE,), torch=F.pad, pad=(1, 4, 3, -1), mode="replicate", length=20, label="replicate"),
    case("pad", (VOLUME,), torch=F.pad, pad=(1, 1, 1, 0, 0, 1), mode="replicate", length=12, label="replicate"),
    case("pad", (ROW,), torch=F.pad, pad=(5, 3), mode="circular", length=3, label="row circular"),
    case("pad", (IMAGE,), torch=F.pad, pad=(3, 2, -1, 4), mode="circular", length=9, label="circular"),
    case("pad", (VOLUME,), torch=F.pad, pad=(2, 1, 0, 1, 1, 3), mode="circular", length=18, label="circular"),
]
