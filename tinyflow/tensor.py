"""Tensor: an array on a device, its place in the graph, and the ways in and out of it.

What its memory alone can answer is in ``device_array``, what views follow in ``autograd.view_history``. Arithmetic is not
here: ``tinyflow.ops`` binds every operation as a method when it is imported.
"""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyflow import printing
from tinyflow.autograd.grad_mode import mode
from tinyflow.autograd.graph import AccumulateGrad, Edge, Node, RemovableHandle, edge_to, output_info
from tinyflow.autograd.view_history import Seen, renew_history
from tinyflow.device_array import DeviceArray
from tinyflow.kernels import elementwise, memory
from tinyflow.kernels.memory import Buffer

if TYPE_CHECKING:
    from tinyflow._tensor_methods import TensorMethods
else:
    TensorMethods = object

Size = memory.Size


_LEAVES_ONLY = "you can only change requires_grad flags of leaf variables; use detach() to cut the graph"

#: Counts the in-place changes of one piece of memory, in its only element; all tensors on it share one counter.
Counter = list[int]


class _Rare:
    """What few tensors have."""

    __slots__ = ("accumulator", "hooks", "post_accumulate_hooks", "retains_grad")

    def __init__(self) -> None:
        self.accumulator: weakref.ref[AccumulateGrad] | None = None
        self.hooks: OrderedDict[int, Any] | None = None
        self.post_accumulate_hooks: OrderedDict[int, Any] | None = None
        self.retains_grad = False


