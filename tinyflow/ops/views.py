"""Views: other shapes and strides of the same memory, and what an in-place change of one means for the others.

A view is described by a small value, a :class:`View`: how it reads a buffer, and how a gradient goes back through it. Every
view but an expansion shows each element once, so its gradient is the view's transpose: zeros with the gradient written
through the same view (:func:`scatter_through`), whose own gradient is the view again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import Edge, Grads, Node, SavedTensor, announce, backward_name, output_info
from tinyflow.autograd.view_history import as_view, renew_history, root_of
from tinyflow.kernels import elementwise, memory, strides, windows
from tinyflow.kernels.memory import Buffer
from tinyflow.ops.define import Op, OpNode, define
from tinyflow.tensor import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A way to see a buffer; subclasses say which. ``label`` is the name of the operation in the graph."""

    label: str = field(default="view", kw_only=True)

    def read(self, x: Buffer) -> Buffer:
        """The view of a buffer."""
        raise NotImplementedError

    def apply(self, x: Tensor) -> Tensor:
        """This view of any tensor of the right shape, copied where its strides do not allow a view."""
        return self.record(x)

    def gradient(self, g: Tensor, shape: Shape) -> Tensor:
        """The gradient of a viewed tensor of ``shape``."""
        return scatter_through(None, g, (self,), shape)

    def record(self, x: Tensor) -> Tensor:
        """The view of a tensor, with its history."""
        y = as_view(x, self.read(x._data), self)
        if mode.records and x.requires_grad:
            node = ViewNode(x._edge(), self, tuple(x.shape))
            node.outputs = (output_info(y),)
            if mode.watched:
                announce(node)
            y._set_history(node, 0)
        if mode.watched and mode.dual_levels:
            mode.dual_levels[-1].through_view(self, x, y)
        return y


class ViewNode(Node):
    """A recorded view."""

    __slots__ = ("view", "shape")
    results_are_new = only_views = True

    def __init__(self, edge: Edge | None, view: View, shape: Shape) -> None:
        super().__init__((edge,))
        self.view, self.shape = view, shape

    def name(self) -> str:
        return backward_name(self.view.label)

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        g = grads[0]
        return (None if g is None else self.view.gradient(g, self.shape),)


def _scatter_through(
    x: Buffer | None, source: Buffer, views: tuple[View, ...], shape: Shape, layout: Shape | None = None
) -> Buffer:
    """``x`` (zeros of ``shape`` if None) with what the views show of it replaced by ``source``, laid out as ``layout``."""
    if x is None:
        out = elementwise.full(shape, 0, source.dtype, source.device)
    else:
        out = elementwise.copy(x, layout=strides.contiguous_strides(x.shape) if layout is None else layout)
    shown = out
    for view in views:
        shown = view.read(shown)
    elementwise.copy_into(shown, source)
    return out


def _see(x: Tensor, views: tuple[View, ...]) -> Tensor:
    if any(isinstance(view, Strided) for view in views) and not (x.is_contiguous() and x.storage_offset() == 0):
        x = x.clone(memory_format=memory.contiguous_format)  # explicit strides mean memory like the base's
    for view in views:
        x = view.apply(x)
    return x


scatter_through: Op = define(
    _scatter_through,
    name="view_scatter",
    x=lambda g, views, source_shape, layout: scatter_through(
        g, Tensor._zeros(source_shape, g.dtype, g.device), views, tuple(g.shape), layout
    ),
    source=lambda g, views: _see(g, views),
)


@dataclass(frozen=True)
class Strided(View):
    """Explicit shape, strides and offset, in elements, of the base's memory."""

    shape: Shape
    steps: Shape
    offset: int

    def read(self, x: Buffer) -> Buffer:
        return memory.as_strided(x, self.shape, self.steps, self.offset)


