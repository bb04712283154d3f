"""Convolutions of few channels by rows: any share of any strip, every configuration that ships, and how rows are chosen.
Their epilogues are tested with those of boxes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import conv2d as kernels
from tinyflow.kernels import hardware, launch, matmul, tuned, tuning
from tinyflow.kernels.configs import planned_for_gpu
from tinyflow.kernels.conv2d import box_forward, box_input_grad, row_forward, row_input_grad, statistics
from tinyflow.kernels.conv2d.geometry import resolve
from tinyflow.kernels.conv2d.rows import rowed, rows_suit, walks_rows
from tinyflow.kernels.launch import Config
from tinyflow.kernels.tuning import Call

FORWARD, BACKWARD = box_forward.narrow_conv2d_configs, box_input_grad.narrow_conv2d_input_grad_configs
META = torch.device("meta")


@contextlib.contextmanager
def by_rows(config: Config, programs: int) -> Iterator[None]:
    """As many programs as said, in one of a multiprocessor."""
    with (
        hardware.assumed((9, 0), programs),
        torch.device(tinyflow.get_default_device()),
        FORWARD.forced(config),
        BACKWARD.forced(config),
    ):
        yield


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last)


def both_ways(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The result with its statistics, and the gradient of x with its sums, for a mask of x and an upstream gradient."""
    found = resolve("conv2d", x.shape, weight.shape, 1, 1, 1, 1)
    y, rows = box_forward.box_conv2d(found, x, weight, statistics=True)
    grad = image(*y.shape)
    mean = torch.zeros(x.shape[1])
    g, sums = box_input_grad.box_conv2d_input_grad(found, grad, weight, x, x, x, mean)
    assert rows is not None and sums is not None
    return y, rows, grad, g, sums


def check_both_ways(x: torch.Tensor, weight: torch.Tensor) -> None:
    y, rows, grad, g, sums = both_ways(x, weight)
    assert_close(y, torch.nn.functional.conv2d(x.double(), weight.double(), padding=1), weight[0].numel())
    assert int(rows[:, 0, 0].sum()) == y[:, 0].numel()
    mean, _ = statistics.merge_statistics(rows, 1e-5)
    assert_close(mean, y.double().mean((0, 2, 3)), y[:, 0].numel())
    expected = torch.nn.functional.conv_transpose2d(grad.double(), weight.double(), padding=1) + x.double()
    assert_close(g, torch.where(x > 0, expected, 0), weight[:, 0].numel())
    total = matmul.sum_partials(sums, torch.empty(sums.shape[1:]))
    assert_close(total, torch.stack((g, g.double() * x)).double().sum((1, 3, 4)), g[:, 0].numel())


@pytest.mark.parametrize("programs", [1, 4, 100])
@pytest.mark.parametrize("height", [1, 2, 7])
def test_shares(height: int, programs: int) -> None:
    """Several strips a share, several shares a strip, and more programs than steps; ragged images and columns."""
    with by_rows(rowed(2, 8, warps=16, stages=2, channels=16), programs):
        check_both_ways(image(3, 8, height, 9), image(16, 8, 3, 3))


