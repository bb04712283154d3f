"""Module: a node of the tree that a model is, owner of parameters, buffers and further modules."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tinyflow
from tinyflow.autograd.grad_mode import no_grad
from tinyflow.autograd.graph import RemovableHandle
from tinyflow.nn.hooks import BackwardHooks, ForwardHook, register
from tinyflow.nn.parameter import Parameter
from tinyflow.nn.state_dict import Stateful
from tinyflow.tensor import Tensor

T = TypeVar("T", bound="Module")

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class Module(Stateful):
    """Base of every layer and model.

    A subclass calls ``super().__init__()``, assigns parameters, buffers and modules as attributes, and defines
    ``forward``. Calling the module runs its hooks and ``forward``.
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]

    def __init__(self) -> None:
        for name, value in (
            ("training", True),
            ("_parameters", {}),
            ("_buffers", {}),
            ("_non_persistent_buffers_set", set()),
            ("_modules", {}),
        ):
            object.__setattr__(self, name, value)
        for name in _HOOKS:
            object.__setattr__(self, name, OrderedDict())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass defines it."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # Attributes

    def __getattr__(self, name: str) -> Any:
        for table in ("_parameters", "_buffers", "_modules"):
            entries = self.__dict__.get(table)
            if entries is not None and name in entries:
                return entries[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._forget(name, "parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._forget(name, "modules")
            self._modules[name] = value
        elif not self._replace(name, value):
            object.__setattr__(self, name, value)

    def _forget(self, name: str, kind: str) -> None:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
        for table in ("_parameters", "_buffers", "_modules"):
            if table != f"_{kind}":
                self.__dict__[table].pop(name, None)
        self.__dict__.pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    def _replace(self, name: str, value: Any) -> bool:
        """Puts a value in the place of a registered parameter, module or buffer; False if ``name`` is none of them."""
        for table, expected, kind in (
            ("_parameters", "tinyflow.nn.Parameter", "parameter"),
            ("_modules", "tinyflow.nn.Module", "child module"),
            ("_buffers", "tinyflow.Tensor", "buffer"),
        ):
            entries = self.__dict__.get(table)
            if entries is None or name not in entries:
                continue
            if value is not None and not (kind == "buffer" and isinstance(value, Tensor)):
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' object to {kind} '{name}' of {type(self).__name__} "
                    f"({expected} or None expected)"
                )
            entries[name] = value
            return True
        return False

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = {*super().__dir__(), *self._parameters, *self._buffers, *self._modules}
        return sorted(name for name in names if not name[:1].isdigit())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in _HOOKS:
            self.__dict__.setdefault(name, OrderedDict())

    # Registration

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter under ``name``; ``None`` holds the place of one that is absent."""
        self._check_name("parameter", name, self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' "
                "(tinyflow.nn.Parameter or None required)"
            )
        if param is not None and param.grad_fn is not None:
            raise ValueError(
                f"cannot assign non-leaf Tensor to parameter '{name}': model parameters must be created explicitly; "
                "to express one as a function of another tensor, compute it in forward()"
            )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Adds a tensor that belongs to the state but is not learnt; ``persistent=False`` keeps it from state_dict."""
        self._check_name("buffer", name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (tinyflow.Tensor or None required)"
            )
        self._buffers[name] = tensor
        self._non_persistent_buffers_set.discard(name)
        if not persistent:
            self._non_persistent_buffers_set.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds a child module under ``name``."""
        self._check_name("module", name, self._modules)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._modules[name] = module

    def register_module(self, name: str, module: Module | None) -> None:
        """The same as ``add_module``."""
        self.add_module(name, module)

    def _check_name(self, kind: str, name: str, table: dict[str, Any]) -> None:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if hasattr(self, name) and name not in table:
            raise KeyError(f"attribute '{name}' already exists")

    # Calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return self._call_with_hooks(args, kwargs)
        return self.forward(*args, **kwargs)

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called: set[int] = set()
        try:
            args, kwargs = self._run_forward_pre_hooks(args, kwargs)
            backward = None
            if self._backward_hooks or self._backward_pre_hooks:
                backward = BackwardHooks(self, [*self._backward_hooks.values()], [*self._backward_pre_hooks.values()])
                args = backward.at_input(args)
            result = self.forward(*args, **kwargs)
            for key, hook in list(self._forward_hooks.items()):
                called.add(key)
                result = self._run_forward_hook(hook, args, kwargs, result)
            return result if backward is None else backward.at_output(result)
        except Exception:
            for key, hook in self._forward_hooks.items():
                if hook.always_call and key not in called:
                    self._run_forward_hook(hook, args, kwargs, None)
            raise

    def _run_forward_pre_hooks(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for hook in list(self._forward_pre_hooks.values()):
            answer = hook.call(self, args, kwargs) if hook.with_kwargs else hook.call(self, args)
            if answer is None:
                continue
            if not hook.with_kwargs:
                args = answer if isinstance(answer, tuple) else (answer,)
            elif isinstance(answer, tuple) and len(answer) == 2:
                args, kwargs = answer
            else:
                raise RuntimeError(f"forward pre-hook: expected None or a pair (args, kwargs), got {answer}")
        return args, kwargs

    def _run_forward_hook(self, hook: ForwardHook, args: Any, kwargs: Any, result: Any) -> Any:
        answer = hook.call(self, args, kwargs, result) if hook.with_kwargs else hook.call(self, args, result)
        return result if answer is None else answer

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """``hook(module, args)`` (or ``(module, args, kwargs)``) before ``forward``; may return changed arguments."""
        return register(self._forward_pre_hooks, hook, prepend, ForwardHook(hook, with_kwargs))

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """``hook(module, args, output)`` (or ``(module, args, kwargs, output)``) after ``forward``.

        It may return another output. With ``always_call`` it also runs, with output ``None``, where ``forward`` raises.
        """
        return register(self._forward_hooks, hook, prepend, ForwardHook(hook, with_kwargs, always_call))

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(module, grad_input, grad_output)`` when both are known; may return another grad_input."""
        return register(self._backward_hooks, hook, prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """``hook(module, grad_output)`` before the module's backward; may return another grad_output."""
        return register(self._backward_pre_hooks, hook, prepend)

    # The tree

    def _named(self, table: str, prefix: str, recurse: bool, unique: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=unique) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in getattr(module, table).items():
                if value is None or (unique and id(value) in seen):
                    continue
                seen.add(id(value))
                yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its dotted name, each once."""
        yield from self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Every parameter, each once."""
        yield from (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Every buffer with its dotted name, each once."""
        yield from self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Every buffer, each once."""
        yield from (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below with their names, each once."""
        seen: set[int] = set()
        for name, child in self._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """The modules directly below, each once."""
        yield from (child for _, child in self.named_children())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their dotted names, parents before children."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        yield from (module for _, module in self.named_modules())

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted name; the empty name is this module.

        Raises:
            AttributeError: if there is none.
        """
        module: Module = self
        for name in target.split(".") if target else []:
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted name."""
        return self._get("_parameters", "nn.Parameter", target)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted name."""
        return self._get("_buffers", "buffer", target)

    def _get(self, table: str, kind: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        if getattr(module, table).get(name) is None:
            raise AttributeError(f"`{name}` is not an {kind}" if kind[0] == "n" else f"`{name}` is not a {kind}")
        return getattr(module, table)[name]

    def apply(self: T, fn: Callable[[Module], Any]) -> T:
        """Calls ``fn`` on every module below and at last on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # Modes

    def train(self: T, mode: bool = True) -> T:
        """Puts this module and all below in training mode (or in evaluation mode)."""
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self: T) -> T:
        """Puts this module and all below in evaluation mode."""
        return self.train(False)

    def requires_grad_(self: T, requires_grad: bool = True) -> T:
        """Sets for every parameter whether gradients flow to it."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops every parameter's gradient, or fills it with zeros."""
        for parameter in self.parameters():
            if parameter.grad is None:
                continue
            if set_to_none:
                parameter.grad = None
            else:
                parameter.grad = parameter.grad.detach()
                parameter.grad.zero_()

    # Memory

    def _apply(self: T, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> T:
        """Replaces the memory of every parameter, gradient and buffer by ``fn`` of it; parameters stay themselves."""
        for child in self.children() if recurse else ():
            child._apply(fn)
        with no_grad():
            for parameter in self._parameters.values():
                if parameter is not None:
                    gradient, parameter.grad = parameter.grad, None
                    parameter.data = fn(parameter.detach())
                    if gradient is not None:
                        parameter.grad = fn(gradient.data).requires_grad_(gradient.requires_grad)
            for name, buffer in self._buffers.items():
                if buffer is not None:
                    self._buffers[name] = fn(buffer)
        return self

    def to(self: T, *args: Any, **kwargs: Any) -> T:
        """Moves parameters and buffers: ``to(device)``, ``to(dtype)``, ``to(device, dtype)``, ``to(tensor)``.

        A dtype applies to floating-point tensors only; ``memory_format`` to 4-dimensional ones.
        """
        device, dtype, memory_format = _parse_to(*args, **kwargs)
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={dtype}")

        def convert(x: Tensor) -> Tensor:
            x = x.to(device=device, dtype=dtype if x.dtype.is_floating_point else None)
            return x.contiguous(memory_format=memory_format) if memory_format is not None and x.dim() == 4 else x

        return self._apply(convert)

    def type(self: T, dtype: tinyflow.dtype) -> T:
        """Casts every parameter and buffer to ``dtype``."""
        return self._apply(lambda x: x.to(dtype))

    def float(self: T) -> T:
        """Casts floating-point parameters and buffers to float32."""
        return self.to(tinyflow.float32)

    def double(self: T) -> T:
        """Casts floating-point parameters and buffers to float64."""
        return self.to(tinyflow.float64)

    def half(self: T) -> T:
        """Casts floating-point parameters and buffers to float16."""
        return self.to(tinyflow.float16)

    def bfloat16(self: T) -> T:
        """Casts floating-point parameters and buffers to bfloat16."""
        return self.to(tinyflow.bfloat16)

    def cuda(self: T, device: int | tinyflow.device | None = None) -> T:
        """Moves parameters and buffers to a GPU, the current one by default."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    def cpu(self: T) -> T:
        """Moves parameters and buffers to the CPU."""
        return self.to("cpu")

    def to_empty(self: T, *, device: str | tinyflow.device, recurse: bool = True) -> T:
        """Gives every parameter and buffer new memory on ``device``, its values not initialised."""
        return self._apply(functools.partial(_empty_like, device=device), recurse)

    # Text

    def extra_repr(self) -> str:
        """What ``repr`` shows of this module's own settings."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr().split("\n") if self.extra_repr() else []
        children = [f"({name}): " + indented(repr(child)) for name, child in self._modules.items()]
        if len(extra) == 1 and not children:
            return f"{self._get_name()}({extra[0]})"
        lines = extra + children
        return f"{self._get_name()}(" + ("\n  " + "\n  ".join(lines) + "\n" if lines else "") + ")"


def indented(text: str) -> str:
    """A module's text as it stands inside its parent's."""
    return text.replace("\n", "\n  ")


def _empty_like(x: Tensor, device: Any) -> Tensor:
    return tinyflow.empty_like(x, device=device)


def _parse_to(
    *args: Any,
    device: Any = None,
    dtype: Any = None,
    non_blocking: bool = False,
    memory_format: Any = None,
) -> tuple[Any, Any, Any]:
    for argument in itertools.takewhile(lambda a: not isinstance(a, bool), args):
        if isinstance(argument, Tensor):
            device, dtype = argument.device, argument.dtype
        elif isinstance(argument, tinyflow.dtype):
            dtype = argument
        elif isinstance(argument, (str, int, tinyflow.device)):
            device = argument
        elif argument is not None:
            raise TypeError(f"Module.to: expected a device, a dtype or a Tensor, got {type(argument).__name__}")
    return device, dtype, memory_format
