"""Attention's kernels: every shipped tile on ragged shapes, strides, 64-bit offsets, half precision, what they count."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch

from tests.closeness import assert_close
from tests.poison import poisoned_memory as poisoned_memory
from tinyflow.kernels import attention as kernels
from tinyflow.kernels import launch, memory
from tinyflow.kernels.attention import forward, gradient

DEVICE = memory.get_default_device()
CONFIGS = (forward.attention_configs, gradient.attention_query_grad_configs, gradient.attention_key_grad_configs)
TILES = {(c.blocks["BLOCK_M"], c.blocks["BLOCK_N"]): c for configs in CONFIGS for c in configs.shipped}


@contextlib.contextmanager
def tiles(config: launch.Config) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for configs in CONFIGS:
            stack.enter_context(configs.forced(config))
        yield


def reference(q, k, v, mask, causal, scale):
    """out, and the gradients of q, k, v and a float mask, from the parts in float64."""
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    scores = leaves[0] @ leaves[1].unsqueeze(-3).mT * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        leaves.append(mask.double().expand(scores.shape).clone().requires_grad_())
        scores = scores + leaves[-1]
    return scores.softmax(-1) @ leaves[2].unsqueeze(-3), leaves


def check(q, k, v, mask=None, causal=False, scale=0.3):
    mask_grad = mask is not None and mask.is_floating_point()
    expected, leaves = reference(q, k, v, mask, causal, scale)
    here = [None if x is None else x.to(DEVICE) for x in (q, k, v, mask)]
    out, lse = kernels.attention(*here, causal, scale)
    assert out.dtype == q.dtype and lse.shape == q.shape[:-1]
    length = k.shape[-2]
    assert_close(out, expected, length)
    g = torch.randn(out.shape).to(q.dtype)
    found = kernels.attention_grad(g.to(DEVICE), *here, out, lse, causal, scale, mask_grad=mask_grad)
    wanted = torch.autograd.grad(expected, leaves, g.double())
    for mine, theirs in zip(found, wanted):
        assert_close(mine.to(q.dtype), theirs, 4 * length)  # a mask may be in single precision, what it follows is not
    assert (found[3] is not None) == mask_grad


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_shipped_tile(tile):
    """Two and a bit tiles of queries and of keys; masks that end within a tile, and diagonals across tiles."""
    m, n = 2 * tile[0] + 3, 2 * tile[1] + 5
    with tiles(TILES[tile]):
        check(torch.randn(1, 1, m, 17), torch.randn(1, n, 17), torch.randn(1, n, 9), mask=torch.randn(1, n))
        check(torch.randn(1, 2, m, 5), torch.randn(1, n, 5), torch.randn(1, n, 20), causal=True)


def test_every_shipped_configuration_is_among_the_tiles():
    for configs in CONFIGS:
        assert {(c.blocks["BLOCK_M"], c.blocks["BLOCK_N"]) for c in configs.shipped} <= set(TILES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    q, k, v = (torch.randn(s).to(dtype) for s in ((2, 3, 1, 21, 8), (2, 3, 19, 8), (2, 3, 19, 8)))
    check(q, k, v, mask=torch.rand(21, 19) > 0.3)
    check(q, k, v, mask=torch.randn(3, 1, 1, 19).to(torch.float64 if dtype == torch.float64 else torch.float32))


def test_strides_and_64_bit_offsets():
    q = torch.randn(9, 2, 5, 3, 2)[..., ::2, :].permute(
        1, 3, 0, 2, 4
    )  # (batch, heads, groups, L, E), each in odd places
    k, v = torch.randn(2, 4, 7, 2).mT.transpose(-2, -1), torch.randn(4, 7).mT.expand(2, 2, 7, 4)
    k = k[:, :2]
    check(q, k, v)
    with launch.wide_offsets():
        check(q, k, v, mask=torch.randn(7, 5).T, causal=False)


def test_a_query_that_may_look_at_nothing():
    q, k = torch.randn(1, 1, 3, 4), torch.randn(1, 5, 4)
    mask = torch.tensor([[True], [False], [True]])
    out, lse = kernels.attention(q.to(DEVICE), k.to(DEVICE), k.to(DEVICE), mask.to(DEVICE))
    assert not out[0, 0, 1].any() and lse[0, 0, 1] == -math.inf and lse[0, 0, 0].isfinite()
    grads = kernels.attention_grad(out, *(x.to(DEVICE) for x in (q, k, k, mask)), out, lse)
    assert not grads[0][0, 0, 1].any() and all(g.isfinite().all() for g in grads[:3])


def test_the_log_of_the_sum_of_exponentials():
    q, k = torch.randn(2, 3, 7, 4), torch.randn(2, 9, 4)
    _, lse = kernels.attention(q.to(DEVICE), k.to(DEVICE), k.to(DEVICE), scale=0.5)
    assert_close(lse, (q.double() @ k.double().unsqueeze(1).mT * 0.5).logsumexp(-1), 9)


def test_dropout_does_not_depend_on_tiles_or_where_the_seed_is():
    q, k = torch.randn(2, 1, 37, 4).to(DEVICE), torch.randn(2, 41, 4).to(DEVICE)
    expected = kernels.attention(q, k, k, dropout_p=0.4, seed=5, offset=2**33)[0]
    with tiles(TILES[16, 16]):
        assert_close(kernels.attention(q, k, k, dropout_p=0.4, seed=5, offset=2**33)[0], expected.double(), 41)
    state = torch.tensor([5, 2**33 - 7]).to(DEVICE)
    assert torch.equal(kernels.attention(q, k, k, dropout_p=0.4, seed=state, offset=7)[0], expected)


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("causal", [False, True])
def test_what_is_counted(causal):
    q, k, v = meta(2, 3, 4, 50, 64), meta(2, 3, 30, 64), meta(2, 3, 30, 32)
    with launch.count() as records:
        out, lse = kernels.attention(q, k, v, is_causal=causal)
        kernels.attention_grad(out, q, k, v, None, out, lse, is_causal=causal)
    pairs = 2 * 3 * 4 * (sum(min(m + 1, 30) for m in range(50)) if causal else 50 * 30)
    forward_cost, query_cost, key_cost = (r.cost for r in records)
    assert forward_cost.flops == (2 * 64 + 2 * 32 + 5) * pairs
    assert (query_cost + key_cost).flops == (8 * 64 + 6 * 32 + 15) * pairs
    half = 2 * sum(x.numel() for x in (q, k, v, out))
    assert forward_cost.bytes == half + 4 * lse.numel()
    assert query_cost.bytes == half + 2 * (q.numel() + out.numel()) + 8 * lse.numel()
    assert key_cost.bytes == half + 2 * (k.numel() + v.numel()) + 8 * lse.numel()


@pytest.mark.parametrize(
    ("shapes", "how", "error", "text"),
    [
        (((3, 4), (5, 4), (5, 4)), {}, RuntimeError, r"expected \(\*batch, G, L, E\)"),
        (((2, 1, 3, 4), (3, 5, 4), (3, 5, 4)), {}, RuntimeError, "expected one batch"),
        (((1, 3, 4), (5, 3), (5, 4)), {}, RuntimeError, "as many features in key as in query"),
        (((1, 3, 300), (5, 300), (5, 4)), {}, RuntimeError, "at most 256 features"),
        (((1, 3, 4), (5, 4), (5, 4)), {"dropout_p": 2.0}, ValueError, "between 0 and 1, got 2.0"),
        (
            ((1, 3, 4), (5, 4), (5, 4)),
            {"mask": meta(3, 5, dtype=torch.int64)},
            RuntimeError,
            "expected a mask of torch.bool",
        ),
        (((1, 3, 4), (5, 4), (5, 4)), {"mask": meta(2, 1, 3, 5)}, RuntimeError, "expected a mask that broadcasts to"),
    ],
)
def test_mistakes_say_so(shapes, how, error, text):
    with pytest.raises(error, match=text):
        kernels.attention(*(meta(*s) for s in shapes), **how)
