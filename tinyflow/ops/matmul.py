"""Products of matrices and vectors: all are the one matrix product, whose gradients are matrix products again."""

from __future__ import annotations

from tinyflow import autocast_mode
from tinyflow.autocast_mode import HALF
from tinyflow.kernels import matmul as kernels
from tinyflow.kernels.dtypes import Scalar
from tinyflow.ops.arithmetic import add, mul
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import matrix_transpose, reshape, squeeze, unsqueeze
from tinyflow.tensor import Tensor

METHODS = ["matmul", "mm", "bmm", "mv", "dot", "addmm"]
__all__ = ["matmul", "mm", "bmm", "mv", "dot", "addmm"]


def _right_grad(g: Tensor, a: Tensor, b_shape: tuple[int, ...], allow_tf32: bool | None) -> Tensor:
    """The gradient of ``b`` in ``a @ b``; a matrix that a whole batch shares sums over it within one product."""
    if len(b_shape) == 2 and len(a.shape) > 2:
        a, g = reshape(a, -1, a.shape[-1]), reshape(g, -1, g.shape[-1])
    return product(matrix_transpose(a), g, None, allow_tf32)


product: Op = define(
    kernels.matmul,
    autocast=HALF,
    a=lambda g, b, allow_tf32: product(g, matrix_transpose(b), None, allow_tf32),
    b=_right_grad,
    bias=lambda g: g,
)


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The product over the last dimension of ``input`` and the last but one of ``other``; batches broadcast.

    A vector counts as one row on the left and one column on the right, and that dimension is dropped from the result.

    Raises:
        RuntimeError: on 0-dimensional operands, or shapes, dtypes or devices that do not fit.
    """
    if input.dim() == 0 or other.dim() == 0:
        raise RuntimeError(
            f"matmul: expected operands of 1 or more dimensions, got {tuple(input.shape)} and {tuple(other.shape)}"
        )
    if input.shape[-1] != other.shape[-min(other.dim(), 2)]:
        raise RuntimeError(
            f"matmul: shapes {tuple(input.shape)} and {tuple(other.shape)} do not fit: "
            f"expected a sum over one size, got {input.shape[-1]} and {other.shape[-min(other.dim(), 2)]}"
        )
    row, column = input.dim() == 1, other.dim() == 1
    y = product(unsqueeze(input, 0) if row else input, unsqueeze(other, 1) if column else other)
    if column:
        y = squeeze(y, -1)
    return squeeze(y, -1 if column else -2) if row else y


def _check_dims(op: str, expected: tuple[int, int], input: Tensor, other: Tensor) -> None:
    if (input.dim(), other.dim()) != expected:
        raise RuntimeError(
            f"{op}: expected tensors of {expected[0]} and {expected[1]} dimensions, "
            f"got shapes {tuple(input.shape)} and {tuple(other.shape)}"
        )


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices.

    Raises:
        RuntimeError: if an operand is no matrix, or the shapes do not fit.
    """
    _check_dims("mm", (2, 2), input, mat2)
    return matmul(input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two equally long batches of matrices, (B, M, K) by (B, K, N).

    Raises:
        RuntimeError: if an operand is no batch of matrices, or the shapes do not fit; batches do not broadcast.
    """
    _check_dims("bmm", (3, 3), input, mat2)
    if input.shape[0] != mat2.shape[0]:
        raise RuntimeError(f"bmm: expected one batch size, got shapes {tuple(input.shape)} and {tuple(mat2.shape)}")
    return matmul(input, mat2)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix and a vector.

    Raises:
        RuntimeError: if the operands are no matrix and vector, or the shapes do not fit.
    """
    _check_dims("mv", (2, 1), input, vec)
    return matmul(input, vec)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The sum of the products of two vectors' elements.

    Raises:
        RuntimeError: if an operand is no vector, or the sizes differ.
    """
    _check_dims("dot", (1, 1), input, tensor)
    if autocast_mode.state.active:  # alone among the products it runs in the wider dtype of the two
        input, tensor = autocast_mode.widest(input, tensor)
        with autocast_mode.disabled():
            return matmul(input, tensor)
    return matmul(input, tensor)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta·input + alpha·(mat1 @ mat2)``; ``input`` broadcasts to the product, and is not read if ``beta`` is 0.

    Raises:
        RuntimeError: if an operand is no matrix, or the shapes do not fit.
    """
    _check_dims("addmm", (2, 2), mat1, mat2)
    if alpha == 1 and beta == 1:
        return product(mat1, mat2, input)
    scaled = matmul(mat1, mat2)
    if alpha != 1:
        scaled = mul(scaled, alpha)
    if beta == 0:
        return scaled
    return add(scaled, mul(input.to(scaled.dtype) if autocast_mode.state.active else input, beta))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias``.

    Args:
        input: (\\*, in features).
        weight: (out features, in features); or (in features,), without bias, for an output without that dimension.
        bias: (out features,).

    Raises:
        RuntimeError: if the shapes do not fit.
    """
    if weight.dim() not in (1, 2) or input.dim() == 0 or input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(
            f"linear: weight {tuple(weight.shape)} does not fit input {tuple(input.shape)}: "
            "expected input (*, in features) and weight (out features, in features)"
        )
    if weight.dim() == 1 and bias is None:
        return matmul(input, weight)
    if bias is not None and (weight.dim() == 1 or tuple(bias.shape) not in ((weight.shape[0],), (1,))):
        raise RuntimeError(
            f"linear: expected a weight (out features, in features) beside a bias (out features,), "
            f"got weight {tuple(weight.shape)} and bias {tuple(bias.shape)}"
        )
    if input.dim() == 1:
        return squeeze(product(unsqueeze(input, 0), matrix_transpose(weight), bias), 0)
    return product(input, matrix_transpose(weight), bias)
