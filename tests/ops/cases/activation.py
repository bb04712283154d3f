"""Activations, with their defaults and with other arguments; values keep away from the corners."""

import numpy as np
import torch.nn.functional as F

from tests.ops.case import case

N = (4, 7)
APART = ((np.arange(28) * 11 % 28 - 14) / 4 + 0.1).reshape(N)  # no two within a finite difference, none at a corner

CASES = [
    *[case(n, (N,), torch=getattr(F, n)) for n in ("gelu", "silu", "mish", "softplus", "logsigmoid", "tanhshrink")],
    *[
        case(n, (APART,), torch=getattr(F, n))
        for n in (
            "elu", "selu", "celu", "leaky_relu", "softsign", "hardswish", "hardtanh", "relu6", "hardshrink",
            "softshrink",
        )
    ],
    case("hardsigmoid", (APART,), torch=F.hardsigmoid, gradient=False),  # torch rounds 1/6 to float32
    case("gelu", (N,), torch=F.gelu, approximate="tanh", label="tanh"),
    case("softplus", (APART,), torch=F.softplus, beta=1.7, threshold=1.1, label="beta"),
    case("elu", (APART,), torch=F.elu, alpha=1.3, label="alpha"),
    case("celu", (APART,), torch=F.celu, alpha=0.5, label="alpha"),
    case("leaky_relu", (APART,), torch=F.leaky_relu, negative_slope=0.3, label="slope"),
    case("hardtanh", (APART,), torch=F.hardtanh, min_val=-0.6, max_val=2.05, label="bounds"),
    case("threshold", (APART,), torch=F.threshold, threshold=0.05, value=-2.0),
    case("prelu", (APART.reshape(2, 7, 2), (7,)), torch=F.prelu),
    case("prelu", (APART[0], (1,)), torch=F.prelu, label="one slope"),
    case("glu", ((3, 6, 2),), torch=F.glu, dim=1),
]  # fmt: skip
