"""State dictionaries: what they hold, how they load, what does not fit."""

from __future__ import annotations

import pytest
import torch

import tinyflow
from tinyflow import nn


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.fc = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("scratch", tinyflow.zeros(1), persistent=False)


KEYS = [
    "fc.weight",
    "fc.bias",
    "norm.weight",
    "norm.bias",
    "norm.running_mean",
    "norm.running_var",
    "norm.num_batches_tracked",
]


def test_holds_parameters_and_persistent_buffers_in_order():
    net = Net()
    state = net.state_dict()
    assert list(state) == KEYS
    assert list(net.state_dict(prefix="model.")) == ["model." + key for key in KEYS]
    assert not state["fc.weight"].requires_grad
    with tinyflow.no_grad():
        net.fc.weight.fill_(2.0)
    assert state["fc.weight"].tolist() == [[2.0, 2.0]] * 3
    assert net.state_dict(keep_vars=True)["fc.weight"] is net.fc.weight


def test_loading_copies_values_and_keeps_parameters():
    source, target = Net(), Net()
    weight = target.fc.weight
    result = target.load_state_dict(source.state_dict())
    assert repr(result) == "<All keys matched successfully>"
    assert target.fc.weight is weight
    assert weight.tolist() == source.fc.weight.tolist()
    with tinyflow.no_grad():
        source.fc.weight.fill_(9.0)
    assert weight.tolist() != source.fc.weight.tolist()
    assert weight.requires_grad


def test_loading_casts_to_the_dtype_of_the_model():
    target = Net().double()
    target.load_state_dict(Net().state_dict())
    assert target.fc.weight.dtype == tinyflow.float64


def test_loading_into_a_kernel_keeps_its_layout():
    target, source = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3).to(memory_format=tinyflow.contiguous_format)
    target.load_state_dict(source.state_dict())
    assert target.weight.is_contiguous(memory_format=tinyflow.channels_last)
    assert target.weight.tolist() == source.weight.tolist()


def test_assign_takes_the_tensors_themselves():
    target = Net()
    state = Net().double().state_dict()
    target.fc.weight.requires_grad_(False)
    target.load_state_dict(state, assign=True)
    assert target.fc.weight.dtype == tinyflow.float64
    assert target.fc.weight.data_ptr() == state["fc.weight"].data_ptr()
    assert isinstance(target.fc.weight, nn.Parameter)
    assert not target.fc.weight.requires_grad
    assert target.fc.bias.requires_grad
    assert target.norm.running_mean is state["norm.running_mean"]


def test_everything_that_does_not_fit_is_listed():
    state = Net(4).state_dict()
    del state["fc.bias"]
    state["head.weight"] = tinyflow.zeros(1)
    state["fc.extra"] = tinyflow.zeros(1)
    state["norm.bias"] = 3
    with pytest.raises(RuntimeError) as error:
        Net().load_state_dict(state)
    text = str(error.value)
    assert text.startswith("Error(s) in loading state_dict for Net:\n\tMissing key(s)")
    assert 'Missing key(s) in state_dict: "fc.bias". ' in text
    assert 'Unexpected key(s) in state_dict: "head.weight", "fc.extra". ' in text
    assert (
        "size mismatch for fc.weight: copying a param with shape (4, 2) from checkpoint, "
        "the shape in current model is (3, 2)." in text
    )
    assert 'parameter named "norm.bias", expected a tinyflow Tensor, got int' in text


def test_the_keys_of_a_mismatch_are_those_of_torch():
    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(2, 3)
            self.norm = torch.nn.BatchNorm1d(3)

    given = ["fc.weight", "fc", "fc.weight.deeper", "norm.running_mean", "other", "norm.x.y", ""]
    ours = Net().load_state_dict({key: tinyflow.zeros(*shape_of(key)) for key in given}, strict=False)
    theirs = Theirs().load_state_dict({key: torch.zeros(*shape_of(key)) for key in given}, strict=False)
    assert ours.missing_keys == theirs.missing_keys
    assert set(ours.unexpected_keys) == set(theirs.unexpected_keys)
    assert len(ours.unexpected_keys) == len(theirs.unexpected_keys)


def shape_of(key):
    return {"fc.weight": (3, 2), "norm.running_mean": (3,)}.get(key, (1,))


def test_not_strict_reports_and_loads_the_rest():
    net = Net()
    result = net.load_state_dict({"fc.bias": tinyflow.ones(3), "other": tinyflow.ones(1)}, strict=False)
    assert result.unexpected_keys == ["other"]
    assert result.missing_keys == [key for key in KEYS if key not in ("fc.bias", "norm.num_batches_tracked")]
    assert "missing_keys=['fc.weight'" in repr(result)
    assert net.fc.bias.tolist() == [1.0] * 3


def test_a_size_mismatch_is_an_error_even_if_not_strict():
    with pytest.raises(RuntimeError, match=r"size mismatch for fc\.bias"):
        Net().load_state_dict({"fc.bias": tinyflow.ones(4)}, strict=False)


def test_needs_a_mapping():
    with pytest.raises(TypeError, match="expected a mapping of names to tensors, got list"):
        Net().load_state_dict([])


def test_files_from_before_batches_were_counted_load():
    state = Net().state_dict()
    del state["norm.num_batches_tracked"]
    with pytest.raises(RuntimeError, match="num_batches_tracked"):  # this state says that it counts
        Net().load_state_dict(state)
    net = Net()
    net.norm.num_batches_tracked.fill_(7)
    net.load_state_dict(dict(state))  # a plain dictionary, as read from a file, does not say
    assert net.norm.num_batches_tracked.item() == 7


def test_extra_state():
    class WithExtra(nn.Linear):
        def get_extra_state(self):
            return {"calls": self.calls}

        def set_extra_state(self, state):
            self.calls = state["calls"]

    source, target = (nn.Sequential(WithExtra(1, 1)) for _ in range(2))
    source[0].calls, target[0].calls = 5, 0
    state = source.state_dict()
    assert state["0._extra_state"] == {"calls": 5}
    target.load_state_dict(state)
    assert target[0].calls == 5
    del state["0._extra_state"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"0._extra_state"'):
        target.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"0._extra_state"'):
        nn.Sequential(nn.Linear(1, 1)).load_state_dict(source.state_dict())


def test_hooks():
    calls = []
    net = nn.Sequential(nn.Linear(1, 1))
    net.register_state_dict_pre_hook(lambda module, prefix, keep_vars: calls.append(("pre", prefix, keep_vars)))
    net.register_state_dict_post_hook(lambda module, state, prefix, metadata: state.update(added=tinyflow.zeros(1)))
    state = net.state_dict(prefix="")
    assert calls == [("pre", "", False)]
    assert list(state) == ["0.weight", "0.bias", "added"]
    net.register_load_state_dict_pre_hook(lambda module, given, *rest: given.pop("added"))
    handle = net.register_load_state_dict_post_hook(
        lambda module, keys: calls.append(("loaded", list(keys.missing_keys)))
    )
    net.load_state_dict(state)
    assert calls[1:] == [("loaded", [])]
    assert "added" in state  # the caller's dictionary is left alone
    handle.remove()
    net.load_state_dict(state)
    assert len(calls) == 2
