"""In and out: numpy, torch, DLPack without a copy; Python numbers; deepcopy and pickle; the meta device."""

from __future__ import annotations

import copy
import operator
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


def test_numpy_shares_memory_both_ways() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2]
    x = tinyflow.from_numpy(array)
    assert x.stride() == (3, 2)
    array[0, 0] = 10
    assert x[0, 0].item() == 10.0
    x[1, 1] = 20
    assert array[1, 1] == 20
    back = x.numpy()
    assert np.shares_memory(back, array) and back.strides == array.strides
    assert np.shares_memory(np.asarray(x), array) and np.asarray(x, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(x), array)
    assert np.shares_memory(tinyflow.as_tensor(array).numpy(), array)
    for dtype in (np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_):
        assert tinyflow.from_numpy(np.ones(2, dtype)).numpy().dtype == dtype


def test_torch_shares_memory_both_ways() -> None:
    theirs = torch.zeros(2, 3, dtype=torch.bfloat16).T.requires_grad_()
    x = tinyflow.from_torch(theirs)
    assert not x.requires_grad and x.stride() == (1, 3) and x.dtype == tinyflow.bfloat16
    x[0, 0] = 5.0
    assert theirs[0, 0].item() == 5.0
    back = (x.requires_grad_() * 1).to_torch()
    assert not back.requires_grad and x.to_torch().data_ptr() == theirs.data_ptr()
    with pytest.raises(TypeError, match="not supported"):
        tinyflow.from_torch(torch.zeros(1, dtype=torch.complex64))


def test_dlpack_shares_memory_both_ways() -> None:
    x = tinyflow.arange(6.0).reshape(2, 3)
    theirs, array = torch.from_dlpack(x.T), np.from_dlpack(x.T)
    theirs[0, 1] = 100
    assert x[1, 0].item() == 100.0 and array[0, 1] == 100
    back = tinyflow.from_dlpack(np.arange(3.0))
    assert back.dtype == tinyflow.float64 and back.tolist() == [0.0, 1.0, 2.0]
    assert tinyflow.from_dlpack(theirs).data_ptr() == x.data_ptr()
    with pytest.raises(BufferError, match="require gradient"):
        torch.from_dlpack(tinyflow.ones(1, requires_grad=True))


def test_numpy_refuses() -> None:
    with pytest.raises(RuntimeError, match=r"requires grad. Use tensor.detach\(\).numpy\(\)"):
        tinyflow.ones(1, requires_grad=True).numpy()
    assert tinyflow.ones(1, requires_grad=True).numpy(force=True).tolist() == [1.0]
    with pytest.raises(TypeError, match="numpy has no bfloat16"):
        tinyflow.ones(1, dtype=tinyflow.bfloat16).numpy()


@BOTH
def test_python_numbers(m: Any) -> None:
    assert m.tensor(2.5).item() == 2.5 and isinstance(m.tensor(2).item(), int) and m.tensor([[True]]).item() is True
    assert m.arange(4).reshape(2, 2).T.tolist() == [[0, 2], [1, 3]] and m.tensor(3).tolist() == 3
    assert m.ones(2, dtype=m.bfloat16).tolist() == [1.0, 1.0]
    assert float(m.tensor(2.5)) == 2.5 and int(m.tensor(2.9)) == 2 and [5, 6, 7][m.tensor(1)] == 6
    assert operator.index(m.tensor([2])) == 2 and bool(m.tensor([0.0])) is False
    assert len(m.zeros(3, 2)) == 3 and [x.tolist() for x in m.arange(4).reshape(2, 2)] == [[0, 1], [2, 3]]
    assert 2.0 in m.tensor([1.0, 2.0]) and 3 not in m.tensor([1, 2])
    with pytest.raises(RuntimeError, match="cannot be converted to Scalar"):
        m.zeros(2).item()
    with pytest.raises(RuntimeError, match="Boolean value of Tensor with more than one value is ambiguous"):
        bool(m.zeros(2))
    with pytest.raises(RuntimeError, match="Boolean value of Tensor with no values is ambiguous"):
        bool(m.zeros(0))
    with pytest.raises(TypeError, match=r"len\(\) of a 0-d tensor"):
        len(m.tensor(1))
    with pytest.raises(TypeError, match="iteration over a 0-d tensor"):
        iter(m.tensor(1))
    with pytest.raises(TypeError, match="only integer tensors of a single element"):
        operator.index(m.tensor(1.0))


