"""Differences, integrals and covariances, along each dimension."""

import numpy as np
import torch

from tests.ops.case import case

CUBE = (3, 5, 2)
OBSERVATIONS = (3, 7)
FLAGS = np.array([[True, False, True], [False, False, False]])

CASES = [
    *[case("diff", (CUBE,), torch=torch.diff, n=n, dim=d, length=4) for n, d in ((1, -2), (2, 0), (4, 1))],
    case("diff", (FLAGS,), torch=torch.diff, gradient=False),
    case("diff", (CUBE,), torch=torch.diff, n=0, label="as it is"),
    *[case(n, (CUBE,), torch=getattr(torch, n), dim=1, length=5) for n in ("trapezoid", "cumulative_trapezoid")],
    case("trapezoid", (CUBE,), torch=torch.trapezoid, dx=0.5, dim=0, length=3, label="spacing"),
    case("trapezoid", (CUBE, (2,)), torch=torch.trapezoid, length=3, label="points"),
    case("cumulative_trapezoid", (CUBE, CUBE), torch=torch.cumulative_trapezoid, dim=1, length=9, label="points"),
    case("cov", (OBSERVATIONS,), torch=torch.cov, length=7),
    case("cov", ((7,),), torch=torch.cov, correction=0, length=7),
    case("corrcoef", (OBSERVATIONS,), torch=torch.corrcoef, length=14, second=False),
]  # fmt: skip
