"""Selection and filling by a mask."""

import numpy as np
import torch

from tests.ops.case import case

MASK = np.arange(15).reshape(3, 5) % 4 == 1
NOTHING = np.zeros((3, 5), bool)

CASES = [
    case("masked_select", ((3, 5), MASK), torch=torch.masked_select), case("masked_select", ((2, 3, 5), MASK),
    torch=torch.masked_select, label="broadcast mask"), case("masked_select", ((3, 5), NOTHING),
    torch=torch.masked_select, gradient=False, label="nothing"), case("masked_fill", ((3, 5), MASK),
    torch=torch.masked_fill, value=-2.5), case("masked_fill", ((2, 3, 5), MASK[:1]), torch=torch.masked_fill,
    value=float("-inf"), second=False, gradient=False,
         label="infinity"),
    case("nonzero", (MASK,), torch=torch.nonzero, gradient=False),
]  # fmt: skip
