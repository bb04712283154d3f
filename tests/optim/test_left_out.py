"""Steps that a gradient scaler leaves out change nothing, in every optimiser, and no host waits to know which they were."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch

import tinyflow
from tests.device import on_cpu, on_device
from tests.optim.test_rules import SETTINGS, compare, problem
from tinyflow import nn, optim
from tinyflow.amp import GradScaler
from tinyflow.kernels import launch, memory, step_numbers
from tinyflow.kernels.optimizer import WORDS, words
from tinyflow.nn import Parameter

SHAPES = [(3, 5), (7, 2), (1, 1), (41, 67)]

ALL = [
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    *SETTINGS,
    ("LAMB", {"lr": 0.1, "weight_decay": 0.1}),
    ("LARS", {"lr": 0.1, "weight_decay": 0.1}),
    ("LARS", {"lr": 0.1, "nesterov": True}),
    ("Muon", {"lr": 0.1}),
]
IDS = [f"{name}-{'-'.join(settings)}" for name, settings in ALL]


def scaler(**settings: Any) -> GradScaler:
    return GradScaler(tinyflow.get_default_device().type, **{"init_scale": 4.0, **settings})


def everything(params, optimizer) -> list[torch.Tensor]:
    """Parameters and all that is remembered of them, as they are saved."""
    state = optimizer.state_dict()["state"]
    remembered = [x for k in sorted(state) for _, x in sorted(state[k].items())]
    return [on_cpu(x).clone() for x in (*params, *remembered)]


def scaled_step(scales: GradScaler, optimizer, params, gradients, spoilt: float | None = None) -> None:
    """A step with gradients as they come from a scaled loss; one element of the last may be no number."""
    for p, g in zip(params, gradients):
        p.grad = on_device(g * 4.0)
    if spoilt is not None:
        params[-1].grad[0, 0] = spoilt
    scales.scale(params[0])
    scales._scale.fill_(4.0)  # type: ignore[union-attr]
    with memory.without_host() if not _reads_the_device(optimizer) else contextlib.nullcontext():
        scales.step(optimizer)
    scales.update()


def _reads_the_device(optimizer) -> bool:
    """Dampened momentum that begins: what it begins from depends on the verdict."""
    return optimizer.defaults.get("dampening", 0) != 0 and isinstance(optimizer, optim.SGD)


@pytest.mark.parametrize(("name", "settings"), ALL, ids=IDS)
def test_what_is_left_out_has_not_been(name, settings) -> None:
    """The same parameters, states and counts as by the other steps alone; and exactly nothing in between."""
    ours, _, gradients = problem(torch.float64, SHAPES)
    alone = [Parameter(on_device(on_cpu(p).clone())) for p in ours]
    skipping, plain = getattr(optim, name)(ours, **settings), getattr(optim, name)(alone, **settings)
    scales = scaler()
    for number, spoilt in enumerate((float("inf"), None, float("nan"), None, float("-inf"), None)):
        before = everything(ours, skipping)
        scaled_step(scales, skipping, ours, gradients[number], spoilt)
        if spoilt is None:
            for p, g in zip(alone, gradients[number]):
                p.grad = on_device(g)
            plain.step()
        elif number:  # before the first step nothing is remembered
            assert all(map(torch.equal, before, everything(ours, skipping)))
        else:
            assert all(map(torch.equal, before, map(on_cpu, ours)))
        compare(ours, map(on_cpu, alone), 1e-12 if name != "Muon" else 1e-6)
    for found, expected in zip(everything(ours, skipping), everything(alone, plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12 if name != "Muon" else 1e-6, atol=1e-12)


@pytest.mark.parametrize(("name", "settings"), ALL[4:], ids=IDS[4:])
def test_numbers_of_the_device_are_those_of_the_host(name, settings) -> None:
    """What an update reads, from either: at the first steps and after many."""
    shape = (2, 2)
    optimizer = getattr(optim, name)([Parameter(tinyflow.zeros(*shape))], **settings)
    (group,) = optimizer.param_groups
    counts = (0.0, *optimizer.counted.values())
    rule, given = optimizer._on_device(group)
    given = words(*optimizer._decays(group, counts), given)
    there = [torch.tensor(c, dtype=torch.float64, device=tinyflow.get_default_device()) for c in counts]
    for step in (0, 1, 2, 3, 4, 5, 6, 7, 1000):
        counts = step, *counts[1:]
        there[0].fill_(step)
        counts = optimizer._advance(group, counts)
        expected = words(*optimizer._decays(group, counts), optimizer._numbers(group, counts))
        counts = optimizer._left(group, counts)
        found = memory.reinterpret(rule(there, given, None), torch.float64).cpu()
        # the length of RAdam's history is a small difference of large numbers
        torch.testing.assert_close(found, torch.tensor(expected).view(torch.float64), rtol=1e-10, atol=1e-15)
        assert [c.item() for c in there] == pytest.approx(counts, rel=1e-14)


def test_one_more_launch_and_one_count_for_all_parameters() -> None:
    ours, _, gradients = problem(torch.float32, SHAPES)
    optimizer, scales = optim.AdamW(ours, lr=0.1), scaler()
    scaled_step(scales, optimizer, ours, gradients[0])
    with launch.count() as records:
        scaled_step(scales, optimizer, ours, gradients[1])
    names = [r.kernel for r in records]
    assert names.count("_step_numbers_kernel") == 1
    assert names.count("_update_kernel") == len({p.numel() > 2048 for p in ours}) or tinyflow.gpu_available()
    assert len({id(optimizer.state[p]["step"]) for p in ours}) == 1
    assert optimizer.state[ours[0]]["step"].item() == 2


def test_parameters_that_join_late_have_counts_of_their_own() -> None:
    ours, theirs, gradients = problem(torch.float64, SHAPES)
    optimizer, reference, scales = optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1), scaler()
    for number, step in enumerate(gradients[:5]):
        taking = [k for k in range(4) if k != 1 or number >= 2]
        for p, q in zip(ours, theirs):
            p.grad = q.grad = None
        if number == 4:  # one stays behind, of those that shared a count
            taking.remove(2)
        for k in taking:
            theirs[k].grad = step[k].clone()
        scaled_step(scales, optimizer, [ours[k] for k in taking], [step[k] for k in taking])
        reference.step()
        compare(ours, theirs, 1e-11)
    assert [optimizer.state[p]["step"].item() for p in ours] == [5, 3, 4, 5]
    assert [reference.state[q]["step"].item() for q in theirs] == [5, 3, 4, 5]


@pytest.mark.parametrize("name", ["Adam", "NAdam", "ASGD"])
def test_a_saved_state_goes_on(name) -> None:
    """Through ``state_dict`` and a deep copy, with and without a scaler from there on."""
    ours, theirs, gradients = problem(torch.float64, SHAPES)
    optimizer, reference = getattr(optim, name)(ours, lr=0.1), getattr(torch.optim, name)(theirs, lr=0.1)
    scales = scaler()
    for number in range(6):
        for q, g in zip(theirs, gradients[number]):
            q.grad = g.clone()
        if number in (2, 4):
            saved = optimizer.state_dict()
            assert all(s["step"].dtype == torch.float32 and s["step"].item() == number for s in saved["state"].values())
            optimizer = getattr(optim, name)(ours, lr=1.0)
            optimizer.load_state_dict(copy.deepcopy(saved))
        if number < 4:
            scaled_step(scales, optimizer, ours, gradients[number])
        else:
            for p, g in zip(ours, gradients[number]):
                p.grad = on_device(g)
            optimizer.step()
        reference.step()
        compare(ours, theirs, 1e-6)  # both keep further counts in float32 where they are saved


def test_gradients_that_were_clipped_in_between() -> None:
    ours, theirs, gradients = problem(torch.float64, SHAPES)
    optimizer, reference, scales = optim.AdamW(ours, lr=0.1), torch.optim.AdamW(theirs, lr=0.1), scaler()
    for step, spoilt in zip(gradients, (False, True, False)):
        for p, q, g in zip(ours, theirs, step):
            p.grad, q.grad = on_device(g * 4.0), g.clone()
        if spoilt:
            ours[0].grad[0, 0] = float("inf")
        scales.scale(ours[0])
        scales._scale.fill_(4.0)  # type: ignore[union-attr]
        scales.unscale_(optimizer)
        nn.utils.clip_grad_norm_(ours, 1.5)
        scales.step(optimizer)
        scales.update()
        if not spoilt:
            torch.nn.utils.clip_grad_norm_(theirs, 1.5)
            reference.step()
        compare(ours, theirs, 1e-11)


def test_errors() -> None:
    count = torch.zeros((), dtype=torch.float64)
    with pytest.raises(ValueError, match="nadam: expected 2 counts, got 1"):
        step_numbers.nadam([count], [0] * WORDS, None)
    with pytest.raises(RuntimeError, match="adam: expected all operands on one device"):
        step_numbers.adam([count], [0] * WORDS, torch.zeros((), device="meta"))
