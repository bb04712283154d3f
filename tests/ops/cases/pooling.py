"""Pooling: values are spaced where maxima are taken, so that a finite difference does not change the winner."""

import torch.nn.functional as F

from tests.ops.case import case

IMAGE = (2, 3, 7, 6)

CASES = [
    case("max_pool2d", (IMAGE,), torch=F.max_pool2d, spaced=True, kernel_size=3, stride=2, padding=1, label="overlap"),
    case("max_pool2d", ((3, 5, 4),), torch=F.max_pool2d, spaced=True, kernel_size=2, label="one image"),
    case(
        "max_pool2d",
        (IMAGE,),
        torch=F.max_pool2d,
        spaced=True,
        kernel_size=(3, 2),
        stride=(1, 2),
        padding=(1, 1),
        dilation=(2, 1),
        label="dilation",
    ),
    case(
        "max_pool2d", (IMAGE,), torch=F.max_pool2d, spaced=True, kernel_size=2, stride=3, ceil_mode=True, label="ceil"
    ),
    case("avg_pool2d", (IMAGE,), torch=F.avg_pool2d, kernel_size=3, stride=2, padding=1, length=9, label="overlap"),
    case("avg_pool2d", ((3, 5, 4),), torch=F.avg_pool2d, kernel_size=2, length=4, label="one image"),
    case(
        "avg_pool2d",
        (IMAGE,),
        torch=F.avg_pool2d,
        kernel_size=(3, 2),
        stride=(1, 2),
        padding=1,
        ceil_mode=True,
        count_include_pad=False,
        length=6,
        label="inside",
    ),
    case(
        "avg_pool2d",
        (IMAGE,),
        torch=F.avg_pool2d,
        kernel_size=2,
        stride=1,
        divisor_override=3,
        length=4,
        label="divisor",
    ),
    case("adaptive_avg_pool2d", (IMAGE,), torch=F.adaptive_avg_pool2d, output_size=1, length=42, label="whole"),
    case("adaptive_avg_pool2d", (IMAGE,), torch=F.adaptive_avg_pool2d, output_size=(3, None), length=3, label="uneven"),
    case(
        "adaptive_avg_pool2d", ((3, 5, 4),), torch=F.adaptive_avg_pool2d, output_size=(7, 3), length=4, label="larger"
    ),
    case("adaptive_max_pool2d", (IMAGE,), torch=F.adaptive_max_pool2d, spaced=True, output_size=(3, 4)),
    case("avg_pool2d", ((0, 3, 4, 4),), torch=F.avg_pool2d, kernel_size=2, label="no images"),
]
