"""Parameters that are computed from others: a module's attribute becomes a property that applies modules to what is learnt.

    register_parametrization(layer, "weight", Symmetric())
    layer.weight                                  # Symmetric()(layer.parametrizations.weight.original)
    layer.weight = w                              # through Symmetric.right_inverse, if there is one
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tinyflow.autograd.grad_mode import no_grad
from tinyflow.nn.containers import ModuleDict, ModuleList
from tinyflow.nn.module import Module
from tinyflow.nn.parameter import Parameter
from tinyflow.tensor import Tensor


class _Cache(threading.local):
    def __init__(self) -> None:
        self.depth = 0
        self.values: dict[tuple[int, str], Tensor] = {}


_cache = _Cache()


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Within the block every parametrised tensor is computed once, when it is first asked for."""
    _cache.depth += 1
    try:
        yield
    finally:
        _cache.depth -= 1
        if not _cache.depth:
            _cache.values = {}


class ParametrizationList(ModuleList):
    """The parametrisations of one tensor, applied in order, and what they are applied to: ``original``, or
    ``original0``, ``original1``, … where the first one takes several tensors.

    Args:
        modules: the parametrisations.
        original: the tensor that is replaced.
        unsafe: whether they may change shape or dtype; what they return is then not looked at.

    Raises:
        ValueError: if they do.
    """

    original: Tensor

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        if not modules:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        self.ntensors = 1
        value: Any = original
        with no_grad():
            for module in reversed(list(self)):
                if hasattr(module, "right_inverse"):
                    value = module.right_inverse(value)
        self.is_tensor = isinstance(value, Tensor)
        self._take(original, value)
        if not unsafe:
            self._check(original)

    def _take(self, original: Tensor, value: Any) -> None:
        """Stores what is learnt; a single tensor stays the object that it was, so that an optimiser still knows it."""
        if self.is_tensor:
            self._store("original", original, value)
            return
        if not isinstance(value, (tuple, list)) or not all(isinstance(x, Tensor) for x in value):
            raise ValueError(
                f"'right_inverse' must return a Tensor or a sequence of tensors, got {type(value).__name__}"
            )
        self.ntensors = len(value)
        for k, x in enumerate(value):
            learnt = Parameter(x.detach(), original.requires_grad) if isinstance(original, Parameter) else x
            self._store(f"original{k}", learnt, x)

    def _store(self, name: str, place: Tensor, value: Tensor) -> None:
        if place is not value:
            place.data = value.detach() if value.is_contiguous() else value.detach().contiguous()
        if isinstance(place, Parameter):
            self.register_parameter(name, place)
        else:
            self.register_buffer(name, place)

    def _check(self, original: Tensor) -> None:
        with no_grad():
            result = self()
        if not isinstance(result, Tensor):
            raise ValueError(f"A parametrization must return a tensor. Got {type(result).__name__}.")
        if result.dtype != original.dtype or tuple(result.shape) != tuple(original.shape):
            raise ValueError(
                "Registering a parametrization may not change the shape or the dtype of the tensor, unless the `unsafe` "
                f"flag is enabled: expected {tuple(original.shape)} {original.dtype}, got {tuple(result.shape)} "
                f"{result.dtype}"
            )

    def _originals(self) -> list[Tensor]:
        return [self.original] if self.is_tensor else [getattr(self, f"original{k}") for k in range(self.ntensors)]

    def forward(self) -> Tensor:
        first, *others = list(self)
        value = first(*self._originals())
        for module in others:
            value = module(value)
        return value

    def right_inverse(self, value: Tensor) -> None:
        """Sets what is learnt so that the parametrisations give ``value``, as far as they can.

        Raises:
            RuntimeError: if a parametrisation has no ``right_inverse``.
            ValueError: if it gives other numbers of tensors, shapes or dtypes.
        """
        with no_grad():
            result: Any = value
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"parametrization {type(module).__name__} does not implement right_inverse, so the tensor that "
                        "it computes cannot be assigned"
                    )
                result = module.right_inverse(result)
            results = [result] if isinstance(result, Tensor) else list(result)
            places = self._originals()
            if len(results) != len(places):
                raise ValueError(f"'right_inverse' must return {len(places)} tensors, got {len(results)}")
            for place, x in zip(places, results):
                if x.dtype != place.dtype:
                    raise ValueError(f"'right_inverse' must return a tensor of dtype {place.dtype}, got {x.dtype}")
                if x.shape == place.shape:
                    place.copy_(x)
                else:
                    place.data = x.detach()


#: The class of modules of a class with these tensors computed.
_classes: dict[tuple[Any, tuple[str, ...]], Any] = {}


