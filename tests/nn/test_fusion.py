"""Fused modules: what they give is what they give apart, their state stays, and anything unusual keeps them apart."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import models, nn
from tinyflow.kernels import launch
from tinyflow.models.resnet import BasicBlock, ResNet
from tinyflow.nn import functional as F
from tinyflow.nn import fusion


def modules(bias: bool = False) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv, bn = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d(5)
    with tinyflow.no_grad():
        for values in (bn.weight, bn.bias, bn.running_mean):
            values.normal_()
    return conv, bn


def images(*shape: int) -> tinyflow.Tensor:
    return on_device(torch.randn(shape))


def channels_last(*shape: int) -> tinyflow.Tensor:
    return on_device(torch.randn(shape).contiguous(memory_format=torch.channels_last))


def kernels_of(conv, bn, x, **options) -> set[str]:
    with launch.count() as records, fusion.fused(True):
        F.conv_bn_act(x, conv, bn, **options)
    return {r.kernel for r in records}


def is_fused(conv, bn, x) -> bool:
    return "_normalise_act_kernel" in kernels_of(conv, bn, x)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("act", ["relu", "none"])
@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", "alone"])
def test_equal_to_the_modules_apart(with_residual, act, training, bias) -> None:
    conv, bn = modules(bias)
    conv.train(training), bn.train(training)
    x, residual = images(2, 3, 7, 6), images(2, 5, 4, 3) if with_residual else None
    state = {k: on_cpu(v).clone() for k, v in bn.state_dict().items()}
    results = []
    for fuse in (False, True):
        bn.load_state_dict({k: on_device(v.clone()) for k, v in state.items()})
        for grad in (True, False):
            with fusion.fused(fuse), tinyflow.set_grad_enabled(grad):
                results.append(on_cpu(F.conv_bn_act(x, conv, bn, residual, act)))
        results.extend(on_cpu(v).clone() for v in bn.state_dict().values())
    half = len(results) // 2
    for apart, together in zip(results[:half], results[half:]):
        assert_close(together, apart.double(), 27)


def test_by_default_a_gpu_fuses_and_the_interpreter_where_no_gradient_is_followed() -> None:
    relu = nn.ReLU()
    assert fusion.is_plain(relu) == (tinyflow.get_default_device().type == "cuda")
    with tinyflow.no_grad():
        assert fusion.is_plain(relu)
    with fusion.fused(True):
        assert fusion.is_plain(relu)
        with fusion.fused(False):
            assert not fusion.is_plain(relu)
        assert fusion.is_plain(relu)


def test_hooks_classes_and_methods_of_ones_own_keep_modules_apart() -> None:
    x = images(2, 3, 7, 6)
    conv, bn = modules()
    assert is_fused(conv, bn, x)
    seen: list[str] = []
    for module in (conv, bn):
        for register in (
            lambda m: m.register_forward_hook(lambda *_: seen.append("forward")),
            lambda m: m.register_forward_pre_hook(lambda *_: seen.append("before")),
            lambda m: m.register_full_backward_hook(lambda *_: None),
        ):
            handle = register(module)
            assert not is_fused(conv, bn, x)
            handle.remove()
    assert seen == ["forward", "before"] * 2
    assert is_fused(conv, bn, x)

    class Doubled(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    assert not is_fused(conv, Doubled(5), x)
    conv.forward = lambda x: x.new_zeros((2, 5, 4, 3))  # type: ignore[method-assign]
    assert not is_fused(conv, bn, x)


def test_evaluation_folds_once_until_something_changes() -> None:
    conv, bn = modules()
    conv.eval(), bn.eval()
    x = images(2, 3, 7, 6)
    fold = "_fold_batch_norm_kernel"
    with tinyflow.no_grad():
        assert fold in kernels_of(conv, bn, x)
        assert fold not in kernels_of(conv, bn, x)
        for change in (
            lambda: conv.weight.mul_(2.0),
            lambda: bn.running_var.add_(1.0),
            lambda: bn.load_state_dict(bn.state_dict()),
        ):
            change()
            assert fold in kernels_of(conv, bn, x)
            with fusion.fused(True):
                assert_close(on_cpu(F.conv_bn_act(x, conv, bn)), on_cpu(bn(conv(x)).relu()).double(), 27)
    assert fold not in kernels_of(conv, bn, x)  # a gradient is followed


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_autocast_reaches_fused_products(training) -> None:
    conv, bn = modules()
    conv.train(training), bn.train(training)
    x, residual = images(2, 3, 7, 6), images(2, 5, 4, 3)
    for grad in (True, False):
        with fusion.fused(True), tinyflow.set_grad_enabled(grad):
            exact = F.conv_bn_act(x, conv, bn, residual)
            with tinyflow.autocast(x.device.type, dtype=tinyflow.bfloat16):
                y = F.conv_bn_act(x, conv, bn, residual)
                again = F.conv_bn_act(x.to(tinyflow.bfloat16), conv, bn, residual)
        assert y.dtype == again.dtype == tinyflow.bfloat16
        assert_close(on_cpu(y), on_cpu(exact).double(), 27)
        assert_close(on_cpu(again), on_cpu(exact).double(), 27)


def test_errors() -> None:
    conv, bn = modules()
    with pytest.raises(ValueError, match="expected act 'relu' or 'none', got 'gelu'"):
        F.conv_bn_act(images(2, 3, 7, 6), conv, bn, act="gelu")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_residual_network_is_the_same_fused(name) -> None:
    model = getattr(models, name)(num_classes=3)
    state = {k: on_cpu(v).clone() for k, v in model.state_dict().items()}
    x, target = images(2, 3, 33, 40), on_device(torch.tensor([0, 2]))
    outcomes = []
    for fuse in (False, True):
        model.load_state_dict({k: on_device(v.clone()) for k, v in state.items()})
        model.zero_grad()
        with fusion.fused(fuse), launch.count() as records:
            scores = model(x)
            F.cross_entropy(scores, target).backward()
            model.eval()
            with tinyflow.no_grad():
                evaluated = model(x)
            model.train()
        assert any("normalise" in r.kernel for r in records) == fuse
        outcomes.append(
            [
                [on_cpu(scores), on_cpu(evaluated)],
                {k: on_cpu(p.grad) for k, p in model.named_parameters()},
                {k: on_cpu(v).clone() for k, v in model.state_dict().items()},
            ]
        )
    (values, gradients, kept), (fused_values, fused_gradients, fused_kept) = outcomes
    for mine, theirs in zip(fused_values, values):
        assert_close(mine, theirs.double(), 4096)
    assert list(fused_kept) == list(kept)
    for name in gradients:
        assert_close(fused_gradients[name], gradients[name].double(), 2**16)
    for name in kept:
        assert_close(fused_kept[name], kept[name].double(), 4096)


# ---- the last block and the mean of its maps -------------------------------------------------------------------------

MEAN = "_normalise_mean_kernel"


def kernels_of_mean(conv, bn, pool, *size: int, x: tinyflow.Tensor | None = None) -> set[str]:
    x = images(2, 3, *size) if x is None else x
    residual = images(2, 5, (size[0] + 1) // 2, (size[1] + 1) // 2)
    with launch.count() as records, fusion.fused(True):
        fusion.conv_bn_relu_mean(x, conv, bn, residual, pool)
    return {r.kernel for r in records}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_mean_is_equal_to_the_modules_apart(training) -> None:
    conv, bn, pool = *modules(), nn.AdaptiveAvgPool2d((1, 1))
    conv.train(training), bn.train(training)
    x, residual = images(2, 3, 7, 6), images(2, 5, 4, 3)
    state = {k: on_cpu(v).clone() for k, v in bn.state_dict().items()}
    results = []
    for fuse in (False, True):
        bn.load_state_dict({k: on_device(v.clone()) for k, v in state.items()})
        for grad in (True, False):
            with fusion.fused(fuse), tinyflow.set_grad_enabled(grad):
                results.append(on_cpu(fusion.conv_bn_relu_mean(x, conv, bn, residual, pool)))
        results.extend(on_cpu(v).clone() for v in bn.state_dict().values())
    half = len(results) // 2
    for apart, together in zip(results[:half], results[half:]):
        assert together.shape == apart.shape
        assert_close(together, apart.double(), 27)


def test_what_keeps_a_mean_apart() -> None:
    conv, bn = modules()
    means = [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1))]
    assert all(MEAN in kernels_of_mean(conv, bn, pool, 7, 6) for pool in means)
    others = [nn.AdaptiveAvgPool2d((1, None)), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(1), nn.AvgPool2d((4, 3))]
    assert not any(MEAN in kernels_of_mean(conv, bn, pool, 7, 6) for pool in others)
    assert MEAN not in kernels_of_mean(*modules(bias=True), means[0], 7, 6)
    assert MEAN not in kernels_of_mean(conv, bn, means[0], 66, 64)  # a map of more pixels than a program walks
    for module in (conv, bn, means[0]):
        handle = module.register_forward_hook(lambda *_: None)
        assert MEAN not in kernels_of_mean(conv, bn, means[0], 7, 6)
        handle.remove()
    conv.eval(), bn.eval()
    with tinyflow.no_grad():
        assert MEAN not in kernels_of_mean(conv, bn, means[0], 7, 6)  # weights fold


def test_autocast_reaches_a_mean() -> None:
    conv, bn, pool = *modules(), nn.AdaptiveAvgPool2d(1)
    x, residual = images(2, 3, 7, 6), images(2, 5, 4, 3)
    with fusion.fused(True):
        exact = fusion.conv_bn_relu_mean(x, conv, bn, residual, pool)
        with tinyflow.autocast(x.device.type, dtype=tinyflow.bfloat16):
            y = fusion.conv_bn_relu_mean(x, conv, bn, residual, pool)
    assert y.dtype == tinyflow.bfloat16
    assert_close(on_cpu(y), on_cpu(exact).double(), 27)


def test_few_images_without_a_gradient_are_averaged_and_classified_in_one_launch() -> None:
    x, pool, linear = channels_last(2, 5, 3, 5), nn.AdaptiveAvgPool2d(1), nn.Linear(5, 4)

    def names(x=x, pool=pool, linear=linear) -> list[str]:
        with launch.count() as records, fusion.fused(True):
            fusion.mean_linear(x, pool, linear)
        return [r.kernel for r in records]

    together = ["_mean_linear_kernel"]
    assert names() != together  # the weights' gradient is followed
    with tinyflow.no_grad():
        assert names() == together
        with fusion.fused(True):
            y = fusion.mean_linear(x, pool, linear)
        with fusion.fused(False):
            assert_close(on_cpu(y), on_cpu(fusion.mean_linear(x, pool, linear)).double(), 75)
        assert names(linear=nn.Linear(5, 4, bias=False)) == together
        assert names(x=channels_last(5, 5, 3, 5)) != together  # too many
        assert names(x=images(2, 5, 3, 5)) != together  # to be copied first
        assert names(pool=nn.AdaptiveAvgPool2d((1, 1))) == together
        assert names(x=channels_last(2, 1, 1, 5), pool=nn.AdaptiveAvgPool2d((1, None))) != together
        for module in (pool, linear):
            handle = module.register_forward_hook(lambda *_: None)
            assert names() != together
            handle.remove()
        with tinyflow.autocast(x.device.type, dtype=tinyflow.bfloat16):
            assert names() != together
        with pytest.raises(RuntimeError, match="weight .* does not fit input"):
            fusion.mean_linear(channels_last(2, 3, 3, 5), pool, linear)


@pytest.fixture
def on_meta():
    """Nothing is computed: which launches are made is what matters."""
    tinyflow.set_default_device("meta")
    yield
    tinyflow.set_default_device(None)


def network(*layers: int) -> tuple[ResNet, tinyflow.Tensor]:
    return ResNet(BasicBlock, layers, num_classes=3), tinyflow.empty((2, 3, 33, 40))


def kernels_of_model(model, x) -> set[str]:
    with launch.count() as records, fusion.fused(True):
        model(x)
    return {r.kernel for r in records}


def test_whoever_looks_at_the_last_maps_of_a_network_gets_them(on_meta) -> None:
    model, x = network(1, 1, 1, 2)
    assert MEAN in kernels_of_model(model, x)
    assert MEAN not in kernels_of_model(*network(1, 1, 1, 1))  # the last block has a convolved shortcut

    shapes: list[tuple[int, ...]] = []
    last = model.layer4[-1]
    for module in (model.layer4, last, model.avgpool):
        handle = module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
        assert MEAN not in kernels_of_model(model, x)
        handle.remove()
    assert shapes == [(2, 512, 2, 2), (2, 512, 2, 2), (2, 512, 1, 1)]

    handle = last.relu.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    assert MEAN not in kernels_of_model(model, x)  # the block pools what its modules made one by one
    handle.remove()
    assert shapes.pop() == (2, 512, 2, 2)

    handle = last.register_full_backward_hook(lambda module, grads, outputs: shapes.append(tuple(outputs[0].shape)))
    with fusion.fused(True):
        model(x).sum().backward()
    handle.remove()
    assert shapes.pop() == (2, 512, 2, 2)

    class Watched(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    model.layer4 = Watched(*model.layer4)
    assert MEAN not in kernels_of_model(model, x)
    model.layer4 = nn.Sequential(*model.layer4, nn.Identity())
    assert MEAN not in kernels_of_model(model, x)
    model.layer4 = nn.Sequential()
    model.fc = nn.Linear(256, 3)
    assert MEAN not in kernels_of_model(model, x)


def test_note_of_the_calls_leaves_the_mean_fused(on_meta) -> None:
    model, x = network(1, 1, 1, 2)
    with tinyflow.autograd.ModuleCalls(model) as calls:
        assert MEAN in kernels_of_model(model, x)
    assert {"layer4.1", "fc"} <= {call.name for call in calls}
    with tinyflow.autograd.ModuleCalls(model, fused=False) as calls:
        assert MEAN not in kernels_of_model(model, x)
    assert {"layer4", "layer4.1", "layer4.1.bn2", "avgpool", "fc"} <= {call.name for call in calls}
