"""Small functions that are one or two others: comparisons with a tolerance, questions about a tensor, other spellings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyflow.kernels import memory
from tinyflow.kernels.dtypes import Scalar, promote_types
from tinyflow.ops import arithmetic, creation, shape
from tinyflow.ops.matmul import addbmm, addmm, addmv, addr, baddbmm
from tinyflow.tensor import Tensor

METHODS = [
    "isclose", "allclose", "equal", "isposinf", "isneginf", "sgn", "positive", "deg2rad", "rad2deg", "ldexp", "float_power",
    "is_nonzero", "is_signed", "is_same_size", "split_with_sizes", "adjoint", "ndimension", "greater", "greater_equal",
    "less", "less_equal", "not_equal", "addmm_", "addmv_", "addr_", "addbmm_", "baddbmm_", "cross",
]  # fmt: skip
__all__ = [
    "isclose", "allclose", "equal", "isposinf", "isneginf", "sgn", "positive", "deg2rad", "rad2deg", "ldexp", "float_power",
    "is_nonzero", "is_signed", "is_same_size", "split_with_sizes", "adjoint", "greater", "greater_equal",
    "less", "less_equal", "not_equal", "rsub", "numel", "is_tensor", "is_floating_point", "logspace",
    "detach", "cross", "scalar_tensor",
]  # fmt: skip

greater, greater_equal = arithmetic.gt, arithmetic.ge
less, less_equal, not_equal = arithmetic.lt, arithmetic.le, arithmetic.ne

# ---- comparisons with a tolerance --------------------------------------------------------------------------------------


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """``|input − other| ≤ atol + rtol · |other|`` element by element; equal infinities are close.

    Raises:
        RuntimeError: if the dtypes differ, or a tolerance is negative.
    """
    if input.dtype != other.dtype:
        raise RuntimeError(f"isclose: expected one dtype, got {input.dtype} and {other.dtype}")
    if rtol < 0 or atol < 0:
        raise RuntimeError(f"isclose: expected rtol and atol >= 0, got {rtol} and {atol}")
    close = input == other
    if equal_nan and input.dtype.is_floating_point:
        close = close | ((input != input) & (other != other))
    if rtol == 0 and atol == 0:
        return close
    if not input.dtype.is_floating_point:
        input, other = input.to(memory.float64), other.to(memory.float64)
    difference = (input - other).abs()
    return close | ((difference < math.inf) & (difference <= other.abs() * rtol + atol))


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close, see :func:`isclose`."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all())


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one shape and the same elements."""
    return input.shape == other.shape and bool((input == other).all())


# ---- elements ----------------------------------------------------------------------------------------------------------


def isposinf(input: Tensor) -> Tensor:
    """Whether each element is +infinity."""
    return input == math.inf


def isneginf(input: Tensor) -> Tensor:
    """Whether each element is −infinity."""
    return input == -math.inf


def sgn(input: Tensor) -> Tensor:
    """:func:`sign`, which for complex numbers would be x / |x|."""
    return arithmetic.sign(input)


def positive(input: Tensor) -> Tensor:
    """The tensor itself.

    Raises:
        RuntimeError: for bools.
    """
    if input.dtype == memory.bool_:
        raise RuntimeError("positive: The `+` operator, on a bool tensor is not supported.")
    return input


def deg2rad(input: Tensor) -> Tensor:
    """Degrees as radians."""
    return input * (math.pi / 180.0)


def rad2deg(input: Tensor) -> Tensor:
    """Radians as degrees."""
    return input * (180.0 / math.pi)


def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """``input · 2^other``, in the floating-point dtype of ``input`` where ``other`` has integers."""
    if input.dtype.is_floating_point and not other.dtype.is_floating_point:
        wide = promote_types(input.dtype, memory.float32)  # where powers that half precision lacks exist
        return (input.to(wide) * arithmetic.pow(2.0, other.to(wide))).to(input.dtype)
    return input * arithmetic.pow(2.0, other)


