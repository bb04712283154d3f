"""Row norms: every shipped tile, rows longer than one, parameters along any dimensions, layouts, what is counted."""

from __future__ import annotations

import pytest
import torch

from tests.closeness import assert_close
from tests.poison import poisoned_memory as poisoned_memory
from tinyflow.kernels import launch, memory
from tinyflow.kernels import layer_norm as kernels

DEVICE = memory.get_default_device()
ROWS = kernels.layer_norm_configs.declared
CHANNELS = kernels.layer_norm_parameter_grad_configs.declared


def check(x, lead, parameter_shape=None, centred=True, dtype=None):
    """Value and gradients against float64, with weight and bias of ``parameter_shape``."""
    wide = x.double().requires_grad_()
    dims = tuple(range(lead, x.dim()))
    mean = wide.mean(dims, keepdim=True) if centred else 0
    expected = (wide - mean) / ((wide - mean).pow(2).mean(dims, keepdim=True) + 0.1).sqrt()
    parameters = []
    if parameter_shape is not None:
        parameters = [torch.randn(parameter_shape).to(dtype or x.dtype) for _ in range(2)]
        leaves = [p.double().requires_grad_() for p in parameters]
        expected = expected * leaves[0] + leaves[1]
    else:
        leaves = []
    here = [p.to(DEVICE) for p in parameters] or [None, None]
    y, m, invstd = kernels.layer_norm(x.to(DEVICE), *here, lead, 0.1, centred)
    assert (m is not None) == centred and invstd.shape == x.shape[:lead]
    length = max(x.numel() // max(invstd.numel(), 1), 1)
    assert_close(y, expected, length)
    g = torch.randn(x.shape).to(x.dtype)
    wanted = torch.autograd.grad(expected, [wide, *leaves], g.double())
    found = [kernels.layer_norm_input_grad(g.to(DEVICE), x.to(DEVICE), here[0], m, invstd)]
    if parameters:
        dtype = parameters[0].dtype
        found += kernels.layer_norm_parameter_grad(g.to(DEVICE), x.to(DEVICE), m, invstd, parameter_shape, dtype)
    for mine, theirs in zip(found, wanted):
        assert_close(mine, theirs, 4 * max(length, x.numel() // max(theirs.numel(), 1)))


@pytest.mark.parametrize("config", ROWS, ids=lambda c: f"{c.blocks['BLOCK_R']}x{c.blocks['BLOCK_N']}")
@pytest.mark.parametrize("centred", [True, False])
def test_every_shipped_tile_of_rows(config, centred):
    """A row within one tile, and one of two tiles and a bit."""
    rows, columns = config.blocks["BLOCK_R"] + 1, config.blocks["BLOCK_N"]
    with kernels.layer_norm_configs.forced(config), kernels.layer_norm_input_grad_configs.forced(config):
        check(torch.randn(rows, columns - 3) + 2, 1, (1, columns - 3), centred)
        check(torch.randn(2, 2 * columns + 3) + 2, 1, (1, 2 * columns + 3), centred)


@pytest.mark.parametrize("config", CHANNELS, ids=lambda c: f"{c.blocks['BLOCK_P']}x{c.blocks['BLOCK_C']}")
def test_every_shipped_tile_of_channels(config):
    pixels, channels = 9 * config.blocks["BLOCK_P"] + 2, config.blocks["BLOCK_C"] + 1
    with kernels.layer_norm_parameter_grad_configs.forced(config):
        check(torch.randn(pixels, channels), 1, (1, channels))
        check(torch.randn(3, 2, channels, pixels // 4), 2, (1, 2, channels, 1))


@pytest.mark.parametrize(
    ("shape", "lead", "parameters"),
    [
        ((3, 5), 1, (1, 5)),  # of each column
        ((3, 5), 1, (3, 1)),  # of each row
        ((3, 5), 1, (3, 5)),  # of each element
        ((2, 3, 4, 5), 2, (1, 3, 4, 1)),  # of channels in groups
        ((2, 3, 4, 5), 1, (1, 3, 1, 5)),  # of dimensions apart
        ((4, 3), 0, (1, 3)),  # one row of everything
        ((1, 1), 1, (1, 1)),
        ((0, 3), 1, (1, 3)),
        ((3, 0), 1, (1, 0)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_parameters_along_any_dimensions(shape, lead, parameters, dtype):
    check(torch.randn(shape).to(dtype), lead, parameters, dtype=torch.float32)


def test_layouts_and_64_bit_offsets():
    images = torch.randn(2, 6, 3, 5).contiguous(memory_format=torch.channels_last)
    check(images, 2)
    check(images.unflatten(1, (2, 3)), 2, (1, 2, 3, 1, 1))
    y, _, _ = kernels.layer_norm(images.to(DEVICE), None, None, 2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    with launch.wide_offsets():
        check(torch.randn(5, 8)[:, ::2].T, 1, (1, 5))


def test_a_large_mean_costs_no_precision():
    with kernels.layer_norm_configs.forced(ROWS[0]):
        check(torch.randn(2, 1000) + 300, 1)
    check(torch.randn(2, 1000) + 300, 1)


def test_what_is_counted():
    x = torch.empty(40, 30, dtype=torch.bfloat16, device="meta")
    w = torch.empty(1, 30, device="meta")
    with launch.count() as records:
        y, mean, invstd = kernels.layer_norm(x, w, w, 1)
        kernels.layer_norm_input_grad(y, x, w, mean, invstd)
        kernels.layer_norm_parameter_grad(y, x, mean, invstd, w.shape, w.dtype)
    n = 40 * 30
    assert [(r.cost.flops, r.cost.bytes) for r in records] == [
        (9 * n, 4 * n + 8 * 30 + 8 * 40),
        (11 * n, 6 * n + 4 * 30 + 8 * 40),
        (5 * n, 4 * n + 8 * 30 + 8 * 40),
    ]


def test_mistakes_say_so():
    x = torch.empty(3, 4, device="meta")
    for arguments, error, text in (
        ((x, None, None, 3), ValueError, "lead between 0 and 2"),
        ((x, x[0], None, 1), RuntimeError, r"weight that broadcasts to x of shape \(3, 4\), got \(4,\)"),
        ((x, x[:1], x[:, :1], 1), RuntimeError, r"of one shape, got \(1, 4\) and \(3, 1\)"),
        ((x, x[:1].half(), None, 1), RuntimeError, "weight of dtype torch.float32"),
        ((x.long(), None, None, 1), TypeError, "floating-point x"),
    ):
        with pytest.raises(error, match=text):
            kernels.layer_norm(*arguments)
