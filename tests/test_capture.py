"""A captured step does what the step does, call by call; where there is no GPU, a graph of launches stands in for one too.

The stand-in records what a device graph would: kernels with their arguments, and nothing that Python does. So a number
that the host decides reaches a replay only if a kernel reads it from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

import tinyflow
import tinyflow.nn.functional as F
from tinyflow import nn, optim, recording
from tinyflow.amp import GradScaler
from tinyflow.kernels import memory
from tinyflow.nn import fusion
from tinyflow.tensor import Tensor

DEVICE = tinyflow.get_default_device()


class LaunchGraph:
    """Kernel launches and copies that can be made again, for the interpreter."""

    replays = 0

    def __init__(self, device: Any) -> None:
        self._work: list[Callable[[], Any]] = []
        self._pool: list[Any] = []  # memory stays, whose addresses stand in tables

    def warm_up(self, run: Callable[[], None]) -> None:
        run()

    def record(self, run: Callable[[], None]) -> None:
        work, launch, copy, empty = self._work, InterpretedFunction.run, memory.copy_bytes, memory.empty

        def kept(*args: Any, **kwargs: Any) -> Any:
            self._pool.append(empty(*args, **kwargs))
            return self._pool[-1]

        def note_launch(kernel: Any, *args: Any, **kwargs: Any) -> None:
            work.append(lambda: launch(kernel, *args, **kwargs))

        def note_copy(*args: Any) -> None:
            work.append(lambda: copy(*args))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(InterpretedFunction, "run", note_launch)
            patch.setattr(memory, "copy_bytes", note_copy)
            patch.setattr(memory, "empty", kept)
            run()

    def replay(self) -> None:
        LaunchGraph.replays += 1
        for again in self._work:
            again()


@pytest.fixture(params=["as it runs here", "replayed"])
def any_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "replayed":
        if tinyflow.gpu_available():
            pytest.skip("the GPU has the real thing")
        monkeypatch.setattr(memory, "Graph", LaunchGraph)
        monkeypatch.setattr(memory, "records_graphs", lambda d: True)
        monkeypatch.setattr(LaunchGraph, "replays", 0)
    return request.param


Step = Callable[..., Any]
Make = Callable[[], tuple[Step, Callable[[], Any], list[Tensor]]]


def _batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = np.random.default_rng(0)
    return [
        (
            tinyflow.from_numpy(generator.standard_normal((4, 3, 6, 6), dtype=np.float32)).to(DEVICE),
            tinyflow.from_numpy(generator.integers(0, 3, 4)).to(DEVICE),
        )
        for _ in range(count)
    ]


def _training(
    inside: bool = True, scaled: bool = False, amp: bool = False, dropout: float = 0.5
) -> tuple[Step, Callable[[], Any], list[Tensor]]:
    """A step with everything in it, what the host does between two steps, and what the step changes."""
    tinyflow.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).to(DEVICE)  # fmt: skip
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-3, nesterov=True)
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    scaler = GradScaler(DEVICE.type, init_scale=16.0, growth_interval=2, enabled=scaled)

    def step(x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with tinyflow.autocast(DEVICE.type, dtype=tinyflow.bfloat16, enabled=amp):
            logits = model(x)
            loss = F.cross_entropy(logits, labels)
        if inside:
            optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return {"loss": loss, "correct": logits.argmax(1).eq(labels).sum()}

    def between() -> None:
        schedule.step()
        if not inside:
            optimizer.zero_grad(set_to_none=False)

    return step, between, [*model.parameters(), *model.buffers()]


def _losses(step: Step, between: Callable[[], Any], batches: list[Any]) -> list[tuple[float, int]]:
    found = []
    for x, labels in batches:
        y = step(x, labels)
        found.append((y["loss"].item(), y["correct"].item()))
        between()
    return found


@pytest.mark.parametrize(
    "settings",
    [{}, {"inside": False}, {"amp": True}, {"scaled": True}],
    ids=["float32", "gradients kept", "autocast", "scaled"],
)
def test_training_is_the_same_to_the_bit(any_device: str, settings: dict[str, bool]) -> None:
    """Losses, weights and statistics after seven steps, with dropout and a schedule: every call is one step."""
    batches = _batches(7)
    step, between, state = _training(**settings)
    expected = _losses(step, between, batches)
    draws = tinyflow.random.default_generator.get_state().tolist()

    again, between, captured_state = _training(**settings)
    captured = tinyflow.capture(again, *batches[0])
    assert _losses(captured, between, batches) == expected
    assert len({loss for loss, _ in expected}) == 7
    for p, q in zip(captured_state, state):
        assert p.tolist() == q.tolist()
    assert tinyflow.random.default_generator.get_state().tolist() == draws
    assert LaunchGraph.replays == (4 if any_device == "replayed" else 0)


@pytest.mark.parametrize("fuse", [True, False])
def test_every_call_counts_a_batch(any_device: str, fuse: bool) -> None:
    conv, bn = nn.Conv2d(3, 4, 3, bias=False).to(DEVICE), nn.BatchNorm2d(4).to(DEVICE)

    def step(x: Tensor) -> Tensor:
        with fusion.fused(fuse):
            return F.conv_bn_act(x, conv, bn)

    captured = tinyflow.capture(step, _batches(1)[0][0], warm_up=1)
    for k, (x, _) in enumerate(_batches(5)):
        captured(x)
        assert bn.num_batches_tracked.item() == k + 1


def test_outputs_and_inputs_stay_where_they_are(any_device: str) -> None:
    step = tinyflow.capture(lambda x: (x * 2, [x + 1]), tinyflow.zeros(3), warm_up=1)
    places = set()
    for k in range(4):
        y, [z] = step(tinyflow.ones(3) * k)
        assert (y.tolist(), z.tolist()) == ([2.0 * k] * 3, [k + 1.0] * 3)
        places.add((id(y), y.data_ptr(), id(z), z.data_ptr(), step.inputs[0].data_ptr()))
    assert len(places) == 1
    kept = y.clone()
    step(tinyflow.ones(3) * 9)
    assert y.tolist() == [18.0] * 3 and kept.tolist() == [6.0] * 3


def test_the_examples_are_only_looked_at(any_device: str) -> None:
    """Nothing runs before the first call, and the examples keep their values."""
    runs: list[int] = []
    example = tinyflow.ones(2)

    def step(x: Tensor) -> Tensor:
        runs.append(1)
        return x.add_(1)

    captured = tinyflow.capture(step, example)
    assert not runs
    assert captured(example).tolist() == captured(example).tolist() == [2.0, 2.0]
    assert example.tolist() == [1.0, 1.0]


def test_inference(any_device: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).to(DEVICE).eval()

    @tinyflow.no_grad()
    def step(x: Tensor) -> Tensor:
        return model(x)

    captured = tinyflow.capture(step, _batches(1)[0][0], warm_up=1)
    for x, _ in _batches(4):
        y = captured(x)
        assert y.tolist() == step(x).tolist() and not y.requires_grad


def test_weights_changed_outside_are_seen(any_device: str) -> None:
    """A half-precision copy that a region around the step keeps would be an old one."""
    w = tinyflow.ones(2, 2, requires_grad=True)
    with tinyflow.autocast(DEVICE.type, dtype=tinyflow.bfloat16):
        step = tinyflow.capture(lambda x: x @ w, tinyflow.ones(2, 2), warm_up=1)
        for k in (1, 1, 2, 3):  # the second call records
            with tinyflow.no_grad():
                w.fill_(k)
            assert (tinyflow.ones(2, 2) @ w).tolist() == [[2 * k] * 2] * 2  # leaves its cast of w in the cache
            assert step(tinyflow.ones(2, 2)).tolist() == [[2 * k] * 2] * 2


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, g: tinyflow.rand(4, generator=g),
        lambda x, g: tinyflow.randn(4, generator=g) + tinyflow.randn(4, generator=g),
        lambda x, g: tinyflow.randint(0, 1000, (4,), generator=g),
        lambda x, g: tinyflow.randperm(50, generator=g),
        lambda x, g: F.dropout(x, 0.5, generator=g),
        lambda x, g: tinyflow.empty(4).exponential_(generator=g),
        lambda x, g: tinyflow.empty(4).bernoulli_(0.5, generator=g),
    ],
    ids=["uniform", "normal twice", "integers", "permutation", "dropout", "exponential", "bernoulli"],
)
def test_random_numbers_go_on(any_device: str, draw: Callable[..., Tensor]) -> None:
    """Those that the generator would have given eagerly, differing from call to call."""
    generator, same = tinyflow.Generator().manual_seed(-5), tinyflow.Generator().manual_seed(-5)
    x = tinyflow.ones(64)
    step = tinyflow.capture(lambda x: draw(x, generator), x, warm_up=1)
    found = []
    for _ in range(4):
        found.append(step(x).tolist())
        assert found[-1] == draw(x, same).tolist()
    assert len(set(map(tuple, found))) > 1
    assert generator.get_state().tolist() == same.get_state().tolist()


def test_a_seed_set_between_calls_is_heeded(any_device: str) -> None:
    step = tinyflow.capture(lambda: tinyflow.rand(3), warm_up=1)
    first = []
    for _ in range(3):
        tinyflow.manual_seed(11)
        first.append(step().tolist())
        step()
    assert first[0] == first[1] == first[2]


def test_gradients_accumulate_where_nothing_clears_them(any_device: str) -> None:
    w = tinyflow.zeros(2, requires_grad=True)

    def step(x: Tensor) -> None:
        (w * x).sum().backward()

    captured = tinyflow.capture(step, tinyflow.ones(2), warm_up=1)
    for _ in range(4):
        assert captured(tinyflow.ones(2)) is None
    assert w.grad.tolist() == [4.0, 4.0]
    w.grad.zero_()
    captured(tinyflow.ones(2) * 5)
    assert w.grad.tolist() == [5.0, 5.0]


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x * x.sum().item(),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * float(x.sum()),
        lambda x: tinyflow.nonzero(x),
        lambda x: x[x > 0],
        lambda x: tinyflow.tensor(x.tolist()),
        lambda x: tinyflow.from_numpy(x.cpu().numpy()),
        lambda x: [print(x), x][1],
        lambda x: [tinyflow.synchronize(), x][1],
    ],
    ids=["item", "if", "float", "nonzero", "mask", "tolist", "numpy", "print", "synchronize"],
)
def test_reading_on_the_host_is_refused(any_device: str, step: Step) -> None:
    captured = tinyflow.capture(step, tinyflow.ones(3))
    with pytest.raises(RuntimeError, match=r"capture: .* cannot be part of a captured step, which replays without"):
        captured(tinyflow.ones(3))
    assert tinyflow.ones(1).item() == 1


def test_gradients_must_stay(any_device: str) -> None:
    w = tinyflow.ones(2, 3, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)

    def step(x: Tensor) -> None:
        (w * x).sum().backward()
        optimizer.step()

    captured = tinyflow.capture(step, tinyflow.ones(3), warm_up=1)
    for _ in range(3):
        captured(tinyflow.ones(3))
        optimizer.zero_grad(set_to_none=False)
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match=r"gradient of a leaf of shape \(2, 3\) was set to None between two calls"):
        captured(tinyflow.ones(3))
    w.grad = tinyflow.ones(2, 3)
    with pytest.raises(RuntimeError, match="was replaced between two calls"):
        captured(tinyflow.ones(3))


def test_inputs_must_be_like_the_examples(any_device: str) -> None:
    step = tinyflow.capture(lambda x: x + 1, tinyflow.ones(2, 3))
    with pytest.raises(
        ValueError, match=r"input 0 of shape \(2, 3\) and torch.float32, as in the example, got \(3, 2\)"
    ):
        step(tinyflow.ones(3, 2))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and torch.float64; capture the step again"):
        step(tinyflow.ones(2, 3, dtype=tinyflow.float64))
    with pytest.raises(TypeError, match="expected 1 inputs, got 2"):
        step(tinyflow.ones(2, 3), tinyflow.ones(2, 3))
    with pytest.raises(TypeError, match="expected a Tensor as input 0, got int"):
        step(3)
    strided = tinyflow.ones(3, 2).t()
    assert step(strided).tolist() == [[2.0] * 3] * 2


def test_outputs_must_be_tensors_of_one_shape(any_device: str) -> None:
    with pytest.raises(TypeError, match="expected the step to return Tensors, None, .* got float"):
        tinyflow.capture(lambda x: (x, 1.5), tinyflow.ones(2))(tinyflow.ones(2))
    sizes = iter((2, 3))
    step = tinyflow.capture(lambda x: tinyflow.ones(next(sizes)), tinyflow.ones(2))
    step(tinyflow.ones(2))
    with pytest.raises(RuntimeError, match="expected outputs as in the first call, .* shapes must not depend on data"):
        step(tinyflow.ones(2))


def test_after_an_error_the_step_goes_on(any_device: str) -> None:
    """Where it runs, and where it is recorded."""
    for failing in (1, 3):
        runs = iter(range(1, 9))

        def step(x: Tensor, failing: int = failing, runs: Any = runs) -> Tensor:
            if next(runs) == failing:
                raise ZeroDivisionError
            return x + tinyflow.rand(2)

        tinyflow.manual_seed(1)
        expected = [(1 + tinyflow.rand(2)).tolist() for _ in range(4)]
        tinyflow.manual_seed(1)
        captured = tinyflow.capture(step, tinyflow.ones(2), warm_up=2)
        found = []
        for call in range(1, 6):
            if call == failing:
                with pytest.raises(ZeroDivisionError):
                    captured(tinyflow.ones(2))
            else:
                found.append(captured(tinyflow.ones(2)).tolist())
        assert found == expected


def test_wrong_examples() -> None:
    with pytest.raises(TypeError, match="expected Tensors as example inputs, got float as input 1"):
        tinyflow.capture(lambda x, y: x, tinyflow.ones(2), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected example inputs on one device, got .*'cpu', 'meta'"):
        tinyflow.capture(lambda x, y: x, tinyflow.empty(2, device="cpu"), tinyflow.empty(2, device="meta"))
    with pytest.raises(ValueError, match="at least one call to warm up, got 0"):
        tinyflow.capture(lambda x: x, tinyflow.ones(2), warm_up=0)


def test_a_captured_step_within_another(any_device: str) -> None:
    inner = tinyflow.capture(lambda x: x + 1, tinyflow.ones(2))
    outer = tinyflow.capture(lambda x: inner(x), tinyflow.ones(2))
    with pytest.raises(RuntimeError, match="a captured step cannot be part of another one"):
        outer(tinyflow.ones(2))
    assert inner(tinyflow.ones(2)).tolist() == [2.0, 2.0]


def test_a_step_may_read_so_many_numbers_and_no_more(any_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_MOST_WORDS", 4)
    generators = [tinyflow.Generator().manual_seed(k) for k in range(3)]
    step = tinyflow.capture(lambda: [tinyflow.rand(1, generator=g) for g in generators[:2]])
    assert step()[0].tolist() != step()[1].tolist()
    step = tinyflow.capture(lambda: [tinyflow.rand(1, generator=g) for g in generators])
    with pytest.raises(RuntimeError, match="at most 4 numbers that change from replay to replay"):
        step()


def test_torch_sees_memory_operations_only(any_device: str) -> None:
    from tests.memory_only import MemoryOnly

    batches = _batches(5)
    step, between, _ = _training(scaled=True, amp=True)
    with MemoryOnly():
        captured = tinyflow.capture(step, *batches[0])
        _losses(captured, between, batches)
    assert torch.is_grad_enabled()
