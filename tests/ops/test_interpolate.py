"""Images of another size: where torch's positions and weights must be met exactly, in every form, and its refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tests.poison import poisoned_memory as poisoned_memory
from tinyflow.kernels import resampling
from tinyflow.nn import functional

#: Sizes from and to: larger, smaller, the same, from one, to one, doubled, a ratio that float32 rounds down, primes.
SIZES = [(3, 7), (7, 3), (5, 5), (1, 4), (4, 1), (6, 12), (10, 3), (33, 17)]
FACTORS = [0.37, 0.5, 1.7, 2.0, (3, 1.3)]


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
def test_every_size_and_factor(mode: str) -> None:
    """The nearest element is a jump, so one position that is rounded otherwise shows."""
    aligned = (False, True) if mode.startswith("bi") else (None,)
    smooth = (False, True) if mode.startswith("bi") else (False,)
    asked: list[dict[str, Any]] = [{"size": (b, b + 2)} for _, b in SIZES] + [{"scale_factor": f} for f in FACTORS]
    shapes = [(a, a + 1) for a, _ in SIZES] + [(9, 8)] * len(FACTORS)
    for shape, how in zip(shapes, asked):
        x = torch.randn(1, 2, *shape)
        for align_corners in aligned:
            for antialias in smooth:
                settings = {**how, "mode": mode, "align_corners": align_corners, "antialias": antialias}
                y = functional.interpolate(on_device(x), **settings)
                assert_close(on_cpu(y), F.interpolate(x.double(), **settings), 400)


def test_positions_by_the_factor_or_by_the_sizes() -> None:
    x = torch.randn(1, 1, 7, 5, dtype=torch.float64)
    for recompute in (None, False, True):
        settings = {"scale_factor": 1.5, "mode": "bilinear", "recompute_scale_factor": recompute}
        assert_close(on_cpu(functional.interpolate(on_device(x), **settings)), F.interpolate(x, **settings), 4)


def test_bytes_keep_their_values() -> None:
    x = torch.randint(0, 256, (1, 3, 5, 7), dtype=torch.uint8)
    assert torch.equal(on_cpu(functional.interpolate(on_device(x), (9, 4))), F.interpolate(x, (9, 4)))
    with pytest.raises(TypeError, match=r"expected floating-point x \(uint8 too where .*got torch.uint8"):
        functional.interpolate(on_device(x), (9, 4), mode="bilinear")


def test_results_lie_as_the_input() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y = functional.interpolate(on_device(x), scale_factor=2, mode="bilinear").to_torch()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert functional.interpolate(on_device(x.contiguous()), scale_factor=2).to_torch().is_contiguous()


def test_an_infinity_stays_where_its_weight_is() -> None:
    x = torch.ones(1, 1, 6)
    x[..., 2] = float("inf")
    y = on_cpu(functional.interpolate(on_device(x), 11, mode="linear", align_corners=True))
    assert y.isinf().nonzero()[:, 2].tolist() == [3, 4, 5]
    assert not y.isnan().any()


def test_many_taps_are_taken_axis_by_axis() -> None:
    """As one product of matrices, whatever the number of launches."""
    x = torch.randn(1, 2, 23, 19, dtype=torch.float64)
    axes = [resampling.Axis(23, 4, "cubic", antialias=True), resampling.Axis(19, 7, "linear", antialias=True)]
    matrices = [resampling.resample(on_device(torch.eye(a.size).double()[None])._data, [a])[0].cpu() for a in axes]
    y = resampling.resample(on_device(x)._data, axes).cpu()
    assert_close(y, torch.einsum("ncij,ip,jq->ncpq", x, *matrices), 200)
    back = resampling.resample(on_device(y)._data, axes, transposed=True).cpu()
    assert_close(back, torch.einsum("ncpq,ip,jq->ncij", y, *matrices), 200)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({}, ValueError, "expected either size or scale_factor, got None and None"),
        ({"size": 3, "scale_factor": 2}, ValueError, "expected either size or scale_factor, got 3 and 2"),
        ({"size": (3, 4, 5)}, ValueError, r"one for each of 2 spatial dimensions, got \(3, 4, 5\)"),
        ({"size": 3, "recompute_scale_factor": True}, ValueError, "not meaningful with an explicit size"),
        ({"size": 3, "align_corners": True}, ValueError, "align_corners option can only be set with"),
        ({"size": 3, "antialias": True}, ValueError, "restricted to bilinear and bicubic"),
        ({"size": 3, "mode": "trilinear"}, NotImplementedError, "Got 4D input, but trilinear mode needs 5D input"),
        ({"size": 3, "mode": "lanczos"}, NotImplementedError, "got 'lanczos'"),
        ({"size": 2.5}, TypeError, "float"),
        ({"size": (0, 3)}, RuntimeError, r"expected sizes greater than 0, got \(4, 5\) to \(0, 3\)"),
    ],
)
def test_mistakes_say_so(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        functional.interpolate(on_device(torch.ones(1, 2, 4, 5)), **settings)
