"""Windows as columns and back: overlapping, dilated, with gaps, and some of the image left over."""

import torch.nn.functional as F

from tests.ops.case import case

IMAGE = (2, 3, 7, 5)

CASES = [
    case("unfold", (IMAGE,), torch=F.unfold, kernel_size=3, padding=1, length=9),
    case("unfold", (IMAGE[1:],), torch=F.unfold, kernel_size=(2, 3), dilation=(3, 1), stride=(2, 2), length=2),
    case("unfold", ((1, 1, 4, 5),), torch=F.unfold, kernel_size=1, padding=(0, 2), stride=3, label="gaps"),
    case("fold", ((2, 12, 12),), torch=F.fold, output_size=(4, 5), kernel_size=2, length=4),
    case(
        "fold",
        ((6, 20),),
        torch=F.fold,
        output_size=(7, 6),
        kernel_size=(3, 2),
        dilation=(2, 3),
        padding=(1, 2),
        stride=(1, 2),
        length=6,
    ),
]
