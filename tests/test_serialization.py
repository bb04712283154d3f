"""Files of tensors: what goes in comes out, other programs read it, and a file is whole or not there."""

from __future__ import annotations

import os
import stat

import pytest
import safetensors.torch
import torch

import tinyflow
from tests.memory_only import MemoryOnly
from tinyflow import nn, serialization

DTYPES = [tinyflow.float64, tinyflow.float32, tinyflow.float16, tinyflow.bfloat16, tinyflow.int64, tinyflow.bool]


def bits(tensor):
    return tensor.detach().to_torch().contiguous().flatten().view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_layout_round_trips(tmp_path, dtype):
    base = tinyflow.from_torch(torch.arange(24).reshape(2, 3, 4).to(dtype))
    state = {
        "plain": base,
        "transposed": base.transpose(0, 2),
        "scalar": base[0, 0, 1],
        "none": base[:0],
        "a.b": base[1],
    }
    serialization.save(state, tmp_path / "x.safetensors")
    loaded = serialization.load(tmp_path / "x.safetensors")
    assert set(loaded) == set(state)
    for name, tensor in state.items():
        assert loaded[name].dtype == dtype
        assert loaded[name].shape == tensor.shape
        assert bits(loaded[name]) == bits(tensor)


def test_a_model_round_trips_with_shared_weights(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.add_module("again", model[0])
    serialization.save(model.state_dict(), tmp_path / "model.safetensors", {"made": "here"})
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other.add_module("again", other[0])
    other.load_state_dict(serialization.load(tmp_path / "model.safetensors"))
    assert other[0].weight.tolist() == model[0].weight.tolist()
    assert serialization.load_metadata(tmp_path / "model.safetensors") == {"made": "here"}


def test_other_programs_read_it_and_it_reads_theirs(tmp_path):
    values = torch.randn(3, 4)
    serialization.save({"w": tinyflow.from_torch(values)}, tmp_path / "ours.safetensors")
    assert torch.equal(safetensors.torch.load_file(tmp_path / "ours.safetensors")["w"], values)
    safetensors.torch.save_file({"w": values}, tmp_path / "theirs.safetensors")
    assert torch.equal(serialization.load(tmp_path / "theirs.safetensors")["w"].to_torch(), values)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saved_is_read(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(model.state_dict(), tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    loaded = serialization.load(tmp_path / "model.pth")
    for name, value in model.state_dict().items():
        assert loaded[name].tolist() == value.tolist()
        assert not loaded[name].requires_grad
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).load_state_dict(loaded)


def test_torch_only_moves_bytes(tmp_path):
    torch.save({"w": torch.randn(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "theirs.pth")
    with MemoryOnly():
        state = serialization.load(tmp_path / "theirs.pth")
        serialization.save({**state, "t": state["w"].t(), "again": state["w"]}, tmp_path / "ours.safetensors")
        loaded = serialization.load(tmp_path / "ours.safetensors")
    assert loaded["t"].tolist() == state["w"].t().tolist()


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_code_in_a_file_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(1), "x": Attack()}, "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth is damaged, or holds more than tensors, which could run code"):
        serialization.load("bad.pth")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "neither a safetensors file nor one that torch saved"),
        (b"hello, world", "neither a safetensors file nor one that torch saved"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"w":', "is damaged"),
        (b"PK\x03\x04 and nothing more", "is damaged"),
    ],
)
def test_damaged_files_say_so(tmp_path, content, text):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=text):
        serialization.load(tmp_path / "x")


def test_other_content_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a file of tensors .* found none"):
        serialization.load(tmp_path / "absent.pth")
    with pytest.raises(TypeError, match="save: got a object; expected tensors, numbers, text or None"):
        serialization.save(object(), tmp_path / "x")
    with pytest.raises(TypeError, match="save: w.1 is a complex; expected tensors, numbers, text or None"):
        serialization.save({"w": [tinyflow.ones(1), 3j]}, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    for text in ("{", "{}", '{"version": 1, "state": {"$tensor": "w"}}', '{"version": 2, "state": 0}'):
        serialization.save_tensors({}, tmp_path / "x", {"tinyflow": text})
        with pytest.raises(ValueError, match=r"x is damaged|of version 2, expected 1"):
            serialization.load(tmp_path / "x")
    torch.save({"w": torch.ones(1)}, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match="is a file that torch saved, expected a safetensors file"):
        serialization.load_tensors(tmp_path / "theirs.pth")


def test_a_nest_goes_as_in_torch(tmp_path):
    """Model, optimiser and numbers in one dictionary, as training programs save them."""
    model = nn.Linear(3, 2)
    optimizer = tinyflow.optim.Adam(model.parameters(), lr=0.1)
    model(tinyflow.ones(4, 3)).sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": (0.5, None, ["a"])}
    saved["model.weight"] = model.weight  # the path of another tensor
    tinyflow.save(saved, tmp_path / "all.ckpt")
    loaded = tinyflow.load(tmp_path / "all.ckpt")
    assert list(loaded) == list(saved) and loaded["epoch"] == 3 and loaded["best"] == (0.5, None, ["a"])
    other = nn.Linear(3, 2)
    again = tinyflow.optim.Adam(other.parameters(), lr=0.5)
    other.load_state_dict(loaded["model"])
    again.load_state_dict(loaded["optimizer"])
    assert other.weight.tolist() == model.weight.tolist() == loaded["model.weight"].tolist()
    assert again.param_groups[0]["lr"] == 0.1 and again.state[other.weight]["step"] == 1
    assert again.state[other.weight]["exp_avg"].tolist() == optimizer.state[model.weight]["exp_avg"].tolist()
    tinyflow.save([tinyflow.ones(1), 2], tmp_path / "list")
    assert [x if isinstance(x, int) else x.tolist() for x in tinyflow.load(tmp_path / "list")] == [[1.0], 2]


def test_a_nest_that_torch_saved(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": layer.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "all.pth")
    loaded = tinyflow.load(tmp_path / "all.pth")
    ours = nn.Linear(3, 2)
    ours.load_state_dict(loaded["model"])
    mine = tinyflow.optim.Adam(ours.parameters())
    mine.load_state_dict(loaded["optimizer"])
    assert loaded["epoch"] == 3 and ours.bias.tolist() == layer.bias.tolist()
    assert mine.state[ours.weight]["exp_avg_sq"].tolist() == optimizer.state[layer.weight]["exp_avg_sq"].tolist()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "deep" / "file"
    with serialization.replacing(path) as unfinished:
        unfinished.write_text("old")

    def fail():
        with serialization.replacing(path) as unfinished:
            unfinished.write_text("new, but not")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("x")
    with serialization.replacing(tmp_path / "ours") as unfinished:
        unfinished.write_text("x")
    ours, usual = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "usual"))
    assert ours == usual
