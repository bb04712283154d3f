"""2-d convolution; its first derivative is its two gradients, its second all three again."""

import torch.nn.functional as F

from tests.ops.case import case

CASES = [
    case("conv2d", ((2, 3, 7, 6), (4, 3, 3, 3), (4,)), torch=F.conv2d, length=28, stride=2, padding=1, label="stride"),
    case("conv2d", ((2, 3, 5, 4), (4, 3, 1, 1), None), torch=F.conv2d, length=3, stride=2, label="untouched pixels"),
    case("conv2d", ((1, 17, 5, 4), (3, 17, 3, 2), (3,)), torch=F.conv2d, length=103, padding=(1, 0), label="by taps"),
    case(
        "conv2d",
        ((1, 2, 8, 7), (3, 2, 3, 3), None),
        torch=F.conv2d,
        length=18,
        dilation=(2, 3),
        padding=2,
        label="dilation",
    ),
    case(
        "conv2d",
        ((1, 2, 9, 8), (3, 2, 2, 3), None),
        torch=F.conv2d,
        length=12,
        stride=(3, 2),
        dilation=2,
        padding=(1, 2),
    ),
    case("conv2d", ((2, 4, 5, 4), (6, 2, 3, 3), (6,)), torch=F.conv2d, length=19, groups=2, padding=1, label="groups"),
    case(
        "conv2d",
        ((2, 3, 5, 4), (6, 1, 3, 2), (6,)),
        torch=F.conv2d,
        length=7,
        groups=3,
        stride=(1, 2),
        label="depthwise",
    ),
    case("conv2d", ((2, 3, 5, 4), (4, 3, 3, 5), (4,)), torch=F.conv2d, length=46, padding="same", label="same"),
    case("conv2d", ((2, 3, 5, 4), (4, 3, 2, 4), None), torch=F.conv2d, length=24, padding="valid", label="valid"),
    case("conv2d", ((3, 5, 4), (4, 3, 3, 3), (4,)), torch=F.conv2d, length=28, padding=1, label="one image"),
    case("conv2d", ((0, 3, 5, 4), (4, 3, 3, 3), (4,)), torch=F.conv2d, label="no images"),
]