@pytest.mark.parametrize("config", row_forward.ROW_CONFIGS, ids=lambda c: str(tuple(c.blocks.values())))
def test_every_config(config: Config) -> None:
    assert all(config in row_forward.ROW_CONFIGS for config in row_input_grad.ROW_INPUT_GRAD_CONFIGS)
    with by_rows(config, 3):
        check_both_ways(image(config.blocks["TN"] + 1, 56, 3, 9), image(64, 56, 3, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_an_image_of_no_numbers_stays_alone(value: float) -> None:
    """Beside it in a strip, and in the strips before and behind it that the same program walks down."""
    x, weight = image(7, 16, 4, 9), image(16, 16, 3, 3)
    x[3] = value
    with by_rows(rowed(2, 8, warps=16, stages=2, channels=16), 2):
        y, _, _, _, _ = both_ways(x, weight)
        grad = x
        g, _ = box_input_grad.box_conv2d_input_grad(resolve("conv2d", x.shape, weight.shape, 1, 1, 1, 1), grad, weight)
    others = [0, 1, 2, 4, 5, 6]
    assert not y[3].isfinite().any() and not g[3].isfinite().any()
    y64 = torch.nn.functional.conv2d(x[others].double(), weight.double(), padding=1)
    g64 = torch.nn.functional.conv_transpose2d(x[others].double(), weight.double(), padding=1)
    assert_close(y[others], y64, 144)
    assert_close(g[others], g64, 144)


@pytest.mark.parametrize(
    ("shape", "weight_shape", "stride", "padding", "suits"),
    [
        ((2, 64, 8, 8), (64, 64, 3, 3), 1, 1, True),
        ((2, 8, 1, 1), (16, 8, 3, 3), 1, 1, True),
        ((2, 64, 8, 8), (72, 64, 3, 3), 1, 1, False),
        ((2, 72, 8, 8), (64, 72, 3, 3), 1, 1, False),
        ((2, 64, 8, 8), (64, 64, 3, 3), 2, 1, False),
        ((2, 64, 8, 8), (64, 64, 3, 3), 1, 0, False),
        ((2, 64, 8, 8), (64, 64, 3, 3), 1, ((1, 1), (2, 1)), False),
        ((2, 64, 8, 8), (64, 64, 1, 3), 1, ((0, 0), (1, 1)), False),
    ],
)
def test_what_rows_suit(shape, weight_shape, stride, padding, suits: bool) -> None:
    assert rows_suit(resolve("conv2d", shape, weight_shape, stride, padding, 1, 1)) == suits


def layer1(shape: tuple[int, ...] = (256, 64, 56, 56)) -> tuple[torch.Tensor, torch.Tensor]:
    x, weight = (torch.empty(s, dtype=torch.bfloat16, device=META) for s in (shape, (64, 64, 3, 3)))
    return x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)


def launched() -> list[str]:
    """The kernels of layer1's forward pass and input gradient on the GPU that is planned for."""
    x, weight = layer1()
    with launch.count() as records:
        y = kernels.conv2d(x, weight, None, 1, 1)
        kernels.conv2d_input_grad(y, weight, x.shape, 1, 1)
    return [record.kernel for record in records]


def test_who_walks_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward by rows, back by boxes unless a GPU has found rows quicker; the tuner asks for both under one name."""
    x, weight = layer1()
    calls = [Call(kernels.conv2d, (x, weight, None, 1, 1), {})]
    calls += [Call(kernels.conv2d_input_grad, (x, weight, tuple(x.shape), 1, 1), {})]
    with hardware.assumed((9, 0), 132), planned_for_gpu("a GPU"):
        assert launched() == ["_row_conv2d_kernel", "_box_conv2d_input_grad_kernel"]
        problems = tuning.problems(calls, META)
    assert [p.configs for p in problems] == [FORWARD, BACKWARD]
    forms = (
        (*row_forward.ROW_CONFIGS, *box_forward.box_conv2d_configs.shipped),
        (*row_input_grad.ROW_INPUT_GRAD_CONFIGS, *box_input_grad.box_conv2d_input_grad_configs.shipped),
    )
    assert [tuple(tuning.candidates(problem.configs)) for problem in problems] == list(forms)
    entry = {"blocks": {"TN": 8, "TW": 8, "CHANNELS": 64, "STAGES": 2}, "num_warps": 4, "num_stages": 2}
    kernels_of_the_table = {p.configs.kernel: {p.problem: entry} for p in problems}
    tuned.write(tmp_path / "a-gpu.json", "a GPU", {"triton": "3.6"}, kernels_of_the_table)
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    for configs in (FORWARD, BACKWARD):
        configs.forget_tables()
    with hardware.assumed((9, 0), 132), planned_for_gpu("a GPU"):
        assert launched() == ["_row_conv2d_kernel", "_row_conv2d_input_grad_kernel"]
    for configs in (FORWARD, BACKWARD):
        configs.forget_tables()


@pytest.mark.parametrize(
    ("images", "width", "capability", "rows"),
    [
        (256, 56, 9, True),
        (3, 56, 9, False),
        (256, 57, 9, True),
        (256, 9, 9, False),
        (256, 56, 10, False),
        (8, 8, 9, False),
    ],
)
def test_rows_where_maps_fill_them(images, width, capability, rows) -> None:
    sizes = {
        "images": images,
        "height": width,
        "width": width,
        "k": 64,
        "c": 64,
        "taps": (3, 3),
        "stride": 1,
        "whole": 64,
    }
    config = FORWARD.choose(**sizes, multiprocessors=132, tensor_memory=capability == 10)
    assert walks_rows(config) is rows
