"""Views that may show an element more than once: explicit strides, and windows that slide along a dimension."""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.ops import shape
from tinyflow.ops.views import Strided, Windows, check_strided
from tinyflow.tensor import Tensor

METHODS = ["as_strided"]
__all__ = ["as_strided"]


def as_strided(input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """Explicit shape and strides over the same memory. Not differentiable where elements repeat.

    Raises:
        RuntimeError: if it would reach outside the memory, or repeats elements of a tensor that requires grad.
    """
    offset = input.storage_offset() if storage_offset is None else storage_offset
    shown = Strided(tuple(size), tuple(stride), offset, label="as_strided")
    empty = 0 in size
    end = offset if empty else offset + sum((n - 1) * st for n, st in zip(size, stride))
    limit = input._data.untyped_storage().nbytes() // input.element_size()
    if offset < 0 or (not empty and end >= limit):
        raise RuntimeError(
            f"as_strided: size {tuple(size)} and stride {tuple(stride)} at offset {offset} need {end + 1} elements, "
            f"but the storage has {limit}"
        )
    if input.requires_grad:
        check_strided(input, size, stride)
    return shown.record(input)


def unfold_dim(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of ``size`` elements in steps of ``step`` along ``dimension``, a view: what a window holds comes last.

    Raises:
        RuntimeError: if a window is larger than the dimension, or ``step`` is not positive.
    """
    d = shape.dimension("unfold", dimension, self.dim())
    n = self.shape[d] if self.dim() else 1
    if not 0 <= size <= n:
        raise RuntimeError(f"unfold: maximum size for tensor at dimension {d} is {n} but size is {size}")
    if step <= 0:
        raise RuntimeError(f"unfold: step is {step} but must be > 0")
    if self.dim() == 0:
        return shape.narrow(shape.unsqueeze(self, 0), 0, 0, size)
    return Windows(d, size, step, label="unfold").record(self)
