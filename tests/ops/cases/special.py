"""Special functions, each where it is defined and smooth."""

import torch

from tests.ops.case import case

N = (3, 5)
RANGES: dict[str, tuple[float, float]] = {
    "exp2": (-3, 3), "expm1": (-2, 2), "log2": (0.2, 9), "log10": (0.2, 9), "log1p": (-0.8, 3), "tan": (-1.2, 1.2),
    "asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "atan": (-4, 4), "sinc": (0.2, 2), "sinh": (-3, 3), "cosh": (-3, 3),
    "asinh": (-3, 3), "acosh": (1.2, 4), "atanh": (-0.9, 0.9), "erf": (-2, 2), "erfc": (-2, 3), "erfinv": (-0.9, 0.9),
    "lgamma": (0.3, 9), "logit": (0.1, 0.9),
}  # fmt: skip
POSITIVE = {"low": 0.3, "high": 3.0}

CASES = [
    *[case(n, (N,), torch=getattr(torch, n), low=low, high=high) for n, (low, high) in RANGES.items()],
    *[case(n, (N, (5,)), torch=getattr(torch, n)) for n in ("atan2", "hypot", "logaddexp", "logaddexp2")],
    case("xlogy", (N, N), torch=torch.xlogy, **POSITIVE),
    case("lgamma", (N,), torch=torch.lgamma, low=-1.8, high=-1.2, label="negative"),
    case("digamma", (N,), torch=torch.digamma, gradient=False, low=0.3, high=9.0),  # torch: ten digits of trigamma
    case("logit", (N,), torch=torch.logit, eps=0.3, low=0.31, high=0.69, label="held"),
]
