"""Reductions over one, several and all dimensions; extremes of spaced values, so that a finite difference keeps the
winner."""

import numpy as np
import torch

from tests.ops.case import case

CUBE = (3, 5, 2)
WITH_ZEROS = np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 4.0], [1.5, -2.0, 0.5]])  # one, two and no zeros in a row
WITH_TIES = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [3.0, 1.0, 2.0]])
FLAGS = np.array([[True, False, True], [False, False, False], [True, True, True]])

CASES = [
    *[case(n, (CUBE,), torch=getattr(torch, n), length=30) for n in ("sum", "mean", "var", "std")], *[case(n, (CUBE,),
    torch=getattr(torch, n), dim=(0, 2), keepdim=True, length=6) for n in ("sum", "mean", "var", "std")], *[case(n,
    (CUBE,), torch=getattr(torch, n), dim=-2, length=5, label="middle") for n in ("sum", "mean", "var", "std")],
    *[case(n, ((),), torch=getattr(torch, n), label="scalar") for n in ("sum", "mean", "prod")], *[case(n, ((4, 0),),
    torch=getattr(torch, n), dim=1, label="empty", gradient=False) for n in ("sum", "mean")], case("var", (CUBE,),
    torch=torch.var, dim=1, correction=0, length=5, label="population"), case("std", (WITH_TIES,), torch=torch.std,
    dim=1, length=3, second=False, gradient=False, label="constant row"), case("prod", (CUBE,), torch=torch.prod,
    length=30), case("prod", (CUBE,), torch=torch.prod, dim=1, keepdim=True, length=5), case("prod", (WITH_ZEROS,),
    torch=torch.prod, dim=1, length=3, label="zeros"), *[case(n, (CUBE,), torch=getattr(torch, n), spaced=True, dim=(0,
    1)) for n in ("amax", "amin")], *[case(n, (CUBE,), torch=getattr(torch, n), spaced=True, dim=1, keepdim=True,
    output=0) for n in ("max", "min")], *[case(n, (CUBE,), torch=getattr(torch, n), spaced=True, dim=-1, output=1,
    gradient=False, label="indices")
      for n in ("max", "min")],
    *[case(n, (CUBE,), torch=getattr(torch, n), spaced=True, label="all") for n in ("max", "min")],
    *[case(n, (CUBE,), torch=getattr(torch, n), dim=1, gradient=False) for n in ("argmax", "argmin")],
    *[case(n, (CUBE,), torch=getattr(torch, n), gradient=False, label="all") for n in ("argmax", "argmin")],
    *[case(n, (FLAGS,), torch=getattr(torch, n), dim=1, gradient=False) for n in ("any", "all")],
    case("count_nonzero", (WITH_ZEROS,), torch=torch.count_nonzero, dim=1, gradient=False),
    *[case("norm", (CUBE,), torch=torch.norm, p=p, dim=(0, 2), length=6, label=f"p={p}") for p in (1, 2, 3, 0.5)],
    *[case("norm", (CUBE,), torch=torch.norm, p=p, dim=1, label=f"p={p}") for p in (float("inf"), -float("inf"))],
    case("norm", (CUBE,), torch=torch.norm, length=30),
    case("norm", (CUBE,), torch=torch.norm, p=0, dim=1, gradient=False, label="nonzero"),
    *[case("logsumexp", (CUBE,), torch=torch.logsumexp, dim=d, keepdim=True, length=6) for d in (1, (0, 2))],
    case("logsumexp", (np.array([[-np.inf, -np.inf], [np.inf, 1.0]]),), torch=torch.logsumexp, dim=1, gradient=False),
    case("nansum", (np.array([[1.0, np.nan], [2.0, 3.0]]),), torch=torch.nansum, dim=1, second=False, gradient=False),
    case("nansum", (CUBE,), torch=torch.nansum, length=30),
    *[case("nanmean", (np.array([[1.0, np.nan, 4.0], [2.0, 3.0, 0.5]]),), torch=torch.nanmean, dim=d, gradient=False,
           length=6) for d in (None, 0, (0, 1))],
    case("nanmean", (CUBE,), torch=torch.nanmean, dim=1, length=5),
    *[case(n, (CUBE,), torch=getattr(torch, n), unbiased=False, output=1, length=30, gradient=False)
      for n in ("var_mean", "std_mean")],
    case("norm", (WITH_ZEROS,), torch=torch.norm, p=-1.5, dim=1, gradient=False, label="p=-1.5"),
    case("dist", (CUBE, (5, 1)), torch=torch.dist, p=3, length=30),
    *[case("aminmax", (CUBE,), torch=torch.aminmax, dim=1, output=k, spaced=True) for k in (0, 1)],
]  # fmt: skip
