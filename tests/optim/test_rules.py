"""The optimisers of one rule take the steps of torch's, in every setting, and go on from a saved state of either."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import optim
from tinyflow.kernels import launch, update_rules
from tinyflow.kernels import tensor_norms as norms
from tinyflow.kernels.optimizer import configs, words
from tinyflow.kernels.tensor_norms import tensor_norms
from tinyflow.nn import Parameter

SHAPES = [(3, 5), (), (7,), (2, 3, 1, 3), (0, 4), (41, 67)]

SETTINGS = [
    ("Adam", {"lr": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.7, 0.8), "eps": 0.1, "weight_decay": 0.3, "maximize": True}),
    ("Adam", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.2}),
    ("NAdam", {"lr": 0.1}),
    ("NAdam", {"lr": 0.1, "weight_decay": 0.2, "decoupled_weight_decay": True, "momentum_decay": 0.1}),
    ("RAdam", {"lr": 0.1, "betas": (0.9, 0.8)}),
    ("RAdam", {"lr": 0.1, "weight_decay": 0.2, "maximize": True}),
    ("Adamax", {"lr": 0.1, "weight_decay": 0.2}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.3, "initial_accumulator_value": 0.5, "weight_decay": 0.1}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.1}),
    ("RMSprop", {"lr": 0.1, "momentum": 0.8, "alpha": 0.7, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.1, "centered": True}),
    ("RMSprop", {"lr": 0.1, "centered": True, "momentum": 0.8, "maximize": True}),
    ("Rprop", {"lr": 0.1, "step_sizes": (0.05, 0.13)}),
    ("ASGD", {"lr": 0.1, "t0": 1, "lambd": 0.1, "weight_decay": 0.1}),
]
IDS = [f"{name}-{'-'.join(settings)}" for name, settings in SETTINGS]


def problem(dtype, shapes=SHAPES, seed=0):
    """Equal parameters on both sides, and gradients for each of several steps."""
    rng = np.random.default_rng(seed)
    values = [torch.tensor(rng.standard_normal(shape)).to(dtype) for shape in shapes]
    gradients = [[torch.tensor(rng.standard_normal(shape)).to(dtype) for shape in shapes] for _ in range(7)]
    ours = [Parameter(on_device(value.clone())) for value in values]
    return ours, [torch.nn.Parameter(value.clone()) for value in values], gradients


def give(ours, theirs, gradients):
    for p, q, g in zip(ours, theirs, gradients):
        p.grad, q.grad = on_device(g.clone()), g.clone()


def compare(ours, theirs, tolerance):
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(on_cpu(p), q.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
def test_steps_are_those_of_torch(name, settings):
    ours, theirs, gradients = problem(torch.float64)
    mine, reference = getattr(optim, name)(ours, **settings), getattr(torch.optim, name)(theirs, **settings)
    shared = {k for k in reference.defaults if k != "fused"}
    assert shared <= set(mine.defaults)
    for step in gradients:
        give(ours, theirs, step)
        mine.step(), reference.step()
    tolerance = 1e-6 if mine.counted else 1e-11  # torch keeps further counts in float32
    compare(ours, theirs, tolerance)
    for p, q in zip(ours, theirs):
        assert set(mine.state[p]) == set(reference.state[q])
        for key, value in reference.state[q].items():
            found = mine.state[p][key]
            if isinstance(found, tinyflow.Tensor):
                torch.testing.assert_close(on_cpu(found), value, rtol=tolerance, atol=tolerance)
            else:
                assert found == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adadelta", "Rprop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_narrower_dtypes(name, dtype):
    """From equal states one step is as exact as its dtype allows."""
    ours, theirs, gradients = problem(dtype)
    wide = [torch.nn.Parameter(q.detach().double()) for q in theirs]
    mine, reference = getattr(optim, name)(ours, lr=0.1), getattr(torch.optim, name)(wide, lr=0.1)
    for p, q, g in zip(ours, wide, gradients[0]):
        p.grad, q.grad = on_device(g.clone()), g.double()
    mine.step(), reference.step()
    for p, q in zip(ours, wide):
        assert p.dtype == dtype
        assert_close(on_cpu(p), q.detach(), 4)


@pytest.mark.parametrize("name", ["Adam", "NAdam", "ASGD", "RMSprop"])
def test_a_state_of_torch_is_taken_over_and_given_back(name):
    ours, theirs, gradients = problem(torch.float64)
    reference = getattr(torch.optim, name)(theirs, lr=0.1)
    for step in gradients[:3]:
        give(ours, theirs, step)
        reference.step()
    for p, q in zip(ours, theirs):
        with tinyflow.no_grad():
            p.copy_(on_device(q.detach().clone()))
    saved = reference.state_dict()
    state = {k: {n: on_device(v.clone()) for n, v in kept.items()} for k, kept in saved["state"].items()}
    mine = getattr(optim, name)(ours, lr=0.1)
    mine.load_state_dict({**saved, "state": state})
    for step in gradients[3:5]:
        give(ours, theirs, step)
        mine.step(), reference.step()
    compare(ours, theirs, 1e-6)  # torch keeps counts such as mu_product in float32
    back = mine.state_dict()
    as_torch = {k: {n: on_cpu(v).clone() for n, v in kept.items()} for k, kept in back["state"].items()}
    assert all(kept["step"].shape == () and kept["step"].dtype == torch.float32 for kept in as_torch.values())
    reference.load_state_dict({**back, "state": as_torch})
    give(ours, theirs, gradients[5])
    mine.step(), reference.step()
    compare(ours, theirs, 1e-6)


def test_a_state_of_torch_without_a_count_is_taken_over():
    weight, g = torch.ones(3, 4), torch.full((3, 4), 2.0)
    reference = torch.optim.Muon([torch.nn.Parameter(weight.clone())])
    reference.param_groups[0]["params"][0].grad = g
    reference.step()
    saved = reference.state_dict()
    p = Parameter(on_device(weight.clone()))
    mine = optim.Muon([p])
    mine.load_state_dict({**saved, "state": {0: {k: on_device(v.clone()) for k, v in saved["state"][0].items()}}})
    p.grad = tinyflow.zeros_like(p)
    mine.step()
    assert_close(on_cpu(mine.state[p]["momentum_buffer"]), 0.95 * saved["state"][0]["momentum_buffer"].double(), 4)


def test_a_gradient_that_is_no_number_moves_nothing_in_rprop():
    weight = torch.tensor([1.0, 2.0, 3.0])
    p, q = Parameter(on_device(weight.clone())), torch.nn.Parameter(weight.clone())
    mine, reference = optim.Rprop([p]), torch.optim.Rprop([q])
    for g in ([math.nan, 1.0, -1.0], [1.0, math.nan, -1.0], [1.0, 1.0, 1.0]):
        p.grad, q.grad = on_device(torch.tensor(g)), torch.tensor(g)
        mine.step(), reference.step()
        assert_close(on_cpu(p), q.detach().double(), 1)


def test_numbers_in_memory_stand_for_all_values():
    """A decay of 0 when a step is recorded may be another one when it is replayed."""
    device = tinyflow.get_default_device()
    p, g = torch.full((3,), 2.0, device=device), torch.ones(3, device=device)
    settings = torch.tensor(words(0.5, 0.25, [1.0]), device=device)
    update_rules.descend([p], [g], [], [1.0], settings=settings)
    assert p.tolist() == [0.25 * 2 - (1 + 0.5 * 2)] * 3


def test_factors_have_any_stride_and_one_size():
    device = tinyflow.get_default_device()
    p = [torch.full((2,), 1.0, device=device) for _ in range(3)]
    factors = torch.tensor([1.0, 9.0, 2.0, 9.0, 3.0, 9.0], device=device)[::2]
    update_rules.replace(p, p, [], [], factors=factors)
    assert [x.tolist() for x in p] == [[1.0] * 2, [2.0] * 2, [3.0] * 2]
    with pytest.raises(ValueError, match=r"factors of shape \(\) or \(3,\), got \(2,\)"):
        update_rules.replace(p, p, [], [], factors=factors[:2])


@pytest.mark.parametrize("config", configs.shipped, ids=lambda c: "-".join(map(str, c.blocks.values())))
def test_shipped_configs_of_updates(config):
    with configs.forced(config):
        ours, theirs, gradients = problem(torch.float32, [(3, 5), (2, 1031), (2,), (1,), (4097,)])
        give(ours, theirs, gradients[0])
        optim.AdamW(ours, lr=0.1).step(), torch.optim.AdamW(theirs, lr=0.1).step()
        compare(ours, theirs, 1e-6)


def test_all_parameters_of_one_history_share_a_launch():
    ours, theirs, gradients = problem(torch.float32, [(5, 3), (7,), (), (2, 2)])
    mine = optim.AdamW(ours, lr=0.1)
    for step in gradients[:2]:
        give(ours, theirs, step)
        with launch.count() as records:
            mine.step()
    assert [r.kernel for r in records] == ["_update_kernel"]
    assert records[0].cost.flops == (12 + 1) * (15 + 7 + 1 + 4)


def test_parameters_join_late_and_strided_ones_too():
    ours, theirs, gradients = problem(torch.float64, [(3, 5), (7,)])
    mine, reference = optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    for number, step in enumerate(gradients[:4]):
        give(ours, theirs, step)
        if number < 2:
            ours[1].grad = theirs[1].grad = None
        else:  # a gradient with another layout
            ours[0].grad = on_device(step[0].t().contiguous().t())
        mine.step(), reference.step()
    compare(ours, theirs, 1e-12)
    assert [mine.state[p]["step"] for p in ours] == [4, 2]


def test_closures_schedules_and_groups():
    ours, theirs, gradients = problem(torch.float64, [(3, 5), (7,)])
    groups = [[{"params": [p[0]]}, {"params": [p[1]], "lr": 0.5, "betas": (0.5, 0.6)}] for p in (ours, theirs)]
    mine, reference = optim.Adam(groups[0], lr=0.1), torch.optim.Adam(groups[1], lr=0.1)
    schedules = optim.lr_scheduler.StepLR(mine, 1, 0.5), torch.optim.lr_scheduler.StepLR(reference, 1, 0.5)
    for step in gradients[:3]:
        assert mine.step(lambda step=step: give(ours, theirs, step) or 3) == 3
        reference.step()
        for schedule in schedules:
            schedule.step()
    compare(ours, theirs, 1e-12)


def test_captured_steps_count_and_follow_the_learning_rate():
    ours, theirs, gradients = problem(torch.float64, [(3, 5)])
    mine, reference = optim.RAdam(ours, lr=0.1), torch.optim.RAdam(theirs, lr=0.1)
    ours[0].grad = on_device(gradients[0][0].clone())

    def step(g):
        ours[0].grad.copy_(g)
        mine.step()
        return ours[0].sum()

    captured = tinyflow.capture(step, on_device(gradients[0][0].clone()))
    for number, (g,) in enumerate(gradients[:5]):
        mine.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.1 / (number + 1)
        captured(on_device(g.clone()))
        theirs[0].grad = g.clone()
        reference.step()
    compare(ours, theirs, 1e-11)
    assert mine.state[ours[0]]["step"] == 5


def _lamb(p, g, m, v, step, lr, beta1, beta2, eps, decay):
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    r = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + eps) + decay * p
    sizes = p.norm(), r.norm()
    p.sub_(r, alpha=lr * (float(sizes[0] / sizes[1]) if min(sizes) > 0 else 1.0))


def test_lamb_follows_its_formula():
    ours, theirs, gradients = problem(torch.float64)
    with torch.no_grad():
        theirs[2].zero_()
    ours[2].data.zero_()
    mine = optim.LAMB(ours, lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    state = [(torch.zeros_like(q), torch.zeros_like(q)) for q in theirs]
    for number, step in enumerate(gradients[:3]):
        give(ours, theirs, step)
        mine.step()
        with torch.no_grad():
            for q, (m, v) in zip(theirs, state):
                _lamb(q, q.grad, m, v, number + 1, 0.1, 0.8, 0.9, 1e-3, 0.1)
    compare(ours, theirs, 1e-11)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_follows_its_formula(nesterov):
    ours, theirs, gradients = problem(torch.float64)
    mine = optim.LARS(ours, lr=0.5, momentum=0.8, weight_decay=0.1, nesterov=nesterov, trust_coefficient=0.02)
    buffers = [torch.zeros_like(q) for q in theirs]
    for step in gradients[:3]:
        give(ours, theirs, step)
        mine.step()
        with torch.no_grad():
            for q, b in zip(theirs, buffers):
                size, slope = float(q.norm()), float(q.grad.norm())
                trust = 0.02 * size / (slope + 0.1 * size + 1e-8) if size > 0 and slope > 0 else 1.0
                move = 0.5 * trust * (q.grad + 0.1 * q)
                b.mul_(0.8).add_(move)
                q.sub_(move + 0.8 * b if nesterov else b)
    compare(ours, theirs, 1e-11)


@pytest.mark.parametrize("settings", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}], ids=str)
def test_muon_steps_as_torch_does(settings):
    shapes = [(6, 4), (4, 6), (6, 4), (5, 5)]
    ours, theirs, gradients = problem(torch.float32, shapes)
    mine, reference = optim.Muon(ours, lr=0.1, **settings), torch.optim.Muon(theirs, lr=0.1, **settings)
    for step in gradients[:2]:
        give(ours, theirs, step)
        mine.step(), reference.step()
    for p, q in zip(ours, theirs):  # both round to bfloat16 within, at places of their own
        torch.testing.assert_close(on_cpu(p), q.detach(), rtol=0.02, atol=0.02)
        assert_close(on_cpu(mine.state[p]["momentum_buffer"]), reference.state[q]["momentum_buffer"].double(), 4)


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("Adam", {"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        ("Adam", {"betas": (1.0, 0.9)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
        ("Adam", {"eps": -1e-8}, ValueError, "Invalid epsilon value"),
        ("AdamW", {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
        ("Adam", {"fused": True, "foreach": True}, RuntimeError, "cannot be `True` together"),
        ("Adam", {"differentiable": True}, NotImplementedError, "Adam: differentiable=True is not implemented"),
        ("NAdam", {"momentum_decay": -1}, ValueError, "Invalid momentum_decay value: -1"),
        ("Adagrad", {"lr_decay": -1}, ValueError, "Invalid lr_decay value: -1"),
        ("Adadelta", {"rho": 1.5}, ValueError, "Invalid rho value: 1.5"),
        ("RMSprop", {"alpha": -1}, ValueError, "Invalid alpha value: -1"),
        ("Rprop", {"etas": (1.1, 1.2)}, ValueError, "Invalid eta values: 1.1, 1.2"),
        ("LARS", {"momentum": 0, "nesterov": True}, ValueError, "Nesterov momentum requires"),
        ("Muon", {}, ValueError, r"2D parameters .* \(2, 3, 1\)"),
        ("Muon", {"adjust_lr_fn": "best"}, ValueError, "best is not supported"),
    ],
)
def test_wrong_settings_are_refused(name, settings, error, message):
    with pytest.raises(error, match=message):
        getattr(optim, name)([Parameter(tinyflow.zeros(2, 3, 1))], **settings)


@pytest.mark.parametrize("order", [1, 2, math.inf, -math.inf])
def test_norms_of_many_tensors(order):
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(s, generator=generator) for s in [(3, 5), (), (9001,), (7, 3)]]
    tensors[1] = tensors[1].double()
    tensors[2] = tensors[2].to(torch.float16)
    tensors[3] = tensors[3].t()
    found = tensor_norms([x.to(tinyflow.get_default_device()) for x in tensors], order).cpu()
    expected = torch.stack([torch.linalg.vector_norm(x.double(), order) for x in tensors])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    tensors[0][1, 1] = float("nan")
    assert torch.isnan(tensor_norms([x.to(tinyflow.get_default_device()) for x in tensors], order)).tolist() == [
        True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("order", [2, math.inf, -math.inf])
@pytest.mark.parametrize("gather", norms.gather_configs.shipped, ids=lambda c: str(c.blocks["BLOCK"]))
@pytest.mark.parametrize("partial", norms.configs.shipped, ids=lambda c: str(c.blocks["BLOCK"]))
def test_shipped_configs_of_norms(partial, gather, order):
    """More chunks than a gathering program has lanes, and more tensors than it has rows."""
    sizes = [partial.blocks["BLOCK"] * (gather.blocks["BLOCK"] + 1) + 3, *range(1, gather.blocks["TENSORS"] + 2)]
    generator = torch.Generator().manual_seed(2)
    tensors = [torch.randn(n, generator=generator).add_(3) for n in sizes if n < 2**20]
    on = [x.to(tinyflow.get_default_device()) for x in tensors]
    with norms.configs.forced(partial), norms.gather_configs.forced(gather):
        found = tensor_norms(on, order).cpu()
        expected = torch.stack([torch.linalg.vector_norm(x.double(), order) for x in tensors]).float()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        on[0][-1] = math.nan
        assert torch.isnan(tensor_norms(on, order)).tolist() == [True] + [False] * (len(on) - 1)


def test_a_norm_of_nothing():
    empty = torch.empty(0, 3, device=tinyflow.get_default_device())
    assert tensor_norms([empty]).tolist() == [0.0]
    with pytest.raises(ValueError, match="tensor 0 without any"):
        tensor_norms([empty], -math.inf)
    with pytest.raises(ValueError, match="order 1, 2, inf or -inf, got 3"):
        tensor_norms([empty], 3)
