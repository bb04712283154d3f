"""Resampling and sampling with every tile that ships, on shapes with ragged tiles in each dimension."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

import tinyflow
from tests.closeness import assert_close
from tests.poison import poisoned_memory as poisoned_memory
from tinyflow.kernels import grid_sample, launch, resampling
from tinyflow.kernels.grid_sample import samples, transpose
from tinyflow.kernels.launch import Config, Configs, Cost

CHANNELS = 67  # more than one tile of 64, 16 and 4


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(tinyflow.get_default_device()):
        yield


def _each(*families: Configs) -> list[pytest.param]:
    return [pytest.param(f, c, id=f"{f.kernel}-{k}") for f in families for k, c in enumerate(f.shipped)]


@pytest.mark.parametrize(("configs", "config"), _each(resampling.resample_configs))
@pytest.mark.parametrize("smooth", [False, True])
def test_resampling(configs: Configs, config: Config, smooth: bool) -> None:
    """Taps unrolled and in a loop."""
    x = torch.randn(1, CHANNELS, 19, 5)
    axes = [resampling.Axis(n, o, "cubic", antialias=smooth) for n, o in ((19, 3), (5, 97))]
    with configs.forced(config):
        y = resampling.resample(x, axes)
        back = resampling.resample(y, axes, transposed=True)
    expected = F.interpolate(x.double(), (3, 97), mode="bicubic", antialias=smooth)
    assert_close(y, expected, 400)
    assert_close((y.double() ** 2).sum().float(), (x.double() * back.double()).sum(), 400)


@pytest.mark.parametrize(
    ("configs", "config"),
    _each(
        samples.grid_sample_configs,
        samples.grid_grad_configs,
        transpose.grid_gather_configs,
        transpose.grid_taps_configs,
    ),
)
def test_sampling(configs: Configs, config: Config) -> None:
    x = torch.randn(1, CHANNELS, 13, 21, dtype=torch.float64, requires_grad=True)
    grid = (torch.rand(1, 9, 31, 2, dtype=torch.float64) * 2.2 - 1.1).requires_grad_()
    expected = F.grid_sample(x, grid, align_corners=False)
    g = torch.randn(expected.shape, dtype=torch.float64)
    by_x, by_grid = torch.autograd.grad(expected, [x, grid], g)
    x, grid = x.detach(), grid.detach()
    with configs.forced(config):
        if configs is samples.grid_sample_configs:
            assert_close(grid_sample.grid_sample(x, grid), expected.detach(), 64)
        elif configs is samples.grid_grad_configs:
            assert_close(grid_sample.grid_sample_grid_grad(g, x, grid), by_grid, 400)
        else:
            assert_close(grid_sample.grid_sample_input_grad(g, grid, x.shape), by_x, 400)


def test_costs() -> None:
    """Two FLOPs a tap; x, the grid and the result once, however many taps overlap."""
    x, grid = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(2, 5, 5, 2, device="meta")
    with launch.count() as records:
        grid_sample.grid_sample(x, grid)
        resampling.resample(x, [resampling.Axis(8, 5, "linear")] * 2)
    flops = 2 * 4 * 150
    assert [r.cost for r in records] == [Cost(flops, 4 * (384 + 100 + 150)), Cost(flops, 4 * (384 + 150))]


def test_offsets_of_64_bits() -> None:
    x, grid = torch.randn(1, 3, 4, 5), torch.rand(1, 3, 3, 2) * 2 - 1
    with launch.wide_offsets():
        assert_close(
            grid_sample.grid_sample(x, grid), F.grid_sample(x.double(), grid.double(), align_corners=False), 16
        )
        y = resampling.resample(x, [resampling.Axis(4, 7, "linear"), resampling.Axis(5, 3, "linear")])
    assert_close(y, F.interpolate(x.double(), (7, 3), mode="bilinear"), 16)
