"""Checkpoints: what goes in comes out, bit for bit, and a file that is none is refused in a sentence."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import tinyflow
from tinyflow import serialization
from tinyflow.models import checkpoint
from tinyflow.models.errors import InputError


def same(a: Any, b: Any) -> bool:
    if isinstance(a, tinyflow.Tensor):
        x, y = a.to_torch().cpu(), b.to_torch().cpu()
        return x.dtype == y.dtype and x.shape == y.shape and x.stride() == y.stride() and torch.equal(x, y)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> tinyflow.Tensor:
    return tinyflow.from_torch(torch.randn(shape).to(dtype))


def test_every_kind_of_state_survives(tmp_path: Path) -> None:
    channels_last = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    state = {
        "weights": {"conv1.weight": tinyflow.from_torch(channels_last), "bias": tensor(5)},
        "half": [tensor(3, dtype=torch.float16), tensor(3, dtype=torch.bfloat16), tensor(2, 2, dtype=torch.float64)],
        "integers": tinyflow.from_torch(torch.arange(4)),
        "scalar": tinyflow.from_torch(torch.tensor(7)),
        "empty": tensor(0, 3),
        "optimizer": {"state": {0: {"momentum_buffer": tensor(2)}, 12: {}}, "param_groups": [{"params": [0, 12]}]},
        "betas": (0.9, 0.999),
        "nothing": None,
        "flag": True,
        "text": "naïve $tensor",
        "numbers": [1, -1, 2**70, 0.1, 1e-300, math.inf, math.nan],
        "$odd": {"$tensor": "no tensor"},
    }
    checkpoint.save(tmp_path / "a.safetensors", state)
    assert same(state, checkpoint.load(tmp_path / "a.safetensors"))


def test_other_programs_find_the_tensors_by_their_names(tmp_path: Path) -> None:
    weight = tensor(2, 3)
    checkpoint.save(tmp_path / "a.safetensors", {"weights": {"fc.weight": weight}, "epoch": 3})
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert list(found) == ["weights.fc.weight"]
    assert torch.equal(found["weights.fc.weight"], weight.to_torch())


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"checkpoint: a\.1 is a ndarray; expected tensors, numbers, text or None"):
        checkpoint.save(tmp_path / "a.safetensors", {"a": [1, np.zeros(3)]})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"epoch": 1})

    def fail(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"epoch": 2})
    monkeypatch.undo()
    assert checkpoint.load(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    checkpoint.save(whole, {"weights": {"w": tensor(100)}})
    content = whole.read_bytes()
    (tmp_path / "cut").write_bytes(content[:-10])
    (tmp_path / "header").write_bytes(content[:60])
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("this is not a checkpoint at all")
    serialization.save({"w": tensor(3)}, tmp_path / "tensors")
    serialization.save({}, tmp_path / "future", {"tinyflow": json.dumps({"version": 99, "state": {}})})
    serialization.save({}, tmp_path / "absent", {"tinyflow": json.dumps({"version": 1, "state": {"$tensor": "x"}})})
    serialization.save({}, tmp_path / "list", {"tinyflow": json.dumps({"version": 1, "state": []})})
    serialization.save({}, tmp_path / "json", {"tinyflow": "{"})
    for name, message in (
        ("missing", "does not exist"),
        ("", "is a folder"),
        ("cut", "is not a checkpoint that can be read"),
        ("header", "is not a checkpoint that can be read"),
        ("empty", "is not a checkpoint that can be read"),
        ("text", "is not a checkpoint that can be read"),
        ("tensors", "holds tensors but is no checkpoint"),
        ("future", "checkpoint of version 99; this tinyflow reads version 1"),
        ("absent", "is a damaged checkpoint"),
        ("list", "is a damaged checkpoint"),
        ("json", "is a damaged checkpoint"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoint.load(tmp_path / name)
