"""GradScaler step by step against torch's, on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tinyflow
from tests.device import on_cpu
from tinyflow import optim
from tinyflow.amp import GradScaler
from tinyflow.optim.optimizer import Optimizer

DEVICE = tinyflow.get_default_device()


def _scaler(**settings: Any) -> GradScaler:
    return GradScaler(DEVICE.type, **settings)


def _parameter(*values: float) -> tinyflow.Tensor:
    return tinyflow.tensor(list(values), requires_grad=True)


def _both_steps(losses: list[float], **settings: Any) -> tuple[list[Any], list[Any]]:
    """Parameter, scale and growth tracker after each step, ours and torch's; an infinite factor makes it overflow."""
    p, q = _parameter(1.0, 2.0), torch.tensor([1.0, 2.0], requires_grad=True)
    ours, theirs = optim.SGD([p], lr=0.1, **settings), torch.optim.SGD([q], lr=0.1, **settings)
    growth = {"init_scale": 1024.0, "growth_interval": 2, "growth_factor": 4.0, "backoff_factor": 0.25}
    scaler, reference = _scaler(**growth), torch.amp.GradScaler("cpu", **growth)
    found: tuple[list[Any], list[Any]] = [], []
    for factor in losses:
        ours.zero_grad()
        theirs.zero_grad()
        scaler.scale((p * p * factor).sum()).backward()
        reference.scale((q * q * factor).sum()).backward()
        for optimizer, scales in ((ours, scaler), (theirs, reference)):
            scales.step(optimizer)
            scales.update()
        found[0].append((on_cpu(p).tolist(), scaler.get_scale(), scaler.state_dict()["_growth_tracker"]))
        found[1].append((q.tolist(), reference.get_scale(), reference.state_dict()["_growth_tracker"]))
    return found


@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}],
    ids=["plain", "momentum", "dampening"],
)
@pytest.mark.parametrize("overflow_at", [(), (0,), (2, 3)], ids=["never", "first", "later"])
def test_steps_are_torchs(settings: dict[str, float], overflow_at: tuple[int, ...]) -> None:
    """Values, scale and tracker; a step that overflows changes neither parameter nor momentum."""
    losses = [float("inf") if k in overflow_at else 1.0 for k in range(6)]
    ours, theirs = _both_steps(losses, **settings)
    for (p, *scale), (q, *expected) in zip(ours, theirs):
        assert scale == expected
        assert p == pytest.approx(q, rel=1e-6)


