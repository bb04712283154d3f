"""``tl.sort`` in the interpreter: integers through numpy, the rest through the network; both orders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl

from tinyflow.kernels import interpreter


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with interpreter.use():
        yield


@triton.jit
def _sort_rows(x_ptr, out_ptr, DESCENDING: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out_ptr + at, tl.sort(tl.load(x_ptr + at), dim=1, descending=DESCENDING))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.bfloat16], ids=str)
def test_rows(dtype: torch.dtype) -> None:
    x = torch.randint(0, 99, (4, 16)).to(dtype)
    for descending in (False, True):
        out = torch.full_like(x, 7)
        _sort_rows[(1,)](x, out, descending, 4, 16)
        assert torch.equal(out, x.sort(1, descending)[0])
