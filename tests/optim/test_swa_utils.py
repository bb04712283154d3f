"""Averaged models, their statistics and their schedule are torch's."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim import swa_utils as theirs

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import nn
from tinyflow.kernels import launch
from tinyflow.optim import SGD, swa_utils


def models():
    mine = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    reference = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    mine.load_state_dict({k: on_device(v.clone()) for k, v in reference.state_dict().items()})
    return mine, reference


def drift(mine, reference, step):
    generator = torch.Generator().manual_seed(step)
    for p, q in zip([*mine.parameters(), *mine.buffers()], [*reference.parameters(), *reference.buffers()]):
        change = torch.randn(q.shape, generator=generator).abs().to(q.dtype)
        with torch.no_grad():
            q += change
        with tinyflow.no_grad():
            p.add_(on_device(change))


AVERAGES = {
    "mean": lambda m: {},
    "mean one by one": lambda m: {"avg_fn": m.get_swa_avg_fn()},
    "moving": lambda m: {"multi_avg_fn": m.get_ema_multi_avg_fn(0.7)},
    "moving one by one": lambda m: {"avg_fn": m.get_ema_avg_fn(0.7)},
    "with buffers": lambda m: {"use_buffers": True},
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages(name):
    mine, reference = models()
    average = swa_utils.AveragedModel(mine, **AVERAGES[name](swa_utils))
    expected = theirs.AveragedModel(reference, **AVERAGES[name](theirs))
    for step in range(4):
        drift(mine, reference, step)
        average.update_parameters(mine), expected.update_parameters(reference)
    assert list(average.state_dict()) == list(expected.state_dict())
    for (key, found), value in zip(average.state_dict().items(), expected.state_dict().values()):
        if "tracked" not in key:  # torch averages the count of batches with the buffers, and so rounds it
            assert_close(on_cpu(found), value, 4)
    assert average.n_averaged.item() == 4
    x = torch.randn(5, 3, dtype=torch.float64)
    if name != "with buffers":
        assert_close(on_cpu(average.eval()(on_device(x))), expected.eval()(x).detach(), 16)


def test_functions_of_users_get_the_count_as_a_tensor():
    mine, _ = models()
    counts = []
    for name in ("avg_fn", "multi_avg_fn"):
        average = swa_utils.AveragedModel(mine, **{name: lambda a, c, n: counts.append(n.item()) or a})
        for _ in range(3):
            average.update_parameters(mine)
    assert counts == [1] * 4 + [2] * 4 + [1, 2]  # one by one for four parameters, then all at once


def test_only_statistics_of_batches_are_computed_anew():
    mine = nn.Sequential(nn.BatchNorm1d(2), nn.InstanceNorm1d(2, track_running_stats=True))
    mine[1].running_mean.fill_(8.0)
    swa_utils.update_bn([tinyflow.zeros(3, 2, 4)], mine)
    assert mine[0].running_mean.tolist() == [0.0] * 2
    assert mine[1].running_mean.tolist() == pytest.approx([8.0 * 0.9] * 2)


def test_all_parameters_move_in_one_launch():
    mine, _ = models()
    average = swa_utils.AveragedModel(mine, multi_avg_fn=swa_utils.get_ema_multi_avg_fn())
    average.update_parameters(mine)
    with launch.count() as records:
        average.update_parameters(mine)
    assert [r.kernel for r in records].count("_update_kernel") == 1


def test_statistics_are_computed_anew():
    mine, reference = models()
    batches = [torch.randn(5, 3, dtype=torch.float64) for _ in range(3)]
    mine.eval(), reference.eval()
    swa_utils.update_bn([(on_device(x), 0) for x in batches], mine)
    theirs.update_bn(batches, reference)
    assert_close(on_cpu(mine[1].running_mean), reference[1].running_mean, 16)
    assert_close(on_cpu(mine[1].running_var), reference[1].running_var, 16)
    assert not mine.training and mine[1].momentum == 0.1
    swa_utils.update_bn([], nn.Linear(2, 2))


@pytest.mark.parametrize("settings", [{}, {"anneal_epochs": 4, "anneal_strategy": "linear"}, {"anneal_epochs": 0}], ids=str)
def test_the_schedule(settings):
    def rates(optim, schedule, optimizer):
        s = schedule(optimizer, [0.05, 0.3], **settings)
        found = []
        for _ in range(14):
            optimizer.step(), s.step()
            found.append([group["lr"] for group in optimizer.param_groups])
        return torch.tensor(found, dtype=torch.float64)

    groups = [{"params": [nn.Parameter(tinyflow.zeros(1))], "lr": r} for r in (0.5, 0.1)]
    reference = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": r} for r in (0.5, 0.1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = rates(torch.optim, theirs.SWALR, torch.optim.SGD(reference, lr=1.0))
        found = rates(tinyflow.optim, swa_utils.SWALR, SGD(groups, lr=1.0))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_wrong_arguments():
    mine, _ = models()
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn"):
        swa_utils.AveragedModel(mine, avg_fn=swa_utils.get_ema_avg_fn(), multi_avg_fn=swa_utils.get_swa_multi_avg_fn())
    with pytest.raises(ValueError, match=r"Invalid decay value 1.5"):
        swa_utils.get_ema_avg_fn(1.5)
    optimizer = SGD(mine.parameters())
    with pytest.raises(ValueError, match="'cos' or 'linear', instead got square"):
        swa_utils.SWALR(optimizer, 0.1, anneal_strategy="square")
    with pytest.raises(ValueError, match="equal or greater than 0, got -1"):
        swa_utils.SWALR(optimizer, 0.1, -1)
