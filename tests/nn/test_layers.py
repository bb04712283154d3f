"""Layers compute what torch's of the same settings and weights do, forward and backward, and have their text."""

from __future__ import annotations

import inspect

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn

IMAGE = (2, 4, 7, 5)  # odd, and higher than wide

#: Name of the layer, its settings, the input's shape.
LAYERS = [
    ("Linear", (5, 3), {}, (2, 7, 5)),
    ("Linear", (5, 3), {"bias": False}, (5,)),
    ("Conv2d", (4, 6, 3), {}, IMAGE),
    (
        "Conv2d",
        (4, 6, (3, 2)),
        {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2, "bias": False},
        IMAGE,
    ),
    ("Conv2d", (4, 6, 3), {"padding": "same", "dilation": 2}, IMAGE),
    ("Conv2d", (4, 6, 3), {"padding": "valid"}, IMAGE[1:]),
    ("Conv2d", (4, 4, 1), {"groups": 4, "stride": 2}, IMAGE),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 7)),
    ("Conv1d", (4, 6, 3), {"padding": "same", "dilation": 2, "bias": False}, (4, 7)),
    ("Conv3d", (4, 6, (3, 2, 1)), {"stride": (1, 2, 1), "padding": (1, 0, 1), "dilation": (1, 2, 1)}, (2, 4, 4, 5, 2)),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "output_padding": 1}, (2, 4, 5)),
    ("ConvTranspose2d", (4, 6, (3, 2)), {"stride": 2, "padding": (1, 0), "groups": 2}, IMAGE),
    ("ConvTranspose3d", (4, 6, 2), {"dilation": (2, 1, 1), "bias": False}, (4, 2, 3, 2)),
    ("BatchNorm1d", (4,), {}, (6, 4)),
    ("BatchNorm1d", (4,), {"momentum": None}, (3, 4, 5)),
    ("BatchNorm2d", (4,), {}, IMAGE),
    ("BatchNorm2d", (4,), {"affine": False, "eps": 0.1, "momentum": 0.7}, IMAGE),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, IMAGE),
    ("BatchNorm3d", (4,), {}, (2, 4, 3, 2, 3)),
    ("ReLU", (), {}, IMAGE),
    ("Sigmoid", (), {}, IMAGE),
    ("Tanh", (), {}, IMAGE),
    ("Softmax", (1,), {}, IMAGE),
    ("LogSoftmax", (), {"dim": -1}, IMAGE),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, IMAGE),
    ("MaxPool2d", ((2, 3),), {"dilation": (2, 1), "ceil_mode": True}, IMAGE),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False, "ceil_mode": True}, IMAGE),
    ("AvgPool2d", ((2, 3),), {"divisor_override": 5}, IMAGE),
    ("AdaptiveAvgPool2d", ((3, None),), {}, IMAGE),
    ("AdaptiveAvgPool2d", (1,), {}, IMAGE),
    ("AdaptiveMaxPool2d", ((2, 3),), {}, IMAGE),
    ("Dropout", (), {"p": 0.0}, IMAGE),
    ("Flatten", (), {}, IMAGE),
    ("Flatten", (), {"start_dim": 0, "end_dim": 2}, IMAGE),
    ("Unflatten", (1, (2, -1)), {}, IMAGE),
    ("Identity", (3,), {"anything": 4}, IMAGE),
]


def pair(name, arguments, settings):
    """The layer and torch's, in float64 with the same weights."""
    theirs = getattr(torch.nn, name)(*arguments, **settings).double()
    for k, p in enumerate(theirs.parameters()):
        torch.nn.init.normal_(p, mean=0.1 * k)
    ours = getattr(nn, name)(*arguments, **settings).double()
    ours.load_state_dict({key: on_device(value.clone()) for key, value in theirs.state_dict().items()})
    return ours, theirs


def without_bias(text):
    """A norm's text without a setting that older versions of torch do not show."""
    return text.replace(", bias=True, track", ", track").replace(", bias=False, track", ", track")


def compare(ours, theirs, shape):
    x = torch.randn(shape, dtype=torch.float64)
    mine, reference = on_device(x.clone()).requires_grad_(), x.clone().requires_grad_()
    y, expected = ours(mine), theirs(reference)
    g = torch.randn_like(expected)
    assert_close(on_cpu(y), expected.detach(), length=64)
    y.backward(on_device(g))
    expected.backward(g)
    assert_close(on_cpu(mine.grad), reference.grad, length=64)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert_close(on_cpu(p.grad), q.grad, length=256)
    for b, c in zip(ours.buffers(), theirs.buffers()):
        assert_close(on_cpu(b), c, length=64)


