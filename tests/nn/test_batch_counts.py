"""``num_batches_tracked`` is torch's in every mode, and is counted by the launch that updates the running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import models, nn
from tinyflow.autograd.graph import allow_mutation_on_saved_tensors
from tinyflow.kernels import batch_norm as kernels
from tinyflow.kernels import configs, hardware, launch
from tinyflow.kernels.conv2d.statistics import merge_statistics
from tinyflow.nn import functional as F
from tinyflow.nn import fusion

COUNTING = {
    "_merge_statistics_kernel",
    "_batch_norm_statistics_kernel",
    "_batch_norm_finish_statistics_kernel",
}


def walk(bn: Any, batches: list[Any]) -> list[torch.Tensor]:
    """Buffers after training, evaluation, frozen training, and training again."""
    found = []
    for k, x in enumerate(batches):
        bn.train(k != 1)
        if bn.track_running_stats or k == 2:
            bn.track_running_stats = k != 2
        bn(x)
        found += [on_cpu(b).clone() if isinstance(b, tinyflow.Tensor) else b.clone() for b in bn.buffers()]
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": None}, {"momentum": 0.0}, {"track_running_stats": False}], ids=str
)
@pytest.mark.parametrize(("name", "shape"), [("1d", (5, 3)), ("2d", (2, 3, 4, 3)), ("3d", (2, 3, 2, 1, 3))])
def test_buffers_are_those_of_torch(name, shape, settings) -> None:
    batches = [torch.randn(shape, dtype=torch.float64) + k for k in range(5)]
    ours = getattr(nn, f"BatchNorm{name}")(3, **settings).double()
    theirs = getattr(torch.nn, f"BatchNorm{name}")(3, **settings).double()
    found, expected = walk(ours, [on_device(x.clone()) for x in batches]), walk(theirs, batches)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        assert_close(a, b, 64)


def test_an_empty_batch_counts_as_in_torch() -> None:
    ours, theirs = nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    ours(on_device(torch.ones(0, 3, 2, 2))), theirs(torch.ones(0, 3, 2, 2))
    conv = nn.Conv2d(2, 3, 1, bias=False)
    for fuse in (False, True):
        with fusion.fused(fuse):
            F.conv_bn_act(on_device(torch.ones(0, 2, 2, 2)), conv, ours)
    assert theirs.num_batches_tracked.item() == ours.num_batches_tracked.item() - 2 == 1


def fused_calls() -> dict[str, Callable[[tinyflow.Tensor, Any, Any, Any, Any], Any]]:
    def residual(x: tinyflow.Tensor) -> tinyflow.Tensor:
        return tinyflow.ones(x.shape[0], 5, 3, 3)

    pool, mean = nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)
    return {
        "block": lambda x, conv, bn, *_: F.conv_bn_act(x, conv, bn),
        "fork": lambda x, conv, bn, *_: fusion.conv_bn_relu_fork(x, conv, bn),
        "joined": lambda x, conv, bn, *short: fusion.conv_bn_joined(x, conv, bn, x, nn.Sequential(*short)),
        "stem": lambda x, conv, bn, *_: fusion.conv_bn_relu_pool(x, conv, bn, pool),
        "head": lambda x, conv, bn, *_: fusion.conv_bn_relu_mean(x, conv, bn, residual(x), mean),
    }


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", fused_calls())
def test_fused_modules_count_as_those_apart(name, momentum) -> None:
    call = fused_calls()[name]
    x = on_device(torch.randn(2, 4, 3, 3))
    state = []
    conv, short = nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.Conv2d(4, 5, 1, bias=False)
    for fuse in (False, True):
        norms = [nn.BatchNorm2d(5, momentum=momentum) for _ in range(2)]
        with fusion.fused(fuse):
            for training in (True, True, False, True):
                norms[0].train(training), norms[1].train(training)
                call(x, conv, norms[0], short, norms[1])
        state.append([on_cpu(b) for bn in norms for b in bn.buffers()])
        assert [bn.num_batches_tracked.item() for bn in norms] == [3, 3 if name == "joined" else 0]
        assert norms[0].num_batches_tracked._version == norms[0].running_mean._version == 4  # the first is its zero
    for apart, together in zip(*state):
        assert_close(together, apart.double(), 36)


def buffer(x: torch.Tensor) -> torch.Tensor:
    return on_device(x)._data


def counted(run: Callable[[], Any]) -> tuple[set[str], set[int]]:
    """Kernels that are given one whole number in memory, and these numbers."""
    names: set[str] = set()
    numbers: set[int] = set()

    def observe(launched: launch.Launch) -> None:
        for a in launched.args:
            if getattr(a, "dtype", None) == torch.int64 and a.numel() == 1:
                names.add(launched.kernel.__name__)
                numbers.add(id(a))

    with launch.observed(observe):
        run()
    return names, numbers


@pytest.mark.parametrize("fuse", [True, False])
def test_no_launch_of_a_training_step_only_counts(fuse) -> None:
    tinyflow.set_default_device("meta")
    try:
        model, x = models.resnet18(num_classes=3), tinyflow.empty((2, 3, 64, 64))
        with hardware.assumed(capability=(9, 0), multiprocessors=132), configs.planned_for_gpu(), fusion.fused(fuse):
            names, numbers = counted(lambda: model(x).sum().backward())
            assert names and names <= COUNTING and len(numbers) == 20
            assert numbers == {
                id(m.num_batches_tracked._data) for m in model.modules() if isinstance(m, nn.BatchNorm2d)
            }
            model.eval()
            assert counted(lambda: model(x)) == (set(), set())
    finally:
        tinyflow.set_default_device(None)


@pytest.mark.parametrize("shape", [(4, 3), (2100, 3), (0, 3, 2, 2), (4, 0)], ids=str)
def test_the_number_is_one_more_after_one_or_two_launches(shape) -> None:
    number = buffer(torch.tensor([7, 2**40]))
    x = buffer(torch.randn(shape))
    for _ in range(2):
        kernels.batch_norm(x, num_batches=number[:1])
        with configs.planned_for_gpu(), launch.count() as records:
            kernels.batch_norm_statistics(x, num_batches=number[1:])
    assert number.tolist() == [9, 2**40 + 2]
    assert (shape == (2100, 3)) == ("_batch_norm_finish_statistics_kernel" in {r.kernel for r in records})


def test_many_programs_count_once() -> None:
    rows = buffer(torch.ones(2, 3, 20))
    number = buffer(torch.tensor(4))
    merge_statistics(rows, 1e-5, num_batches=number)
    with configs.planned_for_gpu():
        merge_statistics(rows, 1e-5, num_batches=number)
        kernels.batch_norm_statistics(buffer(torch.randn(5, 200)), num_batches=number)
    assert number.item() == 7


def test_what_fails_does_not_count() -> None:
    bn, conv = nn.BatchNorm2d(3), nn.Conv2d(2, 3, 1, bias=False)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        bn(tinyflow.zeros(1, 3, 1, 1))
    with pytest.raises(RuntimeError, match=r"of shape \(4,\) for x"):
        bn(tinyflow.zeros(2, 4, 2, 2))
    with fusion.fused(True), pytest.raises(RuntimeError):
        F.conv_bn_act(tinyflow.zeros(2, 3, 2, 2), conv, bn)
    assert bn.num_batches_tracked.item() == bn.num_batches_tracked._version - 1 == 0
    number = tinyflow.zeros(2, dtype=tinyflow.int64)
    with pytest.raises(RuntimeError, match=r"expected num_batches of one torch.int64, got torch.int64 of shape \(2,\)"):
        kernels.batch_norm(tinyflow.zeros(2, 3)._data, num_batches=number._data)


def test_a_number_that_a_launch_cannot_count_is_counted_apart() -> None:
    bn = nn.BatchNorm1d(3)
    bn.num_batches_tracked = tinyflow.tensor(1, dtype=tinyflow.int32)
    bn(tinyflow.ones(2, 3))
    assert bn.num_batches_tracked.tolist() == 2
    bn.num_batches_tracked = None
    bn(tinyflow.ones(2, 3))


def test_a_number_saved_for_a_gradient_is_seen_to_change() -> None:
    bn, w = nn.BatchNorm1d(3), tinyflow.ones((), requires_grad=True)
    loss = w * (bn.num_batches_tracked + 0) * bn.num_batches_tracked
    before = bn.num_batches_tracked._version
    bn(tinyflow.ones(2, 3))
    assert bn.num_batches_tracked._version == before + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with allow_mutation_on_saved_tensors():
        loss = w * bn.num_batches_tracked
        bn(tinyflow.ones(2, 3))
        loss.backward()
    assert w.grad.item() == 1


def test_a_number_of_inference_stays() -> None:
    with tinyflow.inference_mode():
        bn = nn.BatchNorm1d(3)
        bn(tinyflow.ones(2, 3))
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        bn(tinyflow.ones(2, 3))
    with tinyflow.inference_mode():
        assert bn.num_batches_tracked.item() == 1
