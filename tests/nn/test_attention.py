"""MultiheadAttention is torch's: every argument, both orders of dimensions, weights, masks, gradients and errors."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.nn import functional as F

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched")  # torch's, of masks of two dtypes

N, L, S, E, H = 2, 3, 5, 6, 2  # batch, queries, keys, features, heads


def pair(*arguments, **settings):
    """The module and torch's, in float64, with the same weights."""
    theirs = torch.nn.MultiheadAttention(*arguments, **settings).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.5)
    ours = nn.MultiheadAttention(*arguments, **settings).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: on_device(value.clone()) for key, value in theirs.state_dict().items()})
    return ours, theirs


def compare(ours, theirs, inputs, **how):
    """Output, weights, and gradients of inputs and parameters; the same tensor may stand in several places."""
    leaves = {id(x): x.clone().requires_grad_() for x in inputs}
    reference = [leaves[id(x)] for x in inputs]
    own = {key: on_device(x.detach().clone()).requires_grad_() for key, x in leaves.items()}
    mine = [own[id(x)] for x in inputs]
    y, weights = ours(*mine, **{k: on_device(v) if isinstance(v, torch.Tensor) else v for k, v in how.items()})
    expected, wanted = theirs(*reference, **how)
    assert_close(on_cpu(y), expected.detach(), 64)
    assert (weights is None) == (wanted is None)
    g = torch.randn_like(expected)
    if wanted is None:
        expected.backward(g), y.backward(on_device(g))
    else:
        assert_close(on_cpu(weights), wanted.detach(), 64)
        h = torch.randn_like(wanted)
        torch.autograd.backward([expected, wanted], [g, h])
        tinyflow.autograd.backward([y, weights], [on_device(g), on_device(h)])
    for key, x in leaves.items():
        assert_close(on_cpu(own[key].grad), x.grad, 256)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        assert (p.grad is None) == (q.grad is None), name
        if q.grad is not None:
            assert_close(on_cpu(p.grad), q.grad, 256)


def draw(*shapes):
    return [torch.randn(s, dtype=torch.float64) for s in shapes]


