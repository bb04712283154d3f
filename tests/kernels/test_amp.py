"""Unscaling gradients and moving the scale, against torch's own kernels on the CPU."""

from __future__ import annotations

import pytest
import torch

from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import amp, launch
from tinyflow.kernels.launch import Config

#: A scalar, an empty one, one element more than a chunk, channels-last, transposed, and gaps.
SHAPES = [(), (0, 3), (2049,), (300, 7), (1,)]


def _gradients(dtype: torch.dtype) -> list[torch.Tensor]:
    made = [torch.randn(s).to(dtype) for s in SHAPES]
    made.append(torch.randn(4, 3, 5, 5).to(dtype).contiguous(memory_format=torch.channels_last))
    made.append(torch.randn(7, 5).to(dtype).t())
    made.append(torch.randn(6, 8).to(dtype)[::2, 1::3])
    return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_agrees_with_division(dtype: torch.dtype) -> None:
    grads = _gradients(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale = torch.tensor(3.0)
    inverse = scale.double().reciprocal().to(wide)
    expected = [(g.to(wide) * inverse).to(dtype) for g in grads]
    assert amp.unscale(grads, scale).item() == 0
    for g, want in zip(grads, expected):
        assert torch.equal(g, want)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("where", [0, 2048, 2049])
def test_one_bad_element_is_found(value: float, where: int) -> None:
    """At the start, the end of a chunk, and in the last chunk, whatever the other gradients and dtypes."""
    grads = [torch.randn(3), torch.randn(3000, dtype=torch.float64), torch.randn(5000)]
    grads[2][where] = value
    found = amp.unscale(grads, torch.tensor(2.0))
    assert (found.item(), found.dtype, found.shape) == (1.0, torch.float32, ())


def test_the_largest_finite_number_is_none() -> None:
    assert amp.unscale([torch.full((4,), torch.finfo(torch.float32).max)], torch.tensor(1.0)).item() == 0
    assert amp.unscale([torch.full((4,), 65504.0, dtype=torch.float16)], torch.tensor(1.0)).item() == 0


@pytest.mark.parametrize(
    "config",
    [*amp.unscale_configs.shipped, Config({"CHUNKS": 4, "BLOCK": 16})],
    ids=lambda c: "-".join(map(str, c.blocks.values())),
)
def test_shipped_configs(config: Config) -> None:
    with amp.unscale_configs.forced(config):
        test_agrees_with_division(torch.float32)
        test_one_bad_element_is_found(float("nan"), 2049)


def test_neighbours_in_memory_are_neither_changed_nor_looked_at() -> None:
    memory = torch.full((3, 100), float("inf"))
    memory[1, 10:20] = 6.0
    assert amp.unscale([memory[1, 10:20]], torch.tensor(2.0)).item() == 0
    expected = torch.full((3, 100), float("inf"))
    expected[1, 10:20] = 3.0
    assert torch.equal(memory, expected)


def test_no_gradients() -> None:
    assert amp.unscale([], torch.tensor(2.0)).item() == 0
    assert amp.unscale([torch.empty(0)], torch.tensor(2.0)).item() == 0


def test_the_scale_moves_as_torchs() -> None:
    """Twelve steps with two overflows among them, growth after three good ones."""
    scale, tracker = torch.tensor(2.0**14), torch.tensor(0, dtype=torch.int32)
    reference = scale.clone(), tracker.clone()
    for step in range(12):
        found = torch.tensor(float(step in (4, 5)))
        amp.update_scale(scale, tracker, found, 2.0, 0.5, 3)
        torch._amp_update_scale_(*reference, found, 2.0, 0.5, 3)
        assert (scale.item(), tracker.item()) == (reference[0].item(), reference[1].item())
    assert scale.item() == 2.0**15


def test_the_scale_never_becomes_infinite() -> None:
    scale, tracker = torch.tensor(2.0**127), torch.tensor(0, dtype=torch.int32)
    amp.update_scale(scale, tracker, torch.tensor(0.0), 2.0, 0.5, 1)
    assert (scale.item(), tracker.item()) == (2.0**127, 0)


def test_one_launch_for_all_gradients_of_a_size_and_dtype() -> None:
    with launch.count() as records:
        amp.unscale([torch.ones(100) for _ in range(20)], torch.tensor(2.0))
    assert [r.kernel for r in records].count("_unscale_kernel") == 1
    assert records[0].cost.bytes >= 2 * 20 * 100 * 4


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"unscale: expected floating-point gradient 1, got torch.int64"):
        amp.unscale([torch.ones(1), torch.ones(1, dtype=torch.int64)], torch.tensor(1.0))
    with pytest.raises(RuntimeError, match="unscale: expected all operands on one device, got scale on cpu"):
        amp.unscale([torch.ones(1, device="meta")], torch.tensor(1.0))
