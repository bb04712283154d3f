"""The door to torch: allocation, views, bytes; and which views overlap, are dense, reach how far."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyflow.kernels import memory

CPU, META = torch.device("cpu"), torch.device("meta")


def test_empty_tells_of_allocations() -> None:
    seen: list[torch.Tensor] = []
    memory.allocation_hooks.append(seen.append)
    try:
        x = memory.empty((2, 3), torch.float16, CPU)
        y = memory.empty((2, 3), torch.float16, CPU, (1, 2))
    finally:
        memory.allocation_hooks.remove(seen.append)
    assert seen[0] is x and seen[1] is y and y.stride() == (1, 2) and x.dtype == torch.float16


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu"), "meta"])
def test_devices(device: Any) -> None:
    expected = CPU if device is None and not memory.gpu_available() else torch.device(device or "cuda:0")
    assert memory.as_device(device) == expected
    with memory.default_device_as("meta"):
        assert memory.as_device(None) == META
    assert memory.get_default_device() != META
    if not memory.gpu_available():
        with pytest.raises(RuntimeError, match="device 'cuda' was asked for, but torch finds no GPU"):
            memory.as_device("cuda")


@st.composite
def views(draw: Any) -> torch.Tensor:
    x = torch.arange(60.0).reshape(3, 4, 5)
    x = x.permute(*draw(st.permutations(range(3))))
    for dim in range(3):
        start = draw(st.integers(0, x.shape[dim]))
        x = x[(slice(None),) * dim + (slice(start, None, draw(st.integers(1, 2))),)]
    return x.unsqueeze(1).expand(-1, 2, -1, -1) if draw(st.booleans()) else x


@given(views())
def test_extent_and_density(x: torch.Tensor) -> None:
    offsets = [sum(i * s for i, s in zip(index, x.stride())) for index in np.ndindex(*x.shape)]
    assert memory.extent(x) == (max(offsets) + 1 if offsets else 0)
    if offsets:
        assert memory.is_dense(x) == (sorted(offsets) == list(range(len(offsets))))


def test_overlap() -> None:
    x = torch.zeros(10)
    assert memory.may_overlap(x[:5], x[4:]) and not memory.may_overlap(x[:5], x[5:])
    assert not memory.may_overlap(x, torch.zeros(10)) and not memory.may_overlap(x[:0], x)
    assert not memory.may_overlap(torch.zeros(4, device="meta"), torch.zeros(4, device="meta"))
    assert memory.same_storage(x[:2], x[5:]) and not memory.same_storage(x, x.clone())
    assert memory.storage_bytes(x[:2]) == 40


def test_bytes_move_between_equal_layouts() -> None:
    x = torch.randn(3, 4).T
    y = memory.empty(x.shape, x.dtype, CPU, x.stride())
    memory.copy_bytes(y, x)
    assert torch.equal(x, y)
    memory.copy_bytes(torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="expected one dense layout"):
        memory.copy_bytes(torch.zeros(4, 3), x)
    with pytest.raises(ValueError, match="expected one dense layout"):
        memory.copy_bytes(torch.zeros(4)[::2], torch.zeros(4)[::2])
    with pytest.raises(
        ValueError, match=r"expected one shape and dtype, got \(2,\) torch.float32 into \(2,\) torch.float64"
    ):
        memory.copy_bytes(torch.zeros(2, dtype=torch.float64), torch.zeros(2))


def test_devices_change_with_the_layout_kept() -> None:
    x = torch.randn(3, 4).T
    assert memory.to_device(x, CPU) is x and memory.to_host(x) is x
    moved = memory.to_device(x, META)
    assert moved.stride() == x.stride() and moved.device == META
    assert memory.to_list(x) == x.tolist() and memory.item(torch.tensor(2.5)) == 2.5


def test_views_share_memory() -> None:
    x = torch.arange(6.0)[1:]
    assert memory.as_strided(x, (2,), (2,)).tolist() == [1.0, 3.0], "from the view's own first element"
    assert memory.as_strided(x, (2,), (2,), 0).tolist() == [0.0, 2.0]
    assert memory.reinterpret(torch.ones(1), torch.int32).item() == 0x3F800000
    tracked = torch.ones(2, requires_grad=True)
    assert not memory.detach(tracked).requires_grad and memory.detach(tracked).data_ptr() == tracked.data_ptr()
    array = np.zeros(3, np.float32)
    assert np.shares_memory(memory.to_numpy(memory.from_numpy(array)), array)


def test_dense_layouts_only() -> None:
    assert memory.is_strided(torch.zeros(2)) and not memory.is_strided(torch.eye(2).to_sparse())
    assert not memory.is_strided(torch.ones(2, dtype=torch.complex64).conj().imag)


def test_files_are_read_without_running_code(tmp_path: Any) -> None:
    torch.save({"a": [torch.ones(2, requires_grad=True), 3]}, tmp_path / "good.pth")
    loaded = memory.load_saved(str(tmp_path / "good.pth"))
    assert loaded["a"][0].tolist() == [1.0, 1.0] and loaded["a"][1] == 3
    torch.save({"a": print}, tmp_path / "bad.pth")
    with pytest.raises(pickle.UnpicklingError):
        memory.load_saved(str(tmp_path / "bad.pth"))


def test_an_arena_hands_out_parts_that_do_not_overlap() -> None:
    whole = torch.zeros(1024, dtype=torch.uint8)
    arena = memory.Arena(whole)
    first, second = arena.take((3, 2), torch.int64), arena.take((5,), torch.float32)
    assert first is not None and second is not None
    assert (first.shape, first.dtype, second.shape) == ((3, 2), torch.int64, (5,))
    first.fill_(-1), second.fill_(1.0)
    assert (first == -1).all() and (second == 1).all()
    assert first.data_ptr() % 8 == 0 and second.data_ptr() - first.data_ptr() == 256
    assert arena.take((129,), torch.int32) is None  # 512 bytes are left, from where the next part begins
    last = arena.take((128,), torch.int32)
    assert last is not None and last.data_ptr() + 512 == whole.data_ptr() + 1024
    assert arena.take((1,), torch.bool) is None
    assert memory.Arena(whole).take((0, 3), torch.float64).shape == (0, 3)  # type: ignore[union-attr]
