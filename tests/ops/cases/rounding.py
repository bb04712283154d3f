"""Rounding, signs and choices; values keep away from the steps."""

import numpy as np
import torch

from tests.ops.case import case

N = (3, 5)
INTEGERS = np.array([[-70, -3, 0, 5], [1, 2, 127, -128]])
SHIFTS = np.array([0, 1, 3, 5])
HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.3])

CASES = [
    *[case(n, (N,), torch=getattr(torch, n), gradient=False) for n in ("round", "trunc", "isinf", "signbit")],
    case("round", (HALVES,), torch=torch.round, gradient=False),
    case("round", (N,), torch=torch.round, decimals=2, gradient=False, dtypes=(torch.float64,)),
    case("round", (N,), torch=torch.round, decimals=-1, gradient=False, low=-40, high=40, dtypes=(torch.float64,)),
    case("frac", (N,), torch=torch.frac, second=False),
    case("nan_to_num", (N,), torch=torch.nan_to_num, second=False),
    case("copysign", (N, N), torch=torch.copysign, second=False),
    case("heaviside", (N, N), torch=torch.heaviside, gradient=False),
    case("fmod", (N, N), torch=torch.fmod, second=False, low=0.4, high=3.0, dtypes=(torch.float64, torch.float32)),
    *[case(n, ((15,), (15,)), torch=getattr(torch, n), spaced=True, second=False) for n in ("fmax", "fmin")],
    case("bitwise_not", (INTEGERS,), torch=torch.bitwise_not, gradient=False),
    *[
        case(n, (INTEGERS, SHIFTS), torch=getattr(torch, n), gradient=False)
        for n in ("bitwise_left_shift", "bitwise_right_shift")
    ],
    case("lerp", (N, N, N), torch=torch.lerp),
    case("addcdiv", (N, N, N), torch=torch.addcdiv, value=0.7, low=0.5, high=2.0),
]