def float_power(input: Tensor | Scalar, exponent: Tensor | Scalar) -> Tensor:
    """:func:`pow` in float64."""
    base, power = (x.to(memory.float64) if isinstance(x, Tensor) else x for x in (input, exponent))
    return arithmetic.pow(base, power)


def rsub(input: Tensor, other: Tensor | Scalar, *, alpha: Scalar = 1) -> Tensor:
    """``other − alpha · input``."""
    return arithmetic.sub(other, input, alpha=alpha)


def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The cross product along ``dim``, by default the first dimension of size 3; see :func:`tinyflow.linalg.cross`.

    Raises:
        RuntimeError: if there is no such dimension, or vectors do not have three elements.
    """
    from tinyflow import linalg

    if dim is None:
        found = [d for d, n in enumerate(input.shape) if n == 3]
        if not found:
            raise RuntimeError(f"cross: expected a dimension of size 3, got shape {tuple(input.shape)}")
        dim = found[0]
    return linalg.cross(input, other, dim=dim)


# ---- questions and shapes ----------------------------------------------------------------------------------------------


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input.numel()


def ndimension(self: Tensor) -> int:
    """The number of dimensions."""
    return self.dim()


def is_tensor(obj: Any) -> bool:
    """Whether ``obj`` is a Tensor of ours."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a floating-point one."""
    return bool(input.dtype.is_floating_point)


def is_signed(input: Tensor) -> bool:
    """Whether the dtype has negative numbers."""
    return bool(input.dtype.is_signed)


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one shape."""
    return input.shape == other.shape


def is_nonzero(input: Tensor) -> bool:
    """Whether the one element is not 0.

    Raises:
        RuntimeError: for another number of elements.
    """
    if input.numel() != 1:
        raise RuntimeError(
            f"is_nonzero: Boolean value of a Tensor with {input.numel()} values is ambiguous, expected one value"
        )
    return bool(input != 0)


def detach(input: Tensor) -> Tensor:
    """The same memory without history."""
    return input.detach()


def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """:func:`split` into parts of these sizes."""
    return shape.split(input, split_sizes, dim)


def adjoint(input: Tensor) -> Tensor:
    """The last two dimensions exchanged; complex numbers would be conjugated.

    Raises:
        RuntimeError: for a vector.
    """
    if input.dim() == 1:
        raise RuntimeError("adjoint: expected matrices or batches of matrices, got a tensor of 1 dimension")
    return shape.matrix_transpose(input) if input.dim() else input


def scalar_tensor(
    s: Scalar, *, dtype: memory.dtype | None = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A 0-d tensor of a number, of the default dtype."""
    result = creation.full((), s, dtype=dtype or memory.get_default_dtype(), device=device)
    return result.requires_grad_(requires_grad)


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: memory.dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """``steps`` powers of ``base``, whose exponents are evenly spaced from ``start`` to ``end``."""
    result = dtype or memory.get_default_dtype()
    exponents = creation.linspace(start, end, steps, dtype=promote_types(result, memory.float32), device=device)
    return arithmetic.pow(base, exponents).to(result).requires_grad_(requires_grad)


# ---- in place ----------------------------------------------------------------------------------------------------------


def addmm_(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """In-place :func:`addmm`."""
    return self.copy_(addmm(self, mat1, mat2, beta=beta, alpha=alpha))


def addmv_(self: Tensor, mat: Tensor, vec: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """In-place :func:`addmv`."""
    return self.copy_(addmv(self, mat, vec, beta=beta, alpha=alpha))


def addr_(self: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """In-place :func:`addr`."""
    return self.copy_(addr(self, vec1, vec2, beta=beta, alpha=alpha))


def addbmm_(self: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """In-place :func:`addbmm`."""
    return self.copy_(addbmm(self, batch1, batch2, beta=beta, alpha=alpha))


def baddbmm_(self: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1) -> Tensor:
    """In-place :func:`baddbmm`."""
    return self.copy_(baddbmm(self, batch1, batch2, beta=beta, alpha=alpha))
