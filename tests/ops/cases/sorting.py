"""Sorting and what is read off an order; spaced values, so that a finite difference keeps the order."""

import numpy as np
import torch

from tests.ops.case import case

CUBE = (3, 5, 2)
WITH_NAN = np.array([[3.0, np.nan, 1.0, 2.0], [np.nan, np.nan, -np.inf, 0.0], [1.0, 2.0, 2.0, np.inf]])
REPEATED = np.array([[1.0, 2.0, 2.0, 1.0, 5.0], [0.0, 0.0, -1.0, -1.0, -1.0]])
TIES = np.array([2.0, 1.0, 2.0, 3.0, 2.0])
WIDE = (torch.float64, torch.float32)

CASES = [
    *[case("sort", (CUBE,), torch=torch.sort, dim=d, descending=b, output=0, spaced=True)
      for d, b in ((1, False), (-1, True))],
    case("sort", ((),), torch=torch.sort, dim=0, output=0),
    case("sort", ((3, 0),), torch=torch.sort, dim=1, output=0, gradient=False),
    case("msort", (CUBE,), torch=torch.msort, spaced=True),
    *[case("topk", (CUBE,), torch=torch.topk, k=3, dim=1, largest=b, output=0, spaced=True) for b in (True, False)],
    case("kthvalue", (CUBE,), torch=torch.kthvalue, k=2, dim=1, output=0, spaced=True),
    case("kthvalue", (CUBE,), torch=torch.kthvalue, k=3, dim=0, keepdim=True, output=1, spaced=True, gradient=False),
    *[case(n, (CUBE,), torch=getattr(torch, n), dim=1, output=0, spaced=True) for n in ("median", "nanmedian")],
    *[case(n, (CUBE,), torch=getattr(torch, n), spaced=True, label="all") for n in ("median", "nanmedian")],
    *[case(n, (WITH_NAN,), torch=getattr(torch, n), dim=1, output=0, gradient=False, label="nan")
      for n in ("median", "nanmedian")],
    case("mode", (REPEATED,), torch=torch.mode, dim=1, output=0, gradient=False),
    case("mode", (CUBE,), torch=torch.mode, dim=1, keepdim=True, output=0, spaced=True),
    *[case("quantile", (CUBE,), torch=torch.quantile, q=0.3, dim=1, interpolation=i, spaced=True, dtypes=WIDE, length=5)
      for i in ("linear", "nearest", "midpoint")],
    case("quantile", (CUBE, np.array([0.13, 0.77])), torch=torch.quantile, dim=1, keepdim=True, spaced=True, dtypes=WIDE,
         length=5),
    case("quantile", (CUBE,), torch=torch.quantile, q=0.9, spaced=True, dtypes=WIDE, length=5, label="all"),
    case("nanquantile", (WITH_NAN,), torch=torch.nanquantile, q=0.7, dim=1, dtypes=WIDE, gradient=False),
    case("nanquantile", (CUBE,), torch=torch.nanquantile, q=0.3, dim=0, spaced=True, dtypes=WIDE, length=5),
]  # fmt: skip
