"""Arithmetic, comparison, and the common functions of one to three operands."""

import numpy as np
import torch

from tests.ops.case import case

ODD = (3, 5)  # no dimension is a power of two
POSITIVE = {"low": 0.2, "high": 3.0}
CONDITION = np.arange(15).reshape(ODD) % 3 == 0

CASES = [
    *[case(n, (ODD,), torch=getattr(torch, n)) for n in ("neg", "square", "exp", "sin", "cos", "sigmoid", "tanh")],
    *[case(n, (ODD,), torch=getattr(torch, n), spaced=True) for n in ("abs", "relu")],
    *[case(n, (ODD,), torch=getattr(torch, n), **POSITIVE) for n in ("sqrt", "rsqrt", "log", "reciprocal")],
    case("tanh", ((40,),), torch=torch.tanh, low=-20.0, high=20.0, label="wide"),
    *[
        case(n, (ODD,), torch=getattr(torch, n), gradient=False)
        for n in ("sign", "floor", "ceil", "isnan", "isfinite", "logical_not")
    ],
    *[case(n, (ODD, ODD), torch=getattr(torch, n)) for n in ("add", "sub", "mul")],
    *[case(n, ((3, 1, 5), (4, 1)), torch=getattr(torch, n), label="broadcast") for n in ("add", "sub", "mul")],
    case("div", (ODD, (5,)), torch=torch.div, **POSITIVE),
    case("pow", (ODD, ODD), torch=torch.pow, **POSITIVE),
    case("pow", (ODD,), torch=torch.pow, exponent=3, label="cube"),
    case("pow", (ODD,), torch=torch.pow, exponent=2, label="square"),
    case("pow", (ODD,), torch=torch.pow, exponent=-1.7, label="fraction", **POSITIVE),
    case("maximum", ((15,), (15,)), torch=torch.maximum, spaced=True),
    case("minimum", ((15,), (15,)), torch=torch.minimum, spaced=True),
    case("add", (ODD, ODD), torch=torch.add, alpha=-2.5, label="alpha"),
    case("clamp", ((31,),), torch=torch.clamp, spaced=True, min=-2.1, max=1.9),
    case("where", (CONDITION, ODD, (5,)), torch=torch.where),
    case(
        "remainder", (ODD, ODD), torch=torch.remainder, second=False, dtypes=(torch.float64, torch.float32), **POSITIVE
    ),
    *[
        case(n, (ODD, ODD), torch=getattr(torch, n), gradient=False)
        for n in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor")
    ],
    case("add", ((0, 3), (3,)), torch=torch.add, label="empty"),
    case("mul", ((), ()), torch=torch.mul, label="scalar"),
]
