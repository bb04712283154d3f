"""Optimizers in a captured step: each replay takes the step that would be taken now, or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tinyflow
from tests.device import on_cpu, on_device
from tests.optim.test_left_out import ALL, IDS
from tests.optim.test_rules import compare, problem
from tests.test_capture import LaunchGraph
from tinyflow import optim
from tinyflow.amp import GradScaler
from tinyflow.kernels import memory
from tinyflow.nn import Parameter
from tinyflow.tensor import Tensor

SHAPES = [(3, 5), (7, 2)]

#: One for each way in which numbers follow from counts, and some that need none.
SCALED: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    *[(name, {}) for name in ("SGD", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "ASGD")],
    *[(name, {}) for name in ("LAMB", "LARS")],
]


@pytest.fixture
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    if not tinyflow.gpu_available():
        monkeypatch.setattr(memory, "Graph", LaunchGraph)
        monkeypatch.setattr(memory, "records_graphs", lambda d: True)
        monkeypatch.setattr(LaunchGraph, "replays", 0)  # and what it was afterwards


class Training:
    """Steps whose gradients are the input, on the same parameters each time that it is made."""

    def __init__(self, name: str, settings: dict[str, Any], scaled: bool = False) -> None:
        self.params, self.reference, self.gradients = problem(torch.float32, SHAPES)
        self.optimizer = getattr(optim, name)(self.params, **settings)
        (self.group,) = self.optimizer.param_groups
        device = tinyflow.get_default_device().type
        self.scaler = GradScaler(device, init_scale=4.0, growth_interval=3, enabled=scaled)

    def __call__(self, *gradients: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = sum((p * g).sum() for p, g in zip(self.params, gradients))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def inputs(self, number: int, spoilt: bool = False) -> list[Tensor]:
        found = [g.clone() for g in self.gradients[number]]
        if spoilt:
            found[1][0, 0] = float("inf")
        return [on_device(g) for g in found]

    def remembered(self) -> list[torch.Tensor]:
        state = self.optimizer.state_dict()["state"]
        return [on_cpu(x) for k in sorted(state) for _, x in sorted(state[k].items())]


def pair(name: str, settings: dict[str, Any], scaled: bool = False) -> tuple[Training, Training, Callable[..., Any]]:
    eager, recorded = Training(name, settings, scaled), Training(name, settings, scaled)
    return eager, recorded, tinyflow.capture(recorded, *recorded.inputs(0), warm_up=1)


def assert_same(eager: Training, recorded: Training) -> None:
    for found, expected in zip(recorded.params, eager.params):
        assert torch.equal(on_cpu(found), on_cpu(expected))
    assert all(map(torch.equal, recorded.remembered(), eager.remembered()))


def move(group: dict[str, Any], number: int) -> None:
    """Whatever a schedule may change."""
    group["lr"] = 0.1 / (1 + number)
    if "weight_decay" in group and "trust_coefficient" not in group:
        group["weight_decay"] = (0.0, 0.0, 0.3, 0.0, 0.1)[number]
    if group.get("momentum", 0) != 0:
        group["momentum"] = 0.9 - 0.1 * number
    if "betas" in group:
        group["betas"] = 0.5 + 0.05 * number, 0.9
    if "dampening" in group and not group.get("nesterov") and group["momentum"] != 0:
        group["dampening"] = 0.1 * number


@pytest.mark.usefixtures("_graphs")
@pytest.mark.parametrize(("name", "settings"), ALL, ids=IDS)
def test_replays_follow_every_setting(name: str, settings: dict[str, Any]) -> None:
    """Learning rate, weight decay from 0 and back to it, momentum: the bits of eager steps, states and counts too."""
    eager, recorded, captured = pair(name, settings)
    for number in range(5):
        for training in (eager, recorded):
            move(training.group, number)
        captured(*recorded.inputs(number))
        eager(*eager.inputs(number))
        assert_same(eager, recorded)
    assert LaunchGraph.replays == (0 if tinyflow.gpu_available() else 4)


@pytest.mark.usefixtures("_graphs")
@pytest.mark.parametrize(("name", "settings"), SCALED, ids=str)
def test_replays_leave_steps_out(name: str, settings: dict[str, Any]) -> None:
    """As eager steps with a scaler do, whichever overflow: the device counts what it takes."""
    eager, recorded, captured = pair(name, settings, scaled=True)
    for number, spoilt in enumerate((True, False, True, False, False)):
        for training in (eager, recorded):
            move(training.group, number)
        before = [on_cpu(p).clone() for p in recorded.params]
        captured(*recorded.inputs(number, spoilt))
        eager(*eager.inputs(number, spoilt))
        assert_same(eager, recorded)
        assert all(torch.equal(on_cpu(p), b) for p, b in zip(recorded.params, before)) == spoilt
        assert recorded.scaler.get_scale() == eager.scaler.get_scale()
    assert recorded.scaler.get_scale() == 1.0
    assert LaunchGraph.replays == (0 if tinyflow.gpu_available() else 4)


@pytest.mark.usefixtures("_graphs")
def test_what_torch_does_under_the_same_schedule() -> None:
    training = Training("AdamW", {"lr": 0.1})
    reference = torch.optim.AdamW(training.reference, lr=0.1)
    captured = tinyflow.capture(training, *training.inputs(0), warm_up=1)
    for number in range(4):
        for group in (training.group, reference.param_groups[0]):
            group["lr"], group["weight_decay"] = 0.1 / (1 + number), 0.1 * number
        captured(*training.inputs(number))
        for q, g in zip(training.reference, training.gradients[number]):
            q.grad = g.clone()
        reference.step()
        compare(training.params, training.reference, 1e-6)


@pytest.mark.usefixtures("_graphs")
@pytest.mark.parametrize(
    ("name", "settings", "change", "message"),
    [
        ("SGD", {"momentum": 0.9}, {"momentum": 0.0}, "SGD has changed whether momentum is 0 from False to True since"),
        ("SGD", {}, {"momentum": 0.5}, "whether momentum is 0 from True to False"),
        ("SGD", {"momentum": 0.9}, {"nesterov": True, "maximize": True}, "maximize from .*, nesterov from False to"),
        ("RMSprop", {}, {"momentum": 0.5}, "RMSprop has changed whether momentum is above 0 from False to True"),
        ("RMSprop", {}, {"centered": True}, "centered from False to True"),
        ("AdamW", {}, {"amsgrad": True}, "amsgrad from False to True"),
        ("LARS", {}, {"weight_decay": 0.5}, r"weight_decay from 0.0 to 0.5 .* capture the step again"),
        ("Muon", {}, {"ns_steps": 4}, "ns_steps from 5 to 4"),
    ],
    ids=str,
)
def test_what_a_replay_cannot_follow_is_refused(name, settings, change, message) -> None:
    """And nothing happens; nor does it once the old settings are back."""
    training = Training(name, settings)
    captured = tinyflow.capture(training, *training.inputs(0), warm_up=1)
    for number in range(2):
        captured(*training.inputs(number))
    before, old = [on_cpu(p).clone() for p in training.params], dict(training.group)
    training.group.update(change)
    with pytest.raises(RuntimeError, match=message):
        captured(*training.inputs(2))
    assert all(torch.equal(on_cpu(p), b) for p, b in zip(training.params, before))
    training.group.update(old)
    captured(*training.inputs(2))
    assert not torch.equal(on_cpu(training.params[0]), before[0])


@pytest.mark.usefixtures("_graphs")
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_state_that_was_loaded_in_between_is_refused(name: str) -> None:
    training = Training(name, {"lr": 0.1})
    captured = tinyflow.capture(training, *training.inputs(0), warm_up=1)
    for number in range(2):
        captured(*training.inputs(number))
    training.optimizer.load_state_dict(training.optimizer.state_dict())
    with pytest.raises(RuntimeError, match=r"memory of its state, by load_state_dict\(\) since it was recorded"):
        captured(*training.inputs(2))
    tinyflow.capture(training, *training.inputs(0), warm_up=1)(*training.inputs(2))


@pytest.mark.usefixtures("_graphs")
def test_a_scaler_outside_of_a_recorded_step_is_refused() -> None:
    training = Training("Adam", {"lr": 0.1})
    captured = tinyflow.capture(training, *training.inputs(0), warm_up=1)
    for number in range(2):
        captured(*training.inputs(number))
    outside = GradScaler(tinyflow.get_default_device().type)
    outside.scale(training.params[0])
    outside.step(training.optimizer)
    with pytest.raises(RuntimeError, match="where it counts steps, by a step of a GradScaler outside of the captured"):
        captured(*training.inputs(3))


@pytest.mark.usefixtures("_graphs")
@pytest.mark.parametrize(("name", "settings"), [("SGD", {"momentum": 0.9}), ("Adam", {})], ids=str)
def test_steps_do_not_begin_while_one_is_recorded(name: str, settings: dict[str, Any]) -> None:
    """Every replay would begin anew."""
    first, late = Parameter(tinyflow.ones(3)), Parameter(tinyflow.ones(3))
    optimizer = getattr(optim, name)([first, late], lr=0.1, **settings)
    taking = [first]

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        sum((p * x).sum() for p in taking).backward()
        optimizer.step()

    captured = tinyflow.capture(step, tinyflow.ones(3), warm_up=1)
    captured(tinyflow.ones(3))
    taking.append(late)
    with pytest.raises(RuntimeError, match=f"capture: {name} would begin to remember steps .* more calls to warm up"):
        captured(tinyflow.ones(3))
