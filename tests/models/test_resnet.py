"""ResNets: names and shapes of torchvision's parameters, initial values, and a training run equal to torch's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

import tinyflow
from tests.device import on_cpu, on_device
from tinyflow import models, nn
from tinyflow.models.resnet import BasicBlock, Bottleneck, ResNet
from tinyflow.optim import SGD
from tinyflow.serialization import save

#: Published numbers of parameters, and what decides them: blocks, whether bottlenecks, width and groups.
VARIANTS = {
    "resnet18": (11_689_512, (2, 2, 2, 2), False, 64, 1),
    "resnet34": (21_797_672, (3, 4, 6, 3), False, 64, 1),
    "resnet50": (25_557_032, (3, 4, 6, 3), True, 64, 1),
    "resnet101": (44_549_160, (3, 4, 23, 3), True, 64, 1),
    "resnet152": (60_192_808, (3, 8, 36, 3), True, 64, 1),
    "resnext50_32x4d": (25_028_904, (3, 4, 6, 3), True, 4, 32),
    "resnext101_32x8d": (88_791_336, (3, 4, 23, 3), True, 8, 32),
    "resnext101_64x4d": (83_455_272, (3, 4, 23, 3), True, 4, 64),
    "wide_resnet50_2": (68_883_240, (3, 4, 6, 3), True, 128, 1),
    "wide_resnet101_2": (126_886_696, (3, 4, 23, 3), True, 128, 1),
}


def normalisation(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for what in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{what}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def expected_state(blocks, bottleneck, width, groups, classes=1000):
    """Names and shapes, in order, from the papers' tables and torchvision's names."""
    yield "conv1.weight", (64, 3, 7, 7)
    yield from normalisation("bn1", 64)
    channels = 64
    for layer, count in enumerate(blocks):
        planes = 64 * 2**layer
        inner = planes * width // 64 * groups
        out = planes * (4 if bottleneck else 1)
        for k in range(count):
            name = f"layer{layer + 1}.{k}"
            if bottleneck:
                shapes = [(inner, channels, 1, 1), (inner, inner // groups, 3, 3), (out, inner, 1, 1)]
            else:
                shapes = [(planes, channels, 3, 3), (planes, planes, 3, 3)]
            for j, shape in enumerate(shapes, 1):
                yield f"{name}.conv{j}.weight", shape
                yield from normalisation(f"{name}.bn{j}", shape[0])
            if k == 0 and (layer > 0 or bottleneck):
                yield f"{name}.downsample.0.weight", (out, channels, 1, 1)
                yield from normalisation(f"{name}.downsample.1", out)
            channels = out
    yield "fc.weight", (classes, channels)
    yield "fc.bias", (classes,)


@pytest.fixture
def on_meta():
    """Models without memory: only names and shapes matter."""
    tinyflow.set_default_device("meta")
    yield
    tinyflow.set_default_device(None)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_those_of_torchvision(on_meta, name):
    count, *architecture = VARIANTS[name]
    model = getattr(models, name)()
    state = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    assert state == list(expected_state(*architecture))
    assert sum(p.numel() for p in model.parameters()) == count


def test_settings_reach_the_model(on_meta):
    assert models.resnet18(num_classes=7).fc.weight.shape == (7, 512)
    dilated = models.resnet50(replace_stride_with_dilation=(False, True, True))
    assert [dilated.layer3[0].conv2.dilation, dilated.layer3[1].conv2.dilation] == [(1, 1), (2, 2)]
    assert dilated.layer4[2].conv2.dilation == (4, 4)
    assert dilated(tinyflow.empty(1, 3, 64, 64)).shape == (1, 1000)
    assert dilated.layer4(dilated.layer3(tinyflow.empty(1, 512, 8, 8))).shape == (1, 2048, 8, 8)
    seen = []
    models.resnet18(norm_layer=lambda channels: seen.append(channels) or nn.BatchNorm2d(channels))
    assert len(seen) == 20
    assert "resnet152" in dir(models)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 224)])
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_any_image_size_gives_class_scores(on_meta, name, size):
    assert getattr(models, name)()(tinyflow.empty(2, 3, *size)).shape == (2, 1000)


def test_initial_values():
    tinyflow.manual_seed(0)
    model = models.resnet18(num_classes=10)
    for name, parameter in model.named_parameters():
        values = on_cpu(parameter).double()
        if values.dim() == 4:
            fan_out = values.shape[0] * values.shape[2] * values.shape[3]
            assert values.std() == pytest.approx(math.sqrt(2 / fan_out), rel=0.04), name
        elif name.startswith("fc"):
            assert values.abs().max() <= 1 / math.sqrt(512)
        else:
            assert values.unique().tolist() == [1.0 if name.endswith("weight") else 0.0]
    assert all(block.bn2.weight.tolist()[0] == 1.0 for block in model.layer1)


@pytest.mark.parametrize(("block", "last"), [(BasicBlock, "bn2"), (Bottleneck, "bn3")])
def test_residuals_may_start_at_zero(block, last):
    model = ResNet(block, (1, 1, 1, 1), num_classes=2, zero_init_residual=True, width_per_group=64)
    for layer in (model.layer1, model.layer2):
        assert set(getattr(layer[0], last).weight.tolist()) == {0.0}
        assert set(layer[0].bn1.weight.tolist()) == {1.0}


def reference_scores(state, x):
    """ResNet18 in evaluation of training statistics, in torch's own operations, from a state by name."""

    def norm(x, name):
        state[f"{name}.num_batches_tracked"] += 1
        running = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        return F.batch_norm(x, *running, state[f"{name}.weight"], state[f"{name}.bias"], training=True)

    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(F.relu(norm(y, f"{name}.bn1")), state[f"{name}.conv2.weight"], padding=1)
            y = norm(y, f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


#: Relative errors allowed for the loss, for gradients, and for the state after three steps. A rectifier whose input is
#: within rounding of zero may open on one side and not on the other; in float32 that happens, to torch too, and moves
#: gradients by about a percent. In float64 it does not. A GPU may round float32 factors to ten bits (TF32).
TOLERANCES = {torch.float64: (1e-12, 1e-11, 1e-11), torch.float32: (1e-5, 5e-2, 5e-2)}
TF32_LOSS = 1e-2


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_three_steps_of_training_are_those_of_torch(dtype):
    """Loss, every gradient, and every parameter and statistic after three steps, against torch in float64."""
    tinyflow.manual_seed(1)
    for_loss, for_gradients, for_state = TOLERANCES[dtype]
    model = models.resnet18(num_classes=5).to(dtype)
    if model.fc.weight.is_cuda and dtype == torch.float32:
        for_loss = TF32_LOSS
    state = {name: on_cpu(value).clone() for name, value in model.state_dict().items()}
    state = {name: value.double() if value.dtype.is_floating_point else value for name, value in state.items()}
    learnt = [state[name].requires_grad_() for name, _ in model.named_parameters()]
    settings = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}
    ours, theirs = SGD(model.parameters(), **settings), torch.optim.SGD(learnt, **settings)
    for step in range(3):
        x, target = torch.randn(4, 3, 64, 64).to(dtype), torch.tensor([step, 1, 4, 2])
        ours.zero_grad(), theirs.zero_grad()
        loss = nn.CrossEntropyLoss()(model(on_device(x)), on_device(target))
        loss.backward()
        expected = F.cross_entropy(reference_scores(state, x.double()), target)
        expected.backward()
        if step == 0:
            assert loss.item() == pytest.approx(expected.item(), rel=for_loss)
            for (name, p), q in zip(model.named_parameters(), learnt):
                assert relative_error(p.grad, q.grad) <= for_gradients, name
        ours.step(), theirs.step()
    for name, value in model.state_dict().items():
        assert relative_error(value, state[name].detach()) <= for_state, name


