"""Products of matrices and vectors: all are the one matrix product, whose gradients are matrix products again."""

from __future__ import annotations

import math

from tinyflow import autocast_mode
from tinyflow.autocast_mode import HALF
from tinyflow.kernels import matmul as kernels
from tinyflow.kernels import memory, strides
from tinyflow.kernels.dtypes import Scalar
from tinyflow.ops import reduction
from tinyflow.ops.arithmetic import add, mul
from tinyflow.ops.creation import eye
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import matrix_transpose, reshape, squeeze, transpose, unsqueeze
from tinyflow.tensor import Tensor

METHODS = [
    "matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "outer", "ger", "addmm", "addmv", "addr", "addbmm", "baddbmm",
    "matrix_power", "kron",
]  # fmt: skip
__all__ = [
    "matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "outer", "ger", "addmm", "addmv", "addr", "addbmm", "baddbmm",
    "matrix_power", "kron",
]  # fmt: skip
FUNCTIONAL = ["linear"]


def _left_grad(g: Tensor, b: Tensor, allow_tf32: bool | None, a_grad_dtype: memory.dtype | None) -> Tensor:
    """The gradient of ``a`` in ``a @ b``; g may be wider than the factors."""
    return product(g.to(b.dtype), matrix_transpose(b), None, allow_tf32, a_grad_dtype)


def _right_grad(
    g: Tensor, a: Tensor, b_shape: tuple[int, ...], allow_tf32: bool | None, b_grad_dtype: memory.dtype | None
) -> Tensor:
    """The gradient of ``b`` in ``a @ b``; a matrix that a whole batch shares sums over it within one product."""
    if len(b_shape) == 2 and len(a.shape) > 2:
        a, g = reshape(a, -1, a.shape[-1]), reshape(g, -1, g.shape[-1])
    return product(matrix_transpose(a), g.to(a.dtype), None, allow_tf32, b_grad_dtype)


product: Op = define(
    kernels.matmul,
    autocast=HALF,
    a=_left_grad,
    b=_right_grad,
    bias=lambda g: g,
)


def _weight_grad(g: Tensor, x: Tensor, weight_grad_dtype: memory.dtype | None) -> Tensor:
    """Laid out as the weight, so that a leaf takes it over as it is."""
    if x.dim() > 2:
        x, g = reshape(x, -1, x.shape[-1]), reshape(g, -1, g.shape[-1])
    return product(matrix_transpose(g), x, None, None, weight_grad_dtype)


