"""Updates of all parameters at once: the rules of SGD, against torch's own optimiser step by step."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.closeness import EPSILON
from tests.poison import poisoned_memory  # noqa: F401
from tinyflow.kernels import launch, memory, optimizer, update_rules
from tinyflow.kernels.launch import Config

#: A scalar, an empty one, one element more than a chunk, channels-last, transposed, and gaps.
SHAPES = [(), (0, 3), (2049,), (300, 7), (1,), (5, 4, 3, 3)]


def sgd(
    params,
    grads,
    buffers=None,
    *,
    lr,
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    first=False,
    **options,
) -> None:
    """The step of the rule that these settings choose."""
    rule = update_rules.descend
    if momentum:
        begins = update_rules.nesterov_begins if nesterov else update_rules.momentum_begins
        rule = begins if first else update_rules.nesterov if nesterov else update_rules.momentum
    states = [buffers] if momentum else []
    rule(params, grads, states, (lr, momentum, dampening), decay=weight_decay, **options)


def _parameters(dtype: torch.dtype) -> list[torch.Tensor]:
    made = [torch.randn(s).to(dtype) for s in SHAPES]
    made.append(torch.randn(4, 3, 5, 5).to(dtype).contiguous(memory_format=torch.channels_last))
    made.append(torch.randn(7, 5).to(dtype).t())
    made.append(torch.randn(6, 8).to(dtype)[::2, 1::3])
    return made


def assert_steps_agree(dtype: torch.dtype, steps: int = 3, **settings) -> None:
    """The same parameters after some steps; gradients lie in memory unlike their parameters."""
    params = _parameters(dtype)
    reference = [torch.nn.Parameter(p.double().clone()) for p in params]
    reference_optimizer = torch.optim.SGD(reference, lr=0.1, **settings)
    buffers = [torch.full_like(p, float("nan")) for p in params] if settings.get("momentum") else None
    for step in range(steps):
        grads = [
            torch.randn(tuple(reversed(p.shape))).to(dtype).permute(tuple(reversed(range(p.dim())))) for p in params
        ]
        for p, g in zip(reference, grads):
            p.grad = g.double().clone()
        lr = reference_optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        reference_optimizer.step()
        sgd(params, grads, buffers, lr=lr, first=step == 0, **settings)
    for k, (p, r) in enumerate(zip(params, reference)):
        error = (p.double() - r).abs().max() if p.numel() else 0
        assert error <= 4 * steps * EPSILON[dtype] * (1 + (r.abs().max() if p.numel() else 0)), k
        if buffers is not None and p.numel():
            expected = reference_optimizer.state[r]["momentum_buffer"]
            assert (buffers[k].double() - expected).abs().max() <= 4 * steps * EPSILON[dtype] * (
                1 + expected.abs().max()
            )


SETTINGS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.9, "maximize": True, "weight_decay": 0.1},
    {"maximize": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s) or "plain")
def test_agrees_with_torch(settings: dict) -> None:
    assert_steps_agree(torch.float64, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    assert_steps_agree(dtype, momentum=0.9, nesterov=True, weight_decay=0.05)


@pytest.mark.parametrize(
    "config",
    [*optimizer.configs.shipped, Config({"CHUNKS": 4, "BLOCK": 16})],
    ids=lambda c: "-".join(map(str, c.blocks.values())),
)
def test_shipped_configs(config: Config) -> None:
    with optimizer.configs.forced(config):
        assert_steps_agree(torch.float32, steps=2, momentum=0.9, weight_decay=0.1)


def test_float32_steps_are_torchs_to_a_bit_or_two() -> None:
    p, g = torch.randn(1000), torch.randn(1000)
    reference = torch.nn.Parameter(p.clone())
    reference.grad = g.clone()
    torch.optim.SGD([reference], lr=0.1, weight_decay=0.01).step()
    sgd([p], [g], lr=0.1, weight_decay=0.01)
    torch.testing.assert_close(p, reference.detach(), rtol=3e-7, atol=3e-8)


def test_dtypes_in_one_call() -> None:
    """One launch for each dtype."""
    params = [torch.ones(5, dtype=d) for d in (torch.float32, torch.float64, torch.float32, torch.bfloat16)]
    with launch.count() as records:
        sgd(params, [torch.ones_like(p) for p in params], lr=0.5)
    assert [r.kernel for r in records].count("_update_kernel") == 3
    assert all((p == 0.5).all() for p in params)


def test_neighbours_in_memory_are_not_touched() -> None:
    memory = torch.full((3, 100), 7.0)
    params = [memory[1, 10:20], memory[1, 30:31]]
    sgd(params, [torch.ones_like(p) for p in params], lr=1.0)
    expected = torch.full((3, 100), 7.0)
    expected[1, 10:20] = expected[1, 30:31] = 6.0
    assert torch.equal(memory, expected)


def test_nothing_to_update() -> None:
    sgd([], [], lr=0.1)
    sgd([torch.empty(0)], [torch.empty(0)], [torch.empty(0)], lr=0.1, momentum=0.9)


def test_a_new_learning_rate_compiles_nothing() -> None:
    """Settings are arguments, never part of what is compiled."""
    names = optimizer._update_kernel.arg_names
    constant = {names[k] for k in getattr(optimizer._update_kernel, "constexprs", [])}
    assert not constant & {f"w{k}" for k in range(optimizer.WORDS)}
    p = torch.ones(3)
    for lr in itertools.islice(itertools.count(1), 3):
        sgd([p], [torch.ones(3)], lr=lr / 8)
    assert p.tolist() == [0.25] * 3


def test_errors() -> None:
    p = torch.ones(3)
    with pytest.raises(
        ValueError, match="sgd: expected 1 states, and gradients and states for 1 parameters, got 0 grad"
    ):
        sgd([p], [], [p], lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"sgd: expected 1 states, .* got 1 gradients and states \[0\]"):
        sgd([p], [p], [], lr=0.1, momentum=0.9)
    with pytest.raises(RuntimeError, match=r"gradient of parameter 0 to be \(3,\) torch.float32 on cpu, got \(2,\)"):
        sgd([p], [torch.ones(2)], lr=0.1)
    with pytest.raises(RuntimeError, match=r"state 0 of parameter 0 to be .* got .* torch.float64"):
        sgd([p], [p], [p.double()], lr=0.1, momentum=0.9)
    with pytest.raises(TypeError, match=r"descend: expected floating-point parameter 0, got torch.int64"):
        sgd([p.long()], [p.long()], lr=0.1)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_half_copies_follow_in_the_same_launch(half, momentum) -> None:
    device = memory.get_default_device()
    params = [torch.randn(n).to(device) for n in ((5, 7), (30,), (4, 3, 2, 2))]
    grads = [torch.randn(p.shape).to(device) for p in params]
    buffers = [torch.randn(p.shape).to(device) for p in params]
    copies = [torch.full((7, 5), float("nan"), dtype=half, device=device).T, None]
    copies.append(torch.full((4, 3, 2, 2), float("nan"), dtype=half, device=device))
    with launch.count() as records:
        sgd(params, grads, buffers, lr=0.1, momentum=momentum, half_copies=copies)
    assert sum(r.kernel == "_update_kernel" for r in records) == 1
    for p, x in zip(params, copies):
        if x is not None:
            assert torch.equal(x.cpu(), p.cpu().to(half))


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_a_step_that_is_left_out_copies_what_there_is(found) -> None:
    device = memory.get_default_device()
    p, g, b = (torch.randn(7, 5).to(device) for _ in range(3))
    before, copy = p.clone(), torch.full((7, 5), float("nan"), dtype=torch.float16, device=device)
    buffer = b.clone()
    found_inf = torch.tensor(found, device=device)
    sgd([p], [g], [b], lr=0.1, momentum=0.9, half_copies=[copy], found_inf=found_inf)
    assert torch.equal(copy.cpu(), p.cpu().half())
    assert torch.equal(p.cpu(), before.cpu()) == bool(found)
    assert torch.equal(b.cpu(), buffer.cpu()) == bool(found)


@pytest.mark.parametrize("config", optimizer.configs.shipped, ids=lambda c: "-".join(map(str, c.blocks.values())))
@pytest.mark.parametrize("found", [0.0, 1.0])
def test_shipped_configs_with_half_copies(config: Config, found: float) -> None:
    """Tensors that end within a chunk, one without a copy between those that have one."""
    device = memory.get_default_device()
    params = [torch.randn(n).to(device) for n in (config.blocks["BLOCK"] + 3, 5, 3 * config.blocks["BLOCK"], 1)]
    before, states = [p.clone() for p in params], [[torch.zeros_like(p) for p in params] for _ in range(2)]
    copies = [torch.full_like(p, float("nan"), dtype=torch.bfloat16) for p in params]
    given, found_inf = [copies[0], None, *copies[2:]], torch.tensor(found, device=device)
    with optimizer.configs.forced(config):
        numbers = 0.9, 0.99, 1e-8, 0.1, 1.0
        update_rules.adam(params, before, states, numbers, shrink=0.5, found_inf=found_inf, half_copies=given)
    for k, (p, old, copy) in enumerate(zip(params, before, copies)):
        assert torch.equal(p, old) == bool(found)
        assert all(torch.equal(s[k], torch.zeros_like(p)) == bool(found) for s in states)
        assert torch.isnan(copy).all() if k == 1 else torch.equal(copy, p.to(torch.bfloat16))


def test_half_copies_that_do_not_fit() -> None:
    p, x = torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="expected a half copy or None for each of 1 parameters, got 2"):
        sgd([p], [p], lr=0.1, half_copies=[x, x])
    with pytest.raises(RuntimeError, match=r"half copy of parameter 0 to be \(3,\) in one half precision on cpu, got"):
        sgd([p], [p], lr=0.1, half_copies=[torch.zeros(3)])
