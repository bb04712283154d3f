"""Learning-rate schedules give the values of torch's, step for step, and go on from their saved state."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch.optim import lr_scheduler as theirs

import tinyflow
from tinyflow.nn import Parameter
from tinyflow.optim import SGD
from tinyflow.optim import lr_scheduler as ours

STEPS = 60
RATES = [0.5, 0.02]


class Factor:
    """A factor with state of its own."""

    def __init__(self, gamma):
        self.gamma = gamma

    def __call__(self, t):
        return self.gamma**t


def optimizers():
    mine = SGD([{"params": [Parameter(tinyflow.zeros(2))], "lr": rate} for rate in RATES], lr=1.0, momentum=0.9)
    reference = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": rate} for rate in RATES], lr=1.0, momentum=0.9
    )
    return mine, reference


def run(optimizer, scheduler, steps, argument=None):
    """The rates, and the momenta, before each step."""
    trace = []
    for k in range(steps):
        trace.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step(*([] if argument is None else [argument(k)]))
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
    return torch.tensor(trace, dtype=torch.float64)


SCHEDULES = {
    "lambda": lambda s, o: s.LambdaLR(o, lambda t: 0.95**t),
    "lambda for each group": lambda s, o: s.LambdaLR(o, [lambda t: 1 / (1 + t), Factor(0.9)]),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda t: 1 - 1 / (t + 2)),
    "step": lambda s, o: s.StepLR(o, step_size=7, gamma=0.3),
    "multistep": lambda s, o: s.MultiStepLR(o, milestones=[3, 20, 20, 41], gamma=0.2),
    "constant": lambda s, o: s.ConstantLR(o, factor=0.25, total_iters=9),
    "linear": lambda s, o: s.LinearLR(o, start_factor=0.1, end_factor=0.7, total_iters=13),
    "cyclic": lambda s, o: s.CyclicLR(o, [0.01, 0.02], 0.5, step_size_up=7, step_size_down=4),
    "cyclic, halved": lambda s, o: s.CyclicLR(o, 0.01, [0.5, 0.3], step_size_up=5, mode="triangular2"),
    "cyclic, fading": lambda s, o: s.CyclicLR(o, 0.01, 0.5, step_size_up=5, mode="exp_range", gamma=0.9),
    "cyclic, own": lambda s, o: s.CyclicLR(
        o, 0.01, 0.5, step_size_up=5, scale_fn=lambda n: 1 / n, cycle_momentum=False
    ),
    "exponential": lambda s, o: s.ExponentialLR(o, gamma=0.93),
    "polynomial": lambda s, o: s.PolynomialLR(o, total_iters=31, power=1.7),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, T_max=STEPS, eta_min=1e-3),
    "cosine past its minimum": lambda s, o: s.CosineAnnealingLR(o, T_max=11, eta_min=1e-3),
    "warm restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=5, T_mult=2, eta_min=1e-4),
    "warm restarts of one length": lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=7),
    "one cycle": lambda s, o: s.OneCycleLR(o, max_lr=[1.0, 0.1], total_steps=STEPS + 1),
    "one cycle, linear, three phases": lambda s, o: s.OneCycleLR(
        o, max_lr=0.7, epochs=10, steps_per_epoch=8, anneal_strategy="linear", three_phase=True, pct_start=0.25
    ),
    "one cycle, momentum fixed": lambda s, o: s.OneCycleLR(
        o, 0.7, total_steps=STEPS, cycle_momentum=False, div_factor=3.0
    ),
    "sequence": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.01, total_iters=5), s.CosineAnnealingLR(o, 20), s.ExponentialLR(o, 0.9)], milestones=[5, 25]
    ),
    "sequence in a sequence": lambda s, o: s.SequentialLR(
        o,
        [
            s.SequentialLR(o, [s.ConstantLR(o, 0.5, total_iters=3), s.ExponentialLR(o, 0.8)], milestones=[4]),
            s.StepLR(o, 10),
        ],
        milestones=[15],
    ),
    "chain": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, total_iters=4), s.ExponentialLR(o, 0.9)]),
}


@pytest.mark.filterwarnings("ignore:Detected call of")  # a sequence steps the one inside it when it is made
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_torch(name):
    mine, reference = optimizers()
    trace = run(mine, SCHEDULES[name](ours, mine), STEPS)
    torch.testing.assert_close(trace, run(reference, SCHEDULES[name](theirs, reference), STEPS), rtol=1e-12, atol=1e-15)
    assert len(set(trace[:, 0, 0].tolist())) > 1  # it does move


@pytest.mark.filterwarnings("ignore:Detected call of")  # a sequence steps the one inside it when it is made
@pytest.mark.parametrize("name", SCHEDULES)
def test_goes_on_from_a_saved_state(name):
    optimizer, _ = optimizers()
    scheduler = SCHEDULES[name](ours, optimizer)
    run(optimizer, scheduler, 17)
    saved = pickle.loads(pickle.dumps((optimizer.state_dict(), _without_functions(scheduler.state_dict()))))
    expected = run(optimizer, scheduler, 30)
    resumed, _ = optimizers()
    again = SCHEDULES[name](ours, resumed)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    assert torch.equal(run(resumed, again, 30), expected)


def _without_functions(state):
    assert "optimizer" not in state
    return copy.deepcopy(state)


@pytest.mark.parametrize("name", ["step", "multistep", "constant", "linear", "exponential", "polynomial", "cosine"])
@pytest.mark.parametrize("epoch", [0, 1, 12, 45])
def test_closed_forms_are_those_of_torch(name, epoch):
    mine, reference = optimizers()
    first, second = SCHEDULES[name](ours, mine), SCHEDULES[name](theirs, reference)
    mine.step(), reference.step()
    first.step(epoch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second.step(epoch)
    assert first.get_last_lr() == pytest.approx(second.get_last_lr(), rel=1e-12)


def test_warm_restarts_take_fractions_of_an_epoch():
    mine, reference = optimizers()
    first, second = (SCHEDULES["warm restarts"](s, o) for s, o in ((ours, mine), (theirs, reference)))
    for k in range(100):
        first.step(k * 0.37), second.step(k * 0.37)
        assert first.get_last_lr() == pytest.approx(second.get_last_lr(), rel=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mode": "max", "patience": 2, "cooldown": 3},
        {"threshold_mode": "abs", "threshold": 0.01, "patience": 0},
        {"mode": "max", "threshold_mode": "abs", "threshold": 0.05, "patience": 1, "min_lr": [0.1, 0.01]},
        {"factor": 0.5, "patience": 1, "eps": 0.05},
    ],
    ids=str,
)
def test_plateau_is_that_of_torch(settings):
    def metric(k):
        return 1 + math.cos(k * 0.3) * 0.97**k

    mine, reference = optimizers()
    trace = run(mine, ours.ReduceLROnPlateau(mine, **settings), 80, metric)
    torch.testing.assert_close(trace, run(reference, theirs.ReduceLROnPlateau(reference, **settings), 80, metric))
    assert trace[-1, 0, 0] < RATES[0]


def test_a_schedule_resumes_at_last_epoch():
    mine, reference = optimizers()
    for optimizer in (mine, reference):
        for group, rate in zip(optimizer.param_groups, RATES):
            group.update(initial_lr=rate, lr=rate * 0.5)
    for make in (lambda s, o: s.CosineAnnealingLR(o, 20, last_epoch=6), lambda s, o: s.StepLR(o, 3, last_epoch=4)):
        trace = run(mine, make(ours, mine), 12)
        torch.testing.assert_close(trace, run(reference, make(theirs, reference), 12), rtol=1e-12, atol=1e-15)


def test_a_change_made_by_hand_is_kept():
    optimizer, _ = optimizers()
    scheduler = ours.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 8.0
    scheduler.step()
    assert scheduler.get_last_lr() == [4.0, RATES[1] * 0.5]


def test_a_tensor_rate_is_changed_in_place():
    rate = tinyflow.tensor(0.5)
    optimizer = SGD([Parameter(tinyflow.zeros(2))], lr=rate)
    scheduler = ours.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert rate.item() == 0.25
    assert optimizer.param_groups[0]["lr"] is rate
    assert optimizer.param_groups[0]["initial_lr"] == 0.5


def test_warns_where_the_schedule_runs_ahead():
    optimizer, _ = optimizers()
    scheduler = ours.StepLR(optimizer, 2)
    with pytest.warns(UserWarning, match="before `optimizer.step\\(\\)`"):
        scheduler.step()


def one_group():
    return SGD([Parameter(tinyflow.zeros(2))], lr=0.1)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda o: ours.StepLR("sgd", 2), TypeError, "str is not an Optimizer"),
        (lambda o: ours.StepLR(o, 2, last_epoch=3), KeyError, "initial_lr"),
        (lambda o: ours.LambdaLR(o, [abs, abs]), ValueError, "Expected 1 lr_lambdas, but got 2"),
        (lambda o: ours.ConstantLR(o, factor=2.0), ValueError, "between 0 and 1, got 2.0"),
        (lambda o: ours.LinearLR(o, start_factor=0.0), ValueError, "greater than 0 and at most 1, got 0.0"),
        (lambda o: ours.LinearLR(o, end_factor=2.0), ValueError, "between 0 and 1, got 2.0"),
        (lambda o: ours.CosineAnnealingWarmRestarts(o, 0), ValueError, "positive integer T_0, but got 0"),
        (lambda o: ours.CosineAnnealingWarmRestarts(o, 2, 0), ValueError, "T_mult >= 1, but got 0"),
        (lambda o: ours.OneCycleLR(o, 0.1), ValueError, "total_steps OR"),
        (lambda o: ours.OneCycleLR(o, 0.1, total_steps=0), ValueError, "positive integer total_steps, but got 0"),
        (lambda o: ours.OneCycleLR(o, 0.1, total_steps=9, pct_start=1.5), ValueError, "pct_start, but got 1.5"),
        (lambda o: ours.OneCycleLR(o, 0.1, total_steps=9, anneal_strategy="flat"), ValueError, "instead got flat"),
        (lambda o: ours.OneCycleLR(o, [0.1, 0.2], total_steps=9), ValueError, "expected 1, got 2"),
        (lambda o: ours.SequentialLR(o, [], []), ValueError, "at least one scheduler"),
        (lambda o: ours.SequentialLR(o, [ours.StepLR(o, 2)], [3]), ValueError, "1 schedulers and 1 milestones"),
        (lambda o: ours.SequentialLR(o, [ours.StepLR(one_group(), 2)], []), ValueError, "same optimizer"),
        (lambda o: ours.SequentialLR(o, [ours.ReduceLROnPlateau(o)], []), ValueError, "ReduceLROnPlateau"),
        (lambda o: ours.ChainedScheduler([]), ValueError, "at least one scheduler"),
        (lambda o: ours.ReduceLROnPlateau(o, factor=1.0), ValueError, "< 1.0, got 1.0"),
        (lambda o: ours.ReduceLROnPlateau(o, mode="low"), ValueError, "mode low is unknown"),
        (lambda o: ours.ReduceLROnPlateau(o, threshold_mode="low"), ValueError, "threshold mode low is unknown"),
    ],
)
def test_wrong_settings_say_so(make, error, text):
    with pytest.raises(error, match=text):
        make(one_group())


def test_one_cycle_does_not_step_past_its_end():
    optimizer = one_group()
    scheduler = ours.OneCycleLR(optimizer, 0.1, total_steps=3, cycle_momentum=False)
    optimizer.step()
    for _ in range(3):
        scheduler.step()
    with pytest.raises(ValueError, match=r"Tried to step 4 times\. The specified number of total steps is 3"):
        scheduler.step()
