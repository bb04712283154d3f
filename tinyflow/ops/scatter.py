"""Reading and writing at one index an element along a dimension. Gathering and adding are each other's gradient."""

from __future__ import annotations

from typing import Any

from tinyflow.autocast_mode import WIDEST_ON_GPU
from tinyflow.kernels import elementwise, memory
from tinyflow.kernels import indexing as reading
from tinyflow.kernels import scatter as kernels
from tinyflow.kernels.dtypes import Scalar
from tinyflow.kernels.memory import Buffer
from tinyflow.ops import arithmetic
from tinyflow.ops.define import Op, define
from tinyflow.ops.shape import dimension
from tinyflow.tensor import Tensor

METHODS = [
    "gather", "take_along_dim", "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_",
    "index_reduce", "index_reduce_",
]  # fmt: skip
__all__ = ["gather", "take_along_dim", "scatter", "scatter_add", "scatter_reduce", "index_reduce"]

#: torch's names in ``scatter`` for two of the reductions.
_SCATTER_REDUCTIONS = {"add": "sum", "multiply": "prod"}
_REDUCTIONS = ("sum", "prod", "mean", "amax", "amin")


def _writable(x: Buffer, out: Buffer | None) -> Buffer:
    """Memory with the elements of ``x`` to write into: ``out``, which has them, or a copy."""
    return elementwise.copy(x) if out is None else out


def _scatter_launcher(x: Buffer, dim: int, index: Buffer, source: Buffer, *, out: Buffer | None = None) -> Buffer:
    return kernels.scatter(_writable(x, out), dim, index, source)


def _scatter_add_launcher(x: Buffer, dim: int, index: Buffer, source: Buffer, *, out: Buffer | None = None) -> Buffer:
    return kernels.scatter_add(_writable(x, out), dim, index, source)


def _combine_launcher(
    x: Buffer, dim: int, index: Buffer, source: Buffer, reduce: str, include_self: bool, *, out: Buffer | None = None
) -> Buffer:
    return kernels.scatter_reduce(_writable(x, out), dim, index, source, reduce, include_self)


_gather: Op = define(
    reading.gather,
    name="gather",
    x=lambda g, dim, index, x_shape: _gather_grad(g, dim, index, x_shape),
    index=None,
)
_gather_grad: Op = define(kernels.gather_grad, grad=lambda g, dim, index: _gather(g, dim, index), index=None)
_scatter_add: Op = define(
    _scatter_add_launcher,
    name="scatter_add",
    autocast=WIDEST_ON_GPU.only("x", "source"),
    x=lambda g: g,
    index=None,
    source=lambda g, dim, index: _gather(g, dim, index),
)
_scatter: Op = define(
    _scatter_launcher,
    name="scatter",
    x=lambda g, dim, index: _without(g, dim, index),
    index=None,
    source=lambda g, dim, index: _gather(g, dim, index),
)
_combine: Op = define(
    _combine_launcher,
    name="scatter_reduce",
    joint={
        ("x", "source"): lambda g, x, dim, index, source, reduce, include_self, y: _combine_grad(
            g, x, dim, index, source, reduce, include_self, y
        )
    },
    index=None,
)


