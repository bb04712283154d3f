"""Products of matrices and vectors: what the table of cases does not say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import tinyflow
from tests.closeness import assert_close
from tinyflow.kernels.precision import tf32
from tinyflow.ops import matmul as ops


@pytest.fixture(autouse=True)
def _exact_products_on_the_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tf32, "convolution", False)
    with torch.device(tinyflow.get_default_device()):
        yield


def ones(*shape: int) -> tinyflow.Tensor:
    return tinyflow.from_torch(torch.ones(shape))


def test_operator_and_methods() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 4)
    x, y = tinyflow.from_torch(a), tinyflow.from_torch(b)
    for product in (x @ y, x.matmul(y), x.mm(y), tinyflow.matmul(x, y)):
        assert_close(product.to_torch(), a.double() @ b.double(), 5)


def test_a_shared_matrix_gets_one_gradient_product() -> None:
    """Not a batch of products that is summed afterwards, which would take the batch's multiple of memory."""
    from tinyflow.kernels import launch

    x, weight = torch.randn(6, 7, 5), torch.randn(4, 5)
    leaf = tinyflow.from_torch(weight).requires_grad_()
    y = ops.linear(tinyflow.from_torch(x), leaf)
    with launch.count() as records:
        (grad,) = tinyflow.autograd.grad(y, [leaf], tinyflow.from_torch(torch.ones(6, 7, 4)))
    assert [r.kernel for r in records if "matmul" in r.kernel] == ["_matmul_kernel"]
    assert sum(r.cost.flops for r in records) == 2 * 6 * 7 * 5 * 4
    assert_close(grad.to_torch(), torch.einsum("abo,abi->oi", torch.ones(6, 7, 4).double(), x.double()), 42)


def test_addmm_ignores_an_unread_input() -> None:
    y = ops.addmm(tinyflow.from_torch(torch.full((2, 2), float("nan"))), ones(2, 3), ones(3, 2), beta=0)
    assert torch.equal(y.to_torch(), torch.full((2, 2), 3.0))


def test_integers() -> None:
    a, b = torch.arange(6).reshape(2, 3), torch.arange(12).reshape(3, 4)
    product = ops.matmul(tinyflow.from_torch(a), tinyflow.from_torch(b)).to_torch()
    assert torch.equal(product.cpu(), a.cpu() @ b.cpu())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.matmul(ones(), ones(3)), r"1 or more dimensions, got \(\) and \(3,\)"),
        (lambda: ops.matmul(ones(2, 3), ones(4, 5)), r"shapes \(2, 3\) and \(4, 5\) do not fit: .* got 3 and 4"),
        (lambda: ops.matmul(ones(3), ones(4)), r"shapes \(3,\) and \(4,\) do not fit"),
        (
            lambda: ops.mm(ones(2, 2, 3), ones(3, 4)),
            r"mm: expected tensors of 2 and 2 dimensions, got shapes \(2, 2, 3\)",
        ),
        (lambda: ops.bmm(ones(2, 2, 3), ones(1, 3, 4)), r"bmm: expected one batch size, got shapes \(2, 2, 3\) and"),
        (lambda: ops.mv(ones(2, 3), ones(3, 1)), r"mv: expected tensors of 2 and 1 dimensions"),
        (lambda: ops.dot(ones(2), ones(2, 1)), r"dot: expected tensors of 1 and 1 dimensions"),
        (lambda: ops.addmm(ones(2), ones(3), ones(3, 2)), r"addmm: expected tensors of 2 and 2 dimensions"),
        (lambda: ops.addmm(ones(3), ones(4, 5), ones(5, 2)), r"shapes .* do not broadcast"),
        (lambda: ops.linear(ones(2, 3), ones(5, 4)), r"linear: weight \(5, 4\) does not fit input \(2, 3\)"),
        (lambda: ops.linear(ones(2, 3), ones(5, 3), ones(4)), r"weight \(5, 3\) and bias \(4,\)"),
        (lambda: ops.linear(ones(2, 3), ones(3), ones(3)), r"weight \(3,\) and bias \(3,\)"),
    ],
    ids=[
        "scalar",
        "sizes",
        "vectors",
        "mm",
        "bmm",
        "mv",
        "dot",
        "addmm",
        "addmm's input",
        "linear",
        "linear's bias",
        "linear's vector",
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()
