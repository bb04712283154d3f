"""Functions of ours in torch, and of torch's in ours: values, gradients of two orders, shared memory, errors."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tests.device import on_cpu, on_device
from tinyflow import interop, nn
from tinyflow.autograd import Function, gradcheck, gradgradcheck
from tinyflow.nn import functional as F

DEVICE = tinyflow.get_default_device()


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, device=DEVICE, requires_grad=True)


class Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad_output


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return 2 * x * grad_output


def test_a_kernel_family_of_ours_in_place_in_torch() -> None:
    convolve = interop.to_torch_function(lambda x, w, padding: F.conv2d(x, w, padding=padding))
    x, w = leaf(2, 3, 5, 5), leaf(4, 3, 3, 3)
    y = convolve(x, w, 1)
    expected = torch.nn.functional.conv2d(x, w, padding=1)
    assert_close(y.detach().cpu(), expected.detach().cpu(), 27)
    g = torch.randn_like(y)
    for mine, theirs in zip(torch.autograd.grad(y, (x, w), g), torch.autograd.grad(expected, (x, w), g)):
        assert_close(mine.cpu(), theirs.cpu(), 100)


def test_torch_differentiates_it_twice() -> None:
    mixed = interop.to_torch_function(lambda x, w: ((x @ w).tanh(), x.sum()))
    assert torch.autograd.gradcheck(mixed, (leaf(2, 3), leaf(3, 2)))
    assert torch.autograd.gradgradcheck(mixed, (leaf(2, 3), leaf(3, 2)))
    cube = interop.to_torch_function(Cube)
    assert torch.autograd.gradgradcheck(cube, (leaf(3),))


def test_ours_differentiates_torch_twice() -> None:
    hard = interop.from_torch_function(lambda x, w: (torch.linalg.inv(x @ x.T + 3 * torch.eye(2).to(x)) @ w, x.sum()))
    inputs = [on_device(torch.randn(2, 3, dtype=torch.float64)).requires_grad_() for _ in range(1)]
    inputs.append(on_device(torch.randn(2, 2, dtype=torch.float64)).requires_grad_())
    assert gradcheck(hard, inputs, fast_mode=True)
    assert gradgradcheck(hard, inputs, fast_mode=True)
    square = interop.from_torch_function(Square)
    x = on_device(torch.tensor([3.0, -2.0])).requires_grad_()
    (slope,) = tinyflow.autograd.grad(square(x).sum(), x, create_graph=True)
    (curvature,) = tinyflow.autograd.grad(slope.sum(), x)
    assert slope.tolist() == [6.0, -4.0] and curvature.tolist() == [2.0, 2.0]


def test_memory_is_shared_and_changes_are_noticed() -> None:
    seen = []
    watch = interop.to_torch_function(lambda x: seen.append(x.data_ptr()) or x * x)
    x = leaf(3)
    y = watch(x)
    assert seen == [x.data_ptr()]
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    assert not watch(torch.ones(3, device=DEVICE)).requires_grad


def test_only_what_needs_a_gradient_gets_one() -> None:
    product = interop.to_torch_function(lambda x, n, y: (x * y * n, (x > 0).int()))
    x, y = leaf(3), torch.ones(3, dtype=torch.float64, device=DEVICE)
    values, signs = product(x, 2.0, y)
    assert signs.dtype == torch.int32
    values.sum().backward()
    assert x.grad.tolist() == [2.0] * 3 and y.grad is None
    back = interop.from_torch_function(lambda a, b: (a * b, (a > 0).int()))
    a, b = tinyflow.ones(3, requires_grad=True), tinyflow.ones(3)
    values, signs = back(a, b)
    assert not signs.requires_grad
    values.sum().backward()
    assert a.grad.tolist() == [1.0] * 3 and b.grad is None


def test_outputs_without_a_gradient_have_none_in_torch() -> None:
    split = interop.to_torch_function(lambda x: (x.sin(), x.detach() * 2, x.argmax()))
    x = torch.ones(3, requires_grad=True)
    values, constant, place = split(x.to(DEVICE))
    assert values.requires_grad and not constant.requires_grad and not place.requires_grad
    (values * constant).sum().backward()
    torch.testing.assert_close(x.grad, 2 * torch.ones(3).cos())


def test_lists_of_several_lengths_are_no_batch() -> None:
    with pytest.raises(RuntimeError, match=r"lists of one length, got lengths \[2, 1\]"):
        interop.collate([[1, 2], [3]])


def test_a_torch_model_trains_through_a_layer_of_ours() -> None:
    torch.manual_seed(0)
    first = torch.nn.Linear(4, 8).to(DEVICE)
    last = torch.nn.Linear(8, 1).to(DEVICE)
    gelu = interop.to_torch_function(F.gelu)
    optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], lr=0.1)
    x, y = torch.randn(32, 4, device=DEVICE), torch.randn(32, 1, device=DEVICE)
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.mse_loss(last(gelu(first(x))), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interop.to_torch_function(lambda x: 3)(torch.ones(2)), r"return a tinyflow tensor .* got int"),
        (lambda: interop.from_torch_function(lambda x: [])(tinyflow.ones(2)), r"return a torch tensor .* got list"),
        (lambda: interop.to_torch_function(3), "a function or a subclass of autograd.Function, got int"),
        (lambda: interop.to_torch_function(lambda x: x)(torch.ones(2, dtype=torch.complex64)), "complex64"),
    ],
)
def test_what_does_not_fit_is_named(call, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_parameters_are_shared_without_a_copy() -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(DEVICE)
    ours = interop.share_parameters(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), theirs)
    assert ours[0].weight.data_ptr() == theirs[0].weight.data_ptr()
    x = torch.randn(5, 3)
    assert_close(on_cpu(ours.eval()(on_device(x)).detach()), theirs.eval()(x.to(DEVICE)).detach().cpu().double(), 16)
    ours(on_device(x)).sum().backward()
    tinyflow.optim.SGD(ours.parameters(), lr=0.5).step()
    assert ours[0].bias.tolist() == theirs[0].bias.tolist()
    with pytest.raises(RuntimeError, match=r"only one side has \['0.bias'\]"):
        interop.share_parameters(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.nn.Sequential(
            torch.nn.Linear(3, 4, bias=False), torch.nn.BatchNorm1d(4)))  # fmt: skip
    with pytest.raises(RuntimeError, match=r"expected 'weight' to be \(4, 2\) .* got \(4, 3\)"):
        interop.share_parameters(nn.Linear(2, 4), torch.nn.Linear(3, 4))


def test_autocast_sees_what_torch_writes_to_shared_parameters() -> None:
    """Copies in half precision are not kept of memory that torch may write to unseen, as through ``data``."""
    theirs = torch.nn.Linear(3, 1, bias=False).to(DEVICE)
    ours = interop.share_parameters(nn.Linear(3, 1, bias=False), theirs)
    optimizer = tinyflow.optim.SGD(ours.parameters(), lr=0.1)
    x = tinyflow.ones(1, 3)
    for value in (2.0, 3.0, 4.0):
        theirs.weight.data.fill_(value)
        with tinyflow.autocast(x.device.type, dtype=tinyflow.bfloat16):
            y = ours(x)
        assert y.item() == 3 * value
        y.float().sum().backward()
        optimizer.step()


Example = collections.namedtuple("Example", "image label")


class Examples(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, k: int):
        if k >= 5:
            raise IndexError
        image = tinyflow.full((2, 3), k)
        extra = {"torch": torch.tensor([k]), "numpy": np.array([k, k]), "scalar": np.float64(k), "name": str(k)}
        return Example(image, k), extra


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_of_torch_feeds_us(workers: int) -> None:
    context = {"multiprocessing_context": "spawn"} if workers else {}
    loader = torch.utils.data.DataLoader(
        Examples(), batch_size=2, collate_fn=interop.collate, num_workers=workers, **context
    )
    batches = list(loader)
    assert [len(b[1]["name"]) for b in batches] == [2, 2, 1]
    example, extra = batches[1]
    assert isinstance(example, Example)
    assert example.image[:, 0, 0].tolist() == example.label.tolist() == extra["scalar"].tolist() == [2, 3]
    assert extra["torch"].tolist() == [[2], [3]] and extra["numpy"].tolist() == [[2, 2], [3, 3]]
    assert all(isinstance(x, tinyflow.Tensor) for x in (example.image, example.label, extra["torch"], extra["numpy"]))
    plain = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(4.0)), batch_size=2)
    assert [tinyflow.from_torch(x).sum().item() for (x,) in plain] == [1.0, 5.0]
