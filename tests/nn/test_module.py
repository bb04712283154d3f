"""Module: attributes, the tree, modes, memory, text, copies."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import tinyflow
from tinyflow import nn


def fill(net, nn, library):
    """One tree for both libraries: a layer under two names, buffers of both kinds, an absent parameter."""
    net.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    net.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.25))
    net.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.ModuleList([nn.Identity(), nn.Linear(2, 1, bias=False)])})
    net.again = net.heads["a"]
    net.scale = nn.Parameter(library.ones(1))
    net.register_parameter("absent", None)
    net.register_buffer("count", library.zeros(2))
    net.register_buffer("scratch", library.zeros(3), persistent=False)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        fill(self, nn, tinyflow)


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        fill(self, torch.nn, torch)


@pytest.fixture(scope="module")
def nets():
    return Net(), Reference()


@pytest.mark.parametrize("remove_duplicate", [True, False])
@pytest.mark.parametrize("listing", ["named_parameters", "named_buffers", "named_modules"])
def test_the_tree_is_named_as_in_torch(nets, listing, remove_duplicate):
    def names(net):
        return [name for name, _ in getattr(net, listing)(prefix="p", remove_duplicate=remove_duplicate)]

    ours, theirs = (names(net) for net in nets)
    assert ours == theirs
    assert len(ours) > 2


def test_listings_without_names(nets):
    ours, theirs = nets
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    assert [tuple(b.shape) for b in ours.buffers()] == [tuple(b.shape) for b in theirs.buffers()]
    assert [type(m).__name__ for m in ours.children()] == [type(m).__name__ for m in theirs.children()]
    assert len(list(ours.modules())) == len(list(theirs.modules()))
    assert [name for name, _ in ours.named_parameters(recurse=False)] == ["scale"]


def test_repr_is_that_of_torch(nets):
    ours, theirs = nets

    def common(text: str) -> str:
        return text.replace("Reference(", "Net(").replace("affine=True, bias=True", "affine=True")  # new in torch 2.13

    assert common(repr(ours)) == common(repr(theirs))


class TestAttributes:
    def test_a_parameter_a_module_and_a_buffer_register(self):
        module = nn.Module()
        module.weight = nn.Parameter(tinyflow.ones(2))
        module.child = nn.Identity()
        module.register_buffer("b", tinyflow.zeros(1))
        module.plain = tinyflow.zeros(1)
        assert list(module._parameters) == ["weight"]
        assert list(module._modules) == ["child"]
        assert list(module._buffers) == ["b"]
        assert {"weight", "child", "b", "plain"} <= set(dir(module))
        assert "plain" not in module.state_dict()

    def test_a_name_changes_its_kind(self):
        module = nn.Module()
        module.x = 3
        module.x = nn.Parameter(tinyflow.ones(2))
        module.x = nn.Linear(1, 1)
        assert list(module._parameters) == []
        assert isinstance(module.x, nn.Linear)
        module.x = None
        assert module._modules == {"x": None}
        module.x = nn.Parameter(tinyflow.ones(2))
        assert module._modules == {}

    def test_a_buffer_is_replaced_by_a_tensor(self):
        module = nn.Module()
        module.register_buffer("b", tinyflow.zeros(1), persistent=False)
        module.b = tinyflow.ones(1)
        assert module._buffers["b"].tolist() == [1.0]
        assert module.state_dict() == {}
        module.register_buffer("b", tinyflow.zeros(1))
        assert list(module.state_dict()) == ["b"]

    def test_deletion(self):
        module = Net()
        for name in ("scale", "conv", "count"):
            delattr(module, name)
            with pytest.raises(AttributeError, match=f"'Net' object has no attribute '{name}'"):
                getattr(module, name)
        with pytest.raises(AttributeError, match="nothing"):
            del module.nothing

    @pytest.mark.parametrize(
        ("act", "error", "text"),
        [
            (lambda m: setattr(m, "scale", 3), TypeError, "cannot assign 'int' object to parameter 'scale' of Net"),
            (lambda m: setattr(m, "conv", 3), TypeError, "cannot assign 'int' object to child module 'conv'"),
            (lambda m: setattr(m, "count", 3), TypeError, "cannot assign 'int' object to buffer 'count'"),
            (lambda m: m.register_buffer("new", 3), TypeError, "cannot assign 'int' object to buffer 'new'"),
            (lambda m: m.register_parameter("new", tinyflow.ones(1)), TypeError, "'Tensor' object to parameter 'new'"),
            (lambda m: m.register_parameter("forward", None), KeyError, "attribute 'forward' already exists"),
            (lambda m: m.register_buffer("a.b", None), KeyError, "contain .*got: a.b"),
            (lambda m: m.add_module("", None), KeyError, "be empty string"),
            (lambda m: m.add_module(3, None), TypeError, "module name should be a string. Got int"),
            (lambda m: m.add_module("new", 3), TypeError, "int is not a Module subclass"),
            (lambda m: m.train("yes"), ValueError, "expected to be boolean, got 'yes'"),
            (lambda m: m.forward(1), NotImplementedError, r'Module \[Net\] is missing the required "forward" function'),
            (lambda m: m.get_submodule("body.7"), AttributeError, "Sequential has no attribute `7`"),
            (lambda m: m.get_submodule("scale"), AttributeError, "`scale` is not an nn.Module"),
            (lambda m: m.get_parameter("count"), AttributeError, "`count` is not an nn.Parameter"),
            (lambda m: m.get_buffer("body.0.weight"), AttributeError, "`weight` is not a buffer"),
            (lambda m: m.to(tinyflow.int64), TypeError, "only accepts floating point dtypes"),
            (lambda m: m.to(["cpu"]), TypeError, "expected a device, a dtype or a Tensor, got list"),
        ],
    )
    def test_mistakes_say_so(self, act, error, text):
        with pytest.raises(error, match=text):
            act(Net())

    @pytest.mark.parametrize("value", [lambda: nn.Parameter(tinyflow.ones(1)), nn.Identity])
    def test_registration_needs_the_constructor(self, value):
        class Early(nn.Module):
            def __init__(self):
                self.x = value()

        with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
            Early()

    def test_a_computed_tensor_is_no_parameter(self):
        computed = nn.Parameter(tinyflow.ones(1), requires_grad=False)
        computed += tinyflow.ones(1, requires_grad=True)
        with pytest.raises(ValueError, match="cannot assign non-leaf Tensor to parameter 'x'"):
            nn.Module().register_parameter("x", computed)


def test_lookup_by_dotted_name():
    net = Net()
    assert net.get_submodule("") is net
    assert net.get_submodule("heads.b.1") is net.heads["b"][1]
    assert net.get_parameter("heads.a.weight") is net.again.weight
    assert net.get_buffer("body.0.running_var") is net.body[0].running_var


def test_modes_and_switches_reach_all():
    net = Net()
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert all(module.training for module in net.train().modules())
    assert not any(p.requires_grad for p in net.requires_grad_(False).parameters())
    seen = []
    net.apply(lambda module: seen.append(type(module).__name__))
    assert seen[-1] == "Net"
    assert seen[0] == "Conv2d"


def test_zero_grad():
    net = Net()
    for p in net.parameters():
        p.grad = tinyflow.ones_like(p)
    kept = net.scale.grad
    net.zero_grad(set_to_none=False)
    assert net.scale.grad.tolist() == [0.0] == kept.tolist()
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


class TestMemory:
    def test_a_cast_keeps_parameters_and_integers(self):
        net = Net()
        before = list(net.parameters())
        net.scale.grad = tinyflow.ones(1)
        values = net.conv.weight.tolist()
        assert net.double() is net
        assert all(a is b for a, b in zip(before, net.parameters()))
        assert net.conv.weight.dtype == tinyflow.float64
        assert net.scale.grad.dtype == tinyflow.float64
        assert net.count.dtype == tinyflow.float64
        assert net.body[0].num_batches_tracked.dtype == tinyflow.int64
        assert net.conv.weight.tolist() == values
        assert net.conv.weight.is_leaf
        assert net.conv.weight.requires_grad

    @pytest.mark.parametrize(
        ("cast", "dtype"),
        [
            ("half", tinyflow.float16),
            ("bfloat16", tinyflow.bfloat16),
            ("double", tinyflow.float64),
            ("float", tinyflow.float32),
        ],
    )
    def test_casts_by_name(self, cast, dtype):
        layer = getattr(nn.Linear(2, 1).double(), cast)()
        assert layer.weight.dtype == layer.bias.dtype == dtype

    def test_to_takes_what_torch_takes(self):
        layer = nn.Linear(2, 1)
        other = tinyflow.zeros(1, dtype=tinyflow.float64)
        for argument in (
            {"args": (tinyflow.float64,)},
            {"args": ("cpu", tinyflow.float64)},
            {"args": (other,)},
            {"args": ("cpu", tinyflow.float64, True)},
            {"kwargs": {"dtype": tinyflow.float64, "device": "cpu", "non_blocking": True}},
        ):
            layer.float().to(*argument.get("args", ()), **argument.get("kwargs", {}))
            assert layer.weight.dtype == tinyflow.float64
        assert layer.to("meta").weight.device.type == "meta"

    def test_memory_format(self):
        layer = nn.Conv2d(3, 4, 3)
        layer.to(memory_format=tinyflow.contiguous_format)
        assert layer.weight.is_contiguous()
        layer.to(memory_format=tinyflow.channels_last)
        assert layer.weight.is_contiguous(memory_format=tinyflow.channels_last)
        assert not layer.weight.is_contiguous()

    def test_to_empty(self):
        net = Net().to("meta")
        strides = net.conv.weight.stride()
        assert net.to_empty(device="cpu").conv.weight.stride() == strides
        assert all(t.device.type == "cpu" for t in (*net.parameters(), *net.buffers()))


class TestCopies:
    def test_a_deep_copy_shares_nothing(self):
        net = Net()
        other = copy.deepcopy(net)
        with tinyflow.no_grad():
            other.scale.fill_(7.0)
        assert net.scale.tolist() == [1.0]
        assert other.again is other.heads["a"]
        assert isinstance(other.scale, nn.Parameter)
        assert [name for name, _ in other.named_parameters()] == [name for name, _ in net.named_parameters()]

    def test_pickle_keeps_everything(self):
        net = Net().eval()
        other = pickle.loads(pickle.dumps(net))
        assert repr(other) == repr(net)
        assert not other.training
        assert other.conv.weight.tolist() == net.conv.weight.tolist()
        assert other.conv.weight.stride() == net.conv.weight.stride()
        assert list(other.state_dict()) == list(net.state_dict())


def test_a_parameter_is_a_leaf_that_shares_memory():
    data = tinyflow.zeros(2)
    parameter = nn.Parameter(data)
    data.fill_(3.0)
    assert parameter.tolist() == [3.0, 3.0]
    assert parameter.is_leaf
    assert parameter.requires_grad
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    assert repr(parameter).startswith("Parameter containing:\ntensor(")
    assert nn.Parameter().shape == (0,)
    with pytest.raises(RuntimeError, match="floating point"):
        nn.Parameter(tinyflow.zeros(2, dtype=tinyflow.int64))
    with pytest.raises(TypeError, match="expected a Tensor, got a list"):
        nn.Parameter([1.0])