@dataclass(frozen=True)
class Permute(View):
    """Dimensions in another order: ``y.shape[k] = x.shape[dims[k]]``."""

    dims: Shape

    def read(self, x: Buffer) -> Buffer:
        return memory.as_strided(x, [x.shape[d] for d in self.dims], [x.stride(d) for d in self.dims])

    def gradient(self, g: Tensor, shape: Shape) -> Tensor:
        inverse = tuple(self.dims.index(d) for d in range(len(self.dims)))
        return Permute(inverse, label="permute").record(g)


@dataclass(frozen=True)
class Expand(View):
    """Dimensions of size 1, and new leading ones, repeated without a copy."""

    shape: Shape

    def read(self, x: Buffer) -> Buffer:
        return memory.as_strided(x, self.shape, strides.broadcast_strides(x, self.shape))

    def gradient(self, g: Tensor, shape: Shape) -> Tensor:
        return g.sum_to_size(shape)


@dataclass(frozen=True)
class Reshape(View):
    """The same elements in row-major order as another shape, where strides allow it without a copy."""

    shape: Shape

    def read(self, x: Buffer) -> Buffer:
        steps = view_strides(x, self.shape)
        if steps is None:
            raise RuntimeError(
                f"view: shape {self.shape} is not compatible with a tensor of shape {tuple(x.shape)} and strides "
                f"{x.stride()} "
                "(at least one dimension spans across two contiguous subspaces). Use .reshape(...) instead."
            )
        return memory.as_strided(x, self.shape, steps)

    def apply(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)

    def gradient(self, g: Tensor, shape: Shape) -> Tensor:
        return g.reshape(shape)


@dataclass(frozen=True)
class Slice(View):
    """Basic indexing: for each dimension of the result (start, step, size) of a source dimension, or a new axis.

    ``picks`` has one entry for each source dimension: an int selects and drops it, a triple keeps it; None entries in
    between are new dimensions of size 1.
    """

    picks: tuple[int | tuple[int, int, int] | None, ...]

    def read(self, x: Buffer) -> Buffer:
        shape: list[int] = []
        steps: list[int] = []
        offset, dim = int(x.storage_offset()), 0
        for pick in self.picks:
            if pick is None:
                shape.append(1)
                steps.append(0 if not steps else steps[-1])
                continue
            stride = x.stride(dim)
            dim += 1
            if isinstance(pick, int):
                offset += pick * stride
            else:
                start, step, size = pick
                offset += start * stride if size else 0
                shape.append(size)
                steps.append(step * stride)
        return memory.as_strided(x, shape, steps, offset)


@dataclass(frozen=True)
class Diagonal(View):
    """The elements (i, i + offset) of two dimensions, as a new last dimension."""

    offset: int
    dim1: int
    dim2: int

    def read(self, x: Buffer) -> Buffer:
        rows, cols = x.shape[self.dim1], x.shape[self.dim2]
        size = max(min(rows, cols - self.offset) if self.offset >= 0 else min(rows + self.offset, cols), 0)
        skip = self.offset * x.stride(self.dim2) if self.offset >= 0 else -self.offset * x.stride(self.dim1)
        kept = [d for d in range(x.dim()) if d not in (self.dim1, self.dim2)]
        return memory.as_strided(
            x,
            [*(x.shape[d] for d in kept), size],
            [*(x.stride(d) for d in kept), x.stride(self.dim1) + x.stride(self.dim2)],
            int(x.storage_offset()) + (skip if size else 0),
        )


@dataclass(frozen=True)
class Windows(View):
    """Windows of ``size`` elements in steps of ``step`` along ``dim``; what a window holds is a new last dimension."""

    dim: int
    size: int
    step: int

    def read(self, x: Buffer) -> Buffer:
        shape, steps = [*x.shape, self.size], [*x.stride(), x.stride(self.dim)]
        shape[self.dim] = (shape[self.dim] - self.size) // self.step + 1
        steps[self.dim] *= self.step
        return memory.as_strided(x, shape, steps)

    def gradient(self, g: Tensor, shape: Shape) -> Tensor:
        return _fold_dim(g, shape, self.dim, self.step)


_fold_dim: Op = define(
    windows.fold_dim,
    name="unfold_backward",
    grad=lambda g, grad_shape, dim, step: Windows(dim, grad_shape[-1], step, label="unfold").record(g),
)


