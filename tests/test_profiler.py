"""Counting without computing: a model's launches by layer, and the least time that they take."""

from __future__ import annotations

import pytest

import tinyflow
from tinyflow import nn, profiler
from tinyflow.models import info
from tinyflow.models.config import Info
from tinyflow.profiler import Ceilings, Cost, Layer, Record, known_ceilings

BF = 2  # bytes of a bfloat16


def counted(**options: object) -> list[Layer]:
    return info.count(Info(**options))  # type: ignore[arg-type]


def bytes_of(layers: list[Layer]) -> int:
    return profiler.total([r for layer in layers for r in layer.forward + layer.backward]).bytes


def by_name(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


# ---- ResNet18 ----------------------------------------------------------------------------------------------------------


def convolutions() -> list[tuple[int, int, int, int, int, int]]:
    """Input channels, input size, output channels, output size, kernel, stride of each convolution of ResNet18 at 224²."""
    found = [(3, 224, 64, 112, 7, 2)]
    channels, size = 64, 56
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            width, out = 64 << stage, size // stride
            found += [(channels, size, width, out, 3, stride), (width, out, width, out, 3, 1)]
            if channels != width:
                found.append((channels, size, width, out, 1, stride))
            channels, size = width, out
    return found


def eager_step(batch: int) -> int:
    """Bytes of a training step where every operation reads its operands and writes its result, by formula."""
    moved = parameters = 0
    for c, h, k, p, kernel, stride in convolutions():
        x, y, weight = batch * c * h * h * BF, batch * k * p * p * BF, k * c * kernel * kernel * BF
        read = x // stride**2 if kernel == 1 else x
        moved += (read + weight + y) + (y + read + weight)  # forward, weight gradient
        moved += (y + weight + x) if c != 3 else 0  # input gradient, which the image has no need of
        moved += 3 * y + 5 * y  # BatchNorm: statistics, apply; sums, apply
        parameters += k * c * kernel * kernel + 2 * k
    stem = batch * 64 * 112 * 112 * BF
    moved += 2 * stem + 3 * stem  # ReLU both ways
    moved += 2 * (stem + stem // 4 + stem // 8)  # max-pool both ways, with a one-byte index
    for stage in range(4):
        y = batch * (64 << stage) * (56 >> stage) ** 2 * BF
        moved += 2 * (5 * y + 3 * y + 5 * y)  # two blocks: ReLU, addition, ReLU
        entered = y if stage == 0 else 2 * y  # what the stage's first block got
        moved += 3 * entered + 3 * y  # where two gradients of a block's input meet
    last = batch * 512 * 49 * BF
    moved += 2 * last
    parameters += 512 * 1000 + 1000
    return moved + 5 * parameters * BF


def test_a_training_step_moves_what_its_operations_must() -> None:
    step = bytes_of(counted(batch_size=256, image_size=224, train=True, dtype="bfloat16"))
    # besides: partial sums of weight gradients, and the copies of the image that make its few channels a matrix product
    assert eager_step(256) < step < 1.03 * eager_step(256)
    assert 26e9 < step < 27.5e9


def test_inference_moves_what_its_operations_must() -> None:
    layers = counted(batch_size=256, image_size=224, dtype="bfloat16")
    outputs = 256 * sum(k * p * p for _, _, k, p, _, _ in convolutions()) * BF
    normalised = [layer for layer in layers if layer.kind == "BatchNorm2d"]
    assert bytes_of(normalised) == pytest.approx(2 * outputs, rel=1e-3)  # once in, once out: no statistics
    assert not any(layer.backward for layer in layers)
    assert 9.0e9 < bytes_of(layers) < 9.3e9


def test_layers_own_their_gradients() -> None:
    layers = by_name(counted(batch_size=2, image_size=32, train=True))
    forward = {name: profiler.total(layer.forward) for name, layer in layers.items()}
    backward = {name: profiler.total(layer.backward) for name, layer in layers.items()}
    convolution = forward["layer3.0.conv2"].flops
    assert convolution == 2 * 2 * 256 * 2 * 2 * 256 * 9
    assert 2 * convolution <= backward["layer3.0.conv2"].flops <= 2.01 * convolution  # for the input and the weight
    stem = sum(r.cost.flops for r in layers["conv1"].backward if r.kernel == "_weight_grad_kernel")
    assert stem == forward["conv1"].flops  # for the weight alone
    assert not any(r.kernel == "_correlate_kernel" for r in layers["conv1"].backward)
    assert backward["relu"].flops == forward["relu"].flops == 2 * 64 * 16 * 16
    assert {r.kernel for r in layers["bn1"].backward} >= {"_batch_norm_input_grad_kernel"}
    # the loss makes its gradient as it goes
    assert any(r.kernel == "_cross_entropy_kernel" for r in layers["(loss)"].forward)
    assert {r.kernel for r in layers["(loss)"].backward} == {"_pointwise_kernel"}
    assert backward["(optimizer)"] == Cost() and forward["(optimizer)"].flops == 9 * 11_689_512


@pytest.mark.parametrize("fused", [False, True])
def test_every_launch_of_a_step_is_counted_once(fused: bool) -> None:
    layers = counted(model="resnet50", batch_size=2, image_size=32, train=True, fused=fused)
    tinyflow.set_default_device("meta")
    try:
        model = info.build("resnet50", 1000)
        optimizer = tinyflow.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        images, labels = tinyflow.empty((2, 3, 32, 32)), tinyflow.empty((2,), dtype=tinyflow.int64)
        h100 = known_ceilings()["h100"].assumed()
        with h100, nn.fusion.fused(fused), profiler.planned_for_gpu(), profiler.count_launches() as records:
            nn.functional.cross_entropy(model(images), labels).backward()
            before = len(records)
            optimizer.step()
            del records[before:]
            optimizer.step()
    finally:
        tinyflow.set_default_device(None)
    found = [record for layer in layers for record in layer.forward + layer.backward]
    assert len(found) == len(records)
    assert profiler.total(found) == profiler.total(records)
    assert sum(layer.parameters for layer in layers) == 25_557_032


# ---- the least time ----------------------------------------------------------------------------------------------------


def test_floor() -> None:
    """Each launch takes the longer of its two times, which is more than the longer of the two sums."""
    gpu = Ceilings("a GPU", (9, 0), 132, {"bfloat16": 100.0}, 10.0, "")
    records = [Record("a", Cost(1000, 10)), Record("b", Cost(10, 1000))]
    assert gpu.floor(records, "bfloat16") == 10 + 100
    assert gpu.floor([], "bfloat16") == 0
    with pytest.raises(ValueError, match="no rate of float64 was measured on a GPU; known: bfloat16"):
        gpu.floor(records, "float64")


def test_known_ceilings_say_where_they_come_from() -> None:
    known = known_ceilings()
    assert {"h100", "h200"} <= set(known)
    for gpu in known.values():
        assert gpu.device and "measured" in gpu.source
        assert 1e14 < gpu.flops["bfloat16"] < 1e16 and 1e12 < gpu.bandwidth < 1e13
