"""Softmax and its logarithm along each kind of dimension."""

import torch

from tests.ops.case import case

CASES = [
    *[case(n, ((3, 5),), torch=getattr(torch, n), dim=-1, length=5) for n in ("softmax", "log_softmax")],
    *[case(n, ((2, 5, 3, 2),), torch=getattr(torch, n), dim=1, length=5) for n in ("softmax", "log_softmax")],
    *[case(n, ((7, 1),), torch=getattr(torch, n), dim=0, length=7) for n in ("softmax", "log_softmax")],
    *[case(n, ((),), torch=getattr(torch, n), dim=0) for n in ("softmax", "log_softmax")],
    *[case(n, ((0, 3),), torch=getattr(torch, n), dim=1, label="empty") for n in ("softmax", "log_softmax")],
]
