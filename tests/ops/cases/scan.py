"""Scans along each dimension; spaced values where an order decides."""

import numpy as np
import torch

from tests.ops.case import case

CUBE = (3, 5, 2)
WITH_ZEROS = np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 4.0], [1.5, -2.0, 0.5]])
FAR_APART = np.array([[-900.0, 0.0, 3.0, 900.0], [900.0, 1.0, -900.0, 2.0]])
WITH_TIES = np.array([[1.0, 2.0, 2.0, 1.0], [0.0, 0.0, -1.0, -1.0]])

CASES = [
    *[case(n, (CUBE,), torch=getattr(torch, n), dim=d, length=5)
      for n in ("cumsum", "cumprod", "logcumsumexp") for d in (1, -1)],
    *[case(n, ((),), torch=getattr(torch, n), dim=0) for n in ("cumsum", "cumprod", "logcumsumexp")],
    *[case(n, ((3, 0),), torch=getattr(torch, n), dim=1, gradient=False) for n in ("cumsum", "cumprod", "logcumsumexp")],
    *[case("cumprod", (WITH_ZEROS,), torch=torch.cumprod, dim=d, length=3, label="zeros") for d in (0, 1)],
    case("logcumsumexp", (FAR_APART,), torch=torch.logcumsumexp, dim=1, length=10000, label="far apart",
         dtypes=(torch.float64, torch.float32), second=False),
    *[case(n, (CUBE,), torch=getattr(torch, n), dim=1, output=0, spaced=True) for n in ("cummax", "cummin")],
    *[case(n, (WITH_TIES,), torch=getattr(torch, n), dim=1, output=1, gradient=False) for n in ("cummax", "cummin")],
]  # fmt: skip