def test_sgd_leaves_a_step_out_without_reading_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    p = _parameter(1.0)
    optimizer, scaler = optim.SGD([p], lr=1.0, momentum=0.9), _scaler(init_scale=4.0)

    def refuse(self: Any) -> None:
        raise AssertionError("a value was read on the host")

    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        with monkeypatch.context() as patch:
            patch.setattr(tinyflow.Tensor, "item", refuse)
            scaler.scale((p * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert p.item() == 0.0 and scaler.get_scale() == 2.0
    assert optimizer.found_inf is None


class _Plain(Optimizer):
    """An optimizer that knows nothing of scaling."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.steps = 0

    def step(self, closure: Any = None) -> int:
        self.steps += 1
        return self.steps


def test_another_optimizer_is_not_asked_after_an_overflow() -> None:
    p = _parameter(1.0)
    optimizer, scaler = _Plain([p]), _scaler()
    p.grad = tinyflow.tensor([float("nan")])
    scaler.scale(p)
    assert scaler.step(optimizer) is None and optimizer.steps == 0
    scaler.update()
    p.grad = tinyflow.tensor([1.0])
    assert scaler.step(optimizer) == 1


def test_one_overflow_among_two_optimizers_moves_the_scale_once() -> None:
    p, q = _parameter(1.0), _parameter(1.0)
    first, second, scaler = optim.SGD([p], lr=1.0), optim.SGD([q], lr=1.0), _scaler(init_scale=8.0)
    scaler.scale(p.sum() + q.sum() * float("inf")).backward()
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    assert (p.item(), q.item(), scaler.get_scale()) == (0.0, 1.0, 4.0)


def test_gradients_may_be_looked_at_before_the_step() -> None:
    p = _parameter(1.0, 2.0)
    optimizer, scaler = optim.SGD([p], lr=1.0), _scaler(init_scale=256.0)
    scaler.scale((p * p).sum()).backward()
    scaler.unscale_(optimizer)
    assert p.grad.tolist() == [2.0, 4.0]
    scaler.step(optimizer)
    assert p.tolist() == [-1.0, -2.0]


def test_scales_structures_of_tensors() -> None:
    scaler = _scaler(init_scale=4.0)
    x = tinyflow.ones(2)
    one, (two, three) = scaler.scale((x, [x, x]))
    assert one.tolist() == two.tolist() == three.tolist() == [4.0, 4.0]
    half = tinyflow.ones(1, dtype=tinyflow.float16)
    assert scaler.scale(half).dtype == tinyflow.float16
    assert isinstance(scaler.scale([x]), list)


def test_float16_training_needs_the_scale() -> None:
    """A gradient that goes below float16's smallest number between two operations arrives, and is lost without scaling."""
    x = tinyflow.ones(1, 1)
    for scaler, arrives in ((_scaler(), True), (_scaler(enabled=False), False)):
        w = _parameter(1.0).detach().reshape(1, 1).requires_grad_()
        with tinyflow.autocast(DEVICE.type, dtype=tinyflow.float16):
            loss = (x @ w).float().sum() * 1e-8
        optimizer = optim.SGD([w], lr=1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert (w.grad.item() != 0) == arrives
        if arrives:
            assert w.grad.item() == pytest.approx(1e-8, rel=0.01)


def test_the_state_makes_a_round_trip(tmp_path) -> None:
    """Into a scaler that has not been used, into one that has, and through a file."""
    scaler = _scaler(init_scale=64.0, growth_interval=3)
    p = _parameter(1.0)
    optimizer = optim.SGD([p], lr=0.0)
    for _ in range(5):
        optimizer.zero_grad()
        scaler.scale(p.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    state = scaler.state_dict()
    assert state == {
        "scale": 128.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3, "_growth_tracker": 2,
    }  # fmt: skip
    fresh, used = _scaler(), _scaler()
    used.scale(p)
    reference = torch.amp.GradScaler("cpu")
    reference.load_state_dict(state)
    for other in (fresh, used):
        other.load_state_dict(state)
        assert other.state_dict() == state == reference.state_dict()
    fresh.scale(p)
    assert fresh.get_scale() == 128.0 and fresh.state_dict() == state


def test_a_new_scale() -> None:
    scaler = _scaler()
    scaler.scale(tinyflow.ones(1))
    scaler.update(3.0)
    assert scaler.get_scale() == 3.0
    scaler.update(tinyflow.tensor(5.0))
    assert scaler.get_scale() == 5.0
    with pytest.raises(TypeError, match=r"new_scale should be a float or a 1-element float32 tensor .* got \(2,\)"):
        scaler.update(tinyflow.ones(2))


def test_disabled() -> None:
    scaler = _scaler(enabled=False)
    p = _parameter(1.0)
    optimizer = optim.SGD([p], lr=1.0)
    assert scaler.scale(p) is p
    p.sum().backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert (p.item(), scaler.get_scale(), scaler.is_enabled(), scaler.state_dict()) == (0.0, 1.0, False, {})
    scaler.load_state_dict({})


def test_settings() -> None:
    scaler = _scaler()
    scaler.set_growth_factor(3.0)
    scaler.set_backoff_factor(0.1)
    scaler.set_growth_interval(7)
    assert (scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()) == (3.0, 0.1, 7)
    if not tinyflow.gpu_available():
        with pytest.warns(UserWarning, match="no GPU is available"):
            assert not GradScaler().is_enabled()


def test_errors() -> None:
    p = _parameter(1.0)
    optimizer, scaler = optim.SGD([p], lr=1.0), _scaler()
    with pytest.raises(RuntimeError, match=r"Attempted step but the scale is not there yet: call scaler.scale"):
        scaler.step(optimizer)
    scaler.scale(p)
    with pytest.raises(RuntimeError, match="no parameter has a gradient"):
        scaler.step(optimizer)
    scaler = _scaler()
    scaler.scale(p.sum()).backward()
    with pytest.raises(RuntimeError, match="No inf checks were recorded prior to update"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called on this optimizer since the last update"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has already been called since the last update"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_\(\) is being called after step"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, lambda: None)
    with pytest.raises(TypeError, match=r"expected a Tensor or an iterable of Tensors, got int"):
        scaler.scale(3)
    with pytest.raises(RuntimeError, match="source state dict is empty"):
        scaler.load_state_dict({})
    with pytest.raises(ValueError, match="expected a growth factor above 1, got 1"):
        _scaler(growth_factor=1.0)
    with pytest.raises(ValueError, match="expected a backoff factor between 0 and 1, got 1"):
        _scaler(backoff_factor=1.0)
    half = tinyflow.ones(1, dtype=tinyflow.float16, requires_grad=True)
    half.grad = tinyflow.ones(1, dtype=tinyflow.float16)
    other = _scaler()
    other.scale(half)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        other.unscale_(optim.SGD([half], lr=1.0))