def test_numpy_operands() -> None:
    m = tinyflow
    x = m.tensor([1.0, 2.0], dtype=m.float64, requires_grad=True)
    assert (x.detach() * np.array([2.0, 3.0])).tolist() == [2.0, 6.0]
    assert (x * np.float64(2)).dtype == m.float64 and (m.ones(1) * np.float64(2)).dtype == m.float32
    assert (m.ones(1, dtype=m.int64) + np.int64(2)).dtype == m.int64
    assert (x == None) is False and (x != None) is True  # noqa: E711
    with pytest.raises(TypeError):
        x + "a"


def test_an_array_on_the_left_keeps_the_graph() -> None:
    x = tinyflow.tensor([1.0, 2.0], dtype=tinyflow.float64, requires_grad=True)
    y = np.array([2.0, 3.0]) * x
    assert isinstance(y, tinyflow.Tensor) and y.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 3.0]


@BOTH
def test_deepcopy(m: Any) -> None:
    x = m.arange(6.0).reshape(2, 3).T.clone().requires_grad_()
    (x * 2).sum().backward()
    twin, again = copy.deepcopy([x, x])
    assert (
        twin is again
        and twin.is_leaf
        and twin.requires_grad
        and twin.tolist() == x.tolist()
        and twin.stride() == x.stride()
    )
    assert twin.grad.tolist() == x.grad.tolist() and twin.grad.data_ptr() != x.grad.data_ptr()
    with m.no_grad():
        twin.zero_()
    assert x[1, 0].item() == 1.0
    with pytest.raises(RuntimeError, match="graph leaves|created explicitly by the user"):
        copy.deepcopy(x * 2)


def test_pickle() -> None:
    for dtype in (tinyflow.float32, tinyflow.bfloat16, tinyflow.int64, tinyflow.bool):
        x = tinyflow.arange(6).reshape(2, 3).to(dtype).T
        back = pickle.loads(pickle.dumps(x))
        assert (
            back.tolist() == x.tolist()
            and back.dtype == dtype
            and back.stride() == x.stride()
            and not back.requires_grad
        )
    parameter = tinyflow.nn.Parameter(tinyflow.ones(2))
    back = pickle.loads(pickle.dumps(parameter))
    assert type(back) is tinyflow.nn.Parameter and back.requires_grad
    with pytest.raises(RuntimeError, match="leaf"):
        pickle.dumps(parameter * 2)


def test_a_pickled_part_carries_only_itself() -> None:
    assert len(pickle.dumps(tinyflow.zeros(100_000)[:2])) < 2_000


def test_meta_has_shapes_and_no_numbers() -> None:
    x = tinyflow.empty(3, 4, device="meta", requires_grad=True)
    y = (x.T.exp() + 1).sum(0)
    assert y.shape == (3,) and y.device.type == "meta" and y.is_meta and y.requires_grad
    y.sum().backward()
    assert x.grad.shape == (3, 4) and x.grad.device.type == "meta"
    assert x.to(tinyflow.float16).dtype == tinyflow.float16 and tinyflow.ones(2).to("meta").is_meta
    for read in (x.tolist, x.detach().sum().item, x.detach().numpy):
        with pytest.raises((RuntimeError, NotImplementedError, TypeError, ValueError)):
            read()
    with pytest.raises(RuntimeError, match="expected all operands on one device"):
        x + tinyflow.ones(3, 4)


@BOTH
def test_to(m: Any) -> None:
    x = m.ones(2, 3, requires_grad=True)
    assert x.to(m.float32) is x and x.to("cpu") is x and x.to(m.float64).dtype == m.float64
    assert x.to(x.double()).dtype == m.float64 and x.to("cpu", m.float16).dtype == m.float16
    assert x.to(m.float32, copy=True) is not x and x.to(device="cpu", dtype=m.int32).dtype == m.int32
    assert x.half().float().requires_grad and not x.long().requires_grad
    x.double().sum().backward()
    assert x.grad.dtype == m.float32


def test_to_refuses() -> None:
    with pytest.raises(TypeError, match="expected a dtype, a device or a Tensor"):
        tinyflow.ones(1).to(3.5)
    with pytest.raises(TypeError, match="unexpected keyword"):
        tinyflow.ones(1).to("cpu", order=1)
    with pytest.raises(TypeError, match="not supported"):
        tinyflow.ones(1).to(torch.complex64)


@pytest.mark.parametrize(
    "source",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool],
    ids=str,
)
def test_casts(source: torch.dtype) -> None:
    values = (
        torch.tensor([0.0, 1.0, 2.6, -3.7, 100.4]).abs()
        if source == torch.uint8
        else torch.tensor([0.0, 1.0, 2.6, -3.7, 100.4])
    )
    theirs = values.to(source)
    ours = tinyflow.from_torch(theirs)
    for target in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.bool,
    ):
        assert ours.to(target).tolist() == theirs.to(target).tolist(), target
