"""Convolution over one and three dimensions, and transposed over one to three."""

import torch.nn.functional as F

from tests.ops.case import case

CASES = [
    case("conv1d", ((2, 3, 9), (4, 3, 3), (4,)), torch=F.conv1d, length=10, stride=2, padding=(1,), label="stride"),
    case("conv1d", ((4, 9), (6, 2, 3), None), torch=F.conv1d, length=7, groups=2, dilation=2, label="groups"),
    case("conv1d", ((2, 3, 5), (4, 3, 3), (4,)), torch=F.conv1d, length=10, padding="same", label="same"),
    case(
        "conv3d",
        ((2, 3, 5, 4, 3), (4, 3, 3, 2, 2), (4,)),
        torch=F.conv3d,
        length=37,
        stride=(2, 1, 1),
        padding=(1, 0, 1),
        label="stride",
    ),
    case(
        "conv3d",
        ((1, 4, 6, 3, 3), (6, 2, 3, 2, 1), None),
        torch=F.conv3d,
        length=13,
        groups=2,
        stride=(3, 2, 1),
        dilation=(2, 1, 1),
        padding=(2, 1, 0),
        label="groups",
    ),
    case(
        "conv3d", ((3, 4, 3, 2), (2, 3, 1, 2, 2), (2,)), torch=F.conv3d, length=13, stride=(2, 1, 1), label="one volume"
    ),
    case("conv3d", ((1, 2, 3, 4, 3), (3, 2, 3, 1, 3), (3,)), torch=F.conv3d, length=19, padding="same", label="same"),
    case("conv3d", ((0, 3, 3, 3, 3), (4, 3, 2, 2, 2), (4,)), torch=F.conv3d, label="no volumes"),
    case(
        "conv_transpose1d",
        ((2, 3, 5), (3, 4, 3), (4,)),
        torch=F.conv_transpose1d,
        length=10,
        stride=2,
        padding=1,
        output_padding=1,
    ),
    case("conv_transpose1d", ((4, 5), (4, 3, 3), (6,)), torch=F.conv_transpose1d, length=7, groups=2, label="one"),
    case(
        "conv_transpose2d",
        ((2, 3, 4, 3), (3, 4, 3, 2), (4,)),
        torch=F.conv_transpose2d,
        length=19,
        stride=2,
        padding=(1, 0),
        output_padding=(1, 0),
        label="stride",
    ),
    case(
        "conv_transpose2d",
        ((1, 4, 3, 4), (4, 3, 2, 3), None),
        torch=F.conv_transpose2d,
        length=12,
        groups=2,
        stride=(1, 2),
        dilation=(3, 1),
        output_padding=(2, 1),
        padding=(1, 1),
        label="more rows than a stride",
    ),
    case("conv_transpose2d", ((3, 4, 3), (3, 2, 2, 2), (2,)), torch=F.conv_transpose2d, length=13, label="one image"),
    case(
        "conv_transpose3d",
        ((2, 4, 3, 2, 2), (4, 2, 3, 2, 2), (4,)),
        torch=F.conv_transpose3d,
        length=25,
        stride=(2, 1, 2),
        padding=(1, 0, 0),
        output_padding=(1, 0, 1),
        groups=2,
    ),
]