@pytest.mark.parametrize(("name", "arguments", "settings", "shape"), LAYERS, ids=str)
def test_layers_are_those_of_torch(name, arguments, settings, shape):
    ours, theirs = pair(name, arguments, settings)
    assert without_bias(repr(ours)) == without_bias(repr(theirs))
    compare(ours, theirs, shape)
    if name.startswith("BatchNorm"):  # with other running statistics, and then by them
        ours.zero_grad(), theirs.zero_grad()
        compare(ours, theirs, shape)
        ours.zero_grad(), theirs.zero_grad()
        compare(ours.eval(), theirs.eval(), shape)


#: What forward() here leaves to subclasses or names by other means.
ABSTRACT = {"Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "RNNBase", "RNNCellBase"}


def test_what_a_layer_is_given_is_named_as_in_torch():
    for name in set(vars(nn)) & set(vars(torch.nn)) - ABSTRACT:
        ours, theirs = getattr(nn, name), getattr(torch.nn, name)
        if isinstance(ours, type) and isinstance(theirs, type) and issubclass(ours, nn.Module):
            names = [list(inspect.signature(layer.forward).parameters) for layer in (ours, theirs)]
            assert names[0] == names[1], name


def test_relu_in_place_overwrites_and_differentiates():
    x = tinyflow.tensor([-1.0, 2.0, float("nan")], requires_grad=True)
    hidden = x * 2
    y = nn.ReLU(inplace=True)(hidden)
    assert y.data_ptr() == hidden.data_ptr()
    assert y.tolist()[:2] == [0.0, 4.0]
    y[:2].sum().backward()
    assert x.grad.tolist()[:2] == [0.0, 2.0]


def test_max_pool_returns_indices():
    x = torch.randn(IMAGE)
    _, indices = nn.MaxPool2d(2, return_indices=True)(on_device(x))
    assert indices.tolist() == torch.nn.MaxPool2d(2, return_indices=True)(x)[1].tolist()


def test_dropout_drops_in_training_only():
    layer, x = nn.Dropout(0.25), tinyflow.ones(100, 100)
    values = layer(x).to_torch()
    assert values.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (values == 0).double().mean() == pytest.approx(0.25, abs=0.02)
    assert layer.eval()(x) is x


def test_convolution_weights_and_results_lie_channels_last():
    layer = nn.Conv2d(3, 4, (2, 5))
    assert layer.weight.shape == (4, 3, 2, 5)
    assert layer.weight.stride() == (30, 1, 15, 3)
    assert layer(tinyflow.randn(2, 3, 6, 7)).is_contiguous(memory_format=tinyflow.channels_last)


def test_a_device_and_a_dtype_are_taken():
    for layer in (
        nn.Linear(2, 3, device="meta", dtype=tinyflow.float64),
        nn.Conv2d(2, 3, 3, device="meta", dtype=tinyflow.float64),
        nn.BatchNorm2d(3, device="meta", dtype=tinyflow.float64),
    ):
        for tensor in (*layer.parameters(), *layer.buffers()):
            assert tensor.device.type == "meta"
            assert tensor.dtype in (tinyflow.float64, tinyflow.int64)


def test_a_dimension_that_is_not_given_is_chosen_with_a_warning():
    x = torch.randn(2, 3, 4)
    with pytest.warns(UserWarning, match="softmax: dim=0 was chosen"):
        y = nn.Softmax()(on_device(x))
    assert_close(on_cpu(y), x.double().softmax(0))


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "divisible by groups=2, got 3 and 4"),
        (lambda: nn.Conv2d(3, 4, 3, groups=0), ValueError, "groups must be a positive integer, got 0"),
        (
            lambda: nn.Conv2d(3, 4, 3, padding="full"),
            ValueError,
            "expected padding 'same', 'valid' or numbers, got 'full'",
        ),
        (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), ValueError, "not supported for strided convolutions"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, "got 'mirror'"),
        (lambda: nn.Conv2d(3, 4, 3)(tinyflow.ones(2, 2, 5, 5)), RuntimeError, r"expects 3 input channels"),
        (lambda: nn.Linear(3, 4)(tinyflow.ones(2, 2)), RuntimeError, r"weight \(4, 3\) does not fit input \(2, 2\)"),
        (
            lambda: nn.BatchNorm2d(3)(tinyflow.ones(2, 3)),
            ValueError,
            r"expected 4D input, got 2D input of shape \(2, 3\)",
        ),
        (lambda: nn.BatchNorm1d(3)(tinyflow.ones(2)), ValueError, "expected 2D or 3D input, got 1D"),
        (lambda: nn.BatchNorm1d(3)(tinyflow.ones(1, 3)), ValueError, "more than 1 value per channel"),
        (lambda: nn.Dropout(1.5), ValueError, "between 0 and 1, but got 1.5"),
        (lambda: nn.Unflatten(1, "ab"), TypeError, "expected unflattened_size to be integers, got 'ab'"),
    ],
)
def test_mistakes_say_so(act, error, text):
    with pytest.raises(error, match=text):
        act()
