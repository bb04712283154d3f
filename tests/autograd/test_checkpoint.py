"""Checkpointing: the same gradients from what is computed again, with the same random numbers, in less memory."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint

import tinyflow
from tests.autograd.test_graph import Live
from tinyflow import autograd, nn
from tinyflow.kernels import memory
from tinyflow.utils.checkpoint import CheckpointError, checkpoint, checkpoint_sequential

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])
REENTRANT = pytest.mark.parametrize("use_reentrant", [False, True])


def leaf(*values: float, m: Any = tinyflow) -> Any:
    return m.tensor(list(values), dtype=m.float64, requires_grad=True)


@BOTH
@REENTRANT
def test_gradients_are_those_of_a_plain_call(m: Any, use_reentrant: bool) -> None:
    w = leaf(2.0, -1.0, m=m)
    runs: list[int] = []

    def part(x: Any, factor: float) -> Any:
        runs.append(1)
        return (x * w).exp() * factor, x * 3

    x = leaf(0.5, 1.0, m=m)
    a, b = m.utils.checkpoint.checkpoint(part, x * 1, 2.0, use_reentrant=use_reentrant)
    (a.sum() + (b * b).sum()).backward()
    assert len(runs) == 2
    xs, ws = np.array([0.5, 1.0]), np.array([2.0, -1.0])
    np.testing.assert_allclose(x.grad.tolist(), 2 * ws * np.exp(xs * ws) + 18 * xs)
    np.testing.assert_allclose(w.grad.tolist(), 2 * xs * np.exp(xs * ws))


@BOTH
def test_higher_derivatives_grad_and_a_kept_graph(m: Any) -> None:
    x = leaf(0.3, m=m)
    y = m.utils.checkpoint.checkpoint(lambda x: x.exp().sin(), x, use_reentrant=False)
    (g,) = m.autograd.grad(y, x, create_graph=True)
    (h,) = m.autograd.grad(g, x, retain_graph=True)
    e = np.exp(0.3)
    np.testing.assert_allclose([g.item(), h.item()], [np.cos(e) * e, np.cos(e) * e - np.sin(e) * e * e])
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.item(), 2 * np.cos(e) * e)


@BOTH
def test_nested(m: Any) -> None:
    check = m.utils.checkpoint.checkpoint
    x = leaf(0.3, m=m)

    def inner(x: Any) -> Any:
        return x.exp().exp()

    def outer(x: Any) -> Any:
        return check(inner, x.sin(), use_reentrant=False).sin()

    y = check(outer, x, use_reentrant=False)
    y.backward()
    s = np.sin(0.3)
    np.testing.assert_allclose(x.grad.item(), np.cos(np.exp(np.exp(s))) * np.exp(np.exp(s)) * np.exp(s) * np.cos(0.3))


@REENTRANT
def test_the_second_run_draws_the_same_random_numbers(use_reentrant: bool) -> None:
    drawn: list[Any] = []

    def part(x: Any) -> Any:
        drawn.append(tinyflow.rand(3).tolist())
        return nn.functional.dropout(x.exp(), 0.5)

    tinyflow.manual_seed(1)
    x = leaf(*[0.1] * 30)
    y = checkpoint(part, x, use_reentrant=use_reentrant)
    state = tinyflow.get_rng_state().tolist()
    y.sum().backward()
    assert drawn[0] == drawn[1] and tinyflow.get_rng_state().tolist() == state
    np.testing.assert_allclose(x.grad.tolist(), y.tolist(), rtol=1e-6)
    y = checkpoint(part, x, use_reentrant=use_reentrant, preserve_rng_state=False)
    y.sum().backward()
    assert drawn[2] != drawn[3]


@BOTH
def test_wrong_calls(m: Any) -> None:
    check = m.utils.checkpoint.checkpoint
    x = leaf(1.0, m=m)
    with pytest.warns(UserWarning, match="use_reentrant parameter should be passed explicitly"):
        check(lambda x: x * 2, x)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
        check(lambda x: x * 2, x.detach(), use_reentrant=True)
    with pytest.raises(ValueError, match="Unexpected keyword arguments: y"):
        check(lambda x, y: x * y, x, y=2, use_reentrant=True)
    with pytest.raises(ValueError, match="`context_fn`.* is only supported when use_reentrant=False"):
        check(lambda x: x * 2, x, use_reentrant=True, context_fn=contextlib.nullcontext)
    with pytest.raises(RuntimeError, match="checkpoint is incompatible with .grad()"):
        m.autograd.grad(check(lambda x: x * 2, x, use_reentrant=True), x)


@BOTH
def test_runs_that_differ(m: Any) -> None:
    check, error = m.utils.checkpoint.checkpoint, m.utils.checkpoint.CheckpointError
    times: list[int] = []

    def fewer(x: Any) -> Any:
        times.append(1)
        return x.exp().exp() if len(times) % 2 else x * 2

    def other_shape(x: Any) -> Any:
        times.append(1)
        return x.exp().sum() if len(times) % 2 else m.cat([x, x]).exp().sum()

    with pytest.raises(error, match="A different number of tensors was saved"):
        check(fewer, leaf(1.0, m=m), use_reentrant=False).backward()
    times.clear()
    with pytest.raises(error, match="have different metadata than during the forward"):
        check(other_shape, leaf(1.0, m=m), use_reentrant=False).backward()


def test_only_what_was_asked_for_is_there() -> None:
    with pytest.raises(NotImplementedError, match="debug=True is not implemented"):
        checkpoint(lambda x: x, leaf(1.0), use_reentrant=False, debug=True)
    with pytest.raises(ValueError, match="determinism_check should be one of"):
        checkpoint(lambda x: x, leaf(1.0), use_reentrant=False, determinism_check="all")
    x = leaf(1.0) * 1
    y = checkpoint(lambda x: x.exp(), x, use_reentrant=False)
    x.add_(1)
    with pytest.raises(RuntimeError, match="checkpoint: an argument has been modified by an inplace operation"):
        y.backward()
    assert issubclass(CheckpointError, RuntimeError)


def test_contexts_of_the_runs() -> None:
    entered: list[str] = []

    @contextlib.contextmanager
    def noted(name: str) -> Any:
        entered.append(name)
        yield

    x = leaf(1.0)
    checkpoint(
        lambda x: x.exp(), x, use_reentrant=False, context_fn=lambda: (noted("first"), noted("second"))
    ).backward()
    assert entered == ["first", "second"]


def test_autocast_is_as_it_was() -> None:
    seen: list[Any] = []

    def part(x: Any, w: Any) -> Any:
        seen.append(tinyflow.is_autocast_enabled("cpu"))
        return (x @ w).exp()

    x, w = (tinyflow.ones(2, 2, requires_grad=True) for _ in range(2))
    with tinyflow.autocast("cpu"):
        y = checkpoint(part, x, w, use_reentrant=False)
    y.float().sum().backward()
    assert seen == [True, True] and not tinyflow.is_autocast_enabled("cpu") and x.grad is not None


def test_the_second_run_stops_early() -> None:
    ends: list[int] = []

    def part(x: Any) -> Any:
        y = x.exp() + 1
        ends.append(1)
        return y

    checkpoint(part, leaf(1.0), use_reentrant=False).backward()
    checkpoint(part, leaf(1.0), use_reentrant=False, early_stop=False).backward()
    assert len(ends) == 1 + 2


@REENTRANT
def test_memory_is_that_of_one_part(use_reentrant: bool) -> None:
    """Four parts that save ten tensors each: one part at a time, and what lies between them."""

    def part(x: Any) -> Any:
        for _ in range(10):
            x = x.exp() * 0.1
        return x

    def peak(checkpointed: bool) -> int:
        x = tinyflow.zeros(1000, requires_grad=True)
        with Live() as live:
            y = x
            for _ in range(4):
                y = checkpoint(part, y, use_reentrant=use_reentrant) if checkpointed else part(y)
            y.sum().backward()
            return live.peak

    size = 4 * 1000
    assert peak(False) >= 40 * size and peak(True) <= (4 + 10 + 5) * size


@BOTH
@REENTRANT
def test_sequential(m: Any, use_reentrant: bool) -> None:
    layers = [m.nn.Linear(3, 3), m.nn.ReLU(), m.nn.Linear(3, 3), m.nn.Tanh(), m.nn.Linear(3, 1)]
    model = m.nn.Sequential(*layers)
    x = m.tensor([[1.0, 2.0, -1.0]], requires_grad=True)
    model(x).sum().backward()
    expected, x.grad = [p.grad.tolist() for p in (x, *model.parameters())], None
    model.zero_grad()
    for given, segments in ((model, 2), (layers, 5), (layers, 1)):
        for p in (x, *model.parameters()):
            p.grad = None
        m.utils.checkpoint.checkpoint_sequential(given, segments, x, use_reentrant=use_reentrant).sum().backward()
        for p, g in zip((x, *model.parameters()), expected):
            np.testing.assert_allclose(p.grad.tolist(), g, rtol=1e-6)


def test_sequential_refuses() -> None:
    with pytest.raises(ValueError, match="between 1 and 2 segments, got 3"):
        checkpoint_sequential([tinyflow.exp, tinyflow.sin], 3, leaf(1.0), use_reentrant=False)
    with pytest.raises(ValueError, match="Unexpected keyword arguments: debug"):
        checkpoint_sequential([tinyflow.exp], 1, leaf(1.0), use_reentrant=False, debug=True)


def test_one_graph_of_checkpointed_and_other_parts_in_autograd_grad() -> None:
    w, x = leaf(3.0), leaf(2.0)
    y = checkpoint(lambda x: x * w, x, use_reentrant=False) * x
    assert [g.item() for g in autograd.grad(y, [x, w])] == [12.0, 4.0]


def test_memory_saving_on_resnet50() -> None:
    """Every residual block checkpointed, counted on memory that holds nothing: less than half of the activations."""
    from tinyflow.models import resnet50

    with memory.default_device_as("meta"):
        model, x = resnet50(), tinyflow.empty(2, 3, 224, 224)

    def step(checkpointed: bool) -> tuple[int, int]:
        """Bytes at the end of the forward pass, and the most there were until the end of the backward pass."""
        for p in model.parameters():
            p.grad = None
        with Live() as live:
            h = model.maxpool(model.relu(model.bn1(model.conv1(x))))
            for block in (b for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for b in stage):
                h = checkpoint(block, h, use_reentrant=False) if checkpointed else block(h)
            y = model.fc(model.avgpool(h).flatten(1)).sum()
            kept = live.now
            y.backward()
            return kept, live.peak

    (plain_kept, plain_peak), (kept, peak) = step(False), step(True)
    gradients = sum(p.nbytes for p in model.parameters())
    assert kept < plain_kept / 2 and peak - gradients < (plain_peak - gradients) / 2
