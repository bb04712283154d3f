"""Attention beyond the table: dropout, nothing to look at, what it costs, casts, and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as reference

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow.autograd import gradcheck, gradgradcheck
from tinyflow.nn import functional as F
from tinyflow.ops import attention

HOW = (False, 0.5, 0.3, 5, 11)  # causal, scale, dropout, seed, offset


def heads(*shapes: tuple[int, ...]) -> list[tinyflow.Tensor]:
    return [on_device(torch.randn(s, dtype=torch.float64)).requires_grad_() for s in shapes]


@pytest.mark.parametrize("causal", [False, True])
def test_dropout_is_that_of_the_parts_forward_and_backward(causal: bool) -> None:
    inputs = heads((2, 3, 2, 7, 5), (2, 3, 9, 5), (2, 3, 9, 6))
    mask = None if causal else heads((7, 9))[0]
    how = (causal, *HOW[1:])
    fused = attention._attention(*inputs, mask, *how)[0]
    parts = attention.composed_attention(*inputs, mask, *how)
    assert_close(on_cpu(fused), on_cpu(parts), 16)
    leaves = inputs + ([] if mask is None else [mask])
    g = tinyflow.randn_like(fused)
    for mine, theirs in zip(tinyflow.autograd.grad(fused, leaves, g), tinyflow.autograd.grad(parts, leaves, g)):
        assert_close(on_cpu(mine), on_cpu(theirs), 64)


def test_dropout_keeps_the_share_it_says_and_draws_anew() -> None:
    q, k, v = (tinyflow.zeros(2, 50, 3), tinyflow.zeros(2, 101, 3), tinyflow.eye(101).expand(2, 101, 101))
    tinyflow.manual_seed(3)
    first, second = (F.scaled_dot_product_attention(q, k, v, dropout_p=0.25) * 101 for _ in range(2))
    assert on_cpu(first).unique().numpy() == pytest.approx([0, 4 / 3], rel=1e-5)
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert 0.2 < float(((first == 0) & (second == 0)).float().sum() / (first == 0).float().sum()) < 0.3
    tinyflow.manual_seed(3)
    assert (F.scaled_dot_product_attention(q, k, v, dropout_p=0.25) * 101 == first).all()
    assert not F.scaled_dot_product_attention(q, k, v, dropout_p=1.0).any()


def test_dropout_differentiates_twice() -> None:
    def dropped(*inputs: tinyflow.Tensor) -> tinyflow.Tensor:
        tinyflow.manual_seed(3)
        return F.scaled_dot_product_attention(*inputs, dropout_p=0.4)

    inputs = heads((2, 3, 2), (2, 5, 2), (2, 5, 3), (3, 5))
    assert gradcheck(dropped, inputs, fast_mode=True)
    assert gradgradcheck(dropped, inputs, fast_mode=True)


def test_queries_that_may_look_at_nothing_get_zeros_and_no_gradient() -> None:
    q, k, v = heads((2, 3, 4), (2, 5, 4), (2, 5, 4))
    mask = on_device(torch.tensor([[0.0], [-float("inf")], [0.0]], dtype=torch.float64)).requires_grad_()
    y = F.scaled_dot_product_attention(q, k, v, mask)
    assert not on_cpu(y)[:, 1].any()
    y.sum().backward()
    assert not on_cpu(q.grad)[:, 1].any()
    assert all(on_cpu(x.grad).isfinite().all() for x in (q, k, v, mask))
    nothing = F.scaled_dot_product_attention(q, k[:, :0], v[:, :0])
    assert nothing.shape == (2, 3, 4) and not on_cpu(nothing).any()


def test_not_a_number_and_infinity_spread_as_in_torch() -> None:
    for bad in (float("nan"), float("inf")):
        q, k = torch.ones(1, 3, 2), torch.ones(1, 4, 2)
        k[0, 1, 0] = bad
        expected = reference.scaled_dot_product_attention(q, k, k)
        found = F.scaled_dot_product_attention(on_device(q), on_device(k), on_device(k))
        np.testing.assert_array_equal(on_cpu(found).numpy(), expected.numpy())


def test_scores_beyond_the_range_of_exponentials() -> None:
    q, k, v = torch.randn(2, 5, 8) * 300, torch.randn(2, 7, 8), torch.randn(2, 7, 3)
    expected = reference.scaled_dot_product_attention(*(x.double() for x in (q, k, v)))
    assert_close(on_cpu(F.scaled_dot_product_attention(*map(on_device, (q, k, v)))), expected, 400)


def test_the_result_lies_as_the_query_does() -> None:
    x = tinyflow.randn(2, 5, 3, 4)  # (batch, length, heads, features)
    y = F.scaled_dot_product_attention(*[x.transpose(1, 2)] * 3)
    assert y.shape == (2, 3, 5, 4) and y.transpose(1, 2).is_contiguous()


def test_no_matrix_of_scores_is_allocated() -> None:
    x = tinyflow.empty(1, 1, 1 << 20, 64, device="meta", dtype=tinyflow.bfloat16).requires_grad_()
    with tinyflow.count_launches() as counted:
        F.scaled_dot_product_attention(x, x, x, is_causal=True).sum().backward()
    assert max(record.cost.bytes for record in counted) < 16 * x.nbytes


def test_autocast_computes_in_half_precision() -> None:
    x = tinyflow.randn(2, 3, 4)
    with tinyflow.autocast("cpu"):
        y = F.scaled_dot_product_attention(x, x, x, tinyflow.zeros(3, 3))
    assert y.dtype == (tinyflow.bfloat16 if x.device.type == "cpu" else tinyflow.float32)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"attn_mask": (5, 7), "is_causal": True}, RuntimeError, "attn_mask should not be set when is_causal=True"),
        ({"query": (4,)}, RuntimeError, r"at least 2 dimensional, but got query.dim: 1, key.dim: 3"),
        (
            {"key": tinyflow.float64},
            RuntimeError,
            "to have the same dtype, but got query.dtype: torch.float32, key.dtype",
        ),
        ({"attn_mask": tinyflow.int64}, RuntimeError, "bool or float or to match query dtype, but got .*int64"),
        ({"attn_mask": (4, 7)}, RuntimeError, r"\(2, 5, 7\) and \(4, 7\) do not broadcast"),
        ({"attn_mask": (3, 2, 5, 7)}, RuntimeError, r"that broadcasts to \(2, 5, 7\), got \(3, 2, 5, 7\)"),
        (
            {"enable_gqa": True, "query": (4, 5, 4), "attn_mask": (3, 5, 7)},
            RuntimeError,
            r"\(4, 5, 7\) and \(3, 5, 7\)",
        ),
        ({"key": (2, 7, 3)}, RuntimeError, r"query \(2, 5, 4\), key \(2, 7, 3\)"),
        ({"value": (2, 6, 4)}, RuntimeError, r"with one E and one S, got"),
        ({"value": (3, 7, 4)}, RuntimeError, "do not broadcast: dimension -1 has sizes"),
        ({"dropout_p": 1.5}, RuntimeError, "between 0 and 1, but got 1.5"),
        ({"enable_gqa": True, "query": (3, 5, 4)}, RuntimeError, "must divide the number of heads in query, got 3 in"),
        ({"enable_gqa": True, "query": (5, 4)}, IndexError, "expects heads at dimension -3"),
        ({"query": tinyflow.int64, "key": tinyflow.int64, "value": tinyflow.int64}, TypeError, "floating-point query"),
    ],
)
def test_mistakes_say_so(change, error, text) -> None:
    shapes = {"query": (2, 5, 4), "key": (2, 7, 4), "value": (2, 7, 4)}
    how = {}
    for name in ("query", "key", "value", "attn_mask"):
        given = change.get(name, shapes.get(name))
        if isinstance(given, tuple):
            how[name] = tinyflow.zeros(given)
        elif given is not None:
            how[name] = tinyflow.zeros(shapes.get(name, (5, 7)), dtype=given)
    how |= {name: value for name, value in change.items() if name not in how}
    with pytest.raises(error, match=text):
        F.scaled_dot_product_attention(**how)
