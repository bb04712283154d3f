"""Padding, triangles and windows: every shipped tile on several ragged tiles, large offsets, costs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tinyflow.kernels import launch, padding, triangle, windows

from ..closeness import assert_close

META = torch.device("meta")


def _image(config: launch.Config, rows: str, columns: str) -> torch.Tensor:
    return torch.randn(2, config.blocks[rows] // 2 + 2, config.blocks[columns] + 3)


@pytest.mark.parametrize("mode", padding.MODES)
@pytest.mark.parametrize("config", padding.pad_configs.shipped, ids=lambda c: str(c.blocks))
def test_shipped_padding(config: launch.Config, mode: str) -> None:
    x = _image(config, "BLOCK_R", "BLOCK_C").double().requires_grad_()
    code, shape = padding.MODES[mode], (2, x.shape[1] + 1, x.shape[2] + 3)
    # torch pads two dimensions of three with these modes; the batch is its channels
    expected = F.pad(x, (2, 1, 1, 0), mode=mode, **({"value": 2.5} if mode == "constant" else {}))
    with padding.pad_configs.forced(config):
        assert torch.equal(padding.pad(x.detach(), shape, (0, 1, 2), code, 2.5), expected.detach())
    if mode != "constant":
        g = torch.randn_like(expected)
        (wanted,) = torch.autograd.grad(expected, x, g)
        with padding.pad_grad_configs.forced(config):
            assert_close(padding.pad_grad(g, x.shape, (0, 1, 2), code), wanted, length=9)


@pytest.mark.parametrize("config", triangle.triangle_configs.shipped, ids=lambda c: str(c.blocks))
def test_shipped_triangles(config: launch.Config) -> None:
    x = _image(config, "BLOCK_R", "BLOCK_C").transpose(0, 1).contiguous().transpose(0, 1)
    with triangle.triangle_configs.forced(config), triangle.triangle_indices_configs.forced(config):
        for k in (-3, 0, config.blocks["BLOCK_C"]):
            assert torch.equal(triangle.tril(x, k), x.tril(k)) and torch.equal(triangle.triu(x, k), x.triu(k))
            rows, columns = x.shape[1:]
            for name in ("tril_indices", "triu_indices"):
                got = getattr(triangle, name)(rows, columns, k, torch.int64, x.device)
                assert torch.equal(got, getattr(torch, name)(rows, columns, k))


@pytest.mark.parametrize("config", windows.fold_configs.shipped, ids=lambda c: str(c.blocks))
def test_shipped_windows(config: launch.Config) -> None:
    batch, size = config.blocks["BLOCK_B"] // 2 + 2, (config.blocks["BLOCK_P"] // 4 + 3, 5)
    counts = (windows.count(size[0] + 2, 3, 2, 1), windows.count(size[1], 2, 1, 3))
    x = torch.randn(2, batch, 3, 2, *counts, dtype=torch.float64)
    expected = F.fold(x.reshape(2, batch * 6, -1), size, (3, 2), dilation=(1, 3), padding=(1, 0), stride=(2, 1))
    with windows.fold_configs.forced(config):
        assert_close(windows.fold(x, size, (2, 1), (1, 0), (1, 3)), expected, length=6)


def test_wide_offsets() -> None:
    x = torch.randn(3, 5, 4)
    with launch.wide_offsets():
        assert torch.equal(padding.flip(x, (0, 2)), x.flip(0, 2))
        assert torch.equal(triangle.triu(x, 1), x.triu(1))
        y = x.unfold(1, 3, 1)
        assert_close(windows.fold_dim(y, x.shape, 1, 1), x.double() * torch.tensor([1, 2, 3, 2, 1])[:, None], length=3)


def test_many_mirrored_positions_are_summed_dimension_by_dimension() -> None:
    g = torch.ones(1, 12, 14)
    with launch.count() as records:
        out = padding.pad_grad(g, (1, 2, 3), (0, 4, 5), padding.REPLICATE)
    assert len(records) == 2 and out.sum() == g.numel()
    with launch.count() as records:
        padding.pad_grad(g, (1, 10, 12), (0, 1, 1), padding.REPLICATE)
    assert len(records) == 1


def test_costs() -> None:
    x = torch.empty(2, 3, 4, 5, device=META)
    with launch.count() as records:
        padding.pad(x, (2, 3, 6, 5), (0, 0, 1, 0))
        padding.pad(x, (2, 3, 2, 5), (0, 0, -1, 0))
        triangle.tril(x)
        triangle.tril_indices(4, 5, 0, torch.int64, META)
        windows.fold(torch.empty(2, 3, 2, 2, 3, 4, device=META), (4, 5))
    assert [(r.kernel, r.cost.flops, r.cost.bytes) for r in records] == [
        ("_pad_kernel", 0, 4 * (180 + 120)),
        ("_pad_kernel", 0, 4 * (60 + 60)),
        ("_triangle_kernel", 0, 4 * (6 * 10 + 120)),
        ("_triangle_indices_kernel", 0, 8 * 2 * 10),
        ("_fold_kernel", 288, 4 * (288 + 120)),
    ]
