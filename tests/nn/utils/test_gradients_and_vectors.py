"""Clipping gradients, one vector of all parameters, and folded normalisation, as torch does them."""

from __future__ import annotations

import math

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.kernels import launch
from tinyflow.nn import utils

SHAPES = [(3, 5), (), (7,), (2, 3, 1, 3)]


def parameters(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(3)
    theirs = [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]
    for q in theirs:
        q.grad = (scale * torch.randn(q.shape, generator=generator)).to(dtype)
    ours = [nn.Parameter(on_device(q.detach().clone())) for q in theirs]
    for p, q in zip(ours, theirs):
        p.grad = on_device(q.grad.clone())
    return [*ours, nn.Parameter(tinyflow.zeros(2))], [*theirs, torch.nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize("norm_type", [2.0, 1.0, math.inf, 3.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_clipping_by_norm(norm_type, dtype):
    for scale in (1e-3, 10.0):
        ours, theirs = parameters(dtype, scale)
        wide = [q.grad.double().clone() for q in theirs[:-1]]
        total = torch.nn.utils.clip_grad_norm_(theirs, 1.0, norm_type)
        expected = torch.nn.utils.get_total_norm(wide, norm_type)
        found = utils.clip_grad_norm_(ours, 1.0, norm_type)
        assert found.dtype == total.dtype
        assert_close(on_cpu(found), expected, 40)
        factor = min(1.0, float(1.0 / (expected + 1e-6)))
        for p, g in zip(ours, wide):
            assert_close(on_cpu(p.grad), g * factor, 40)
        assert ours[-1].grad is None


def test_clipping_takes_few_launches():
    ours, _ = parameters(torch.float32)
    with launch.count() as records:
        utils.clip_grad_norm_(ours, 1.0)
    assert [r.kernel for r in records].count("_partial_norms_kernel") == 1
    assert [r.kernel for r in records].count("_update_kernel") == 1


def test_clipping_by_value_and_what_is_not_finite():
    ours, theirs = parameters()
    ours[0].grad[0, 0] = theirs[0].grad[0, 0] = math.nan
    with launch.count() as records:
        utils.clip_grad_value_(ours, 0.5)
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    assert [r.kernel for r in records] == ["_update_kernel"]
    assert on_cpu(ours[0].grad)[0, 0].isnan() and theirs[0].grad[0, 0].isnan()
    ours[0].grad[0, 0] = theirs[0].grad[0, 0] = 0
    for p, q in zip(ours[:-1], theirs):
        assert_close(on_cpu(p.grad), q.grad, 1)
    ours[0].grad.fill_(math.inf)
    with pytest.raises(RuntimeError, match=r"total norm of order 2.0 .* non-finite"):
        utils.clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    assert utils.clip_grad_norm_(ours, 1.0).item() == math.inf
    assert utils.clip_grad_norm_(ours[-1], 1.0).item() == 0.0


def test_one_vector_of_all_parameters_and_back():
    ours, theirs = parameters()
    vector = utils.parameters_to_vector(ours)
    assert_close(on_cpu(vector), torch.nn.utils.parameters_to_vector(theirs).detach(), 1)
    (vector**2).sum().backward()
    assert_close(on_cpu(ours[-1].grad), torch.zeros(2), 1)
    utils.vector_to_parameters(vector.detach() * 2, ours)
    for p, q in zip(ours, theirs):
        assert_close(on_cpu(p), 2 * q.detach(), 1)
    with pytest.raises(RuntimeError, match=r"expected a vector of 43 elements, got a tensor of shape \(42,\)"):
        utils.vector_to_parameters(vector[1:], ours)
    with pytest.raises(TypeError, match="expected tinyflow.Tensor, but got: list"):
        utils.vector_to_parameters([1.0], ours)


def _normalised(layer, bn):
    with tinyflow.no_grad():
        for x in (bn.running_mean, bn.weight, bn.bias):
            x.copy_(tinyflow.randn_like(x))
        bn.running_var.copy_(tinyflow.rand_like(bn.running_var) + 0.5)
    return layer.double().eval(), bn.double().eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "transpose", "shape"),
    [(nn.Conv2d, False, (2, 4, 5, 5)), (nn.ConvTranspose2d, True, (2, 4, 3, 3))],
)
def test_folding_into_a_convolution(kind, transpose, shape, bias):
    tinyflow.manual_seed(0)
    conv, bn = _normalised(kind(4, 6, 3, bias=bias), nn.BatchNorm2d(6))
    fused = utils.fuse_conv_bn_eval(conv, bn, transpose)
    x = tinyflow.randn(shape, dtype=tinyflow.float64)
    assert_close(on_cpu(fused(x)), on_cpu(bn(conv(x))), 64)
    assert fused is not conv and fused.bias is not None


def test_folding_into_a_linear_layer():
    linear, bn = _normalised(nn.Linear(4, 6), nn.BatchNorm1d(6))
    x = tinyflow.randn(5, 4, dtype=tinyflow.float64)
    assert_close(on_cpu(utils.fuse_linear_bn_eval(linear, bn)(x)), on_cpu(bn(linear(x))), 16)
    with pytest.raises(RuntimeError, match="expected both modules in evaluation mode"):
        utils.fuse_linear_bn_eval(linear.train(), bn)
    with pytest.raises(RuntimeError, match="of 6 features or 1, got 5"):
        utils.fuse_linear_bn_eval(linear.eval(), nn.BatchNorm1d(5).eval())
    with pytest.raises(RuntimeError, match="expected running statistics"):
        utils.fuse_linear_bn_eval(linear, nn.BatchNorm1d(6, track_running_stats=False).eval())
