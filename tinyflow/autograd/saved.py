"""What nodes keep for the backward pass, and the hooks that may keep it elsewhere or in another form.

>>> with saved_tensors_hooks(pack=lambda x: x.half(), unpack=lambda kept: kept.float()):
...     loss = model(images).sum()
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyflow.autograd.grad_mode import mode, no_grad

if TYPE_CHECKING:
    from tinyflow.autograd.graph import Node
    from tinyflow.kernels.memory import Buffer
    from tinyflow.tensor import Tensor

Pack = Callable[["Tensor"], Any]
Unpack = Callable[[Any], "Tensor"]


class Hooks(NamedTuple):
    """A pair of hooks: what keeps a tensor, and what gives it back."""

    pack: Pack
    unpack: Unpack


class SavedTensor:
    """A tensor kept for the backward pass, which must not change in between.

    The node's own output is kept without its history, which would tie the node to itself; :meth:`unpack` gives it back.
    """

    __slots__ = ("_tensor", "_version", "_output_index", "_data", "_counter", "_packed", "__weakref__")

    def __init__(self, tensor: Tensor, output_index: int | None = None) -> None:
        counter = tensor._counter
        if counter is None:
            raise RuntimeError(
                "Inference tensors cannot be saved for backward. Please do not use Tensors created in inference mode in "
                "computation tracked by autograd. To work around this, you can make a clone to get a normal tensor and "
                "use it in autograd, or use no_grad() instead of inference_mode()."
            )
        self._tensor: Tensor | None = tensor if output_index is None else None
        self._data, self._counter, self._version = tensor._data, counter, counter[0]
        self._output_index = output_index
        self._packed: tuple[Hooks, Any] | None = None

    @property
    def is_packed(self) -> bool:
        """True if hooks keep the tensor."""
        return self._packed is not None

    def held(self) -> Tensor | None:
        """The tensor as it is kept; None where hooks keep it."""
        if self._packed is not None:
            return None
        return self._bare() if self._tensor is None else self._tensor

    def _bare(self) -> Tensor:
        from tinyflow.tensor import Tensor

        return Tensor(self._data, _counter=self._counter)

    def unpack(self, node: Node) -> Tensor:
        """The tensor with its history.

        Raises:
            RuntimeError: if it was changed in place since it was saved.
        """
        if self._packed is not None:
            return self._through_hooks(node)
        if self._counter[0] != self._version:
            raise RuntimeError(
                f"{node.name()}: one of the variables needed for gradient computation has been modified by an inplace "
                f"operation: a tensor of shape {tuple(self._data.shape)} and dtype {self._data.dtype} is at version "
                f"{self._counter[0]}; "
                f"expected version {self._version}. Work on a clone(), or change it after backward()."
            )
        tensor = self._tensor
        if tensor is None:
            tensor = self._bare()
            tensor._set_history(node, self._output_index)  # type: ignore[arg-type]  # an output has one
            if mode.dual_levels:
                mode.dual_levels[-1].restore(tensor, node, self._output_index)
        tensor._fresh = False
        return tensor

    def forget_output(self, output: Tensor) -> None:
        """Gives back ``output``, which was saved as one of the node's own, with the history that it has."""
        if self._output_index is not None:
            self._tensor, self._output_index = output, None

    def move_to(self, data: Buffer) -> None:
        """Keeps the same values in other memory from now on."""
        from tinyflow.tensor import Tensor

        kept, self._data, self._counter, self._version = self._tensor, data, [0], 0
        if kept is not None:
            edge = kept._edge()
            self._tensor = Tensor(data, _counter=self._counter)
            if edge is not None:
                self._tensor._continue_at(edge)

    def register_hooks(self, pack_hook: Pack, unpack_hook: Unpack) -> None:
        """Hands the tensor to ``pack_hook`` now, and takes it from ``unpack_hook`` when it is needed.

        Raises:
            RuntimeError: if it has hooks already, or ``pack_hook`` changes the tensor in place.
        """
        if self._packed is not None:
            raise RuntimeError("Calling register_hooks on a saved tensor whose hooks have already been set.")
        if not callable(pack_hook) or not callable(unpack_hook):
            raise TypeError("register_hooks: expected two functions, pack_hook(tensor) and unpack_hook(packed)")
        given = self._bare()
        with no_grad():
            packed = pack_hook(given)
        if self._counter[0] != self._version:
            raise RuntimeError(
                "A saved tensor pack hook is modifying its input in place. Tensors provided as input to pack hook can "
                "not be modified by in-place operations: pack a clone()."
            )
        kept = self._tensor
        history = None if kept is None else (kept._requires_grad, kept._edge())
        self._packed = Hooks(pack_hook, unpack_hook), (packed, history)
        self._tensor = None
        del self._data, self._counter

    def _through_hooks(self, node: Node) -> Tensor:
        assert self._packed is not None
        (_, unpack_hook), (packed, history) = self._packed
        from tinyflow.tensor import Tensor

        given = unpack_hook(packed)
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{node.name()}: output of saved tensor unpack_hook expected to be a Tensor but got result of type "
                f"{type(given).__name__}"
            )
        tensor = given.detach()
        if history is None:
            tensor._set_history(node, self._output_index)  # type: ignore[arg-type]  # an output has one
        elif history[1] is not None:
            tensor._continue_at(history[1])
        return tensor


class saved_tensors_hooks:
    """A context in which every tensor that an operation saves is handed to ``pack_hook``, and what that returns is kept.

    ``unpack_hook`` makes of it a tensor again when the backward pass needs it, equal in contents, shape, dtype and device;
    that it was not changed in between is not checked. The innermost context counts. A pack hook must not change its
    argument in place.
    """

    def __init__(self, pack_hook: Pack, unpack_hook: Unpack) -> None:
        self.pack_hook, self.unpack_hook = pack_hook, unpack_hook

    def __enter__(self) -> None:
        if mode.hooks_forbidden:
            raise RuntimeError(mode.hooks_forbidden[-1])
        mode.saved_tensor_hooks.append(Hooks(self.pack_hook, self.unpack_hook))
        mode.look()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.saved_tensor_hooks.pop()
        mode.look()


class save_on_cpu(saved_tensors_hooks):
    """A context in which saved tensors move to host memory, and back when the backward pass needs them.

    Args:
        pin_memory: to page-locked memory, from which they come back in the background.
        device_type: kept for torch's sake; tensors go back to the device that they came from.
    """

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        def pack(tensor: Tensor) -> tuple[Any, Tensor]:
            host = tensor.cpu()
            if host._data is tensor._data:
                host = host.clone()
            return tensor.device, host.pin_memory() if pin_memory else host

        def unpack(packed: tuple[Any, Tensor]) -> Tensor:
            device, host = packed
            return host.to(device, non_blocking=pin_memory)

        super().__init__(pack, unpack)


class disable_saved_tensors_hooks:
    """A context in which saved-tensor hooks are refused with ``error_message``."""

    def __init__(self, error_message: str) -> None:
        self.error_message = error_message

    def __enter__(self) -> None:
        if mode.saved_tensor_hooks:
            raise RuntimeError(self.error_message)
        mode.hooks_forbidden.append(self.error_message)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.hooks_forbidden.pop()
