"""Norms and similarities are torch's: values, gradients, running statistics, text, errors."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.nn import functional as F

LAYERS = [
    ("LayerNorm", (5,), {}, (2, 3, 5)),
    ("LayerNorm", ((3, 5),), {"bias": False, "eps": 0.1}, (2, 3, 5)),
    ("LayerNorm", (5,), {"elementwise_affine": False}, (2, 5)),
    ("RMSNorm", (5,), {}, (2, 3, 5)),
    ("RMSNorm", ([3, 5],), {"elementwise_affine": False, "eps": 0.1}, (2, 3, 5)),
    ("GroupNorm", (2, 4), {}, (2, 4, 3, 2)),
    ("GroupNorm", (4, 4), {"eps": 0.1}, (2, 4, 3)),
    ("GroupNorm", (1, 4), {"affine": False}, (3, 4)),
    ("InstanceNorm1d", (3,), {}, (2, 3, 5)),
    ("InstanceNorm1d", (3,), {"affine": True, "track_running_stats": True}, (3, 5)),
    ("InstanceNorm2d", (3,), {"affine": True, "track_running_stats": True, "momentum": 0.3}, (2, 3, 3, 2)),
    ("InstanceNorm3d", (3,), {"affine": True, "eps": 0.1}, (2, 3, 2, 1, 3)),
    ("LocalResponseNorm", (3,), {"alpha": 0.5, "k": 2.0}, (2, 5, 3)),
]


def without_bias(text):
    """A norm's text without a setting that older versions of torch do not show."""
    return text.replace(", bias=True", "").replace(", bias=False", "")


def compare(ours, theirs, shape):
    x = torch.randn(shape, dtype=torch.float64)
    mine, reference = on_device(x.clone()).requires_grad_(), x.clone().requires_grad_()
    y, expected = ours(mine), theirs(reference)
    g = torch.randn_like(expected)
    assert_close(on_cpu(y), expected.detach(), 64)
    y.backward(on_device(g)), expected.backward(g)
    assert_close(on_cpu(mine.grad), reference.grad, 64)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert_close(on_cpu(p.grad), q.grad, 256)
    for b, c in zip(ours.buffers(), theirs.buffers()):
        assert_close(on_cpu(b), c, 64)


@pytest.mark.parametrize(("name", "arguments", "settings", "shape"), LAYERS, ids=str)
def test_layers_are_those_of_torch(name, arguments, settings, shape):
    theirs = getattr(torch.nn, name)(*arguments, **settings).double()
    for k, p in enumerate(theirs.parameters()):
        torch.nn.init.normal_(p, mean=0.1 * k)
    ours = getattr(nn, name)(*arguments, **settings).double()
    assert without_bias(repr(ours)) == without_bias(repr(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: on_device(value.clone()) for key, value in theirs.state_dict().items()})
    compare(ours, theirs, shape)
    ours.zero_grad(), theirs.zero_grad()
    compare(ours.eval(), theirs.eval(), shape)


@pytest.mark.parametrize(
    "make",
    [lambda **how: nn.GroupNorm(2, 4, **how), lambda **how: nn.InstanceNorm1d(4, affine=True, **how), nn.BatchNorm1d],
)
def test_a_norm_without_a_bias(make):
    layer = make(4, bias=False) if make is nn.BatchNorm1d else make(bias=False)
    assert layer.bias is None and ", bias=False" in repr(layer)
    layer(tinyflow.randn(2, 4, 3)).sum().backward()
    assert layer.weight.grad is not None


def test_parameters_start_as_the_identity():
    for layer in (nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm1d(3, affine=True, track_running_stats=True)):
        assert (layer.weight == 1).all() and (layer.bias == 0).all()
    assert (layer.running_mean == 0).all() and (layer.running_var == 1).all()


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_large_mean_costs_no_precision(name, dtype):
    x = (torch.randn(3, 1000) * 2 + 300).to(dtype)
    expected = getattr(torch.nn.functional, name)(x.double(), (1000,))
    assert_close(on_cpu(getattr(F, name)(on_device(x), (1000,))), expected, 1000)


def test_half_precision_with_parameters_in_single():
    x, w = torch.randn(4, 6).half(), torch.randn(6)
    y = F.layer_norm(on_device(x).requires_grad_(), (6,), on_device(w), on_device(w))
    assert y.dtype == tinyflow.float16
    assert_close(on_cpu(y), torch.nn.functional.layer_norm(x.double(), (6,), w.double(), w.double()), 6)


