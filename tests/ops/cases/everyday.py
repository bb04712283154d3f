"""Small functions made of others."""

import numpy as np
import torch

from tests.ops.case import case

POWERS = np.array([-2, 0, 3, 1])
SIGNED = ((np.arange(8) - 4) / 2 + 0.1).reshape(2, 4)

CASES = [
    case("deg2rad", ((2, 3),), torch=torch.deg2rad),
    case("rad2deg", ((2, 3),), torch=torch.rad2deg),
    case("sgn", (SIGNED,), torch=torch.sgn, gradient=False),
    case("ldexp", ((2, 4), POWERS), torch=torch.ldexp, dtypes=(torch.float64, torch.float32), gradient=False),
    case("float_power", ((2, 4), POWERS), torch=torch.float_power, low=0.5, high=2.0, dtypes=(torch.float64,)),
    case("true_divide", ((2, 4), (4,)), torch=torch.true_divide, low=0.5, high=2.0),
    case("rsub", ((2, 4), (4,)), torch=torch.rsub, alpha=2.5),
    case("cross", ((3, 2), (3, 2)), torch=lambda a, b: torch.cross(a, b, dim=0)),
    case("adjoint", ((2, 3, 4),), torch=torch.adjoint),
    case("split_with_sizes", ((5, 2),), torch=torch.split_with_sizes, split_sizes=[2, 3], output=1),
]  # fmt: skip