_linear: Op = define(
    kernels.linear,
    name="matmul",
    autocast=HALF,
    x=lambda g, weight, x_grad_dtype: product(g, weight, None, None, x_grad_dtype),
    weight=_weight_grad,
    bias=lambda g, bias_grad_dtype: reduction.sum(g, tuple(range(g.dim() - 1)), False, bias_grad_dtype),
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
    _check_batches("bmm", input, mat2)
    return matmul(input, mat2)


def _check_batches(op: str, input: Tensor, other: Tensor) -> None:
    _check_dims(op, (3, 3), input, other)
    if input.shape[0] != other.shape[0]:
        raise RuntimeError(f"{op}: expected one batch size, got shapes {tuple(input.shape)} and {tuple(other.shape)}")


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
    return _added(input, mat1, mat2, beta, alpha)


def _added(input: Tensor, a: Tensor, b: Tensor, beta: Scalar, alpha: Scalar) -> Tensor:
    """``beta·input + alpha·(a @ b)`` of matrices or batches of them, in one launch where nothing is scaled."""
    if alpha == 1 and beta == 1:
        return product(a, b, input)
    scaled = matmul(a, b)
    if strides.broadcast_shapes("matmul", input.shape, scaled.shape) != tuple(scaled.shape):
        raise RuntimeError(
            f"matmul: expected an addend that broadcasts to the product {tuple(scaled.shape)}, got {tuple(input.shape)}"
        )
    if input.dtype != scaled.dtype and not autocast_mode.state.active:
        raise RuntimeError(f"matmul: expected an addend of the product's {scaled.dtype}, got {input.dtype}")
    if alpha != 1:
        scaled = mul(scaled, alpha)
    if beta == 0:
        return scaled
    return add(scaled, mul(input.to(scaled.dtype) if autocast_mode.state.active else input, beta))


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta·input + alpha·(mat @ vec)``, as :func:`addmm`.

    Raises:
        RuntimeError: if the operands are no matrix and vector, or the shapes do not fit.
    """
    _check_dims("addmv", (2, 1), mat, vec)
    return squeeze(_added(_column(input), mat, unsqueeze(vec, 1), beta, alpha), 1)


def _column(input: Tensor) -> Tensor:
    return unsqueeze(input, -1) if input.dim() else input


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta·input + alpha·vec1 vec2ᵀ``, as :func:`addmm`.

    Raises:
        RuntimeError: if an operand is no vector, or the shapes do not fit.
    """
    _check_dims("addr", (1, 1), vec1, vec2)
    return _added(input, unsqueeze(vec1, 1), unsqueeze(vec2, 0), beta, alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta·input + alpha·(batch1 @ batch2)`` for each of a batch, (B, M, K) by (B, K, N), as :func:`addmm`.

    Raises:
        RuntimeError: if an operand is no batch of matrices, or the shapes do not fit.
    """
    _check_batches("baddbmm", batch1, batch2)
    return _added(input, batch1, batch2, beta, alpha)


def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """``beta·input + alpha·Σ (batch1 @ batch2)``, summed over the batch, (B, M, K) by (B, K, N): one product over B·K.

    Raises:
        RuntimeError: if an operand is no batch of matrices, or the shapes do not fit.
    """
    _check_batches("addbmm", batch1, batch2)
    b, m, k = batch1.shape
    left, right = reshape(transpose(batch1, 0, 1), m, b * k), reshape(batch2, b * k, batch2.shape[2])
    return _added(input, left, right, beta, alpha)


def vdot(input: Tensor, other: Tensor) -> Tensor:
    """:func:`dot`, whose first factor would be conjugated if numbers here were complex."""
    return dot(input, other)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The products of every element of one vector with every element of another, (N, M).

    Raises:
        RuntimeError: if an operand is no vector.
    """
    _check_dims("outer", (1, 1), input, vec2)
    return mul(unsqueeze(input, 1), unsqueeze(vec2, 0))


def ger(input: Tensor, vec2: Tensor) -> Tensor:
    """:func:`outer`."""
    return outer(input, vec2)


def inner(input: Tensor, other: Tensor) -> Tensor:
    """The products summed over the last dimension of both: (\\*, K) by (\\*\\*, K) is (\\*, \\*\\*). A 0-d factor scales.

    Raises:
        RuntimeError: if the last dimensions differ.
    """
    if input.dim() == 0 or other.dim() == 0:
        return mul(input, other)
    if input.shape[-1] != other.shape[-1]:
        raise RuntimeError(
            f"inner: expected last dimensions of one size, got shapes {tuple(input.shape)} and {tuple(other.shape)}"
        )
    k = input.shape[-1]
    y = matmul(reshape(input, -1, k), matrix_transpose(reshape(other, -1, k))) if k else _no_products(input, other)
    return reshape(y, (*input.shape[:-1], *other.shape[:-1]))


def _no_products(input: Tensor, other: Tensor) -> Tensor:
    """What :func:`inner` sums to where the last dimension is empty."""
    rows, columns = math.prod(input.shape[:-1]), math.prod(other.shape[:-1])
    return matmul(reshape(input, rows, 0), reshape(other, 0, columns))


def matrix_power(input: Tensor, n: int) -> Tensor:
    """The ``n``-th power of square matrices (\\*, N, N), by repeated squaring.

    Raises:
        RuntimeError: if they are not square.
        NotImplementedError: for a negative power, which needs an inverse.
    """
    if input.dim() < 2 or input.shape[-1] != input.shape[-2]:
        raise RuntimeError(f"matrix_power: expected square matrices (*, N, N), got shape {tuple(input.shape)}")
    if n < 0:
        raise NotImplementedError(f"matrix_power: expected n >= 0 (there is no inverse), got {n}")
    if n == 0:
        return eye(input.shape[-1], dtype=input.dtype, device=input.device).expand_as(input).clone()
    if n == 1:
        return input.clone()
    half = matmul(input, input) if n < 4 else matrix_power(matmul(input, input), n // 2)
    return matmul(half, input) if n & 1 else half


def kron(input: Tensor, other: Tensor) -> Tensor:
    """Kronecker's product: every element of ``input`` times the whole of ``other``; sizes multiply by dimension."""
    ndim = max(input.dim(), other.dim())
    left = (*[1] * (ndim - input.dim()), *input.shape)
    right = (*[1] * (ndim - other.dim()), *other.shape)
    products = mul(
        reshape(input, [n for size in left for n in (size, 1)]),
        reshape(other, [n for size in right for n in (1, size)]),
    )
    return reshape(products, [a * b for a, b in zip(left, right)])


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
        return squeeze(_linear(unsqueeze(input, 0), weight, bias), 0)
    return _linear(input, weight, bias)