HIDDEN = torch.tensor([[False, False, True, False, True], [True, False, False, False, False]])
CAUSAL = torch.ones(L, L, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_queries_look_at_other_keys(batch_first, need_weights):
    shapes = ((N, L, E), (N, S, 4), (N, S, 7)) if batch_first else ((L, N, E), (S, N, 4), (S, N, 7))
    ours, theirs = pair(E, H, kdim=4, vdim=7, batch_first=batch_first)
    compare(ours, theirs, draw(*shapes), need_weights=need_weights, key_padding_mask=HIDDEN)


@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention_packs_its_projections(batch_first):
    (x,) = draw((N, L, E) if batch_first else (L, N, E))
    ours, theirs = pair(E, H, batch_first=batch_first, bias=False)
    compare(ours, theirs, [x, x, x], average_attn_weights=False, attn_mask=CAUSAL)
    compare(ours, theirs, [x, x, x], need_weights=False, attn_mask=CAUSAL, is_causal=True)


def test_keys_that_are_values_are_projected_together():
    query, memory = draw((L, N, E), (S, N, E))
    ours, theirs = pair(E, 3)
    compare(ours, theirs, [query, memory, memory], need_weights=False)


@pytest.mark.parametrize("need_weights", [True, False])
def test_more_keys_and_masks_of_both_kinds(need_weights):
    query, key, value = draw((L, N, E), (S, N, E), (S, N, E))
    ours, theirs = pair(E, H, add_bias_kv=True, add_zero_attn=True)
    masks = {"attn_mask": torch.rand(L, S) > 0.6, "key_padding_mask": HIDDEN}
    compare(ours, theirs, [query, key, value], need_weights=need_weights, **masks)
    masks = {"attn_mask": draw((N * H, L, S))[0], "key_padding_mask": draw((N, S))[0]}
    compare(ours, theirs, [query, key, value], need_weights=need_weights, **masks)


def test_without_a_batch():
    query, key = draw((L, E), (S, E))
    ours, theirs = pair(E, H, add_bias_kv=True, batch_first=True)
    compare(ours, theirs, [query, key, key], key_padding_mask=HIDDEN[0], attn_mask=draw((H, L, S))[0])
    compare(ours, theirs, [query, query, query], need_weights=False)


def test_the_function_takes_static_keys_and_separate_weights():
    query, key = draw((L, N, E), (S, N, E))
    static_k, static_v = draw((N * H, S + 1, E // H), (N * H, S + 1, E // H))
    hidden = torch.arange(S + 1).expand(N, -1) == torch.arange(N)[:, None]
    w, b, out = draw((3 * E, E), (3 * E,), (E, E))

    def call(function, convert):
        q, k, sk, sv, bias, o = map(convert, (query, key, static_k, static_v, b, out))
        parts = [convert(p.clone()) for p in w.chunk(3)]
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        return function(
            q, k, k, E, H, None, bias, None, None, False, 0.0, o, None, use_separate_proj_weight=True,
            static_k=sk, static_v=sv, key_padding_mask=convert(hidden), **dict(zip(names, parts)),
        )  # fmt: skip

    expected = call(torch.nn.functional.multi_head_attention_forward, lambda x: x)
    for mine, theirs in zip(call(F.multi_head_attention_forward, on_device), expected):
        assert_close(on_cpu(mine), theirs, 64)


def test_dropout_is_for_training():
    x = tinyflow.randn(L, N, E)
    layer = nn.MultiheadAttention(E, H, dropout=0.9)
    assert (layer(x, x, x)[1] == 0).any() and not (layer.eval()(x, x, x)[1] == 0).any()


def test_initial_values_are_those_of_torch():
    layer = nn.MultiheadAttention(64, 4, add_bias_kv=True)
    bound = (6 / (64 + 192)) ** 0.5
    assert 0.98 * bound < float(layer.in_proj_weight.abs().max()) <= bound
    assert not layer.in_proj_bias.any() and not layer.out_proj.bias.any() and layer.bias_k.any()


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: nn.MultiheadAttention(6, 0), ValueError, "greater than 0, got embed_dim=6 and num_heads=0"),
        (lambda: nn.MultiheadAttention(6, 4), AssertionError, "divisible by num_heads, got 6 and 4"),
        (lambda: attend((L, N, 5)), AssertionError, "embedding dimension of 6, but got 5"),
        (lambda: attend((1, L, N, E)), AssertionError, "received 4-D query tensor"),
        (lambda: attend((L, N, E), is_causal=True), RuntimeError, "Need attn_mask if specifying the is_causal hint"),
        (
            lambda: attend((L, N, E), attn_mask=(L, S)),
            RuntimeError,
            r"2D attn_mask is \(3, 5\), but should be \(3, 3\)",
        ),
        (lambda: attend((L, N, E), attn_mask=(N, L, L)), RuntimeError, r"but should be \(4, 3, 3\)"),
        (
            lambda: nn.MultiheadAttention(E, H)(tinyflow.zeros(L, 1, E), *[tinyflow.zeros(S, N, E)] * 2),
            RuntimeError,
            r"one batch size, got query \(3, 1, 6\) and key \(5, 2, 6\)",
        ),
        (lambda: attend((L, N, E), key_padding_mask=(L,)), AssertionError, "`None` or 2-D but found 1-D"),
        (lambda: attend((L, N, E), key_padding_mask=(N, S)), AssertionError, r"of \(2, 3\), but got \(2, 5\)"),
    ],
)
def test_mistakes_say_so(act, error, text):
    with pytest.raises(error, match=text):
        act()


def attend(shape, **how):
    x = tinyflow.zeros(shape)
    made = {name: tinyflow.zeros(value) if isinstance(value, tuple) else value for name, value in how.items()}
    return nn.MultiheadAttention(E, H)(x, x, x, **made)
