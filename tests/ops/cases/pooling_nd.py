"""Pooling over one and three dimensions, power means and unpooling; values are spaced where maxima are taken."""

import math

import numpy as np
import torch.nn.functional as F

from tests.ops.case import case

LINE, VOLUME = (2, 3, 7), (2, 3, 5, 4, 3)
#: Positions that no two maxima of a channel share.
WHERE = np.stack([np.random.default_rng(k).permutation(12)[:4] for k in range(6)]).reshape(2, 3, 2, 2)

CASES = [
    case("max_pool1d", (LINE,), torch=F.max_pool1d, spaced=True, kernel_size=3, stride=2, padding=1, dilation=2),
    case(
        "max_pool1d", ((3, 7),), torch=F.max_pool1d, spaced=True, kernel_size=2, stride=3, ceil_mode=True, label="one"
    ),
    case("avg_pool1d", (LINE,), torch=F.avg_pool1d, length=3, kernel_size=3, stride=2, padding=1, ceil_mode=True),
    case("avg_pool1d", ((3, 7),), torch=F.avg_pool1d, length=2, kernel_size=(2,), padding=1, count_include_pad=False),
    case("adaptive_avg_pool1d", (LINE,), torch=F.adaptive_avg_pool1d, length=4, output_size=3),
    case("adaptive_max_pool1d", (LINE,), torch=F.adaptive_max_pool1d, spaced=True, output_size=5),
    case(
        "max_pool3d",
        (VOLUME,),
        torch=F.max_pool3d,
        spaced=True,
        kernel_size=(3, 2, 2),
        stride=(2, 1, 1),
        padding=(1, 0, 1),
        dilation=(1, 2, 1),
    ),
    case("max_pool3d", ((2, 5, 4, 3),), torch=F.max_pool3d, spaced=True, kernel_size=2, ceil_mode=True, label="one"),
    case(
        "avg_pool3d",
        (VOLUME,),
        torch=F.avg_pool3d,
        length=12,
        kernel_size=(3, 2, 2),
        stride=(2, 1, 2),
        padding=(1, 1, 0),
        ceil_mode=True,
        count_include_pad=False,
    ),
    case("avg_pool3d", ((2, 5, 4, 3),), torch=F.avg_pool3d, length=8, kernel_size=2, divisor_override=3, label="one"),
    case("adaptive_avg_pool3d", (VOLUME,), torch=F.adaptive_avg_pool3d, length=12, output_size=(2, 3, None)),
    case("adaptive_max_pool3d", ((2, 5, 4, 3),), torch=F.adaptive_max_pool3d, spaced=True, output_size=(3, 2, 2)),
    case("max_pool3d", ((0, 2, 5, 4, 3),), torch=F.max_pool3d, kernel_size=2, label="no volumes"),
    case("lp_pool1d", (LINE,), torch=F.lp_pool1d, low=0.5, high=2, length=9, norm_type=3, kernel_size=3, stride=2),
    case("lp_pool2d", ((2, 3, 5, 4),), torch=F.lp_pool2d, low=0.5, high=2, length=9, norm_type=2, kernel_size=(3, 2)),
    case("lp_pool1d", (LINE,), torch=F.lp_pool1d, norm_type=math.inf, kernel_size=3, ceil_mode=True, label="greatest"),
    case("lp_pool2d", ((2, 3, 5, 4),), torch=F.lp_pool2d, norm_type=-math.inf, kernel_size=2, stride=1, label="least"),
    case("lp_pool3d", ((2, 4, 3, 3),), torch=F.lp_pool3d, low=0.5, high=2, length=9, norm_type=1.5, kernel_size=2),
    case("max_unpool1d", ((1, 6, 4), WHERE.reshape(1, 6, 4)), torch=F.max_unpool1d, kernel_size=3, stride=3),
    case("max_unpool2d", ((2, 3, 2, 2), WHERE), torch=F.max_unpool2d, kernel_size=2, output_size=(4, 3)),
    case("max_unpool3d", ((3, 1, 2, 2), WHERE[1][:, None]), torch=F.max_unpool3d, kernel_size=2, output_size=(1, 3, 4)),
]
