"""Losses: every reduction, smoothing, ignored rows, probabilities, dimensions after the classes."""

import numpy as np
import torch.nn.functional as F

from tests.ops.case import case

ROWS = np.array([0, 2, 4, 2, 1])
PIXELS = np.arange(12).reshape(2, 2, 3) % 3


def _options(name, **bounds):
    options = {"torch": getattr(F, name), **bounds}
    yield case(name, ((5, 5), ROWS), length=5, label="mean", **options)
    for reduction in ("sum", "none"):
        yield case(name, ((5, 5), ROWS), length=5, reduction=reduction, label=reduction, **options)
    yield case(name, ((5, 5), ROWS), length=5, ignore_index=2, label="ignored", **options)
    yield case(name, ((2, 3, 2, 3), PIXELS), length=12, label="pixels", **options)
    yield case(name, ((2, 3, 2, 3), PIXELS), length=3, reduction="none", label="pixels unreduced", **options)
    yield case(name, ((5,), np.array(3)), length=5, label="one row", **options)


CASES = [
    *_options("cross_entropy"),
    *_options("nll_loss", low=-5.0, high=-0.1),  # a mean near 0 would lose digits
    case("cross_entropy", ((5, 5), ROWS), torch=F.cross_entropy, length=25, label_smoothing=0.1, label="smooth"),
    case(
        "cross_entropy",
        ((5, 5), ROWS),
        torch=F.cross_entropy,
        length=25,
        label_smoothing=0.1,
        ignore_index=2,
        label="smooth, ignored",
    ),
    case("cross_entropy", ((5, 5), (5, 5)), torch=F.cross_entropy, length=25, low=0.0, label="probabilities"),
    case(
        "cross_entropy",
        ((2, 3, 2), (2, 3, 2)),
        torch=F.cross_entropy,
        length=12,
        low=0.0,
        label_smoothing=0.2,
        reduction="sum",
        label="smooth probabilities",
    ),
    *[
        case(n, ((4, 3), (4, 3)), torch=getattr(F, n), length=12, reduction=r, label=r)
        for n in ("mse_loss", "l1_loss")
        for r in ("mean", "sum", "none")
    ],
]
