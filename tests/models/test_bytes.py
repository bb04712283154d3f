"""Bytes that a ResNet18 moves at 224², batch 256, in bfloat16 on a GPU with tensor memory: counted, nothing is computed."""

from __future__ import annotations

import pytest

import tinyflow
from tinyflow import models, nn, profiler
from tinyflow.kernels import configs, hardware, launch, memory
from tinyflow.models import info
from tinyflow.models.config import Info
from tinyflow.nn import fusion
from tinyflow.optim import SGD

#: GB.
TRAINING_STEP, INFERENCE = 14.8, 2.3


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
    # the only reduction passes of their own are those of the shortcuts' normalisations
    names = [r.kernel for r in records]
    assert names.count("_normalise_act_gradient_sums_kernel") == 3
    # the last map and its gradient are never written, nor read to be averaged
    end = names.index("_normalise_mean_kernel")
    assert names[end + 1] == "_matmul_kernel" and names.count("_normalise_mean_input_grad_kernel") == 1
    assert not {"_pool2d_input_grad_kernel", "_avg_pool2d_kernel"} & set(names)


def test_autocast_does_not_write_a_copy_of_the_image(model) -> None:
    """A float32 batch costs what is more to read of it, and no launch."""
    model.to(tinyflow.float32)
    target, counted = tinyflow.empty((256,), dtype=tinyflow.int64, device="meta"), []
    for x in (images().float(), images()):
        model.zero_grad()
        on_gpu = hardware.assumed(capability=(9, 0), multiprocessors=132)
        with on_gpu, configs.planned_for_gpu(), launch.count() as records:
            with tinyflow.autocast("meta", dtype=tinyflow.bfloat16):
                loss = nn.functional.cross_entropy(model(x), target)
            loss.backward()
        counted.append(records)
    wide, half = ([r.kernel for r in records] for records in counted)
    assert wide == half
    assert gigabytes(counted[0]) - gigabytes(counted[1]) == pytest.approx(2 * 256 * 3 * 224 * 224 / 1e9)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "parts"])
def test_autocast_casts_no_gradient_of_a_weight(model, fused) -> None:
    """It launches what half precision does, and besides what brings the logits' gradient from the loss to them."""
    x, target, counted = images(), tinyflow.empty((256,), dtype=tinyflow.int64, device="meta"), []
    for dtype in (tinyflow.bfloat16, tinyflow.float32):
        model.zero_grad()
        model.to(dtype)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.float()
        on_gpu = hardware.assumed(capability=(9, 0), multiprocessors=132)
        with on_gpu, configs.planned_for_gpu(), fusion.fused(fused):
            with tinyflow.autocast("meta", dtype=tinyflow.bfloat16, enabled=dtype == tinyflow.float32):
                loss = nn.functional.cross_entropy(model(x), target)
            with launch.count() as records:
                loss.backward()
        counted.append([r.kernel for r in records])
    half, mixed = counted
    mixed.remove("_pointwise_kernel")
    assert mixed == half


@pytest.mark.parametrize(("train", "limit"), [(True, TRAINING_STEP), (False, INFERENCE)], ids=["training", "inference"])
def test_the_program_counts_the_same(train, limit) -> None:
    """``tinyflow info`` looks on at a step without changing what it launches."""
    layers = info.count(Info(batch_size=256, image_size=224, train=train, dtype="bfloat16", fused=True))
    counted = sum(profiler.total(layer.forward).bytes + profiler.total(layer.backward).bytes for layer in layers) / 1e9
    assert counted <= limit


def test_inference(model) -> None:
    model.eval()
    with hardware.assumed(capability=(9, 0), multiprocessors=132), configs.planned_for_gpu(), tinyflow.no_grad():
        model(images())  # folds
        with launch.count() as records:
            model(images())
    assert gigabytes(records) <= INFERENCE
    # the stem is one launch, and so is each of 16 convolutions; those of three shortcuts have none of their own
    names = [r.kernel for r in records]
    layer1, others = ["_row_conv2d_kernel"] * 4, ["_box_conv2d_kernel"] * 12
    assert names == ["_pooled_stem_kernel", *layer1, *others, "_reduce_kernel", "_matmul_kernel"]
    assert not any("normalise_act" in r.kernel or "batch_norm" in r.kernel for r in records)