def _parametrized(base: type[Module], names: tuple[str, ...]) -> type[Module]:
    """The class of a module of class ``base`` with the tensors ``names`` computed, one for all such modules."""
    if (base, names) not in _classes:
        members: dict[str, Any] = {name: _property(name) for name in names}
        members |= {
            "__reduce_ex__": lambda self, protocol: (_empty, (base, names), self.__dict__),
            "parametrized_base": base,
            "parametrized_names": names,
        }
        _classes[base, names] = type(f"Parametrized{base.__name__}", (base,), members)
    found: type[Module] = _classes[base, names]
    return found


def _empty(base: type[Module], names: tuple[str, ...]) -> Module:
    """A module of a parametrised class as it is before its state is set: for copies and pickles."""
    return object.__new__(_parametrized(base, names))


def _property(name: str) -> property:
    def get(self: Any) -> Tensor:
        parametrization = self.parametrizations[name]
        if not _cache.depth:
            return parametrization()
        key = id(self), name
        if key not in _cache.values:
            _cache.values[key] = parametrization()
        return _cache.values[key]

    def assign(self: Any, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"cannot assign '{type(value).__name__}' object to parametrized '{name}' (Tensor expected)")
        self.parametrizations[name].right_inverse(value)

    return property(get, assign)


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Computes a parameter or buffer of a module by ``parametrization`` from now on; further ones apply after it.

    If the parametrisation has ``right_inverse``, it is called with the present value to find what is learnt (a tensor, or
    several, which then are the arguments of ``forward``).

    Args:
        unsafe: whether shape and dtype may change.

    Returns:
        The module, changed in place.

    Raises:
        ValueError: if there is no such tensor, or shape or dtype change.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        found: Any = module.parametrizations[tensor_name]
        before = module.__getattribute__(tensor_name).detach()
        found.unsafe = found.unsafe or unsafe
        if not unsafe and hasattr(parametrization, "right_inverse"):
            with no_grad():
                value = parametrization.right_inverse(before)
                if isinstance(value, Tensor):
                    _assign_below(found, value)
        found.append(parametrization)
        if not unsafe:
            try:
                found._check(before)
            except ValueError:
                del found[len(found) - 1]
                raise
        return module
    original = module._parameters.get(tensor_name, module._buffers.get(tensor_name))
    if original is None:
        raise ValueError(f"Module '{module}' does not have a parameter, a buffer, or a parametrized element '{tensor_name}'")
    listed = ParametrizationList([parametrization], original, unsafe)
    if not hasattr(module, "parametrizations"):
        module.parametrizations = ModuleDict()
    delattr(module, tensor_name)
    module.parametrizations[tensor_name] = listed
    _become(module, (*_names(module), tensor_name))
    return module


def _assign_below(found: ParametrizationList, value: Tensor) -> None:
    """What a further parametrisation wants below it, where those below can give it."""
    if all(hasattr(m, "right_inverse") for m in found):
        found.right_inverse(value)


def _names(module: Module) -> tuple[str, ...]:
    return getattr(type(module), "parametrized_names", ())


def _become(module: Module, names: tuple[str, ...]) -> None:
    base = type_before_parametrizations(module)
    module.__class__ = _parametrized(base, names) if names else base


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether any tensor of the module itself, or that one, is computed."""
    names = _names(module)
    return bool(names) if tensor_name is None else tensor_name in names


def type_before_parametrizations(module: Module) -> type[Module]:
    """The class that the module was made of."""
    return getattr(type(module), "parametrized_base", type(module))


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Makes the tensor a parameter or buffer again.

    Args:
        leave_parametrized: with the value that is computed now; else with what was learnt, if that is one tensor.

    Returns:
        The module, changed in place.

    Raises:
        ValueError: if the tensor is not parametrised, or what was learnt are several tensors that should be left.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    found: Any = module.parametrizations[tensor_name]
    originals = found._originals()
    if not leave_parametrized and not found.is_tensor:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a "
            "sequence of tensors."
        )
    tensor = originals[0]
    if leave_parametrized:
        with no_grad():
            value = getattr(module, tensor_name).detach()
        if not found.is_tensor:
            tensor = Parameter(value, originals[0].requires_grad) if isinstance(tensor, Parameter) else value
        elif tensor is not value:
            tensor.data = value
    del module.parametrizations[tensor_name]
    _become(module, tuple(n for n in _names(module) if n != tensor_name))
    if not len(module.parametrizations):
        del module.parametrizations
    if isinstance(tensor, Parameter):
        module.register_parameter(tensor_name, tensor)
    else:
        module.register_buffer(tensor_name, tensor)
    return module