def test_channels_last_memory_stays():
    x = tinyflow.randn(2, 4, 3, 5).contiguous(memory_format=tinyflow.channels_last)
    for y in (F.group_norm(x, 2), F.instance_norm(x)):
        assert y.is_contiguous(memory_format=tinyflow.channels_last)


@pytest.mark.parametrize("name", ["CosineSimilarity", "PairwiseDistance"])
def test_similarities(name):
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    layer = getattr(nn, name)()
    assert repr(layer) == repr(getattr(torch.nn, name)())
    assert_close(on_cpu(layer(on_device(x), on_device(y))), getattr(torch.nn, name)()(x, y), 4)


def test_a_vector_of_zeros_has_no_direction():
    zeros = tinyflow.zeros(2, 3, requires_grad=True)
    y = F.normalize(zeros) + F.cosine_similarity(zeros, tinyflow.ones(2, 3)).unsqueeze(1)
    assert not y.any()
    y.sum().backward()
    assert on_cpu(zeros.grad).isfinite().all()


def test_no_channels_have_no_statistics():
    assert F.instance_norm(tinyflow.zeros(2, 0, 3)).shape == (2, 0, 3)


X = (2, 4, 3)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda x: F.layer_norm(x, (4,)), RuntimeError, r"expected input with shape \[\*, 4\], but got .*\[2, 4, 3\]"),
        (lambda x: F.layer_norm(x, ()), RuntimeError, "at least 1-dimensional"),
        (lambda x: F.layer_norm(x, (3,), tinyflow.ones(4)), RuntimeError, r"weight to be of same shape .* got \(4,\)"),
        (lambda x: F.layer_norm(x, (3,), None, tinyflow.ones(4)), RuntimeError, "bias to be of same shape"),
        (lambda x: F.layer_norm(x.long(), (3,)), TypeError, "floating-point x, got torch.int64"),
        (lambda x: F.layer_norm(x, (3,), tinyflow.ones(3).double()), RuntimeError, "weight of dtype torch.float32"),
        (lambda x: F.rms_norm(x, (4,)), RuntimeError, r"rms_norm: Given normalized_shape=\[4\]"),
        (lambda x: F.rms_norm(x.long(), (3,)), TypeError, "rms_norm: expected floating-point input, got torch.int64"),
        (lambda x: F.group_norm(x, 3), RuntimeError, "to be divisible by num_groups, but got .* num_groups=3"),
        (lambda x: F.group_norm(x, 0), RuntimeError, "num groups to be greater than 0, got 0"),
        (lambda x: F.group_norm(x[0, 0], 1), RuntimeError, "at least 2 dimensions for input tensor but received 1"),
        (lambda x: F.group_norm(x[:1, :, :1], 4), ValueError, "more than 1 value per channel"),
        (lambda x: F.group_norm(x, 2, tinyflow.ones(3)), RuntimeError, r"number of channels in input, 4, got \(3,\)"),
        (lambda x: F.instance_norm(x[:, :, :1]), ValueError, "more than 1 spatial element"),
        (lambda x: F.instance_norm(x, use_input_stats=False), RuntimeError, "when use_input_stats is false"),
        (lambda x: F.local_response_norm(x[0], 3), ValueError, r"3D or higher dimensionality input \(got 2 dim"),
        (lambda x: F.normalize(x, out=x), NotImplementedError, "out= is not implemented"),
        (lambda x: F.cosine_similarity(x.long(), x.long()), RuntimeError, "common dtype to be floating point"),
        (lambda x: nn.GroupNorm(3, 4), ValueError, r"num_channels \(4\) must be divisible by num_groups \(3\)"),
        (lambda x: nn.InstanceNorm1d(4)(x[0, 0]), ValueError, "expected 2D or 3D input, got 1D"),
        (
            lambda x: nn.InstanceNorm1d(5, affine=True)(x),
            ValueError,
            "4 channels at dimension 1, where num_features is 5",
        ),
    ],
)
def test_mistakes_say_so(act, error, text):
    with pytest.raises(error, match=text):
        act(tinyflow.zeros(X))


def test_a_needless_number_of_channels_is_a_warning():
    with pytest.warns(UserWarning, match="which affine=False does not need"):
        nn.InstanceNorm1d(5)(tinyflow.zeros(X))
