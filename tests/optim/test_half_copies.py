"""Optimizers leave the half-precision copies of weights that autocast takes next: the bits of a cast, never out of date."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu
from tests.test_capture import LaunchGraph
from tinyflow import nn, optim
from tinyflow.amp import GradScaler
from tinyflow.autograd import half_copies
from tinyflow.kernels import launch, memory
from tinyflow.nn import functional as F
from tinyflow.optim import SGD

HALF = tinyflow.bfloat16


def region(**options):
    return tinyflow.autocast(tinyflow.get_default_device().type, dtype=HALF, **options)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3, bias=False))


class Step:
    """A training step; ``casts`` are those of its forward pass."""

    def __init__(self, **options) -> None:
        self.model = network()
        self.optimizer = SGD(self.model.parameters(), lr=0.1, momentum=0.9, **options)
        self.x = tinyflow.rand(2, 2, 4, 4)
        self.casts = 0

    def loss(self) -> tinyflow.Tensor:
        with region(), launch.count() as records:
            loss = self.model(self.x).square().mean()
        self.casts = sum(r.cost.flops == 0 for r in records)
        return loss

    def __call__(self) -> tinyflow.Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss


def copies_of(model: nn.Module) -> list[tinyflow.Tensor | None]:
    return [half_copies.find(p, HALF) for p in model.parameters()]


def test_the_second_step_casts_no_weight_and_the_bits_are_those_of_a_cast() -> None:
    step = Step()
    step()
    first = step.casts
    for p, copy in zip(step.model.parameters(), copies_of(step.model)):
        assert copy is not None and copy.dtype == HALF and copy.stride() == p.stride()
        assert torch.equal(on_cpu(copy), on_cpu(p).to(torch.bfloat16))
    step()
    assert step.casts == first - 3


def test_training_is_the_same_bits_with_and_without() -> None:
    steps = Step(), Step()
    steps[1].model.load_state_dict(steps[0].model.state_dict())
    steps[1].x = steps[0].x
    for _ in range(3):
        losses = [steps[0]()]
        for p in steps[1].model.parameters():  # memory that is handed out is cast every time
            p.data  # noqa: B018
        losses.append(steps[1]())
        assert all(c is None for c in copies_of(steps[1].model))
        assert torch.equal(*map(on_cpu, losses))
    for p, q in zip(steps[0].model.parameters(), steps[1].model.parameters()):
        assert torch.equal(on_cpu(p), on_cpu(q))


def in_place(p: nn.Parameter) -> None:
    with tinyflow.no_grad():
        p.mul_(2.0)


def other_memory(p: nn.Parameter) -> None:
    p.data = p.detach() * 2.0


def uncounted(p: nn.Parameter) -> None:
    p.data.mul_(2.0)


def by_a_view(p: nn.Parameter) -> None:
    p.detach()[0].data.fill_(2.0)


def by_torch(p: nn.Parameter) -> None:
    p.detach().to_torch().mul_(2.0)


def test_the_gradient_of_a_copy_is_taken_over_as_it_is() -> None:
    layer, x = nn.Linear(16, 4), tinyflow.rand(3, 16)
    optimizer = SGD(layer.parameters(), lr=0.1)
    counts = []
    for _ in range(2):
        optimizer.zero_grad()
        with region():
            y = layer(x).sum()
        with launch.count() as records:
            y.backward()
        counts.append([r.kernel for r in records])
        optimizer.step()
    assert counts[0] == counts[1]  # no copy of what the cast has made


@pytest.mark.parametrize("change", [in_place, other_memory, uncounted, by_a_view, by_torch])
def test_a_change_by_anyone_else_is_seen(change: Callable[[nn.Parameter], None]) -> None:
    step = Step()
    step()
    weight = step.model[3].weight
    change(weight)
    x = tinyflow.rand(2, 16)
    with region():
        y = F.linear(x, weight)
    with region(cache_enabled=False):
        expected = F.linear(x, weight)
    assert half_copies.find(weight, HALF) is None
    assert torch.equal(on_cpu(y), on_cpu(expected))
    assert half_copies.find(step.model[0].weight, HALF) is not None  # the others are as they were


def test_a_graph_of_the_step_before_keeps_its_weights() -> None:
    """The next copy lies in memory of its own, as a cast would."""
    step = Step()
    step()
    loss = step.loss()
    before = tinyflow.autograd.grad(loss, list(step.model.parameters()), retain_graph=True)
    step()
    after = tinyflow.autograd.grad(loss, list(step.model.parameters()))
    assert all(torch.equal(on_cpu(a), on_cpu(b)) for a, b in zip(before, after))


def test_what_nobody_takes_is_not_made_again() -> None:
    step = Step()
    step()
    step()
    step.optimizer.step()  # the copies of the step before were not looked at
    assert all(c is None for c in copies_of(step.model))
    step()
    assert all(c is not None for c in copies_of(step.model))


def test_a_step_that_a_scaler_leaves_out() -> None:
    step = Step()
    scaler = GradScaler(tinyflow.get_default_device().type, init_scale=4.0)
    for factor in (1.0, float("inf"), 1.0):
        step.optimizer.zero_grad()
        before = [on_cpu(p).clone() for p in step.model.parameters()]
        scaler.scale(step.loss() * factor).backward()
        scaler.step(step.optimizer)
        scaler.update()
        for p, copy, old in zip(step.model.parameters(), copies_of(step.model), before):
            assert copy is not None and torch.equal(on_cpu(copy), on_cpu(p).to(torch.bfloat16))
            assert torch.equal(on_cpu(p), old) == (factor != 1.0)


def test_another_half_precision_is_cast() -> None:
    step = Step()
    step()
    assert half_copies.find(step.model[3].weight, tinyflow.float16) is None


def test_an_entry_goes_with_its_parameter() -> None:
    before = len(half_copies._entries)
    step = Step()
    step()
    assert len(half_copies._entries) == before + 3
    del step
    gc.collect()
    assert len(half_copies._entries) <= before


def test_second_derivatives_pass_through_a_copy() -> None:
    step = Step()
    step()
    weight, x = step.model[3].weight, tinyflow.rand(2, 16)
    with region():
        y = F.linear(x, weight).square().sum()
    (first,) = tinyflow.autograd.grad(y, weight, create_graph=True)
    assert first.dtype == tinyflow.float32
    (second,) = tinyflow.autograd.grad(first.sum(), weight)
    assert second.dtype == tinyflow.float32 and on_cpu(second).abs().sum() > 0


class AnyStep(Step):
    """Of another optimizer, on matrices, which all of them take."""

    def __init__(self, name: str) -> None:
        self.model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
        self.optimizer = getattr(optim, name)(self.model.parameters(), lr=0.01)
        self.x = tinyflow.rand(4, 6)
        self.casts = 0


EVERY = (
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD", "LAMB", "LARS",
    "Muon",
)  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_leaves_copies(name: str) -> None:
    """Of what a step left, and of what was there where a scaler left it out."""
    step, scaler = AnyStep(name), GradScaler(tinyflow.get_default_device().type, init_scale=4.0)
    casts = []
    for factor in (1.0, 1.0, float("inf"), 1.0):
        step.optimizer.zero_grad()
        before = [on_cpu(p).clone() for p in step.model.parameters()]
        scaler.scale(step.loss() * factor).backward()
        scaler.step(step.optimizer)
        scaler.update()
        casts.append(step.casts)
        for p, copy, old in zip(step.model.parameters(), copies_of(step.model), before):
            assert copy is not None and torch.equal(on_cpu(copy), on_cpu(p).to(torch.bfloat16))
            assert torch.equal(on_cpu(p), old) == (factor != 1.0)
    assert casts == [casts[0], *[casts[0] - 2] * 3]


# ---- captured steps --------------------------------------------------------------------------------------------------


@pytest.fixture
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    if not tinyflow.gpu_available():
        monkeypatch.setattr(memory, "Graph", LaunchGraph)
        monkeypatch.setattr(memory, "records_graphs", lambda d: True)
        monkeypatch.setattr(LaunchGraph, "replays", 0)  # and what it was afterwards


def two_steps(warm_up: int = 2) -> tuple[Step, Step, Callable[..., tinyflow.Tensor]]:
    """Steps from the same weights on the same images, the second captured too."""
    eager, recorded = Step(), Step()
    recorded.model.load_state_dict(eager.model.state_dict())
    recorded.x = eager.x
    return eager, recorded, tinyflow.capture(lambda x: recorded(), recorded.x, warm_up=warm_up)


def assert_same_weights(a: Step, b: Step) -> None:
    for p, q in zip(a.model.parameters(), b.model.parameters()):
        assert torch.equal(on_cpu(p), on_cpu(q))


@pytest.mark.usefixtures("_graphs")
def test_a_captured_step_casts_no_weight() -> None:
    eager, recorded, captured = two_steps()
    for _ in range(6):
        assert torch.equal(on_cpu(eager()), on_cpu(captured(recorded.x)))
    assert_same_weights(eager, recorded)
    first = Step()
    first()
    assert recorded.casts == first.casts - 3  # as it was recorded


@pytest.mark.usefixtures("_graphs")
@pytest.mark.parametrize("change", [in_place, uncounted, by_torch])
def test_a_change_between_replays_is_seen(change: Callable[[nn.Parameter], None]) -> None:
    eager, recorded, captured = two_steps()
    for k in range(7):
        if k in (4, 6):  # the third call records and replays
            for step in (eager, recorded):
                change(step.model[3].weight)
        assert torch.equal(on_cpu(eager()), on_cpu(captured(recorded.x)))
    assert_same_weights(eager, recorded)


@pytest.mark.usefixtures("_graphs")
def test_what_a_replay_changes_is_seen_outside() -> None:
    """Python runs no step there, and no version moves: a region's casts and a step's copies are old all the same."""
    _, recorded, captured = two_steps(warm_up=1)
    for _ in range(2):
        captured(recorded.x)
    weight, x = recorded.model[3].weight, tinyflow.rand(2, 16)
    half_copies.want(weight, HALF)
    half_copies.offer(weight, weight.detach().to(HALF)._data)
    assert half_copies.find(weight, HALF) is not None
    captured(recorded.x)
    assert half_copies.find(weight, HALF) is None
    with region(), tinyflow.no_grad():
        F.linear(x, weight)
        captured(recorded.x)
        inside = F.linear(x, weight)
    with region(cache_enabled=False), tinyflow.no_grad():
        assert torch.equal(on_cpu(inside), on_cpu(F.linear(x, weight)))


@pytest.mark.usefixtures("_graphs")
def test_folded_weights_follow_a_replay() -> None:
    conv, bn = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)
    optimizer, x = SGD(conv.parameters(), lr=0.5), tinyflow.rand(2, 2, 5, 5)

    def step(x: tinyflow.Tensor) -> tinyflow.Tensor:
        optimizer.zero_grad()
        loss = bn(conv(x)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    captured = tinyflow.capture(step, x, warm_up=1)
    for _ in range(3):
        captured(x)
        conv.eval(), bn.eval()
        with tinyflow.no_grad():
            folded = F.conv_bn_act(x, conv, bn)
            assert_close(on_cpu(folded), on_cpu(bn(conv(x)).relu()).double(), 18)
        conv.train(), bn.train()


@pytest.mark.usefixtures("_graphs")
@pytest.mark.parametrize("name", ["Adam", "LAMB"])
def test_a_captured_step_of_another_optimizer_casts_no_weight(name: str) -> None:
    eager, recorded = AnyStep(name), AnyStep(name)
    recorded.model.load_state_dict(eager.model.state_dict())
    captured = tinyflow.capture(lambda x: recorded(), recorded.x, warm_up=2)
    recorded.x = eager.x
    casts = []
    for _ in range(5):
        assert torch.equal(on_cpu(eager()), on_cpu(captured(recorded.x)))
        casts.append(recorded.casts)
    assert_same_weights(eager, recorded)
    assert casts[-1] == casts[0] - 2
