"""Launches and device-function calls without Triton's overhead for each.

Triton's interpreter copies every argument's storage and patches its own language module for each launch, and again for
each call of a device function. Here a kernel's signature is read once, arguments in host memory are used where they lie,
and the language stays patched while the interpreter is installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter as stock
from triton.runtime.errors import InterpreterError

from tinyflow.kernels.interpreter import forms, memo, memory, observer
from tinyflow.kernels.interpreter.forms import INT32, INT64, POINTER
from tinyflow.kernels.interpreter.handles import symbolic

#: The kernel that runs, or None.
current: Any = None

_POINTER_TYPES: dict[Any, Any] = {}


def program() -> tuple[int, int, int]:
    """The index of the program that runs."""
    return stock.interpreter_builder.grid_idx


class _Signature:
    """A kernel as a Python function, with its parameters."""

    def __init__(self, kernel: Any) -> None:
        self.function: Callable[..., Any] = kernel.rewrite()
        parameters = inspect.signature(self.function).parameters
        self.names = list(parameters)
        self.known = frozenset(self.names)
        self.defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
        executor = stock.GridExecutor(self.function, kernel.arg_names, (1,), [])
        self.constexprs = frozenset(executor.constexprs)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Arguments by name, or None where the call is not a plain one."""
        if len(args) > len(self.names):
            return None
        bound = {**self.defaults, **dict(zip(self.names, args))}
        for name, value in kwargs.items():
            if name in self.known:
                bound[name] = value
        return bound if len(bound) == len(self.names) else None


def _signature(kernel: Any) -> _Signature:
    signature = kernel.__dict__.get("_tinyflow_signature")
    if signature is None:
        signature = kernel._tinyflow_signature = _Signature(kernel)
    return signature


_NUMBERS = frozenset((int, float, bool, str, type(None)))


def _in_host_memory(value: Any) -> bool:
    if type(value) in _NUMBERS:
        return True
    if isinstance(value, tuple):
        return all(type(v) in _NUMBERS or _in_host_memory(v) for v in value)
    if isinstance(value, stock.TensorDescriptor):
        return _in_host_memory(value.base)
    device = getattr(value, "device", None)
    if device is not None:
        return getattr(device, "type", "") == "cpu" and hasattr(value, "data_ptr") and hasattr(value, "dtype")
    return not hasattr(value, "data_ptr")


def _convert(value: Any) -> Any:
    """An argument as a kernel value, as ``_implicit_cvt`` makes it."""
    if type(value) is int and -(2**63) <= value < 2**63:
        if -(2**31) <= value < 2**31:
            return memo.scalar(value, tl.int32, INT32)
        return memo.scalar(value, tl.int64, INT64)
    if hasattr(value, "data_ptr"):
        kind = _POINTER_TYPES.get(value.dtype)
        if kind is None:
            kind = _POINTER_TYPES[value.dtype] = stock._implicit_cvt(value).type
        return tl.tensor(symbolic(forms.scalar(value.data_ptr(), POINTER), kind), kind)
    if type(value) is tuple:
        return memo.numbers(value, _convert) if all(type(v) is int for v in value) else tuple(map(_convert, value))
    return stock._implicit_cvt(value)


_ONLY_INTEGERS = frozenset((int,))


def _kernel_values(bound: dict[str, Any], constexprs: frozenset[str]) -> dict[str, Any] | None:
    """Arguments as kernel values, or None if one is not in host memory."""
    values = {}
    for name, value in bound.items():
        kind = type(value)
        if name in constexprs:
            values[name] = value
        elif kind is int:
            values[name] = _convert(value)
        elif kind is tuple and _ONLY_INTEGERS.issuperset(map(type, value)):
            values[name] = memo.numbers(value, _convert)
        elif _in_host_memory(value):
            values[name] = _convert(value)
        else:
            return None
    return values


def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """``InterpretedFunction.run``: ``kernel[grid](*args, **kwargs)``."""
    global current
    if warmup:
        return
    signature = _signature(self)
    constexprs = signature.constexprs
    bound = None if self.pre_run_hooks else signature.bind(args, kwargs)
    values = None if bound is None else _kernel_values(bound, constexprs)
    if bound is None or values is None:
        try:
            with np.errstate(all="ignore"):
                stock.GridExecutor(signature.function, self.arg_names, grid, self.pre_run_hooks)(*args, **kwargs)
        finally:
            memory.flush()
            memory.release()
            memory.forget()
        return
    shape = tuple(grid(values) if callable(grid) else grid)
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"grid must have one to three dimensions, got {shape}")
    shape = (*map(int, shape), *(1,) * (3 - len(shape)))
    before, current = current, self
    try:
        with np.errstate(all="ignore"):
            _run_grid(self, signature.function, bound, values, shape)
    finally:
        current = before


def _run_grid(kernel: Any, function: Callable[..., Any], bound: Any, values: Any, grid: tuple[int, int, int]) -> None:
    builder = stock.interpreter_builder
    builder.set_grid_dim(*grid)
    watcher = observer.current
    try:
        if watcher is not None:
            watcher.on_launch(kernel, bound, grid)
        for x in range(grid[0]):
            for y in range(grid[1]):
                for z in range(grid[2]):
                    builder.grid_idx = (x, y, z)
                    if watcher is not None:
                        watcher.on_program((x, y, z))
                    function(**values)
                    memory.flush()
        if watcher is not None:
            watcher.on_finish(kernel, bound)
    except Exception as error:
        memory.flush()
        memory.release()  # the traceback keeps values alive, their memory may go
        if triton.knobs.compilation.front_end_debugging or isinstance(error, InterpreterError):
            raise
        raise InterpreterError(repr(error)) from error
    finally:
        memory.forget()


def call(self: Any, *args: Any, **kwargs: Any) -> Any:
    """``InterpretedFunction.__call__``: a device function called from a kernel."""
    function = self.__dict__.get("_tinyflow_function")
    if function is None:
        function = self._tinyflow_function = self.rewrite()
    parts = tuple([memo.key_of(v) for v in (*args, *kwargs.values())])
    if None in parts or stock.interpreter_builder.options.debug:
        return function(*args, **kwargs)
    key = (id(self), parts, *kwargs)
    found = memo.find(key)
    if found is not None:
        return found
    before = memo.effects
    result = function(*args, **kwargs)
    if memo.effects == before:
        memo.remember_call(key, result, (self, *args, *kwargs.values()))
    return result


class NoScope:
    """What patching the language for one call gives while it is patched anyway."""

    def restore(self) -> None:
        return None


def patch_lang(fn: Any) -> NoScope:
    """``_patch_lang``: nothing to do."""
    return NoScope()
