"""Turns the checks on and off: the one place where they take hold of Triton's interpreter."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import triton
from triton.runtime import interpreter as stock

from tinyflow.kernels import environment, memory
from tinyflow.kernels.interpreter import installation
from tinyflow.kernels.interpreter import memory as loads
from tinyflow.kernels.interpreter.checks import bounds, overflow, replay
from tinyflow.kernels.interpreter.checks.access import Access, lanes_on
from tinyflow.kernels.interpreter.checks.launch import Launch, bind, without_tags
from tinyflow.kernels.interpreter.checks.report import failure, here
from tinyflow.kernels.interpreter.checks.tensors import find_tensors
from tinyflow.kernels.interpreter.checks.written import Allocations

DEFAULT_SEED = 0


class _Mode:
    """What is in force."""

    def __init__(self) -> None:
        self.depth = 0
        self.seed: int | None = DEFAULT_SEED
        self.allocations = Allocations()
        self.launch: Launch | None = None
        self.undo: list[Callable[[], None]] = []


_mode = _Mode()


def enabled() -> bool:
    """True while kernels run under the checks."""
    return _mode.depth > 0


@contextlib.contextmanager
def strict(seed: int | None = None) -> Iterator[None]:
    """Runs the kernels launched in a block under every check; a failed one raises :class:`StrictError`.

    At the end of the block, tensors declared with :func:`fresh` must be wholly written.

    Args:
        seed: draws the order of programs; by default ``TINYFLOW_STRICT_SEED``, else 0.

    >>> with strict():
    ...     my_kernel[grid](x, out, n, BLOCK=128)
    """
    before = _mode.seed
    enable(seed)
    try:
        yield
        check_fresh()
    finally:
        disable()
        _mode.seed = before


def enable(seed: int | None = None) -> None:
    """Turns the checks on until as many calls of :func:`disable`."""
    _mode.depth += 1
    if seed is not None:
        _mode.seed = seed
    elif _mode.depth == 1:
        _mode.seed = environment.integer("TINYFLOW_STRICT_SEED") or DEFAULT_SEED
    if _mode.depth == 1:
        _take_hold()


def enable_if_wanted() -> bool:
    """What tinyflow does when it is imported: :func:`enable` if ``TINYFLOW_STRICT=1``. True if it did."""
    wanted = environment.flag("TINYFLOW_STRICT")
    if wanted:
        enable()
    return wanted


def disable() -> None:
    """Undoes one :func:`enable`; the last one leaves the interpreter as it was."""
    if _mode.depth == 0:
        raise RuntimeError("strict.disable: the checks are not on")
    _mode.depth -= 1
    if _mode.depth == 0:
        _let_go()
        _mode.allocations.clear()


def fresh(tensor: Any) -> Any:
    """Declares that nothing has written to a tensor yet and that all of it shall be written; returns the tensor.

    Its memory is filled with NaN marks. Reading it before it is written is an error, and so is leaving an element
    unwritten until the ``strict()`` block ends or :func:`check_written` looks.
    """
    if not enabled():
        raise RuntimeError("fresh: call it inside `with strict():`, where what is written is followed")
    _mode.allocations.follow(tensor, must_be_written=True)
    return tensor


def check_written(tensor: Any) -> None:
    """Raises :class:`StrictError` if a followed tensor has elements that no kernel wrote."""
    _mode.allocations.check_complete(tensor)


def check_fresh() -> None:
    """Raises :class:`StrictError` if a tensor declared with :func:`fresh` is not wholly written; else forgets them."""
    _mode.allocations.check_all_complete()


# ---- taking hold -------------------------------------------------------------------------------------------------


def _take_hold() -> None:
    builder = stock.interpreter_builder
    _replace(stock.InterpretedFunction, "run", _run)
    _replace(builder, "options", lambda inner: dataclasses.replace(inner, debug=True, sanitize_overflow=False))
    if installation.is_installed():
        _replace(loads, "load", _engine_load)
        _replace(loads, "store", _engine_store)
    else:
        _replace(builder, "create_masked_load", _load)
        _replace(builder, "create_masked_store", _store)
        _replace(
            builder, "create_load", lambda _: lambda p, *rest: builder.create_masked_load(p, _all_on(p), None, *rest)
        )
        _replace(
            builder, "create_store", lambda _: lambda p, v, *rest: builder.create_masked_store(p, v, _all_on(p), *rest)
        )
    for name, make in _BUILDER.items():
        if hasattr(builder, name):
            _replace(builder, name, make)
    for name in overflow.OPERATIONS:
        _replace(builder, name, functools.partial(_integer, name))
    memory.allocation_hooks.append(_mode.allocations.follow)
    _mode.undo.append(lambda: memory.allocation_hooks.remove(_mode.allocations.follow))
    for name in ("to_numpy", "item"):
        _replace(memory, name, _host_read)
    for name in ("put_in", "take_out"):
        _replace(installation, name, _with_checks_off)


def _let_go() -> None:
    while _mode.undo:
        _mode.undo.pop()()


def _with_checks_off(change: Callable[[], None]) -> Callable[[], None]:
    """The interpreter is exchanged under the checks, which then take hold of the new one."""

    def changed() -> None:
        _let_go()
        try:
            change()
        finally:
            _take_hold()

    return changed


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    own = name in vars(owner)
    inner = getattr(owner, name)
    setattr(owner, name, make(inner))
    _mode.undo.append((lambda: setattr(owner, name, inner)) if own else (lambda: delattr(owner, name)))


def _host_read(inner: Callable[..., Any]) -> Callable[..., Any]:
    def read(x: Any) -> Any:
        if _mode.launch is None:
            _mode.allocations.check_complete(x, "a tensor read on the host")
        return inner(x)

    return read


def _run(inner: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        if warmup:
            return
        executor = stock.GridExecutor(self.rewrite(), self.arg_names, grid, self.pre_run_hooks)
        elsewhere = any(_on_a_device(value) for value in (*args, *kwargs.values()))
        on_host, named_on_host = executor._init_args_hst(args, kwargs) if elsewhere else (args, kwargs)
        for hook in self.pre_run_hooks:
            hook(*on_host, **named_on_host)
        arguments, constexprs = bind(self, tuple(on_host), named_on_host)
        patches = stock._patch_lang(self.rewrite())
        try:
            _mode.launch = Launch(self, arguments, grid, constexprs, _mode.allocations, _mode.seed)
            if 0 not in _mode.launch.grid:
                _mode.launch.run()
        finally:
            if _mode.launch is not None:
                _mode.launch.forget()
            _mode.launch = None
            patches.restore()
        if elsewhere:
            executor._restore_args_dev(args, on_host, kwargs, named_on_host)

    return run


def _on_a_device(value: Any) -> bool:
    """True if an argument is memory that the interpreter must first copy to the host."""
    return any(handle.device.type != "cpu" for _, handle in find_tensors("", value) if hasattr(handle, "device"))


def _load(inner: Callable[..., Any]) -> Callable[..., Any]:
    def load(pointer: Any, mask: Any, other: Any, *rest: Any, **named: Any) -> Any:
        launch = _mode.launch
        if launch is None:
            return inner(pointer, mask, other, *rest, **named)
        access = launch.access("load", pointer, mask)
        if launch.replaying is not None:
            launch.replaying.note(access, None)
        result = inner(without_tags(pointer), _reachable(launch, access, pointer, mask), other, *rest, **named)
        if other is None and access.active is not None:
            result = _undefined_lanes(launch, access, pointer, mask, result)
        return result

    return load


def _undefined_lanes(launch: Launch, access: Access, pointer: Any, mask: Any, result: Any) -> Any:
    """The result of an access without ``other``, its masked lanes made what the present run wants them to be."""
    if launch.replaying is None:
        launch.masked_places.setdefault(access.place.key if access.place else None, (access.kind, access.place))
    fill = launch.replaying.fill if launch.replaying is not None and launch.replaying.fills(access.place) else None
    if fill is None and access.kind == "load":
        return result  # zeros already
    data = np.array(result.data)
    on = lanes_on(pointer, mask)
    data[~on if on is not None else ...] = replay.undefined_value(pointer.get_element_ty(), fill)
    return type(result)(data, result.dtype)


def _store(inner: Callable[..., Any]) -> Callable[..., Any]:
    def store(pointer: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        launch = _mode.launch
        if launch is None:
            return inner(pointer, value, mask, *rest, **named)
        access = launch.access("store", pointer, mask)
        if launch.replaying is not None:
            launch.replaying.note(access, _active_values(access, value))
        return inner(without_tags(pointer), value, _reachable(launch, access, pointer, mask), *rest, **named)

    return store


def _atomic_rmw(inner: Callable[..., Any]) -> Callable[..., Any]:
    def atomic(operation: Any, pointer: Any, value: Any, mask: Any, semantic: Any, *rest: Any) -> Any:
        launch = _mode.launch
        if launch is None:
            return inner(operation, pointer, value, mask, semantic, *rest)
        access = launch.access("atomic", pointer, mask)
        if launch.replaying is not None:
            launch.replaying.note(access, _active_values(access, value))
        reachable = _reachable(launch, access, pointer, mask)
        result = inner(operation, without_tags(pointer), value, reachable, semantic, *rest)
        launch.after_atomic(access, semantic)
        return result if access.active is None else _undefined_lanes(launch, access, pointer, mask, result)

    return atomic


def _atomic_cas(inner: Callable[..., Any]) -> Callable[..., Any]:
    def atomic(pointer: Any, compare: Any, value: Any, semantic: Any, *rest: Any) -> Any:
        launch = _mode.launch
        if launch is None:
            return inner(pointer, compare, value, semantic, *rest)
        access = launch.access("atomic", pointer, None)
        if launch.replaying is not None:
            launch.replaying.note(access, _active_values(access, value))
            if not bounds.inside(access, launch.tensors).all():
                raise IndexError("compare-and-swap out of bounds")
        result = inner(without_tags(pointer), compare, value, semantic, *rest)
        launch.after_atomic(access, semantic)
        return result

    return atomic


def _engine_load(inner: Callable[..., Any]) -> Callable[..., Any]:
    def load(builder: Any, pointer: Any, mask: Any, other: Any) -> Any:
        return _load(lambda p, m, o: inner(builder, p, m, o))(pointer, mask, other)

    return load


def _engine_store(inner: Callable[..., Any]) -> Callable[..., Any]:
    def store(builder: Any, pointer: Any, value: Any, mask: Any) -> None:
        _store(lambda p, v, m: inner(builder, p, v, m))(pointer, value, mask)

    return store


def _all_on(pointer: Any) -> Any:
    return stock.TensorHandle(np.ones(np.shape(pointer.data), np.bool_), triton.language.int1)


def _integer(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    def operate(left: Any, right: Any) -> Any:
        with np.errstate(over="ignore"):
            result = inner(left, right)
        launch = _mode.launch
        if launch is None:
            return result
        found = overflow.wrapped_lanes(name, left, right, result)
        if found is None:
            return result
        lost, wide = found
        if launch.replaying is None:
            launch.overflows.append(overflow.describe(name, left, right, result, lost, wide, here(), launch.program))
        elif launch.replaying.clip:
            return overflow.clipped(result, wide)
        return result

    return operate


def _assert(inner: Callable[..., Any]) -> Callable[..., Any]:
    def check(condition: Any, message: Any, *rest: Any) -> Any:
        launch = _mode.launch
        holds = np.asarray(getattr(condition, "data", condition), np.bool_)
        if launch is None or holds.all():
            return inner(condition, message, *rest)
        lanes = (
            f"{int((~holds).sum())} of {holds.size} lanes fail, the first is {[int(i) for i in np.argwhere(~holds)[0]]}"
        )
        raise failure(
            "device-assert",
            str(message) or "an assertion of the kernel does not hold",
            kernel=launch.name,
            place=here(),
            program=launch.program,
            grid=launch.grid,
            notes=[lanes] if holds.size > 1 else [],
        )

    return check


def _print(inner: Callable[..., Any]) -> Callable[..., Any]:
    def show(*args: Any) -> Any:
        if _mode.launch is None or _mode.launch.replaying is None:
            return inner(*args)
        return None

    return show


def _active_values(access: Access, value: Any) -> np.ndarray:
    values = np.broadcast_to(np.asarray(value.data), access.shape).reshape(-1)
    return np.ascontiguousarray(values if access.active is None else values[access.active])


def _reachable(launch: Launch, access: Access, pointer: Any, mask: Any) -> Any:
    """The mask of an access, without the lanes that a changed run sends out of bounds."""
    if launch.replaying is None:
        return mask
    shape = np.shape(pointer.data)
    on = np.ones(shape, np.bool_) if mask is None else np.array(np.broadcast_to(np.asarray(mask.data, np.bool_), shape))
    ok = bounds.inside(access, launch.tensors)
    on.reshape(-1)[access.active if access.active is not None else slice(None)] = ok
    return stock.TensorHandle(on, triton.language.int1)


_BUILDER: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "create_atomic_rmw": _atomic_rmw,
    "create_atomic_cas": _atomic_cas,
    "create_assert": _assert,
    "create_print": _print,
}