def _without(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """``x`` with zeros at the places that the index names."""
    return _scatter(x, dim, index, Tensor._zeros((), x.dtype, x.device).expand(index.shape))


def _combine_grad(
    g: Tensor, x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, include_self: bool, y: Tensor
) -> tuple[Tensor, Tensor]:
    if reduce == "prod":
        to_x, to_source = _product_grad(g, x, dim, index, source, include_self, y)
    else:
        to_x, to_source = _extreme_grad(g, x, dim, index, source, include_self, y)
    return to_x if include_self else _without(to_x, dim, index), to_source


def _product_grad(
    g: Tensor, x: Tensor, dim: int, index: Tensor, source: Tensor, include_self: bool, y: Tensor
) -> tuple[Tensor, Tensor]:
    """For each factor the product of the others: by division, and where the factor is 0 and the only one, without it.

    The second derivative leaves out pairs of factors that are both 0.
    """
    to_x = g * _combine(x * 0 + 1, dim, index, source, "prod", True)
    zero = source == 0
    zeros = _scatter_add((x * 0).detach(), dim, index, zero.to(x.dtype))
    filled = arithmetic.where(zero, 1.0, source)
    others = _combine(x, dim, index, filled, "prod", include_self)
    alone = arithmetic.logical_and(zero, _gather(zeros, dim, index) == 1)
    by_division = arithmetic.where(zero, 0.0, _gather(g * y, dim, index) / filled)
    return to_x, arithmetic.where(alone, _gather(g * others, dim, index), by_division)


def _extreme_grad(
    g: Tensor, x: Tensor, dim: int, index: Tensor, source: Tensor, include_self: bool, y: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient in equal shares to every element that is as great (as small) as the result."""
    from_x = (x == y).to(g.dtype)
    if not include_self:
        from_x = _without(from_x, dim, index)
    from_source = (source == _gather(y, dim, index)).to(g.dtype)
    share = g / _scatter_add(from_x, dim, index, from_source)
    return from_x * share, from_source * _gather(share, dim, index)


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """``out[i, j, k] = input[index[i, j, k], j, k]`` for ``dim`` 0, and so for every ``dim``.

    Raises:
        NotImplementedError: for ``sparse_grad``.
    """
    if sparse_grad:
        raise NotImplementedError("gather: sparse gradients are not supported; leave sparse_grad out")
    return _gather(input, dim, index)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """:func:`gather` with the two broadcast together apart from ``dim``; without ``dim`` from ``input`` as a vector.

    Raises:
        RuntimeError: if the ranks differ.
    """
    if dim is None:
        return _gather(input.reshape(-1), 0, indices.reshape(-1))
    if input.dim() != indices.dim():
        raise RuntimeError(
            f"torch.take_along_dim(): input and indices should have the same number of dimensions, "
            f"but got {input.dim()} dimensions for input, and {indices.dim()} dimensions for indices".removeprefix(
                "torch."
            )
        )
    d = dimension("take_along_dim", dim, input.dim())

    def fitted(x: Tensor, other: Tensor) -> Tensor:
        return x.expand([n if k == d or m == 1 else m for k, (n, m) in enumerate(zip(x.shape, other.shape))])

    return _gather(fitted(input, indices), d, fitted(indices, input))


def _trimmed(source: Tensor, index: Tensor) -> Tensor:
    """The part of a source that the index has positions for."""
    if source.dim() == index.dim():
        for k, n in enumerate(index.shape):
            if source.shape[k] > n:
                source = source.narrow(k, 0, n)
    return source


def _values(op: str, x: Tensor, index: Tensor, src: Any, value: Scalar | None) -> Tensor:
    """What to scatter: ``src``, a tensor, or a number under either name."""
    if (src is None) == (value is None):
        raise TypeError(f"{op}(): expected one of src= and value=, got {'both' if src is not None else 'neither'}")
    if isinstance(src, Tensor):
        return _trimmed(src, index)
    return Tensor._full((), src if value is None else value, x.dtype, x.device).expand(index.shape)


def _scatter_reduction(reduce: str) -> str:
    if reduce not in _SCATTER_REDUCTIONS:
        raise RuntimeError(f"scatter(): reduce argument must be either add or multiply, got {reduce!r}")
    return _SCATTER_REDUCTIONS[reduce]


def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor | Scalar | None = None,
    *,
    value: Scalar | None = None,
    reduce: str | None = None,
) -> Tensor:
    """A copy of ``input`` with ``out[index[i, j, k], j, k] = src[i, j, k]`` (``dim`` 0), or one ``value`` there.

    The last of several for one place wins; ``reduce`` "add" or "multiply" combines them with what stands there.
    """
    source = _values("scatter", input, index, src, value)
    if reduce is not None:
        return scatter_reduce(input, dim, index, source, _scatter_reduction(reduce))
    return _scatter(input, dim, index, source)


def scatter_(
    self: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor | Scalar | None = None,
    *,
    value: Scalar | None = None,
    reduce: str | None = None,
) -> Tensor:
    """In-place :func:`scatter`."""
    source = _values("scatter_", self, index, src, value)
    if reduce is not None:
        return scatter_reduce_(self, dim, index, source, _scatter_reduction(reduce))
    return _scatter.inplace(self, dim, index, source)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of ``input`` with every ``src[i, j, k]`` added to ``out[index[i, j, k], j, k]`` (``dim`` 0), and so on."""
    return _scatter_add(input, dim, index, _trimmed(src, index))


def scatter_add_(self: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """In-place :func:`scatter_add`."""
    return _scatter_add.inplace(self, dim, index, _trimmed(src, index))


def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """A copy of ``input`` in which ``out[index[i, j, k], j, k]`` (``dim`` 0) combines every ``src[i, j, k]`` for it.

    ``reduce``: "sum", "prod", "mean", "amax" or "amin". Without ``include_self`` the elements of ``input`` that ``index``
    names do not take part. The mean of integers rounds down.

    Raises:
        RuntimeError: for another ``reduce``, or shapes and dtypes that do not fit.
    """
    if reduce not in _REDUCTIONS:
        raise RuntimeError(f"reduce argument must be either {', '.join(_REDUCTIONS)}, got {reduce!r}")
    source = _trimmed(src, index)
    if reduce not in ("sum", "mean"):
        return _combine(input, dim, index, source, reduce, include_self)
    start = input if include_self else _without(input, dim, index)
    total = _scatter_add(start, dim, index, source)
    if reduce == "sum":
        return total
    one = Tensor._full((), 1, input.dtype, input.device)
    count = one.expand(input.shape) if include_self else _without(one.expand(input.shape), dim, index)
    count = _scatter_add(count, dim, index, one.expand(index.shape))
    return arithmetic.div(total, count, rounding_mode=None if input.dtype.is_floating_point else "floor")


def scatter_reduce_(
    self: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """In-place :func:`scatter_reduce`."""
    if reduce == "sum" and include_self:
        return _scatter_add.inplace(self, dim, index, _trimmed(src, index))
    if reduce in ("prod", "amax", "amin"):
        return _combine.inplace(self, dim, index, _trimmed(src, index), reduce, include_self)
    return self.copy_(scatter_reduce(self, dim, index, src, reduce, include_self=include_self))


def _expanded_index(op: str, x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str) -> Tensor:
    """A vector of positions along ``dim`` as one index an element of the source."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise RuntimeError(f"{op}(): Expected reduce to be one of prod, mean, amax or amin but got {reduce}.")
    d = dimension(op, dim, x.dim())
    shape = tuple(index.numel() if k == d else n for k, n in enumerate(x.shape))
    if index.dim() > 1 or tuple(source.shape) != shape:
        raise RuntimeError(
            f"{op}(): expected a vector of positions and a source of shape {shape}, got an index of shape "
            f"{tuple(index.shape)} and a source of shape {tuple(source.shape)}"
        )
    return index.to(x.device, memory.int64).reshape([-1 if k == d else 1 for k in range(x.dim())]).expand(shape)


def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """``input`` whose slices along ``dim`` at the positions in ``index`` combine with those of ``source``.

    ``reduce``: "prod", "mean", "amax" or "amin"; else as :func:`scatter_reduce`.
    """
    expanded = _expanded_index("index_reduce", input, dim, index, source, reduce)
    return scatter_reduce(input, dim, expanded, source, reduce, include_self=include_self)


def index_reduce_(
    self: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """In-place :func:`index_reduce`."""
    expanded = _expanded_index("index_reduce_", self, dim, index, source, reduce)
    return scatter_reduce_(self, dim, expanded, source, reduce, include_self=include_self)
