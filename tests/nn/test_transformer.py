"""Transformer layers and stacks are torch's after load_state_dict: values, gradients, masks, names, text."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched", "ignore:enable_nested_tensor")  # torch's own

N, L, S, E, H, WIDE = 2, 3, 4, 6, 2, 5
SIZES = {"d_model": E, "nhead": H, "dim_feedforward": WIDE, "dropout": 0.0}
HIDDEN = torch.tensor([[False, False, False, True], [False, True, False, False]])


def pair(make):
    """The module that ``make(nn)`` gives, with our ``nn`` and torch's, in float64 with the same weights."""
    theirs, ours = make(torch.nn).double(), make(nn).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.5)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs).replace("NonDynamicallyQuantizable", "")
    ours.load_state_dict({key: on_device(value.clone()) for key, value in theirs.state_dict().items()})
    return ours, theirs


def compare(make, *shapes, **masks):
    ours, theirs = pair(make)
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    mine = [on_device(x.detach().clone()).requires_grad_() for x in inputs]
    y = ours(*mine, **{k: on_device(m) if isinstance(m, torch.Tensor) else m for k, m in masks.items()})
    expected = theirs(*inputs, **masks)
    assert_close(on_cpu(y), expected.detach(), 256)
    g = torch.randn_like(expected)
    expected.backward(g), y.backward(on_device(g))
    for x, reference in zip((*mine, *ours.parameters()), (*inputs, *theirs.parameters())):
        assert_close(on_cpu(x.grad), reference.grad, 1024)


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layer(norm_first):
    compare(
        lambda module: module.TransformerEncoderLayer(**SIZES, norm_first=norm_first, batch_first=norm_first),
        (N, S, E) if norm_first else (S, N, E),
        src_key_padding_mask=HIDDEN,
    )


def test_encoder_layer_with_other_settings():
    compare(
        lambda module: module.TransformerEncoderLayer(
            **SIZES, activation="gelu", layer_norm_eps=0.1, bias=False, batch_first=True
        ),
        (S, E),
        src_mask=torch.randn(S, S, dtype=torch.float64),
    )
    assert nn.TransformerEncoderLayer(E, H, activation=nn.SiLU()).activation(tinyflow.zeros(1)).item() == 0


@pytest.mark.parametrize("norm_first", [True, False])
def test_decoder_layer(norm_first):
    compare(
        lambda module: module.TransformerDecoderLayer(**SIZES, norm_first=norm_first, batch_first=norm_first),
        *(((N, L, E), (N, S, E)) if norm_first else ((L, N, E), (S, N, E))),
        tgt_mask=torch.ones(L, L, dtype=torch.bool).triu(1),
        tgt_is_causal=True,
        memory_mask=torch.randn(L, S, dtype=torch.float64),
        memory_key_padding_mask=HIDDEN,
    )


def test_encoder_and_decoder_together():
    compare(
        lambda module: module.Transformer(
            E, H, num_encoder_layers=2, num_decoder_layers=1, dim_feedforward=WIDE, dropout=0.0
        ),
        (S, N, E),
        (L, N, E),
        src_key_padding_mask=HIDDEN,
        tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64),
        memory_key_padding_mask=HIDDEN,
    )


def test_evaluation_agrees_where_nothing_is_hidden():
    ours, theirs = pair(lambda module: module.TransformerEncoderLayer(**SIZES, batch_first=True))
    x = torch.randn(N, S, E, dtype=torch.float64)
    with torch.no_grad():
        assert_close(on_cpu(ours.eval()(on_device(x))), theirs.eval()(x), 256)


def test_the_causal_mask_and_that_it_is_found():
    for dtype in (torch.float32, torch.float64, torch.bool):
        expected = torch.nn.Transformer.generate_square_subsequent_mask(4, dtype=dtype)
        found = nn.Transformer.generate_square_subsequent_mask(4, dtype=dtype)
        assert found.dtype == dtype and on_cpu(found).equal(expected)
    seen = []

    class Spy(nn.Module):
        def forward(self, src, src_mask, src_key_padding_mask, is_causal):
            seen.append(is_causal)
            return src

    stack, x = nn.TransformerEncoder(Spy(), 1), tinyflow.zeros(4, 1, 2)
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    for mask, said in ((causal, None), (causal * 0, None), (None, None), (causal, False), (causal * 0, True)):
        stack(x, mask, is_causal=said)
    assert seen == [True, False, False, False, True]


def test_layers_of_a_stack_start_as_copies_of_one():
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2)
    first, second = (layer.linear1.weight for layer in stack.layers)
    assert first is not second and (first == second).all()


def test_initial_values_are_uniform_by_glorot():
    for p in nn.Transformer(32, 4, 1, 1, 64).parameters():
        if p.dim() > 1:
            bound = (6 / sum(p.shape)) ** 0.5
            assert 0.95 * bound < float(p.abs().max()) <= bound


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: nn.TransformerEncoderLayer(4, 2, activation="tanh"), "should be relu/gelu, not tanh"),
        (
            lambda: small()(tinyflow.zeros(3, 2, 4), tinyflow.zeros(3, 1, 4)),
            "batch number of src and tgt must be equal",
        ),
        (lambda: small()(tinyflow.zeros(3, 2, 4), tinyflow.zeros(3, 2, 5)), "equal to d_model, 4, got 4 and 5"),
    ],
)
def test_mistakes_say_so(act, text):
    with pytest.raises(RuntimeError, match=text):
        act()


def small():
    return nn.Transformer(4, 2, 1, 1, 8)
