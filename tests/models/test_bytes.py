"""Bytes that a ResNet18 moves at 224², batch 256, in bfloat16 on a GPU with tensor memory: counted, nothing is computed."""

from __future__ import annotations

import pytest

import tinyflow
from tinyflow import models, nn
from tinyflow.kernels import configs, hardware, launch, memory
from tinyflow.nn import fusion
from tinyflow.optim import SGD

#: GB. Of 3.41 in evaluation, 0.82 are the stem's map between convolution and pooling, written and read, and 0.19 the
#: folded image; a stem in one kernel would leave 2.4.
TRAINING_STEP, INFERENCE = 14.8, 3.45


def gigabytes(records: list[launch.Record]) -> float:
    return sum(r.cost.bytes for r in records) / 1e9


@pytest.fixture
def model():
    before = tinyflow.get_default_device()
    tinyflow.set_default_device("meta")
    yield models.resnet18().to(tinyflow.bfloat16)
    memory.set_default_device(before)


def images() -> tinyflow.Tensor:
    return tinyflow.empty((256, 3, 224, 224), dtype=tinyflow.bfloat16, device="meta")


def test_a_training_step(model) -> None:
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, target = images(), tinyflow.empty((256,), dtype=tinyflow.int64, device="meta")

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()

    with hardware.assumed(capability=(9, 0), multiprocessors=132), configs.planned_for_gpu():
        step()  # after which there are momentum buffers
        with launch.count() as records:
            step()
        with launch.count() as apart, fusion.fused(False):
            step()
    assert gigabytes(records) <= TRAINING_STEP
    assert gigabytes(apart) > 1.7 * TRAINING_STEP
    # the only reduction pass of its own is that of the last block, whose gradient comes from the pooling, and those of
    # the shortcuts' normalisations
    assert sum(r.kernel == "_normalise_act_gradient_sums_kernel" for r in records) == 4


def test_inference(model) -> None:
    model.eval()
    with hardware.assumed(capability=(9, 0), multiprocessors=132), configs.planned_for_gpu(), tinyflow.no_grad():
        model(images())  # folds
        with launch.count() as records:
            model(images())
    assert gigabytes(records) <= INFERENCE
    assert not any("normalise_act" in r.kernel or "batch_norm" in r.kernel for r in records)
