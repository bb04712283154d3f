"""Scaled dot-product attention: masks, shared heads, unequal lengths and features, leading dimensions."""

import numpy as np
import torch
import torch.nn.functional as F

from tests.ops.case import case

#: The third query may look at nothing.
MASK = np.arange(35).reshape(5, 7) % 3 != 1
MASK[2] = False


def _attention(label, inputs, **options):
    return case(
        "scaled_dot_product_attention", inputs, torch=F.scaled_dot_product_attention, length=16, label=label, **options
    )


HEADS = ((1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 6))
FULL = (torch.float32,)
CASES = [
    _attention("plain", HEADS),
    _attention("causal, matrices", ((5, 3), (7, 3), (7, 2)), is_causal=True),
    _attention(
        "causal, more queries", ((2, 7, 3), (2, 5, 3), (2, 5, 3)), is_causal=True, scale=0.3, dtypes=FULL, second=False
    ),
    _attention("bool mask", (*HEADS, MASK), dtypes=FULL, second=False),
    _attention("mask with a gradient", (*HEADS, (2, 1, 7))),
    _attention("shared heads", ((4, 3, 3), (2, 5, 3), (2, 5, 3), (4, 3, 5)), enable_gqa=True),
    _attention("broadcast batch", ((2, 1, 2, 3, 4), (2, 5, 4), (1, 2, 1, 5, 4)), dtypes=FULL, second=False),
    _attention("one key", ((3, 1, 1), (3, 1, 1), (3, 1, 2)), dtypes=FULL, second=False),
    _attention("no query", ((2, 0, 3), (2, 4, 3), (2, 4, 3)), dtypes=FULL, gradient=False),
    _attention("large heads", ((2, 257), (3, 257), (3, 2)), dtypes=FULL, gradient=False),
]