def relative_error(ours, theirs):
    """In the Euclidean norm: single elements near zero carry the rounding of the whole layer."""
    ours, theirs = on_cpu(ours).double(), theirs.double()
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Weights of a small file: a resnet18 for three classes."""
    tinyflow.manual_seed(2)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    model = models.resnet18(num_classes=3)
    save(model.state_dict(), path)
    torch.save({k: on_cpu(v).clone() for k, v in model.state_dict().items()}, path.with_suffix(".pth"))
    return path, model


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(saved, suffix):
    path, source = saved
    model = models.resnet18(weights=path.with_suffix(suffix))
    for name, value in model.state_dict().items():
        assert value.tolist() == source.state_dict()[name].tolist(), name
        break
    assert model.fc.out_features == 3
    assert model.layer4[1].bn2.bias.tolist() == source.layer4[1].bn2.bias.tolist()
    assert model.fc.weight.tolist() == source.fc.weight.tolist()


def test_weights_of_another_architecture_or_number_of_classes_say_so(saved):
    path, _ = saved
    with pytest.raises(ValueError, match=r"resnet18: num_classes=10, but the weights .* are for 3 classes"):
        models.resnet18(weights=path, num_classes=10)
    with pytest.raises(RuntimeError, match=r"loading state_dict for ResNet:\n\tMissing key.*\"layer1.2.conv1.weight\""):
        models.resnet34(weights=path)


def test_pretrained_asks_for_the_published_weights(saved, monkeypatch):
    from tinyflow.models import weights

    asked = []
    monkeypatch.setattr(weights, "published_file", lambda name, progress: asked.append((name, progress)) or saved[0])
    by_name = {"weights": models.ResNet18_Weights.DEFAULT}
    for arguments in ({"pretrained": True}, {"weights": "IMAGENET1K_V1", "progress": False}, by_name):
        assert models.resnet18(**arguments).fc.out_features == 3
    assert asked == [("resnet18", True), ("resnet18", False), ("resnet18", True)]


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: models.alexnet, AttributeError, "module 'tinyflow.models' has no attribute 'alexnet'"),
        (lambda: ResNet(BasicBlock, (1, 1, 1, 1), groups=2), ValueError, "groups=1 and base_width=64, got 2 and 64"),
        (
            lambda: models.resnet18(replace_stride_with_dilation=(False, False, True)),
            NotImplementedError,
            "Dilation > 1 not supported in BasicBlock, got 2",
        ),
        (lambda: models.resnet50(replace_stride_with_dilation=(True,)), ValueError, r"3-element tuple, got \(True,\)"),
    ],
)
def test_mistakes_say_so(on_meta, act, error, text):
    with pytest.raises(error, match=text):
        act()