class Tensor(DeviceArray, TensorMethods):
    """An n-dimensional array on a device that remembers how it was computed.

    Made by :func:`tinyflow.tensor`, :func:`tinyflow.zeros`, :func:`tinyflow.from_torch` … rather than by this class.
    ``shape``, ``dtype``, ``device``, strides and views mean what they mean in torch.
    """

    __slots__ = (
        "_requires_grad",
        "_grad",
        "_grad_fn",
        "_output_index",
        "_counter",
        "_seen",
        "_rare",
        "_fresh",
        "__weakref__",
    )

    #: Left operand of numpy arrays too: ``array * tensor`` comes here.
    __array_priority__ = 1000

    def __init__(self, data: Buffer, requires_grad: bool = False, _counter: Counter | None = None) -> None:
        if not isinstance(data, Buffer):
            raise TypeError(
                f"Tensor: expected device memory, got {type(data).__name__}; use tinyflow.tensor(...) for data"
            )
        self._data = data
        self._requires_grad = requires_grad  # true for what has a history, too
        self._grad: Tensor | None = None
        self._grad_fn: Node | None = None
        self._output_index = 0
        # None for an inference tensor, whose changes are not counted
        self._counter: Counter | None = (None if mode.inference else [0]) if _counter is None else _counter
        self._seen: Seen | None = None
        self._rare: _Rare | None = None
        self._fresh = False

    @staticmethod
    def _full(shape: Sequence[int], value: float, dtype: memory.dtype, device: memory.device) -> Tensor:
        return Tensor(elementwise.full(shape, value, dtype, device))

    @staticmethod
    def _zeros(shape: Sequence[int], dtype: memory.dtype, device: memory.device) -> Tensor:
        return Tensor._full(shape, 0, dtype, device)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return printing.tensor_repr(self)

    def __hash__(self) -> int:
        return id(self)

    # ---- its place in the graph ----------------------------------------------------------------------------------

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient, of this tensor's shape, dtype and device; None before the first one, or to clear it.

        Warns:
            UserWarning: for a tensor that keeps none, since it is not a leaf and :meth:`retain_grad` was not called.
        """
        if self._grad is None and self._grad_fn is not None and not self.retains_grad:
            warnings.warn(
                "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad attribute won't be "
                "populated during autograd.backward(). If you indeed want the .grad field to be populated for a non-leaf "
                "Tensor, use .retain_grad() on the non-leaf Tensor. If you access the non-leaf Tensor by mistake, make sure "
                "you access the leaf Tensor instead.",
                stacklevel=2,
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"assigned grad expected to be a Tensor or None but got grad of type {type(value).__name__}"
                )
            if value is self:
                raise RuntimeError("can't assign Tensor as its own grad")
            for what in ("shape", "dtype", "device"):
                expected, got = getattr(self._data, what), getattr(value._data, what)
                if got != expected:
                    raise RuntimeError(f"assigned grad has {what} {got}, but the tensor has {what} {expected}")
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def grad_fn(self) -> Node | None:
        """The node that made this tensor; None for a leaf."""
        seen = self._seen
        if seen is not None and self._counter is not None and seen.version != self._counter[0]:
            renew_history(self)
        return self._grad_fn

    @property
    def requires_grad(self) -> bool:
        """True if operations on this tensor are recorded."""
        return self._requires_grad or (self._seen is not None and self.grad_fn is not None)

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.grad_fn is not None:
            raise RuntimeError(_LEAVES_ONLY)
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        """True if no recorded operation made this tensor."""
        return self.grad_fn is None

    @property
    def output_nr(self) -> int:
        """Which output of ``grad_fn`` this is."""
        return self._output_index

    @property
    def retains_grad(self) -> bool:
        return self._rare is not None and self._rare.retains_grad

    @property
    def _version(self) -> int:
        if self._counter is None:
            raise RuntimeError("Inference tensors do not track version counter.")
        return self._counter[0]

    @property
    def _base(self) -> Tensor | None:
        """The tensor that this is a view of, itself no view."""
        return None if self._seen is None else self._seen.base

    @property
    def _specs(self) -> tuple[Any, ...]:
        """How the view is read from its base, step by step."""
        return () if self._seen is None else self._seen.specs

    @property
    def _frozen_view(self) -> bool:
        """True for a view whose history does not follow that of its base."""
        return self._seen is not None and self._seen.frozen

    def is_inference(self) -> bool:
        """True for a tensor that was made in inference mode, and is no view of another one."""
        return self._counter is None

    def _extras(self) -> _Rare:
        """What few tensors have, which may then be added to."""
        if self._rare is None:
            self._rare = _Rare()
        return self._rare

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Starts or stops recording operations on this leaf, in place.

        Raises:
            RuntimeError: for an integer or bool tensor, or for one that is not a leaf and should stop.
        """
        if requires_grad and not self.dtype.is_floating_point:
            raise RuntimeError(
                f"only Tensors of floating point dtype can require gradients, got {self.dtype}; "
                "make it with a floating-point dtype, as in tinyflow.tensor(data, dtype=tinyflow.float32)"
            )
        if requires_grad and self._counter is None and not mode.inference:
            raise RuntimeError(
                "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed. "
                "Make a clone() of it, which is a normal tensor."
            )
        if self.grad_fn is not None and not requires_grad:
            raise RuntimeError(_LEAVES_ONLY)
        if self.grad_fn is None:
            self._requires_grad = bool(requires_grad)
        return self

    def detach(self) -> Tensor:
        """The same memory with no history."""
        self._fresh = False
        return self._alias(self._data)

    def _alias(self, data: Buffer) -> Tensor:
        """A tensor without history on memory that counts its changes with this one's."""
        tensor = Tensor(data, _counter=self._counter)
        if self._counter is None:
            tensor._counter = None
        return tensor

    def detach_(self) -> Tensor:
        """Cuts this tensor from its history, in place."""
        if self._seen is not None:
            raise RuntimeError("Can't detach views in-place. Use detach() instead.")
        self._grad_fn, self._output_index, self._requires_grad = None, 0, False
        if self._rare is not None:
            self._rare.retains_grad = False
        return self

    @property
    def data(self) -> Tensor:
        """The same memory with no history and a version counter of its own."""
        return Tensor(self._hand_out())

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"data: expected a Tensor, got {type(value).__name__}")
        self._data = value._data
        accumulator = None if self._rare is None or self._rare.accumulator is None else self._rare.accumulator()
        if accumulator is not None:  # of a graph that is there already: gradients are like the new data from now on
            accumulator.outputs = (output_info(self),)

    def _edge(self) -> Edge | None:
        """Where the gradient of this tensor goes: to its node, to its accumulator if it is a leaf, or nowhere."""
        node = self._grad_fn if self._seen is None else self.grad_fn
        if node is not None:
            return edge_to((node, self._output_index))
        if not self._requires_grad:
            return None
        rare = self._extras()
        accumulator = None if rare.accumulator is None else rare.accumulator()
        if accumulator is None:
            accumulator = AccumulateGrad(self)
            if rare.hooks is not None:
                accumulator.attach().tensor_hooks[0] = rare.hooks
            rare.accumulator = weakref.ref(accumulator)
        return Edge(accumulator, 0)

    def _set_history(self, node: Node, index: int) -> None:
        if self._rare is not None and self._rare.retains_grad:
            self._retain_at(node, index)
        self._grad_fn, self._output_index, self._requires_grad = node, index, True
        if self._seen is not None and self._counter is not None:
            self._seen.version = self._counter[0]

    def _continue_at(self, edge: Edge) -> None:
        """From now on the gradient of this tensor goes where ``edge`` says."""
        if isinstance(edge.node, AccumulateGrad):
            self._requires_grad = True
            self._extras().accumulator = weakref.ref(edge.node)
        else:
            self._set_history(*edge)

    def _retain_at(self, node: Node, index: int) -> None:
        """From now on ``node`` keeps this tensor's gradient, and not the node before."""
        before = self._grad_fn
        if before is not None and before.attached is not None:
            before.attached.retained.pop(self._output_index, None)
        node.retain(index, self)

    def _with_history(self, node: Node, index: int) -> Tensor:
        """The same memory as output ``index`` of ``node``."""
        tensor = self.detach()
        tensor._set_history(node, index)
        return tensor

    def _bump_version(self) -> None:
        if self._counter is not None:
            self._counter[0] += 1

    # ---- backward ------------------------------------------------------------------------------------------------

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        """Adds the gradient of this tensor to the ``grad`` of the leaves it was computed from, as torch.Tensor.backward.

        Args:
            gradient: the vector of the vector-Jacobian product, of this tensor's shape; a scalar may leave it out.
            retain_graph: keep the graph for another pass (default: ``create_graph``).
            create_graph: record the pass itself, for higher derivatives.
            inputs: accumulate into these tensors only.
        """
        from tinyflow import autograd

        autograd.backward(self, gradient, retain_graph, create_graph, inputs)

    def retain_grad(self) -> None:
        """Keeps the gradient of this non-leaf tensor in ``grad`` during backward."""
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self.is_leaf or self.retains_grad:
            return
        self._extras().retains_grad = True
        node = self.grad_fn
        if node is not None:
            node.retain(self._output_index, self)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Calls ``hook(grad)`` when the gradient of this tensor is known; a tensor that it returns takes its place."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        node = self.grad_fn
        if node is not None:
            return RemovableHandle(node.hooks_of_output(self._output_index), hook)
        rare = self._extras()
        if rare.hooks is None:
            rare.hooks = OrderedDict()
            accumulator = None if rare.accumulator is None else rare.accumulator()
            if accumulator is not None:
                accumulator.attach().tensor_hooks[0] = rare.hooks
        return RemovableHandle(rare.hooks, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Calls ``hook(param)`` after a gradient was added to this leaf's ``grad``."""
        if not self.is_leaf:
            raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        rare = self._extras()
        if rare.post_accumulate_hooks is None:
            rare.post_accumulate_hooks = OrderedDict()
        return RemovableHandle(rare.post_accumulate_hooks, hook)

    # ---- in and out ----------------------------------------------------------------------------------------------

    def _hand_out(self) -> Buffer:
        """The memory, for someone whose changes no version counts."""
        base = self._base
        if base is not None:
            memory.hand_out(base._data)
        return memory.hand_out(self._data)

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The same memory as a numpy array (``force=True``: detached, and copied from a GPU).

        Raises:
            RuntimeError: if the tensor requires grad.
            TypeError: if it is on a GPU, or bfloat16, which numpy lacks.
        """
        if self.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        memory.check_host_access("numpy()")
        if self.device.type != "cpu":
            if not force:
                raise TypeError(
                    f"can't convert {self.device} device type tensor to numpy. Copy it with Tensor.cpu() first."
                )
            return memory.to_numpy(self.detach().cpu()._data)
        if self.dtype == memory.bfloat16:
            raise TypeError("numpy has no bfloat16. Use tensor.float().numpy() instead.")
        return memory.to_numpy(self._hand_out())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        return self._hand_out().__dlpack__(**kwargs)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.requires_grad:
            raise RuntimeError(
                "Can't get __cuda_array_interface__ on Tensor that requires grad. Use tensor.detach() first."
            )
        return self._hand_out().__cuda_array_interface__

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    def __iter__(self) -> Iterator[Tensor]:
        if self.dim() == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol; detach() it first"
            )
        if id(self) in memo:
            return memo[id(self)]
        copied = type(self).__new__(type(self))
        Tensor.__init__(copied, elementwise.copy(self._data), self._requires_grad)
        memo[id(self)] = copied
        if self.grad is not None:
            copied.grad = self.grad.__deepcopy__(memo)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not self.is_leaf:
            raise RuntimeError("only leaf tensors can be pickled; detach() it first")
        data = self._data
        if memory.storage_bytes(data) > self.nbytes:  # a part of something larger, which would be written whole
            data = elementwise.copy(data)
        return _rebuild, (type(self), memory.to_host(data), str(self.device), self._requires_grad)


def _rebuild(kind: type[Tensor], host: Buffer, device: str, requires_grad: bool) -> Tensor:
    tensor = kind.__new__(kind)
    Tensor.__init__(tensor, memory.to_device(host, memory.as_device(device)), requires_grad)
    return tensor


__all__ = ["Size", "Tensor"]
