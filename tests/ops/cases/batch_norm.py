"""Batch normalisation by the batch's statistics; inputs as in torch: x, running mean and variance, weight, bias."""

import torch.nn.functional as F

from tests.ops.case import case

CASES = [
    case("batch_norm", ((4, 3, 3, 2), None, None, (3,), (3,)), torch=F.batch_norm, length=24, training=True),
    case("batch_norm", ((7, 3), None, None, (3,), (3,)), torch=F.batch_norm, length=7, training=True, label="features"),
    case(
        "batch_norm", ((2, 3, 5), None, None, None, None), torch=F.batch_norm, length=10, training=True, label="plain"
    ),
    case(
        "batch_norm",
        ((2, 3, 2, 3, 2), None, None, (3,), None),
        torch=F.batch_norm,
        length=24,
        training=True,
        eps=0.1,
        label="volumes",
    ),
]
