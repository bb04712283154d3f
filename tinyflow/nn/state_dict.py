"""State dictionaries: a module tree's parameters and buffers by name, taken out and put back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.autograd.graph import RemovableHandle
from tinyflow.nn.hooks import register
from tinyflow.nn.parameter import Parameter
from tinyflow.tensor import Tensor

if TYPE_CHECKING:
    from tinyflow.nn.module import Module

#: Key under which a module's ``get_extra_state`` is stored.
EXTRA_STATE = "_extra_state"


class StateDict(OrderedDict):
    """Names to tensors, in the order of registration, with each module's version in ``_metadata``."""

    _metadata: dict[str, dict[str, Any]]


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(strict=False)`` did not find (``missing_keys``) or not use (``unexpected_keys``)."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Stateful:
    """The part of a module that saves and loads its state."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent_buffers_set: set[str]
    _state_dict_hooks: OrderedDict[int, Callable[..., Any]]
    _state_dict_pre_hooks: OrderedDict[int, Callable[..., Any]]
    _load_state_dict_pre_hooks: OrderedDict[int, Callable[..., Any]]
    _load_state_dict_post_hooks: OrderedDict[int, Callable[..., Any]]

    #: Version of what a subclass saves; ``_load_from_state_dict`` finds the file's in ``local_metadata``.
    _version = 1

    def get_extra_state(self) -> Any:
        """Anything picklable to be saved beside the tensors; override together with ``set_extra_state``."""
        raise NotImplementedError(f"{type(self).__name__}.get_extra_state is not defined")

    def set_extra_state(self, state: Any) -> None:
        """Takes back what ``get_extra_state`` gave."""
        raise NotImplementedError(f"{type(self).__name__}.set_extra_state is not defined")

    def _has_extra_state(self) -> bool:
        return type(self).get_extra_state is not Stateful.get_extra_state

    def _persistent(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._parameters.items():
            if parameter is not None:
                yield name, parameter
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers_set:
                yield name, buffer

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._persistent():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        if self._has_extra_state():
            destination[prefix + EXTRA_STATE] = self.get_extra_state()

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """Parameters and persistent buffers of this module and all below it, by dotted name.

        The tensors share memory with the module. They are detached from the graph unless ``keep_vars``.
        """
        if destination is None:
            destination = StateDict()
            destination._metadata = {}
        metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = metadata
        for hook in self._state_dict_pre_hooks.values():
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, child in self._modules.items():
            if child is not None:
                child.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._state_dict_hooks.values():
            replaced = hook(self, destination, prefix, metadata)
            destination = destination if replaced is None else replaced
        return destination

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Copies this module's own entries of ``state_dict``; lists what does not fit."""
        for hook in self._load_state_dict_pre_hooks.values():
            hook(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, tensor in list(self._persistent()):
            key = prefix + name
            if key in state_dict:
                error = _mismatch(key, tensor, state_dict[key])
                if error is None:
                    self._put(name, tensor, state_dict[key], assign)
                else:
                    error_msgs.append(error)
            elif strict:
                missing_keys.append(key)
        if self._has_extra_state():
            if prefix + EXTRA_STATE in state_dict:
                self.set_extra_state(state_dict[prefix + EXTRA_STATE])
            elif strict:
                missing_keys.append(prefix + EXTRA_STATE)
        if strict:
            unexpected_keys.extend(self._unexpected(state_dict, prefix))

    def _put(self, name: str, own: Tensor, value: Tensor, assign: bool) -> None:
        if not assign:
            with no_grad():
                own.copy_(value)
        elif isinstance(own, Parameter):
            setattr(self, name, Parameter(value.detach(), requires_grad=own.requires_grad))
        else:
            setattr(self, name, value)

    def _unexpected(self, state_dict: Mapping[str, Any], prefix: str) -> Iterator[str]:
        own = {name for name, _ in self._persistent()}
        for key in state_dict:
            if not key.startswith(prefix):
                continue
            first, *deeper = key[len(prefix) :].split(".", 1)
            if first == EXTRA_STATE and not deeper and self._has_extra_state():
                continue
            if first not in (self._modules if deeper else own):
                yield key

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copies values from ``state_dict`` into parameters and buffers of the same name.

        Args:
            state_dict: names to tensors, as ``state_dict()`` gives.
            strict: whether a key that is missing, or one too many, is an error.
            assign: take the given tensors themselves (their dtype and device too) instead of copying their values.

        Raises:
            TypeError: if ``state_dict`` is no mapping.
            RuntimeError: listing every missing or unexpected key (if strict) and every size that differs.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict: expected a mapping of names to tensors, got {type(state_dict).__name__}")
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        metadata = getattr(state_dict, "_metadata", {})
        given = dict(state_dict)
        _load(self, given, "", metadata, assign, missing, unexpected, errors)
        if strict:
            errors[:0] = [
                f"{what} key(s) in state_dict: " + ", ".join(f'"{key}"' for key in keys) + ". "
                for what, keys in (("Missing", missing), ("Unexpected", unexpected))
                if keys
            ]
        if errors:
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors))
        return IncompatibleKeys(missing, unexpected)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(module, prefix, keep_vars)`` before this module's state is taken."""
        return register(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(module, state_dict, prefix, local_metadata)`` after it; may change ``state_dict`` in place."""
        return register(self._state_dict_hooks, hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(module, state_dict, prefix, local_metadata, strict, missing, unexpected, errors)`` before loading."""
        return register(self._load_state_dict_pre_hooks, hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """``hook(module, incompatible_keys)`` after loading; may change the two lists in place."""
        return register(self._load_state_dict_post_hooks, hook)


def _mismatch(key: str, own: Tensor, value: Any) -> str | None:
    if not isinstance(value, Tensor):
        return f'while copying the parameter named "{key}", expected a tinyflow Tensor, got {type(value).__name__}'
    if tuple(value.shape) != tuple(own.shape):
        return (
            f"size mismatch for {key}: copying a param with shape {tuple(value.shape)} from checkpoint, "
            f"the shape in current model is {tuple(own.shape)}."
        )
    return None


def _load(
    module: Any,
    state_dict: dict[str, Any],
    prefix: str,
    metadata: Mapping[str, Any],
    assign: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    local = dict(metadata.get(prefix[:-1], {}))
    if assign:
        local["assign_to_params_buffers"] = True
    module._load_from_state_dict(state_dict, prefix, local, True, missing, unexpected, errors)
    for name, child in module._modules.items():
        if child is not None:
            _load(child, state_dict, f"{prefix}{name}.", metadata, assign, missing, unexpected, errors)
    incompatible = IncompatibleKeys(missing, unexpected)
    for hook in module._load_state_dict_post_hooks.values():
        if hook(module, incompatible) is not None:
            raise RuntimeError(
                "load_state_dict_post_hook: expected hooks to return None; change the two lists in place"
            )