def view_strides(x: Buffer, shape: Shape) -> Shape | None:
    """The strides that show ``x`` as ``shape`` in row-major order, or None if only a copy can."""
    if x.numel() == 0 or strides.is_contiguous(x):
        return strides.contiguous_strides(shape)
    runs: list[tuple[int, int]] = []  # (elements, stride) of stretches that are walked evenly, outermost first
    for n, st in zip(x.shape, x.stride()):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * st:
            runs[-1] = runs[-1][0] * n, st
        else:
            runs.append((n, st))
    result: list[int] = []
    left, step = runs.pop() if runs else (1, 1)
    for n in reversed(shape):
        if n != 1 and left == 1:
            if not runs:
                return None
            left, step = runs.pop()
        if left % n:
            return None
        result.insert(0, step)
        left //= n
        step *= n
    return tuple(result)


class CopySlices(Node):
    """The history of a tensor one of whose views was changed in place by ``node``.

    The gradient of the part that the view shows goes through ``node``; the rest passes by it.
    """

    __slots__ = ("inner", "views", "layout")

    def __init__(self, edge: Edge | None, views: tuple[View, ...], layout: Shape, node: OpNode) -> None:
        super().__init__((edge, *node.next_edges[1:]))
        self.inner, self.views, self.layout = node, views, layout

    def name(self) -> str:
        return "CopySlices"

    def release(self) -> None:
        self.inner.release()

    def saved_tensors_kept(self) -> Iterator[tuple[str, SavedTensor]]:
        return self.inner.saved_tensors_kept()

    def apply(self, grads: Grads) -> Sequence[Tensor | None]:
        g = grads[0]
        if g is None:
            return [None] * len(self.next_edges)
        shown = _see(g, self.views)
        first, *others = self.inner.apply((shown,))
        if self.next_edges[0] is None:
            return [None, *others]
        inside = Tensor._zeros(tuple(shown.shape), shown.dtype, shown.device) if first is None else first
        return [scatter_through(g, inside, self.views, tuple(g.shape), self.layout), *others]


def check_strided(base: Tensor, size: Sequence[int], stride: Sequence[int]) -> None:
    """Refuses to differentiate explicit strides where they may not say the same of a gradient.

    Raises:
        RuntimeError: if ``base`` is not contiguous from the start of its memory, or the strides repeat elements.
    """
    if not base.is_contiguous() or base.storage_offset() != 0:
        raise RuntimeError(
            "as_strided: only a contiguous tensor at the start of its memory is differentiated; call contiguous() first"
        )
    if not _each_once(size, stride):
        raise RuntimeError(
            f"as_strided: size {tuple(size)} with stride {tuple(stride)} repeats elements, which has no gradient here"
        )


def _each_once(size: Sequence[int], stride: Sequence[int]) -> bool:
    """True if no two elements of a strided view can share an address."""
    reach = 0
    for st, n in sorted((abs(st), n) for st, n in zip(stride, size) if n > 1):
        if st <= reach:
            return False
        reach += st * (n - 1)
    return True


def rebase(target: Tensor, node: OpNode) -> None:
    """Gives ``node``, an in-place change of ``target``, to the history of its memory."""
    base = root_of(target)
    if base is None:
        target._set_history(node, 0)
        return
    if any(isinstance(view, Strided) for view in target._specs):
        check_strided(base, target.shape, target.stride())
    elif any(isinstance(view, Windows) for view in target._specs) and not _each_once(target.shape, target.stride()):
        raise RuntimeError(
            f"{node.op.name}_: windows of shape {tuple(target.shape)} overlap, so that an in-place change has no gradient "
            "here; change a clone() of them"
        )
    # the order of dimensions in which the memory lies, since only that lets every view be a view
    copied = CopySlices(base._edge(), target._specs, strides.like(base._data), node)
    copied.outputs = (output_info(base),)
    if mode.watched and mode.anomaly:
        announce(copied)
    base._set_history(copied, 0)
    renew_history(target)
