"""Embedding and EmbeddingBag are torch's: values, tables that are shortened, padding, pretrained tables, errors."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.nn import functional as F

NUMBERS = torch.tensor([[0, 2, 2], [4, 0, 1]])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Embedding", {"padding_idx": -1, "max_norm": 1.0, "norm_type": 1.0, "scale_grad_by_freq": True}),
        ("Embedding", {}),
        ("EmbeddingBag", {"mode": "sum", "padding_idx": 2, "max_norm": 1.5}),
        ("EmbeddingBag", {"mode": "max"}),
    ],
)
def test_layers_are_those_of_torch(name, settings):
    theirs = getattr(torch.nn, name)(5, 3, **settings).double()
    ours = getattr(nn, name)(5, 3, **settings).double()
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({key: on_device(value.clone()) for key, value in theirs.state_dict().items()})
    y, expected = ours(on_device(NUMBERS)), theirs(NUMBERS)
    assert_close(on_cpu(y), expected.detach(), 16)
    assert_close(on_cpu(ours.weight), theirs.weight.detach(), 16)  # shortened where max_norm says so
    g = torch.randn_like(expected)
    y.backward(on_device(g)), expected.backward(g)
    assert_close(on_cpu(ours.weight.grad), theirs.weight.grad, 16)


def test_rows_start_standard_normal_and_padding_as_zeros():
    weight = on_cpu(nn.Embedding(200, 50, padding_idx=3).weight)
    assert not weight[3].any()
    assert weight.std() == pytest.approx(1, abs=0.05) and weight.mean() == pytest.approx(0, abs=0.05)


def test_pretrained_tables_are_frozen_unless_said():
    table = tinyflow.randn(4, 2)
    layer = nn.Embedding.from_pretrained(table, padding_idx=1)
    assert not layer.weight.requires_grad and (layer(tinyflow.tensor([3])) == table[3]).all()
    bag = nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum")
    assert bag.weight.requires_grad
    assert_close(on_cpu(bag(tinyflow.tensor([0, 3]), tinyflow.tensor([0]))), on_cpu(table[0:1] + table[3:]))


def test_bags_of_any_strides_and_32_bit_numbers():
    weight = torch.randn(6, 5)[:, ::2]
    numbers = torch.randint(6, (3, 8))[:, ::2].int()
    expected = torch.nn.functional.embedding_bag(numbers.long(), weight.double())
    assert_close(on_cpu(F.embedding_bag(on_device(numbers), on_device(weight))), expected, 4)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_what_follows_the_end_of_the_last_bag_learns_nothing(mode):
    weight = tinyflow.randn(5, 2, dtype=tinyflow.float64, requires_grad=True)
    factors = tinyflow.ones(4, dtype=tinyflow.float64, requires_grad=True) if mode == "sum" else None
    numbers, ends = tinyflow.tensor([0, 3, 3, 4]), tinyflow.tensor([0, 1, 3])
    y = F.embedding_bag(numbers, weight, ends, mode=mode, per_sample_weights=factors, include_last_offset=True)
    y.sum().backward()
    share = 1.0 if mode == "mean" else 2.0
    assert weight.grad.tolist() == [[1.0] * 2, [0.0] * 2, [0.0] * 2, [share] * 2, [0.0] * 2]
    assert factors is None or factors.grad[3].item() == 0.0


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_row_of_a_bag_may_learn_less_the_more_often_it_is_named(mode):
    # torch's kernel for the CPU divides by another row's count, so the reference is its plain gradient
    weight = torch.zeros(5, 2, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.embedding_bag(NUMBERS, weight, mode=mode).sum().backward()
    counts = NUMBERS.flatten().bincount(minlength=5).clamp(min=1)
    ours = tinyflow.zeros(5, 2, dtype=tinyflow.float64, requires_grad=True)
    F.embedding_bag(on_device(NUMBERS), ours, mode=mode, scale_grad_by_freq=True).sum().backward()
    assert_close(on_cpu(ours.grad), weight.grad / counts[:, None], 4)


def look_up(numbers, rows=5, **how):
    return F.embedding(tinyflow.tensor(numbers), tinyflow.zeros(rows, 2), **how)


def bag(numbers, offsets=None, **how):
    offsets = None if offsets is None else tinyflow.tensor(offsets)
    return F.embedding_bag(tinyflow.tensor(numbers), tinyflow.zeros(5, 2), offsets, **how)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: look_up([0], sparse=True), NotImplementedError, "sparse=True is not implemented"),
        (lambda: nn.Embedding(3, 2, sparse=True), NotImplementedError, "Embedding: sparse=True is not implemented"),
        (lambda: look_up([0.5]), RuntimeError, "Expected indices of dtype int64 or int32, got torch.float32"),
        (lambda: look_up([0], padding_idx=5), AssertionError, "within num_embeddings, 5, got 5"),
        (lambda: nn.Embedding(3, 2, padding_idx=-4), AssertionError, "within num_embeddings, 3, got -4"),
        (lambda: F.embedding(tinyflow.tensor([0]), tinyflow.zeros(3)), RuntimeError, "'weight' must be 2-D"),
        (lambda: nn.Embedding.from_pretrained(tinyflow.zeros(3)), AssertionError, "to be 2-dimensional"),
        (lambda: nn.Embedding(3, 2, _weight=tinyflow.zeros(2, 2)), AssertionError, r"expected \(3, 2\), got \(2, 2\)"),
        (lambda: bag([0, 1]), ValueError, "offsets has to be a 1D Tensor but got None"),
        (lambda: bag([[0, 1]], [0]), ValueError, "if input is 2D, then offsets has to be None"),
        (lambda: bag([0, 1], [1]), RuntimeError, r"offsets\[0\] has to be 0.* got 1"),
        (lambda: bag([0, 1], [0, 3]), RuntimeError, "greater than input's length 2, but got 3"),
        (lambda: bag([[0, 1]], mode="min"), ValueError, "mode has to be one of sum, mean or max, got 'min'"),
        (lambda: bag([[0]], mode="max", scale_grad_by_freq=True), ValueError, "does not support scaling"),
        (
            lambda: bag([[0]], per_sample_weights=tinyflow.ones(1, 1)),
            NotImplementedError,
            r"only supported for mode='sum' \(got mode='mean'\)",
        ),
        (
            lambda: bag([[0]], mode="sum", per_sample_weights=tinyflow.ones(1)),
            ValueError,
            r"of input, \(1, 1\), got \(1,\)",
        ),
        (lambda: bag([[0]], padding_idx=7), RuntimeError, "-5 through 4, got 7"),
    ],
)
def test_mistakes_say_so(act, error, text):
    with pytest.raises(error, match=text):
        act()


@pytest.mark.skipif(tinyflow.gpu_available(), reason="a GPU does not wait to look")
@pytest.mark.parametrize("number", [5, -1])
def test_numbers_out_of_range_are_seen_where_they_can_be(number):
    for act in (look_up, lambda n: bag([n])):
        with pytest.raises(IndexError, match=rf"expected numbers in \[0, 5\), got {number}"):
            act([number])
