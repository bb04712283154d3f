"""Distances of rows."""

import torch

from tests.ops.case import case

CASES = [
    case("dist", ((3, 5), (5,)), torch=torch.dist, length=15),
    case("dist", ((3, 5), (3, 5)), torch=torch.dist, p=1, length=15, label="1"),
    case("cdist", ((2, 3, 5), (4, 5)), torch=torch.cdist, length=5),
    case("cdist", ((3, 5), (4, 5)), torch=torch.cdist, p=3.0, length=5, label="3"),
    case("cdist", ((3, 2), (4, 2)), torch=torch.cdist, p=float("inf"), length=2, label="inf", dtypes=(torch.float64,)),
    case("pdist", ((5, 3),), torch=torch.pdist, length=3),
    case("pdist", ((1, 3),), torch=torch.pdist, gradient=False),
]
