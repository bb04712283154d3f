"""What every test runs under."""

from __future__ import annotations

import os

# Workers share the cores, and threads that wait for each other on a busy machine cost more than they give.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
os.environ.setdefault("TINYFLOW_QUIET", "1")

import tinyflow.kernels.precision  # noqa: I001  (first: it decides how Triton, and with it every kernel's file, is loaded)

import numpy as np
import pytest
import torch
from hypothesis import settings

tinyflow.kernels.precision.tf32.convolution = False  # references are exact; a GPU would round factors to ten bits

settings.register_profile("tinyflow", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("tinyflow")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """The reference's random numbers, and numpy's, do not depend on which tests ran before."""
    torch.manual_seed(0)
    np.random.seed(0)
